// How times, sizes and outcomes read.

import { h } from "./dom.js";
import { REASONS } from "./reasons.js";

const NUMBER = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat("en", { month: "short", day: "numeric" });
const FULL = new Intl.DateTimeFormat("en", {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
  timeZoneName: "short",
});

/** The states, with the word and the tone with which they are shown. */
export const STATES = {
  pending: { word: "pending", tone: "busy" },
  delivering: { word: "delivering", tone: "busy" },
  delivered: { word: "delivered", tone: "good" },
  dead: { word: "dead", tone: "bad" },
  failed: { word: "failed", tone: "bad" },
  refused: { word: "rejected", tone: "warn" },
};

const ERRORS = {
  timeout: "no response in time",
  connect: "no connection",
  reset: "connection closed without a response",
  redirect: "redirect, which is not followed",
  overloaded: "no capacity for the handler",
  error: "failed before the handler responded",
};

export const number = (n) => NUMBER.format(n);

export const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (n < 1024) return plural(n, "byte");
  const [size, unit] = n < 1048576 ? [n / 1024, "KiB"] : [n / 1048576, "MiB"];
  return `${size.toFixed(size < 10 ? 1 : 0)} ${unit}`;
}

/** A span of time in its largest unit. */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

export const millis = (ms) => (ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`);

function relative(at) {
  const seconds = (Date.now() - at) / 1000;
  return seconds < -1 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
}

/** The time of day, with the date unless it is today. */
export function clock(at) {
  const date = new Date(at);
  const time = CLOCK.format(date);
  return date.toDateString() === new Date().toDateString() ? time : `${DAY.format(date)} ${time}`;
}

export const fullTime = (at) => FULL.format(new Date(at));

/** How long ago something happened; kept current by `refreshTimes`. */
export function ago(at) {
  const when = new Date(at);
  return h(
    "time",
    { datetime: when.toISOString(), title: fullTime(at), "data-ago": true },
    relative(when),
  );
}

export function refreshTimes() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = relative(new Date(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
}

export function state(name, { chip = false } = {}) {
  const { word, tone } = STATES[name] ?? { word: name, tone: "idle" };
  return h("span", { class: `state ${tone} ${chip ? "chip" : ""}`.trim() }, word);
}

export const errorWords = (error) => ERRORS[error] ?? error;

export const reasonWords = (reason) => REASONS[reason] ?? reason;

/** What came of an event, in a few words. */
export function result(event) {
  if (event.state === "refused") return reasonWords(event.reason ?? "") || "rejected";
  if (event.last_status) return `${event.last_status} from the handler`;
  if (event.last_error) return errorWords(event.last_error);
  return event.attempts ? "waiting for the handler" : "no attempt yet";
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The name under which an event is shown: the sender's ID, or the store's if there is none. */
export const title = (event) => event.event_id || event.id;
