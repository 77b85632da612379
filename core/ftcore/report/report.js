// The page's own part: controls, zoom that all charts share, colours, and what is printed.

const data = JSON.parse(document.getElementById("measured").textContent);
const whole = { from: 0, to: Math.max(1, data.last) };
const room = { ...whole, span: 0, logarithmic: false, marks: true };
const charts = data.charts.map((each) => new Chart(document.getElementById(`chart-${each.key}`), each, data.marks, room));
const control = (name) => document.getElementById(name);
const DRAG = 6;
const PAPER = 690;

function drawAll() {
  for (const chart of charts) chart.draw();
}

// Steps to show in every chart: whole numbers within the run, two steps at least.
function zoom(from, to) {
  let [low, high] = [Math.max(whole.from, Math.floor(from)), Math.min(whole.to, Math.ceil(to))];
  if (high - low < 2) [low, high] = [Math.max(whole.from, low - 1), Math.min(whole.to, low + 1)];
  [room.from, room.to] = [low, high];
  const all = low === whole.from && high === whole.to;
  control("reset").disabled = all;
  control("shown").textContent = all ? "" : `steps ${figure(low)} to ${figure(high)}`;
  drawAll();
}

function zoomAround(step, factor) {
  const width = (room.to - room.from) * factor;
  const from = Math.min(Math.max(whole.from, step - width / 2), Math.max(whole.from, whole.to - width));
  zoom(from, from + width);
}

// The slider is even in the logarithm: from two steps to a third of the run.
function spanOf(setting) {
  return setting > 0 ? Math.max(1, (whole.to / 3) ** (setting / 100) * 2 ** (1 - setting / 100)) : 0;
}

function smooth() {
  room.span = spanOf(Number(control("smoothing").value));
  control("smoothed").textContent = room.span ? `over about ${figure(Math.round(room.span))} steps` : "off";
  for (const chart of charts) chart.smooth();
}

function followPointer(chart) {
  const plot = chart.plot;
  let start = null;
  const stepOf = (event) => {
    const box = plot.getBoundingClientRect();
    return chart.stepAt(((event.clientX - box.left) / box.width) * chart.width);
  };
  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    start = { step: stepOf(event), x: event.clientX };
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointermove", (event) => {
    if (start && Math.abs(event.clientX - start.x) >= DRAG) chart.select(start.step, stepOf(event));
    else chart.point(stepOf(event));
  });
  plot.addEventListener("pointerup", (event) => {
    const from = start;
    start = null;
    if (!from || Math.abs(event.clientX - from.x) < DRAG) return;
    const ends = [from.step, stepOf(event)].sort((one, other) => one - other);
    zoom(...ends);
  });
  plot.addEventListener("pointercancel", () => { start = null; chart.leave(); });
  plot.addEventListener("pointerleave", () => { if (!start) chart.leave(); });
  plot.addEventListener("dblclick", () => zoom(whole.from, whole.to));
}

function followKeys(chart) {
  const moves = { ArrowLeft: -1, ArrowRight: 1 };
  chart.plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const middle = chart.cursor === null ? (room.from + room.to) / 2 : chart.cursor;
    if (event.key in moves) chart.point(chart.beside(moves[event.key] * (event.shiftKey ? 20 : 1)));
    else if (event.key === "Home") chart.point(room.from);
    else if (event.key === "End") chart.point(room.to);
    else if (event.key === "+" || event.key === "=") zoomAround(middle, 0.5);
    else if (event.key === "-" || event.key === "\u2212") zoomAround(middle, 2);
    else if (event.key === "0") zoom(whole.from, whole.to);
    else if (event.key === "Escape") { chart.leave(); return; }
    else return;
    event.preventDefault();
    if (chart.cursor !== null) chart.point(Math.min(room.to, Math.max(room.from, chart.cursor)));
    chart.say();
  });
  chart.plot.addEventListener("blur", () => chart.leave());
}

function followControls() {
  control("smoothing").addEventListener("input", () => { smooth(); drawAll(); });
  control("logarithmic").addEventListener("change", (event) => { room.logarithmic = event.target.checked; drawAll(); });
  control("marks").addEventListener("change", (event) => { room.marks = event.target.checked; drawAll(); });
  control("reset").addEventListener("click", () => zoom(whole.from, whole.to));
}

function followTheme() {
  const choice = control("theme");
  choice.addEventListener("change", () => {
    if (choice.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice.value;
  });
}

// Paper shows what says so, folded or not; figures of charts stay in the file. Charts are drawn for its width, so that
// their letters are as large as elsewhere.
function followPrinting() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.printed:not([open])")];
    for (const each of opened) each.open = true;
    for (const chart of charts) chart.draw(chart.frame.id === "chart-loss" ? PAPER : PAPER / 2);
  });
  window.addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
    drawAll();
  });
}

function followWidth() {
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return;
    width = window.innerWidth;
    drawAll();
  });
}

document.documentElement.classList.add("scripted");
followTheme();
followPrinting();
if (charts.length) {
  control("toolbar").hidden = false;
  control("smoothing").value = String(data.charts.some((each) => each.series.some((one) => one.steps.length > 300)) ? 50 : 0);
  smooth();
  drawAll();
  for (const chart of charts) {
    followPointer(chart);
    followKeys(chart);
  }
  followControls();
  followWidth();
}
