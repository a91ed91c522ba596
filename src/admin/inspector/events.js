// The list of events, with its filters, beside the event that is open.

import * as api from "./api.js";
import { h, sent } from "./dom.js";
import { Detail } from "./detail.js";
import { confirmRedeliverAll } from "./dialogs.js";
import { FIELDS, Filters, matches } from "./filters.js";
import { bytes, clock, fullTime, plural, result, sentence, state, title } from "./format.js";
import { VirtualList } from "./list.js";

const PAGE = 500;
/** A list at its top is loaded again when live events have made it this long. */
const LONGEST = 20_000;
const ID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/i;

export class EventsPage {
  #filter = {};
  #open = null;
  #next = null;
  #isLoading = false;
  #generation = 0;
  #arrived = new Map();
  #timer = 0;

  constructor(app) {
    this.app = app;
    this.detail = new Detail(app, {
      onClose: () => this.#go(null),
      onGone: (id) => this.#remove(id),
    });
    this.list = new VirtualList({
      head: h(
        "div",
        { class: "row head", role: "row", "aria-rowindex": "1" },
        ...["Received", "State", "Route", "Event ID", "Result", "Attempts", "Body"].map(
          (name, at) => h("span", { role: "columnheader", class: at > 4 && "number" }, name),
        ),
      ),
      render: (event, row) => this.#row(event, row),
      onNear: () => this.#more(),
      onUnread: (unread) => this.#setUnread(unread),
    });
    this.filters = new Filters({
      onChange: (filter) => app.go("events", this.#open, filter, { replace: true }),
    });
    this.status = h("p", { class: "muted small" });
    this.unread = h("button", {
      class: "new-rows",
      hidden: true,
      onclick: () => this.list.toTop(),
    });
    this.all = h("button", { hidden: true, onclick: () => this.#redeliverAll() });
    this.element = h(
      "main",
      { class: "split" },
      h(
        "div",
        { class: "events" },
        h("h1", { class: "visually-hidden" }, "Events"),
        this.filters.element,
        h(
          "div",
          { class: "list-status" },
          this.status,
          h("div", { class: "end" }, this.unread, this.all),
        ),
        this.list.element,
      ),
      this.detail.element,
    );
  }

  /** Shows the list with the filter of `query`, and the event `id` if there is one. */
  show(query, id) {
    const filter = Object.fromEntries(
      FIELDS.filter((name) => query.get(name)).map((name) => [name, query.get(name)]),
    );
    const isSame = this.#generation > 0 && JSON.stringify(filter) === JSON.stringify(this.#filter);
    const wasOpen = this.#open;
    this.#open = id;
    this.#filter = filter;
    if (!isSame) this.#load();
    this.filters.show(filter);
    this.element.classList.toggle("open", id !== null);
    if (id !== wasOpen) {
      this.list.refresh();
      this.detail.show(id);
      if (id === null && wasOpen) this.list.focus(this.list.index(wasOpen));
    }
  }

  /** Closes the event: a body that was shown is hidden again. */
  hide() {
    this.#open = null;
    this.detail.show(null);
  }

  /** Fetches what was missed while there was no stream. */
  async catchUp() {
    const generation = this.#generation;
    if (generation === 0) return;
    if (this.#open) this.detail.show(this.#open, { isQuiet: true });
    const page = await this.#page(null).catch(() => null);
    if (!page || generation !== this.#generation) return;
    const newest = this.list.items[0];
    const hasGap = newest && page.next && page.events.every(({ id }) => id > newest.id);
    if (hasGap) this.#load();
    else page.events.forEach((event) => this.receive(event));
  }

  /** Receives a change from the stream. */
  receive(event) {
    if (event.id === this.#open) this.detail.changed(event);
    this.#arrived.set(event.id, event);
    if (!this.#timer) this.#timer = setTimeout(() => this.#arrive(), 200);
  }

  /** Handles a key, and returns whether it did. */
  key(key) {
    if (key === "j" || key === "k") return this.#step(key === "j" ? 1 : -1);
    if (key === "/") {
      if (this.#open && this.list.element.offsetParent === null) this.#go(null);
      this.filters.focusSearch();
      return true;
    }
    if (key === "Escape" && this.#open) return this.#go(null);
    if (key === "r") {
      const focused = this.list.items[this.list.focused];
      const event = this.#open ? this.detail.event : focused;
      if (event) this.detail.redeliver(event);
      return Boolean(event);
    }
    return false;
  }

  routesChanged(routes) {
    this.filters.setRoutes(routes.map(({ name }) => name));
  }

  #go(id, options) {
    this.app.go("events", id, this.#filter, options);
    return true;
  }

  #step(by) {
    const { items } = this.list;
    if (items.length === 0) return true;
    const from = this.list.focused >= 0 ? this.list.focused : this.list.index(this.#open ?? "");
    const to = from < 0 ? 0 : Math.min(Math.max(from + by, 0), items.length - 1);
    if (this.#open) this.#go(items[to].id, { replace: true });
    this.list.focus(to);
    return true;
  }

  async #load() {
    const generation = ++this.#generation;
    this.#isLoading = true;
    this.status.textContent = "Loading …";
    try {
      const page = await this.#page(null);
      if (generation !== this.#generation) return;
      this.#next = page.next;
      this.#isLoading = false;
      this.list.reset(page.events);
      this.#describe();
    } catch (error) {
      this.#failed(generation, error);
    }
  }

  async #more() {
    if (this.#isLoading || !this.#next) return;
    const generation = this.#generation;
    this.#isLoading = true;
    try {
      const page = await this.#page(this.#next);
      if (generation !== this.#generation) return;
      this.#next = page.next;
      this.#isLoading = false;
      this.list.append(page.events);
      this.#describe();
    } catch (error) {
      this.#failed(generation, error);
    }
  }

  #failed(generation, error) {
    if (generation !== this.#generation) return;
    this.#isLoading = false;
    this.#next = null;
    this.status.textContent = `The list cannot be loaded: ${error.message}`;
  }

  /** Fetches a page. A search for the store's own ID finds that event. */
  async #page(cursor) {
    const { event } = this.#filter;
    if (!cursor && event && ID.test(event)) {
      const found = await api.event(event).catch(() => null);
      if (found) return { events: [found], next: null };
    }
    return api.events(this.#filter, cursor, PAGE);
  }

  #arrive() {
    this.#timer = 0;
    const added = [];
    for (const event of this.#arrived.values()) {
      const index = this.list.index(event.id);
      if (index >= 0) {
        Object.assign(this.list.items[index], event);
        this.list.update(event);
      } else if (this.#generation > 0 && !this.#isLoading && this.#belongs(event)) {
        added.push(event);
      }
    }
    this.#arrived.clear();
    if (added.length === 0) return;
    if (this.list.items.length > LONGEST && this.list.element.scrollTop === 0) {
      this.#load();
      return;
    }
    this.list.insert(added);
    this.#describe({ isLive: true });
  }

  /** Returns whether an event that is not in the list matches the filter and the loaded part. */
  #belongs(event) {
    const last = this.list.items.at(-1);
    return matches(this.#filter, event) && (!this.#next || !last || event.id > last.id);
  }

  #remove(id) {
    const index = this.list.index(id);
    if (index >= 0) this.list.items.splice(index, 1);
    this.list.refresh();
    this.#describe();
    this.#go(null);
  }

  #describe({ isLive = false } = {}) {
    const { length } = this.list.items;
    // A screen reader reads what a filter found, but not each arrival.
    this.status.setAttribute("aria-live", isLive ? "off" : "polite");
    const isFiltered = FIELDS.some((name) => this.#filter[name]);
    if (length === 0) {
      this.status.textContent = isFiltered
        ? "No event matches these filters."
        : "No events yet. They appear here as they arrive.";
    } else {
      this.status.textContent = this.#next
        ? `The newest ${plural(length, "event")}; scroll for more`
        : plural(length, "event");
    }
    const { state: states } = this.#filter;
    this.all.hidden = !this.app.canChange || length === 0 || !["dead", "failed"].includes(states);
    this.all.textContent = `Redeliver all ${states} …`;
  }

  #setUnread(unread) {
    this.unread.hidden = unread === 0;
    this.unread.textContent = `↑ ${plural(unread, "new event")}`;
  }

  #row(event, row) {
    row.toggleAttribute("data-open", event.id === this.#open);
    const cell = (name, child, extra = {}) =>
      h("span", { role: "cell", "data-cell": name, ...extra }, child);
    const shown = title(event);
    return [
      cell(
        "time",
        h(
          "time",
          { datetime: event.received, title: fullTime(event.received) },
          clock(event.received),
        ),
      ),
      cell("state", state(event.state)),
      cell("route", sent(event.route)),
      cell(
        "event",
        h(
          "a",
          {
            href: this.app.link("events", event.id, this.#filter),
            class: "mono sent",
            title: shown.length > 24 && shown,
          },
          shown,
        ),
      ),
      cell("result", sentence(result(event))),
      cell("attempts", String(event.attempts ?? 0), { class: "number" }),
      cell("bytes", bytes(event.bytes ?? 0), { class: "number" }),
    ];
  }

  async #redeliverAll() {
    const { route, state: states, since, until } = this.#filter;
    if (!(await confirmRedeliverAll(this.#filter))) return;
    await this.app.attempt(async () => {
      const filter = Object.fromEntries(
        Object.entries({ route, state: states, since, until }).filter(([, value]) => value),
      );
      const count = await api.redeliverAll(filter);
      this.app.say(`${sentence(plural(count, "event"))} will be delivered again.`);
    });
  }
}
