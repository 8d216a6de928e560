use super::directory::{Applied, Source};
use super::link::DIAL_RACE;
use super::routes::SETTLE;
use super::*;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::protocol::time::SECOND;
use crate::testing::{connected, herd, identity};

const WALL: Wall = Wall(5 * SECOND);

fn at(instant: Instant) -> Now {
    Now { instant, wall: WALL }
}

/// Handles everything that is due at `now`.
fn pass(herd: &mut Herd, now: Instant) {
    herd.handle_timeout(&at(now), now);
}

/// A node that was stopped knows what had arrived before, not what came meanwhile.
#[test]
fn a_link_is_silent_by_the_time_of_what_has_been_collected() {
    let mut herd = herd(identity(&["A", "B"], 0, &[1]));
    herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START);
    let end = Instant::START + herd.timing.timeout;
    let before = end.checked_sub(Duration::from_millis(1)).unwrap();
    herd.handle_timeout(&at(end + Duration::from_mins(1)), before);
    assert_eq!(herd.counters.links_timed_out, 0);
    assert!(herd.poll_timeout().unwrap() <= end, "it is called again");
    herd.handle_timeout(&at(end + Duration::from_mins(1)), end);
    assert_eq!(herd.counters.links_timed_out, 1);
}

/// A neighbor that stalls as soon as it is linked has not advertised the link when the graph
/// settles, so no tree includes it. Updates in the meantime must still be queued for it.
#[test]
fn a_neighbor_that_has_not_advertised_its_link_receives_updates() {
    let mut herd = herd(identity(&["A", "B", "C"], 1, &[0, 2]));
    herd.handle_connected(connected(10, 0, 7, Origin::Dialed), Instant::START);
    herd.handle_connected(connected(12, 2, 7, Origin::Dialed), Instant::START);
    let start = at(Instant::START);
    herd.handle_line(LinkId(0), ConnectionId(10), b"LINKS A 7 2 - B", &start, &mut ()).unwrap();
    pass(&mut herd, Instant::START + SETTLE);
    let record = Record::parse(b"AT B +0.000000000 k +1-1 5").unwrap();
    herd.apply_local_update(&record, WALL);
    for link in [0, 1].map(LinkId) {
        let mut out = Vec::new();
        herd.poll_transmit(link, &at(Instant::START), &mut out, usize::MAX, &mut ());
        let lines = out.split(|&byte| byte == b'\n');
        assert_eq!(lines.filter(|line| *line == record.line).count(), 1, "{link:?}");
    }
}

/// The race table of [`Herd::handle_connected`].
#[test]
fn of_two_connections_both_ends_keep_the_same_one() {
    use Origin::{Accepted, Dialed};
    let race = DIAL_RACE.saturating_sub(Duration::from_millis(1));
    for (me, old, new, boot, age, replaced) in [
        (0, Dialed, Accepted, 7, race, false),
        (0, Accepted, Dialed, 7, race, true),
        (1, Dialed, Accepted, 7, race, true),
        (1, Accepted, Dialed, 7, race, false),
        (0, Dialed, Dialed, 7, race, true),
        (0, Dialed, Accepted, 8, race, true),
        (0, Dialed, Accepted, 7, DIAL_RACE, true),
    ] {
        let mut herd = herd(identity(&["A", "B"], me, &[1 - me]));
        herd.handle_connected(connected(1, 1 - me, 7, old), Instant::START);
        let link = herd.handle_connected(connected(2, 1 - me, boot, new), Instant::START + age);
        let case = format!("node {me}: {old:?}, then {new:?} of boot {boot} after {age:?}");
        assert_eq!(link.is_some(), replaced, "{case}");
        let close = Action::Close { connection: ConnectionId(1), reason: CloseReason::Superseded };
        assert_eq!(herd.poll_action(), replaced.then_some(close), "{case}");
        herd.handle_disconnected(LinkId(0), ConnectionId(1), Instant::START + age);
        let kept = herd.link(LinkId(0)).up.as_ref().map(|up| up.connection);
        assert_eq!(kept, replaced.then_some(ConnectionId(2)), "{case}");
    }
}

/// The peer closes the connection that it has dialed as soon as it accepts the one of the lesser name,
/// whose handshake is not complete at this end yet.
#[test]
fn a_link_that_gives_way_to_a_dial_in_progress_is_not_lost() {
    use Origin::{Accepted, Dialed};
    for (me, dials, next, boot, lost) in [
        (0, true, Some(Dialed), 7, 0),
        (0, true, Some(Dialed), 8, 1),
        (0, true, Some(Accepted), 7, 1),
        (0, true, None, 7, 1),
        (0, false, Some(Dialed), 7, 1),
        (1, true, Some(Dialed), 7, 1),
    ] {
        let mut herd = herd(identity(&["A", "B"], me, &[1 - me]));
        let (link, start) = (LinkId(0), Instant::START);
        if dials {
            pass(&mut herd, start);
            assert_eq!(herd.poll_action(), Some(Action::Dial(link)));
        }
        herd.handle_connected(connected(1, 1 - me, 7, Accepted), start);
        herd.handle_disconnected(link, ConnectionId(1), start);
        assert!(herd.link(link).up.is_none());
        match next {
            Some(origin) => drop(herd.handle_connected(connected(2, 1 - me, boot, origin), start)),
            None => herd.handle_dial_failed(link, start),
        }
        let case = format!("node {me}, which dials: {dials}, then {next:?} with boot {boot}");
        assert_eq!(herd.counters.links_lost, lost, "{case}");
        assert_eq!(herd.link(link).up.is_some(), next.is_some(), "{case}");
    }
}

#[test]
fn a_clock_that_is_off_is_reported_once() {
    let mut herd = herd(identity(&["A", "B"], 0, &[1]));
    let link = herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START).unwrap();
    let mut now = Instant::START;
    for pong in ["PONG 1 9000000000", "PONG 2 9000000000", "PONG 3 5000000000"] {
        pass(&mut herd, now);
        herd.poll_transmit(link, &at(now), &mut Vec::new(), usize::MAX, &mut ());
        herd.handle_line(link, ConnectionId(1), pong.as_bytes(), &at(now), &mut ()).unwrap();
        now += herd.timing.keepalive;
    }
    assert_eq!(herd.poll_event(), Some(Event::ClockSkew { link, offset: 4 * SECOND }));
    assert_eq!(herd.poll_event(), None);
    assert!(!herd.link(link).up.as_ref().unwrap().clock_is_off());
}

/// A tombstone outranks what the node holds even if the clock of the node is behind, and is flooded to
/// neighbors but not to original servers.
#[test]
fn a_forgotten_client_is_forgotten_by_neighbors_and_not_mentioned_to_original_servers() {
    let mut herd = Herd::new(
        identity(&["A", "B", "C"], 1, &[0, 2]),
        &[NodeId(2)],
        crate::testing::timing(),
        crate::testing::KEYS,
        Instant::START,
    );
    herd.handle_connected(connected(10, 0, 7, Origin::Dialed), Instant::START);
    herd.handle_connected(connected(12, 2, 0, Origin::Dialed), Instant::START);
    let mut line = Vec::new();
    assert_eq!(herd.forget(b"k", WALL, &mut line), None);
    let record = Record::parse(b"AT A +0.000000000 k +1-1 8").unwrap();
    herd.apply_local_update(&record, WALL);
    let slot = herd.forget(b"k", WALL, &mut line);
    assert_eq!((slot, &line[..]), (Some(Slot(0)), &b"AT B +0.000000000 k 8.000000001"[..]));
    assert_eq!(herd.forget(b"k", WALL, &mut Vec::new()), None, "it is not held any more");
    assert_eq!(herd.apply_local_update(&record, WALL), Applied::Stale);
    for (link, expected) in [(LinkId(0), 1), (LinkId(1), 0)] {
        let mut out = Vec::new();
        herd.poll_transmit(link, &at(Instant::START), &mut out, usize::MAX, &mut ());
        let found = out.split(|&byte| byte == b'\n').filter(|sent| *sent == line).count();
        assert_eq!(found, expected, "{link:?}");
    }
    assert!(herd.poll_timeout().unwrap() <= Instant::START, "tombstones expire");
}

/// A node with a slow clock and as many tombstones as the rules permit keeps the one that it
/// acknowledges.
#[test]
fn an_acknowledged_tombstone_is_not_the_one_that_is_removed_early() {
    let mut identity = identity(&["A"], 0, &[]);
    identity.rules.max_clients = 8;
    let mut herd = herd(identity);
    let other = Record::parse(b"AT B +0.000000000 other 900.000000000").unwrap();
    herd.directory.apply(&other, Source::Peer, WALL);
    herd.apply_local_update(&Record::parse(b"AT A +0.000000000 k +1-1 4").unwrap(), WALL);
    let mut line = Vec::new();
    let slot = herd.forget(b"k", WALL, &mut line).unwrap();
    assert_eq!(herd.directory.line(slot), Some(&line[..]));
    assert_eq!((herd.directory.tombstones(), herd.directory.clients()), (1, 0));
}

/// 262,144 within five seconds are remembered.
#[test]
fn records_that_are_too_many_to_be_relayed_are_counted() {
    let mut herd = herd(identity(&["A", "B"], 0, &[1]));
    let link = herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START).unwrap();
    let day_after_tomorrow = 200_000;
    for i in 0..262_150 {
        let line = format!("AT B +0.000000000 k{i} +1-1 {day_after_tomorrow}");
        let now = at(Instant::START);
        herd.handle_line(link, ConnectionId(1), line.as_bytes(), &now, &mut ()).unwrap();
    }
    assert_eq!((herd.counters.relayed, herd.counters.relays_refused), (262_144, 6));
    assert_eq!(herd.counters.relays_dropped, 0);
}

/// Sends everything that waits for a link. Returns the link states among it.
fn link_states(herd: &mut Herd, link: LinkId) -> Vec<String> {
    let mut out = Vec::new();
    while herd.has_output(link) {
        herd.poll_transmit(link, &at(Instant::START), &mut out, usize::MAX, &mut ());
    }
    let out = String::from_utf8(out).unwrap();
    out.lines().filter(|line| line.starts_with("LINKS ")).map(str::to_owned).collect()
}

fn after(time: Duration) -> Instant {
    Instant::START + time
}

#[test]
fn a_node_that_departed_is_not_mentioned_to_neighbors_that_have_forgotten_it() {
    let mut herd = herd(identity(&["A", "B", "C"], 0, &[1, 2]));
    let b = herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START).unwrap();
    let receive = |herd: &mut Herd, line: &str, now: Instant| {
        herd.handle_line(b, ConnectionId(1), line.as_bytes(), &at(now), &mut ()).unwrap();
    };
    receive(&mut herd, "LINKS B 7 2 - A", Instant::START);
    receive(&mut herd, "LINKS X 7 2 - Y", Instant::START);
    pass(&mut herd, after(link_states::ADVERTISE_DELAY));
    pass(&mut herd, after(SETTLE * 2));
    let (soon, late) = (routes::OFFER_FOR, SETTLE * 2 + routes::OFFER_FOR);
    for (time, expected) in [(soon, true), (late, false)] {
        let mentions = |lines: &[String], name: &str| {
            lines.iter().any(|line| line.starts_with(&format!("LINKS {name} ")))
        };
        let c = herd.handle_connected(connected(2, 2, 7, Origin::Dialed), after(time)).unwrap();
        let sent = link_states(&mut herd, c);
        assert_eq!((mentions(&sent, "B"), mentions(&sent, "X")), (true, expected), "{time:?}");
        herd.handle_disconnected(c, ConnectionId(2), after(time));
    }
    // Nor if link states are sent because those of a neighbor differ.
    let mut sent = Vec::new();
    for second in 1..9 {
        let now = after(late + Duration::from_secs(second));
        receive(&mut herd, "PING 1 7", now);
        pass(&mut herd, now);
        sent.append(&mut link_states(&mut herd, b));
    }
    assert!(herd.counters.link_state_repairs > 0);
    assert!(!sent.is_empty() && !sent.iter().any(|line| line.starts_with("LINKS X ")), "{sent:?}");
}

/// The herd has more nodes than this node can learn. A neighbor knows others of them.
#[test]
fn link_states_of_too_many_nodes_are_sent_again_now_and_then_only() {
    let mut herd = herd(identity(&["A", "B"], 0, &[1]));
    let b = herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START).unwrap();
    let receive = |herd: &mut Herd, line: &str, now: Instant| {
        herd.handle_line(b, ConnectionId(1), line.as_bytes(), &at(now), &mut ()).unwrap();
    };
    let names: Vec<String> = (0..vertices::MAX_LEARNED).map(|i| format!("n{i}")).collect();
    receive(&mut herd, &format!("LINKS B 7 2 - A {}", names.join(" ")), Instant::START);
    for second in 0..3600 {
        let now = after(Duration::from_secs(second));
        let repairs = herd.counters.link_state_repairs;
        receive(&mut herd, "PING 1 7", now);
        if repairs < herd.counters.link_state_repairs {
            receive(&mut herd, "LINKS other 7 2 - B", now);
        }
        pass(&mut herd, now);
        link_states(&mut herd, b);
    }
    let repairs = herd.counters.link_state_repairs;
    assert!((3..=7).contains(&repairs), "{repairs} in an hour");
}

/// A node whose name another process uses, and what it advertises. The other process answers every link
/// state by exceeding it.
struct Contested {
    herd: Herd,
    now: Duration,
    advertised: Vec<(Duration, String)>,
}

impl Contested {
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(10);
            let now = at(after(self.now));
            self.herd.handle_line(LinkId(0), ConnectionId(1), b"PING 1 -", &now, &mut ()).unwrap();
            self.herd.handle_timeout(&now, now.instant);
            for line in link_states(&mut self.herd, LinkId(0)) {
                let Some(Message::Links(state)) = Message::parse(line.as_bytes()) else { panic!() };
                assert_eq!(state.origin, b"A");
                let sequence = state.version.sequence + 1;
                let other = format!("LINKS A 9 {sequence:x} -");
                self.herd
                    .handle_line(LinkId(0), ConnectionId(1), other.as_bytes(), &now, &mut ())
                    .unwrap();
                self.advertised.push((self.now, line));
            }
        }
    }

    fn advertised_since(&self, time: Duration) -> usize {
        self.advertised.iter().filter(|(at, _)| *at > time).count()
    }
}

#[test]
fn a_change_of_the_links_of_a_node_is_soon_known_although_its_name_is_contested() {
    let mut herd = herd(identity(&["A", "B", "C"], 0, &[1, 2]));
    herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START);
    let mut node = Contested { herd, now: Duration::ZERO, advertised: Vec::new() };
    let minute = Duration::from_mins(1);
    node.pass(minute * 4);
    let calm = node.now;
    node.pass(minute * 5);
    assert!(node.advertised_since(calm) <= 10, "one per half minute");
    while node.advertised_since(node.now.saturating_sub(Duration::from_secs(2))) == 0 {
        node.pass(Duration::from_secs(1));
    }
    let changed = node.now;
    node.herd.handle_connected(connected(2, 2, 7, Origin::Dialed), after(node.now));
    node.pass(namesakes::CONTEST_CHANGE_MAX);
    let (at, line) = node.advertised.last().unwrap();
    assert!(*at > changed && line.ends_with(" B C"), "{line}");
    // Links that change all the time.
    let busy = node.now;
    for _ in 0..300 {
        node.herd.handle_disconnected(LinkId(1), ConnectionId(2), after(node.now));
        node.pass(Duration::from_millis(100));
        node.herd.handle_connected(connected(2, 2, 7, Origin::Dialed), after(node.now));
        node.pass(Duration::from_millis(100));
    }
    let sent = node.advertised_since(busy);
    assert!((50..=61).contains(&sent), "{sent} in a minute");
}

/// A broken peer has advertised the last sequence number but one in the name of this node.
#[test]
fn a_node_that_starts_over_advertises_its_links_again() {
    let mut herd = herd(identity(&["A", "B"], 0, &[1]));
    herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START);
    let contest = format!("LINKS A 9 {:x} -", routes::LAST_SEQUENCE - 1);
    let mut sequences = Vec::new();
    for second in 0..120 {
        let now = at(after(Duration::from_secs(second)));
        for line in [if second == 5 { &contest } else { "PING 1 -" }, "LINKS B 7 2 - A"] {
            herd.handle_line(LinkId(0), ConnectionId(1), line.as_bytes(), &now, &mut ()).unwrap();
        }
        herd.handle_timeout(&now, now.instant);
        sequences.extend(link_states(&mut herd, LinkId(0)).iter().map(|line| {
            let Some(Message::Links(state)) = Message::parse(line.as_bytes()) else { panic!() };
            state.version.sequence
        }));
    }
    assert_eq!(sequences, [2, routes::LAST_SEQUENCE, 1]);
}

/// The clock of the node moves by more than the time to live while the neighbor does not read. For a
/// neighbor with another clock the earlier record may be the newer one that is alive.
#[test]
fn a_queued_record_that_gives_way_because_it_is_not_alive_is_relayed() {
    let wall = |seconds: i64| Wall(i128::from(seconds) * SECOND);
    for (before, after) in [(5, 100), (200_000, 100)] {
        let mut identity = identity(&["A", "B"], 0, &[1]);
        identity.rules.client_ttl = 60 * SECOND;
        let mut herd = herd(identity);
        herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START);
        let lines = [before, after].map(|at| format!("AT A +0.000000000 k +1-1 {at}"));
        for (line, at) in lines.iter().zip([before, after]) {
            let record = Record::parse(line.as_bytes()).unwrap();
            let applied = herd.apply_local_update(&record, wall(at));
            assert_eq!(applied, Applied::Stored(Slot(0)));
        }
        let mut out = Vec::new();
        herd.poll_transmit(
            LinkId(0),
            &Now { instant: Instant::START, wall: wall(after) },
            &mut out,
            usize::MAX,
            &mut (),
        );
        let out = String::from_utf8(out).unwrap();
        let sent: Vec<&str> = out.lines().filter(|line| line.starts_with("AT ")).collect();
        assert_eq!(sent, lines);
    }
}

/// The clock of the node is set right while its neighbors do not read. The first record gives way to one of
/// a neighbor, which takes its slot.
#[test]
fn a_record_in_the_slot_of_a_relayed_one_does_not_return_to_its_sender() {
    let mut identity = identity(&["A", "B", "C"], 1, &[0, 2]);
    identity.rules.client_ttl = 60 * SECOND;
    let mut herd = herd(identity);
    let a = herd.handle_connected(connected(10, 0, 7, Origin::Dialed), Instant::START).unwrap();
    let c = herd.handle_connected(connected(12, 2, 7, Origin::Dialed), Instant::START).unwrap();
    let own = "AT B +0.000000000 k +1-1 5";
    herd.apply_local_update(&Record::parse(own.as_bytes()).unwrap(), WALL);
    let theirs = "AT A +0.000000000 k +1-1 100";
    let now = Now { instant: Instant::START, wall: Wall(100 * SECOND) };
    herd.handle_line(a, ConnectionId(10), theirs.as_bytes(), &now, &mut ()).unwrap();
    assert_eq!(herd.directory.line(Slot(0)), Some(theirs.as_bytes()), "it takes the slot");
    for (link, expected) in [(a, vec![own]), (c, vec![own, theirs])] {
        let mut out = Vec::new();
        herd.poll_transmit(link, &now, &mut out, usize::MAX, &mut ());
        let out = String::from_utf8(out).unwrap();
        let sent: Vec<&str> = out.lines().filter(|line| line.starts_with("AT ")).collect();
        assert_eq!(sent, expected, "{link:?}");
    }
    assert_eq!(herd.counters.floods_sent, 3);
}

/// The clock of the node is behind. Its neighbors hold the record to be alive, and it is erased there.
#[test]
fn a_record_from_the_future_is_forgotten_everywhere() {
    let right = 10 * expiry::FUTURE_LIMIT;
    for behind in [expiry::FUTURE_LIMIT + 2 * SECOND, 3 * expiry::FUTURE_LIMIT] {
        let wall = Wall(right - behind);
        let mut herd = herd(identity(&["A", "B"], 1, &[0]));
        herd.handle_connected(connected(10, 0, 7, Origin::Dialed), Instant::START);
        let seconds = right / SECOND;
        let line = format!("AT A +1.000000000 k +1-1 {}", seconds - 1);
        let record = Record::parse(line.as_bytes()).unwrap();
        herd.directory.apply(&record, Source::File, wall);
        let mut line = Vec::new();
        let slot = herd.forget(b"k", wall, &mut line).unwrap();
        assert_eq!(herd.directory.line(slot), Some(&line[..]));
        assert_eq!(herd.directory.clients(), 0);
        let mut out = Vec::new();
        herd.poll_transmit(
            LinkId(0),
            &Now { instant: Instant::START, wall },
            &mut out,
            usize::MAX,
            &mut (),
        );
        assert!(out.split(|&byte| byte == b'\n').any(|sent| sent == line), "it is flooded");
        let tombstone = Record::parse(&line).unwrap();
        let mut other = crate::testing::herd(identity(&["A", "B"], 0, &[1]));
        other.directory.apply(&record, Source::Peer, Wall(right));
        let applied = other.directory.apply(&tombstone, Source::Peer, Wall(right));
        assert!(matches!(applied, Applied::Stored(_)));
        // By the clock of the node, a client that reports again is there again.
        let now = wall.nanos() / SECOND;
        let again = format!("AT B +0.000000000 k +1-1 {now}");
        herd.apply_local_update(&Record::parse(again.as_bytes()).unwrap(), wall);
        assert_eq!(herd.directory.get(b"k", wall), Some(again.as_bytes()));
    }
}
