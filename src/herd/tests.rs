use super::directory::Rules;
use super::routes::SETTLE;
use super::*;
use crate::config::LogFormat;
use crate::protocol::time::SECOND;

/// A node in the middle of three.
fn middle() -> Herd {
    let identity = Identity {
        names: [b"A", b"B", b"C"].map(|name| name.to_vec().into_boxed_slice()).to_vec(),
        me: 1,
        neighbours: vec![0, 2],
        rules: Rules { max_clock_offset: 5 * SECOND, max_clients: 100, client_ttl: 0 },
        secret: None,
        tls: false,
        boot: 1,
    };
    let timing = Timing {
        keepalive: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        redial_max: Duration::from_secs(2),
        antientropy_interval: Duration::from_secs(10),
    };
    Herd::new(identity, &[], timing, Keys { index: (1, 2), digest: (3, 4) }, Duration::ZERO)
}

/// A neighbour that stalls as soon as it is linked has not told of the link when the graph comes to
/// rest, so no tree leads to it. What is told meanwhile is still for it.
#[test]
fn a_neighbour_that_has_not_told_of_its_link_is_not_left_out() {
    let mut herd = middle();
    let mut journal = Journal::new(false, LogFormat::default(), "B");
    herd.established(10, 0, 7, true, Duration::ZERO);
    herd.established(12, 2, 9, true, Duration::ZERO);
    herd.receive(0, 10, b"LINKS A 2 B", Duration::ZERO, 0, &mut journal).unwrap();
    herd.handle_timeout(SETTLE, 0);
    let record = Record::parse(b"AT B +0.000000000 k +1-1 5").unwrap();
    herd.hear(&record, 5 * SECOND);
    for link in 0..2 {
        let mut out = Vec::new();
        herd.fill(link, 0, &mut out, usize::MAX, &mut journal);
        let lines = out.split(|&byte| byte == b'\n');
        assert_eq!(lines.filter(|line| *line == record.line).count(), 1, "link {link}");
    }
}
