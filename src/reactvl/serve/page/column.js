// One column of results: asks for its pairs page by page as one scrolls, drops answers that came too late, and says in
// a line what was searched.

import { element, number, plural } from "./element.js";
import { Gallery } from "./gallery.js";

const PAGE = 40; // pairs a request
const DEEPEST = 10_000; // the service passes over no more

export class Column {
  // heading: "" for the only column. onanswer(answer, column) after the first page; onmore(column) after any other;
  // onwaiting() when it begins or ends to wait for a first page.
  constructor({ heading, pictures, act, marks, onanswer, onmore, onwaiting, empty }) {
    this.gallery = new Gallery({ label: heading ? `Pairs: ${heading}` : "Pairs", pictures, act, marks });
    this.said = element("p.said");
    this.shared = element("p.said");
    this.notes = element("ul.notes");
    this.end = element("div.end");
    const title = heading ? element("h2", {}, heading) : null;
    this.node = element("section.column", {}, element("div.head", {}, title, this.said, this.shared, this.notes), this.gallery.node, this.end);
    Object.assign(this, { onanswer, onmore, onwaiting, empty, seen: new Set(), fetchPage: null });
    this.watch = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.#more();
    }, { rootMargin: "800px 0px" });
    this.watch.observe(this.end);
  }

  // fetchPage(offset, limit, signal) gives an answer with `hits`. What is shown stays until the new answer is there.
  async start(fetchPage) {
    this.stop();
    this.fetchPage = fetchPage;
    this.done = false;
    this.#wait(true);
    if (!this.gallery.cells.length) this.end.replaceChildren(element("p.soft.searching", {}, "Searching."));
    const answer = await this.#page(0);
    if (!answer) return;
    this.gallery.clear();
    this.seen.clear();
    this.offset = 0;
    this.#take(answer);
    this.#say(answer);
    this.#wait(false);
    this.onanswer(answer, this);
  }

  #wait(waiting) {
    this.waiting = waiting;
    this.node.classList.toggle("waiting", waiting);
    this.onwaiting();
  }

  stop() {
    this.abort?.abort();
    this.abort = null;
  }

  close() {
    this.stop();
    this.watch.disconnect();
    this.gallery.watch.disconnect();
  }

  share(text) {
    this.shared.textContent = this.hits.length ? text : "";
  }

  get hits() {
    return this.gallery.cells.map((cell) => cell.hit);
  }

  async #more() {
    if (this.done !== false || this.abort || !this.gallery.cells.length) return;
    this.end.replaceChildren(element("p.soft", {}, "More is coming."));
    const answer = await this.#page(this.offset);
    if (!answer) return;
    this.#take(answer);
    this.onmore(this);
  }

  // null when the answer is no longer wanted, or is a fault (which is then shown).
  async #page(offset) {
    const abort = (this.abort = new AbortController());
    try {
      const answer = await this.fetchPage(offset, PAGE, abort.signal);
      return this.abort === abort ? answer : null;
    } catch (fault) {
      if (this.abort === abort && fault.name !== "AbortError") this.#fault(fault, offset);
      return null;
    } finally {
      if (this.abort === abort) this.abort = null;
    }
  }

  #take({ hits }) {
    const fresh = hits.filter(({ part, row }) => !this.seen.has(`${part}/${row}`));
    for (const { part, row } of fresh) this.seen.add(`${part}/${row}`);
    this.offset += PAGE;
    this.done = hits.length < PAGE || this.offset > DEEPEST;
    this.end.replaceChildren();
    this.gallery.append(fresh);
    const all = this.gallery.cells.length;
    if (!all) this.end.replaceChildren(this.empty());
    else if (this.offset > DEEPEST) this.end.replaceChildren(element("p.soft", {}, `These are the best ${plural(all, "pair")}; a narrower search shows others.`));
    else if (this.done) this.end.replaceChildren(element("p.soft", {}, `That is all: ${plural(all, "pair")}.`));
    else this.#again();
  }

  // An observer speaks only when the end comes into view: where one page does not fill the window it stays in view.
  #again() {
    this.watch.unobserve(this.end);
    this.watch.observe(this.end);
  }

  #fault(fault, offset) {
    this.#wait(false);
    if (!offset) {
      this.gallery.clear();
      this.said.textContent = "";
      this.notes.replaceChildren();
    }
    this.done = null; // no more by itself
    const again = () => {
      this.end.replaceChildren();
      if (!offset) this.start(this.fetchPage);
      else {
        this.done = false;
        this.#more();
      }
    };
    this.end.replaceChildren(
      element("p.fault", { role: "alert" }, fault.message, " ", element("button", { type: "button", click: again }, "Try again")),
    );
  }

  #say({ exact, recall, examined, milliseconds, notes }) {
    const said = [];
    if (exact === true) said.push("exact search");
    if (exact === false) said.push(`index${recall ? `, recall ${recall.toFixed(2)}` : ""}`);
    if (examined) said.push(`${number(examined)} rows looked through`);
    if (milliseconds) {
      const spent = Object.values(milliseconds).reduce((total, one) => total + one, 0);
      said.push(`${spent < 10 ? spent.toFixed(1) : Math.round(spent)} ms`);
    }
    this.said.textContent = said.join(" \u00b7 ");
    this.notes.replaceChildren(...(notes ?? []).map((note) => element("li", {}, note)));
  }
}
