// Which class is a pair picked for? A small dialog: the names that match what is typed, the best first.

import { element } from "./element.js";

const SHOWN = 8;

// Resolves to {id, name}, or null when it was closed. classes: [{id, name}]; with none the name is free. `likely`: a
// name to begin with.
export function pickClass(dialog, classes, { likely = "", caption = "" } = {}) {
  return new Promise((done) => {
    let answer = null;
    const choose = (one) => {
      answer = one;
      dialog.close();
    };
    const input = element("input", { type: "text", autocomplete: "off", "aria-label": "Class", "aria-controls": "picker-names" });
    const names = element("ul.facets", { id: "picker-names" });
    const found = () => matching(classes, input.value);
    const row = (one) => element("li", {}, element("button", { type: "button", click: () => choose(one) },
      element("span.name", { dir: "auto" }, one.name)));
    const draw = () => {
      names.classList.toggle("first", Boolean(input.value.trim())); // the one that Enter takes
      names.replaceChildren(...found().slice(0, SHOWN).map(row));
      if (classes.length && !found().length) names.append(element("li.soft", {}, "No class has this in its name."));
    };
    input.value = likely;
    input.addEventListener("input", draw);
    const form = element("form", {
      submit: (event) => {
        event.preventDefault();
        const free = input.value.trim();
        if (!free) input.focus();
        else if (!classes.length) choose({ id: null, name: free });
        else if (found().length) choose(found()[0]);
      },
    }, input, names, element("div.buttons", {},
      element("button.strong", {}, "Pick"),
      element("button", { type: "button", click: () => dialog.close() }, "Cancel")));
    dialog.replaceChildren(
      element("h2", { id: "picker-title" }, "Pick for which class?"),
      element("p.soft.caption", { dir: "auto" }, caption),
      form,
    );
    dialog.addEventListener("close", () => done(answer), { once: true });
    draw();
    dialog.showModal();
    input.focus();
    input.select();
  });
}

// The name itself first, then names that begin so, then those that hold it.
function matching(classes, text) {
  const wanted = text.trim().toLocaleLowerCase();
  if (!wanted) return classes;
  const rank = (name) => (name === wanted ? 0 : name.startsWith(wanted) ? 1 : name.includes(wanted) ? 2 : 3);
  return classes
    .map((one) => [rank(one.name.toLocaleLowerCase()), one])
    .filter(([rated]) => rated < 3)
    .sort(([one], [other]) => one - other)
    .map(([, one]) => one);
}
