// Elements are built here, and text only ever becomes text: no markup is parsed from strings.
// The page's Content-Security-Policy forbids it too (`require-trusted-types-for 'script'`).

const SVG = "http://www.w3.org/2000/svg";

/**
 * Creates an element. Functions in `props` become listeners (`onclick`), `true` and strings become
 * attributes, and `false`, `null` and `undefined` are left out. Strings among the children become
 * text.
 */
export function h(name, props = {}, ...children) {
  return fill(document.createElement(name), props, children);
}

/** Creates an SVG element. */
export function svg(name, props = {}, ...children) {
  return fill(document.createElementNS(SVG, name), props, children);
}

function fill(element, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Text from a sender: isolated, so that its writing direction does not affect what surrounds it. */
export function sent(text, name = "span", props = {}) {
  return h(name, { ...props, class: `sent ${props.class ?? ""}`.trim() }, String(text));
}

/** Replaces the children of an element; a focused link keeps the focus if it is still there. */
export function redraw(element, children) {
  const focused =
    element.contains(document.activeElement) && document.activeElement.getAttribute("href");
  element.replaceChildren(...children);
  if (focused)
    element.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}
