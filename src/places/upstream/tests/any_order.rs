//! Random sequences of all events, checked against a model.

use proptest::prelude::*;
use proptest::sample::Index;

use std::collections::BTreeSet;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Ask { place: u32, max_results: u8 },
    Cancel(Index),
    Connect(Index),
    Fail(Index),
    Eof(Index, Eof),
    Reply(Index, Reply),
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Complete,
    Close,
    Part,
    Rest,
    Surplus,
    Interim,
    UntilClose,
    Junk,
    Code(u16),
    Wait,
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        6 => Just(Reply::Complete),
        1 => Just(Reply::Close),
        2 => Just(Reply::Part),
        2 => Just(Reply::Rest),
        1 => Just(Reply::Surplus),
        1 => Just(Reply::Interim),
        1 => Just(Reply::UntilClose),
        1 => Just(Reply::Junk),
        1 => prop::sample::select(vec![301, 400, 403, 408, 429, 500]).prop_map(Reply::Code),
        1 => Just(Reply::Wait),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1u32..12, 0u8..21).prop_map(|(place, max_results)| Op::Ask { place, max_results }),
        2 => any::<Index>().prop_map(Op::Cancel),
        6 => any::<Index>().prop_map(Op::Connect),
        1 => any::<Index>().prop_map(Op::Fail),
        1 => (any::<Index>(), prop::sample::select(vec![Eof::Clean, Eof::Abrupt])).prop_map(|(which, eof)| Op::Eof(which, eof)),
        8 => (any::<Index>(), reply()).prop_map(|(which, reply)| Op::Reply(which, reply)),
        2 => prop_oneof![0u64..20, 0u64..2_000, 0u64..60_000].prop_map(Op::Pass),
    ]
}

fn any_limits() -> impl Strategy<Value = PlacesLimits> {
    (
        1usize..5,
        0usize..6,
        prop::option::of(1usize..5),
        prop::option::of(prop::sample::select(vec![100u64, 5_000, 100_000])),
        1usize..4,
        prop::option::of(1u32..6),
        prop::option::of(1u32..40),
        prop::sample::select(vec![50u64, 1_000, 5_000, 20_000]),
    )
        .prop_map(
            |(pool_size, max_queued, max_in_flight, ttl, cache_entries, rate, day, deadline)| {
                PlacesLimits {
                    pool_size,
                    max_queued,
                    max_in_flight,
                    cache_ttl: ttl.map(ms),
                    cache_entries,
                    requests_per_second: rate,
                    requests_per_day: day,
                    deadline: ms(deadline),
                }
            },
        )
}

/// The expected state of all questions.
struct Model {
    shell: Shell,
    limits: PlacesLimits,
    waiting: BTreeMap<u64, (u32, u8, Instant)>,
    canceled: BTreeSet<u64>,
    /// Places for which a complete response was sent.
    served: BTreeSet<u32>,
    checked: BTreeSet<u64>,
}

impl Model {
    fn run(limits: PlacesLimits, ops: Vec<Op>) {
        let mut model = Self {
            shell: Shell::new(limits.clone()),
            limits,
            waiting: BTreeMap::new(),
            canceled: BTreeSet::new(),
            served: BTreeSet::new(),
            checked: BTreeSet::new(),
        };
        for op in ops {
            model.apply(op);
            model.check();
        }
        // All questions are answered by their deadlines, even without further responses.
        model.shell.pass(model.limits.deadline);
        model.check();
        assert!(model.waiting.is_empty(), "{:?}", model.waiting);
        assert_eq!((model.shell.gauges().waiting, model.shell.gauges().queued), (0, 0));
        // A repeated request may outlive the tickets that it was sent for.
        model.shell.pass(model.limits.deadline);
        assert_eq!(model.shell.gauges().in_flight, 0);
        // Everything expires.
        model.shell.pass(ms(10_000_000));
        assert_eq!(model.shell.client.poll_timeout(), None);
        assert!(model.shell.open.is_empty() && model.shell.connecting.is_empty());
        assert_eq!(model.shell.gauges().cached_bytes, 0);
    }

    fn apply(&mut self, op: Op) {
        let shell = &mut self.shell;
        match op {
            Op::Ask { place, max_results } => {
                let (now, ticket) = (shell.now, shell.next_ticket + 1);
                self.waiting.insert(ticket, (place, max_results, now + self.limits.deadline));
                shell.ask(place, max_results);
            }
            Op::Cancel(which) if !self.waiting.is_empty() => {
                let ticket = *which.get(&self.waiting.keys().copied().collect::<Vec<_>>());
                self.waiting.remove(&ticket);
                self.canceled.insert(ticket);
                shell.client.cancel(Ticket(ticket));
                shell.poll();
            }
            Op::Connect(which) if !shell.connecting.is_empty() => {
                shell.connect_one(which.index(shell.connecting.len()));
            }
            Op::Fail(which) if !shell.open.is_empty() || !shell.connecting.is_empty() => {
                let ids = [shell.open.clone(), shell.connecting.clone()].concat();
                shell.fail(*which.get(&ids));
            }
            Op::Eof(which, eof) if !shell.open.is_empty() => {
                let id = *which.get(&shell.open);
                self.served.extend(shell.asked.get(&id).filter(|_| eof == Eof::Clean));
                shell.eof(id, eof);
            }
            Op::Reply(which, reply) if !shell.open.is_empty() => {
                let id = *which.get(&shell.open);
                self.reply(id, reply);
            }
            Op::Pass(duration) => shell.pass(ms(duration)),
            _ => {}
        }
    }

    fn reply(&mut self, id: ConnId, reply: Reply) {
        let place = self.shell.asked.get(&id).copied();
        let complete = places(place.unwrap_or(99), 20);
        let (part, rest) = complete.split_at(60);
        if matches!(reply, Reply::Complete | Reply::Close | Reply::Surplus | Reply::Rest) {
            self.served.extend(place);
        }
        let text = match reply {
            Reply::Complete => complete.clone(),
            Reply::Close => complete.replacen("200 OK", "200 OK\r\nConnection: close", 1),
            Reply::Part => part.to_owned(),
            Reply::Rest => rest.to_owned(),
            Reply::Surplus => complete.clone() + "HTTP/1.1 200 OK\r\n",
            Reply::Interim => "HTTP/1.1 103 x\r\n\r\n".to_owned(),
            Reply::UntilClose => "HTTP/1.1 200 OK\r\n\r\n{}".to_owned(),
            Reply::Junk => format!("{CANARY}\r\n\r\n"),
            Reply::Code(code) => status(code),
            Reply::Wait => "HTTP/1.1 429 x\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n".into(),
        };
        self.shell.input(id, &text);
    }

    fn check(&mut self) {
        let now = self.shell.now;
        for (&ticket, text) in &self.shell.answers {
            if !self.checked.insert(ticket) {
                continue;
            }
            assert!(!self.canceled.contains(&ticket), "{ticket} was canceled");
            let (place, bound, deadline) = self.waiting.remove(&ticket).expect("not asked");
            assert!(self.shell.answered_at[&ticket] <= deadline, "{ticket} was answered late");
            let names = names(text);
            assert!(names.len() <= usize::from(bound));
            let own = format!("{place}#");
            assert!(names.iter().all(|name| name.starts_with(&own)), "{place}: {names:?}");
            if self.shell.status(ticket) == "OK" {
                assert!(self.served.contains(&place), "{place} was never answered");
            } else {
                assert!(names.is_empty());
            }
        }
        for (ticket, (_, _, deadline)) in &self.waiting {
            assert!(*deadline > now, "{ticket} waits past its deadline");
        }
        let gauges = self.shell.gauges();
        let in_flight = self.limits.max_in_flight.unwrap_or(usize::MAX);
        assert!(gauges.in_flight <= in_flight.min(self.limits.pool_size));
        assert!(gauges.connections <= self.limits.pool_size);
        assert!(
            gauges.queued + gauges.in_flight
                <= in_flight.min(self.limits.pool_size) + self.limits.max_queued
        );
        assert!(gauges.cached <= self.limits.cache_entries);
        assert_eq!(gauges.waiting, self.waiting.len());
        // No question is queued while a connection is available for it.
        let idle = gauges.connections - gauges.in_flight - self.shell.connecting.len();
        let room = in_flight.min(self.limits.pool_size) - gauges.in_flight;
        let is_served = self.shell.connecting.len() >= gauges.queued.min(room)
            || gauges.connections == self.limits.pool_size && idle == 0;
        assert!(is_served, "{gauges:?} {} connecting", self.shell.connecting.len());
        let within = |window: Duration| {
            let recent = self.shell.requested_at.iter().filter(|&&at| now < at + window);
            recent.count() as u32
        };
        let day = within(Duration::from_hours(24));
        assert!(self.limits.requests_per_day.is_none_or(|max| day <= max));
        // One second's worth may have accumulated, and another accrues.
        let second = within(ms(1_000));
        assert!(self.limits.requests_per_second.is_none_or(|rate| second <= 2 * rate));
        let stats = self.shell.client.stats();
        assert_eq!(stats.requests as usize, self.shell.requests.len());
        let done =
            stats.answered + stats.over_query_limit + stats.request_denied + stats.unknown_error;
        assert_eq!(stats.questions, done + stats.canceled + self.waiting.len() as u64);
    }
}

proptest! {
    #[test]
    fn every_question_is_answered_in_time_and_limits_are_kept(
        limits in any_limits(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        Model::run(limits, ops);
    }
}
