// The keys of the page. Nothing is taken from a field in which one writes, nor from the browser's own combinations.

const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

// on: the functions that the keys call: search(), help(), act(name, shifted), move(where), leave(), turn(by), turnClass(by);
// viewer: whether a pair is open; inGallery(): whether a pair has the focus.
export function listen({ dialogs, viewer, inGallery, box, on }) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const other = dialogs.some((dialog) => dialog.open && dialog !== viewer.dialog);
    if (other) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (viewer.open) {
      if (acted(key, event, on) || (ARROWS[key] && turned(key, on))) event.preventDefault();
      return;
    }
    if (writing(event.target)) {
      if (event.target === box && key === "ArrowDown" && on.move("into")) event.preventDefault();
      return;
    }
    const taken = inGallery(event.target) ? walked(key, event, on) : false;
    if (taken || general(key, event, on)) event.preventDefault();
  });
}

function general(key, event, on) {
  if (key === "/") on.search();
  else if (key === "?") on.help();
  else if (key === "[" || key === "]") on.turnClass(key === "]" ? 1 : -1);
  else return false;
  return true;
}

function walked(key, event, on) {
  if (ARROWS[key]) return on.move(ARROWS[key]) || true;
  if (key === "Escape") return on.leave() || true;
  // on a pair's own buttons and links, Enter is theirs
  if (key === "Enter" && !event.target.closest("button, a")) return on.act("open", false) || true;
  return acted(key, event, on);
}

function acted(key, event, on) {
  const action = { x: "wrong", p: "pick", m: "more" }[key];
  if (!action || event.repeat) return false;
  on.act(action, event.shiftKey);
  return true;
}

function turned(key, on) {
  on.turn(["ArrowRight", "ArrowDown"].includes(key) ? 1 : -1);
  return true;
}

function writing(target) {
  return target.matches("textarea, select, input:not([type=radio], [type=checkbox], [type=file])");
}
