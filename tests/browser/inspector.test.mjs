// The inspector in Chromium, against a running gateway. `tests/integration/inspector.rs` runs it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, beforeEach, afterEach, test } from "node:test";

import { startGateway, TOKEN, until, VIEWER_TOKEN } from "./gateway.mjs";

const libraries = createRequire(join(process.env.LIBRARIES, "package.json"));
const { chromium } = libraries("playwright-core");
const AXE = readFileSync(libraries.resolve("axe-core/axe.min.js"), "utf8");
const ATTACK = '"><img/src=x/onerror=window.pwned=1><script>window.pwned=1</script>';

let gateway;
let browser;
let context;
let page;
/** What must not happen on any page: errors, violations of the policy, requests elsewhere. */
let problems = [];

before(async () => {
  gateway = await startGateway();
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--disable-dev-shm-usage"],
  });
  context = await newContext(TOKEN);
});

after(async () => {
  await browser?.close();
  gateway?.stop();
});

beforeEach(async () => {
  problems = [];
  gateway.handler.status = 200;
  page = await context.newPage();
});

afterEach(async () => {
  await page.close();
  assert.deepEqual(problems, []);
});

async function newContext(token) {
  const created = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  await created.grantPermissions(["clipboard-read", "clipboard-write"]);
  await created.exposeFunction("reportProblem", (problem) => problems.push(problem));
  await created.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) =>
      reportProblem(`violates ${event.violatedDirective}: ${event.blockedURI} ${event.sample}`),
    );
  });
  created.on("request", (request) => {
    const { origin } = new URL(request.url());
    if (origin !== gateway.admin && !request.url().startsWith("blob:"))
      problems.push(request.url());
  });
  created.on("weberror", (error) => problems.push(String(error.error())));
  created.on("dialog", (dialog) => problems.push(`dialog: ${dialog.message()}`));
  created.on("console", (message) => {
    // The browser reports a 401 as an error: without a session, and after a wrong token.
    const isExpected =
      message.text().includes("401") && /\/(session|login)$/.test(message.location().url);
    if (message.type() === "error" && !isExpected) problems.push(message.text());
  });
  if (token) {
    const first = await created.newPage();
    await login(first, token);
    await first.close();
  }
  return created;
}

async function login(on, token) {
  await on.goto(gateway.admin);
  await on.getByLabel("Token").fill(token);
  await on.getByRole("button", { name: "Log in" }).click();
}

const open = (hash) => page.goto(`${gateway.admin}/#/${hash}`);
const row = (id) => page.locator(".row", { hasText: id });
const button = (name) => page.getByRole("button", { name });
const visible = (locator) => locator.waitFor({ state: "visible" });

/** Returns an event as the API shows it, when it is there. */
async function stored(id, state) {
  return until(`${id} is ${state ?? "stored"}`, async () => {
    const { events } = await (await gateway.api(`/events?event=${encodeURIComponent(id)}`)).json();
    return events.find((event) => !state || event.state === state);
  });
}

test("login, logout and a wrong token", async () => {
  const stranger = await newContext(null);
  page = await stranger.newPage();
  await login(page, "not-the-token");
  await visible(page.getByText("This is not the token."));
  await page.getByLabel("Token").fill(TOKEN);
  await page.keyboard.press("Enter");
  await visible(page.locator(".card").first());
  const [cookie] = await stranger.cookies();
  assert.equal(cookie.httpOnly, true);
  assert.equal(cookie.sameSite, "Strict");
  await button("Log out").click();
  await visible(page.getByLabel("Token"));
  await page.reload();
  await visible(page.getByLabel("Token"));
});

test("the page is served with a strict policy and nothing is loaded from elsewhere", async () => {
  const response = await page.goto(gateway.admin);
  const policy = response.headers()["content-security-policy"];
  assert.match(policy, /default-src 'none'.*frame-ancestors 'none'/);
  assert.doesNotMatch(policy, /unsafe/);
  assert.equal(response.headers()["x-content-type-options"], "nosniff");
  await visible(page.getByText("live", { exact: true }));
});

test("an event appears in the list and changes there", async () => {
  await open("events");
  await visible(page.getByText("live", { exact: true }));
  gateway.handler.status = 500;
  const { id } = await gateway.send({ route: "queue" });
  await visible(row(id).getByText("pending"));
  await visible(row(id).getByText("500 from the handler"));
  gateway.handler.status = 200;
  const { id: stable } = await stored(id, "pending");
  await gateway.api(`/events/${stable}/redeliver`, { method: "POST" });
  await visible(row(id).getByText("delivered"));
});

test("new events do not move what is being read", async () => {
  await Promise.all(Array.from({ length: 60 }, () => gateway.send()));
  await open("events");
  await until("there are enough rows", () =>
    page.evaluate(() => Number(document.querySelector(".table")?.ariaRowCount ?? 0) > 60),
  );
  const read = await page.evaluate(async () => {
    document.querySelector(".table").scrollTop = 800;
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    const { id } = [...document.querySelectorAll(".row[data-id]")].find(
      (element) => element.getBoundingClientRect().top > 400,
    ).dataset;
    return { id, top: document.querySelector(`[data-id="${id}"]`).getBoundingClientRect().top };
  });
  await gateway.send();
  await visible(button("1 new event"));
  const top = await page.evaluate(
    (id) => document.querySelector(`[data-id="${id}"]`).getBoundingClientRect().top,
    read.id,
  );
  assert.equal(top, read.top);
  await button("1 new event").click();
  assert.equal(await page.evaluate(() => document.querySelector(".table").scrollTop), 0);
});

test("filters by route, state and time, and search by event ID", async () => {
  const other = await gateway.send({ route: "gitlab" });
  const { id } = await gateway.send();
  const bad = await gateway.send({ signature: "sha256=" + "0".repeat(64) });
  assert.equal(bad.status, 401);
  await stored(other.id);
  const kept = await stored(id);
  await open("events");
  await visible(row(id));
  await page.getByLabel("Route").selectOption("gitlab");
  await visible(row(other.id));
  await row(id).waitFor({ state: "detached" });
  await page.getByLabel("Route").selectOption("");
  await page.getByLabel("State").selectOption("refused");
  await visible(page.locator(".row", { hasText: "The signature does not verify" }).first());
  await row(id).waitFor({ state: "detached" });
  await page.getByLabel("State").selectOption("");
  await page.getByLabel("Received").selectOption("15m");
  await visible(row(id));
  for (const search of [id, kept.id]) {
    await page.getByLabel("Event ID").fill(search);
    await until("one row is left", async () => (await page.locator(".row[data-id]").count()) === 1);
    await visible(row(id));
  }
  assert.match(page.url(), /event=/, "the filter is part of the address");
});

test("an event shows what arrived, and its body only on request", async () => {
  const body = '{"name":"\\ud64d\\uae38\\ub3d9","big":12345678901234567890,"list":[1,{}]}';
  const { id } = await gateway.send({ route: "gitlab", body, headers: { Cookie: "a=hidden" } });
  const { id: key } = await stored(id);
  await open(`events/${key}`);
  await visible(page.getByRole("heading", { name: id }));
  await visible(page.getByText("Attempt 1: 200"));
  const headers = page.locator(".headers");
  assert.equal(await headers.getByText("[redacted]").count(), 2);
  assert.doesNotMatch(await headers.textContent(), /hidden|a-secret/);
  assert.equal(await page.getByText("12345678901234567890").count(), 0);
  const views = () =>
    gateway.log().filter((line) => line.message === "admin action" && line.event === key);
  assert.equal(views().length, 0);
  await button("Show body").click();
  const shown = page.locator(".body");
  await visible(shown);
  assert.match(await shown.innerText(), /\{\n  "name": "홍길동",\n  "big": 12345678901234567890,/);
  await button("Raw").click();
  assert.equal(await shown.innerText(), body);
  await until("the view is logged", () => views().length === 1);
  await button("Hide").click();
  await shown.waitFor({ state: "detached" });
});

test("a request is copied as curl and as input of verify", async () => {
  const body = '{"quote":"it\'s","path":"$HOME `id`"}';
  const { id } = await gateway.send({ body, query: "?a=1&b='" });
  const { id: key } = await stored(id);
  await open(`events/${key}`);
  await button("verify").click();
  await visible(page.getByText("Copied."));
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  const verified = execFileSync(
    process.env.SEALGATE,
    ["verify", "--config", "gateway.toml", "--route", "github", "-"],
    { cwd: gateway.dir, input: await clipboard(), encoding: "utf8" },
  );
  assert.match(verified, /^authentic/);
  await button("curl").click();
  const curl = await until("curl is copied", async () => {
    const text = await clipboard();
    return text.includes("curl -X") && text;
  });
  const script = `curl() { printf '%s\\n' "$@"; cat; }\n${curl}`;
  const output = execFileSync("sh", ["-c", script], {
    encoding: "utf8",
    env: { HOME: "/nowhere" },
  });
  assert.ok(output.includes(`X-GitHub-Delivery: ${id}`) && output.endsWith(body), output);
  assert.ok(output.includes("/github?a=1&b="));
});

test("an event is redelivered with the keyboard", async () => {
  gateway.handler.status = 503;
  const { id } = await gateway.send({ route: "queue" });
  const { id: key } = await stored(id, "pending");
  await open(`events/${key}`);
  await visible(page.getByText("Attempt 1: 503"));
  gateway.handler.status = 200;
  await page.keyboard.press("r");
  await visible(page.getByRole("heading", { name: "Redeliver this event?" }));
  await page.keyboard.press("Escape");
  await page.keyboard.press("r");
  await page.keyboard.press("Enter");
  await visible(page.getByText("Attempt 2: 200"));
  await visible(row(id).getByText("delivered"));
  const last = gateway.handler.requests.at(-1).headers;
  assert.equal(last["x-github-delivery"], id);
  assert.equal(last["sealgate-redelivery"], "1");
});

test("a pending event is forgotten", async () => {
  gateway.handler.status = 503;
  const { id } = await gateway.send({ route: "queue" });
  const { id: key } = await stored(id, "pending");
  await open(`events/${key}`);
  await button("Forget").click();
  await visible(page.getByText("it is deleted as well"));
  await button("Cancel").click();
  await button("Forget").click();
  await page.locator("dialog").getByRole("button", { name: "Forget" }).click();
  await row(id).waitFor({ state: "detached" });
  assert.equal((await gateway.api(`/events/${key}`)).status, 404);
});

test("an event is exported as verify reads it", async () => {
  const { id } = await gateway.send({ body: '{"export":1}' });
  const { id: key } = await stored(id);
  await open(`events/${key}`);
  await button("Export").click();
  const download = page.waitForEvent("download");
  await page.locator("dialog").getByRole("button", { name: "Export" }).click();
  const file = await (await download).path();
  assert.match(readFileSync(file, "utf8"), /^POST \/github HTTP\/1\.1\r\n[^]*\{"export":1\}$/);
});

test("rejected requests are grouped by reason, with the near miss", async () => {
  const body = '{"near":"miss"}';
  const { createHmac } = await import("node:crypto");
  const mac = createHmac("sha256", "a-secret-for-the-browser-tests-1").update(body).digest("hex");
  await gateway.send({ body: `${body}\n`, signature: `sha256=${mac}` });
  await gateway.send({ signature: null });
  await open("rejected");
  const group = (reason) => page.locator(".group", { hasText: reason }).first();
  await visible(group("The signature does not verify"));
  await visible(group("A header that the scheme needs is missing"));
  await visible(group("bad_signature").getByText("127.0.0.0/24"));
  await visible(
    group("bad_signature").getByText("The body verifies without the newline at its end."),
  );
  await group("bad_signature").locator("tbody a").first().click();
  await visible(page.getByText("Rejected: the signature does not verify with the key"));
  assert.equal(await button("Redeliver").count(), 0);
});

test("the keyboard moves, opens, searches and helps", async () => {
  const [first, second] = [await gateway.send(), await gateway.send()];
  await stored(second.id);
  await open("events");
  await visible(row(first.id));
  const focused = () =>
    page.evaluate(() => document.activeElement.closest(".row")?.textContent ?? "");
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  const after = await focused();
  await page.keyboard.press("k");
  assert.notEqual(await focused(), after);
  await page.keyboard.press("j");
  assert.equal(await focused(), after);
  await page.keyboard.press("Enter");
  await visible(page.locator(".detail h1"));
  const title = await page.locator(".detail h1").textContent();
  assert.ok(after.includes(title));
  await page.keyboard.press("k");
  await until(
    "the previous event is open",
    async () =>
      (await page
        .locator(".detail h1")
        .textContent()
        .catch(() => title)) !== title,
  );
  await page.keyboard.press("Escape");
  await page.locator(".detail").waitFor({ state: "hidden" });
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.name), "event");
  await page.keyboard.press("Escape");
  await page.keyboard.press("?");
  await visible(page.getByRole("heading", { name: "Keyboard shortcuts" }));
  await page.keyboard.press("Enter");
  await page.locator("dialog").waitFor({ state: "detached" });
});

test("nothing that a sender chooses becomes markup", async () => {
  const id = "<img/src=x/onerror=window.pwned=1>";
  const body = JSON.stringify({ [ATTACK]: ATTACK, nested: [ATTACK] });
  const headers = {
    "X-Attack": ATTACK,
    "User-Agent": ATTACK,
    "Content-Type": `application/json;${ATTACK}`,
  };
  const query = `?${ATTACK.replaceAll(" ", "+")}`;
  const { status } = await gateway.send({ id, body, headers, query });
  assert.equal(status, 200);
  const form = { "Content-Type": "application/x-www-form-urlencoded" };
  const second = await gateway.send({ body: `a=${encodeURIComponent(ATTACK)}`, headers: form });
  await gateway.send({ id, body, headers, query, signature: "sha256=" + "0".repeat(64) });
  const keys = [(await stored(id, "delivered")).id, (await stored(second.id)).id];
  const harmless = async () => {
    assert.equal(await page.evaluate(() => window.pwned), undefined);
    assert.equal(await page.locator("img, .app script").count(), 0);
  };
  await open("events");
  await visible(row(id).first());
  await harmless();
  for (const key of keys) {
    await open(`events/${key}`);
    await button("Show body").click();
    await visible(page.locator(".body").getByText("pwned").first());
    await harmless();
    await button("Raw").click();
    await button("Redeliver").first().click();
    await harmless();
    await page.keyboard.press("Escape");
  }
  await open(`events?event=${encodeURIComponent(ATTACK)}&route=${encodeURIComponent(ATTACK)}`);
  await visible(page.getByText("No event matches these filters."));
  await open("rejected");
  await visible(page.locator(".group").first());
  await harmless();
});

test("a viewer can change nothing", async () => {
  gateway.handler.status = 503;
  const { id } = await gateway.send({ route: "queue" });
  const { id: key } = await stored(id, "pending");
  const viewers = await newContext(VIEWER_TOKEN);
  page = await viewers.newPage();
  await open(`events/${key}`);
  await visible(page.getByText("view only"));
  await visible(page.getByRole("heading", { name: id }));
  for (const name of ["Redeliver", "Forget", "Export"]) {
    assert.equal(await button(name).filter({ visible: true }).count(), 0, name);
  }
  await page.keyboard.press("r");
  assert.equal(await page.locator("dialog").count(), 0);
});

test("axe finds nothing serious, in both color schemes", async () => {
  gateway.handler.status = 503;
  const { id } = await gateway.send({ route: "queue" });
  const bad = await gateway.send({ signature: "sha256=" + "0".repeat(64) });
  const { id: key } = await stored(id, "pending");
  assert.equal(bad.status, 401);
  const check = async (what) => {
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => axe.run());
    const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    assert.deepEqual(
      serious.map(({ id: rule, nodes }) => [rule, nodes.map(({ html }) => html)]),
      [],
      what,
    );
  };
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await open("overview");
    await visible(page.locator(".card").first());
    await check("overview");
    await open(`events/${key}`);
    await button("Show body").click();
    await visible(page.locator(".body"));
    await check("event");
    await button("Forget").click();
    await check("dialog");
    await page.keyboard.press("Escape");
    await open("rejected");
    await visible(page.locator(".group").first());
    await check("rejected");
  }
});

test("nothing scrolls sideways at 360 px", async () => {
  const long = await gateway.send({
    id: `evt_${"0123456789".repeat(19)}123456`,
    query: `?${"q".repeat(600)}`,
    body: `{"long":"${"x".repeat(5000)}"}`,
    headers: { "X-Long": "y".repeat(900) },
  });
  assert.equal(long.status, 200);
  const { id: key } = await stored(long.id);
  await page.setViewportSize({ width: 360, height: 740 });
  const fits = async (what) => {
    const wide = await page.evaluate(() =>
      [...document.querySelectorAll("html, .page, .events, .table, .detail, .body, dialog")]
        .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)
        .map(({ tagName, className }) => `${tagName} ${className}`),
    );
    assert.deepEqual(wide, [], what);
  };
  await open("overview");
  await visible(page.locator(".card").first());
  await fits("overview");
  await open("events");
  await visible(row(long.id));
  await fits("events");
  await open(`events/${key}`);
  await button("Show body").click();
  await visible(page.locator(".body"));
  await fits("event");
  await button("Forget").click();
  await fits("dialog");
  await page.keyboard.press("Escape");
  await open("rejected");
  await fits("rejected");
});

test("a list of 100,000 events keeps few rows in the document", async () => {
  await page.addInitScript(() => {
    const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const id = (n) =>
      "01M8".padEnd(22, "0") + [15, 10, 5, 0].map((by) => digits[(n >> by) & 31]).join("");
    const event = (n) => ({
      id: id(n),
      route: "github",
      event_id: `evt_${n}`,
      state: "delivered",
      received: "2026-01-01T00:00:00Z",
      attempts: 1,
      last_status: 200,
      bytes: 10,
    });
    const page = (url) => {
      const from = Number(url.searchParams.get("cursor") ?? 100_000);
      const next = Math.max(from - 25_000, 0);
      const events = Array.from({ length: from - next }, (_, at) => event(from - at));
      return { events, next: next > 0 ? String(next) : null };
    };
    const fetched = window.fetch;
    window.fetch = async (path, options) => {
      const url = new URL(path, location);
      return url.pathname === "/api/v1/events" ? Response.json(page(url)) : fetched(path, options);
    };
  });
  await open("events");
  await visible(row("evt_100000"));
  await until("everything is loaded", () =>
    page.evaluate(() => {
      const table = document.querySelector(".table");
      table.scrollTop = table.scrollHeight;
      return table.getAttribute("aria-rowcount") === "100001";
    }),
  );
  await visible(row("evt_1").last());
  assert.ok((await page.locator(".row[data-id]").count()) < 100);
  await page.evaluate(() => (document.querySelector(".table").scrollTop = 50_000 * 40));
  await visible(row("evt_49995"));
  assert.ok((await page.locator(".row[data-id]").count()) < 100);
});
