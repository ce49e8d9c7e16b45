// Groups of equal and similar images, the best copy first. Nothing is deleted from here.

import { request, showThumbnail } from "./api.js";
import { baseName, copyButton, formatCount, formatDate, h, plural } from "./dom.js";

const KINDS = { bytes: "same file", pixels: "same image", near: "alike" };
const AT_ONCE = 40; // groups that are added when the end comes near

export class Duplicates {
  constructor(section) {
    this.count = h("p", { role: "status" });
    this.list = h("ol", { role: "list" });
    const end = h("div");
    section.append(this.count, this.list, end);
    new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.more(), { rootMargin: "800px" }).observe(end);
  }

  /** Find and show the duplicates of an index. */
  async show(index) {
    this.controller?.abort();
    this.controller = new AbortController();
    this.groups = [];
    this.list.replaceChildren();
    this.count.textContent = "Comparing images …";
    const path = `/v1/indexes/${encodeURIComponent(index)}/duplicates`;
    Object.assign(this, await request(path, this.controller.signal), { index });
    this.count.textContent = `${plural(this.groups.length, "group")} of images that are equal or look alike`;
    this.more();
  }

  more() {
    const shown = this.list.children.length;
    this.list.append(...(this.groups ?? []).slice(shown, shown + AT_ONCE)
      .map(({ files }) => h("li", {}, h("ul", { role: "list" }, files.map((file, i) => this.file(file, i))))));
  }

  file({ path, kind, similarity, sha256, bytes, width, height, taken_at: taken }, i) {
    const name = baseName(path);
    const image = h("img", { alt: `Images like ${name}`, onerror: () => image.replaceWith(`${name} cannot be read`) });
    showThumbnail(image, this.index, sha256);
    return h("li", {},
      h("a", { class: "frame", href: `?index=${encodeURIComponent(this.index)}&like=${sha256}` }, image),
      h("p", { class: i ? null : "best" }, i ? KINDS[kind] : "best copy",
        kind === "near" && ` (${similarity.toFixed(3)})`),
      h("p", {}, path),
      h("p", { class: "soft" }, `${width} × ${height} · ${formatCount(Math.ceil(bytes / 1000))} kB ${formatDate(taken)}`),
      copyButton(path));
  }
}
