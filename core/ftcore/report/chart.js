// One chart: axes, lines, marks, and a cursor. Drawn as SVG; every colour comes from the style.

const HEIGHT = 240, LEFT = 64, RIGHT = 14, TOP = 18, BOTTOM = 26;

class Chart {
  constructor(frame, data, marks, room) {
    this.frame = frame;
    this.plot = frame.querySelector(".plot");
    this.series = data.series;
    this.marks = marks;
    this.room = room; // what all charts share: first and last step shown, span, logarithmic
    this.cursor = null;
    this.tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
    this.said = Object.assign(document.createElement("output"), { className: "hidden" });
    this.said.setAttribute("aria-live", "polite");
    this.frame.append(this.said);
  }

  // Lines as they are drawn now: raw values, and smooth ones where that is asked for.
  smooth() {
    for (const each of this.series) {
      const source = each.means || each;
      const still = !each.noisy || each.dots || each.steps.length < 3;
      each.smooth = this.room.span && !still
        ? { steps: source.steps, values: smoothed(source.steps, source.values, this.room.span) } : null;
    }
  }

  draw(width = this.plot.clientWidth) {
    this.width = Math.max(240, width);
    const svg = node("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, "aria-hidden": "true" });
    this.scaleValues();
    this.drawAxes(svg);
    if (this.room.marks) this.drawMarks(svg);
    const clip = `clip-${this.frame.id}`;
    const box = node("clipPath", { id: clip }, svg);
    node("rect", { x: LEFT - 4, y: TOP - 3, width: this.width - LEFT - RIGHT + 8, height: HEIGHT - TOP - BOTTOM + 6 }, box);
    const lines = node("g", { "clip-path": `url(#${clip})` }, svg);
    this.series.forEach((each, place) => this.drawLine(lines, each, place));
    this.over = node("g", {}, svg);
    this.plot.replaceChildren(svg, this.tip);
  }

  x(step) {
    const { from, to } = this.room;
    return LEFT + ((step - from) / (to - from)) * (this.width - LEFT - RIGHT);
  }

  stepAt(x) {
    const { from, to } = this.room;
    const share = (x - LEFT) / (this.width - LEFT - RIGHT);
    return from + Math.min(1, Math.max(0, share)) * (to - from);
  }

  y(value) {
    const place = this.log ? Math.log10(value) : value;
    return TOP + ((this.high - place) / (this.high - this.low)) * (HEIGHT - TOP - BOTTOM);
  }

  // Places of the points that are shown, with one more on either side, for the lines that leave the chart.
  shown(steps) {
    return [Math.max(0, placeOf(steps, this.room.from) - 1), placeOf(steps, this.room.to + 1) + 1];
  }

  scaleValues() {
    let low = Infinity, high = -Infinity;
    for (const { steps, values } of this.series) {
      const end = placeOf(steps, this.room.to + 1e-9);
      for (let place = placeOf(steps, this.room.from); place < end || (place === end && steps[end] === this.room.to); place += 1) {
        if (values[place] === null) continue;
        low = Math.min(low, values[place]);
        high = Math.max(high, values[place]);
      }
    }
    if (low > high) [low, high] = [0, 1];
    this.log = this.room.logarithmic && low > 0;
    if (this.log) [low, high] = [Math.log10(low), Math.log10(high)];
    const spare = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 0.5;
    [this.low, this.high] = [!this.log && low >= 0 && low < spare ? 0 : low - spare, high + spare];
  }

  valueTicks() {
    if (!this.log) return ticks(this.low, this.high, 4);
    const powers = ticks(Math.ceil(this.low), Math.floor(this.high), 5).filter(Number.isInteger);
    if (powers.length > 1) return powers.map((power) => Number((10 ** power).toPrecision(3)));
    return ticks(10 ** this.low, 10 ** this.high, 4).filter((value) => value > 0);
  }

  drawAxes(svg) {
    const floor = HEIGHT - BOTTOM;
    for (const value of this.valueTicks()) {
      const y = this.y(value).toFixed(1);
      node("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }, svg);
      node("text", { x: LEFT - 8, y: Number(y) + 4, "text-anchor": "end" }, svg, figure(value));
    }
    node("line", { class: "axis", x1: LEFT, x2: this.width - RIGHT, y1: floor, y2: floor }, svg);
    for (const step of ticks(this.room.from, this.room.to, Math.max(2, this.width / 110))) {
      if (!Number.isInteger(step)) continue;
      const x = this.x(step);
      node("line", { class: "axis", x1: x, x2: x, y1: floor, y2: floor + 4 }, svg);
      const text = figure(step), room = this.width - 2 - text.length * 3.3;
      node("text", { x: Math.min(x, room), y: floor + 17, "text-anchor": "middle" }, svg, text);
    }
  }

  drawMarks(svg) {
    let free = -Infinity;
    for (const { step, kind, number, text } of this.marks) {
      if (step < this.room.from || step > this.room.to) continue;
      const x = this.x(step), group = node("g", { class: `mark ${kind}` }, svg);
      if (kind === "checkpoint") {
        const y = HEIGHT - BOTTOM;
        node("path", { d: `M${x - 3.5} ${y - 6}h7l-3.5 6z` }, group);
      } else {
        node("line", { x1: x, x2: x, y1: TOP - 4, y2: HEIGHT - BOTTOM }, group);
      }
      if (number && x - free > 16) {
        node("text", { x, y: TOP - 7, "text-anchor": "middle" }, group, String(number));
        free = x;
      }
      node("title", {}, group, text);
    }
  }

  drawLine(parent, each, place) {
    const kind = `line s${place % COLOURS}${place >= COLOURS ? ` dash${Math.floor(place / COLOURS) % 3}` : ""}`;
    this.drawPath(parent, each, each.smooth ? `${kind} raw` : kind);
    if (each.smooth) this.drawPath(parent, each.smooth, kind);
    this.drawMissing(parent, each);
    const [start, end] = this.shown(each.steps);
    if (!each.dots && end - start > 3) return;
    for (let at = start; at < Math.min(end, each.steps.length); at += 1) {
      if (each.values[at] === null) continue;
      node("circle", { class: kind, cx: this.x(each.steps[at]).toFixed(1), cy: this.y(each.values[at]).toFixed(1), r: 2.5 }, parent);
    }
  }

  drawPath(parent, { steps, values }, kind) {
    const [start, end] = this.shown(steps), parts = [];
    let open = false;
    for (let place = start; place < Math.min(end, steps.length); place += 1) {
      const value = values[place];
      if (value === null || (this.log && value <= 0)) { open = false; continue; }
      parts.push(`${open ? "L" : "M"}${this.x(steps[place]).toFixed(1)} ${this.y(value).toFixed(1)}`);
      open = true;
    }
    node("path", { class: kind, d: parts.join("") }, parent);
  }

  // A cross on the axis for each value that is not a number.
  drawMissing(parent, { steps, values }) {
    const floor = HEIGHT - BOTTOM, [start, end] = this.shown(steps), parts = [];
    for (let place = start; place < Math.min(end, steps.length); place += 1) {
      if (values[place] === null) parts.push(`M${(this.x(steps[place]) - 4).toFixed(1)} ${floor - 12}l8 8m0 -8l-8 8`);
    }
    if (parts.length) node("path", { class: "nan", d: parts.join("") }, parent);
  }

  // What there is to read at a step: the nearest point of each line that is shown.
  readings(step) {
    const found = this.series.map((each, place) => {
      const at = nearest(each.steps, step);
      return { place, label: each.label, step: each.steps[at], value: each.values[at], smooth: this.smoothAt(each, each.steps[at]) };
    }).filter((each) => each.step >= this.room.from && each.step <= this.room.to);
    const closest = Math.min(...found.map((each) => Math.abs(each.step - step)));
    return { found, step: found.find((each) => Math.abs(each.step - step) === closest)?.step };
  }

  smoothAt({ smooth }, step) {
    return smooth ? smooth.values[nearest(smooth.steps, step)] : null;
  }

  point(step) {
    const { found, step: main } = this.readings(step);
    this.over.replaceChildren();
    this.tip.hidden = main === undefined;
    if (main === undefined) return;
    this.cursor = main;
    const x = this.x(main);
    node("line", { class: "cursor", x1: x, x2: x, y1: TOP - 4, y2: HEIGHT - BOTTOM }, this.over);
    for (const each of found) {
      if (each.value === null || (this.log && each.value <= 0)) continue;
      node("circle", { class: `line s${each.place % COLOURS}`, cx: this.x(each.step), cy: this.y(each.value), r: 3.5 }, this.over);
    }
    this.write(found, main);
    const scale = this.plot.clientWidth / this.width, right = x > this.width / 2;
    this.tip.style.left = right ? "auto" : `${(x + 12) * scale}px`;
    this.tip.style.right = right ? `${(this.width - x + 12) * scale}px` : "auto";
  }

  write(found, main) {
    const lines = found.map((each) => {
      const line = document.createElement("div"), swatch = node("svg", { width: 14, height: 8 });
      node("line", { class: `line s${each.place % COLOURS}`, x1: 0, x2: 14, y1: 4, y2: 4 }, swatch);
      const away = each.step === main ? "" : ` (step ${figure(each.step)})`;
      const smooth = each.smooth === null ? "" : ` \u00b7 smoothed ${figure(Number(each.smooth.toPrecision(5)))}`;
      line.append(swatch, ` ${this.series.length > 1 ? `${each.label} ` : ""}${figure(each.value)}${smooth}${away}`);
      return line;
    });
    const told = this.room.marks ? this.marks.filter((mark) => mark.step === main).map((mark) => mark.text) : [];
    const notes = told.slice(0, 3).map((text) => Object.assign(document.createElement("div"), { textContent: text, className: "told" }));
    const head = Object.assign(document.createElement("strong"), { textContent: `step ${figure(main)}` });
    this.tip.replaceChildren(head, ...lines, ...notes);
  }

  say() {
    this.said.textContent = [...this.tip.children].map((line) => line.textContent.trim()).join(", ");
  }

  leave() {
    this.over?.replaceChildren();
    this.tip.hidden = true;
  }

  select(start, end) {
    const [low, high] = [this.x(Math.min(start, end)), this.x(Math.max(start, end))];
    this.over.replaceChildren();
    node("rect", { class: "selection", x: low, y: TOP - 4, width: high - low, height: HEIGHT - TOP - BOTTOM + 4 }, this.over);
    this.tip.hidden = true;
  }

  // The step of the point `count` points away from the cursor, on the line with most points.
  beside(count) {
    const { steps } = this.series.reduce((most, each) => (each.steps.length > most.steps.length ? each : most));
    const first = placeOf(steps, this.room.from), last = placeOf(steps, this.room.to + 1e-9);
    const end = steps[last] === this.room.to ? last : last - 1;
    const at = this.cursor === null ? (count > 0 ? first - count : end - count) : nearest(steps, this.cursor);
    return steps[Math.min(Math.max(first, end), Math.max(first, at + count))];
  }
}
