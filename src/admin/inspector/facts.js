// What is known about an event: the rejection, the attempts, and what was verified.

import { h, sent } from "./dom.js";
import { ago, bytes, errorWords, fullTime, millis, number, reasonWords, span } from "./format.js";

/** Why a request was rejected, and what would have verified. */
export function why(event) {
  if (event.state !== "refused") return [];
  const children = [
    h("strong", {}, `Rejected: ${reasonWords(event.reason)}`),
    " ",
    h("code", {}, event.reason),
  ];
  return [
    h(
      "div",
      { class: "note warn" },
      h("p", {}, children),
      event.diagnosis
        ? sent(event.diagnosis, "p", { class: "diagnosis" })
        : h(
            "p",
            {},
            "No near miss: nothing that was tried would have verified, or it was not tried.",
          ),
    ),
  ];
}

/** The attempts of an event as a timeline. */
export function timeline(event) {
  const log = event.log ?? [];
  const isRunning = event.state === "delivering";
  // The newest attempts are kept; one that runs is counted but has no entry yet.
  const before = Math.max(0, event.attempts - log.length - (isRunning ? 1 : 0));
  const entry = (tone, heading, ...rest) => h("li", { class: tone }, heading, ...rest);
  const attempts = log.map((attempt, at) => {
    const isGood = attempt.status >= 200 && attempt.status < 300;
    const came = attempt.status
      ? String(attempt.status)
      : errorWords(attempt.error ?? "no response");
    return entry(
      isGood ? "good" : "bad",
      h(
        "p",
        {},
        `Attempt ${number(before + at + 1)}: `,
        h("strong", {}, came),
        attempt.status && attempt.error ? `, ${errorWords(attempt.error)}` : null,
        ` in ${millis(attempt.duration_ms)}`,
        attempt.resigned ? ", signed again with a fresh timestamp" : null,
      ),
      h("p", { class: "muted small" }, fullTime(attempt.at), ...since(log, at)),
    );
  });
  const last = {
    pending: () =>
      entry(
        "busy",
        h(
          "p",
          {},
          "Next attempt ",
          event.next_attempt ? ago(event.next_attempt) : "as soon as possible",
        ),
      ),
    delivering: () =>
      entry("busy", h("p", {}, `Attempt ${number(before + log.length + 1)} is running`)),
    dead: () =>
      entry("bad", h("p", {}, "Dead: no further attempt is made unless you redeliver it")),
    failed: () => entry("bad", h("p", {}, "The sender got this failure and is expected to retry")),
  }[event.state];
  return h(
    "ol",
    { class: "timeline" },
    entry(
      "idle",
      h("p", {}, "Received"),
      h("p", { class: "muted small" }, fullTime(event.received)),
    ),
    before > 0 &&
      log.length > 0 &&
      entry("idle", h("p", { class: "muted" }, `${number(before)} earlier attempts are not kept`)),
    attempts,
    last?.(),
  );
}

function since(log, at) {
  if (at === 0) return [];
  const previous = log[at - 1];
  const ended = Date.parse(previous.at) + previous.duration_ms;
  return [` · ${span((Date.parse(log[at].at) - ended) / 1000)} after the previous one`];
}

/** What was verified, or what arrived. */
export function facts(event) {
  const list = [
    ["Route", sent(event.route)],
    ["Scheme", event.scheme],
    ["Key", event.key && sent(event.key, "code")],
    ["Secret", event.secret && `number ${event.secret} in the configured list`],
    ["Timestamp", event.timestamp && `${fullTime(event.timestamp)}${skew(event)}`],
    ["Client network", event.network && sent(event.network, "code")],
    ["Body", bytes(event.bytes ?? 0)],
    ["Event ID", event.event_id && sent(event.event_id, "code")],
    ["ID in the store", sent(event.id, "code")],
  ];
  return h(
    "dl",
    { class: "facts" },
    list
      .filter(([, value]) => value)
      .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

function skew(event) {
  const late = (Date.parse(event.received) - Date.parse(event.timestamp)) / 1000;
  return `, ${Math.abs(late).toFixed(1)} s ${late < 0 ? "after" : "before"} receipt`;
}

/** The signed message, with its parts made visible. */
export function signed(event) {
  if (!event.signed?.length) return [];
  const named = { "": "text", body: "body", "body|sha256": "SHA-256 of the body" };
  const parts = event.signed.map(({ source, value }) =>
    h(
      "span",
      {},
      h("span", { class: "muted small" }, named[source] ?? source),
      h("br"),
      value === null
        ? h("span", { class: "muted" }, source === "body" ? bytes(event.bytes) : "not shown")
        : sent(value, "code"),
    ),
  );
  return [h("p", { class: "muted" }, "The signature covers"), h("div", { class: "signed" }, parts)];
}
