//! A server like the original one: it accepts bare AT lines on any connection, keeps the newest time of
//! each client, and floods what is newer to all its neighbors, including the sender, each record on a
//! connection of its own.

use std::collections::{BTreeMap, HashMap};

use crate::network::Packet;

#[derive(Default)]
pub struct OriginalServer {
    /// How often it has received each line; 0 for the updates of its own clients.
    lines: HashMap<Vec<u8>, u32>,
    /// The time of each client, as Python parses it.
    times: HashMap<Vec<u8>, f64>,
    /// Per wire, the part of a line that has arrived.
    partial: BTreeMap<usize, Vec<u8>>,
}

impl OriginalServer {
    /// Returns the records to flood.
    pub fn handle_packet(&mut self, wire: usize, packet: &Packet) -> Vec<Vec<u8>> {
        let Packet::Bytes(bytes) = packet else {
            self.partial.remove(&wire);
            return Vec::new();
        };
        let mut input = self.partial.remove(&wire).unwrap_or_default();
        input.extend_from_slice(bytes);
        let mut news = Vec::new();
        while let Some(length) = input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = input.drain(..=length).take(length).collect();
            *self.lines.entry(line.clone()).or_default() += 1;
            if self.store(&line) {
                news.push(line);
            }
        }
        self.partial.insert(wire, input);
        news
    }

    /// Handles the AT line of an update of its own client. Returns whether it is newer.
    pub fn update(&mut self, line: &[u8]) -> bool {
        let is_newer = self.store(line);
        if is_newer {
            self.lines.entry(line.to_vec()).or_default();
        }
        is_newer
    }

    /// Creates a record that no client has reported.
    pub fn forge(&mut self, line: &[u8]) {
        self.lines.entry(line.to_vec()).or_default();
    }

    /// Returns whether the record is newer than what is held for its client.
    fn store(&mut self, line: &[u8]) -> bool {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let time: f64 = std::str::from_utf8(fields[5]).unwrap().parse().unwrap();
        let held = self.times.entry(fields[3].to_vec()).or_insert(f64::NEG_INFINITY);
        let is_newer = time > *held;
        *held = held.max(time);
        is_newer
    }

    /// Returns whether it has received `line`, given without LF, or created it.
    pub fn has(&self, line: &[u8]) -> bool {
        self.lines.contains_key(line)
    }

    /// A line that it has received more than `most` times.
    pub fn repeated(&self, most: usize) -> Option<(&[u8], u32)> {
        let lines = self.lines.iter().map(|(line, count)| (line.as_slice(), *count));
        lines.filter(|&(_, count)| count as usize > most).min()
    }
}
