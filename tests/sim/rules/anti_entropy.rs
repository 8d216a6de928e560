//! Anti-entropy: comparing, requesting and sending records.

use std::collections::BTreeSet;

use proxy_herd::herd::anti_entropy::{FETCH_FREELY, GRACE};
use proxy_herd::herd::fetch_claims::FETCH_PATIENCE;

use super::*;

#[test]
fn anti_entropy_keeps_its_share_while_records_flood() {
    let mut a = Core::new(0, &[1], &[]);
    a.link_up(1, true);
    a.receive(1, "KEY 3 4");
    (0..1000).for_each(|i| drop(a.update(&format!("c{i}"))));
    let lines = a.turn(1, 2000);
    let records = lines.iter().filter(|line| line.starts_with("AT ")).count();
    assert!(lines.iter().any(|line| line.starts_with("SUMS ")), "{lines:?}");
    assert!((10..1000).contains(&records), "{records} records");
}

#[test]
fn a_check_counts_what_it_recovers_as_repairs() {
    for (sender, receiver) in [(0, 1), (1, 0)] {
        let mut cores = a_and_b();
        run(&mut cores, 2 * SETTLE);
        cores[sender].update("lost");
        let lost = cores[sender].sent(receiver as u16);
        assert!(lost.iter().any(|line| line.starts_with("AT ")));
        run(&mut cores, timing().antientropy_interval + 2 * GRACE);
        assert!(cores[receiver].holds("lost"));
        let counters = cores[receiver].herd.counters;
        assert_eq!((counters.antientropy_repairs, counters.link_sync_records), (1, 0));
    }
}

#[test]
fn a_sync_fetches_at_once_whatever_differs() {
    let leaves = leaf_mates(2);
    assert!(leaves.len() > 2 * FETCH_FREELY as usize, "more than is sent unasked");
    for more in 0..2 {
        let mut cores = [Core::new(0, &[1], &[]), Core::new(1, &[0], &[])];
        for clients in &leaves {
            // The leaf is empty on neither side, so its digests are listed and compared.
            cores[1 - more].store("D", &clients[0]);
            for client in clients {
                cores[more].store("D", client);
            }
        }
        link(&mut cores);
        for client in leaves.iter().flatten() {
            assert!(cores[1 - more].holds(client), "{client} would have come later");
        }
        for core in &cores {
            assert_eq!(core.herd.counters.antientropy_repairs, 0);
        }
    }
}

#[test]
fn only_the_wanted_records_of_a_leaf_are_sent() {
    let clients = leaf_mates(3).swap_remove(0);
    let [_, mut b] = a_and_b();
    let lines: Vec<String> = clients.iter().map(|client| b.update(client)).collect();
    b.sent(0);
    let (leaf, digest) = (leaf_of(&clients[1]), herd_hash(lines[1].as_bytes()));
    b.receive(0, &format!("WANTS S {leaf:x} last {digest:x}"));
    assert_eq!(b.sent(0), ["REPAIR S", &lines[1]]);
}

#[test]
fn a_listing_is_compared_once_its_last_line_has_arrived() {
    let clients = leaf_mates(3).swap_remove(0);
    let [_, mut b] = a_and_b();
    let mut digests: Vec<u64> =
        clients.iter().map(|client| herd_hash(b.update(client).as_bytes())).collect();
    b.sent(0);
    digests.sort_unstable();
    let leaf = leaf_of(&clients[0]);
    b.receive(0, &format!("LISTING C {leaf:x} more {:x}", digests[0]));
    assert_eq!(b.sent(0), [""; 0]);
    b.receive(0, &format!("LISTING C {leaf:x} last {:x}", digests[2]));
    let lacking: Vec<String> = b.sent(0);
    assert_eq!(lacking, [format!("OFFERS C {leaf:x} last {:x}", digests[1])]);
}

#[test]
fn a_lost_link_frees_what_was_requested_through_it() {
    let mut b = Core::new(1, &[0, 2], &[]);
    b.link_up(0, true);
    b.link_up(2, true);
    b.agree(0);
    b.agree(2);
    let all = format!("SUMS S 0 0 {}", ["1"; 16].join(" "));
    let pulls = |lines: Vec<String>| lines.iter().filter(|line| line.starts_with("PULL ")).count();
    for (peer, requested) in [(0, 16), (2, 0)] {
        b.receive(peer, &all);
        assert_eq!(pulls(b.sent(peer)), requested, "A is asked for everything, C for nothing");
    }
    b.link_down(0);
    assert!(b.sent(2).iter().any(|line| line.starts_with("SUMS S 0 0 ")), "C is compared again");
    b.receive(2, &all);
    assert_eq!(pulls(b.sent(2)), 16);
}

/// The directory of B is full. What it has requested from A ranks too low; C, which was not asked for the
/// same leaves meanwhile, has a record that ranks higher.
#[test]
fn leaves_whose_records_ranked_too_low_are_requested_from_the_next_neighbor() {
    let mut b = Core::with_cap(1, &[0, 2], 1);
    b.update("held");
    for peer in [0, 2] {
        b.link_up(peer, true);
        b.agree(peer);
    }
    let all = format!("SUMS S 0 0 {}", ["1"; 16].join(" "));
    let pulls = |lines: Vec<String>| lines.iter().filter(|line| line.starts_with("PULL ")).count();
    for (peer, requested) in [(0, 15), (2, 0)] {
        b.receive(peer, &all);
        assert_eq!(
            pulls(b.sent(peer)),
            requested,
            "A is asked for all but one branch, C for nothing"
        );
    }
    b.receive(0, "REPAIR S");
    b.receive(0, "AT A +0.000000000 other +1-1 4");
    assert!(b.holds("held") && !b.holds("other"));
    b.pass(FETCH_PATIENCE);
    assert!(b.sent(2).iter().any(|line| line.starts_with("SUMS S 0 0 ")), "C is compared again");
    b.receive(2, &all);
    assert_eq!(pulls(b.sent(2)), 15);
    b.receive(2, "REPAIR S");
    b.receive(2, "AT C +0.000000000 other +1-1 6");
    assert!(b.holds("other") && !b.holds("held"));
}

#[test]
fn one_turn_sends_a_bounded_part_of_a_requested_branch() {
    let [mut a, mut b] = a_and_b();
    let clients = 20_000;
    for i in 0..clients {
        b.update(&format!("c{i}"));
    }
    a.link_down(1);
    b.link_down(0);
    a.link_up(1, true);
    b.link_up(0, false);
    b.agree(0);
    b.receive(0, "PULL 0 0");
    let records = |lines: Vec<String>| lines.iter().filter(|line| line.starts_with("AT ")).count();
    let first = records(b.turn(0, usize::MAX));
    assert!(first <= 1000, "{first} records in one turn");
    assert_eq!(first + records(b.sent(0)), clients);
}

/// What a link to an original server begins with is sent in slices, and what changes does not wait
/// behind it.
#[test]
fn an_original_server_is_sent_all_records_in_slices() {
    let clients = 20_000;
    let mut a = Core::new(0, &[1], &[1]);
    (0..clients).for_each(|i| drop(a.update(&format!("c{i}"))));
    a.link_up(1, true);
    let up = a.herd.link(LinkId(0)).up.as_ref().unwrap();
    assert_eq!((up.flood.len(), up.backlog()), (0, clients), "no slot is queued at once");
    let mut lines = a.turn(1, usize::MAX);
    assert!((1..=4096).contains(&lines.len()), "{} records in one turn", lines.len());
    let new = a.update("new");
    assert_eq!(a.turn(1, 40), [new.as_str(), "AT A +0.000000000 c4096 +1-1 5"]);
    lines.extend(a.sent(1));
    assert_eq!(lines.len(), clients - 1);
    let names = |line: &String| line.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(lines.iter().map(names).collect::<BTreeSet<_>>().len(), clients - 1);
    assert!(!a.herd.has_output(LinkId(0)));
}

/// A call that finds nothing to send looks at a bounded number of slots as well.
#[test]
fn slots_without_a_record_count_as_work() {
    let clients = 20_000;
    let mut a = Core::new(0, &[1], &[1]);
    (0..clients).for_each(|i| drop(a.update(&format!("c{i}"))));
    a.link_up(1, true);
    a.herd.directory.clear();
    for calls in 1.. {
        assert!(a.turn(1, usize::MAX).is_empty());
        if !a.herd.has_output(LinkId(0)) {
            assert_eq!(calls, 5, "20,000 slots, 4,096 per call");
            break;
        }
    }
}
