// Grid of any number of results. Only the images near the window are in the document. Results are fetched in blocks;
// until then, the height of a block is estimated.

import { cancelThumbnail } from "./api.js";
import { debounce, ui } from "./dom.js";
import { GAP, placeImages, rowHeight } from "./layout.js";

export const BLOCK = 60; // results of one request
const MARGIN = 500; // pixels above and below the window in which images are kept
const FAST = 1000; // pixels in one frame; nothing is fetched before the scrolling is slower than this
const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
const ROWS = { ArrowUp: -1, ArrowDown: 1 };

export class Grid {
  /** Make the grid of a list. makeTile(hit, number) makes an item with `image`, `load()` and `buttons`; the first opens it. */
  constructor(list, makeTile, onError) {
    Object.assign(this, { list, makeTile, onError, total: 0, blocks: [], tiles: new Map(), width: 0, view: 0 });
    this.active = 0; // number of the image that the Tab key leads to
    this.aspect = 1.2; // of an image, for estimates
    this.settle = debounce(() => this.render(true), 90);
    addEventListener("scroll", () => this.render()); // once a frame
    new ResizeObserver(() => list.clientWidth === this.width || this.change()).observe(list);
    list.addEventListener("keydown", (event) => this.onKey(event));
    list.addEventListener("focusin", (event) => this.setActive(event.target.closest("li").number));
  }

  /** Show new results: the first block, the number of all, and how to fetch others: (offset, count, signal). */
  show(hits, total, fetchBlock) {
    this.blocks.forEach((block) => block.controller?.abort());
    this.tiles.forEach((_, number) => this.remove(number));
    Object.assign(this, { total, fetchBlock, active: 0 });
    this.blocks = Array.from({ length: Math.ceil(total / BLOCK) }, (_, number) => ({ number, height: 0, top: 0 }));
    if (total) this.blocks[0].hits = hits;
    this.arrange();
    this.render(true);
  }

  /** Return a result, fetched if needed; undefined if there is none. */
  async hit(number) {
    const block = this.blocks[Math.floor(number / BLOCK)];
    return block && (await this.load(block))?.[number % BLOCK];
  }

  /** Return the number of a result that was fetched; -1 if there is none. */
  find(sha256) {
    return this.blocks.flatMap(({ hits }) => hits ?? Array(BLOCK)).findIndex((hit) => hit?.sha256 === sha256);
  }

  /** Scroll to an image and focus it. */
  async focus(number) {
    if (!(await this.hit(number))) return;
    const box = this.box(number);
    const covered = GAP + Math.max(0, ui.top.getBoundingClientRect().bottom, ui.header.getBoundingClientRect().bottom);
    const view = this.above();
    scrollBy(0, Math.min(0, box.y - view - covered) || Math.max(0, box.y + box.height + GAP - view - innerHeight));
    this.setActive(number);
    this.render(true);
    this.tiles.get(number)?.buttons[0].focus({ preventScroll: true });
  }

  /** Return the results of a block, fetched if needed; undefined on failure. */
  async load(block) {
    if (!block.hits) await (block.request ??= this.fetch(block));
    return block.hits;
  }

  async fetch(block) {
    block.controller = new AbortController();
    const offset = block.number * BLOCK;
    try {
      const hits = await this.fetchBlock(offset, BLOCK, block.controller.signal);
      if (this.blocks[block.number] !== block) return;
      this.change(() => {
        block.hits = hits;
        if (hits.length === Math.min(BLOCK, this.total - offset)) return;
        this.total = offset + hits.length; // images have disappeared
        this.blocks.length = Math.ceil(this.total / BLOCK);
      });
    } catch (error) {
      this.onError(error);
    } finally {
      block.request = block.controller = undefined;
    }
  }

  /** Make a change that moves images, and keep the first visible one where it is. */
  change(make = () => {}) {
    const view = this.above();
    const isVisible = (number) => this.box(number).y + this.box(number).height > view;
    const anchor = view > 0 ? [...this.tiles.keys()].sort((a, b) => a - b).find(isVisible) : undefined;
    const before = this.box(anchor)?.y;
    make();
    this.arrange();
    const shift = this.box(anchor)?.y - before;
    if (shift) scrollBy(0, shift);
    this.tiles.forEach((tile, number) => this.place(tile, number));
    this.render(true);
  }

  /** Compute where blocks and images are. */
  arrange() {
    const width = this.list.clientWidth;
    if (!width) return;
    let top = 0;
    for (const block of this.blocks) {
      const count = Math.min(BLOCK, this.total - block.number * BLOCK);
      if (block.hits && block.width !== width) {
        const { boxes, height, aspects } = placeImages(block.hits, width, block.number === this.blocks.length - 1);
        Object.assign(block, { boxes, height, width });
        this.aspect = aspects / count;
      } else if (!block.hits) {
        const target = rowHeight(width);
        block.height = Math.ceil((count * this.aspect * target) / width) * (target + GAP);
      }
      block.top = top;
      top += block.height;
    }
    this.width = width;
    this.list.style.height = `${top}px`;
  }

  /** Return the box of an image in the list; undefined if it was not fetched. */
  box(number) {
    const block = this.blocks[Math.floor(number / BLOCK)];
    const box = block?.boxes?.[number % BLOCK];
    return box && { ...box, y: box.y + block.top };
  }

  /** Return the pixels of the list that are above the window; negative if it begins inside the window. */
  above() {
    return -this.list.getBoundingClientRect().top;
  }

  /** Bring the document up to date with the window. */
  render(isSettled) {
    if (!this.width) return;
    const view = this.above();
    const isSlow = isSettled || Math.abs(view - this.view) < FAST;
    this.view = view;
    const [from, to] = [view - MARGIN, view + innerHeight + MARGIN];
    const wanted = new Set();
    for (const block of this.blocks) {
      if (block.top + block.height < from || block.top > to) {
        if (isSlow && block.number !== Math.floor(this.active / BLOCK)) block.controller?.abort();
        continue;
      }
      if (isSlow) this.load(block);
      block.boxes?.forEach(({ y, height }, i) => {
        if (block.top + y + height > from && block.top + y < to) wanted.add(block.number * BLOCK + i);
      });
    }
    const focused = document.activeElement.closest("li")?.number;
    for (const number of this.tiles.keys()) {
      if (!wanted.has(number) && number !== focused) this.remove(number);
    }
    wanted.forEach((number) => this.tiles.has(number) || this.add(number));
    const first = [...wanted].find((number) => this.box(number).y >= view) ?? 0;
    this.setActive(this.tiles.has(this.active) ? this.active : first);
    if (!isSlow) this.settle();
    else this.tiles.forEach((tile) => {
      tile.load?.();
      tile.load = null;
    });
  }

  add(number) {
    const tile = this.makeTile(this.blocks[Math.floor(number / BLOCK)].hits[number % BLOCK], number);
    tile.number = number;
    tile.buttons.forEach((button) => (button.tabIndex = -1));
    tile.ariaPosInSet = number + 1;
    tile.ariaSetSize = this.total;
    this.place(tile, number);
    this.tiles.set(number, tile);
    const next = [...this.list.children].find((other) => other.number > number); // the order of screen readers
    this.list.insertBefore(tile, next ?? null);
  }

  place(tile, number) {
    const { x, y, width, height } = this.box(number) ?? {};
    const transform = `translate(${x}px, ${y}px)`;
    Object.assign(tile.style, { transform, width: `${width}px`, height: `${height}px` });
  }

  remove(number) {
    const tile = this.tiles.get(number);
    cancelThumbnail(tile.image);
    tile.remove();
    this.tiles.delete(number);
  }

  /** Make one image the one that the Tab key leads to. */
  setActive(number) {
    for (const [one, tab] of [[this.active, -1], [number, 0]]) {
      this.tiles.get(one)?.buttons.forEach((button) => (button.tabIndex = tab));
    }
    this.active = number;
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const row = ROWS[event.key];
    const to = row ? this.neighbour(row) : this.active + STEPS[event.key];
    if (isNaN(to)) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.total - 1, to)));
  }

  /** Return the nearest image above (-1) or below (1) the active one; it is in the document. */
  neighbour(step) {
    const here = this.box(this.active);
    const distance = (number) => {
      const { x, y, width } = this.box(number);
      const rows = step * (y - here.y);
      return rows > 0 ? 1e4 * rows + Math.abs(x + width / 2 - here.x - here.width / 2) : Infinity;
    };
    return [...this.tiles.keys()].reduce((a, b) => (distance(b) < distance(a) ? b : a), this.active);
  }
}
