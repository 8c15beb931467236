"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"]; // Okabe and Ito
const DASHES = ["", "7 3", "2 2", "8 2 2 2"]; // four dashes of seven colours: 28 arms look different
const MARKS = [ // paths of radius 1: circle, square, triangle, diamond, triangle that points down
  "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0Z", "M-.9-.9H.9V.9H-.9Z", "M0-1.15L1.1.8H-1.1Z", "M0-1.25L1.1 0 0 1.25-1.1 0Z",
  "M0 1.15L1.1-.8H-1.1Z"];
const BANDS = {range: "mean and range", interval: "mean and 95 % interval", runs: "single runs"};
const UNITS = {bytes: [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]], seconds: [[3600, "h"], [60, "min"], [1, "s"]]};
const state = {metric: data.metric, axis: "round", band: "range", hidden: new Set()};
const byId = id => document.getElementById(id);
const colour = arm => COLOURS[arm % COLOURS.length];
const dash = arm => DASHES[arm % DASHES.length];
const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
const shown = () => data.arms.map((_, arm) => arm).filter(arm => !state.hidden.has(arm));
const runsOf = (arm, setting) => data.runs.filter(run => run.arm === arm && run.setting === setting);

function make(name, attributes = {}, parent = null, text = null) {
  const svg = ["svg", "g", "path", "line", "rect", "text", "title"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== "") element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

/* Numbers */
function number(value, kind = "") {
  const units = UNITS[kind.endsWith("seconds") ? "seconds" : kind];
  if (!units) return value === 0 ? "0" : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(4));
  const [size, unit] = units.find(([size]) => Math.abs(value) >= size) || units.at(-1);
  return `${+(value / size).toPrecision(3)} ${unit}`;
}

function ticks([low, high], count, kind = "") {
  const unit = kind.endsWith("seconds") ? (high >= 7200 ? 3600 : high >= 120 ? 60 : 1) : 1;
  const rough = (high - low) / unit / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = unit * power * [1, 2, 5, 10].find(factor => factor * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({length: Math.floor(high / step + 1e-9) - first + 1}, (_, i) => (first + i) * step);
}

function span(values, padding = 0.04) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  const room = (high - low) * padding || (padding && (Math.abs(high) * 0.1 || 1)) || 1;
  return padding ? [low - room, high + room] : [low, high > low ? high : low + 1];
}

/* A chart: axes, and functions from values to places */
function panels(id) { // all are there before the first is measured
  byId(id).replaceChildren();
  return data.settings.map(title => {
    const figure = make("figure", {}, byId(id));
    if (title) make("h3", {}, figure, title);
    return {figure, title};
  });
}

function chart({figure, title}, {x, y, across, up, kind = "", marks = null}) {
  const width = Math.max(figure.clientWidth, 260), height = Math.round(Math.min(340, width * 0.68));
  const left = 58, right = width - 12, top = 10, bottom = height - 42;
  const svg = make("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${up} over ${across}${title ? ", " + title : ""}`}, figure);
  const X = value => left + (right - left) * (value - x[0]) / (x[1] - x[0]);
  const Y = value => bottom - (bottom - top) * (value - y[0]) / (y[1] - y[0]);
  for (const value of ticks(y, 5)) {
    make("line", {x1: left, x2: right, y1: Y(value), y2: Y(value), stroke: "#e6e6e6"}, svg);
    make("text", {x: left - 7, y: Y(value) + 4, "text-anchor": "end"}, svg, number(value));
  }
  for (const [value, text] of marks || ticks(x, width / 110, kind).map(value => [value, number(value, kind)])) {
    make("line", {x1: X(value), x2: X(value), y1: bottom, y2: bottom + 4, stroke: "#8c8c8c"}, svg);
    make("text", {x: X(value), y: bottom + 18, "text-anchor": "middle"}, svg, text);
  }
  make("line", {x1: left, x2: right, y1: bottom, y2: bottom, stroke: "#8c8c8c"}, svg);
  make("text", {x: (left + right) / 2, y: height - 6, "text-anchor": "middle"}, svg, across);
  make("text", {transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle"}, svg, up);
  return {figure, svg, X, Y, left, right, top, bottom};
}

const path = (points, X, Y) => "M" + points.map(([x, y]) => `${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("L");
const line = (svg, points, X, Y, arm, width = 2, opacity = 1) =>
  points.length && make("path", {class: "curve", fill: "none", "data-arm": arm, d: path(points, X, Y), stroke: colour(arm), "stroke-width": width, "stroke-dasharray": dash(arm), "stroke-opacity": opacity, "stroke-linejoin": "round"}, svg);
const hollow = (svg, x, y, arm, size) => // of two at one place both are seen
  make("path", {class: "hollow", d: MARKS[arm % MARKS.length], transform: `translate(${x} ${y}) scale(${size})`, stroke: colour(arm), "vector-effect": "non-scaling-stroke"}, svg);
const mark = (svg, x, y, arm, size, opacity = 1) =>
  make("path", {class: "mark", d: MARKS[arm % MARKS.length], transform: `translate(${x} ${y}) scale(${size})`, fill: colour(arm), "fill-opacity": opacity, "vector-effect": "non-scaling-stroke"}, svg);

/* Curves */
function points(runs) { // of rounds that all runs have measured: means, and how far the runs reach
  const known = runs.filter(run => run.y[state.metric]?.some(value => value !== null));
  const rows = new Map();
  for (const run of known) run.y[state.metric].forEach((y, i) => {
    if (y === null || run.x[state.axis][i] === null) return;
    const round = run.x.round[i];
    rows.set(round, [...(rows.get(round) || []), [run.x[state.axis][i], y]]);
  });
  return [...rows].filter(([, pairs]) => pairs.length === known.length).map(([round, pairs]) => {
    const x = mean(pairs.map(pair => pair[0])), values = pairs.map(pair => pair[1]), y = mean(values), n = values.length;
    const spread = n > 1 ? data.t[n] * Math.sqrt(values.reduce((sum, value) => sum + (value - y) ** 2, 0) / (n - 1) / n) : 0;
    const reach = state.band === "interval" ? [y - spread, y + spread] : [Math.min(...values), Math.max(...values)];
    return {round, x, y, n, low: reach[0], high: reach[1]};
  });
}

function drawCurves() {
  const drawn = panels("curves").map((panel, setting) => ({panel, curves: shown().map(arm => ({arm, runs: runsOf(arm, setting), points: points(runsOf(arm, setting))})).filter(curve => curve.points.length)}));
  const all = drawn.flatMap(({curves}) => curves).flatMap(curve => curve.points);
  const x = span(all.map(point => point.x), 0), y = span(all.flatMap(point => [point.low, point.high]));
  for (const {panel, curves} of drawn) {
    const plot = chart(panel, {x, y, across: data.axes[state.axis], up: state.metric, kind: state.axis});
    const {svg, X, Y} = plot;
    for (const {arm, points} of curves) if (state.band !== "runs" && points[0].n > 1)
      make("path", {class: "band", d: path([...points.map(p => [p.x, p.high]), ...points.map(p => [p.x, p.low]).reverse()], X, Y) + "Z", fill: colour(arm), "fill-opacity": 0.15}, svg);
    for (const {arm, points, runs} of curves) {
      if (state.band === "runs") for (const run of runs) line(svg, (run.y[state.metric] || []).map((y, i) => [run.x[state.axis][i], y]).filter(pair => !pair.includes(null)), X, Y, arm, 1, 0.75);
      else line(svg, points.map(p => [p.x, p.y]), X, Y, arm);
      if (points.length === 1) mark(svg, X(points[0].x), Y(points[0].y), arm, 4);
    }
    hover(plot, curves);
  }
  const reach = {range: "bands reach from the lowest to the highest seed", interval: "bands are Student's 95 % intervals of the mean", runs: "a line for each run"}[state.band];
  byId("about-curves").textContent = `${state.metric}${data.better[state.metric] ? `, ${data.better[state.metric]} is better` : ""}: means over seeds, round by round; ${reach}. ${data.thinned}`;
}

/* Values under the pointer, or where the arrow keys have moved */
function hover({figure, svg, X, Y, left, right, top, bottom}, curves) {
  if (!curves.length) return;
  const cursor = make("line", {y1: top, y2: bottom, stroke: "#8c8c8c", visibility: "hidden"}, svg);
  const tip = make("div", {class: "tip", hidden: "hidden", role: "status"}, figure);
  const steps = curves.reduce((longest, curve) => curve.points.length > longest.length ? curve.points : longest, []);
  let at = steps.length - 1;
  svg.setAttribute("tabindex", "0");
  const show = index => {
    at = Math.max(0, Math.min(steps.length - 1, index));
    const x = steps[at].x, nearest = ({points}) => points.reduce((best, p) => Math.abs(p.x - x) < Math.abs(best.x - x) ? p : best);
    tip.replaceChildren();
    make("strong", {}, tip, state.axis === "round" ? `round ${steps[at].round}` : `${number(x, state.axis)} (round ${steps[at].round})`);
    const rows = make("tbody", {}, make("table", {}, tip));
    for (const curve of curves) {
      const row = make("tr", {}, rows), point = nearest(curve);
      swatch(make("td", {}, row), curve.arm);
      make("td", {class: "text"}, row, data.arms[curve.arm]);
      make("td", {}, row, point.y.toPrecision(4));
      make("td", {}, row, point.n > 1 ? `${point.low.toPrecision(4)} to ${point.high.toPrecision(4)}` : "");
    }
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, X(x));
    cursor.setAttribute("visibility", "visible");
    tip.hidden = false;
    const box = svg.getBoundingClientRect(), around = figure.getBoundingClientRect();
    const place = box.left - around.left + X(x) * box.width / svg.viewBox.baseVal.width, room = around.width - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, place < around.width / 2 ? place + 12 : place - tip.offsetWidth - 12))}px`;
    tip.style.top = `${box.top - around.top + top + 6}px`;
  };
  const hide = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), place = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    show(steps.reduce((best, step, i) => Math.abs(X(step.x) - place) < Math.abs(X(steps[best].x) - place) ? i : best, 0));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && show(at));
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
    if (step) { event.preventDefault(); show(at + step); }
    if (event.key === "Escape") hide();
  });
}

/* The value of the table against bytes */
function drawPareto() {
  const runs = data.runs.filter(run => run.value !== null && !state.hidden.has(run.arm));
  const x = span([0, ...runs.map(run => run.bytes)].map(value => value * 1.03), 0), y = span(runs.map(run => run.value), 0.08);
  const lower = data.better[data.metric] === "lower";
  panels("pareto").forEach((panel, setting) => {
    const {svg, X, Y} = chart(panel, {x, y, across: "bytes both ways, whole run", up: data.metric, kind: "bytes"});
    const means = shown().map(arm => ({arm, runs: runsOf(arm, setting).filter(run => run.value !== null)})).filter(({runs}) => runs.length)
      .map(({arm, runs}) => ({arm, bytes: mean(runs.map(run => run.bytes)), value: mean(runs.map(run => run.value))}));
    const beats = (a, b) => lower ? a.value < b.value : a.value > b.value;
    const front = means.filter(a => !means.some(b => b.bytes <= a.bytes && (beats(b, a) || (b.value === a.value && b.bytes < a.bytes)))).sort((a, b) => a.bytes - b.bytes);
    if (front.length > 1 && data.better[data.metric]) make("path", {fill: "none", d: path(front.map(p => [p.bytes, p.value]), X, Y), stroke: "#8c8c8c", "stroke-dasharray": "4 3"}, svg);
    for (const run of runs) if (run.setting === setting) mark(svg, X(run.bytes), Y(run.value), run.arm, 3.2, 0.5);
    for (const {arm, bytes, value} of means)
      make("title", {}, hollow(svg, X(bytes), Y(value), arm, 6.5), `${data.arms[arm]}: ${number(value)} at ${number(bytes, "bytes")}`);
  });
}

/* How the last measured round's metric is spread over clients */
function drawClients() {
  const names = [...new Set(data.runs.flatMap(run => Object.keys(run.clients)))];
  byId("of-clients").hidden = !names.length;
  if (!names.length) return;
  const name = names.find(name => state.metric.includes(name.replace("client_", ""))) || names[0];
  const known = data.runs.filter(run => run.clients[name] && !state.hidden.has(run.arm));
  const y = span(known.flatMap(run => run.clients[name]));
  panels("clients").forEach((panel, index) => {
    const {svg, X, Y} = chart(panel, {x: [0, 100], y, across: "% of the clients, sorted", up: name});
    for (const arm of shown()) {
      const runs = known.filter(run => run.arm === arm && run.setting === index).map(run => run.clients[name]);
      if (runs.length) line(svg, runs[0].map((_, i) => [100 * i / (runs[0].length - 1), mean(runs.map(values => values[i]))]), X, Y, arm);
    }
  });
  byId("about-clients").textContent = `${name} of each client's held-out data in the last round that measured it, sorted from lowest to highest; means over seeds.`;
}

function drawPartitions() {
  byId("of-partitions").hidden = !data.partitions.length;
  panels("partitions").forEach(({figure, title}, setting) => {
    const {clients, classes, counts} = data.partitions.find(partition => partition.setting === setting) || {};
    if (!counts) return figure.remove();
    const left = 14 + 6.5 * Math.max(...classes.map(name => Math.min(name.length, 14))), width = Math.max(figure.clientWidth, 260);
    const wide = (width - left - 4) / clients.length, high = Math.min(22, Math.max(9, 300 / classes.length));
    const height = high * classes.length + 34, most = Math.max(...counts.flat(), 1);
    const svg = make("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `samples by client and class ${title}`}, figure);
    classes.forEach((name, row) => {
      make("text", {x: left - 6, y: row * high + high / 2 + 4, "text-anchor": "end"}, svg, name.length > 14 ? name.slice(0, 13) + "…" : name);
      clients.forEach((client, column) => make("title", {}, make("rect", {x: left + column * wide, y: row * high, width: Math.max(wide - 1, 0.5), height: high - 1, fill: counts[row][column] ? "#0072B2" : "#f3f4f6", "fill-opacity": counts[row][column] ? 0.12 + 0.88 * Math.sqrt(counts[row][column] / most) : 1}, svg), `client ${client}, ${name}: ${counts[row][column]}`));
    });
    make("text", {x: left + (width - left) / 2, y: height - 6, "text-anchor": "middle"}, svg, `across: clients ${clients[0]} to ${clients.at(-1)}; down: classes; darkest: ${most} samples`);
  });
}

/* Tunings: the best so far by trial, and the metric by each key */
function drawTunings() {
  data.tunings?.forEach((tuning, index) => {
    const into = document.querySelectorAll(".tuning")[index];
    into.replaceChildren();
    const panel = title => { const figure = make("figure", {}, into); make("h3", {}, figure, title); return {figure, title}; };
    const first = panel("best so far"), others = tuning.keys.map(key => panel(key.name)); // all are there before the first is measured
    drawBest(first, tuning);
    others.forEach((panel, i) => drawKey(panel, tuning.keys[i], tuning.metric));
  });
}

function drawBest(panel, tuning) {
  const curves = tuning.curves.filter(({arm}) => !state.hidden.has(arm));
  const x = [1, Math.max(2, ...curves.map(curve => curve.best.length))];
  const y = span(curves.flatMap(curve => [...curve.best, curve.default]).filter(value => value !== null));
  const {svg, X, Y} = chart(panel, {x, y, across: "trial", up: tuning.metric});
  for (const {arm, best, default: plain} of curves) {
    const steps = best.flatMap((value, i) => value === null ? [] : i && best[i - 1] !== null ? [[i + 1, best[i - 1]], [i + 1, value]] : [[i + 1, value]]);
    line(svg, steps, X, Y, arm);
    if (steps.length === 1) mark(svg, X(steps[0][0]), Y(steps[0][1]), arm, 4);
    if (plain !== null) make("title", {}, line(svg, [[x[0], plain], [x[1], plain]], X, Y, arm, 1, 0.45), `${data.arms[arm]} by default: ${number(plain)}`);
  }
}

function drawKey(panel, {name, log, range, choices, points}, metric) {
  const place = value => log ? Math.log10(value) : value, known = points.filter(([arm]) => !state.hidden.has(arm));
  const x = choices.length ? [-0.5, choices.length - 0.5] : span(range.map(place));
  const decades = Array.from({length: 40}, (_, i) => i - 20).flatMap(power => [1, 2, 5].map(factor => factor * 10 ** power));
  const inside = decades.filter(value => place(value) >= x[0] && place(value) <= x[1]), round = inside.filter(value => Number.isInteger(+Math.log10(value).toFixed(9)));
  const marks = choices.length ? choices.map((text, i) => [i, text]) : log ? (round.length > 2 ? round : inside.length > 1 ? inside : range).map(value => [place(value), number(value)]) : null;
  const y = span(points.map(([, , value]) => value).filter(value => value !== null));
  const {svg, X, Y, bottom} = chart(panel, {x, y, across: name, up: metric, marks});
  for (const [arm, value, metric] of known) {
    const said = `${data.arms[arm]}: ${choices.length ? choices[value] : number(value)}`;
    if (metric === null) make("title", {}, make("line", {x1: X(place(value)), x2: X(place(value)), y1: bottom - 8, y2: bottom, stroke: colour(arm), "stroke-opacity": 0.6}, svg), `${said}, not run to the end`);
    else make("title", {}, mark(svg, X(place(value)), Y(metric), arm, 4, 0.75), `${said} gives ${number(metric)}`);
  }
}

/* Controls */
function swatch(parent, arm) {
  const svg = make("svg", {width: 26, height: 12, viewBox: "0 0 26 12", "aria-hidden": "true"});
  parent.prepend(svg);
  make("path", {fill: "none", d: "M1 6H25", stroke: colour(arm), "stroke-width": 2, "stroke-dasharray": dash(arm)}, svg);
  mark(svg, 13, 6, arm, 4);
}

function choose(id, options, draw) {
  for (const [value, text] of Object.entries(options)) make("option", {value}, byId(id), text);
  byId(id).value = state[id];
  byId(id).addEventListener("change", () => { state[id] = byId(id).value; draw(); });
}

function draw() {
  if (data.runs.length) { drawCurves(); drawPareto(); drawClients(); }
  drawTunings();
}

function toggle(button, arm) {
  if (!state.hidden.delete(arm)) state.hidden.add(arm);
  button.setAttribute("aria-pressed", String(!state.hidden.has(arm)));
  for (const element of document.querySelectorAll("tr[data-arm], figure[data-arm]")) element.hidden = state.hidden.has(+element.dataset.arm);
  draw();
}

const SIZES = {B: 1, byte: 1, bytes: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, PB: 1e15};

function valueOf(text) { // of a cell: its first number, infinite where it says never, NaN where nothing is known
  if (text === "never") return Infinity;
  const [, digits, unit] = text.replace(/,/g, "").match(/^<?\[?([+-]?[\d.]+(?:e[+-]?\d+)?)(?: (\w+))?/) || [];
  return digits === undefined ? NaN : digits * (SIZES[unit] || 1);
}

function sort(table, column) {
  const header = table.tHead.rows[0].cells, down = header[column].getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
  for (const cell of header) cell.removeAttribute("aria-sort");
  header[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  const words = header[column].classList.contains("text"), sign = down ? -1 : 1;
  const rows = [...body.rows].map(row => ({row, text: row.cells[column].textContent, value: valueOf(row.cells[column].textContent)}));
  rows.sort((a, b) => words ? sign * a.text.localeCompare(b.text, "en", {numeric: true})
    : isNaN(a.value) - isNaN(b.value) || (a.value === b.value || isNaN(a.value) ? 0 : sign * (a.value < b.value ? -1 : 1))); // unknown ones last
  body.append(...rows.map(({row}) => row));
}

if (data.runs.length) {
  choose("metric", Object.fromEntries(data.metrics.map(name => [name, name])), draw);
  choose("axis", data.axes, drawCurves);
  choose("band", BANDS, drawCurves);
}
data.arms.forEach((name, arm) => {
  const button = make("button", {type: "button", "aria-pressed": "true"}, byId("legend"));
  swatch(button, arm);
  make("span", {}, button, name);
  button.addEventListener("click", () => toggle(button, arm));
});
for (const table of document.querySelectorAll(".wide > table"))
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.firstElementChild.addEventListener("click", () => sort(table, column));
    if (cell.textContent === "arm") for (const row of table.tBodies[0].rows) swatch(row.cells[column], +row.dataset.arm);
  });
const start = () => { draw(); if (data.runs.length) drawPartitions(); };
let width = document.body.clientWidth;
addEventListener("resize", () => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  start();
});
start();
