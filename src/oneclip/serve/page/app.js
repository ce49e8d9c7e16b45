// The page: connects its state, which is the address, with the views and with the server.

import { isAbort, request, showThumbnail } from "./api.js";
import { drawChips, drawCut, drawFilters, relevanceAt } from "./controls.js";
import { bar, baseName, button, debounce, formatCount, formatPercent, h, icon, iconButton, plural, ui } from "./dom.js";
import { droppedImage, droppedName, isDropped, takeImage } from "./dropped.js";
import { Duplicates } from "./duplicates.js";
import { BLOCK, Grid } from "./grid.js";
import { Labels } from "./labels.js";
import { hasTexts, isQuery, partsOf, searchBody, typedPart, whereOf, wordsOf } from "./query.js";
import { address, FILTERS, readState } from "./state.js";
import { Viewer, whyButton } from "./viewer.js";

const DELAY_MS = 120; // after the last letter
const POLL_MS = { updating: 1000, idle: 20_000 };

let state = readState(location.search);
let indexes = [];
let shown = null; // request of the images that are shown, as text
let wanted = null; // request that is in progress
let controller = new AbortController();
let isStarted = false;
let openNumber = -1; // of the image in the full view
const names = new Map(); // SHA-256 to file name

const currentIndex = () => indexes.find(({ name }) => name === state.index) ?? indexes[0];
const listen = (id, type, listener) => ui[id].addEventListener(type, listener);
const noFilters = () => Object.fromEntries(FILTERS.map((name) => [name, ""]));

function showError(error) {
  if (isAbort(error)) return;
  ui.error.hidden = false;
  ui.error.textContent = error.message;
}

// navigation

/** Change the state. Changes of one kind that follow each other, such as typing, are one step of the history. */
function navigate(change, { kind, replace } = {}) {
  const next = { ...state, ...change };
  if (address(next) === address(state)) return;
  const isSame = replace || (kind && history.state?.kind === kind);
  history.replaceState({ ...history.state, scroll: scrollY }, "");
  const entry = { kind, isOpened: replace ? history.state.isOpened : Boolean(change.open) };
  history[isSame ? "replaceState" : "pushState"](entry, "", address(next));
  state = next;
  draw();
}

function draw(scroll) {
  ui.error.hidden = true;
  drawUpdate();
  const view = indexes.length ? state.view : "labels";
  for (const link of ui.views.children) {
    link.href = address({ ...readState(""), index: state.index, view: link.dataset.view });
    link.ariaCurrent = link.dataset.view === view ? "page" : null;
  }
  ui.search.hidden = ui.tools.hidden = ui.grid.hidden = view !== "";
  ui.duplicates.hidden = view !== "duplicates";
  ui.labels.hidden = view !== "labels";
  if (view === "") {
    const parts = state.parts.filter(({ image }) => !isDropped(image) || droppedImage(image));
    if (parts.length < state.parts.length) {
      navigate({ parts }, { replace: true });
      showError(new Error("One image of this search was dropped in another tab; drop it again."));
      return;
    }
    drawSearch();
    search(scroll);
    return;
  }
  ui.empty.hidden = indexes.length > 0;
  ui.empty.replaceChildren("To search a folder: ", h("code", {}, "oneclip serve --index FOLDER"));
  viewer.hide();
  if (view === "labels") labels.show(state.image, state.labels);
  else duplicates.show(currentIndex().name).catch(showError);
}

function drawSearch() {
  const parts = partsOf(state);
  if (ui.q.value.trim() !== state.q) ui.q.value = state.q;
  ui.q.placeholder = state.parts.length ? "Add words" : "Search by words or by an image";
  drawChips(state.parts, currentIndex().name, names, (i) => {
    navigate({ parts: state.parts.toSpliced(i, 1) });
    ui.q.focus();
  });
  drawFilters(state, currentIndex().facets);
  ui.sort.disabled = !isQuery(state);
  ui.sort.value = isQuery(state) ? state.sort : "date";
  ui.relevance.hidden = !hasTexts(state);
  drawCut(Number(state.min));
  ui.indexField.hidden = indexes.length < 2;
  ui.index.replaceChildren(...indexes.map(({ name }) => h("option", { value: name }, name)));
  ui.index.value = currentIndex().name;
  document.title = [...parts.map(({ not, text }) => (not ? "not " : "") + (text ?? "an image")), "OneCLIP"].join(" · ");
}

// search

async function search(scroll = 0) {
  const body = searchBody(state);
  const key = JSON.stringify(body);
  if (key === wanted) return;
  controller.abort();
  wanted = ui.grid.ariaBusy = null;
  if (!currentIndex().is_ready) return drawCounts({ total: 0 });
  if (key === shown) return drawOpen();
  wanted = key;
  controller = new AbortController();
  const fetchPage = async (offset, top, signal) => {
    const page = await request("/v1/search", signal, { ...body, offset, top });
    page.results.forEach(({ sha256, path }) => names.set(sha256, baseName(path)));
    return page;
  };
  ui.grid.ariaBusy = "true";
  try {
    const answer = await fetchPage(0, BLOCK, controller.signal);
    if (wanted !== key) return;
    shown = key;
    grid.show(answer.results, answer.total, async (...range) => (await fetchPage(...range)).results);
    scrollTo(0, scroll);
    if (!state.open) openNumber = 0;
    drawCounts(answer);
    await drawOpen();
  } catch (error) {
    if (!removeRefused(error, body)) showError(error);
  }
  if (wanted === key) wanted = ui.grid.ariaBusy = null;
}

/** Remove the chip of an image that was given and that the server cannot read; return whether it was that. */
function removeRefused({ param, message }, body) {
  const [, list, i] = /^(like|not)\[(\d+)\]/.exec(param) ?? [];
  const refused = body[list]?.[i];
  const at = state.parts.findIndex(({ image }) => isDropped(image) && droppedImage(image) === refused);
  if (at < 0) return false;
  const name = droppedName(state.parts[at].image);
  navigate({ parts: state.parts.toSpliced(at, 1) }, { replace: true });
  showError(new Error(message.replace(param, () => name)));
  return true;
}

function drawCounts({ total, hidden }) {
  ui.count.textContent = [
    plural(total, "image"),
    !isQuery(state) && (state.parts.length ? "add words or an image to exclude something" : "newest first"),
    hidden && `${formatCount(hidden)} hidden: too little relevance`,
  ].filter(Boolean).join(" · ");
  ui.empty.hidden = total > 0;
  if (total) return;
  const change = (label, values) => button(label, () => navigate(values));
  let advice = ["There are no images yet", "Put some into the folder of the index."];
  if (hidden) advice = ["No image is as relevant as that", change("Show the others", { min: "" })];
  else if (whereOf(state)) advice = ["No image matches the filters", change("Clear the filters", noFilters())];
  else if (!currentIndex().is_ready) advice = ["The images are being indexed", "They appear here when that is done."];
  ui.empty.replaceChildren(h("h2", {}, advice[0]), advice[1]);
}

const grid = new Grid(ui.grid, makeTile, showError);

function makeTile({ path, sha256, relevance }, number) {
  const name = baseName(path);
  const percent = relevance === null ? "" : formatPercent(relevance);
  const onerror = () => image.replaceWith(`${name} cannot be read`);
  const image = h("img", { alt: "", onload: () => tile.classList.add("loaded"), onerror });
  const open = h("button", {
    class: "open",
    "aria-label": percent ? `${name}, ${percent} relevant` : name,
    onclick: () => moveTo(number),
  }, image);
  const actions = [
    iconButton("like", `More like ${name}`, () => like(sha256)),
    iconButton("minus", `Not like ${name}`, () => addImage(sha256, true)),
  ];
  const tile = h("li", {}, open, h("div", { "aria-hidden": "true" }, h("span", {}, name), percent),
    percent && bar(relevance), h("span", { class: "actions" }, actions));
  const index = currentIndex().name;
  return Object.assign(tile, { image, buttons: [open, ...actions], load: () => showThumbnail(image, index, sha256) });
}

const like = (image) => navigate({ q: "", parts: [{ not: false, image }], sort: "", open: "" });
const addImage = (image, not) => navigate({ parts: [...state.parts, { not, image }], view: "", open: "" });

// full view

const viewer = new Viewer({
  onMove: (step) => moveTo(openNumber + step),
  onClose: () => (history.state?.isOpened ? history.back() : navigate({ open: "" }, { replace: true })),
  actions: ({ sha256 }) => [
    button("More like this", () => like(sha256), icon("like")),
    button("Add to the search", () => addImage(sha256, false)),
    button("Exclude", () => addImage(sha256, true)),
    wordsOf(state) && whyButton({ image: { sha256 }, texts: [wordsOf(state)], index: currentIndex().name }),
  ],
});

/** Open an image, or show it in place of the open one. */
async function moveTo(number) {
  const hit = await grid.hit(number);
  if (!hit) return;
  openNumber = number;
  if (hit.sha256 === state.open) drawOpen(); // a copy of the one before
  else navigate({ open: hit.sha256 }, { replace: Boolean(state.open) });
}

/** Open or close the full view, as the state says. */
async function drawOpen() {
  if (!state.open) {
    if (viewer.hide()) await grid.focus(openNumber);
    return;
  }
  let hit = await grid.hit(openNumber);
  if (hit?.sha256 !== state.open) {
    openNumber = grid.find(state.open);
    hit = await grid.hit(openNumber);
  }
  if (hit) viewer.show(hit, currentIndex().name, openNumber, grid.total);
  else navigate({ open: "" }, { replace: true });
}

// other views

const duplicates = new Duplicates(ui.duplicates);
const labels = new Labels(ui.labels, {
  onChange: (text) => navigate({ labels: text }, { kind: "labels" }),
  onPick: useImage,
  onError: showError,
});

/** Search by an image that a person gives, or label it. */
async function useImage(files) {
  try {
    const id = await takeImage(files);
    if (ui.labels.hidden) addImage(id, false);
    else navigate({ image: id });
  } catch (error) {
    showError(error);
  }
}

// inputs

const searchLater = debounce(() => navigate({ q: ui.q.value.trim() }, { kind: "typing" }), DELAY_MS);
const cutLater = debounce((min) => navigate({ min: min ? String(min) : "" }, { kind: "cut" }), DELAY_MS);

/** Make a chip of the typed words; a click excludes them. */
function addTyped(event) {
  event.preventDefault();
  searchLater.cancel();
  const [part] = typedPart(ui.q.value);
  ui.q.value = "";
  ui.q.focus();
  if (!part) return;
  const parts = [...state.parts, { ...part, not: event.type === "click" || part.not }];
  navigate({ q: "", parts }, { replace: history.state?.kind === "typing" });
}

listen("q", "input", searchLater);
listen("q", "keydown", ({ key }) => {
  if (key === "Backspace" && !ui.q.value) navigate({ parts: state.parts.slice(0, -1) });
  else if (key === "ArrowDown") grid.focus(0);
});
listen("search", "submit", addTyped);
listen("exclude", "click", addTyped);
listen("pick", "change", async () => {
  await useImage(ui.pick.files);
  ui.pick.value = "";
});
for (const id of ["sort", "index"]) listen(id, "change", () => navigate({ [id]: ui[id].value }));
listen("min", "input", () => {
  const min = relevanceAt(ui.min.value);
  drawCut(min);
  cutLater(min);
});
listen("filters", "change", ({ target: { name, value } }) => navigate({ [name]: value }, { kind: name }));
listen("filters", "reset", (event) => {
  event.preventDefault();
  navigate(noFilters());
});

addEventListener("popstate", () => {
  searchLater.cancel();
  state = readState(location.search);
  draw(history.state?.scroll);
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select") || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  ui.q.select();
});
for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    ui.drop.hidden = type === "drop" || (type === "dragleave" && !event.relatedTarget);
    if (type === "drop") useImage(event.dataTransfer.files);
  });
}
addEventListener("paste", ({ clipboardData: { files } }) => files.length && useImage(files));

// indexing

/** Show the progress of a first indexing, and why results may be out of date. */
function drawUpdate() {
  const index = currentIndex();
  if (!index) return;
  const { problem, done, total } = index.update;
  const lost = index.roots.find((root) => !root.is_reachable);
  let notice = "";
  if (lost) notice = `The folder ${lost.path} cannot be reached; results may be out of date.`;
  else if (problem) notice = `The index is not up to date: ${problem}`;
  else if (!index.is_ready) notice = `Indexing images: ${formatCount(done)} of ${total ? formatCount(total) : "many"}`;
  ui.notice.textContent = notice;
}

/** Look at the indexes, and show new images where nobody is looking at others. */
async function look() {
  const before = currentIndex();
  ({ indexes } = await request("/v1/indexes"));
  const index = currentIndex();
  drawUpdate();
  const isNew = index?.updated_at !== before?.updated_at || index?.is_ready !== before?.is_ready;
  if (isStarted && (!isNew || state.view || state.open || scrollY > 100)) return;
  isStarted = true;
  shown = null;
  draw(history.state?.scroll);
}

async function keepLooking() {
  await look().catch(() => {}); // the next search says it
  setTimeout(keepLooking, currentIndex()?.update.is_updating ? POLL_MS.updating : POLL_MS.idle);
}

history.scrollRestoration = "manual";
for (const element of document.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
look().then(() => {
  ui.views.hidden = !indexes.length;
  setTimeout(keepLooking, POLL_MS.updating);
}, showError);
