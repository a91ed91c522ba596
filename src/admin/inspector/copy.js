// A request as text for a terminal or a file.

const REDACTED = "[redacted]";
/** curl computes these. */
const COMPUTED = ["content-length", "transfer-encoding", "connection"];

export const hasRedacted = (request) => request.headers.some(([, value]) => value === REDACTED);

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (unit) => unit.charCodeAt(0));
}

function toBase64(text) {
  let binary = "";
  for (const byte of new TextEncoder().encode(text)) binary += String.fromCharCode(byte);
  return btoa(binary);
}

/** A word for a POSIX shell, whatever the text contains. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/**
 * Returns a command that sends the request again. The body is piped, so its length has no limit.
 * One with control characters is written in base64, because terminals act on them when they are
 * pasted.
 */
export function asCurl(request) {
  const host = request.headers.find(([name]) => name.toLowerCase() === "host")?.[1] ?? "localhost";
  const headers = request.headers.filter(([name]) => !COMPUTED.includes(name.toLowerCase()));
  const isPlain = request.encoding === "utf8" && !/[\0-\x09\x0b-\x1f\x7f-\x9f]/.test(request.body);
  const body = isPlain
    ? request.body
    : request.encoding === "utf8"
      ? toBase64(request.body)
      : request.body;
  const pipe = body === "" ? "" : `printf %s ${quoted(body)} | ${isPlain ? "" : "base64 -d | "}`;
  return [
    `${pipe}curl -X ${quoted(request.method)}`,
    ...headers.map(
      ([name, value]) => `-H ${quoted(value === "" ? `${name};` : `${name}: ${value}`)}`,
    ),
    ...(body === "" ? [] : ["--data-binary @-"]),
    quoted(`https://${host}${request.path}`),
  ].join(" \\\n  ");
}

/** Returns the request as `sealgate verify` reads it; `null` if the body is not text. */
export function asRequest(request) {
  if (request.encoding !== "utf8") return null;
  const head = request.headers.map(([name, value]) => `${name}: ${value}\n`).join("");
  return `${request.method} ${request.path} HTTP/1.1\n${head}\n${request.body}`;
}

/** Copies a text. Browsers offer the clipboard only over https and on loopback. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error("The browser does not allow copying.");
}
