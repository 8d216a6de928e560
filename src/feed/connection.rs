//! The connection to an engine: when to connect, how long to wait for it, and when to try again.

use core::time::Duration;

use crate::rng::Rng;
use crate::time::Instant;

/// Time for name resolution, TCP and TLS.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Time without a byte from the engine while it owes a reply.
const REPLY_DEADLINE: Duration = Duration::from_secs(30);

/// Pauses after failures: the first and the longest. A quarter is added at random.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(24));

/// A connection, of which there is one at a time.
pub(super) struct Connection {
    state: State,
    /// The number of the last connection.
    number: u64,
    /// True until the shell has taken the request to connect.
    is_requested: bool,
    /// The connection that the shell has to close.
    closes: Option<u64>,
    /// The time at which the engine must have sent something.
    deadline: Option<Instant>,
    /// The time of the last sign of life.
    heard: Instant,
    /// The pause after the next failure.
    pause: Duration,
    rng: Rng,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected until this time.
    Down(Instant),
    Connecting(u64),
    Up(u64),
}

impl Connection {
    /// No connection yet. `seed` varies the pauses.
    pub fn new(seed: u64) -> Self {
        Self {
            state: State::Down(Instant::START),
            number: 0,
            is_requested: false,
            closes: None,
            deadline: None,
            heard: Instant::START,
            pause: PAUSES.0,
            rng: Rng::new(seed),
        }
    }

    /// Returns the number of the connection if it is established.
    pub const fn established(&self) -> Option<u64> {
        match self.state {
            State::Up(id) => Some(id),
            State::Down(_) | State::Connecting(_) => None,
        }
    }

    /// Returns whether `id` is established.
    pub fn is_established(&self, id: u64) -> bool {
        self.established() == Some(id)
    }

    /// Returns whether `id` is established or being established.
    pub fn is_current(&self, id: u64) -> bool {
        matches!(self.state, State::Up(current) | State::Connecting(current) if current == id)
    }

    /// Returns whether the engine owes a reply.
    pub const fn is_waiting(&self) -> bool {
        self.deadline.is_some()
    }

    /// Returns the time of the last sign of life.
    pub const fn heard(&self) -> Instant {
        self.heard
    }

    /// Returns the number of a connection to establish.
    pub const fn poll_connect(&mut self) -> Option<u64> {
        match self.state {
            State::Connecting(id) if core::mem::replace(&mut self.is_requested, false) => Some(id),
            _ => None,
        }
    }

    /// Returns a connection to close.
    pub const fn poll_close(&mut self) -> Option<u64> {
        self.closes.take()
    }

    /// Returns the time from which on a connection may be established, if there is none.
    pub const fn due(&self) -> Option<Instant> {
        match self.state {
            State::Down(until) => Some(until),
            State::Connecting(_) | State::Up(_) => None,
        }
    }

    /// Returns the time at which the connection fails if nothing arrives.
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the reason why the connection has failed, if its deadline has passed.
    pub fn overdue(&self, now: Instant) -> Option<String> {
        self.deadline.filter(|&at| at <= now)?;
        match self.state {
            State::Down(_) => None,
            State::Connecting(_) => Some(format!("no connection within {CONNECT_DEADLINE:?}")),
            State::Up(_) => Some(format!("no answer within {REPLY_DEADLINE:?}")),
        }
    }

    /// Requests a connection, if there is none and the pause is over.
    pub fn establish(&mut self, now: Instant) {
        if self.due().is_some_and(|at| at <= now) {
            self.number += 1;
            self.state = State::Connecting(self.number);
            self.is_requested = true;
            self.deadline = Some(now + CONNECT_DEADLINE);
        }
    }

    /// Handles a connection that is established. Returns false if it is not the requested one.
    pub fn handle_connected(&mut self, id: u64) -> bool {
        let is_requested = self.state == State::Connecting(id);
        if is_requested {
            (self.state, self.deadline) = (State::Up(id), None);
        }
        is_requested
    }

    /// Handles bytes from the engine: it is alive.
    pub fn handle_input(&mut self, now: Instant) {
        self.heard = now;
        if self.is_waiting() {
            self.expect_reply(now);
        }
    }

    /// From now on the engine owes a reply.
    pub fn expect_reply(&mut self, now: Instant) {
        self.deadline = Some(now + REPLY_DEADLINE);
        self.heard = now;
    }

    /// Handles a complete reply.
    pub const fn handle_reply(&mut self) {
        self.deadline = None;
    }

    /// Handles a success: the next failure is the first again.
    pub const fn handle_success(&mut self) {
        self.pause = PAUSES.0;
    }

    /// Closes a connection that is no longer needed. It does not count as a failure.
    pub const fn hang_up(&mut self, now: Instant) {
        if let State::Up(id) = self.state {
            self.closes = Some(id);
        }
        (self.state, self.deadline) = (State::Down(now), None);
    }

    /// Gives the connection up. The next one is not established before a pause.
    pub fn fail(&mut self, now: Instant) {
        if let State::Up(id) | State::Connecting(id) = self.state {
            self.closes = Some(id);
        }
        (self.deadline, self.is_requested) = (None, false);
        let jitter = self.pause.mul_f64(self.rng.unit() / 4.0);
        self.state = State::Down(now + self.pause + jitter);
        self.pause = (2 * self.pause).min(PAUSES.1);
    }

    /// Handles that the shell has closed the connection without being asked to.
    pub const fn handle_closed(&mut self) {
        self.closes = None;
    }

    /// Prolongs the pause after a failure up to `at`.
    pub fn wait_until(&mut self, at: Instant) {
        if let State::Down(until) = &mut self.state {
            *until = (*until).max(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses double, vary by a quarter, have a limit, and start again after a success.
    #[test]
    fn pauses_grow_until_a_success() {
        let mut connection = Connection::new(7);
        let mut now = Instant::START;
        let mut pauses = Vec::new();
        for attempt in 0..8 {
            connection.establish(now);
            assert_eq!(connection.poll_connect(), Some(attempt + 1));
            assert_eq!(connection.poll_connect(), None, "requested once");
            connection.fail(now);
            assert_eq!(connection.poll_close(), Some(attempt + 1));
            let due = connection.due().unwrap();
            pauses.push(due.since(now));
            connection.establish(due.checked_sub(Duration::from_millis(1)).unwrap());
            assert_eq!(connection.poll_connect(), None, "the pause is not over");
            now = due;
        }
        let mut least = PAUSES.0;
        for pause in pauses {
            assert!((least..=least.mul_f64(1.25)).contains(&pause), "{pause:?}");
            least = (2 * least).min(PAUSES.1);
        }
        connection.handle_success();
        connection.fail(now);
        assert!(connection.due().unwrap().since(now) <= PAUSES.0.mul_f64(1.25));
    }

    /// An engine that sends something from time to time is not given up, and a silent one is.
    #[test]
    fn a_deadline_moves_with_each_sign_of_life() {
        let mut connection = Connection::new(0);
        let start = Instant::START;
        connection.establish(start);
        assert!(connection.overdue(start + CONNECT_DEADLINE / 2).is_none());
        let reason = connection.overdue(start + CONNECT_DEADLINE).unwrap();
        assert_eq!(reason, "no connection within 10s");
        assert!(!connection.handle_connected(2) && connection.handle_connected(1));
        assert!(connection.overdue(start + CONNECT_DEADLINE).is_none(), "nothing is owed");
        connection.expect_reply(start);
        connection.handle_input(start + REPLY_DEADLINE / 2);
        assert!(connection.overdue(start + REPLY_DEADLINE).is_none());
        let reason = connection.overdue(start + REPLY_DEADLINE.mul_f64(1.5)).unwrap();
        assert_eq!(reason, "no answer within 30s");
        connection.handle_reply();
        connection.handle_input(start + REPLY_DEADLINE);
        assert_eq!(connection.deadline(), None);
    }
}
