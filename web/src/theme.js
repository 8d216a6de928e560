// Colors of the light and dark theme, which are defined in style.css.

const dark = matchMedia("(prefers-color-scheme: dark)");
const names = ["surface", "land", "shore", "border", "text", "halo", "muted", "place", "grid", "fence", "accent"];

/** Number of node colors. Further nodes reuse them. */
export const NODE_COLORS = 6;

/** Returns the current colors by their names in style.css, and those of nodes as `nodes`. */
export function colors() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  const theme = Object.fromEntries(names.map((name) => [name, value(name)]));
  theme.nodes = Array.from({ length: NODE_COLORS }, (_, index) => value(`node-${index}`));
  return theme;
}

/** Calls `handle` when the preferred color scheme changes. */
export function onChange(handle) {
  dark.addEventListener("change", handle);
}
