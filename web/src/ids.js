// Ids of clients: their names, percent-encoded byte by byte, as the node writes them.

/** Returns the id of the client with this name. */
export function idOf(name) {
  return encode(new TextEncoder().encode(name));
}

/** Returns the id that a URL fragment means. Sequences that are not valid are taken literally. */
export function idOfFragment(fragment) {
  const bytes = [];
  for (let at = 0; at < fragment.length; ) {
    const encoded = /^%[0-9a-f]{2}/i.exec(fragment.slice(at, at + 3));
    if (encoded) {
      bytes.push(parseInt(encoded[0].slice(1), 16));
      at += 3;
    } else {
      const character = String.fromCodePoint(fragment.codePointAt(at));
      bytes.push(...new TextEncoder().encode(character));
      at += character.length;
    }
  }
  // The ids of `.` and `..` end with an encoded space.
  if (/^\.{1,2} $/.test(String.fromCharCode(...bytes.slice(0, 4)))) bytes.pop();
  return encode(bytes);
}

function encode(bytes) {
  let id = "";
  for (const byte of bytes) {
    const character = String.fromCharCode(byte);
    id += /[A-Za-z0-9._~-]/.test(character) ? character : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  // Browsers resolve the path segments `.` and `..`, however they are encoded.
  return id === "." || id === ".." ? `${id}%20` : id;
}
