"use strict";
// Elements, numbers and scales. Text from the run reaches the page through text nodes alone.

const PALETTE = Array.from({ length: 12 }, (_, i) => `var(--c${i})`);
const GREY = "var(--grey)";
const color = (i) => PALETTE[i % PALETTE.length];

// An element: attributes, listeners ("onclick"), CSS ("style": object), then children: nodes, texts, or nothing.
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}

// 1,234 | 12.3 | 0.0123 | 1.2e-7; a dash for what is missing
function num(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e9) return value.toExponential(2);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
}

const whole = (value) => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US"));
const percent = (share, digits = 0) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)} %`);
const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2).replace(/^(-?)0\./, "$1."));

function compact(value) {
  if (value === null || value === undefined) return "–";
  const units = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]];
  for (const [size, unit] of units) if (value >= size) return `${num(value / (unit === "k" ? 1e3 : size))} ${unit}`;
  return num(value);
}

// 1 h 2 min | 12 min | 3 min 4 s | 5.6 s
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${num(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 10) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// About `count` round numbers in [low, high]
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const begin = Math.ceil(low / step - 1e-9), found = [];
  // counted from `begin`: beyond 2^53 a number and its successor are the same
  for (let i = 0; i <= count + 1 && (begin + i) * step <= high + step * 1e-9; i++) found.push((begin + i) * step);
  return found;
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");

// A table. Columns: {name, n: true for numbers}; cells: text, number or node; a row may be {cells, kind}.
function table(columns, rows) {
  const cell = (tag, content, column) => el(tag, { class: column.n ? "n" : undefined }, typeof content === "number" ? num(content) : content);
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, columns.map((column) => cell("th", column.name, column)))),
    el("tbody", {}, rows.map((row) => el("tr", { class: row.kind }, (row.cells || row).map((content, i) => cell("td", content, columns[i])))))));
}

const meter = (share, fillColor) =>
  el("span", { class: "meter", role: "img", "aria-label": percent(share) }, el("i", { style: { width: `${Math.max(0, Math.min(1, share)) * 100}%`, background: fillColor } }));

// Shares of a whole: a bar, and its key below. Parts: {name, value, title, color}; text: of a value, none if it is a share
function shareBar(parts, text) {
  const total = parts.reduce((sum, part) => sum + part.value, 0) || 1;
  const shown = parts.filter((part) => part.value > 0);
  return el("div", {},
    el("div", { class: "bar", role: "img", "aria-label": shown.map((part) => `${part.name} ${percent(part.value / total)}`).join(", ") },
      shown.map((part) => el("span", { title: `${part.name}: ${text ? text(part.value) : percent(part.value / total, 1)}`, style: { flex: `${part.value / total} 0 0`, background: part.color } }))),
    el("div", { class: "legend" }, shown.map((part) =>
      el("span", { class: "key", title: part.title }, el("i", { class: "dot", style: { background: part.color } }), part.name, text && el("b", {}, text(part.value)), el("span", {}, percent(part.value / total))))));
}

function segmented(label, options, chosen, choose) {
  const buttons = options.map(([value, text]) =>
    el("button", { type: "button", "aria-pressed": String(value === chosen), onclick: (event) => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      choose(value);
    } }, text));
  return el("span", { class: "segmented", role: "group", "aria-label": label }, buttons);
}
