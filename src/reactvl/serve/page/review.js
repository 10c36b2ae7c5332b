// The panel of the marks: how many there are, which, and where they go.

import { thumbnailAt } from "./api.js";
import { element, number, plural } from "./element.js";

const SHOWN = 48; // small pictures a list

export class Review {
  // run: the marks can be saved for it. onopen(mark) shows a marked pair; onfault(fault).
  constructor(home, marks, { run, pictures, onopen, onfault }) {
    Object.assign(this, { home, marks, run, pictures, onopen, onfault, said: "" });
    marks.addEventListener("change", () => this.#draw());
    window.addEventListener("beforeunload", (event) => {
      if (marks.unsaved && marks.all.size) event.preventDefault();
    });
    this.#draw();
  }

  #draw() {
    const { wrong, picked } = this.marks;
    if (this.marks.unsaved) this.said = "";
    this.home.replaceChildren(
      element("p.soft", {}, this.#words(wrong.length, picked.length)),
      ...this.#group("wrong", wrong),
      ...this.#group("picked", picked),
      element("div.buttons", {},
        this.#export("exclude.txt", wrong.length, () => this.marks.excludeText()),
        this.#export("positives.tsv", picked.length, () => this.marks.positivesText()),
        this.run ? this.#save() : null,
        wrong.length + picked.length ? element("button.link", { type: "button", click: () => this.#clear() }, "Clear") : null,
      ),
      element("p.soft", { role: "status" }, this.said),
    );
  }

  #words(wrong, picked) {
    if (!wrong && !picked) return "Mark pairs wrong with x, pick them for their class with p.";
    return `${plural(wrong, "pair")} wrong, ${number(picked)} picked${this.run ? (this.marks.unsaved ? ", not saved yet" : ", saved") : ""}.`;
  }

  #group(kind, marks) {
    if (!marks.length) return [];
    const shown = marks.slice(-SHOWN).reverse();
    const strip = element("div.strip", { class: `strip ${kind}`, role: "group", "aria-label": kind }, ...shown.map((mark) => {
      const title = `${mark.name ? `${mark.name}: ` : ""}${mark.caption || mark.key || `${mark.part}/${mark.row}`}`;
      const inside = this.pictures ? element("img", { src: thumbnailAt(mark.part, mark.row, 64), alt: "", loading: "lazy" }) : title;
      return element("button", { type: "button", title, "aria-label": `${kind}: ${title}`, click: () => this.onopen(mark) }, inside);
    }));
    return marks.length > SHOWN ? [strip, element("p.soft", {}, `and ${number(marks.length - SHOWN)} more ${kind}`)] : [strip];
  }

  #export(file, many, text) {
    const click = () => this.#try(async () => download(file, await text()));
    return element("button", { type: "button", disabled: !many, title: `Download ${file}`, click }, file);
  }

  #save() {
    const click = () => this.#try(async () => {
      await this.marks.save();
      this.said = "Saved for the run: `reactvl run` goes on with these marks.";
      this.#draw();
    });
    return element("button.strong", { type: "button", disabled: !this.marks.unsaved, click }, "Save for the run");
  }

  #clear() {
    const many = this.marks.all.size;
    if (many < 3 || window.confirm(`Forget all ${many} marks?`)) this.marks.clear();
  }

  async #try(work) {
    try {
      await work();
    } catch (fault) {
      this.onfault(fault);
    }
  }
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
