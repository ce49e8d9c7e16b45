// Labels for one image, with the probability of each.

import { request } from "./api.js";
import { bar, debounce, formatPercent, h, icon } from "./dom.js";
import { droppedImage, droppedName } from "./dropped.js";

const EXAMPLES = "a cat, a dog, a person, a landscape, food, something else";

export class Labels {
  /** Make the view. onChange(labels) gets the labels, with commas between them; onPick(files) what a person picks. */
  constructor(section, { onChange, onPick, onError }) {
    this.image = h("img", { alt: "The image to label", onerror: () => (this.image.hidden = true) });
    this.name = h("span");
    const pick = h("input", { type: "file", accept: "image/*", class: "sr", onchange: () => onPick(pick.files) });
    this.input = h("input", { oninput: debounce(() => onChange(this.input.value), 200) });
    this.rows = h("ul", { role: "list", "aria-label": "Labels" });
    this.status = h("p", { role: "status", class: "soft" });
    section.append(
      h("label", { class: "zone" }, this.image, this.name, icon("image"), "Drop or paste an image, or choose one", pick),
      h("div", {}, h("label", {}, "Labels, with commas between them", this.input), this.rows, this.status));
    this.onError = onError;
  }

  /** Show an image, by id ("" for none), and the probabilities of labels, with commas between them. */
  async show(id, labels) {
    const image = id && droppedImage(id);
    this.image.hidden = !image;
    this.name.textContent = image ? droppedName(id) : "";
    if (image) this.image.src = image;
    if (document.activeElement !== this.input) this.input.value = labels || EXAMPLES;
    const list = [...new Set(this.input.value.trim().split(/\s*,\s*/).filter(Boolean))];
    this.controller?.abort();
    this.controller = new AbortController();
    this.status.textContent = "Give an image, and two labels or more.";
    this.rows.replaceChildren();
    if (!image || !list.length) return;
    try {
      const answer = await request("/v1/classify", this.controller.signal, { images: [image], labels: list });
      const found = answer.images[0].labels;
      this.rows.replaceChildren(...found.map(({ label, probability: share }) =>
        h("li", {}, label, h("span", { class: "soft" }, formatPercent(share)), h("div", {}, bar(share)))));
      this.status.textContent = `Most probable of these labels, for ${answer.model}: ${found[0].label}`;
    } catch (error) {
      if (error.param) error.message = error.message.replace(error.param, () => droppedName(id));
      this.onError(error);
    }
  }
}
