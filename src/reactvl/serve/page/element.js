// Making elements. Text enters the page only as text: there is no way here to give markup.

// element("a.soft", {href, "aria-label"}, "text", child): the class after a dot, attributes by name, functions as listeners.
// Of aria-* true and false are written out; elsewhere true stands for presence.
export function element(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag);
  made.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true && !name.startsWith("aria-") ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const number = (value) => value.toLocaleString("en");
export const plural = (many, one, more = `${one}s`) => `${number(many)} ${many === 1 ? one : more}`;
export const score = (value) => (value === null || value === undefined ? "\u2013" : value.toFixed(3));

// An address from the pool's data, only where it is one of the web: `javascript:` and the like are no links.
export function webAddress(text) {
  try {
    const address = new URL(text);
    return ["http:", "https:"].includes(address.protocol) ? address : null;
  } catch {
    return null;
  }
}

// A function that runs once its calls have paused for `wait` milliseconds.
export function settled(work, wait) {
  let timer = 0;
  const later = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
