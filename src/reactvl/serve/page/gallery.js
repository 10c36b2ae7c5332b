// A justified gallery that one walks with the arrow keys. It knows pairs and their cells, not where they come from.

import { Cell } from "./cell.js";
import { element } from "./element.js";
import { justified, shapeOf } from "./justify.js";

const GAP = 12; // pixels, as in the style sheet

// act(name, cell) as in cell.js; marks: what each pair is marked with.
export class Gallery {
  constructor({ label, pictures, act, marks }) {
    this.node = element("ul.gallery", { "aria-label": label });
    this.cells = [];
    this.pictures = pictures;
    this.act = act;
    this.marks = marks;
    this.at = 0;
    this.node.classList.toggle("words", !pictures);
    this.node.addEventListener("focusin", (event) => {
      const at = this.cells.findIndex((cell) => cell.node.contains(event.target));
      if (at >= 0) this.#turn(at);
    });
    this.shapes = new Map(); // cell -> width / height
    this.watch = new ResizeObserver(() => this.#soon());
    this.watch.observe(this.node);
  }

  clear() {
    this.cells = [];
    this.shapes.clear();
    this.at = 0;
    this.node.replaceChildren();
  }

  append(hits) {
    const onshape = (cell, width, height) => {
      this.shapes.set(cell, shapeOf(width, height));
      this.#soon();
    };
    for (const hit of hits) {
      const cell = new Cell(hit, this.cells.length + 1, { pictures: this.pictures, act: this.act, onshape });
      cell.mark(this.marks.of(hit));
      this.shapes.set(cell, shapeOf(hit.width, hit.height));
      this.cells.push(cell);
    }
    this.node.append(...this.cells.slice(-hits.length || this.cells.length).map((cell) => cell.node));
    if (this.cells.length) this.#turn(Math.min(this.at, this.cells.length - 1));
    this.#layout();
  }

  marked() {
    for (const cell of this.cells) cell.mark(this.marks.of(cell.hit));
  }

  has(node) {
    return this.node.contains(node);
  }

  get current() {
    return this.cells[this.at] ?? null;
  }

  focus(at = this.at) {
    const there = Math.max(0, Math.min(at, this.cells.length - 1));
    if (!this.cells.length) return false;
    this.#turn(there); // behind an open dialog nothing takes the focus, but the place moves on
    this.cells[there].node.focus();
    this.cells[there].node.scrollIntoView({ block: "nearest" });
    return true;
  }

  // "left", "right", "up" or "down" from the pair that has the focus; false at the edge.
  move(where) {
    const next = where === "left" ? this.at - 1 : where === "right" ? this.at + 1 : this.#above(where === "up");
    if (next === null || next < 0 || next >= this.cells.length) return false;
    return this.focus(next);
  }

  // The pair of the next row whose middle is nearest to that of the current one.
  #above(up) {
    if (!this.current) return null;
    const boxes = this.cells.map((cell) => cell.node.getBoundingClientRect());
    const from = boxes[this.at];
    const beyond = boxes.map((box) => box.top).filter((top) => (up ? top < from.top - 1 : top > from.top + 1));
    if (!beyond.length) return null;
    const top = up ? Math.max(...beyond) : Math.min(...beyond);
    const middle = from.left + from.width / 2;
    let best = null;
    let distance = Infinity;
    boxes.forEach((box, at) => {
      const off = Math.abs(box.left + box.width / 2 - middle);
      if (Math.abs(box.top - top) < 1 && off < distance) [best, distance] = [at, off];
    });
    return best;
  }

  #turn(at) {
    this.cells[this.at]?.current(false);
    this.at = at;
    this.cells[at].current(true);
  }

  #soon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.#layout());
  }

  #layout() {
    const width = this.node.clientWidth;
    if (!width || !this.pictures) return;
    const target = width < 240 ? width : width < 480 ? 120 : width < 760 ? 136 : 156; // the narrowest: about one a row
    const ratios = this.cells.map((cell) => this.shapes.get(cell));
    let at = 0;
    for (const { height, widths } of justified(ratios, width, target, GAP)) {
      for (const one of widths) {
        const { node, frame } = this.cells[at++];
        node.style.width = `${one}px`;
        frame.style.height = `${height}px`;
      }
    }
  }
}
