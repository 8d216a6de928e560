//! The configurable times of links, under a virtual clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

use std::time::Duration;

use proxy_herd::herd::{Action, CloseReason, Herd, Origin, Timing};
use proxy_herd::ids::{ConnectionId, LinkId};
use proxy_herd::testing::{KEYS, connected, identity};
use proxy_herd::time::{Instant, Now, Wall};

/// The only link of each node.
const LINK: LinkId = LinkId(0);

const TIMING: Timing = Timing {
    keepalive: Duration::from_millis(400),
    timeout: Duration::from_secs(100),
    redial_max: Duration::from_millis(300),
    antientropy_interval: Duration::from_secs(7),
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The time `ms` after the start; the wall clock does not matter here.
fn at(ms: u64) -> Now {
    Now { instant: Instant::at(Duration::from_millis(ms)), wall: Wall(0) }
}

/// Node `me` of two neighbors.
fn herd(me: u16, timing: Timing) -> Herd {
    Herd::new(identity(&["A", "B"], me, &[1 - me]), &[], timing, KEYS, Instant::START)
}

/// Two neighbors whose link has just been established.
fn linked(timing: &Timing) -> [Herd; 2] {
    let mut herds = [0, 1].map(|me| herd(me, timing.clone()));
    herds[0].handle_connected(connected(1, 1, 101, Origin::Dialed), Instant::START);
    herds[1].handle_connected(connected(1, 0, 100, Origin::Accepted), Instant::START);
    herds
}

/// Transfers lines between the nodes until neither has output at `now`, and returns them.
fn transfer(herds: &mut [Herd; 2], now: &Now) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let before = lines.len();
        for end in [0, 1] {
            let mut bytes = Vec::new();
            herds[end].handle_timeout(now, now.instant);
            herds[end].poll_transmit(LINK, now, &mut bytes, 1 << 20, &mut ());
            for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
                herds[1 - end].handle_line(LINK, ConnectionId(1), line, now, &mut ()).unwrap();
                lines.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        if lines.len() == before && herds.iter().all(|herd| !herd.has_output(LINK)) {
            return lines;
        }
    }
}

/// The times in ms, in steps of 10 ms until `end`, at which a line that begins with `word` is sent.
fn times(herds: &mut [Herd; 2], word: &str, end: Duration) -> Vec<u64> {
    let mut times = Vec::new();
    for time in (0..end.as_millis() as u64).step_by(10) {
        if transfer(herds, &at(time)).iter().any(|line| line.starts_with(word)) {
            times.push(time);
        }
    }
    times
}

#[test]
fn an_idle_link_sends_a_ping_per_keepalive_interval() {
    let pings = times(&mut linked(&TIMING), "PING ", ms(4_000));
    assert_eq!(pings, (0..10).map(|i| 400 * i).collect::<Vec<_>>());
}

#[test]
fn digests_are_compared_once_per_interval() {
    let mut checks = times(&mut linked(&TIMING), "SUMS ", ms(40_000));
    checks.retain(|&at| at > 1_000); // the comparison when the link comes up
    let gaps: Vec<u64> = checks.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(checks[0] <= 7_000 && gaps.len() >= 4, "{checks:?}");
    assert!(gaps.iter().all(|&gap| gap == 7_000), "{checks:?}");
}

#[test]
fn the_link_to_a_silent_peer_times_out() {
    let [mut herd, _] = linked(&Timing { timeout: ms(5_000), ..TIMING });
    herd.handle_timeout(&at(4_999), at(4_999).instant);
    assert_eq!(herd.poll_action(), None);
    herd.handle_timeout(&at(5_000), at(5_000).instant);
    assert_eq!(
        herd.poll_action(),
        Some(Action::Close { connection: ConnectionId(1), reason: CloseReason::KeepaliveTimeout })
    );
    assert_eq!(herd.counters.links_timed_out, 1);
}

#[test]
fn the_pause_between_redials_is_at_most_redial_max() {
    let mut herd = herd(0, TIMING);
    let mut dials = Vec::new();
    for time in 0..5_000 {
        herd.handle_timeout(&at(time), at(time).instant);
        if herd.poll_action() == Some(Action::Dial(LINK)) {
            dials.push(time);
            herd.handle_dial_failed(LINK, at(time).instant);
        }
    }
    let gaps: Vec<u64> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|&gap| gap <= 300), "{dials:?}");
    assert!(gaps[5..].iter().all(|&gap| gap >= 225), "{dials:?}");
}
