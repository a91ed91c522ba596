// One event: what arrived, what was verified, what the handler responded, and what can be done.

import * as api from "./api.js";
import { BodyView } from "./body.js";
import { asCurl, asRequest, copy, hasRedacted } from "./copy.js";
import { confirmExport, confirmForget, confirmRedeliver } from "./dialogs.js";
import { h, sent } from "./dom.js";
import { facts, signed, timeline, why } from "./facts.js";
import { ago, state, title } from "./format.js";

export class Detail {
  #id = null;
  #generation = 0;
  #timer = 0;

  constructor(app, { onClose, onGone }) {
    this.app = app;
    this.onClose = onClose;
    this.onGone = onGone;
    this.event = null;
    this.element = h("article", {
      class: "detail",
      hidden: true,
      tabindex: "0",
      "aria-label": "Event",
    });
  }

  /** Shows the event `id`, or nothing. A quiet call keeps what is shown until the event is here. */
  async show(id, { isQuiet = false } = {}) {
    this.#id = id;
    const generation = ++this.#generation;
    this.element.hidden = id === null;
    if (id === null || !isQuiet) this.event = null;
    if (id === null) {
      this.element.replaceChildren();
      return;
    }
    try {
      const event = await api.event(id);
      if (generation !== this.#generation) return;
      if (this.event?.id === event.id) this.#refresh(event);
      else this.#build(event);
    } catch (error) {
      if (generation !== this.#generation || isQuiet) return;
      const text =
        error.status === 404
          ? "It may have been forgotten, or it has expired."
          : error.message;
      this.element.replaceChildren(
        h(
          "div",
          {},
          this.#back(),
          h(
            "div",
            { class: "empty" },
            h(
              "h2",
              {},
              error.status === 404 ? "There is no such event" : "The event cannot be loaded",
            ),
            h("p", {}, text),
          ),
        ),
      );
    }
  }

  /** Loads the event again after a change. */
  changed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#id && this.show(this.#id, { isQuiet: true }), 200);
  }

  async redeliver(event) {
    if (!this.app.canChange || !mayRedeliver(event) || !(await confirmRedeliver(event))) return;
    await this.app.attempt(async () => {
      await api.redeliver(event.id);
      this.app.say("A new attempt starts now.");
      if (event.id === this.#id) this.changed();
    });
  }

  async #forget() {
    const { event } = this;
    if (!(await confirmForget(event))) return;
    await this.app.attempt(async () => {
      await api.forget(event.id);
      this.app.say("The event was forgotten: the sender's next copy counts as new.");
      if (["pending", "dead"].includes(event.state)) this.onGone(event.id);
      else this.changed();
    });
  }

  async #export() {
    const { event } = this;
    if (!(await confirmExport(event))) return;
    await this.app.attempt(async () => {
      const url = URL.createObjectURL(await api.exported(event.id));
      h("a", { href: url, download: `${event.id}.http` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    });
  }

  async #copy(make) {
    await this.app.attempt(async () => {
      const { request } = await api.event(this.event.id, { body: true });
      const text = make(request);
      if (text === null) {
        this.app.say("The body is binary and cannot be copied as text. Use Export.");
        return;
      }
      await copy(text);
      this.app.say(
        hasRedacted(request)
          ? "Copied. Values shown as [redacted] are missing; Export contains them."
          : "Copied.",
      );
    });
  }

  #back() {
    return h("button", { class: "back", onclick: () => this.onClose() }, "← Events");
  }

  #build(event) {
    this.event = event;
    this.slots = {
      state: h("div", { class: "buttons" }),
      why: h("div", {}),
      attempts: h("section", { "aria-labelledby": "attempts" }),
      verified: h("section", { "aria-labelledby": "verified" }),
    };
    this.element.replaceChildren(
      h(
        "div",
        {},
        h(
          "header",
          {},
          this.#back(),
          sent(title(event), "h1"),
          this.slots.state,
          this.#actions(event),
        ),
        this.slots.why,
        this.slots.attempts,
        this.slots.verified,
        ...this.#request(event),
      ),
    );
    this.element.scrollTop = 0;
    this.#refresh(event);
  }

  /** Updates what can change. The request stays as it is, with the body if it is shown. */
  #refresh(event) {
    this.event = event;
    const { slots } = this;
    slots.state.replaceChildren(
      state(event.state, { chip: true }),
      h("span", { class: "muted" }, "received ", ago(event.received)),
    );
    slots.why.replaceChildren(...why(event));
    slots.why.hidden = slots.why.childElementCount === 0;
    slots.attempts.hidden = event.state === "refused";
    slots.attempts.replaceChildren(h("h2", { id: "attempts" }, "Attempts"), timeline(event));
    slots.verified.replaceChildren(
      h("h2", { id: "verified" }, event.state === "refused" ? "What arrived" : "What was verified"),
      facts(event),
      ...signed(event),
    );
  }

  #actions(event) {
    if (!this.app.canChange || event.state === "refused") return null;
    const kept = mayRedeliver(event);
    const button = (name, description, onclick, disabled = false) =>
      h("button", { onclick, disabled, title: description }, name);
    return h(
      "div",
      { class: "buttons" },
      button(
        "Redeliver …",
        "Sends the request to the handler again",
        () => this.redeliver(this.event),
        !kept,
      ),
      button("Forget …", "Makes the sender's next copy count as new", () => this.#forget()),
      button("Export …", "Downloads the request as it arrived", () => this.#export(), !kept),
      !kept &&
        h(
          "span",
          { class: "muted small" },
          "The request was not kept, so it cannot be redelivered or exported.",
        ),
    );
  }

  #request(event) {
    const { request } = event;
    if (!request) {
      return [
        h(
          "section",
          {},
          h("h2", {}, "Request"),
          h(
            "p",
            { class: "muted" },
            event.state === "refused"
              ? "The content of rejected requests is not kept."
              : 'Only metadata was kept. With history = "full", the route keeps requests too.',
          ),
        ),
      ];
    }
    const rows = request.headers.map(([name, value]) =>
      h("tr", {}, sent(name, "th", { scope: "row" }), sent(value, "td")),
    );
    return [
      h(
        "section",
        { "aria-labelledby": "request" },
        h("h2", { id: "request" }, "Request"),
        sent(`${request.method} ${request.path}`, "p", { class: "mono" }),
        h(
          "table",
          { class: "headers" },
          h("caption", { class: "visually-hidden" }, "Headers"),
          h("tbody", {}, rows),
        ),
        h(
          "div",
          { class: "buttons" },
          h("button", { onclick: () => this.#copy(asCurl) }, "Copy as curl"),
          h(
            "button",
            { onclick: () => this.#copy(asRequest) },
            "Copy as ",
            h("code", {}, "sealgate verify"),
            " input",
          ),
          h("span", { class: "muted small" }, "Copying reads the body, which is logged."),
        ),
      ),
      new BodyView(this.app, event).element,
    ];
  }
}

function mayRedeliver(event) {
  return event.state !== "refused" && event.has_request;
}
