//! Outstanding requests of one connection. Does no I/O.
//!
//! Replies must arrive in the order of the requests. They are matched by content, so that one wrong
//! reply counts as one error and does not make all later replies look wrong.

use std::collections::VecDeque;

use super::error::RequestError;
use super::limits::MAX_FAILED;
use super::wire::{CommandKind, Request, Verdict, Wire};

/// Requests in the order in which they were sent.
#[derive(Default)]
pub struct InFlight {
    queue: VecDeque<(Request, State)>,
    /// Number of entries in [`State::Failed`].
    failed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// A later request has already been answered.
    Overtaken,
    /// Already counted as an error; its reply may still arrive.
    Failed,
}

/// The effect of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    /// A request, successfully or with an error.
    Request(Request, Result<(), RequestError>),
    /// A request that has already been counted as failed: not counted again.
    Late,
    /// No request was outstanding.
    Unsolicited,
}

impl InFlight {
    /// Returns whether no reply is outstanding.
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// Number of outstanding requests.
    pub fn waiting(&self) -> usize {
        self.queue.len() - self.failed
    }

    /// Adds a request that has been sent.
    pub fn push(&mut self, request: Request) {
        self.queue.push_back((request, State::Waiting));
    }

    /// The request whose reply is expected next.
    pub fn next(&self) -> Option<&Request> {
        self.queue.iter().find(|(_, state)| *state == State::Waiting).map(|(request, _)| request)
    }

    /// Matches a reply from the server whose AT lines start with `prefix`.
    pub fn complete(&mut self, reply: &[u8], wire: &Wire, prefix: &[u8]) -> Completion {
        let check = |(request, _): &(Request, State)| wire.check(reply, request, prefix);
        let next = self.queue.iter().position(|(_, state)| *state == State::Waiting);
        if let Some(at) = next.filter(|&at| check(&self.queue[at]) == Verdict::Valid) {
            return self.complete_at(at, Verdict::Valid);
        }
        match self.queue.iter().position(|entry| check(entry) != Verdict::Unrelated) {
            Some(at) => self.complete_at(at, check(&self.queue[at])),
            None => self.fail_next(),
        }
    }

    fn complete_at(&mut self, at: usize, verdict: Verdict) -> Completion {
        let Some((request, state)) = self.queue.remove(at) else { return Completion::Unsolicited };
        let outcome = match (state, verdict) {
            (State::Failed, _) => {
                self.failed -= 1;
                return Completion::Late;
            }
            (State::Overtaken, _) => Err(RequestError::OutOfOrder),
            (State::Waiting, Verdict::Invalid(error)) => Err(error),
            (State::Waiting, _) => Ok(()),
        };
        if state == State::Waiting {
            for (_, state) in self.queue.iter_mut().take(at) {
                if *state == State::Waiting {
                    *state = State::Overtaken;
                }
            }
        }
        Completion::Request(request, outcome)
    }

    /// Charges an unrecognizable reply to the request whose reply was expected. The request stays in
    /// the queue: its real reply may follow.
    fn fail_next(&mut self) -> Completion {
        let next = self.queue.iter_mut().find(|(_, state)| *state == State::Waiting);
        let Some((request, state)) = next else { return Completion::Unsolicited };
        let completion = Completion::Request(request.clone(), Err(RequestError::Wrong));
        *state = State::Failed;
        self.count_failure();
        completion
    }

    /// Fails the requests due before `deadline` and calls `on_missing` for each.
    pub fn expire(&mut self, deadline: u64, mut on_missing: impl FnMut(CommandKind)) {
        let mut expired = 0;
        for (request, state) in &mut self.queue {
            if request.due >= deadline {
                break;
            }
            if *state != State::Failed {
                *state = State::Failed;
                on_missing(request.command);
                expired += 1;
            }
        }
        for _ in 0..expired {
            self.count_failure();
        }
    }

    /// Removes all requests, because the connection is lost, and calls `on_missing` for each that has
    /// not already failed.
    pub fn clear(&mut self, mut on_missing: impl FnMut(CommandKind)) {
        for (request, state) in self.queue.drain(..) {
            if state != State::Failed {
                on_missing(request.command);
            }
        }
        self.failed = 0;
    }

    /// Counts a failed request, and drops the oldest beyond [`MAX_FAILED`].
    fn count_failure(&mut self) {
        self.failed += 1;
        if self.failed > MAX_FAILED
            && let Some(oldest) = self.queue.iter().position(|(_, state)| *state == State::Failed)
        {
            self.queue.remove(oldest);
            self.failed -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::clients::{Range, payload};
    use super::super::wire::Protocol;
    use super::*;

    const PREFIX: &[u8] = b"AT Bona ";

    fn wire() -> Wire {
        Wire::new(Protocol::Herd, "10", 5, [b"Bona".to_vec(), b"Clark".to_vec()].into())
    }

    fn request(command: CommandKind, client: u32) -> Request {
        Request::new(command, client, time(client), client.into(), Range::AREA)
    }

    fn time(client: u32) -> u64 {
        1_700_000_000_000_000_000 + u64::from(client)
    }

    fn at(server: &str, payload: &[u8]) -> Vec<u8> {
        [b"AT ", server.as_bytes(), b" +0.000000001", payload, b"\n"].concat()
    }

    const FOUND: &str = "{\"html_attributions\": [], \"results\": \
        [{\"name\": \"a\", \"vicinity\": \"b\"}], \"status\": \"OK\"}\n\n";

    /// The valid reply to the IAMAT of `client`.
    fn iamat(client: u32) -> Vec<u8> {
        at("Bona", &payload(client, time(client), Range::AREA))
    }

    /// A reply to a WHATSAT about `client`, with a record `age` nanoseconds older than the request.
    fn whatsat(server: &str, client: u32, age: u64, document: &str) -> Vec<u8> {
        [
            at(server, &payload(client, time(client) - age, Range::AREA)),
            document.as_bytes().to_vec(),
        ]
        .concat()
    }

    fn in_flight(requests: &[(CommandKind, u32)]) -> InFlight {
        let mut in_flight = InFlight::default();
        for &(command, client) in requests {
            in_flight.push(request(command, client));
        }
        in_flight
    }

    /// The client whose request a reply completes, and the error.
    type Seen = (Option<u64>, Option<RequestError>);

    /// Sends `requests`, then passes in `replies`. Returns what each reply completed and the number of
    /// outstanding requests.
    fn exchange(requests: &[(CommandKind, u32)], replies: &[Vec<u8>]) -> (Vec<Seen>, usize) {
        let mut in_flight = in_flight(requests);
        let wire = wire();
        let completions =
            replies.iter().map(|reply| match in_flight.complete(reply, &wire, PREFIX) {
                Completion::Request(request, outcome) => (Some(request.due), outcome.err()),
                Completion::Late => (None, None),
                Completion::Unsolicited => (None, Some(RequestError::Unsolicited)),
            });
        (completions.collect(), in_flight.waiting())
    }

    const ABC: [(CommandKind, u32); 3] =
        [(CommandKind::Iamat, 1), (CommandKind::Iamat, 2), (CommandKind::Iamat, 3)];

    #[test]
    fn valid_replies_in_order_complete_their_requests() {
        let valid = (1..=3).map(|client| (Some(client), None)).collect();
        assert_eq!(exchange(&ABC, &[iamat(1), iamat(2), iamat(3)]), (valid, 0));
    }

    #[test]
    fn swapped_replies_are_one_error() {
        let completed =
            vec![(Some(2), None), (Some(1), Some(RequestError::OutOfOrder)), (Some(3), None)];
        assert_eq!(exchange(&ABC, &[iamat(2), iamat(1), iamat(3)]), (completed, 0));
    }

    #[test]
    fn a_missing_reply_is_one_error() {
        let mut in_flight = in_flight(&ABC);
        for client in [2, 3] {
            let completed = in_flight.complete(&iamat(client), &wire(), PREFIX);
            assert_eq!(completed, Completion::Request(request(CommandKind::Iamat, client), Ok(())));
        }
        let mut missing = 0;
        in_flight.expire(1, |_| missing += 1);
        assert_eq!((missing, in_flight.waiting()), (0, 1), "the timeout has not passed");
        in_flight.expire(2, |_| missing += 1);
        in_flight.expire(2, |_| missing += 1);
        in_flight.clear(|_| missing += 1);
        assert_eq!((missing, in_flight.waiting()), (1, 0));
    }

    #[test]
    fn a_late_reply_is_not_counted_again() {
        let mut in_flight = in_flight(&ABC);
        in_flight.expire(3, |_| ());
        assert_eq!(in_flight.complete(&iamat(1), &wire(), PREFIX), Completion::Late);
        assert_eq!(in_flight.complete(&iamat(2), &wire(), PREFIX), Completion::Late);
        let completed = in_flight.complete(&iamat(3), &wire(), PREFIX);
        assert_eq!(completed, Completion::Request(request(CommandKind::Iamat, 3), Ok(())));
    }

    #[test]
    fn a_wrong_reply_does_not_affect_the_next_request() {
        let payload = payload(1, time(1), Range::AREA);
        let other_location = {
            let mut payload = payload;
            payload[39] ^= 1;
            at("Bona", &payload)
        };
        let wrong = [
            at("Clark", &payload), // not the node that was asked
            other_location,
            [b"? IAMAT", &payload[..], b"\n"].concat(),
            [b"AT Bona 0.000000001", &payload[..], b"\n"].concat(),
            [b"AT Bona +0.1", &payload[..], b"\n"].concat(),
            [b"AT Bona +.000000001", &payload[..], b"\n"].concat(),
            [b"AT Bona +0.000000001 ", &payload[..], b"\n"].concat(),
            b"\n".to_vec(),
            b"? too many connections\n".to_vec(),
        ];
        for reply in wrong {
            let completed =
                vec![(Some(1), Some(RequestError::Wrong)), (Some(2), None), (Some(3), None)];
            let shown = reply.escape_ascii().to_string();
            assert_eq!(exchange(&ABC, &[reply, iamat(2), iamat(3)]), (completed, 0), "{shown}");
        }
    }

    /// Two WHATSATs for one client have identical replies.
    #[test]
    fn a_reply_completes_the_first_of_identical_requests() {
        let requests = [(CommandKind::Whatsat, 7), (CommandKind::Whatsat, 7)];
        let completed = vec![(Some(7), Some(RequestError::Wrong)), (Some(7), None)];
        let replies = [b"\n".to_vec(), whatsat("Bona", 7, 0, FOUND)];
        assert_eq!(exchange(&requests, &replies), (completed, 0));
    }

    #[test]
    fn a_repeated_reply_counts_against_the_next_request() {
        let completed = vec![
            (Some(1), None),
            (Some(2), Some(RequestError::Wrong)), // the repeated reply takes its place
            (None, None),
            (Some(3), None),
            (None, Some(RequestError::Unsolicited)),
        ];
        let replies = [iamat(1), iamat(1), iamat(2), iamat(3), iamat(3)];
        assert_eq!(exchange(&ABC, &replies), (completed, 0));
    }

    #[test]
    fn whatsat_replies_are_checked() {
        let empty = |status| {
            format!("{{\"html_attributions\": [], \"results\": [], \"status\": \"{status}\"}}\n\n")
        };
        let many = "{\"name\": \"a\", \"vicinity\": \"b\"},".repeat(6);
        let many = FOUND.replace("[{", &format!("[{many}{{"));
        for (reply, error) in [
            (whatsat("Bona", 7, 0, FOUND), None),
            (whatsat("Clark", 7, 0, &empty("ZERO_RESULTS")), None),
            (whatsat("Clark", 7, 1, FOUND), Some(RequestError::Stale)),
            (whatsat("Unknown", 7, 0, FOUND), Some(RequestError::Wrong)),
            (whatsat("Bona", 7, 0, &empty("OK")), Some(RequestError::Wrong)),
            (whatsat("Bona", 7, 0, &empty("REQUEST_DENIED")), Some(RequestError::NoPlaces)),
            (
                whatsat("Bona", 7, 0, &FOUND.replace("OK", "ZERO_RESULTS")),
                Some(RequestError::Wrong),
            ),
            (whatsat("Bona", 7, 0, &FOUND.replace("name", "nome")), Some(RequestError::Wrong)),
            (whatsat("Bona", 7, 0, &FOUND.replace("}]", "}")), Some(RequestError::Wrong)),
            (whatsat("Bona", 7, 0, &many), Some(RequestError::Wrong)),
            (whatsat("Bona", 7, 0, ""), Some(RequestError::Wrong)),
            (b"? WHATSAT client00000007.bench.example 10 5\n".to_vec(), Some(RequestError::Wrong)),
        ] {
            let shown = reply.escape_ascii().to_string();
            let completed = vec![(Some(7), error)];
            assert_eq!(exchange(&[(CommandKind::Whatsat, 7)], &[reply]), (completed, 0), "{shown}");
        }
    }

    #[test]
    fn replies_are_split_at_any_chunk_size() {
        let requests = [
            (CommandKind::Iamat, 1),
            (CommandKind::Whatsat, 2),
            (CommandKind::Whatsat, 3),
            (CommandKind::Iamat, 4),
        ];
        let refusal = b"? WHATSAT client00000003.bench.example 10 5\n".to_vec();
        let replies = [iamat(1), whatsat("Clark", 2, 0, FOUND), refusal, iamat(4)];
        let stream = replies.concat();
        let wire = wire();
        for step in [1, 7, stream.len()] {
            let mut in_flight = in_flight(&requests);
            let (mut from, mut searched, mut completed) = (0, 0, Vec::new());
            for to in (0..=stream.len()).step_by(step).chain([stream.len()]) {
                loop {
                    let next = in_flight.next().map(|request| request.command);
                    let Some(length) = wire.reply_length(&stream[from..to], next, searched) else {
                        searched = to - from;
                        break;
                    };
                    let reply = &stream[from..from + length];
                    assert_eq!(reply, replies[completed.len()], "step {step}");
                    completed.push(in_flight.complete(reply, &wire, PREFIX));
                    (from, searched) = (from + length, 0);
                }
            }
            assert_eq!((completed.len(), in_flight.waiting()), (4, 0));
        }
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut in_flight = InFlight::default();
        for client in 0..2 * MAX_FAILED as u32 {
            in_flight.push(request(CommandKind::Iamat, client));
        }
        in_flight.expire(u64::MAX, |_| ());
        assert_eq!((in_flight.queue.len(), in_flight.failed), (MAX_FAILED, MAX_FAILED));
        assert_eq!(in_flight.queue[0].0.client, MAX_FAILED as u32, "the oldest go first");
    }
}
