// Pictures from outside: chosen, dropped or pasted. A pair of the gallery can be dropped too.

import { Fault } from "./api.js";

const PAIR = "application/x-reactvl-pair";

// most: bytes of a file. onpicture({image, preview, label}) for a file, onpair([part, row]) for a pair, onfault(Fault).
export function takePictures({ choose, file, drop, most, onpicture, onpair, onfault }) {
  const take = async (files) => {
    const pictures = [...files].filter((one) => one.type.startsWith("image/"));
    if (!pictures.length) return onfault(new Fault("That is no picture file. Save the picture and drop the file."));
    for (const one of pictures.slice(0, 4)) {
      if (one.size > most) return onfault(new Fault(`${one.name}: ${megabytes(one.size)} are more than the ${megabytes(most)} that the server takes.`));
      onpicture(await read(one));
    }
  };
  choose.addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files);
    file.value = "";
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) {
      event.preventDefault();
      take(event.clipboardData.files);
    }
  });
  const ours = (event) => ["Files", PAIR].some((type) => event.dataTransfer?.types.includes(type));
  document.addEventListener("dragover", (event) => {
    if (!ours(event)) return;
    event.preventDefault();
    drop.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.hidden = true;
  });
  document.addEventListener("dragend", () => (drop.hidden = true));
  document.addEventListener("drop", (event) => {
    drop.hidden = true;
    if (!ours(event)) return;
    event.preventDefault();
    const pair = event.dataTransfer.getData(PAIR);
    if (pair) onpair(JSON.parse(pair));
    else take(event.dataTransfer.files);
  });
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

// The file's own bytes, as base64: the server decides what is a picture and how large it may be.
function read(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onerror = () => failed(reader.error);
    reader.onload = () => {
      const image = reader.result.slice(reader.result.indexOf(",") + 1);
      done({ image, preview: URL.createObjectURL(file), label: file.name || "picture" });
    };
    reader.readAsDataURL(file);
  });
}
