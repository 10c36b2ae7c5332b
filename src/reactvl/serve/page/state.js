// What is being looked at: the query, its filters, how it is shown. It is written to the address's hash, so that a
// view can be shared, reloaded and gone back to. Pictures from outside the pool are too large for an address: they are
// left out of it.
//
// A part of the query is {weight, text} or {weight, pair: [part, row], label} or {weight, image: base64, preview, label}.

export const START = Object.freeze({
  text: "", parts: [], keys: "image", caption: "", min: null, classId: null, dedup: true, model: "base", compare: "",
});

export class State extends EventTarget {
  constructor() {
    super();
    this.now = { ...START };
    window.addEventListener("popstate", () => this.#follow());
    window.addEventListener("hashchange", () => this.#follow());
  }

  // Change some of it. `step`: a step that the browser's Back button undoes.
  set(patch, { step = false, quiet = false } = {}) {
    this.now = { ...this.now, ...patch };
    const hash = write(this.now);
    if (hash !== location.hash.slice(1)) {
      const address = hash ? `#${hash}` : location.pathname + location.search;
      history[step ? "pushState" : "replaceState"](null, "", address);
    }
    if (!quiet) this.dispatchEvent(new Event("change"));
  }

  open() {
    this.now = read(location.hash.slice(1));
  }

  #follow() {
    if (location.hash.slice(1) === write(this.now)) return;
    this.open();
    this.dispatchEvent(new Event("change"));
    this.dispatchEvent(new Event("opened"));
  }
}

// The query as the service takes it: the finished parts and the text being typed; [] when there is none.
export function query(state) {
  const parts = state.parts.map(({ weight, text, pair, image }) =>
    pair ? { weight, pair } : image ? { weight, image } : { weight, text });
  const typed = partOf(state.text);
  return typed ? [...parts, typed] : parts;
}

// "-snow" is the text "snow" with a negative weight; null for a text with nothing in it.
export function partOf(text) {
  const found = text.trim().match(/^(?:[-\u2212]\s*)?(.*)$/su);
  if (!found[1]) return null;
  return { weight: found[0] === found[1] ? 1 : -1, text: found[1] };
}

export function write(state) {
  const hash = new URLSearchParams();
  if (state.text.trim()) hash.append("q", state.text);
  for (const { weight, text, pair } of state.parts) {
    if (pair) hash.append("pair", `${weight},${pair[0]},${pair[1]}`);
    else if (text) hash.append("text", `${weight},${text}`);
  }
  if (state.keys !== START.keys) hash.append("keys", state.keys);
  if (state.caption.trim()) hash.append("caption", state.caption);
  if (state.min !== null) hash.append("min", state.min);
  if (state.classId !== null) hash.append("class", state.classId);
  if (!state.dedup) hash.append("duplicates", "shown");
  if (state.model !== START.model) hash.append("model", state.model);
  if (state.compare) hash.append("compare", state.compare);
  return hash.toString();
}

// A hash may come from anybody's link: what is not of the right form is passed over.
export function read(text) {
  const state = { ...START, parts: [] };
  for (const [name, value] of new URLSearchParams(text)) {
    const [weight, ...rest] = value.split(",");
    const number = value.trim() === "" ? NaN : Number(value);
    if (name === "q") state.text = value;
    else if (name === "text" && weightOf(weight) && rest.join(",").trim()) {
      state.parts.push({ weight: weightOf(weight), text: rest.join(",") });
    } else if (name === "pair" && weightOf(weight) && rest.length === 2 && rest.every((one) => /^\d{1,15}$/.test(one))) {
      state.parts.push({ weight: weightOf(weight), pair: rest.map(Number), label: "" });
    } else if (name === "keys" && ["image", "text", "both"].includes(value)) state.keys = value;
    else if (name === "caption") state.caption = value;
    else if (name === "min" && number >= -1 && number <= 1) state.min = number;
    else if (name === "class" && /^\d{1,9}$/.test(value)) state.classId = Number(value);
    else if (name === "duplicates") state.dedup = value !== "shown";
    else if (name === "model" && value) state.model = value;
    else if (name === "compare" && (value === "keys" || value.startsWith("model:"))) state.compare = value;
  }
  return state;
}

function weightOf(text) {
  const weight = Number(text);
  return Number.isFinite(weight) && Math.abs(weight) <= 10 ? weight : 0;
}
