// What a person said of pairs: wrong, or picked for a class. They become the two lists of a review:
// exclude.txt, a line `shard/key` each, which `reactvl retrieve --exclude` takes, and positives.tsv, `class TAB shard/key`.

import * as api from "./api.js";

const id = ({ part, row }) => `${part}/${row}`;

export class Marks extends EventTarget {
  constructor() {
    super();
    this.all = new Map(); // part/row -> {part, row, shard, key, caption, wrong} or {..., classId, name}
    this.saved = ""; // what the run's files hold
  }

  of(hit) {
    return this.all.get(id(hit)) ?? null;
  }

  get wrong() {
    return [...this.all.values()].filter((mark) => mark.wrong);
  }

  get picked() {
    return [...this.all.values()].filter((mark) => !mark.wrong);
  }

  get unsaved() {
    return this.#digest() !== this.saved;
  }

  setWrong(hits, wrong) {
    for (const hit of hits) {
      if (wrong) this.all.set(id(hit), { ...source(hit), wrong: true });
      else this.all.delete(id(hit));
    }
    this.#changed();
  }

  pick(hit, classId, name) {
    this.all.set(id(hit), { ...source(hit), classId, name });
    this.#changed();
  }

  remove(hit) {
    this.all.delete(id(hit));
    this.#changed();
  }

  clear() {
    this.all.clear();
    this.#changed();
  }

  // The marks that the run holds; name(class_id) gives the class's name.
  async load(name) {
    const { exclude, positives } = await api.review();
    for (const [part, row] of exclude) this.all.set(id({ part, row }), { part, row, wrong: true });
    for (const [part, row, classId] of positives) {
      this.all.set(id({ part, row }), { part, row, classId, name: name(classId) });
    }
    this.saved = this.#digest();
    this.#changed();
  }

  async save() {
    const digest = this.#digest();
    await api.saveReview({
      exclude: this.wrong.map(({ part, row }) => [part, row]),
      positives: this.picked.map(({ part, row, classId }) => [part, row, classId]),
    });
    this.saved = digest;
    this.#changed();
  }

  async excludeText() {
    return lines(this.wrong, (mark, name) => name);
  }

  async positivesText() {
    return lines(this.picked, (mark, name) => `${mark.name.replace(/[\t\r\n]+/g, " ")}\t${name}`);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #digest() {
    return [...this.all.entries()].map(([key, { wrong, classId, name }]) => `${key} ${wrong ? "x" : classId ?? name}`).sort().join("\n");
  }
}

const source = ({ part, row, shard, key, caption }) => ({ part, row, shard, key, caption });

// In the order of the pool, so that the same marks give the same file. Marks that came from the run know only their
// places: their names are asked for.
async function lines(marks, line) {
  const ordered = [...marks].sort((one, other) => one.part - other.part || one.row - other.row);
  const made = [];
  for (const mark of ordered) {
    if (!mark.shard || !mark.key) {
      const { shard, key } = await api.pair(mark.part, mark.row);
      if (!shard || !key) throw new api.Fault(`Pair ${id(mark)} has no shard and key: such a pool's pairs cannot be listed.`);
      Object.assign(mark, { shard, key });
    }
    made.push(`${line(mark, `${mark.shard}/${mark.key}`)}\n`);
  }
  return made.join("");
}
