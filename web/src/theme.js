// Colours, light and dark; they are written down in style.css alone.

const dark = matchMedia("(prefers-color-scheme: dark)");
const names = ["land", "shore", "border", "text", "halo", "muted", "accent"];

/** How many colours nodes have; the next ones have them again. */
export const NODE_COLOURS = 6;

/** The colours as they are now, by their names in style.css, and `nodes`. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  const theme = Object.fromEntries(names.map((name) => [name, value(name)]));
  theme.nodes = Array.from({ length: NODE_COLOURS }, (_, index) => value(`node-${index}`));
  return theme;
}

/** Calls `then` when the person changes between light and dark. */
export function onChange(then) {
  dark.addEventListener("change", then);
}
