// Dialogs: what an action will do, before it is done, and the keyboard shortcuts.

import { h, sent } from "./dom.js";
import { STATES, title } from "./format.js";

/** Asks for a confirmation, and returns whether it was given. */
function confirm(heading, paragraphs, action) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-heading" },
      h(
        "form",
        { method: "dialog" },
        h("h1", { id: "dialog-heading" }, heading),
        ...paragraphs.map((paragraph) => h("p", {}, paragraph)),
        h(
          "div",
          { class: "buttons" },
          h("button", { value: "" }, "Cancel"),
          h("button", { value: "yes", class: "primary", autofocus: true }, action),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

const named = (event) => ["Event ", sent(title(event), "code"), ` of route ${event.route}.`];

export function confirmRedeliver(event) {
  const again =
    event.state === "delivered"
      ? "The handler has accepted this event before, so it will process it twice unless it " +
        "recognizes the event ID. This cannot be undone."
      : "A new attempt starts now, whatever the state of the event.";
  return confirm(
    "Redeliver this event?",
    [named(event), "The handler receives the request again, marked Sealgate-Redelivery: 1.", again],
    "Redeliver",
  );
}

export function confirmForget(event) {
  const isRemoved = ["pending", "dead"].includes(event.state);
  return confirm(
    "Forget this event?",
    [
      named(event),
      "The gateway deletes its record of the event ID: the next copy from the sender counts as new " +
        "and is delivered to the handler.",
      isRemoved
        ? `The event is ${event.state}, so it is deleted as well and will not be delivered. ` +
          "This cannot be undone."
        : "The event stays in this list. This cannot be undone.",
    ],
    "Forget",
  );
}

export function confirmExport(event) {
  return confirm(
    "Export this event?",
    [
      named(event),
      "The file contains the request as it arrived, with its body and with credentials that this " +
        "page does not show. It is what `sealgate verify` reads.",
      "The export is logged.",
    ],
    "Export",
  );
}

export function confirmRedeliverAll({ state, route, since, until }) {
  const scope = [
    `All ${STATES[state].word} events`,
    route && `of route ${route}`,
    since && `received since ${since}`,
    until && `and before ${until}`,
  ];
  return confirm(
    "Redeliver these events?",
    [
      `${scope.filter(Boolean).join(" ")}, including those that are not loaded here.`,
      "The handler receives each request again, marked Sealgate-Redelivery: 1. This cannot be undone.",
    ],
    "Redeliver all",
  );
}

const KEYS = [
  ["j", "next event"],
  ["k", "previous event"],
  ["Enter", "open the event"],
  ["Esc", "close the event"],
  ["/", "search by event ID"],
  ["r", "redeliver the event"],
  ["?", "this help"],
];

export function showHelp(canChange) {
  if (document.querySelector("dialog[open]")) return;
  const keys = KEYS.filter(([key]) => key !== "r" || canChange);
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-heading" },
    h(
      "form",
      { method: "dialog" },
      h("h1", { id: "dialog-heading" }, "Keyboard shortcuts"),
      h(
        "dl",
        { class: "keys" },
        ...keys.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]),
      ),
      h("div", { class: "buttons" }, h("button", { autofocus: true }, "Close")),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
