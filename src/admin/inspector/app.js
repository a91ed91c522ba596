// The page's frame: the session, the address, the stream of changes and the keyboard.

import * as api from "./api.js";
import { showHelp } from "./dialogs.js";
import { h } from "./dom.js";
import { EventsPage } from "./events.js";
import { refreshTimes } from "./format.js";
import { showLogin } from "./login.js";
import { OverviewPage } from "./overview.js";
import { RejectedPage } from "./rejected.js";

const ROUTES_EVERY = 5000;
const RETRY = 3000;
const SHOWN_FOR = 6000;
/** A page without input ends its session after this time, although it fetches what is new. */
const IDLE = 12 * 3_600_000;
const TABS = { overview: "Overview", events: "Events", rejected: "Rejected" };

class App {
  #page = null;
  #close = null;
  #retry = 0;
  #timers = [];
  #wasLost = false;

  constructor({ role }) {
    this.canChange = role !== "viewer";
    this.pages = {
      overview: new OverviewPage(this),
      events: new EventsPage(this),
      rejected: new RejectedPage(this),
    };
    this.alerts = h("div", { class: "alerts", role: "status" });
    this.live = h("span", { class: "state idle small" }, "connecting");
    this.tabs = Object.entries(TABS).map(([name, text]) =>
      h("a", { href: `#/${name}`, "data-tab": name }, text),
    );
    this.element = h(
      "div",
      { class: "app" },
      h(
        "header",
        { class: "top" },
        h("a", { class: "brand", href: "#/overview" }, "sealgate"),
        h("nav", { class: "tabs", "aria-label": "Pages" }, this.tabs),
        h(
          "div",
          { class: "end" },
          !this.canChange && h("span", { class: "muted small" }, "view only"),
          this.live,
          h(
            "button",
            {
              class: "plain",
              "aria-label": "Keyboard shortcuts",
              title: "Keyboard shortcuts",
              onclick: () => showHelp(this.canChange),
            },
            "?",
          ),
          h("button", { class: "plain", onclick: () => this.#logout() }, "Log out"),
        ),
      ),
    );
    this.listeners = new AbortController();
  }

  start() {
    const { signal } = this.listeners;
    document.body.replaceChildren(this.element, this.alerts);
    addEventListener("hashchange", () => this.#route(), { signal });
    addEventListener("keydown", (event) => this.#key(event), { signal });
    document.addEventListener("visibilitychange", () => this.#visible(), { signal });
    const used = () => (this.used = Date.now());
    used();
    addEventListener("pointerdown", used, { signal });
    addEventListener("keydown", used, { signal });
    this.#timers = [
      setInterval(refreshTimes, 1000),
      setInterval(() => Date.now() - this.used > IDLE && this.#logout(), ROUTES_EVERY),
      setInterval(() => this.#loadRoutes(), ROUTES_EVERY),
    ];
    this.#route();
    this.#visible();
  }

  stop() {
    this.listeners.abort();
    this.#timers.forEach(clearInterval);
    clearTimeout(this.#retry);
    this.#close?.();
    document.querySelectorAll("dialog").forEach((dialog) => dialog.remove());
  }

  /** Returns the address of a page, an event and a filter. */
  link(page, id = null, filter = {}) {
    const query = new URLSearchParams(
      Object.entries(filter).filter(([, value]) => value),
    ).toString();
    return `#/${page}${id ? `/${encodeURIComponent(id)}` : ""}${query && `?${query}`}`;
  }

  go(page, id, filter, { replace = false } = {}) {
    const link = this.link(page, id, filter);
    if (link === location.hash) return;
    if (replace) history.replaceState(null, "", link);
    else history.pushState(null, "", link);
    this.#route();
  }

  /** Shows a message for a few seconds. */
  say(text, tone = "idle") {
    const alert = h("p", { class: `note ${tone}` }, text);
    this.alerts.replaceChildren(alert);
    setTimeout(() => alert.remove(), SHOWN_FOR);
  }

  /** Performs an action, and shows why it failed. */
  async attempt(action) {
    try {
      await action();
    } catch (error) {
      if (error.status !== 401) this.say(error.message, "bad");
    }
  }

  #route() {
    const [path, query = ""] = location.hash.slice(2).split("?", 2);
    const [name, id] = path.split("/").map(decode);
    const page = this.pages[name] ?? this.pages.overview;
    if (page !== this.#page) {
      this.#page?.element.remove();
      this.#page?.hide?.();
      this.element.append(page.element);
      this.#page = page;
    }
    for (const tab of this.tabs) {
      const isCurrent = this.pages[tab.dataset.tab] === page;
      if (isCurrent) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    document.title = `${TABS[Object.keys(this.pages).find((key) => this.pages[key] === page)]} · sealgate`;
    page.show?.(new URLSearchParams(query), id || null);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]"))
      return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    let isHandled = true;
    if (event.key === "?") showHelp(this.canChange);
    else if (["j", "k", "/"].includes(event.key) && this.#page !== this.pages.events) {
      location.hash = "#/events";
      this.#route();
      isHandled = this.pages.events.key(event.key);
    } else isHandled = this.#page === this.pages.events && this.pages.events.key(event.key);
    if (isHandled) event.preventDefault();
  }

  /** A page that nobody sees holds no stream: browsers allow few connections to a host. */
  #visible() {
    if (document.hidden) {
      this.#close?.();
      this.#close = null;
      clearTimeout(this.#retry);
      this.#wasLost = true;
    } else {
      this.#loadRoutes();
      this.#connect();
    }
  }

  #connect() {
    this.#close?.();
    this.#close = api.stream({
      onEvent: (event) => {
        this.pages.events.receive(event);
        this.pages.rejected.receive(event);
      },
      onOpen: () => {
        this.#setLive("good", "live");
        if (this.#wasLost) {
          this.pages.events.catchUp();
          this.pages.rejected.catchUp();
        }
        this.#wasLost = false;
      },
      onLost: (isClosed) => {
        this.#wasLost = true;
        this.#setLive("bad", "connection lost");
        // The browser reconnects, except after an error response: then the session may be over.
        if (isClosed) this.#retry = setTimeout(() => this.#reconnect(), RETRY);
      },
    });
  }

  async #reconnect() {
    const current = await api.session().catch(() => undefined);
    if (current === null) {
      ended();
      return;
    }
    const hasEvents = !current || (await api.hasEvents().catch(() => true));
    if (this.listeners.signal.aborted) return;
    if (!hasEvents) this.#setLive("idle", "no events are kept");
    else if (!document.hidden) this.#connect();
  }

  async #loadRoutes() {
    if (document.hidden) return;
    try {
      const routes = await api.routes();
      this.pages.overview.routesChanged(routes);
      this.pages.events.routesChanged(routes);
    } catch {
      // The stream reports that the connection is lost, and a 401 that the session has ended.
    }
  }

  #setLive(tone, text) {
    this.live.className = `state small ${tone}`;
    this.live.textContent = text;
  }

  async #logout() {
    await this.attempt(api.logout);
    open("");
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

let app = null;

/** Shows the login form, and the page after it. */
function open(message) {
  app?.stop();
  app = null;
  document.title = "sealgate";
  showLogin(message, start);
}

function start(session) {
  app = new App(session);
  app.start();
}

function ended() {
  if (app) open("Your session has ended. Log in again.");
}

api.whenExpired(ended);
try {
  const current = await api.session();
  if (current) start(current);
  else open("");
} catch (error) {
  open(error.message);
}
