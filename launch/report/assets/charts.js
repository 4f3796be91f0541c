// Charts over the steps of the run: they share one axis, one cursor and the marks of resets, stages, faults and findings.

const view = { hours: false, smooth: true, cursor: null, marks: true };
const charts = [];
let run, columns, marks; // of the page's data; start.js sets them

const HEIGHT = 208, LEFT = 48, RIGHT = 10, TOP = 14, BOTTOM = 24;

// A column by name: numbers by point; null where the run has none
function column(name) {
  const values = columns.names[name];
  if (values === undefined) return null;
  return Array.isArray(values) ? values : columns.steps.map(() => values);
}

const has = (name) => columns.names[name] !== undefined;

// The place of a step on the axis: the step itself, or the hours when it ended
function axisValue(step) {
  if (!view.hours) return step;
  const steps = columns.steps, hours = columns.hours;
  if (!steps.length || step <= steps[0]) return steps.length ? (hours[0] * step) / Math.max(1, steps[0]) : 0;
  const after = indexOfStep(step);
  const [a, b] = [steps[Math.max(0, after - 1)], steps[after]];
  if (b === a || step >= b) return hours[after];
  return hours[after - 1] + ((hours[after] - hours[after - 1]) * (step - a)) / (b - a);
}

// The first point whose step is at least `step`, or the last one
function indexOfStep(step, steps = columns.steps) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearestPoint(steps, step) {
  const after = indexOfStep(step, steps);
  return after > 0 && Math.abs(steps[after - 1] - step) <= Math.abs(steps[after] - step) ? after - 1 : after;
}

// A running mean over a fortieth of the points, centred; short curves stay as they are
function smoothed(values) {
  const half = Math.floor(values.length / 80);
  if (half < 1) return values;
  const sums = [0], counts = [0];
  values.forEach((value, i) => { sums.push(sums[i] + (value ?? 0)); counts.push(counts[i] + (value === null ? 0 : 1)); });
  return values.map((value, i) => {
    const begin = Math.max(0, i - half), end = Math.min(values.length, i + half + 1), count = counts[end] - counts[begin];
    return value === null || !count ? null : (sums[end] - sums[begin]) / count;
  });
}

// lines: {name, values, steps (default: those of the run), dots}; low, high: bounds of the axis, if fixed
function lineChart({ title, note, lines, low, high, unit = "" }) {
  const drawn = lines.filter((line) => line.values && line.values.some((value) => value !== null));
  if (!drawn.length) return null;
  drawn.forEach((line, i) => Object.assign(line, { color: line.color || color(i), steps: line.steps || columns.steps, shown: true }));
  const legend = el("div", { class: "legend" }), at = el("span", { class: "at" }), picture = el("div");
  const readings = drawn.map((line) => {
    const reading = el("b");
    legend.append(el("button", { type: "button", "aria-pressed": "true", title: "Show or hide this curve", onclick: (event) => {
      line.shown = !line.shown;
      event.currentTarget.setAttribute("aria-pressed", String(line.shown));
      chart.draw();
    } }, el("i", { class: "dot", style: { background: line.color } }), line.name, reading));
    return reading;
  });
  const read = () => {
    at.textContent = view.cursor === null ? "last" : `step ${whole(view.cursor)}`;
    drawn.forEach((line, i) => { readings[i].textContent = num(valueAt(line)) + unit; });
  };
  const chart = {
    draw() {
      chart.frame = drawLines(picture, drawn, { title, low, high });
      chart.point();
    },
    point() {
      read();
      if (chart.frame) chart.frame.point();
    },
  };
  charts.push(chart);
  return el("div", { class: "card chart" }, el("div", { class: "head" }, el("h3", { title: note }, title), at), legend, picture);
}

function valueAt(line) {
  if (view.cursor !== null) return line.values[nearestPoint(line.steps, view.cursor)];
  for (let i = line.values.length - 1; i >= 0; i--) if (line.values[i] !== null) return line.values[i];
  return null;
}

function bounds(lines, low, high) {
  let [least, most] = [Infinity, -Infinity];
  for (const line of lines) for (const value of line.values) if (value !== null) { least = Math.min(least, value); most = Math.max(most, value); }
  if (least > most) [least, most] = [0, 1];
  if (least > 0 && least < 0.6 * most) least = 0;
  const room = (most - least || Math.abs(most) || 1) * 0.06;
  return [low ?? (least === 0 ? 0 : least - room), high ?? most + room];
}

function drawLines(host, lines, { title, low, high }) {
  const width = host.clientWidth;
  if (width < 40) return null;
  const shown = lines.filter((line) => line.shown);
  const ends = [columns.steps, ...lines.map((line) => line.steps)].flatMap((steps) => (steps.length ? [axisValue(steps[0]), axisValue(steps[steps.length - 1])] : []));
  const first = Math.min(...ends), last = Math.max(...ends, first + 1e-9);
  const [bottom, top] = bounds(shown, low, high);
  const x = (step) => LEFT + ((axisValue(step) - first) / (last - first)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - bottom) / (top - bottom || 1)) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, tabindex: 0, role: "img", "aria-label": spoken(title, lines) });
  drawAxes(root, { width, x0: first, x1: last, bottom, top, y });
  if (view.marks) drawMarks(root, x, width);
  for (const line of shown) drawCurve(root, line, x, y);
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  root.append(cursor);
  listen(root, x);
  host.replaceChildren(root);
  return { point() {
    cursor.setAttribute("visibility", view.cursor === null ? "hidden" : "visible");
    if (view.cursor !== null) { cursor.setAttribute("x1", x(view.cursor)); cursor.setAttribute("x2", x(view.cursor)); }
  } };
}

function spoken(title, lines) {
  const ends = lines.map((line) => {
    const known = line.values.filter((value) => value !== null);
    return `${line.name} from ${num(known[0])} to ${num(known[known.length - 1])}`;
  });
  return `${title}: ${ends.join("; ")}. Arrow keys move along the steps.`;
}

function drawAxes(root, { width, x0, x1, bottom, top, y }) {
  for (const tick of ticks(bottom, top, 4)) {
    root.append(svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }));
    root.append(svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, num(tick)));
  }
  root.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  for (const tick of ticks(x0, x1, Math.max(2, Math.floor(width / 90)))) {
    const place = LEFT + ((tick - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    const anchor = place > width - 30 ? "end" : "middle";
    root.append(svg("text", { x: place, y: HEIGHT - 8, "text-anchor": anchor }, num(tick, 4) + (view.hours ? " h" : "")));
  }
}

function drawMarks(root, x, width) {
  const floor = HEIGHT - BOTTOM, titled = (node, mark) => (node.append(svg("title", {}, markWords(mark))), node);
  marks.filter((mark) => mark.kind === "stage").forEach((mark, i) => {
    const begin = Math.max(LEFT, x(Math.max(mark.step - 1, columns.steps[0]))), end = Math.min(width - RIGHT, x(mark.last_step));
    if (i % 2) root.append(titled(svg("rect", { class: "band", x: begin, y: TOP, width: Math.max(0, end - begin), height: floor - TOP }), mark));
    const room = Math.floor((end - begin - 8) / 5.6);
    if (room >= 9) root.append(titled(svg("text", { class: "stage-name", x: begin + 2, y: 10 }, mark.words.length > room ? `${mark.words.slice(0, room - 1)}…` : mark.words), mark));
  });
  for (const mark of marks) {
    const place = x(mark.step);
    if (mark.kind === "reset") root.append(titled(svg("line", { class: "reset", x1: place, x2: place, y1: TOP, y2: floor }), mark));
    if (mark.kind === "fault") root.append(titled(svg("path", { class: "fault", d: `M${place} ${floor - 7}l4 7h-8z` }), mark));
    if (mark.kind === "finding" || mark.kind === "alert") root.append(titled(svg("path", { class: "finding-mark", d: `M${place - 4} ${TOP}h8l-4 7z` }), mark));
  }
}

const markWords = (mark) =>
  mark.kind === "stage" ? `steps ${mark.step} to ${mark.last_step}: ${mark.words}` : `step ${mark.step}${mark.last_step > mark.step ? ` to ${mark.last_step}` : ""}: ${mark.words}`;

function drawCurve(root, line, x, y) {
  const mean = view.smooth && !line.dots ? smoothed(line.values) : line.values;
  if (mean !== line.values) root.append(svg("path", { class: "raw", stroke: line.color, d: pathOf(line.steps, line.values, x, y) }));
  root.append(svg("path", { class: "curve", stroke: line.color, d: pathOf(line.steps, mean, x, y) }));
  if (line.dots && line.steps.length <= 80) line.values.forEach((value, i) => {
    if (value !== null) root.append(svg("circle", { cx: x(line.steps[i]), cy: y(value), r: 2.4, fill: line.color }));
  });
}

function pathOf(steps, values, x, y) {
  let path = "", pen = "M";
  for (let i = 0; i < values.length; i++) {
    if (values[i] === null) continue;
    path += `${pen}${x(steps[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

function listen(root, x) {
  const steps = columns.steps;
  const move = (event) => {
    const place = event.clientX - root.getBoundingClientRect().left;
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x(steps[middle]) < place) low = middle + 1;
      else high = middle;
    }
    setCursor(steps[low]);
  };
  root.addEventListener("pointermove", move);
  root.addEventListener("pointerdown", move);
  root.addEventListener("pointerleave", () => setCursor(null));
  root.addEventListener("blur", () => setCursor(null));
  root.addEventListener("keydown", (event) => {
    const tenth = Math.max(1, Math.round(steps.length / 10));
    const jumps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -tenth, PageDown: tenth, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") return setCursor(null);
    if (!(event.key in jumps)) return;
    event.preventDefault();
    const now = view.cursor === null ? steps.length - 1 : nearestPoint(steps, view.cursor);
    setCursor(steps[Math.max(0, Math.min(steps.length - 1, now + jumps[event.key]))]);
  });
}

let asked = false;
function setCursor(step) {
  view.cursor = step;
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; for (const chart of charts) chart.point(); });
}

function redraw() {
  for (const chart of charts) chart.draw();
}

// Shares of each step's seconds, as stacked columns. parts: {name, values, color}
function stackedChart(title, parts, note) {
  const host = el("div"), used = parts.filter((part) => part.values);
  if (!used.length || !columns.steps.length) return null;
  const chart = { point() {}, draw() {
    const width = host.clientWidth, points = columns.steps.length, bars = Math.max(1, Math.min(points, Math.floor(width / 5), 160));
    if (width < 40) return;
    const sums = Array.from({ length: bars }, (_, bar) => used.map((part) => {
      const slice = part.values.slice(Math.floor((bar * points) / bars), Math.floor(((bar + 1) * points) / bars));
      return slice.reduce((sum, value) => sum + (value ?? 0), 0) / Math.max(1, slice.length);
    }));
    const totals = sums.map((bar) => bar.reduce((a, b) => a + b, 0)), usual = [...totals].sort((a, b) => a - b)[Math.floor(bars * 0.95)];
    // a first step that holds the start of everything would leave nothing to see of the others
    const most = Math.min(Math.max(...totals), 1.5 * usual || Infinity) || 1, bar = (width - LEFT - RIGHT) / bars;
    const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": `${title}: ${used.map((part) => part.name).join(", ")}` });
    const [first, last] = [axisValue(columns.steps[0]), axisValue(columns.steps[points - 1])];
    drawAxes(root, { width, x0: first, x1: Math.max(last, first + 1e-9), bottom: 0, top: most, y });
    let labelled = -Infinity;
    sums.forEach((values, i) => {
      let base = 0;
      values.forEach((value, k) => {
        if (value > 0) root.append(svg("rect", { x: LEFT + i * bar, y: y(Math.min(most, base + value)), width: Math.max(0.5, bar - (bar > 4 ? 1 : 0)), height: Math.max(0, y(Math.min(most, base)) - y(Math.min(most, base + value))), fill: used[k].color },
          svg("title", {}, `${used[k].name}: ${num(value)} s at step ${columns.steps[Math.floor((i * points) / bars)]}`)));
        base += value;
      });
      if (base > most && (i - labelled) * bar > 60) {
        labelled = i;
        root.append(svg("text", { x: LEFT + (i + 0.5) * bar, y: TOP - 3, "text-anchor": i ? "middle" : "start" }, `${num(base)} s ↑`));
      }
    });
    host.replaceChildren(root);
  } };
  charts.push(chart);
  const legend = el("div", { class: "legend" }, used.map((part) => el("span", { class: "key" }, el("i", { class: "dot", style: { background: part.color } }), part.name)));
  return el("div", { class: "card chart" }, el("h3", { title: note }, title), legend, host);
}

// Columns with a value each: rows {name, value, title}
function barChart(title, rows, text, fillColor, high) {
  const host = el("div");
  const chart = { point() {}, draw() {
    const width = host.clientWidth, most = high || Math.max(...rows.map((row) => row.value)) * 1.08 || 1, bar = (width - LEFT - RIGHT) / rows.length;
    if (width < 40) return;
    const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
    const root = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": `${title}: ${rows.map((row) => `${row.name} ${text(row.value)}`).join(", ")}` });
    for (const tick of ticks(0, most, 4)) {
      root.append(svg("line", { class: "gridline", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }));
      root.append(svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, text(tick)));
    }
    rows.forEach((row, i) => {
      const place = LEFT + i * bar;
      root.append(svg("rect", { x: place + bar * 0.14, y: y(row.value), width: bar * 0.72, height: Math.max(0, HEIGHT - BOTTOM - y(row.value)), rx: 2, fill: fillColor }, svg("title", {}, `${row.title || row.name}: ${text(row.value)}`)));
      root.append(svg("text", { x: place + bar / 2, y: HEIGHT - 8, "text-anchor": "middle" }, row.name));
      if (bar > 34) root.append(svg("text", { x: place + bar / 2, y: y(row.value) - 4, "text-anchor": "middle" }, text(row.value)));
    });
    host.replaceChildren(root);
  } };
  charts.push(chart);
  return el("div", { class: "card chart" }, el("h3", {}, title), host);
}
