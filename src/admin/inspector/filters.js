// The filters of the list of events.

import { h } from "./dom.js";
import { STATES } from "./format.js";

/** The fields of a filter, as in the API. */
export const FIELDS = ["route", "state", "event", "since", "until"];
const TIMES = {
  "": "any time",
  "15m": "last 15 minutes",
  "1h": "last hour",
  "24h": "last 24 hours",
  "7d": "last 7 days",
};
const UNITS = { m: 60_000, h: 3_600_000, d: 86_400_000 };
const TYPING = 250;

/** The form. `onChange` gets the new filter. */
export class Filters {
  #route = "";

  constructor({ onChange }) {
    const changed = () => {
      this.#hideRange();
      onChange(this.#filter());
    };
    const option = ([value, text]) => h("option", { value }, text);
    const select = (name, ...options) => h("select", { name, onchange: changed }, options);
    const time = (name) =>
      h("input", { type: "datetime-local", name, step: "1", onchange: changed });
    const label = (text, input, kind) => h("label", { class: kind }, h("span", {}, text), input);
    let typing = 0;
    this.event = h("input", {
      type: "search",
      name: "event",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "Exact ID of the sender or the store",
      oninput: () => {
        clearTimeout(typing);
        typing = setTimeout(changed, TYPING);
      },
    });
    const states = Object.entries(STATES).map(([name, { word }]) => [name, word]);
    this.route = select("route", option(["", "any"]));
    this.state = select("state", ...[["", "any"], ...states].map(option));
    this.since = select(
      "since",
      ...Object.entries(TIMES).map(option),
      option(["range", "a range …"]),
    );
    [this.from, this.to] = [time("from"), time("to")];
    this.ranges = [label("From", this.from, "range"), label("To", this.to, "range")];
    const onsubmit = (submitted) => {
      submitted.preventDefault();
      clearTimeout(typing);
      changed();
    };
    this.element = h(
      "form",
      { class: "filters", role: "search", "aria-label": "Filters", onsubmit },
      label("Event ID", this.event, "search"),
      label("Route", this.route),
      label("State", this.state),
      label("Received", this.since),
      ...this.ranges,
    );
  }

  /** Shows a filter. What is being edited stays. */
  show({ route = "", state = "", event = "", since = "", until = "" }) {
    const { activeElement } = document;
    if (activeElement !== this.event) this.event.value = event;
    this.#route = route;
    this.setRoutes([...this.route.options].slice(1).map(({ value }) => value));
    this.state.value = state;
    if (until || !(since in TIMES)) {
      this.since.value = "range";
      [this.from.value, this.to.value] = [localTime(since), localTime(until)];
    } else if (![this.since, this.from, this.to].includes(activeElement)) {
      this.since.value = since;
    }
    this.#hideRange();
  }

  /** Offers these routes, and the one that is filtered by. */
  setRoutes(names) {
    const all = new Set([...names, this.#route].filter(Boolean));
    const known = [...this.route.options].slice(1).map(({ value }) => value);
    if (JSON.stringify(known) !== JSON.stringify([...all])) {
      const options = [...all].map((value) => h("option", { value }, value));
      this.route.replaceChildren(this.route.options[0], ...options);
    }
    this.route.value = this.#route;
  }

  focusSearch() {
    this.event.focus();
    this.event.select();
  }

  #hideRange() {
    for (const range of this.ranges) range.hidden = this.since.value !== "range";
  }

  #filter() {
    const isRange = this.since.value === "range";
    const time = ({ value }) => (isRange && value ? new Date(value).toISOString() : "");
    return {
      route: this.route.value,
      state: this.state.value,
      event: this.event.value.trim(),
      since: isRange ? time(this.from) : this.since.value,
      until: time(this.to),
    };
  }
}

/** Returns whether an event matches a filter. */
export function matches({ route, state, event: search, since, until }, event) {
  const received = Date.parse(event.received);
  return (
    (!route || event.route === route) &&
    (!state || event.state === state) &&
    (!search || event.event_id === search || event.id === search) &&
    (!since || received >= instant(since)) &&
    (!until || received < instant(until))
  );
}

/** The instant of `since` or `until`: RFC 3339, or a duration before now. */
function instant(text) {
  const duration = /^(\d+)([mhd])$/.exec(text);
  return duration ? Date.now() - duration[1] * UNITS[duration[2]] : Date.parse(text);
}

/** The value of a `datetime-local` input. */
function localTime(text) {
  if (!text) return "";
  const at = instant(text);
  return new Date(at - new Date(at).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
