// Lines over time in SVG, each with a legend that tells the newest values and a table for who does not see the lines.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 480, HEIGHT = 176, LEFT = 44, RIGHT = 6, TOP = 8, BOTTOM = 20;
const ROWS = 30;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (value >= 100 || Number.isInteger(value)) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return value.toLocaleString("en", { maximumFractionDigits: value < 1 ? 2 : 1 });
}

export function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

// The next of 1, 2, 5, 10, 20, … above a value.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= value * 0.999);
}

/**
 * @param series [label, function of a sample that gives a number or null]
 * @param quiet leave out of the legend what is 0 all the time
 */
export class Chart {
  constructor({ title, unit, series, seconds, least = 1, quiet = false }) {
    Object.assign(this, { title, unit, series, seconds, least, quiet });
    this.values = series.map(() => element("b", {}, "–"));
    const legend = element("span", { class: "legend" });
    series.forEach(([label], index) => {
      const item = element("span", {}, element("i", { class: `s${index}` }), `${label} `, this.values[index]);
      legend.append(item);
    });
    this.items = [...legend.children];
    this.none = element("span", { hidden: "" }, "none");
    legend.append(this.none);
    this.svg = shape("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" });
    this.body = element("tbody");
    const head = element("tr", {}, ...["Time", ...series.map(([label]) => label)].map((label) => element("th", { scope: "col" }, label)));
    const table = element("table", {}, element("thead", {}, head), this.body);
    this.details = element("details", {}, element("summary", {}, "Table", element("span", { class: "unseen" }, ` of ${title}`)),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table of ${title}` }, table));
    this.details.addEventListener("toggle", () => this.fill());
    this.root = element("figure", { class: "card" },
      element("figcaption", {}, element("h2", {}, title, " ", element("span", { class: "hint" }, unit)), legend), this.svg, this.details);
    this.samples = [];
  }

  draw(samples, now) {
    this.samples = samples;
    const width = this.svg.clientWidth || WIDTH, height = this.svg.clientHeight || HEIGHT;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    // Until there is more to be shown, the beginning is at the left.
    const begin = Math.max(now - this.seconds * 1000, Math.min(samples[0]?.at ?? now, now - 60000));
    const shown = samples.filter((sample) => sample.at >= begin - 1000);
    const lines = this.series.map(([, read]) => shown.map((sample) => [sample.at, read(sample)]));
    const highest = ceiling(Math.max(this.least, ...lines.flat().map(([, value]) => value ?? 0)));
    const x = (at) => LEFT + ((at - begin) / (now - begin)) * (width - LEFT - RIGHT);
    const y = (value) => height - BOTTOM - (value / highest) * (height - TOP - BOTTOM);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(highest * share);
      parts.push(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
      parts.push(shape("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, number(highest * share)));
    }
    for (let minute = Math.ceil(begin / 60000) * 60000; minute < now; minute += 60000) {
      parts.push(shape("line", { class: "grid", x1: x(minute), x2: x(minute), y1: TOP, y2: height - BOTTOM }));
      parts.push(shape("text", { x: x(minute), y: height - 5, "text-anchor": "middle" }, clock(minute).slice(0, 5)));
    }
    for (const [from, to] of troubles(shown)) {
      parts.push(shape("rect", { class: "away", x: x(Math.max(from, begin)), width: Math.max(2, x(to) - x(Math.max(from, begin))), y: TOP, height: height - TOP - BOTTOM }));
    }
    lines.forEach((points, index) => {
      const path = pathOf(points, x, y);
      if (path) parts.push(shape("path", { class: `line s${index}`, d: path }));
    });
    this.svg.replaceChildren(...parts);
    const last = shown.at(-1);
    this.series.forEach(([, read], index) => (this.values[index].textContent = number(last ? read(last) : null)));
    if (this.quiet) {
      const silent = lines.map((points) => points.every(([, value]) => !value));
      this.items.forEach((item, index) => (item.hidden = silent[index]));
      this.none.hidden = !silent.every(Boolean);
    }
    this.fill();
  }

  // Not each second: a screen reader that is on the chart would be told of nothing else.
  describe() {
    const parts = this.series.map(([label, read]) => {
      const values = this.samples.map(read).filter((value) => value !== null);
      if (!values.length) return `${label} nothing`;
      return `${label} ${number(values.at(-1))}, at most ${number(Math.max(...values))}`;
    });
    this.svg.setAttribute("aria-label", `${this.title}, ${this.unit}: ${parts.join("; ")}`);
  }

  fill() {
    if (!this.details.open) return;
    const rows = this.samples.slice(-ROWS).reverse();
    this.body.replaceChildren(...rows.map((sample) => element("tr", {}, element("th", { scope: "row" }, clock(sample.at)),
      ...this.series.map(([, read]) => element("td", {}, number(read(sample)))))));
  }
}

// A line breaks where a value or more than two seconds are missing.
function pathOf(points, x, y) {
  let path = "", last = null;
  for (const [at, value] of points) {
    if (value !== null && value !== undefined) {
      const joined = last !== null && at - last < 2500;
      path += `${joined ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}${joined ? "" : "h.01"}`;
      last = at;
    }
  }
  return path;
}

// From when to when something was bad.
function troubles(samples) {
  const spans = [];
  for (const sample of samples) {
    if (!sample.alarms.some((alarm) => alarm.level === "bad")) continue;
    const last = spans.at(-1);
    if (last && sample.at - last[1] < 2500) last[1] = sample.at;
    else spans.push([sample.at - 1000, sample.at]);
  }
  return spans;
}
