// Elements, and how values are written for people. Text is always a text node, never HTML.

/** Elements of index.html by id: ui.count is the one with the id "count". */
export const ui = new Proxy({}, { get: (_, id) => document.getElementById(id) });

/** Make an element. Properties are attributes, or listeners if they begin with "on". */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child ?? false));
  return element;
}

/** Make an icon of the sprite in index.html. */
export function icon(name) {
  const [svg, use] = ["svg", "use"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  svg.classList.add("icon");
  svg.setAttribute("viewBox", "0 0 16 16");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export const button = (label, onclick, ...icons) => h("button", { type: "button", onclick }, icons, label);

export const iconButton = (name, label, onclick) =>
  h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));

/** Make a bar that is as long as a share. */
export const bar = (share) => Object.assign(h("i"), { style: `width: ${100 * share}%` });

/** Make a button that copies a path. Browsers have a clipboard only on https and on this machine. */
export function copyButton(path) {
  const copy = button("Copy path", async () => {
    const isCopied = await navigator.clipboard?.writeText(path).then(() => true, () => false);
    copy.textContent = isCopied ? "Copied" : "Select the path to copy it";
  });
  return copy;
}

/** Return a function that calls another one once, `ms` after it was last called. */
export function debounce(callback, ms) {
  let timer = 0;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(callback, ms, ...values);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

export const baseName = (path) => path.split(/[/\\]/).pop() || path;

export const formatCount = (count) => count.toLocaleString("en");

export const plural = (count, word) => `${formatCount(count)} ${word}${count === 1 ? "" : "s"}`;

export const formatDate = (taken) => (taken ?? "").slice(0, 16).replace("T", " ");

export const formatPercent = (share) =>
  share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
