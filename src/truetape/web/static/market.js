// Candles with volume, symbols, and the tape as it is written, corrections marked.

import { get } from "./api.js";
import { amount, count, h, put, scaled, table, time } from "./dom.js";
import { CandlestickSeries, createChart, HistogramSeries } from "./vendor/lightweight-charts.mjs";

const INTERVALS = ["1m", "5m", "15m", "30m", "1h", "4h", "1d"];
const TAPE = 30;

export function marketView(main, [wanted, wantedInterval]) {
  let pools = [];
  let pool = null;
  let interval = INTERVALS.includes(wantedInterval) ? wantedInterval : "1h";
  let left = false;
  const corrections = [];
  const symbols = h("div", {}, h("p", { class: "soft" }, "Asking …"));
  const title = h("h2", {}, "Candles");
  const plot = h("div", { class: "chart tall", role: "region", "aria-label": "Candles" });
  const tape = h("div");
  const corrected = h("div");
  const note = h("p", { class: "soft" });
  const choose = h("select", { "aria-label": "Interval", onchange: () => { interval = choose.value; remember(); showCandles(); } },
    INTERVALS.map((i) => h("option", { value: i, selected: i === interval }, i)));

  main.append(
    h("section", { class: "wide" }, title, h("p", { class: "actions" }, choose), plot, note),
    h("section", { class: "third" }, h("h2", {}, "Symbols ", h("small", {}, "24 hours")), symbols),
    h("section", { class: "half" }, h("h2", {}, "Tape"), tape),
    h("section", { class: "half" }, h("h2", {}, "Corrections ", h("small", {}, "figures that were told otherwise before")), corrected),
  );

  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const chart = createChart(plot, {
    autoSize: true,
    layout: { background: { color: "transparent" }, textColor: color("--soft"), attributionLogo: true },
    grid: { vertLines: { color: color("--line") }, horzLines: { color: color("--line") } },
    timeScale: { timeVisible: true, borderColor: color("--line") },
    rightPriceScale: { borderColor: color("--line") },
  });
  const candles = chart.addSeries(CandlestickSeries, {
    upColor: color("--good"), downColor: color("--bad"), wickUpColor: color("--good"), wickDownColor: color("--bad"), borderVisible: false,
  });
  const volume = chart.addSeries(HistogramSeries, { priceFormat: { type: "volume" }, priceScaleId: "volume", color: color("--synced") });
  chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.8, bottom: 0 } });

  const of = (p) => `poolId=${encodeURIComponent(p.poolId)}&chainId=${p.chainId}`;

  async function showSymbols() {
    pools = await get("/api/market/symbols");
    if (left) return;
    if (!pools.length) {
      put(symbols, h("p", { class: "soft" }, "There are no pools yet."));
      note.textContent = "There is nothing to draw yet.";
      return;
    }
    if (!pool) {
      pool = pools.find((p) => p.poolId === wanted) || [...pools].sort((a, b) => b.trades24h - a.trades24h)[0];
      showCandles();
      showTape();
    }
    put(symbols, table([
      ["symbol", (p) => h("button", { type: "button", "aria-pressed": String(p === pool || p.poolId === pool.poolId), onclick: () => select(p) }, p.symbol || p.poolId.slice(0, 10))],
      ["last", (p) => amount(p.lastPrice), "n"],
      ["change", (p) => h("span", { class: p.change24h > 0 ? "good" : p.change24h < 0 ? "bad" : "" }, p.change24h === null ? "–" : `${p.change24h.toFixed(2)} %`), "n"],
      ["trades", (p) => count(p.trades24h), "n"],
    ], pools, ""));
  }

  function remember() {
    if (pool) history.replaceState(null, "", `#/market/${encodeURIComponent(pool.poolId)}/${interval}`);
  }

  function select(chosen) {
    pool = chosen;
    remember();
    showSymbols();
    showCandles();
    showTape();
  }

  async function showCandles() {
    if (!pool) return;
    const asked = pool;
    const found = await get(`/api/market/candles?${of(pool)}&interval=${interval}&limit=500`);
    if (left || asked !== pool) return;
    title.textContent = `${pool.symbol || pool.poolId} · ${interval}`;
    candles.setData(found.candles.map((c) => ({ time: c.time, open: +c.open, high: +c.high, low: +c.low, close: +c.close })));
    volume.setData(found.candles.map((c) => ({ time: c.time, value: +c.quoteVolume })));
    note.textContent = `${found.candles.length} candles, ${found.units} units, UTC`;
    plot.setAttribute("aria-label", `Candles of ${pool.symbol || pool.poolId}, last price ${found.candles.at(-1)?.close ?? "none"}`);
  }

  async function showTape() {
    if (!pool) return;
    const asked = pool;
    const found = await get(`/api/trades?${of(pool)}&limit=${TAPE}`);
    if (left || asked !== pool) return;
    put(tape, table([
      ["time", (t) => time(t.time)],
      ["side", (t) => h("span", { class: /^buy$/i.test(t.side || "") ? "good" : "bad" }, t.side || "–")],
      ["price", (t) => amount(scaled(t.price, pool.quoteDecimals)), "n"],
      ["quantity", (t) => amount(scaled(t.quantity, pool.baseDecimals)), "n"],
      ["buyer", (t) => who(t.buyer)], ["seller", (t) => who(t.seller)],
    ], found.trades, "No trades yet."));
  }

  const who = (address) => (address ? h("a", { href: `#/traders/${encodeURIComponent(address)}`, title: address }, `${address.slice(0, 8)}…`) : "–");

  function showCorrections() {
    put(corrected, table([
      ["bucket", (c) => `${time(c.time)} (${c.interval})`],
      ["what was told otherwise", (c) => c.changes.join(", ")],
    ], corrections, "None since this page is open."));
  }

  let due = null;
  function soon() {
    due ??= setTimeout(() => {
      due = null;
      Promise.all([showCandles(), showTape()]).catch(() => {});
    }, 250);
  }
  const stream = new EventSource("/api/stream");
  stream.addEventListener("update", (event) => {
    const told = JSON.parse(event.data);
    if (pool && told.poolId === pool.poolId && told.chainId === pool.chainId) soon();
  });
  stream.addEventListener("correction", (event) => {
    const told = JSON.parse(event.data);
    if (!pool || told.poolId !== pool.poolId || told.chainId !== pool.chainId) return;
    for (const b of told.buckets) {
      corrections.unshift({ time: b.time, interval: told.interval, changes: changes(b), corrected: true });
    }
    corrections.length = Math.min(corrections.length, 20);
    showCorrections();
    soon();
  });
  stream.addEventListener("gap", soon);

  showCorrections();
  showSymbols().catch((error) => put(symbols, h("p", { class: "fault" }, error.message)));
  const again = setInterval(() => showSymbols().catch(() => {}), 10000);
  return {
    leave() {
      left = true;
      clearInterval(again);
      clearTimeout(due);
      stream.close();
      chart.remove();
    },
  };
}

function changes({ old, new: now }) {
  // Each figure of a candle that differs, as it was told and as it is.
  if (!old) return ["a new candle"];
  if (!now) return ["no candle any more"];
  const differ = Object.keys(now).filter((name) => String(old[name]) !== String(now[name]));
  return differ.map((name) => `${name} ${amount(String(old[name]))} → ${amount(String(now[name]))}`);
}
