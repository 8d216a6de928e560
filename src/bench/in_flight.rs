//! The requests of one connection that wait for their replies. Pure.
//!
//! Replies must come in the order of the requests. What a lying server sends is matched by content,
//! so that one wrong reply is one fault and does not make all after it wrong.

use std::collections::VecDeque;

use super::fault::Fault;
use super::limits::MAX_FAILED;
use super::wire::{Judgement, Kind, Request, Wire};

/// Requests in the order they were sent.
#[derive(Default)]
pub struct InFlight {
    queue: VecDeque<(Request, State)>,
    failed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// A later request has its reply already.
    Overtaken,
    /// It counts as failed; its reply may still come.
    Failed,
}

/// What a reply settles.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    /// A request has got its reply, right or not.
    Answered(Request, Result<(), Fault>),
    /// A request that had failed before: there is nothing to count.
    TooLate,
    /// Nothing was asked.
    Unasked,
}

impl InFlight {
    /// Whether nothing at all is awaited.
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.queue.len() - self.failed
    }

    /// `request` has been sent.
    pub fn push(&mut self, request: Request) {
        self.queue.push_back((request, State::Waiting));
    }

    /// The request that is to be answered next.
    pub fn next(&self) -> Option<&Request> {
        self.queue.iter().find(|(_, state)| *state == State::Waiting).map(|(request, _)| request)
    }

    /// A reply came from the node whose AT lines begin with `prefix`.
    pub fn reply(&mut self, reply: &[u8], wire: &Wire, prefix: &[u8]) -> Settled {
        let judge = |(request, _): &(Request, State)| wire.judge(reply, request, prefix);
        let next = self.queue.iter().position(|(_, state)| *state == State::Waiting);
        if let Some(at) = next.filter(|&at| judge(&self.queue[at]) == Judgement::Right) {
            return self.matched(at, Judgement::Right);
        }
        match self.queue.iter().position(|it| judge(it) != Judgement::Foreign) {
            Some(at) => self.matched(at, judge(&self.queue[at])),
            None => self.no_reply_at_all(),
        }
    }

    fn matched(&mut self, at: usize, judgement: Judgement) -> Settled {
        let Some((request, state)) = self.queue.remove(at) else { return Settled::Unasked };
        let outcome = match (state, judgement) {
            (State::Failed, _) => {
                self.failed -= 1;
                return Settled::TooLate;
            }
            (State::Overtaken, _) => Err(Fault::OutOfOrder),
            (State::Waiting, Judgement::Faulty(fault)) => Err(fault),
            (State::Waiting, _) => Ok(()),
        };
        if state == State::Waiting {
            for (_, state) in self.queue.iter_mut().take(at) {
                if *state == State::Waiting {
                    *state = State::Overtaken;
                }
            }
        }
        Settled::Answered(request, outcome)
    }

    /// A line that is no reply to anything stands for the one that should have come.
    fn no_reply_at_all(&mut self) -> Settled {
        let waiting = self.queue.iter_mut().find(|(_, state)| *state == State::Waiting);
        let Some((request, state)) = waiting else { return Settled::Unasked };
        let settled = Settled::Answered(request.clone(), Err(Fault::Wrong));
        *state = State::Failed;
        self.fail();
        settled
    }

    /// Fails what was due before `deadline`, and tells of which kind each is.
    pub fn expire(&mut self, deadline: u64, mut missing: impl FnMut(Kind)) {
        let mut expired = 0;
        for (request, state) in &mut self.queue {
            if request.due >= deadline {
                break;
            }
            if *state != State::Failed {
                *state = State::Failed;
                missing(request.kind);
                expired += 1;
            }
        }
        for _ in 0..expired {
            self.fail();
        }
    }

    /// The connection has ended: nothing comes any more.
    pub fn lose(&mut self, mut missing: impl FnMut(Kind)) {
        for (request, state) in self.queue.drain(..) {
            if state != State::Failed {
                missing(request.kind);
            }
        }
        self.failed = 0;
    }

    /// One more has failed. Those that failed long ago are forgotten.
    fn fail(&mut self) {
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
    use super::super::clients::said;
    use super::super::wire::Protocol;
    use super::*;

    const PREFIX: &[u8] = b"AT Bona ";

    fn wire() -> Wire {
        Wire::new(Protocol::Herd, "10", 5, [b"Bona".to_vec(), b"Clark".to_vec()].into())
    }

    fn request(kind: Kind, client: u32) -> Request {
        Request::new(kind, client, time(client), client.into())
    }

    fn time(client: u32) -> u64 {
        1_700_000_000_000_000_000 + u64::from(client)
    }

    fn at(server: &str, said: &[u8]) -> Vec<u8> {
        [b"AT ", server.as_bytes(), b" +0.000000001", said, b"\n"].concat()
    }

    const FOUND: &str = "{\"html_attributions\": [], \"results\": \
        [{\"name\": \"a\", \"vicinity\": \"b\"}], \"status\": \"OK\"}\n\n";

    /// A reply, right or planted, to the request about `client`.
    fn iamat(client: u32) -> Vec<u8> {
        at("Bona", &said(client, time(client)))
    }

    fn whatsat(server: &str, client: u32, age: u64, document: &str) -> Vec<u8> {
        [at(server, &said(client, time(client) - age)), document.as_bytes().to_vec()].concat()
    }

    fn in_flight(requests: &[(Kind, u32)]) -> InFlight {
        let mut flight = InFlight::default();
        for &(kind, client) in requests {
            flight.push(request(kind, client));
        }
        flight
    }

    /// Whose request a reply settles, and what was wrong.
    type Seen = (Option<u64>, Option<Fault>);

    /// Sends `requests`, then gives `replies`, and tells what each settled and how many requests
    /// wait still.
    fn exchange(requests: &[(Kind, u32)], replies: &[Vec<u8>]) -> (Vec<Seen>, usize) {
        let mut flight = in_flight(requests);
        let wire = wire();
        let settled = replies.iter().map(|reply| match flight.reply(reply, &wire, PREFIX) {
            Settled::Answered(request, outcome) => (Some(request.due), outcome.err()),
            Settled::TooLate => (None, None),
            Settled::Unasked => (None, Some(Fault::Unasked)),
        });
        (settled.collect(), flight.waiting())
    }

    const ABC: [(Kind, u32); 3] = [(Kind::Iamat, 1), (Kind::Iamat, 2), (Kind::Iamat, 3)];

    #[test]
    fn right_replies_in_order() {
        let right = (1..=3).map(|client| (Some(client), None)).collect();
        assert_eq!(exchange(&ABC, &[iamat(1), iamat(2), iamat(3)]), (right, 0));
    }

    #[test]
    fn swapped_replies_are_one_fault() {
        let settled = vec![(Some(2), None), (Some(1), Some(Fault::OutOfOrder)), (Some(3), None)];
        assert_eq!(exchange(&ABC, &[iamat(2), iamat(1), iamat(3)]), (settled, 0));
    }

    #[test]
    fn a_reply_that_never_comes_is_one_fault() {
        let mut flight = in_flight(&ABC);
        for client in [2, 3] {
            let settled = flight.reply(&iamat(client), &wire(), PREFIX);
            assert_eq!(settled, Settled::Answered(request(Kind::Iamat, client), Ok(())));
        }
        let mut missing = 0;
        flight.expire(1, |_| missing += 1);
        assert_eq!((missing, flight.waiting()), (0, 1), "it is not yet too late");
        flight.expire(2, |_| missing += 1);
        flight.expire(2, |_| missing += 1);
        flight.lose(|_| missing += 1);
        assert_eq!((missing, flight.waiting()), (1, 0));
    }

    #[test]
    fn a_reply_after_its_time_is_not_counted_again() {
        let mut flight = in_flight(&ABC);
        flight.expire(3, |_| ());
        assert_eq!(flight.reply(&iamat(1), &wire(), PREFIX), Settled::TooLate);
        assert_eq!(flight.reply(&iamat(2), &wire(), PREFIX), Settled::TooLate);
        let settled = flight.reply(&iamat(3), &wire(), PREFIX);
        assert_eq!(settled, Settled::Answered(request(Kind::Iamat, 3), Ok(())));
    }

    #[test]
    fn what_is_wrong_with_one_is_no_fault_of_the_next() {
        let said = said(1, time(1));
        let other_place = {
            let mut said = said;
            said[39] ^= 1;
            at("Bona", &said)
        };
        let wrong = [
            at("Clark", &said), // a node that was not asked
            other_place,
            [b"? IAMAT", &said[..], b"\n"].concat(),
            [b"AT Bona 0.000000001", &said[..], b"\n"].concat(),
            [b"AT Bona +0.1", &said[..], b"\n"].concat(),
            [b"AT Bona +.000000001", &said[..], b"\n"].concat(),
            [b"AT Bona +0.000000001 ", &said[..], b"\n"].concat(),
            b"\n".to_vec(),
            b"? too many connections\n".to_vec(),
        ];
        for reply in wrong {
            let settled = vec![(Some(1), Some(Fault::Wrong)), (Some(2), None), (Some(3), None)];
            let shown = reply.escape_ascii().to_string();
            assert_eq!(exchange(&ABC, &[reply, iamat(2), iamat(3)]), (settled, 0), "{shown}");
        }
    }

    /// Two WHATSATs for one client have the same reply.
    #[test]
    fn a_reply_is_first_of_all_that_to_the_next_request() {
        let asked = [(Kind::Whatsat, 7), (Kind::Whatsat, 7)];
        let settled = vec![(Some(7), Some(Fault::Wrong)), (Some(7), None)];
        let replies = [b"\n".to_vec(), whatsat("Bona", 7, 0, FOUND)];
        assert_eq!(exchange(&asked, &replies), (settled, 0));
    }

    #[test]
    fn a_reply_too_many() {
        let settled = vec![
            (Some(1), None),
            (Some(2), Some(Fault::Wrong)), // the repeated one stands in its place
            (None, None),
            (Some(3), None),
            (None, Some(Fault::Unasked)),
        ];
        let replies = [iamat(1), iamat(1), iamat(2), iamat(3), iamat(3)];
        assert_eq!(exchange(&ABC, &replies), (settled, 0));
    }

    #[test]
    fn what_a_whatsat_may_tell() {
        let empty = |status| {
            format!("{{\"html_attributions\": [], \"results\": [], \"status\": \"{status}\"}}\n\n")
        };
        let many = "{\"name\": \"a\", \"vicinity\": \"b\"},".repeat(6);
        let many = FOUND.replace("[{", &format!("[{many}{{"));
        for (reply, fault) in [
            (whatsat("Bona", 7, 0, FOUND), None),
            (whatsat("Clark", 7, 0, &empty("ZERO_RESULTS")), None),
            (whatsat("Clark", 7, 1, FOUND), Some(Fault::Stale)),
            (whatsat("Nobody", 7, 0, FOUND), Some(Fault::Wrong)),
            (whatsat("Bona", 7, 0, &empty("OK")), Some(Fault::Wrong)),
            (whatsat("Bona", 7, 0, &empty("REQUEST_DENIED")), Some(Fault::NoPlaces)),
            (whatsat("Bona", 7, 0, &FOUND.replace("OK", "ZERO_RESULTS")), Some(Fault::Wrong)),
            (whatsat("Bona", 7, 0, &FOUND.replace("name", "nome")), Some(Fault::Wrong)),
            (whatsat("Bona", 7, 0, &FOUND.replace("}]", "}")), Some(Fault::Wrong)),
            (whatsat("Bona", 7, 0, &many), Some(Fault::Wrong)),
            (whatsat("Bona", 7, 0, ""), Some(Fault::Wrong)),
            (b"? WHATSAT client00000007.bench.example 10 5\n".to_vec(), Some(Fault::Wrong)),
        ] {
            let shown = reply.escape_ascii().to_string();
            let settled = vec![(Some(7), fault)];
            assert_eq!(exchange(&[(Kind::Whatsat, 7)], &[reply]), (settled, 0), "{shown}");
        }
    }

    #[test]
    fn replies_are_cut_out_of_the_stream() {
        let requests = [(Kind::Iamat, 1), (Kind::Whatsat, 2), (Kind::Whatsat, 3), (Kind::Iamat, 4)];
        let refusal = b"? WHATSAT client00000003.bench.example 10 5\n".to_vec();
        let replies = [iamat(1), whatsat("Clark", 2, 0, FOUND), refusal, iamat(4)];
        let stream = replies.concat();
        let wire = wire();
        for step in [1, 7, stream.len()] {
            let mut flight = in_flight(&requests);
            let (mut from, mut searched, mut settled) = (0, 0, Vec::new());
            for to in (0..=stream.len()).step_by(step).chain([stream.len()]) {
                loop {
                    let next = flight.next().map(|it| it.kind);
                    let Some(length) = wire.reply_length(&stream[from..to], next, searched) else {
                        searched = to - from;
                        break;
                    };
                    let reply = &stream[from..from + length];
                    assert_eq!(reply, replies[settled.len()], "step {step}");
                    settled.push(flight.reply(reply, &wire, PREFIX));
                    (from, searched) = (from + length, 0);
                }
            }
            assert_eq!((settled.len(), flight.waiting()), (4, 0));
        }
    }

    #[test]
    fn failures_are_not_kept_for_ever() {
        let mut flight = InFlight::default();
        for client in 0..2 * MAX_FAILED as u32 {
            flight.push(request(Kind::Iamat, client));
        }
        flight.expire(u64::MAX, |_| ());
        assert_eq!((flight.queue.len(), flight.failed), (MAX_FAILED, MAX_FAILED));
        assert_eq!(flight.queue[0].0.client, MAX_FAILED as u32, "the oldest go first");
    }
}
