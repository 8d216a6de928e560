//! Connections that are served again without an event.

use std::collections::VecDeque;

use mio::Token;

use crate::net::connection::Connection;

/// The run queue, and what clients have used of the turn.
#[derive(Default)]
pub struct RunQueue {
    /// Connections that the next turn serves, in this order: those whose share was used up, and those
    /// for which something has happened without an event of their socket.
    ready: VecDeque<Token>,
    /// Connections that wait until fewer WHATSATs of all connections wait for places.
    starved: VecDeque<Token>,
    /// Bytes of commands and replies of clients in this turn, starting from zero for the run queue.
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

    /// Makes `connection` wait until there is room for its WHATSAT.
    pub fn starve(&mut self, connection: &mut Connection, token: Token) {
        if !std::mem::replace(&mut connection.starved, true) {
            self.starved.push_back(token);
        }
    }

    /// Takes all queued connections.
    pub fn take(&mut self) -> VecDeque<Token> {
        std::mem::take(&mut self.ready)
    }

    /// Queues connections that this turn does not serve; see [`Connection::queued`].
    pub fn append(&mut self, mut left: VecDeque<Token>) {
        self.ready.append(&mut left);
    }

    /// Puts back the connections that a turn has not reached, ahead of those queued since.
    pub fn put_back(&mut self, mut left: VecDeque<Token>) {
        left.append(&mut self.ready);
        self.ready = left;
    }

    /// Takes a starved connection.
    pub fn pop_starved(&mut self) -> Option<Token> {
        self.starved.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use mio::net::TcpStream;

    use super::*;
    use crate::net::connection::Stage;
    use crate::time::Instant;

    fn connection() -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        Connection::new(stream, Stage::Draining, address, Instant::START)
    }

    #[test]
    fn a_connection_is_queued_once() {
        let (mut queue, mut connection) = (RunQueue::default(), connection());
        assert!(!queue.is_waiting());
        queue.push(&mut connection, Token(1));
        queue.push(&mut connection, Token(1));
        assert!(queue.is_waiting());
        assert_eq!(queue.take(), [Token(1)]);
        assert!(!queue.is_waiting());
        queue.push(&mut connection, Token(1));
        assert!(!queue.is_waiting(), "it is still to be served");
        queue.starve(&mut connection, Token(1));
        queue.starve(&mut connection, Token(1));
        assert_eq!([queue.pop_starved(), queue.pop_starved()], [Some(Token(1)), None]);
        assert!(!queue.is_waiting(), "a starved connection is not served until it is resumed");
    }

    #[test]
    fn connections_that_waited_longest_are_served_first() {
        let mut queue = RunQueue::default();
        queue.push(&mut connection(), Token(3));
        queue.append([Token(4)].into());
        queue.put_back([Token(1), Token(2)].into());
        assert_eq!(queue.take(), [Token(1), Token(2), Token(3), Token(4)]);
    }
}
