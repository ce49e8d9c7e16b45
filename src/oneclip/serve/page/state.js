// State of the page: it is the address, so that back, forward and bookmarks work.

export const FILTERS = ["from", "to", "folder", "camera", "size"];
const FIELDS = ["view", "index", "q", ...FILTERS, "min", "sort", "labels", "image", "open"];
const PARTS = { and: "text", not: "text", like: "image", unlike: "image" };

/** Read an address: fields as text, "" if not given, and the parts of the query besides `q`. */
export function readState(search) {
  const parameters = new URLSearchParams(search);
  const state = Object.fromEntries(FIELDS.map((field) => [field, parameters.get(field) ?? ""]));
  state.parts = [...parameters].filter(([name, value]) => PARTS[name] && value)
    .map(([name, value]) => ({ not: name === "not" || name === "unlike", [PARTS[name]]: value }));
  return state;
}

/** Return the address of a state. */
export function address(state) {
  const parameters = new URLSearchParams(FIELDS.filter((field) => state[field]).map((field) => [field, state[field]]));
  for (const { not, text, image } of state.parts) {
    if (image) parameters.append(not ? "unlike" : "like", image);
    else parameters.append(not ? "not" : "and", text);
  }
  return `?${parameters}`;
}
