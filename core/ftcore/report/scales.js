// What charts are drawn with: numbers as text, ticks, places, smoothing, and elements of SVG.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8;

function node(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// As many digits as a reader can use: 1,234,567 and 0.012345 and 1.2e-5.
function figure(value) {
  if (value === null) return "not a number";
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e9)) return value.toExponential().replace("-", "\u2212");
  return value.toLocaleString("en", { maximumSignificantDigits: 6 }).replace("-", "\u2212");
}

// Round values between low and high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.75) || rough;
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place += 1) {
    found.push(Number((place * step).toPrecision(12)));
  }
  return found;
}

// The first place in rising `steps` that is not below `step`.
function placeOf(steps, step) {
  let low = 0, high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low;
}

function nearest(steps, step) {
  const place = placeOf(steps, step);
  if (place === 0) return 0;
  if (place === steps.length) return place - 1;
  return step - steps[place - 1] <= steps[place] - step ? place - 1 : place;
}

// At each place, the sum of the values before it and its own, each counted by exp(-steps / span), and of the counts.
function fading(steps, values, span) {
  let sum = 0, count = 0, last = steps[0];
  return values.map((value, place) => {
    const kept = Math.exp(-Math.abs(steps[place] - last) / span);
    last = steps[place];
    [sum, count] = [sum * kept + (value ?? 0), count * kept + (value === null ? 0 : 1)];
    return [sum, count];
  });
}

// A mean in which a value counts less the more steps away it is, on both sides, so that the line does not lag behind.
function smoothed(steps, values, span) {
  const before = fading(steps, values, span);
  const after = fading([...steps].reverse(), [...values].reverse(), span).reverse();
  return values.map((value, place) => {
    const count = before[place][1] + after[place][1] - (value === null ? 0 : 1);
    return count > 0 ? (before[place][0] + after[place][0] - (value ?? 0)) / count : null;
  });
}
