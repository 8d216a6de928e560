//! Clients that are gone, and fences that are: what is reported before that, and at which time.

use super::*;

#[test]
fn a_client_that_is_gone_has_left() {
    for reason in [Reason::Expired, Reason::Evicted, Reason::Forgotten] {
        let mut f = Fixture::new(FENCES);
        f.update(0, IN, 1_000);
        let name = reason.as_str();
        let expected = [format!("c0 leaves plain: {name}"), format!("c0 leaves steady: {name}")];
        assert_eq!(f.remove(0, reason), expected);
        assert_eq!((f.tick(9_000), f.fences.poll_timeout()), (vec![], None), "nothing is pending");
        assert_eq!(f.fences.clients_inside(), 0);
        f.update(0, IN, 9_001);
        f.tick(9_001);
        assert_eq!(f.tick(9_061), ["c0 enters slow", "c0 enters both"]);
    }
    let mut f = Fixture::new(FENCES);
    f.update(0, IN, 1_000);
    f.store(0, b"AT A +0.000000000 c0 1001.000000000", true);
    assert_eq!(f.transitions(), ["c0 leaves plain: forgotten", "c0 leaves steady: forgotten"]);
    assert_eq!(f.update(0, IN, 1_002), ["c0 enters plain", "c0 enters steady"]);
}

/// How a client disappears, or its fences.
#[derive(Clone, Copy, Debug)]
enum End {
    Removed(Reason),
    Erased,
    Reloaded { removed: bool },
}

impl End {
    const ALL: [Self; 5] = [
        Self::Removed(Reason::Expired),
        Self::Removed(Reason::Evicted),
        Self::Erased,
        Self::Reloaded { removed: false },
        Self::Reloaded { removed: true },
    ];

    fn happen(self, f: &mut Fixture, seconds: i64) -> Vec<String> {
        match self {
            Self::Removed(reason) => f.remove_at(0, reason, seconds),
            Self::Erased => {
                let line = format!("AT B +0.000000000 c0 {seconds}.000000000");
                f.store(0, line.as_bytes(), false);
                f.transitions()
            }
            Self::Reloaded { removed } => {
                f.install_at(r#"{"type": "FeatureCollection", "features": []}"#, seconds);
                // What happens until the clients are evaluated is later than the reload.
                let mut all = f.tick(seconds + 1_000);
                if removed {
                    all.extend(f.remove_at(0, Reason::Expired, seconds + 1_000));
                }
                all.extend(f.evaluate());
                all
            }
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Removed(reason) => reason.as_str(),
            Self::Erased => "forgotten",
            Self::Reloaded { .. } => "fence",
        }
    }
}

/// Timers fire once per turn and in limited numbers, and may not even have been started.
#[test]
fn a_change_that_was_due_precedes_the_end_of_its_client_or_fence() {
    for (end, started) in End::ALL.into_iter().flat_map(|end| [(end, true), (end, false)]) {
        let leaves = format!("c0 leaves slow: {}", end.as_str());
        let slow = |transitions: Vec<String>| -> Vec<String> {
            transitions.into_iter().filter(|it| it.contains("slow")).collect()
        };
        for (late, expected) in [(59, vec![]), (60, vec!["c0 enters slow", &*leaves])] {
            let mut f = Fixture::new(FENCES);
            f.update(0, IN, 1_000);
            if started {
                f.tick(1_000);
            }
            assert_eq!(slow(end.happen(&mut f, 1_000 + late)), expected, "{end:?} after {late} s");
            assert_eq!((f.tick(9_000), f.fences.poll_timeout()), (vec![], None));
        }
        for (late, expected) in [(59, &*leaves), (60, "c0 leaves slow: moved")] {
            let mut f = Fixture::new(FENCES);
            f.update(0, IN, 1_000);
            f.tick(1_000);
            f.tick(1_060);
            f.update(0, OUT, 1_100);
            if started {
                f.tick(1_100);
            }
            assert_eq!(
                slow(end.happen(&mut f, 1_100 + late)),
                [expected],
                "{end:?} after {late} s"
            );
            assert_eq!((f.tick(9_000), f.fences.poll_timeout()), (vec![], None));
            assert_eq!(f.fences.clients_inside(), 0);
        }
    }
}

/// A tombstone of a record that is ahead is ahead, too.
#[test]
fn the_time_of_a_tombstone_does_not_exceed_that_of_its_arrival() {
    let mut f = Fixture::new(FENCES);
    f.update(0, IN, 1_000);
    f.tick(1_000);
    let line = *b"AT A +0.000000000 c0 1064.000000000";
    f.store_at(0, &Record::parse(&line).unwrap(), true, at(1_059).wall);
    assert_eq!(f.transitions(), ["c0 leaves plain: forgotten", "c0 leaves steady: forgotten"]);
}

/// A record that was received by a clock that is ahead is due when its timer is.
#[test]
fn a_receive_time_in_the_future_delays_no_change_that_is_due_before_a_removal() {
    let mut f = Fixture::new(FENCES);
    f.update(0, IN, 5_000);
    f.tick(1_000);
    let expected = ["plain: expired", "steady: expired", "slow: expired", "both: expired"];
    let left: Vec<String> = expected.iter().map(|it| format!("c0 leaves {it}")).collect();
    let found = f.remove_at(0, Reason::Expired, 1_060);
    let entered = found.iter().filter(|it| it.contains("enters")).count();
    assert_eq!((entered, found.len()), (2, 6), "{found:?}");
    assert!(left.iter().all(|it| found.contains(it)), "{found:?}");
}
