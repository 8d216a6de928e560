use super::routes::SETTLE;
use super::*;
use crate::message_log::Format;
use crate::protocol::time::SECOND;
use crate::testing::{herd, identity};

/// A neighbor that stalls as soon as it is linked has not advertised the link when the graph
/// settles, so no tree includes it. Updates in the meantime must still be queued for it.
#[test]
fn a_neighbor_that_has_not_advertised_its_link_receives_updates() {
    let mut herd = herd(identity(&["A", "B", "C"], 1, &[0, 2]));
    let mut message_log = MessageLog::new(false, Format::default(), "B");
    herd.established(10, 0, 7, true, Duration::ZERO);
    herd.established(12, 2, 9, true, Duration::ZERO);
    herd.receive(0, 10, b"LINKS A 2 B", Duration::ZERO, 0, &mut message_log).unwrap();
    herd.handle_timeout(SETTLE, 0);
    let record = Record::parse(b"AT B +0.000000000 k +1-1 5").unwrap();
    herd.hear(&record, 5 * SECOND);
    for link in 0..2 {
        let mut out = Vec::new();
        herd.fill(link, 0, &mut out, usize::MAX, &mut message_log);
        let lines = out.split(|&byte| byte == b'\n');
        assert_eq!(lines.filter(|line| *line == record.line).count(), 1, "link {link}");
    }
}
