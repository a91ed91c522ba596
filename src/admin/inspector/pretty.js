// Bodies laid out for reading. Nothing is parsed into values and printed again: numbers keep their
// digits, and repeated members stay.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs;
const ESCAPE = /\\u(d[89ab]..)\\u(d[c-f]..)|\\u([0-9a-f]{4})|\\./gis;
/** Characters that are easier to see as escapes: controls, and what changes the direction of text. */
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}]/u;
const DEEPEST = 40;

/** Returns JSON with one member a line, or `null` if the text is not JSON. */
export function prettyJson(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const parts = [];
  let depth = 0;
  let previous = "";
  const line = () => parts.push("\n", "  ".repeat(Math.min(depth, DEEPEST)));
  for (const [token] of text.matchAll(TOKEN)) {
    const isEnd = token === "}" || token === "]";
    if (isEnd) depth -= 1;
    const isEmpty = isEnd && (previous === "{" || previous === "[");
    const isFirst = previous === "{" || previous === "[" || previous === ",";
    if (!isEmpty && (isEnd || isFirst)) line();
    parts.push(token[0] === '"' ? readable(token) : token);
    if (token === ":") parts.push(" ");
    if (token === "{" || token === "[") depth += 1;
    previous = token;
  }
  return parts.join("");
}

/** Returns the decoded fields of a form, one a line. */
export function prettyForm(text) {
  return [...new URLSearchParams(text)].map(([name, value]) => `${name} = ${value}`).join("\n");
}

/** A JSON string in which letters that are escaped (`\ud55c`) are written as such. */
function readable(string) {
  if (!string.includes("\\u")) return string;
  return string.replace(ESCAPE, (escape, high, low, unit) => {
    const codes = high ? [high, low] : unit ? [unit] : [];
    const text = String.fromCharCode(...codes.map((code) => Number.parseInt(code, 16)));
    return codes.length === 0 || text < "\u00a0" || INVISIBLE.test(text) ? escape : text;
  });
}
