// The classes: those of the pairs that were found, or all of them; one can be chosen.

import { element, number } from "./element.js";

const SHOWN = 300; // rows: of 20,000 classes one looks for a name rather than reads the list

// onchoose(id or null). show() takes [{id, count}] of an answer, or null where there is no query.
export class Facets {
  constructor(home, classes, { onchoose }) {
    Object.assign(this, { classes, onchoose, facets: null, chosen: null });
    this.names = new Map(classes.map(({ id, name }) => [id, name]));
    this.filter = element("input", { type: "text", placeholder: "Find a class", "aria-label": "Find a class", input: () => this.#draw() });
    this.title = element("p.soft");
    this.list = element("ul.facets");
    home.replaceChildren(this.title, this.filter, this.list);
    this.filter.hidden = classes.length <= 12;
  }

  name(id) {
    return this.names.get(id) ?? `class ${id}`;
  }

  show(facets, chosen) {
    Object.assign(this, { facets, chosen });
    this.#draw();
  }

  // The next class that has pairs, around the list; null where there is none.
  after(step) {
    const full = this.classes.filter(({ id, pairs }) => pairs > 0 || id === this.chosen);
    if (!full.length) return null;
    const at = full.findIndex(({ id }) => id === this.chosen);
    return full[at < 0 ? (step > 0 ? 0 : full.length - 1) : (at + step + full.length) % full.length].id;
  }

  #draw() {
    const wanted = this.filter.value.trim().toLocaleLowerCase();
    const counts = this.facets && new Map(this.facets.map(({ class_id, count }) => [class_id, count]));
    let rows = counts && !wanted
      ? this.facets.map(({ class_id, count }) => ({ id: class_id, name: this.name(class_id), count }))
      : this.classes.map(({ id, name, pairs }) => ({ id, name, count: counts ? counts.get(id) ?? 0 : pairs }));
    if (wanted) rows = rows.filter(({ name }) => name.toLocaleLowerCase().includes(wanted));
    if (this.chosen !== null) {
      const chosen = rows.find(({ id }) => id === this.chosen) ?? { id: this.chosen, name: this.name(this.chosen), count: null };
      rows = [chosen, ...rows.filter(({ id }) => id !== this.chosen)];
    }
    const most = Math.max(1, ...rows.map(({ count }) => count ?? 0));
    this.title.textContent = !this.facets
      ? "Pairs retrieved for each class."
      : "Retrieved pairs among the best found, by class.";
    this.list.replaceChildren(...rows.slice(0, SHOWN).map((row) => this.#row(row, most)));
    if (rows.length > SHOWN) this.list.append(element("li.soft", {}, `${number(rows.length - SHOWN)} more: find them by name.`));
    if (!rows.length) this.list.append(element("li.soft", {}, wanted ? "No class has this in its name." : "None of these pairs was retrieved."));
  }

  #row({ id, name, count }, most) {
    const chosen = id === this.chosen;
    const bar = element("span.bar");
    bar.style.width = `${(100 * (count ?? 0)) / most}%`;
    const button = element("button", { type: "button", "aria-pressed": chosen, click: () => this.onchoose(chosen ? null : id) },
      bar, element("span.name", { dir: "auto" }, name), element("span.count", {}, chosen ? "\u2715" : number(count ?? 0)));
    if (chosen) button.title = "Show all classes again";
    return element("li", {}, button);
  }
}
