// One pair by itself: the whole picture, the whole caption, and everything that its metadata says.

import * as api from "./api.js";
import { element, score, webAddress } from "./element.js";
import { sides } from "./cell.js";

const SHOWN_ABOVE = new Set(["caption", "similarity", "image_similarity", "text_similarity", "class_ids", "url"]);

export class Viewer {
  // name(class_id); act(name, hit) for "wrong", "pick", "more"; step(by) moves the gallery and gives the next hit or null;
  // onclose() when it is left.
  constructor(dialog, { pictures, marks, name, act, step, onclose }) {
    Object.assign(this, { dialog, pictures, marks, name, act, step, hit: null });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => {
      this.abort?.abort();
      onclose();
    });
    marks.addEventListener("change", () => dialog.open && this.#actions());
  }

  get open() {
    return this.dialog.open;
  }

  show(hit) {
    this.hit = hit;
    this.abort?.abort();
    this.abort = new AbortController();
    this.table = element("dl.about");
    this.buttons = element("div.buttons");
    const words = element("div.words", {},
      element("p.caption", { dir: "auto", tabindex: "0" }, hit.caption || "No caption."),
      this.#facts(hit), this.buttons, this.table);
    this.dialog.replaceChildren(
      this.pictures ? this.#picture(hit) : "",
      words,
      element("button.close", { type: "button", "aria-label": "Close", title: "Close (Esc)", click: () => this.dialog.close() }, "\u2715"),
    );
    this.dialog.classList.toggle("bare", !this.pictures);
    this.#actions();
    this.#fill(hit);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.querySelector(".buttons button")?.focus();
  }

  turn(by) {
    const next = this.step(by);
    if (next) this.show(next);
  }

  #picture({ part, row, caption }) {
    const picture = element("img", { alt: caption || "The pair's picture" });
    const home = element("div.picture", {}, picture);
    picture.addEventListener("error", async () => {
      let why = "The picture cannot be read.";
      try {
        const response = await fetch(api.pictureAt(part, row), { signal: this.abort.signal });
        why = (await response.json()).detail || why;
      } catch {
        // the plain sentence has to do
      }
      home.replaceChildren(element("p.missing", {}, why));
    });
    picture.src = api.pictureAt(part, row);
    return home;
  }

  #facts(hit) {
    const address = hit.url && webAddress(hit.url);
    const classes = (hit.class_ids ?? []).map((id) => this.name(id)).join(", ");
    const alone = hit.similarity === null || hit.similarity === undefined;
    return element("dl.about", {},
      ...(alone ? [] : row("similarity", `${score(hit.similarity)}${sides(hit) ? ` (${sides(hit)})` : ""}`)),
      ...(classes ? row("retrieved for", classes) : []),
      ...(hit.url ? row("source", address
        ? element("a", { href: address.href, target: "_blank", rel: "noopener noreferrer" }, hit.url) : hit.url) : []),
    );
  }

  #actions() {
    const mark = this.marks.of(this.hit);
    const button = (label, action, pressed) =>
      element("button", { type: "button", "aria-pressed": pressed, click: () => this.act(action, this.hit) }, label);
    const focused = [...this.buttons.children].indexOf(document.activeElement);
    this.buttons.replaceChildren(
      button(mark?.wrong ? "Marked wrong" : "Wrong", "wrong", Boolean(mark?.wrong)),
      button(mark && !mark.wrong ? `Picked: ${mark.name}` : "Pick", "pick", Boolean(mark && !mark.wrong)),
      button("More like this", "more", null),
    );
    if (focused >= 0) this.buttons.children[focused].focus();
  }

  async #fill(hit) {
    try {
      const columns = await api.pair(hit.part, hit.row, this.abort.signal);
      for (const [name, value] of Object.entries(columns)) {
        if (value === null || value === "" || SHOWN_ABOVE.has(name) || Array.isArray(value)) continue;
        this.table.append(...row(name.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : String(value)));
      }
    } catch (fault) {
      if (fault.name !== "AbortError") this.table.append(...row("metadata", fault.message));
    }
  }
}

const row = (name, value) => [element("dt", {}, name), element("dd", { dir: "auto" }, value)];
