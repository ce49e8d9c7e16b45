// Full view of one image: the image, its facts, and what to do with it.

import { cancelThumbnail, request, showThumbnail } from "./api.js";
import { baseName, button, copyButton, formatCount, formatDate, formatPercent, h, ui } from "./dom.js";

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
const isThisMachine = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(location.hostname);

export class Viewer {
  /** Make the view. onMove(step) and onClose() ask for another image, or the end; actions(hit) makes buttons. */
  constructor({ onMove, onClose, actions }) {
    this.actions = actions;
    ui.close.addEventListener("click", onClose);
    ui.previous.addEventListener("click", () => onMove(-1));
    ui.next.addEventListener("click", () => onMove(1));
    ui.viewer.addEventListener("close", () => this.hit && onClose()); // by the browser, with Escape
    ui.viewer.addEventListener("keydown", (event) => {
      if (!STEPS[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      onMove(STEPS[event.key]);
    });
    ui.large.addEventListener("load", () => ui.large.classList.add("loaded"));
    ui.large.addEventListener("error", () => (ui.problem.hidden = false));
  }

  /** Show an image: result `number` of `total`. */
  show(hit, index, number, total) {
    if (this.hit === hit) return;
    this.hit = hit;
    ui.problem.hidden = ui.map.hidden = true;
    ui.large.classList.remove("loaded");
    for (const image of [ui.small, ui.large, ui.map]) {
      Object.assign(image, { width: hit.width, height: hit.height });
      image.removeAttribute("src");
    }
    showThumbnail(ui.small, index, hit.sha256);
    showThumbnail(ui.large, index, hit.sha256, 1600);
    ui.large.alt = ui.name.textContent = baseName(hit.path);
    ui.position.textContent = `${formatCount(number + 1)} of ${formatCount(total)}`;
    ui.previous.disabled = number === 0;
    ui.next.disabled = number >= total - 1;
    ui.facts.replaceChildren(...facts(hit));
    ui.actions.replaceChildren(...this.actions(hit).filter(Boolean));
    ui.path.replaceChildren(
      h("code", {}, hit.path), h("div", { class: "buttons" }, copyButton(hit.path), fileLink(hit.path)));
    if (!ui.viewer.open) ui.viewer.showModal();
    if (!ui.viewer.contains(document.activeElement)) ui.close.focus(); // it was on a button that was replaced
  }

  /** Close the view; returns whether it was shown. */
  hide() {
    const wasShown = Boolean(this.hit);
    this.hit = null;
    [ui.small, ui.large].forEach(cancelThumbnail);
    ui.viewer.close();
    return wasShown;
  }
}

/** Make a button that shows and hides where the image is like a text. */
export function whyButton(body) {
  let map;
  const why = button("Why?", async () => {
    why.ariaBusy = "true";
    try {
      map ??= (await request("/v1/explain", null, body)).maps[0].overlay;
      if (!why.isConnected) return; // another image is shown
      ui.map.src = map;
      why.ariaPressed = !ui.map.toggleAttribute("hidden");
    } catch (error) {
      why.textContent = error.message;
    }
    why.ariaBusy = null;
  });
  return why;
}

function facts({ relevance, score, taken_at: taken, camera, width, height, latitude, longitude }) {
  const rows = {
    Relevance: relevance !== null && formatPercent(relevance),
    Score: score !== null && score.toFixed(3),
    Taken: formatDate(taken),
    Camera: camera,
    Size: `${width} × ${height}`,
    Place: latitude !== null && `${latitude.toFixed(5)}, ${longitude.toFixed(5)}`,
  };
  return Object.entries(rows).filter(([, value]) => value)
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
}

/** Make a link to a file, where the browser is on the same machine. */
function fileLink(path) {
  return isThisMachine && path.isWellFormed?.() !== false && h("a", {
    class: "button",
    href: `file:///${encodeURI(path.replaceAll("\\", "/").replace(/^\//, "")).replace(/[?#]/g, encodeURIComponent)}`,
    title: "Browsers may not follow it: copy its address",
  }, "Link to the file");
}
