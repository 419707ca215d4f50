// The page: which view is shown, and the line of health that is always there.

import { get } from "./api.js";
import { time } from "./dom.js";
import { marketView } from "./market.js";
import { noteLag, syncView } from "./sync.js";
import { tradersView } from "./traders.js";

const VIEWS = { "": syncView, market: marketView, traders: tradersView };
const HEALTH_MS = 2000;

const main = document.getElementById("main");
const verdict = document.getElementById("verdict");
const asof = document.getElementById("asof");
let view = null;
let lastHealth = null;

function route() {
  const [name = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  view?.leave?.();
  main.replaceChildren();
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === `#/${name}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view = (VIEWS[name] || syncView)(main, rest);
  if (lastHealth) view.health?.(lastHealth);
}

async function watchHealth() {
  try {
    const health = await get("/api/sync/health");
    lastHealth = health;
    noteLag(health);
    const status = health.error ? "unknown" : health.status;
    verdict.dataset.status = status;
    verdict.textContent = `${status.toUpperCase()}: ${health.message}`;
    asof.textContent = `as of ${time(Date.now() / 1000).slice(11)} UTC`;
    main.classList.toggle("stale", Boolean(health.error));
    document.title = `${status === "healthy" ? "✓" : "✗"} Truetape`;
    view?.health?.(health);
  } catch {
    noteLag(null);
    verdict.dataset.status = "unknown";
    verdict.textContent = "UNKNOWN: the service does not answer; what is shown is the last that was known.";
    main.classList.add("stale");
    document.title = "✗ Truetape";
  }
  setTimeout(watchHealth, HEALTH_MS);
}

addEventListener("hashchange", () => {
  route();
  main.focus();
});
route();
watchHealth();
