// A gateway with a handler whose responses a test chooses, and a sender that signs.

import { spawn } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync, openSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const TOKEN = "an-operator-token-for-the-tests";
export const VIEWER_TOKEN = "a-viewer-token-for-the-tests-01";
const SECRET = "a-secret-for-the-browser-tests-1";

/** Waits until `check` returns something. */
export async function until(what, check) {
  const end = Date.now() + 15_000;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`timed out: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Starts a handler. `handler.status` is what it responds, and `requests` what it received. */
async function startHandler() {
  const handler = { status: 200, requests: [] };
  const server = createServer((request, response) => {
    handler.requests.push(request);
    request.resume().on("end", () => response.writeHead(handler.status).end("received\n"));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  handler.port = server.address().port;
  handler.stop = () => server.close(() => {}) && server.closeAllConnections();
  return handler;
}

export async function startGateway() {
  const dir = mkdtempSync(join(tmpdir(), "sealgate-browser-"));
  const handler = await startHandler();
  const route = (name, scheme, more) => `
    [[route]]
    name = "${name}"
    path = "/${name}"
    scheme = "${scheme}"
    upstream = "http://127.0.0.1:${handler.port}"
    secret = "${SECRET}"
    history = "full"
    ${more}`;
  writeFileSync(
    join(dir, "gateway.toml"),
    `
    [server]
    http_listen = "127.0.0.1:0"
    [admin]
    listen = "127.0.0.1:0"
    token = "${TOKEN}"
    viewer_token = "${VIEWER_TOKEN}"
    [events]
    store = "disk"
    path = "events"
    ${route("github", "github", "")}
    ${route("gitlab", "gitlab", "")}
    ${route("queue", "github", 'delivery = "async"\n[route.retry]\nfirst = "10m"\nmax = "1h"\n')}`,
  );
  const log = join(dir, "log");
  const process = spawn(globalThis.process.env.SEALGATE, ["--log-format", "json"], {
    cwd: dir,
    stdio: ["ignore", "ignore", openSync(log, "w")],
  });
  const lines = () =>
    readFileSync(log, "utf8")
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const ready = await until("the gateway is ready", () => {
    if (process.exitCode !== null) throw new Error(readFileSync(log, "utf8"));
    return lines()
      .map(fields)
      .find(({ message }) => message === "ready");
  });
  const address = (name) => `http://${String(ready[name]).replace(/[[\]]/g, "")}`;
  const [http, admin] = [address("http"), address("admin")];

  /** Sends an event, signed unless `signature` says otherwise. GitHub's events are their bodies. */
  async function send({
    route: name = "github",
    id = randomUUID(),
    body = JSON.stringify({ id }),
    query = "",
    headers = {},
    signature,
  } = {}) {
    const mac = createHmac("sha256", SECRET).update(body).digest("hex");
    const signed =
      name === "gitlab"
        ? { "Idempotency-Key": id, "X-Gitlab-Token": SECRET }
        : { "X-GitHub-Delivery": id, "X-Hub-Signature-256": signature ?? `sha256=${mac}` };
    if (signature === null) delete signed["X-Hub-Signature-256"];
    const response = await fetch(`${http}/${name}${query}`, {
      method: "POST",
      body,
      headers: { "Content-Type": "application/json", ...signed, ...headers },
    });
    await response.arrayBuffer();
    return { id, status: response.status };
  }

  /** Calls the admin API as an operator. */
  const api = (path, options) =>
    fetch(`${admin}/api/v1${path}`, { headers: { Authorization: `Bearer ${TOKEN}` }, ...options });

  const stop = () => {
    process.kill("SIGKILL");
    handler.stop();
    rmSync(dir, { recursive: true, force: true });
  };
  return { dir, admin, handler, send, api, stop, log: () => lines().map(fields) };
}

/** The fields of a line of the log. */
const fields = (line) => ({ ...line, ...line.fields });
