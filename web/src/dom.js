// Helpers for the DOM.

/** Returns the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Creates an element with properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Creates an SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Creates an element for text from outside, whose direction must not affect the text around it. */
export const isolated = (text) => element("bdi", {}, text);

/** Sets text. Unchanged text is not set again, because a screen reader would repeat it. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
