// Is it complete, through when, proven when; and if not, what is missing and how long until it is not.

import { get, post, SILENT } from "./api.js";
import { ago, count, h, put, span, table, time } from "./dom.js";

const CELLS = 120;
const WORDS = {
  proven: "proven", synced: "synced", missing: "missing", aside: "set aside", held: "vanished, held",
  sealed: "sealed, refused", empty: "no trades",
};

const MEANS = {
  proven: "before the moment of the last verify, that found all of it true",
  synced: "the counts of both sides are equal",
  missing: "the source has trades that are not processed, or other ones",
  aside: "trades that cannot be processed; their reasons stand below",
  held: "so much has gone from the source that a person has to say whether it is meant",
  sealed: "raw trades are dropped here (TAPE_RETENTION_DAYS), so a change in the source is not taken in",
  empty: "neither side holds a trade",
};
const LAG_MS = 2 * 3600 * 1000;
const lags = [];

export function noteLag(health) {
  // How far behind we were, whichever page was shown; null while it is not known.
  const now = Date.now();
  if (lags.length && now - lags.at(-1)[0] > 10000) lags.push([now, null]);  // the page slept
  lags.push([now, health?.error ? null : health?.lagMinutes ?? null]);
  while (lags[0][0] < now - LAG_MS) lags.shift();
}

export function syncView(main) {
  const places = Object.fromEntries(
    ["now", "strip", "told", "run", "errors", "chains", "runs", "fault", "rate", "lag"].map((name) => [name, h("div")]),
  );
  places.told = h("p", { class: "told", role: "status" });
  places.fault = h("p", { class: "fault", role: "alert" });
  let range = null;
  let left = false;
  const timers = [];
  const every = (ms, work) => {
    const again = async () => {
      if (left) return;
      try { await work(); } catch { /* the line of health says it; the last picture stays */ }
      timers.push(setTimeout(again, ms));
    };
    again();
  };

  const from = h("input", { type: "datetime-local", id: "force-from", step: "1" });
  const act = (text, kind, work) => h("button", {
    type: "button", class: kind, onclick: async (event) => {
      const button = event.currentTarget;
      button.disabled = true;
      places.fault.textContent = "";
      try { await work(); } catch (error) { places.fault.textContent = error.message; }
      button.disabled = false;
      refresh();
    },
  }, text);

  async function force() {
    if (!from.value) throw new Error("Say from when (UTC).");
    const second = Math.floor(Date.parse(`${from.value}Z`) / 1000);
    const plan = await post("/api/sync/force", { fromTimestamp: second, dryRun: true });
    const question = `Process ${count(plan.trades)} trades again and rebuild ${count(plan.buckets)} buckets, ` +
      `in about ${span(Math.max(plan.estimateMs / 1000, 1))}?`;
    if (confirm(question)) await post("/api/sync/force?wait=false", { fromTimestamp: second });
  }

  async function verify() {
    places.told.textContent = "Both sides are being read …";
    const proof = await post("/api/sync/verify");
    places.told.textContent = proof.complete
      ? `Proven: ${count(proof.tradesChecked)} trades and ${count(proof.bucketsChecked)} buckets are true.`
      : `Not complete: ${proof.mismatches.length} mismatches, ${proof.rollupMismatches.length} wrong buckets.`;
  }

  main.append(
    h("section", { class: "wide", "aria-labelledby": "now-title" }, h("h2", { id: "now-title" }, "Now"), places.now),
    h("section", { class: "third", "aria-labelledby": "do-title" },
      h("h2", { id: "do-title" }, "Do"),
      h("div", { class: "actions" },
        act("Sync", "primary", () => post("/api/sync/run?wait=false")),
        act("Compare all", "", () => post("/api/sync/run?wait=false", { strategy: "comprehensive" })),
        act("Verify", "", verify)),
      h("p", { class: "actions" },
        h("label", { for: "force-from" }, "From (UTC)"), from, act("Force …", "", force)),
      places.fault, places.run),
    h("section", { "aria-labelledby": "strip-title" },
      h("h2", { id: "strip-title" }, "All history ", h("small", {}, "each cell: trades of both sides; choose one to look closer")),
      places.strip, places.told,
      h("ul", { class: "legend" }, Object.entries(WORDS).map(([state, word]) =>
        h("li", { title: MEANS[state] }, h("i", { "data-cell": state }), word)))),
    h("section", { class: "half", "aria-labelledby": "rate-title" },
      h("h2", { id: "rate-title" }, "Trades a minute ", h("small", {}, "of the last two hours")), places.rate,
      h("h2", {}, "Behind ", h("small", {}, "since this page is open, gaps where it is not known")), places.lag),
    h("section", { class: "half", "aria-labelledby": "chains-title" },
      h("h2", { id: "chains-title" }, "Chains and doorbells"), places.chains),
    h("section", { class: "half", "aria-labelledby": "errors-title" }, h("h2", { id: "errors-title" }, "Set aside"), places.errors),
    h("section", { class: "half", "aria-labelledby": "runs-title" }, h("h2", { id: "runs-title" }, "Runs"), places.runs),
  );

  function showLag() {
    const known = lags.filter(([, lag]) => lag !== null);
    const most = Math.max(...known.map(([, lag]) => lag), 1);
    const first = lags[0]?.[0] ?? Date.now();
    const length = Math.max(Date.now() - first, 60000);
    const points = lags.map(([at, lag]) => (lag === null ? null : `${(((at - first) / length) * 600).toFixed(1)},${(58 - (lag / most) * 54).toFixed(1)}`));
    const lines = points.map((p) => p ?? "|").join(" ").split("|").map((line) => line.trim()).filter(Boolean);
    const svg = picture(60, lines.map((line) => `<polyline points="${line}" fill="none" stroke="var(--accent)" stroke-width="2"/>`).join(""),
      `Minutes behind, at most ${most}`);
    const last = known.at(-1);
    put(places.lag, svg, h("p", { class: "soft" }, last ? `the top is ${span(most * 60)}; now ${span(last[1] * 60)}` : "not known yet"));
  }

  function picture(height, inside, label) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 600 ${height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    svg.innerHTML = inside;
    return svg;
  }

  function showNow(health) {
    showLag();
    if (places.fault.textContent === SILENT) places.fault.textContent = "";
    const figure = (title, value, kind = "") => h("div", {}, h("dt", {}, title), h("dd", { class: kind }, value));
    const lag = health.lagMinutes;
    put(places.now,
      h("p", { class: `big ${health.error ? "bad" : health.isHealthy ? "good" : "bad"}` },
        health.error ? "Unknown" : health.missedTrades === 0 && health.lagMinutes === 0 ? "Complete" : health.isHealthy ? "Keeping up" : "Behind"),
      health.message === "Complete." ? null : h("p", {}, health.message),
      h("dl", { class: "figures" },
        figure("missing", count(health.missedTrades), health.missedTrades ? "bad" : ""),
        figure("behind", lag === null ? "?" : span(lag * 60), lag ? "warn" : ""),
        figure("set aside", count(health.failedTrades), health.failedTrades ? "warn" : ""),
        figure("newest processed", time(health.lastAnalyticsTimestamp)),
        figure("proven", ago(health.verified?.at)),
        figure("all compared", ago(health.scrub?.lastFullPass))),
      health.heldDeletions?.count
        ? h("p", { class: "actions" }, `${count(health.heldDeletions.count)} vanished trades are held. `,
          act("They are meant to be gone", "", () => post("/api/sync/run?wait=false", { acceptDeletions: true })))
        : null);
    put(places.chains,
      table([
        ["chain", (c) => c.chainId], ["complete through", (c) => count(c.completeThroughBlock), "n"],
        ["final", (c) => count(c.finalizedBlock), "n"], ["time", (c) => time(c.completeThroughTimestamp)],
      ], health.chains || [], "The source does not tell of blocks."),
      h("ul", { class: "chips", "aria-label": "Doorbells heard" }, (health.doorbells || []).map((d) => h("li", {}, d))),
      health.following ? null : h("p", { class: "warn" }, "Nobody follows the source: new trades wait for a run."));
  }

  async function showStrip() {
    const query = range ? `from=${range.from}&to=${range.to}&` : "";
    const cells = await get(`/api/sync/history?${query}cells=${CELLS}`);
    if (left) return;
    if (!cells.length) {
      put(places.strip, h("p", { class: "soft" }, "There are no trades yet."));
      return;
    }
    const width = cells[0].to - cells[0].from;
    const filled = [];
    for (let at = cells[0].from, i = 0; i < cells.length; at += width) {
      if (cells[i].from === at) filled.push(cells[i++]);
      else filled.push({ from: at, to: at + width, state: "empty", sourceTrades: 0, processed: 0, failed: 0, missing: 0, extra: 0 });
      if (filled.length > 2 * CELLS) break;
    }
    const focused = document.activeElement?.dataset?.from;
    const tell = (cell) => {
      places.told.textContent = `${time(cell.from)} to ${time(cell.to)}: ${WORDS[cell.state]}; source ${count(cell.sourceTrades)}, ` +
        `processed ${count(cell.processed)}` + (cell.missing ? `, missing ${count(cell.missing)}` : "") +
        (cell.extra ? `, in excess ${count(cell.extra)}` : "") + (cell.failed ? `, set aside ${count(cell.failed)}` : "");
    };
    put(places.strip,
      h("div", { class: "strip", role: "group", "aria-label": "History, oldest first" }, filled.map((cell) =>
        h("button", {
          type: "button", "data-cell": cell.state, "data-from": cell.from,
          "aria-label": `${time(cell.from)}: ${WORDS[cell.state]}, ${count(cell.processed)} of ${count(cell.sourceTrades)} trades`,
          onmouseenter: () => tell(cell), onfocus: () => tell(cell),
          onclick: () => { if (width > 60) { range = { from: cell.from, to: cell.to }; showStrip(); } },
        }))),
      range ? h("p", { class: "actions" }, h("button", { type: "button", onclick: () => { range = null; showStrip(); } }, "All history"),
        `${time(range.from)} to ${time(range.to)}`) : null);
    if (focused) places.strip.querySelector(`[data-from="${focused}"]`)?.focus();
  }

  async function showRate() {
    const now = Math.floor(Date.now() / 60000) * 60;
    const cells = await get(`/api/sync/history?from=${now - 7200}&to=${now}&cells=200`);
    if (left) return;
    const by = new Map(cells.map((c) => [c.from, c.processed]));
    const values = Array.from({ length: 120 }, (_, i) => by.get(now - 7200 + i * 60) || 0);
    const most = Math.max(...values, 1);
    const bars = values.map((v, i) =>
      `<rect x="${i * 5}" y="${100 - (v / most) * 96}" width="4" height="${(v / most) * 96}" fill="var(--accent)"/>`).join("");
    const svg = picture(100, bars, `Trades a minute, at most ${most}, last ${values.at(-1)}`);
    put(places.rate, svg, h("p", { class: "soft" }, `most ${count(most)}, last minute ${count(values.at(-1))}`));
  }

  async function showRuns() {
    const runs = await get("/api/sync/runs?limit=8");
    const open = runs.filter((r) => r.state === "running" || r.state === "queued").at(-1);
    const force = open ? (await get("/api/sync/stats")).workforce : null;
    if (left) return;
    put(places.run, open
      ? [h("p", {}, `${open.kind}: ${count(open.processed)} processed` + (open.estimateMs ? `, about ${span(open.estimateMs / 1000)} left` : "")),
        h("progress", { max: "1", value: open.progress, "aria-label": `Progress of the ${open.kind} run` }),
        h("p", { class: "soft" }, `${force.workers === 1 ? "1 worker" : `${count(force.workers)} workers`}, ${count(force.inHand)} slices in hand, ${count(force.waiting)} waiting`),
        act("Cancel", "", () => post(`/api/sync/runs/${open.runId}/cancel`))]
      : h("p", { class: "soft" }, "No run is under way."));
    put(places.runs, table([
      ["run", (r) => r.kind], ["state", (r) => r.state], ["processed", (r) => count(r.processed), "n"],
      ["errors", (r) => count(r.errors), "n"], ["ended", (r) => (r.endedAt ? ago(r.endedAt) : "")],
    ], runs, "Nothing has been asked for yet."));
  }

  async function showErrors() {
    const errors = await get("/api/sync/errors?limit=20");
    if (left) return;
    put(places.errors,
      table([
        ["trade", (e) => e.tradeId, "id"], ["reason", (e) => e.errorMessage], ["tries", (e) => e.attempts, "n"],
        ["again", (e) => act("Retry", "", () => post("/api/sync/retry?wait=false", { tradeId: e.tradeId }))],
      ], errors, "Nothing is set aside."),
      errors.length ? act("Retry all", "", () => post("/api/sync/retry?wait=false")) : null);
  }

  function refresh() {
    for (const show of [showRuns, showErrors, showStrip]) show().catch(() => {});
  }

  every(5000, showStrip);
  every(10000, showRate);
  every(1500, showRuns);
  every(5000, showErrors);
  return {
    health: showNow,
    leave() { left = true; timers.forEach(clearTimeout); },
  };
}
