// The request of a search, made from the state of the page.

import { droppedImage, isDropped } from "./dropped.js";

export const SIZES = {
  small: ["below 0.3 megapixels", "megapixels < 0.3"],
  1: ["1 megapixel or more", "megapixels >= 1"],
  12: ["12 megapixels or more", "megapixels >= 12"],
};
export const UNKNOWN = "?"; // camera of images without one

const quote = (text) => `"${text.replaceAll('"', '""')}"`;

/** Return the filter expression of a state; "" if nothing is filtered. */
export function whereOf({ from, to, folder, camera, size }) {
  return [
    from && `taken_at >= ${quote(from)}`,
    to && `taken_at <= ${quote(to)}`,
    folder && `(folder = ${quote(folder)} or path ~ ${quote(`${folder}/`)})`,
    camera && (camera === UNKNOWN ? "camera is empty" : `camera = ${quote(camera)}`),
    SIZES[size]?.[1],
  ].filter(Boolean).join(" and ");
}

/** Return typed words as a part of the query, in a list; "-words" excludes them. */
export function typedPart(typed) {
  const text = typed.trim().replace(/^-\s*/, "");
  return text ? [{ text, not: typed.trim().startsWith("-") }] : [];
}

/** Return the parts of a query: the chips, and the words that are being typed. */
export const partsOf = (state) => [...state.parts, ...typedPart(state.q)];

/** Return whether something is looked for. Without, all images are listed, and nothing can be excluded. */
export const isQuery = (state) => partsOf(state).some((part) => !part.not);

export const hasTexts = (state) => isQuery(state) && partsOf(state).some((part) => part.text);

const select = (state, not, kind) => partsOf(state).filter((part) => part.not === not && part[kind])
  .map((part) => part[kind]);

/** Return the words that are looked for as one text, without their weights. */
export const wordsOf = (state) => select(state, false, "text").map((text) => text.replace(/^[\d.]+:/, "")).join(", ");

/** Return the body of the request. */
export function searchBody(state) {
  const images = (not) => select(state, not, "image").map((id) => (isDropped(id) ? droppedImage(id) : { sha256: id }));
  return {
    query: select(state, false, "text"),
    like: images(false),
    not: isQuery(state) ? [...select(state, true, "text"), ...images(true)] : undefined,
    where: whereOf(state) || undefined,
    sort: state.sort || undefined,
    min_relevance: state.min && hasTexts(state) ? Number(state.min) : undefined,
    index: state.index || undefined,
  };
}
