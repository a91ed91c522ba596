// The routes with their health in words, and the last hour as bars.

import { h, redraw, sent, svg } from "./dom.js";
import { ago, number, plural, sentence, span } from "./format.js";

/** How the outcomes of `sealgate_requests_total` are summed up. */
const GROUPS = [
  { kind: "ok", word: "verified", outcomes: ["forwarded", "duplicate", "joined"] },
  { kind: "queued", word: "queued", outcomes: ["queued"] },
  { kind: "rejected", word: "rejected", outcomes: ["rejected", "replay"] },
  { kind: "failed", word: "failed", outcomes: ["unavailable", "error"] },
];
/** Senders such as Vivoldi disable a webhook after so many failures in a row. */
const DISABLED_AT = 5;
/** Events that wait for longer than this are worth a line. */
const LATE = 300;
const OLD_SECRET = 86_400_000;
const MINUTES = 60;

export class OverviewPage {
  constructor(app) {
    this.app = app;
    this.cards = h("div", { class: "cards" });
    this.element = h(
      "main",
      { class: "page", tabindex: "-1" },
      h("h1", { class: "visually-hidden" }, "Routes"),
      this.cards,
    );
  }

  routesChanged(routes) {
    redraw(
      this.cards,
      routes.map((route) => this.#card(route)),
    );
  }

  #card(route) {
    const link = (state, text) =>
      h("a", { href: this.app.link("events", null, { route: route.name, state }) }, text);
    const count = (state, n) => (n > 0 && state ? link(state, number(n)) : number(n));
    const hour = sums(route.last_hour ?? {});
    const pair = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    return h(
      "section",
      { class: "card" },
      h(
        "div",
        {},
        h(
          "h2",
          {},
          h("a", { href: this.app.link("events", null, { route: route.name }) }, sent(route.name)),
          h("small", {}, route.scheme ? `${route.scheme}, ${route.delivery}` : route.delivery),
        ),
        h(
          "ul",
          { class: "health" },
          health(route, hour).map(([tone, ...text]) =>
            h("li", { class: `state ${tone}` }, h("span", {}, text)),
          ),
        ),
      ),
      h(
        "figure",
        { class: "spark" },
        spark(route, hour),
        h(
          "figcaption",
          { class: "small muted" },
          h("span", {}, "Last hour:"),
          GROUPS.filter(({ kind }) => hour[kind] > 0 || kind === "ok").map(({ kind, word }) =>
            h("span", { class: `key ${kind}` }, `${number(hour[kind])} ${word}`),
          ),
        ),
      ),
      h(
        "dl",
        { class: "numbers" },
        pair("Pending", count("pending", route.pending ?? 0)),
        pair("Dead", count("dead", route.dead ?? 0)),
        pair(
          "Oldest pending",
          route.pending > 0 ? span(route.oldest_pending_seconds ?? 0) : "none",
        ),
        pair("Failures in a row", number(route.consecutive_failures ?? 0)),
        pair("Last verified", route.last_verified ? ago(route.last_verified) : "never"),
      ),
    );
  }
}

function sums(outcomes) {
  return Object.fromEntries(
    GROUPS.map(({ kind, outcomes: names }) => [
      kind,
      names.reduce((sum, name) => sum + (outcomes[name] ?? 0), 0),
    ]),
  );
}

/** What to know about a route, worst first: the tone and the words. */
function health(route, hour) {
  const lines = [];
  const failures = route.consecutive_failures ?? 0;
  if (failures >= DISABLED_AT) {
    lines.push([
      "bad",
      `${number(failures)} failures in a row: the sender may have disabled the webhook`,
    ]);
  } else if (failures > 0) {
    lines.push([
      failures > 1 ? "bad" : "warn",
      failures > 1
        ? `${failures} failures in a row: the sender disables the webhook at ${DISABLED_AT}`
        : "The last event failed",
    ]);
  }
  if (route.dead > 0) {
    lines.push([
      "bad",
      `${plural(route.dead, "dead event")}: redeliver or forget ${route.dead === 1 ? "it" : "them"}`,
    ]);
  }
  if (route.pending > 0) {
    const oldest = route.oldest_pending_seconds ?? 0;
    lines.push([
      oldest > LATE ? "warn" : "busy",
      `${plural(route.pending, "event waits", "events wait")} for the handler, the oldest for ${span(oldest)}`,
    ]);
  }
  if (hour.rejected > 0 && hour.ok + hour.queued === 0) {
    lines.push(["warn", `Nothing verified in the last hour, ${number(hour.rejected)} rejected`]);
  }
  for (const secret of route.secrets ?? []) lines.push(...secretHealth(secret, route.secrets));
  if (!route.last_verified) lines.push(["idle", "No event verified yet"]);
  else if (lines.every(([tone]) => tone !== "bad")) {
    lines.unshift(["good", "Verifying, last event ", ago(route.last_verified)]);
  }
  return lines;
}

/** Old secrets are those after the first of a key: in use still, or to be removed. */
function secretHealth({ key, secret, last_used: used }, all) {
  if (secret < 2) return [];
  const where = all.some((other) => other.key !== key) ? ` of ${key}` : "";
  const name = sentence(`secret ${secret}${where}`);
  if (!used) return [["idle", `${name} has not verified anything since the start`]];
  return Date.now() - Date.parse(used) < OLD_SECRET
    ? [["warn", `${name} is still in use, last `, ago(used)]]
    : [["idle", `${name} was last used `, ago(used), ": remove it"]];
}

/** The last hour in bars of a minute each. */
function spark(route, hour) {
  const counts = Object.entries(route.minutes ?? {});
  const minutes = Array.from({ length: MINUTES }, (_, at) =>
    sums(Object.fromEntries(counts.map(([outcome, list]) => [outcome, list[at] ?? 0]))),
  );
  const label = GROUPS.map(({ kind, word }) => `${hour[kind]} ${word}`).join(", ");
  const [width, height] = [MINUTES * 6, 40];
  const totals = minutes.map((minute) => GROUPS.reduce((sum, { kind }) => sum + minute[kind], 0));
  const most = Math.max(...totals, 1);
  const bars = minutes.flatMap((minute, at) => {
    let top = height;
    return GROUPS.filter(({ kind }) => minute[kind] > 0).map(({ kind }) => {
      const tall = Math.max((minute[kind] / most) * height, 2);
      top -= tall;
      return svg("rect", {
        class: kind,
        x: at * 6 + 1,
        y: Math.max(top, 0),
        width: 5,
        height: tall,
      });
    });
  });
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `Requests of the last hour: ${label}`,
    },
    bars,
  );
}
