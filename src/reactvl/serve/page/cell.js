// One pair in the gallery: its picture, similarity, caption and source, and what can be done with it.

import { thumbnailAt } from "./api.js";
import { element, score, webAddress } from "./element.js";

// act(name, cell) is called with "open", "wrong", "pick" or "more"; onshape when a picture of unknown size has come.
export class Cell {
  constructor(hit, place, { pictures, act, onshape }) {
    this.hit = hit;
    this.place = place;
    this.node = element("li.cell", { tabindex: "-1", draggable: pictures });
    this.badge = element("button.badge", { type: "button", tabindex: "-1", hidden: true, click: () => act("pick?", this) });
    this.buttons = [
      this.#button("\u2715", "wrong", "Mark wrong (x)", act),
      this.#button("\u2713", "pick", "Pick for its class (p)", act),
      this.#button("\u2248", "more", "More like this (m)", act),
    ];
    this.frame = element("div.frame");
    if (pictures) this.frame.append(this.#picture(act, onshape));
    this.frame.append(this.badge);
    this.node.append(this.frame, ...this.#words(pictures), element("div.acts", {}, ...this.buttons));
    this.node.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData("application/x-reactvl-pair", JSON.stringify([hit.part, hit.row]));
    });
    this.node.addEventListener("dblclick", () => act("open", this));
    this.mark(null);
  }

  // What the person said of it: null, {wrong: true} or {name: the class it was picked for}.
  mark(mark) {
    const { node, hit, place, badge } = this;
    node.classList.toggle("wrong", Boolean(mark?.wrong));
    node.classList.toggle("picked", Boolean(mark && !mark.wrong));
    badge.hidden = !mark;
    badge.textContent = mark ? (mark.wrong ? "wrong" : mark.name) : "";
    badge.title = mark ? (mark.wrong ? "Marked wrong" : `Picked for ${mark.name}; click to choose another class`) : "";
    badge.disabled = Boolean(mark?.wrong);
    this.buttons[0].setAttribute("aria-pressed", Boolean(mark?.wrong));
    this.buttons[1].setAttribute("aria-pressed", Boolean(mark && !mark.wrong));
    const said = mark ? (mark.wrong ? ", marked wrong" : `, picked for ${mark.name}`) : "";
    node.setAttribute("aria-label", `${place}: ${hit.caption || "no caption"}${hit.similarity === null ? "" : `, similarity ${score(hit.similarity)}`}${said}`);
  }

  // Only the buttons of the pair that has the focus are stops of the Tab key.
  current(is) {
    this.node.tabIndex = is ? 0 : -1;
    for (const button of [...this.buttons, this.badge]) button.tabIndex = is ? 0 : -1;
    for (const link of this.node.querySelectorAll("a")) link.tabIndex = is ? 0 : -1;
  }

  #button(sign, action, title, act) {
    const said = { type: "button", tabindex: "-1", title, "aria-label": title, "aria-pressed": action === "more" ? null : "false" };
    return element("button", { ...said, click: () => act(action, this) }, sign);
  }

  #picture(act, onshape) {
    const { part, row, width, height } = this.hit;
    const side = window.devicePixelRatio > 1.25 ? 512 : 256;
    const picture = element("img", { alt: "", loading: "lazy", decoding: "async", draggable: "false", click: () => act("open", this) });
    if (!(width > 0 && height > 0)) {
      picture.addEventListener("load", () => onshape(this, picture.naturalWidth, picture.naturalHeight));
    }
    picture.addEventListener("error", () => picture.replaceWith(element("p.missing", {}, "The picture cannot be read")));
    picture.src = thumbnailAt(part, row, side);
    return picture;
  }

  #words(pictures) {
    const { hit } = this;
    const [home, key] = hit.shard && hit.key ? [hit.shard, hit.key] : [`part ${hit.part}`, `row ${hit.row}`];
    const name = `${home}/${key}`;
    const place = (kind) => element(kind, { title: name }, element("span.shard", {}, home), `/${key}`);
    const caption = element("p.caption", { dir: "auto", title: pictures ? hit.caption : null }, hit.caption || "");
    const address = hit.url && webAddress(hit.url);
    const source = address
      ? element("a.source", { href: address.href, target: "_blank", rel: "noopener noreferrer", title: `${name}\n${hit.url}`, tabindex: "-1" }, address.host)
      : place("span.key");
    const known = hit.similarity !== null && hit.similarity !== undefined;
    const line = element("p.line", {}, known ? element("b", { title: sides(hit) }, score(hit.similarity)) : null, source);
    return [caption, line, address ? place("p.line.key") : null].filter(Boolean);
  }
}

export function sides({ image_similarity, text_similarity }) {
  const said = [];
  if (image_similarity !== null && image_similarity !== undefined) said.push(`picture ${score(image_similarity)}`);
  if (text_similarity !== null && text_similarity !== undefined) said.push(`caption ${score(text_similarity)}`);
  return said.join(", ") || null;
}
