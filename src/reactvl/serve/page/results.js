// What the state asks for, on the page: one column or two, the classes beside them and the histogram.

import * as api from "./api.js";
import { Column } from "./column.js";
import { element, number, plural, settled } from "./element.js";
import { Facets } from "./facets.js";
import { Histogram } from "./histogram.js";
import { query } from "./state.js";

const COUNTING = 250; // milliseconds after an answer: the whole pool is not counted for every letter that is typed

export class Results {
  // parts: the page's elements by name; say(text) for people who hear the page; act(name, cell).
  constructor(parts, { info, state, marks, act, say, onfault }) {
    Object.assign(this, { ...parts, info, state, marks, act, say, onfault, columns: [], counting: null, typing: false });
    this.facets = new Facets(this.classesHome, info.classes, { onchoose: (id) => state.set({ classId: id }, { step: true }) });
    this.histogram = new Histogram(this.histogramHome, {
      onmove: settled((threshold) => this.#count(threshold, false), 90),
      onset: (min) => state.set({ min }),
    });
    this.countSoon = settled(() => this.#count(this.state.now.min, true), COUNTING);
    this.counted = null; // the last count: what was asked and the answer
    marks.addEventListener("change", () => this.columns.forEach((column) => column.gallery.marked()));
  }

  get galleries() {
    return this.columns.map((column) => column.gallery);
  }

  // Ask again for everything; an answer to an earlier state is dropped.
  show() {
    const state = this.state.now;
    const terms = query(state);
    this.typing = false;
    this.onfault(null);
    this.countSoon.cancel();
    this.counting?.abort();
    this.classesPanel.hidden = !this.info.classes.length;
    if (!terms.length && state.classId === null) return this.#start();
    const wanted = terms.length ? sidesOf(state) : [{ heading: "", change: {} }];
    this.#columns(wanted);
    if (terms.length) this.histogramPanel.hidden = modelOf(state) !== "base";
    this.histogramHome.classList.add("waiting");
    wanted.forEach(({ change }, at) => {
      this.columns[at].start(terms.length ? this.#search(state, terms, change) : this.#ofClass(state.classId));
    });
    if (!terms.length) {
      this.facets.show(null, state.classId);
      this.#uncounted();
    }
  }

  #search(state, terms, change) {
    const body = { ...filters(state), query: terms, ...change };
    if (state.min !== null) body.min_similarity = state.min;
    return (offset, k, signal) => api.search({ ...body, offset, k }, signal);
  }

  #ofClass(id) {
    return async (offset, limit, signal) => {
      const { hits } = await api.classPairs(id, offset, limit, signal);
      return { hits, facets: null, notes: [`Retrieved for ${this.facets.name(id)}, in the order of their rank.`] };
    };
  }

  // Columns are kept where their headings stay the same, and with them what is shown until the answer is there.
  #columns(wanted) {
    const headings = wanted.map(({ heading }) => heading).join("\n");
    if (this.columns.length && headings === this.headings) return;
    this.#close();
    this.headings = headings;
    this.columns = wanted.map(({ heading }, at) => new Column({
      heading, pictures: this.info.pictures, act: this.act, marks: this.marks,
      onanswer: (answer) => this.#answered(answer, at), onmore: () => this.#shared(), onwaiting: () => this.#busy(),
      empty: () => this.#empty(),
    }));
    this.home.classList.toggle("two", wanted.length === 2);
    this.home.replaceChildren(...this.columns.map((column) => column.node));
  }

  // Something was typed that will be asked for once typing pauses.
  expectMore() {
    this.typing = true;
    this.#busy();
  }

  // While an answer is on its way, or about to be asked for: what is shown is not what is wanted yet.
  #busy() {
    this.home.setAttribute("aria-busy", this.typing || this.columns.some((column) => column.waiting));
  }

  #close() {
    this.columns.forEach((column) => column.close());
    this.columns = [];
  }

  #answered(answer, at) {
    const many = this.columns[at].hits.length;
    this.say(many ? `${plural(many, "pair")} shown` : "No pair found");
    if (at === 0) {
      if (answer.facets) this.facets.show(answer.facets, this.state.now.classId);
      if (query(this.state.now).length) this.countSoon();
    }
    this.#shared();
  }

  // Side by side: which pairs the two have in common.
  #shared() {
    if (this.columns.length !== 2) return;
    const [left, right] = this.columns.map((column) => new Map(column.hits.map(({ part, row }, at) => [`${part}/${row}`, at + 1])));
    this.columns.forEach((column, at) => {
      const other = at ? left : right;
      for (const { hit, node } of column.gallery.cells) {
        const rank = other.get(`${hit.part}/${hit.row}`);
        node.dataset.other = rank ? `${at ? "left" : "right"}: ${rank}` : "";
        node.classList.toggle("shared", Boolean(rank));
      }
    });
    const both = [...left.keys()].filter((key) => right.has(key)).length;
    this.columns.forEach((column) => column.share(`${both} of ${column.hits.length} on both sides`));
  }

  // Bars and kept pairs come in one answer; it is not asked for twice, since the whole pool is counted for it.
  async #count(threshold, whole) {
    const state = this.state.now;
    if (modelOf(state) !== "base") return this.#uncounted(); // such a model ranks the nearest pairs anew, not the pool
    const { keys, class_id } = { ...filters(state), ...sidesOf(state)[0].change };
    const body = { keys, class_id, query: query(state), thresholds: threshold === null ? [] : [threshold] };
    const asked = JSON.stringify(body);
    this.counting?.abort();
    const counting = (this.counting = new AbortController());
    this.histogramPanel.hidden = false;
    try {
      if (this.counted?.asked !== asked) this.counted = { asked, answer: await api.count(body, counting.signal) };
      if (this.counting !== counting) return;
      const { answer } = this.counted;
      this.histogramHome.classList.remove("waiting");
      if (whole) this.histogram.show(answer, threshold, this.#title(state, keys));
      else this.histogram.counted(answer.above, answer.exact);
    } catch (fault) {
      if (fault.name === "AbortError" || this.counting !== counting) return;
      if (whole) this.#uncounted();
      this.onfault(fault);
    }
  }

  // In words, what is counted: captions' filters and duplicates play no part in it.
  #title(state, keys) {
    const side = keys === "text" ? "caption similarity" : "picture similarity";
    const within = state.classId === null ? "Pairs" : `Pairs of ${this.facets.name(state.classId)}`;
    const whole = state.caption.trim() ? ", whatever their captions hold" : "";
    return `${within} by ${side}${whole}; heights are logarithmic.`;
  }

  #uncounted() {
    this.counting?.abort();
    this.counting = null;
    this.histogramPanel.hidden = true;
  }

  #empty() {
    const state = this.state.now;
    const narrow = [
      state.min !== null && `a similarity of at least ${state.min}`,
      state.caption.trim() && `a caption that holds "${state.caption.trim()}" (among the best 10,000)`,
      state.classId !== null && `class ${this.facets.name(state.classId)}`,
    ].filter(Boolean);
    const off = () => this.state.set({ min: null, caption: "", classId: query(state).length ? null : state.classId }, { step: true });
    return element("div.empty", {},
      element("p", {}, narrow.length ? `No pair has ${narrow.join(" and ")}.` : "No pair was found."),
      narrow.length && query(state).length ? element("button", { type: "button", click: off }, "Search without these limits") : null);
  }

  // Before any query: what this is, and names to begin with.
  #start() {
    this.#close();
    this.headings = null;
    this.#busy();
    this.#uncounted();
    this.facets.show(null, null);
    const { pairs, classes } = this.info;
    const full = classes.filter((one) => one.pairs > 0);
    const every = Math.max(1, Math.floor(full.length / 12));
    const some = full.filter((_, at) => at % every === 0).slice(0, 12);
    this.home.classList.remove("two");
    this.home.replaceChildren(element("div.empty", {},
      element("p", {}, `Type to search ${plural(pairs, "pair")}, or drop a picture anywhere on this page.`),
      some.length ? element("p.soft", {}, "Some of the classes:") : null,
      element("div.buttons", {}, ...some.map(({ name }) => element("button.try", {
        type: "button", dir: "auto", click: () => this.state.set({ text: name }, { step: true }),
      }, name)))));
    this.say(`${number(pairs)} pairs can be searched`);
  }
}

function filters(state) {
  const chosen = { keys: state.keys, dedup: state.dedup, model: state.model };
  if (state.caption.trim()) chosen.caption = state.caption.trim();
  if (state.classId !== null) chosen.class_id = state.classId;
  return chosen;
}

// The model of the first column, whose similarities the histogram shows.
const modelOf = (state) => ({ ...state, ...sidesOf(state)[0].change }).model;

// The columns: how each is headed and in what its search differs.
export function sidesOf(state) {
  if (state.compare === "keys") {
    return [
      { heading: "Pictures (T2I)", change: { keys: "image" } },
      { heading: "Captions (T2T)", change: { keys: "text" } },
    ];
  }
  if (state.compare.startsWith("model:")) {
    const name = state.compare.slice("model:".length);
    return [
      { heading: "base", change: { model: "base" } },
      { heading: name, change: { model: name } },
    ];
  }
  return [{ heading: "", change: {} }];
}

