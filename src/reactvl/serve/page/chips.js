// The finished parts of the query: a chip each, with its weight, its sign and a way out.

import { thumbnailAt } from "./api.js";
import { element } from "./element.js";

// onchange(parts) with the new list whenever a chip is changed or taken away.
export function showChips(list, parts, { pictures, onchange }) {
  const focused = place(list);
  list.replaceChildren(...parts.map((part, at) => chip(part, at, parts, pictures, onchange)));
  list.hidden = !parts.length;
  if (focused) list.children[focused.at]?.querySelector(focused.what)?.focus();
}

function chip(part, at, parts, pictures, onchange) {
  const replaced = (patch) => onchange(parts.map((one, other) => (other === at ? { ...one, ...patch } : one)));
  const name = part.text ?? part.label ?? "";
  const label = part.pair ? `pair ${part.pair.join("/")}` : part.image ? "picture" : part.text;
  const minus = part.weight < 0;
  const sign = element("button.sign", {
    type: "button", "aria-pressed": minus, title: minus ? "Subtracted: click to add it" : "Added: click to subtract it",
    "aria-label": `${label}: ${minus ? "subtracted" : "added"}`, click: () => replaced({ weight: -part.weight }),
  }, minus ? "\u2212" : "+");
  const weight = element("input.weight", {
    type: "number", min: "0.1", max: "10", step: "0.1", value: Math.abs(part.weight), title: "Weight", "aria-label": `${label}: weight`,
    change: (event) => {
      const size = Math.min(10, Math.max(0.1, Number(event.target.value) || 1));
      replaced({ weight: minus ? -size : size });
    },
  });
  const away = element("button.away", {
    type: "button", title: "Take it out of the query", "aria-label": `${label}: take it out`,
    click: () => onchange(parts.filter((_, other) => other !== at)),
  }, "\u2715");
  const words = element("span.words", { dir: "auto", title: part.image ? `${name}: not part of the page's address` : name }, name || label);
  const node = element("li.chip", {}, sign, preview(part, pictures), words, weight, away);
  node.classList.toggle("minus", minus);
  return node;
}

function preview(part, pictures) {
  if (part.image) return element("img", { src: part.preview, alt: "" });
  if (part.pair && pictures) return element("img", { src: thumbnailAt(...part.pair, 64), alt: "" });
  return null;
}

// Which control of which chip has the focus: the list is made anew at each change.
function place(list) {
  const at = [...list.children].findIndex((one) => one.contains(document.activeElement));
  if (at < 0) return null;
  const what = [".sign", ".weight", ".away"].find((name) => document.activeElement.matches(name));
  return what ? { at, what } : null;
}
