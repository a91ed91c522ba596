// The body of a request: hidden until it is asked for, then pretty or raw.

import * as api from "./api.js";
import { copy, fromBase64 } from "./copy.js";
import { h } from "./dom.js";
import { bytes } from "./format.js";
import { prettyForm, prettyJson } from "./pretty.js";

/**
 * Bodies are divided into blocks, of which only the visible are laid out. A line that is longer
 * than a block is divided too: browsers need many seconds to wrap a line of a megabyte.
 */
const BLOCK = 4000;
/** For the height of a block that is not laid out yet. */
const [COLUMNS, LINE] = [100, 18];
/** How many bytes of a binary body are shown. */
const HEX = 65_536;

export class BodyView {
  #text = null;
  #pretty = null;
  #isRaw = false;

  constructor(app, event) {
    this.app = app;
    this.event = event;
    this.frame = h("div", { class: "body-frame" });
    this.element = h(
      "section",
      { "aria-labelledby": "body" },
      h("h2", { id: "body" }, "Body"),
      this.frame,
    );
    this.#hide();
  }

  #hide() {
    this.#text = null;
    const { bytes: length } = this.event;
    this.frame.replaceChildren(
      length === 0
        ? h("p", { class: "muted" }, "The body is empty.")
        : h(
            "div",
            { class: "body-hidden" },
            h("button", { onclick: () => this.#show() }, `Show body (${bytes(length)})`),
            h("span", { class: "muted" }, "Bodies can contain personal data. Each view is logged."),
          ),
    );
  }

  #show() {
    return this.app.attempt(async () => {
      const { request } = await api.event(this.event.id, { body: true });
      if (request.encoding === "base64") {
        this.#text = hex(fromBase64(request.body));
        this.#pretty = null;
      } else {
        this.#text = request.body;
        const type = header(request, "content-type");
        this.#pretty = type.startsWith("application/x-www-form-urlencoded")
          ? prettyForm(request.body)
          : prettyJson(request.body);
      }
      this.#draw();
    });
  }

  #draw() {
    const isRaw = this.#isRaw || this.#pretty === null;
    const show = (raw) => () => {
      this.#isRaw = raw;
      this.#draw();
      this.frame.querySelector("[aria-pressed='true']").focus();
    };
    const toggle =
      this.#pretty !== null &&
      h(
        "div",
        { class: "toggle", role: "group", "aria-label": "View" },
        h("button", { "aria-pressed": String(!isRaw), onclick: show(false) }, "Pretty"),
        h("button", { "aria-pressed": String(isRaw), onclick: show(true) }, "Raw"),
      );
    const text = isRaw ? this.#text : this.#pretty;
    this.frame.replaceChildren(
      h(
        "div",
        { class: "buttons" },
        toggle,
        h("button", { onclick: () => this.#copy() }, "Copy"),
        h("button", { onclick: () => this.#hide() }, "Hide"),
      ),
      h(
        "pre",
        { class: "body sent", tabindex: "0", role: "region", "aria-label": "Body" },
        blocks(text),
      ),
    );
  }

  #copy() {
    return this.app.attempt(async () => {
      await copy(this.#text);
      this.app.say("Copied.");
    });
  }
}

function blocks(text) {
  const list = [];
  for (let at = 0; at < text.length;) {
    let end = Math.min(at + BLOCK, text.length);
    if (end < text.length) {
      const newline = text.lastIndexOf("\n", end - 1);
      if (newline >= at) end = newline + 1;
      else if (isHighSurrogate(text.charCodeAt(end - 1))) end -= 1;
    }
    // The end of a block is the end of a line.
    const lines = text.slice(at, end).replace(/\n$/, "");
    const block = h("div", {}, lines === "" ? "\n" : lines);
    const height = lines
      .split("\n")
      .reduce((sum, line) => sum + Math.ceil((line.length + 1) / COLUMNS), 0);
    block.style.containIntrinsicBlockSize = `auto ${height * LINE}px`;
    list.push(block);
    at = end;
  }
  return list;
}

const isHighSurrogate = (unit) => unit >= 0xd800 && unit < 0xdc00;

function header(request, wanted) {
  const found = request.headers.find(([name]) => name.toLowerCase() === wanted);
  return found ? found[1].trim().toLowerCase() : "";
}

/** The hexadecimal dump of a binary body, as `hexdump -C` writes it. */
function hex(data) {
  const lines = [];
  for (let at = 0; at < Math.min(data.length, HEX); at += 16) {
    const row = [...data.subarray(at, at + 16)];
    const codes = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = row
      .map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "."))
      .join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${codes.padEnd(47)}  ${text}`);
  }
  if (data.length > HEX)
    lines.push(`… ${bytes(data.length - HEX)} more; Export contains everything.`);
  return lines.join("\n");
}
