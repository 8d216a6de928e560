//! A server like the original one, as far as a node that dials it can tell: it reads bare AT lines and
//! sends nothing.

use std::collections::{BTreeMap, HashSet};

use crate::network::Packet;

#[derive(Default)]
pub struct OriginalServer {
    lines: HashSet<Vec<u8>>,
    /// Per wire, the part of a line that has arrived.
    partial: BTreeMap<usize, Vec<u8>>,
}

impl OriginalServer {
    pub fn handle_packet(&mut self, wire: usize, packet: &Packet) {
        let Packet::Bytes(bytes) = packet else {
            self.partial.remove(&wire);
            return;
        };
        let input = self.partial.entry(wire).or_default();
        input.extend_from_slice(bytes);
        while let Some(length) = input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = input.drain(..=length).collect();
            self.lines.insert(line[..length].to_vec());
        }
    }

    /// Returns whether it has received `line`, given without LF.
    pub fn has(&self, line: &[u8]) -> bool {
        self.lines.contains(line)
    }
}
