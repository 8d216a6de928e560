// Groups dots that are too close to each other to be told apart.

/** Width of the squares in which dots are counted, in CSS pixels. */
const SQUARE = 72;
/** Number of dots in view above which they are grouped at all, and in a square to be grouped. */
const CROWD = 100;
const LEAST = 16;

/** The radius of a group on the map, in CSS pixels. */
export const radiusOf = (count) => 11 + 4 * Math.log10(count);

/**
 * Groups the dots in view. `where` are their positions on the canvas, `left` and `top` the position of
 * the canvas in the world, all in pixels: the squares stay where they are when the map moves. Moves the
 * dots that remain single to the front of `visible` and `where`. Returns their number and the groups.
 */
export function group(visible, where, shown, { left, top, width, height, ratio, nodeOf, nodes, kept }) {
  if (shown <= CROWD) return { singles: shown, groups: [] };
  const square = SQUARE * ratio;
  const first = [left, top].map((edge) => Math.floor((edge - 10 * ratio) / square));
  const columns = Math.ceil((width + 20 * ratio) / square) + 1;
  const rows = Math.ceil((height + 20 * ratio) / square) + 1;
  const squareOf = (index) => {
    const column = Math.floor((where[2 * index] + left) / square) - first[0];
    return column + columns * (Math.floor((where[2 * index + 1] + top) / square) - first[1]);
  };
  const counts = new Uint32Array(columns * rows);
  for (let index = 0; index < shown; index++) counts[squareOf(index)]++;
  const groups = new Map();
  let singles = 0;
  for (let index = 0; index < shown; index++) {
    const at = visible[index];
    const [x, y] = [where[2 * index], where[2 * index + 1]];
    const key = squareOf(index);
    if (counts[key] >= LEAST) {
      let found = groups.get(key);
      if (!found) groups.set(key, (found = { x: 0, y: 0, count: counts[key], ofNode: new Uint32Array(nodes), members: [] }));
      found.x += x / found.count;
      found.y += y / found.count;
      found.ofNode[nodeOf[at]]++;
      found.members.push(at);
      if (at !== kept) continue;
    }
    visible[singles] = at;
    where[2 * singles] = x;
    where[2 * singles + 1] = y;
    singles++;
  }
  return { singles, groups: [...groups.values()] };
}
