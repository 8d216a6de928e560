#!/usr/bin/env node
// A node on Node.js, for comparison, without places and peers.
//
// Usage: node_server.js NAME HOST PORT
"use strict";

const net = require("node:net");

const SECOND = 1_000_000_000n;
const MAX_SECONDS = 253402300799n;
const DELTA = 5n * SECOND;

const SPACE = /[ \t\r\n\f\v]+/;
const ENDS = /^[ \t\r\n\f\v]+|[ \t\r\n\f\v]+$/g;
const LOCATION = /^([+-](?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))([+-](?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\/?$/;
const TIME = /^([+-]?)([0-9]*)(?:\.([0-9]*))?$/;
const RADIUS = /^\+?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)$/;
const RESULTS = /^\+?[0-9]+$/;

const NO_PLACES = `
{
  "html_attributions": [],
  "results": [],
  "status": "ZERO_RESULTS"
}

`;

const [name, host, port] = process.argv.slice(2);

// The newest record of each client. All text is Latin-1, so that each byte is one character.
const records = new Map();

// The wall clock in nanoseconds. Date has only milliseconds, so the monotonic clock supplies the rest.
const origin = BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint();
const now = () => origin + process.hrtime.bigint();

// Returns a time in nanoseconds since the Unix epoch, exactly, or null if it is invalid.
function nanoseconds(field) {
  const match = TIME.exec(field);
  if (!match || !(match[2] || match[3])) return null;
  const fraction = (match[3] ?? "").slice(0, 9).padEnd(9, "0");
  const value = BigInt(match[2] || "0") * SECOND + BigInt(fraction);
  if (value > MAX_SECONDS * SECOND) return null;
  return match[1] === "-" ? -value : value;
}

function isLocation(field) {
  const match = LOCATION.exec(field);
  return match && Math.abs(match[1]) <= 90 && Math.abs(match[2]) <= 180;
}

// Returns whether record a is newer than b, in the total order that all nodes of a herd share.
function isNewer(a, b) {
  for (const key of ["rank", "time", "received", "line"]) {
    if (a[key] !== b[key]) return a[key] > b[key];
  }
  return false;
}

function iamat(client, location, timestamp, time) {
  const received = now();
  const difference = received >= time ? received - time : time - received;
  const rest = String(difference % SECOND).padStart(9, "0");
  const sign = received >= time ? "+" : "-";
  const line = `AT ${name} ${sign}${difference / SECOND}.${rest} ${client} ${location} ${timestamp}`;
  const rank = time < received + DELTA ? time : received + DELTA;
  const record = { rank, time, received, line };
  const held = records.get(client);
  if (held === undefined || isNewer(record, held)) records.set(client, record);
  return line + "\n";
}

// Returns the reply to a line without its LF; empty for an empty line.
function answer(line) {
  line = line.replace(ENDS, "");
  if (line === "") return "";
  const [command, ...fields] = line.split(SPACE);
  if (command === "IAMAT" && fields.length === 3) {
    const [client, location, timestamp] = fields;
    const time = nanoseconds(timestamp);
    if (time !== null && isLocation(location)) return iamat(client, location, timestamp, time);
  }
  if (command === "WHATSAT" && fields.length === 3) {
    const [client, radius, results] = fields;
    const record = records.get(client);
    const valid = RADIUS.test(radius) && radius <= 50 && RESULTS.test(results) && results <= 20;
    if (record !== undefined && valid) return record.line + NO_PLACES;
  }
  return `? ${line}\n`;
}

const server = net.createServer({ noDelay: true, allowHalfOpen: true }, (socket) => {
  let partial = "";
  socket.setEncoding("latin1");
  socket.on("data", (data) => {
    const lines = (partial + data).split("\n");
    partial = lines.pop();
    const out = lines.map(answer).join("");
    if (out) socket.write(out, "latin1");
  });
  socket.on("end", () => socket.end(partial ? answer(partial) : "", "latin1"));
  socket.on("error", () => socket.destroy());
});
server.listen({ host, port: Number(port), backlog: 4096 });
