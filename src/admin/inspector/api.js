// Calls of the admin API. The session is a cookie that scripts cannot read; changes carry the
// session's CSRF token.

const BASE = "/api/v1";

let csrf = "";
let onExpired = () => {};

/** A response that is not a success. `message` is for the operator. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sets what happens when the session has ended. */
export function whenExpired(listener) {
  onExpired = listener;
}

async function call(path, { method = "GET", body } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      redirect: "error",
    });
  } catch {
    throw new ApiError(0, "The gateway cannot be reached.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && path !== "/login") onExpired();
  const message = problem.error ?? `status ${response.status}`;
  throw new ApiError(response.status, `The gateway responded: ${message}.`);
}

const json = async (path, options) => (await call(path, options)).json();
const at = (id) => `${BASE}/events/${encodeURIComponent(id)}`;

function keep(session) {
  csrf = session.csrf;
  return session;
}

/** Returns the session, or `null` without one. */
export async function session() {
  try {
    const response = await fetch(`${BASE}/session`, { cache: "no-store" });
    return response.ok ? keep(await response.json()) : null;
  } catch {
    throw new ApiError(0, "The gateway cannot be reached.");
  }
}

export const login = async (token) =>
  keep(await json("/login", { method: "POST", body: { token } }));
export const logout = () => call("/logout", { method: "POST" });

export const routes = async () => (await json(`${BASE}/routes`)).routes;

/** Returns a page of events: `{events, next}`. */
export function events(filter, cursor, limit) {
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  query.set("limit", limit);
  if (cursor) query.set("cursor", cursor);
  return json(`${BASE}/events?${query}`);
}

/** Returns whether events are kept: the configuration may have no `[events]`. */
export async function hasEvents() {
  const response = await fetch(`${BASE}/events?limit=1`, { cache: "no-store" });
  return response.status !== 404;
}

/** Returns one event, with its body only if asked: each view of a body is logged. */
export const event = (id, { body = false } = {}) => json(`${at(id)}?body=${body}`);
export const redeliver = (id) => call(`${at(id)}/redeliver`, { method: "POST" });
export const forget = (id) => call(`${at(id)}/forget`, { method: "POST" });
export const redeliverAll = async (filter) =>
  (await json(`${BASE}/redeliver`, { method: "POST", body: filter })).redelivered;
export const exported = async (id) => (await call(`${at(id)}/export`)).blob();

/** Opens the stream of changes. Returns a function that closes it. */
export function stream({ onEvent, onOpen, onLost }) {
  const source = new EventSource(`${BASE}/stream`);
  source.onopen = onOpen;
  source.onmessage = (message) => onEvent(JSON.parse(message.data));
  source.onerror = () => onLost(source.readyState === EventSource.CLOSED);
  return () => source.close();
}
