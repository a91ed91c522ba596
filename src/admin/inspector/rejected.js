// Rejected requests, grouped by reason and client network: a wrong secret is one reason from the
// sender's network, a scan is many networks.

import * as api from "./api.js";
import { h, redraw, sent } from "./dom.js";
import { ago, number, plural, reasonWords, sentence } from "./format.js";

const PAGE = 500;
/** As many as the store keeps by default; more would say nothing new. */
const MOST = 5000;
const SHOWN = 10;
const UNSIGNED = [
  "missing_header",
  "malformed_signature",
  "malformed_timestamp",
  "malformed_token",
  "malformed_body",
  "not_allowed",
  "rate_limited",
  "duplicate_header",
];

export class RejectedPage {
  #events = new Map();
  #isLoaded = false;
  #timer = 0;

  constructor(app) {
    this.app = app;
    this.groups = h("div", { class: "cards" });
    this.element = h(
      "main",
      { class: "page", tabindex: "-1" },
      h("h1", { class: "visually-hidden" }, "Rejected requests"),
      this.groups,
    );
  }

  async show() {
    if (!this.#isLoaded) this.groups.replaceChildren(h("p", { class: "muted" }, "Loading …"));
    try {
      const found = new Map();
      let cursor = null;
      do {
        const page = await api.events({ state: "refused" }, cursor, PAGE);
        for (const event of page.events) found.set(event.id, event);
        cursor = page.next;
      } while (cursor && found.size < MOST);
      this.#events = found;
      this.#isLoaded = true;
      this.#draw();
    } catch (error) {
      this.groups.replaceChildren(h("p", { class: "note bad" }, error.message));
    }
  }

  /** Fetches what was missed while there was no stream. */
  catchUp() {
    if (this.#isLoaded) this.show();
  }

  receive(event) {
    if (!this.#isLoaded || event.state !== "refused") return;
    this.#events.set(event.id, event);
    if (!this.#timer) {
      this.#timer = setTimeout(() => {
        this.#timer = 0;
        this.#draw();
      }, 1000);
    }
  }

  #draw() {
    const groups = Map.groupBy(this.#events.values(), (event) => `${event.reason} ${event.route}`);
    const sorted = [...groups.values()].sort((a, b) => b.length - a.length);
    redraw(
      this.groups,
      sorted.length > 0
        ? sorted.map((events) => this.#group(events))
        : [
            h(
              "div",
              { class: "empty" },
              h("h2", {}, "Nothing was rejected"),
              h("p", {}, "The newest rejected requests appear here, with their reasons."),
            ),
          ],
    );
  }

  #group(events) {
    const [{ reason, route }] = events;
    const networks = [...Map.groupBy(events, ({ network }) => network ?? "unknown")]
      .map(([network, list]) => ({ network, list }))
      .sort((a, b) => b.list.length - a.list.length);
    const most = networks[0].list.length;
    const newest = (list) => list.reduce((a, b) => (a.id > b.id ? a : b));
    const row = ({ network, list }) => {
      const bar = h("i");
      bar.style.width = `${(list.length / most) * 100}%`;
      return h(
        "tr",
        {},
        sent(network, "td", { class: "mono" }),
        h("td", { class: "number" }, number(list.length)),
        h("td", { class: "bar", "aria-hidden": "true" }, bar),
        h(
          "td",
          {},
          h(
            "a",
            { href: this.app.link("events", newest(list).id, { state: "refused", route }) },
            ago(newest(list).received),
          ),
        ),
      );
    };
    const more = networks.length - SHOWN;
    return h(
      "section",
      { class: "group" },
      h(
        "div",
        {},
        h("h2", {}, sentence(reasonWords(reason ?? "unknown"))),
        h(
          "p",
          { class: "muted" },
          `${plural(events.length, "request")} to route `,
          sent(route || "none"),
          ` from ${plural(networks.length, "network")}`,
          reason ? " · " : "",
          reason && h("code", {}, reason),
        ),
      ),
      h("p", {}, pattern(reason, events, networks)),
      ...diagnoses(events),
      h(
        "table",
        { class: "networks" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Network"),
            h("th", { scope: "col", class: "number" }, "Requests"),
            h("td", { class: "bar", "aria-hidden": "true" }),
            h("th", { scope: "col", class: "newest" }, "Newest"),
          ),
        ),
        h("tbody", {}, networks.slice(0, SHOWN).map(row)),
      ),
      more > 0 && h("p", { class: "muted small" }, `and ${plural(more, "more network")}`),
    );
  }
}

/** What a group looks like, in words. */
function pattern(reason, events, networks) {
  const share = networks[0].list.length / events.length;
  if (networks.length >= 5 && share < 0.5) {
    return "Many networks with few requests each: this looks like a scan.";
  }
  if (UNSIGNED.includes(reason)) {
    return networks.length === 1
      ? "One network: a client that does not sign as the scheme defines, or a probe."
      : "Not signed as the scheme defines: probes, or clients that are not the sender.";
  }
  if (reason === "stale" || reason === "future") {
    return "Authentic, so it is the sender: compare the clocks, and look for a queue in between.";
  }
  if (reason === "bad_signature" || reason === "unknown_key" || reason === "unknown_kid") {
    return share >= 0.5 && events.length > 1
      ? "Mostly one network: if it is the sender, the secret is wrong or the body is changed in transit."
      : "If this is the sender, the secret is wrong or the body is changed in transit.";
  }
  return share >= 0.5 ? "Mostly one network." : "Several networks.";
}

/** The near misses of a group, each once, most frequent first. */
function diagnoses(events) {
  const counted = Map.groupBy(
    events.filter(({ diagnosis }) => diagnosis),
    ({ diagnosis }) => diagnosis,
  );
  const sorted = [...counted].sort(([, a], [, b]) => b.length - a.length).slice(0, 3);
  return sorted.map(([text, list]) =>
    h(
      "p",
      { class: "note warn" },
      h("strong", {}, `${plural(list.length, "request")}: `),
      sent(text),
    ),
  );
}
