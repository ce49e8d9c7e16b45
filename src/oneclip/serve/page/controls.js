// What a search is set with: chips, filters, and the cut of the relevance.

import { showThumbnail } from "./api.js";
import { formatCount, formatPercent, h, iconButton, ui } from "./dom.js";
import { droppedImage, droppedName, isDropped } from "./dropped.js";
import { SIZES, UNKNOWN } from "./query.js";
import { FILTERS } from "./state.js";

/** Return the least relevance at a position of the slider, from 0 (none) to 100; it is fine where most images are. */
export const relevanceAt = (position) => position ** 2 / 10_000;

/** Show the chips. names: of images, by SHA-256. */
export function drawChips(parts, index, names, onRemove) {
  ui.chips.replaceChildren(...parts.map(({ not, text, image: id }, i) => {
    const name = text ?? names.get(id) ?? droppedName(id) ?? "an image";
    const label = h("span", {}, name);
    const image = id && h("img", { alt: `like ${name}`, title: name, onerror: () => image.replaceWith(label) });
    if (id && !isDropped(id)) showThumbnail(image, index, id);
    else if (id) image.src = droppedImage(id);
    return h("li", { class: not ? "chip not" : "chip" }, not && h("b", {}, "not"), image || label,
      iconButton("close", `Remove ${not ? "not " : ""}${name}`, () => onRemove(i)));
  }));
}

/** Show the filters, with the choices that the index has. */
export function drawFilters(state, { folders, cameras }) {
  const counted = ({ value, count }) => [value || UNKNOWN, `${value || "unknown"} (${formatCount(count)})`];
  const choices = {
    folder: folders.map(counted).filter(([value]) => value !== UNKNOWN),
    camera: cameras.map(counted),
    size: Object.entries(SIZES).map(([value, [label]]) => [value, label]),
  };
  for (const name of FILTERS) {
    const control = ui.filters.elements[name];
    const chosen = state[name];
    if (choices[name]) {
      if (chosen && !choices[name].some(([value]) => value === chosen)) choices[name].push([chosen, chosen]);
      control.replaceChildren(...[["", "any"], ...choices[name]].map(([value, label]) => h("option", { value }, label)));
    }
    control.value = chosen;
  }
  const count = FILTERS.filter((name) => state[name]).length;
  ui.filterButton.textContent = count ? `Filters (${count})` : "Filters";
}

/** Show the least relevance. */
export function drawCut(relevance) {
  const text = relevance ? `≥ ${formatPercent(relevance)}` : "any";
  if (document.activeElement !== ui.min) ui.min.value = 100 * Math.sqrt(relevance);
  ui.min.ariaValueText = ui.minValue.textContent = text;
}
