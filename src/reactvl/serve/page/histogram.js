// How many pairs there are at each similarity, and a handle: pairs below it are left out.

import { element, number, shape } from "./element.js";

const WIDTH = 300;
const HEIGHT = 92;
const STEP = 0.01; // of the arrow keys

// onmove(threshold) while the handle moves, onset(threshold or null) when it rests; null: nothing is left out.
export class Histogram {
  constructor(home, { onmove, onset }) {
    Object.assign(this, { onmove, onset, edges: [], counts: [], pairs: 0, threshold: null, above: null });
    this.bars = shape("g");
    this.line = shape("line", { class: "handle", y1: 0, y2: HEIGHT });
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 8}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.bars, this.line);
    this.grip = element("span.grip", { "aria-hidden": "true" });
    this.slider = element("div.plot", { role: "slider", tabindex: "0", "aria-label": "Least similarity that is kept", "aria-orientation": "horizontal" }, svg, this.grip);
    this.axis = element("div.axis");
    this.kept = element("p.kept", { role: "status", "aria-live": "polite" });
    this.off = element("button.link", { type: "button", hidden: true, click: () => this.#set(null) }, "Keep all");
    this.title = element("p.soft");
    home.replaceChildren(this.title, this.slider, this.axis, this.kept, this.off);
    this.#listen();
  }

  // counted: as /api/count answers; title: in words, what is counted.
  show({ pairs, histogram, above, exact }, threshold, title) {
    Object.assign(this, { pairs, edges: histogram.edges, counts: histogram.counts, exact, threshold });
    this.above = above.find((one) => one.threshold === threshold) ?? null;
    this.title.textContent = title;
    this.#draw();
  }

  // The answer for one place of the handle, while it moves.
  counted(above, exact) {
    const found = above.find((one) => one.threshold === this.threshold);
    if (!found) return;
    this.above = found;
    this.exact = exact;
    this.#place();
  }

  #listen() {
    let moving = false;
    const at = (event) => {
      const box = this.slider.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      return rounded(this.low + share * (this.high - this.low));
    };
    this.slider.addEventListener("pointerdown", (event) => {
      if (!this.edges.length || event.button) return;
      moving = true;
      this.slider.setPointerCapture(event.pointerId);
      this.#move(at(event));
    });
    this.slider.addEventListener("pointermove", (event) => moving && this.#move(at(event)));
    const rest = (event) => {
      if (!moving) return;
      moving = false;
      if (event.type === "pointerup") this.#move(at(event));
      this.#set(this.threshold);
    };
    this.slider.addEventListener("pointerup", rest);
    this.slider.addEventListener("pointercancel", rest);
    this.slider.addEventListener("keydown", (event) => {
      const now = this.threshold ?? this.low;
      const next = {
        ArrowRight: now + STEP, ArrowUp: now + STEP, ArrowLeft: now - STEP, ArrowDown: now - STEP,
        PageUp: now + 10 * STEP, PageDown: now - 10 * STEP, Home: this.low, End: this.high,
      }[event.key];
      if (next === undefined || !this.edges.length) return;
      event.preventDefault();
      event.stopPropagation();
      const there = rounded(Math.min(this.high, Math.max(this.low, next)));
      this.#move(there);
      this.#set(there);
    });
  }

  get low() {
    return this.edges[0] ?? 0;
  }

  get high() {
    return this.edges[this.edges.length - 1] ?? 1;
  }

  #move(threshold) {
    this.threshold = threshold;
    this.above = null;
    this.#place();
    this.onmove(threshold);
  }

  // At the low end nothing is left out.
  #set(threshold) {
    const all = threshold === null || threshold - this.low < 0.001; // a step of `rounded`
    this.threshold = all ? null : threshold;
    if (all) this.#place();
    this.onset(this.threshold);
  }

  #draw() {
    const tallest = Math.log1p(Math.max(1, ...this.counts));
    const wide = WIDTH / this.counts.length;
    this.bars.replaceChildren(...this.counts.map((count, at) => {
      const height = (Math.log1p(count) / tallest) * (HEIGHT - 4);
      const bar = shape("rect", { x: at * wide, y: HEIGHT - height, width: Math.max(0.5, wide - 0.6), height });
      bar.append(shape("title", {}, `${number(count)} pairs from ${this.edges[at].toFixed(3)} to ${this.edges[at + 1].toFixed(3)}`));
      return bar;
    }));
    const middle = (this.low + this.high) / 2;
    this.axis.replaceChildren(...[this.low, middle, this.high].map((edge) => element("span", {}, edge.toFixed(2))));
    this.#place();
  }

  #place() {
    const { slider, threshold, low, high } = this;
    const at = threshold ?? low;
    const share = high > low ? Math.min(1, Math.max(0, (at - low) / (high - low))) : 0;
    for (const end of ["x1", "x2"]) this.line.setAttribute(end, share * WIDTH);
    this.grip.style.left = `${share * 100}%`;
    const half = (high - low) / this.counts.length / 2;
    [...this.bars.children].forEach((bar, one) => bar.classList.toggle("out", threshold !== null && this.edges[one] + half < threshold));
    slider.setAttribute("aria-valuemin", low.toFixed(3));
    slider.setAttribute("aria-valuemax", high.toFixed(3));
    slider.setAttribute("aria-valuenow", at.toFixed(3));
    this.kept.textContent = this.#words();
    slider.setAttribute("aria-valuetext", this.#words());
    this.off.hidden = threshold === null;
  }

  #words() {
    const { threshold, pairs, above, exact } = this;
    if (threshold === null) return `All ${number(pairs)} pairs are kept. Drag the line to leave out the less similar.`;
    const from = `from ${threshold.toFixed(2)} on`;
    if (!above) return `About ${number(this.#guess())} of ${number(pairs)} pairs are kept ${from}; counting.`;
    if (exact || above.low === above.high) return `${number(above.count)} of ${number(pairs)} pairs are kept ${from}, counted exactly.`;
    return `About ${number(above.count)} of ${number(pairs)} pairs are kept ${from}: an estimate, ${number(above.low)} to ${number(above.high)}.`;
  }

  // From the bars alone, the cut one in proportion.
  #guess() {
    return Math.round(this.counts.reduce((total, count, at) => {
      const [from, to] = [this.edges[at], this.edges[at + 1]];
      return total + count * Math.min(1, Math.max(0, (to - this.threshold) / (to - from)));
    }, 0));
  }
}

const rounded = (value) => Math.round(value * 1000) / 1000;
