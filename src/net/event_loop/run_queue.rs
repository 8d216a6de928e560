//! Connections that are served again without an event.

use std::collections::VecDeque;

use mio::Token;

use crate::net::connection::Connection;

/// The run queue, and what clients have used of the turn.
#[derive(Default)]
pub struct RunQueue {
    /// Connections whose share of the last turn was used up, in the order in which they are served.
    ready: VecDeque<Token>,
    /// Connections that wait until fewer WHATSATs of all connections wait for places.
    starved: VecDeque<Token>,
    /// Bytes of commands and replies that clients have had of this turn, or of this half of it.
    pub spent: usize,
}

impl RunQueue {
    /// Returns true if a connection waits to be served.
    pub fn is_waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Queues `connection` unless it is queued already.
    pub fn push(&mut self, connection: &mut Connection, token: Token) {
        if !std::mem::replace(&mut connection.queued, true) {
            self.ready.push_back(token);
        }
    }

    /// Has `connection` wait for room for its WHATSAT.
    pub fn starve(&mut self, connection: &mut Connection, token: Token) {
        if !std::mem::replace(&mut connection.starved, true) {
            self.starved.push_back(token);
        }
    }

    /// Takes all queued connections.
    pub fn take(&mut self) -> VecDeque<Token> {
        std::mem::take(&mut self.ready)
    }

    /// Puts back what a turn has not got to, in front of what has been queued since.
    pub fn put_back(&mut self, mut left: VecDeque<Token>) {
        left.append(&mut self.ready);
        self.ready = left;
    }

    /// Takes a starved connection.
    pub fn pop_starved(&mut self) -> Option<Token> {
        self.starved.pop_front()
    }
}
