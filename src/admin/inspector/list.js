// A virtual list: of any number of rows, only those near the visible part are in the document.

import { h } from "./dom.js";

/** How many rows are rendered above and below the visible part. */
const OVERSCAN = 12;

/**
 * A scrolling list of `items`, each with an `id`, newest first. `render(item)` returns the cells of
 * a row. `onNear` is called when the last rows come near.
 */
export class VirtualList {
  #items = [];
  #rendered = new Map();
  #scheduled = false;
  #isPointing = false;
  #unread = 0;

  constructor({ head, render, onNear, onUnread }) {
    this.render = render;
    this.onNear = onNear;
    this.onUnread = onUnread;
    this.rows = h("div", { class: "rows", role: "rowgroup" });
    this.element = h(
      "div",
      { class: "table", role: "table", "aria-label": "Events", tabindex: "0" },
      head,
      this.rows,
    );
    this.element.addEventListener(
      "scroll",
      () => {
        if (this.element.scrollTop === 0) this.#setUnread(0);
        this.schedule();
      },
      { passive: true },
    );
    this.element.addEventListener("pointerenter", () => (this.#isPointing = true));
    this.element.addEventListener("pointerleave", () => (this.#isPointing = false));
    new ResizeObserver(() => this.#resized()).observe(this.element);
  }

  get items() {
    return this.#items;
  }

  /** The index of the row with the focus, or -1. */
  get focused() {
    const row = document.activeElement?.closest?.(".row[data-index]");
    return row && this.rows.contains(row) ? Number(row.dataset.index) : -1;
  }

  /** Replaces everything and scrolls to the top. */
  reset(items) {
    this.#items = items;
    this.#setUnread(0);
    this.element.scrollTop = 0;
    this.refresh();
  }

  append(items) {
    this.#items.push(...items);
    this.refresh();
  }

  /**
   * Inserts items that are newer than the others or between them. What is being read does not
   * move: at the top, they appear only while neither the pointer nor the focus is in the list.
   */
  insert(items) {
    const height = this.#rowHeight();
    const top = this.element.scrollTop;
    const first = Math.floor(top / height);
    let above = 0;
    for (const item of items) {
      const index = this.#place(item.id);
      if (index <= first + above) above += 1;
      this.#items.splice(index, 0, item);
    }
    const isRead = top > 0 || this.#isPointing || this.focused >= 0;
    this.#resize(height);
    if (above > 0 && isRead) {
      this.element.scrollTop = top + above * height;
      this.#setUnread(this.#unread + above);
    }
    this.refresh();
  }

  /** Renders all visible rows again. */
  refresh() {
    for (const row of this.#rendered.values()) row.stale = true;
    this.draw();
  }

  /** Renders one row again, if it is visible. */
  update(item) {
    const row = this.#rendered.get(item.id);
    if (!row) return;
    row.stale = true;
    this.schedule();
  }

  index(id) {
    const index = this.#place(id);
    return this.#items[index]?.id === id ? index : -1;
  }

  /** Focuses a row and makes it visible. */
  focus(index) {
    const item = this.#items[index];
    if (!item) return;
    const height = this.#rowHeight();
    const head = this.element.firstElementChild.offsetHeight;
    const [top, bottom] = [index * height, (index + 1) * height + head];
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (bottom > this.element.scrollTop + this.element.clientHeight) {
      this.element.scrollTop = bottom - this.element.clientHeight;
    }
    this.draw(item.id);
    this.#rendered.get(item.id)?.element.querySelector("a")?.focus({ preventScroll: true });
  }

  toTop() {
    this.element.scrollTop = 0;
    this.#setUnread(0);
  }

  schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.draw();
    });
  }

  /** Brings the rendered rows up to date. The focused row, and `also`, are always rendered. */
  draw(also) {
    const height = this.#rowHeight();
    if (!height) return;
    this.#resize(height);
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / height) - OVERSCAN);
    const last = Math.min(
      this.#items.length,
      Math.ceil((scrollTop + clientHeight) / height) + OVERSCAN,
    );
    const wanted = new Map();
    for (let index = first; index < last; index += 1) wanted.set(this.#items[index].id, index);
    const kept = document.activeElement?.closest?.(".row[data-index]")?.dataset.id;
    for (const id of [kept, also]) {
      const index = id === undefined ? -1 : this.index(id);
      if (index >= 0) wanted.set(id, index);
    }
    for (const [id, row] of this.#rendered) {
      if (wanted.has(id)) continue;
      row.element.remove();
      this.#rendered.delete(id);
    }
    for (const [id, index] of wanted) this.#show(id, index, height);
    if (last > this.#items.length - 2 * OVERSCAN) this.onNear();
  }

  #show(id, index, height) {
    let row = this.#rendered.get(id);
    if (!row) {
      row = { element: h("div", { class: "row", role: "row", "data-id": id }), stale: true };
      this.#rendered.set(id, row);
      this.rows.append(row.element);
    }
    if (row.stale) {
      const hadFocus = row.element.contains(document.activeElement);
      row.element.replaceChildren(...this.render(this.#items[index], row.element));
      if (hadFocus) row.element.querySelector("a")?.focus({ preventScroll: true });
      row.stale = false;
    }
    row.element.dataset.index = index;
    row.element.setAttribute("aria-rowindex", index + 2);
    row.element.style.transform = `translateY(${index * height}px)`;
  }

  #resized() {
    // The height of rows depends on the width: the row at the top stays there.
    const before = this.height;
    const height = this.#rowHeight();
    if (before && height && before !== height) {
      this.#resize(height);
      this.element.scrollTop = Math.round((this.element.scrollTop / before) * height);
    }
    this.height = height;
    this.draw();
  }

  #resize(height) {
    const text = `${this.#items.length * height}px`;
    if (this.rows.style.height !== text) this.rows.style.height = text;
    this.element.setAttribute("aria-rowcount", this.#items.length + 1);
  }

  #rowHeight() {
    return Number.parseFloat(getComputedStyle(this.rows).getPropertyValue("--row"));
  }

  #setUnread(unread) {
    if (unread === this.#unread) return;
    this.#unread = unread;
    this.onUnread(unread);
  }

  /** The index at which an item with this ID is, or belongs: IDs sort by time, newest first. */
  #place(id) {
    let [low, high] = [0, this.#items.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#items[middle].id > id) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
