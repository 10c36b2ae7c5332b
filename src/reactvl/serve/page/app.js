// The page: searching a pool of pairs, looking at what is found, marking what is wrong or right.

import * as api from "./api.js";
import { showChips } from "./chips.js";
import { element, plural, settled } from "./element.js";
import { takePictures } from "./intake.js";
import { listen } from "./keyboard.js";
import { Marks } from "./marks.js";
import { pickClass } from "./picker.js";
import { Results } from "./results.js";
import { Review } from "./review.js";
import { State, partOf, query } from "./state.js";
import { switchTheme } from "./theme.js";
import { Viewer } from "./viewer.js";

const TYPING = 140; // milliseconds without a key before a search goes out

const by = (id) => document.getElementById(id);
const state = new State();
const marks = new Marks();
let lastMarked = null; // for Shift+x
let lastPicked = null; // the class chosen last, and for which query

switchTheme(by("theme"));
const narrow = matchMedia("(max-width: 46rem)");
const fold = () => ["settings", "panel-classes", "panel-histogram", "panel-marks"].forEach((id) => (by(id).open = !narrow.matches));
narrow.addEventListener("change", fold);
fold();
open().catch(showFault);

async function open() {
  const info = await api.info();
  const classes = new Map(info.classes.map(({ id, name }) => [id, name]));
  const name = (id) => classes.get(id) ?? `class ${id}`;
  describe(info);

  const say = (text) => (by("live").textContent = text);
  const cellAct = (action, cell, shifted) => act(action, cell.hit, { shifted, gallery: galleryOf(cell.node) });
  const results = new Results(
    {
      home: by("results"), classesHome: by("classes"), classesPanel: by("panel-classes"),
      histogramHome: by("histogram"), histogramPanel: by("panel-histogram"),
    },
    { info, state, marks, act: cellAct, say, onfault: showFault },
  );
  const galleryOf = (node) => results.galleries.find((gallery) => gallery.has(node)) ?? null;
  let lastGallery = null;
  const gallery = () => results.galleries.find((one) => one === lastGallery) ?? results.galleries[0] ?? null;
  by("results").addEventListener("focusin", (event) => (lastGallery = galleryOf(event.target) ?? lastGallery));

  const viewer = new Viewer(by("viewer"), {
    pictures: info.pictures, marks, name, act: (action, hit) => act(action, hit, { shifted: false, gallery: gallery() }),
    step: (by) => (gallery()?.move(by > 0 ? "right" : "left") ? gallery().current.hit : null),
    onclose: () => {
      const at = gallery()?.cells.findIndex((cell) => cell.hit === viewer.hit) ?? -1;
      if (lastGallery && at >= 0) gallery().focus(at); // the browser goes back to the pair that was opened first
    },
  });
  by("panel-marks").hidden = false;
  new Review(by("marks"), marks, { run: info.review, pictures: info.pictures, onopen: (mark) => viewer.show(mark), onfault: showFault });
  if (info.review) await marks.load(name).catch(showFault);

  function act(action, hit, { shifted, gallery }) {
    const mark = marks.of(hit);
    if (action === "open") viewer.show(hit);
    else if (action === "wrong") markWrong(hit, mark, shifted, gallery);
    else if (action === "pick" && mark && !mark.wrong && !shifted) marks.remove(hit);
    else if (action === "pick" || action === "pick?") pick(hit, shifted || action === "pick?");
    else if (action === "more") more(hit, shifted);
  }

  // With Shift, all between this pair and the one marked last are marked as that one was.
  function markWrong(hit, mark, shifted, gallery) {
    const hits = gallery?.cells.map((cell) => cell.hit) ?? [];
    const [from, to] = [hits.indexOf(lastMarked), hits.indexOf(hit)].sort((one, other) => one - other);
    if (shifted && from >= 0) marks.setWrong(hits.slice(from, to + 1), Boolean(marks.of(lastMarked)?.wrong));
    else marks.setWrong([hit], !mark?.wrong);
    lastMarked = hit;
    say(marks.of(hit)?.wrong ? "marked wrong" : "mark taken back");
  }

  async function pick(hit, ask) {
    let chosen = ask ? null : likely(hit);
    if (!chosen) {
      const first = marks.of(hit)?.name ?? likely(hit)?.name ?? "";
      chosen = await pickClass(by("picker"), info.classes, { likely: first, caption: hit.caption ?? "" });
      if (!chosen) return;
      lastPicked = { wanted: JSON.stringify(query(state.now)), chosen };
    }
    marks.pick(hit, chosen.id, chosen.name);
    say(`picked for ${chosen.name}`);
  }

  // The class one is looking at, the one chosen last for this query, the one whose name was searched for, the one that
  // the pair was retrieved for: in this order.
  function likely(hit) {
    const { classId } = state.now;
    if (classId !== null && classes.has(classId)) return { id: classId, name: name(classId) };
    const terms = query(state.now);
    if (lastPicked?.wanted === JSON.stringify(terms)) return lastPicked.chosen;
    const wanted = terms.length === 1 && terms[0].text?.trim().toLocaleLowerCase();
    const named = wanted && info.classes.find((one) => one.name.toLocaleLowerCase() === wanted);
    if (named) return named;
    const [first] = hit.class_ids ?? [];
    return first === undefined ? null : { id: first, name: name(first) };
  }

  function more(hit, added) {
    if (by("viewer").open) by("viewer").close();
    const part = { weight: 1, pair: [hit.part, hit.row], label: hit.caption || `${hit.part}/${hit.row}` };
    const parts = added ? [...finished(), part] : [part];
    state.set({ text: "", parts, classId: added ? state.now.classId : null }, { step: true });
    scrollTo({ top: 0 });
    lastGallery = null;
    focusFirst = true;
  }

  let focusFirst = false; // after "more like this" the keys go on in the new gallery
  new MutationObserver(() => {
    if (focusFirst && gallery()?.cells.length && !document.querySelector(".column.waiting")) {
      focusFirst = false;
      gallery().focus(0);
    }
  }).observe(by("results"), { subtree: true, childList: true, attributeFilter: ["class"] });

  listenToForm(info, results);
  listen({
    dialogs: [by("viewer"), by("picker"), by("keys")], viewer, inGallery: (node) => galleryOf(node) !== null, box: by("text"),
    on: {
      search: () => by("text").select(),
      help: () => by("keys").showModal(),
      leave: () => by("text").focus(),
      move: (where) => (where === "into" ? gallery()?.focus() ?? false : gallery()?.move(where)),
      turn: (step) => viewer.turn(step),
      turnClass: (step) => {
        const classId = results.facets.after(step);
        if (classId === null) return;
        state.set({ classId }, { step: true });
        focusFirst = true;
      },
      act: (action, shifted) => {
        const hit = viewer.open ? viewer.hit : gallery()?.current?.hit;
        if (hit) act(action, hit, { shifted, gallery: gallery() });
      },
    },
  });
  state.addEventListener("change", () => {
    showForm(info, name);
    results.show();
  });
  state.open();
  showForm(info, name);
  results.show();
  if (!matchMedia("(hover: none)").matches) by("text").focus();
}

function describe(info) {
  by("name").textContent = info.name;
  by("about").textContent = [
    plural(info.pairs, "pair"), info.classes.length ? plural(info.classes.length, "class", "classes") : null,
    info.model.split("/").pop(), engines(info.sides), info.pictures ? null : "no pictures here: captions and links only",
  ].filter(Boolean).join(" \u00b7 ");
  const others = info.models.map((one) => one.name).filter((name) => name !== "base");
  const both = info.sides.image && info.sides.text;
  for (const side of ["image", "text"]) document.querySelector(`[name=keys][value=${side}]`).disabled = !info.sides[side];
  document.querySelector("[name=keys][value=both]").disabled = !both;
  const alone = ["base", ...others].map((name) => new Option(others.length ? name : "one column", viewOf({ model: name, compare: "" })));
  const beside = others.map((name) => new Option(`base | ${name}`, viewOf({ compare: `model:${name}` })));
  if (both) beside.unshift(new Option("pictures | captions", viewOf({ compare: "keys" })));
  by("view").append(element("optgroup", { label: others.length ? "One model" : "Alone" }, ...alone));
  if (beside.length) by("view").append(element("optgroup", { label: "Side by side" }, ...beside));
}

// What the list of views calls a state's, and back.
const viewOf = ({ model, compare }) => (compare ? `beside ${compare}` : `alone ${model}`);

function stateOf(view) {
  const [kind, ...rest] = view.split(" ");
  const name = rest.join(" ");
  return kind === "beside" ? { compare: name, model: "base" } : { compare: "", model: name };
}

function engines(sides) {
  const kinds = new Set(Object.values(sides).filter(Boolean).map(({ engine, recall }) =>
    engine === "exact" ? "exact search" : `${engine}${recall ? `, recall ${recall.toFixed(2)}` : ""}`));
  return [...kinds].join(" / ");
}

// The typed text as a finished part, before the others that one adds.
function finished() {
  const typed = partOf(state.now.text);
  return typed ? [...state.now.parts, typed] : state.now.parts;
}

function listenToForm(info, results) {
  const written = () => ({ text: by("text").value, caption: by("caption").value, min: minimum() });
  const typed = settled(() => state.set(written()), TYPING);
  // at once, with what was written in the fields but not searched for yet; what is given as a function sees it
  const now = (patch, options) => {
    typed.cancel();
    state.set(written(), { quiet: true });
    state.set(typeof patch === "function" ? patch() : patch, options);
  };
  for (const id of ["text", "caption", "min"]) {
    by(id).addEventListener("input", () => {
      results.expectMore();
      typed();
    });
  }
  by("search").addEventListener("submit", (event) => event.preventDefault());
  by("text").addEventListener("keydown", (event) => {
    const { parts } = state.now;
    if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      if (partOf(by("text").value)) now(() => ({ parts: finished(), text: "" }), { step: true });
      return;
    }
    if (event.key !== "Backspace" || by("text").value || !parts.length) return;
    const last = parts[parts.length - 1];
    const back = last.text ? `${last.weight < 0 ? "-" : ""}${last.text}` : "";
    event.preventDefault();
    now({ parts: parts.slice(0, -1), text: back });
  });
  by("clear").addEventListener("click", () => {
    now({ text: "", parts: [], caption: "", min: null, classId: null }, { step: true });
    by("text").focus();
  });
  by("search").addEventListener("change", (event) => {
    if (event.target.name === "keys") now({ keys: event.target.value, min: null });
    if (event.target === by("view")) now(stateOf(by("view").value), { step: true });
    if (event.target === by("dedup")) now({ dedup: by("dedup").checked });
  });
  by("keys-open").addEventListener("click", () => by("keys").showModal());
  takePictures({
    choose: by("choose"), file: by("file"), drop: by("drop"), most: Math.floor((info.limits.upload - 4096) * 0.75), // as base64
    onpicture: (picture) => now(() => ({ parts: [...finished(), { weight: 1, ...picture }], text: "" }), { step: true }),
    onpair: (pair) => now(() => ({ parts: [...finished(), { weight: 1, pair, label: "" }], text: "" }), { step: true }),
    onfault: showFault,
  });
}

function minimum() {
  const value = by("min").valueAsNumber;
  return value >= -1 && value <= 1 ? value : null;
}

// The controls as the state has them; a field that says the same already keeps its cursor.
function showForm(info, name) {
  const now = state.now;
  for (const [id, value] of [["text", now.text], ["caption", now.caption]]) {
    if (by(id).value !== value) by(id).value = value;
  }
  if (minimum() !== now.min) by("min").value = now.min ?? "";
  document.querySelector(`[name=keys][value=${now.keys}]`).checked = true;
  document.querySelector(".segments").disabled = now.compare === "keys";
  by("view").value = viewOf(now);
  by("dedup").checked = now.dedup;
  by("clear").hidden = !(now.text.trim() || now.parts.length || now.classId !== null || now.caption || now.min !== null);
  by("text").placeholder = now.parts.length ? "and ..." : "Describe a picture, or drop one here";
  showChips(by("chips"), now.parts, { pictures: info.pictures, onchange: (parts) => state.set({ parts }, { step: true }) });
  const within = now.classId === null ? [] : [name(now.classId)];
  const said = [...within, ...query(now).map(({ text, pair }) => text ?? (pair ? `pair ${pair.join("/")}` : "picture"))].join(", ");
  document.title = `${said ? `${said} \u00b7 ` : ""}${info.name}`;
}

function showFault(fault) {
  by("fault").hidden = !fault;
  by("fault").textContent = fault ? fault.message : "";
  if (fault && !(fault instanceof api.Fault)) console.error(fault);
}
