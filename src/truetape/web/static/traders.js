// Who trades most, and what one of them did.

import { get } from "./api.js";
import { amount, count, h, put, scaled, table, time } from "./dom.js";

export function tradersView(main, [address]) {
  return address ? one(main, address) : board(main);
}

function select(label, options, onchange) {
  const made = h("select", { "aria-label": label }, options.map(([value, text]) => h("option", { value }, text)));
  made.addEventListener("change", onchange);
  return made;
}

async function quotes(pools) {
  pools ??= await get("/api/market/symbols");
  return [...new Set(pools.map((p) => p.symbol?.split("/")[1]).filter(Boolean))].sort();
}

function board(main) {
  const place = h("div", {}, h("p", { class: "soft" }, "Asking …"));
  const period = select("Period", [["24h", "24 hours"], ["7d", "7 days"], ["30d", "30 days"], ["all", "all time"]], show);
  const by = select("By", [["volume", "by volume"], ["trades", "by trades"]], show);
  const quote = select("Quote currency", [], show);
  main.append(h("section", {}, h("h2", {}, "Leaderboard"), h("p", { class: "actions" }, period, by, quote), place));

  async function show() {
    const named = quote.value ? `&quote=${encodeURIComponent(quote.value)}` : "";
    try {
      const found = await get(`/api/traders/leaderboard?period=${period.value}&by=${by.value}&limit=100${named}`);
      put(place, table([
        ["rank", (t) => t.rank, "n"],
        ["trader", (t) => h("a", { href: `#/traders/${encodeURIComponent(t.trader)}` }, t.trader), "id"],
        [`volume ${found.quote || ""}`, (t) => amount(t.volume), "n"], ["bought", (t) => amount(t.buyVolume), "n"],
        ["sold", (t) => amount(t.sellVolume), "n"], ["trades", (t) => count(t.trades), "n"], ["last", (t) => time(t.lastTrade)],
      ], found.traders, "No trader has traded in this time."));
    } catch (error) {
      put(place, h("p", { class: "fault" }, error.message));
    }
  }

  quotes().then((found) => {
    put(quote, found.map((q) => h("option", { value: q }, q)));
    quote.hidden = found.length < 2;
    return show();
  }).catch((error) => put(place, h("p", { class: "fault" }, error.message)));
  return {};
}

function one(main, address) {
  const figures = h("div", {}, h("p", { class: "soft" }, "Asking …"));
  const tape = h("div");
  main.append(
    h("section", {}, h("h2", {}, "Trader"), h("p", {}, h("code", {}, address)), figures),
    h("section", {}, h("h2", {}, "Trades"), tape),
  );
  async function show() {
    const pools = await get("/api/market/symbols");
    const of = new Map(pools.map((p) => [`${p.chainId}/${p.poolId}`, p]));
    const pool = (t) => of.get(`${t.chainId}/${t.poolId}`);
    for (const quote of await quotes(pools)) {
      try {
        const t = await get(`/api/traders/${encodeURIComponent(address)}?quote=${encodeURIComponent(quote)}`);
        const figure = (title, value) => h("div", {}, h("dt", {}, title), h("dd", {}, value));
        put(figures, h("dl", { class: "figures" },
          figure(`rank by ${quote}`, count(t.rank)), figure(`volume ${quote}`, amount(t.volume)), figure("bought", amount(t.buyVolume)),
          figure("sold", amount(t.sellVolume)), figure("trades", count(t.trades)),
          figure("first", time(t.firstTrade)), figure("last", time(t.lastTrade))));
        break;
      } catch (error) {
        put(figures, h("p", { class: "fault" }, error.message));
      }
    }
    const found = await get(`/api/trades?trader=${encodeURIComponent(address)}&limit=100`);
    put(tape, table([
      ["time", (t) => time(t.time)], ["symbol", (t) => t.symbol || t.poolId.slice(0, 10)],
      ["did", (t) => (t.buyer === address ? (t.seller === address ? "both" : "bought") : "sold")],
      ["price", (t) => amount(scaled(t.price, pool(t)?.quoteDecimals)), "n"],
      ["quantity", (t) => amount(scaled(t.quantity, pool(t)?.baseDecimals)), "n"], ["trade", (t) => t.tradeId, "id"],
    ], found.trades, "No trades are kept."));
  }
  show().catch((error) => put(tape, h("p", { class: "fault" }, error.message)));
  return {};
}
