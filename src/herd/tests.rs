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

/// A neighbor that stalls as soon as it is linked has not advertised the link when the graph
/// settles, so no tree includes it. Updates in the meantime must still be queued for it.
#[test]
fn a_neighbor_that_has_not_advertised_its_link_receives_updates() {
    let mut herd = herd(identity(&["A", "B", "C"], 1, &[0, 2]));
    herd.handle_connected(connected(10, 0, 7, Origin::Dialed), Instant::START);
    herd.handle_connected(connected(12, 2, 7, Origin::Dialed), Instant::START);
    let start = at(Instant::START);
    herd.handle_line(LinkId(0), ConnectionId(10), b"LINKS A 7 2 - B", &start, &mut ()).unwrap();
    herd.handle_timeout(&at(Instant::START + SETTLE));
    let record = Record::parse(b"AT B +0.000000000 k +1-1 5").unwrap();
    herd.apply_local_update(&record, WALL);
    for link in [0, 1].map(LinkId) {
        let mut out = Vec::new();
        herd.poll_transmit(link, WALL, &mut out, usize::MAX, &mut ());
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

#[test]
fn a_clock_that_is_off_is_reported_once() {
    let mut herd = herd(identity(&["A", "B"], 0, &[1]));
    let link = herd.handle_connected(connected(1, 1, 7, Origin::Dialed), Instant::START).unwrap();
    let mut now = Instant::START;
    for pong in ["PONG 1 9000000000", "PONG 2 9000000000", "PONG 3 5000000000"] {
        herd.handle_timeout(&at(now));
        herd.poll_transmit(link, WALL, &mut Vec::new(), usize::MAX, &mut ());
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
    assert_eq!(herd.apply_local_update(&record, WALL), directory::Applied::Stale);
    for (link, expected) in [(LinkId(0), 1), (LinkId(1), 0)] {
        let mut out = Vec::new();
        herd.poll_transmit(link, WALL, &mut out, usize::MAX, &mut ());
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
    herd.directory.apply(&other, directory::Source::Peer, WALL);
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
