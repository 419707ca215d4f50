// Making elements, and how figures and times are written.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value === "boolean") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return element;
}

export const count = (n) => (n === null || n === undefined ? "?" : Number(n).toLocaleString("en"));

export function amount(text) {
  // Decimal strings of any length: shortened for the eye, never computed with.
  if (text === null || text === undefined) return "–";
  const negative = text.startsWith("-") ? "-" : "";
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, " ");
  if (whole.length > 6) return negative + grouped;
  const places = whole === "0" ? Math.max(fraction.search(/[1-9]/) + 4, 2) : 4;
  return negative + grouped + (fraction ? "." + fraction.slice(0, places) : "");
}

export function time(second) {
  if (second === null || second === undefined) return "–";
  return new Date(second * 1000).toISOString().replace("T", " ").slice(0, 19);
}

export function ago(at) {
  if (!at) return "never";
  const seconds = Math.max((Date.now() - new Date(at)) / 1000, 0);
  return `${span(seconds)} ago`;
}

export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function table(columns, rows, empty) {
  // columns: [title, (row) => content, class]
  if (!rows.length) return h("p", { class: "soft" }, empty);
  return h("div", { class: "table" },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map(([title, , kind]) => h("th", { class: kind, scope: "col" }, title)))),
      h("tbody", {}, rows.map((row) =>
        h("tr", { class: row.corrected ? "corrected" : null },
          columns.map(([, content, kind]) => {
            const shown = content(row);
            return h("td", { class: kind, title: kind === "id" && typeof shown === "string" ? shown : null }, shown);
          }))))));
}

export function put(place, ...children) {
  place.replaceChildren(...children.flat().filter((c) => c !== null && c !== undefined));
}

export function scaled(text, places) {
  // A decimal string divided by 10^places, on its digits; as it is where the pool does not tell its decimals.
  if (places === null || places === undefined) return text;
  const negative = text.startsWith("-");
  const [whole, fraction = ""] = text.replace("-", "").split(".");
  const digits = whole.padStart(places + 1, "0");
  const cut = digits.length - places;
  const tail = (digits.slice(cut) + fraction).replace(/0+$/, "");
  return (negative ? "-" : "") + digits.slice(0, cut) + (tail ? `.${tail}` : "");
}
