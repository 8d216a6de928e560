use super::*;
use crate::herd::digest::{Branch, Leaf};
use crate::protocol::command::Command;
use crate::protocol::time::SECOND;
use crate::time::Now;
use proptest::prelude::*;

pub fn directory(max_clients: u32, ttl: i64) -> Directory {
    let rules = Rules {
        max_clock_offset: 5 * SECOND,
        max_clients,
        client_ttl: Nanos::from(ttl) * SECOND,
        forget_keep: 0,
    };
    Directory::new(rules, Keys { index: (1, 2), digest: (3, 4) })
}

pub fn line(server: &str, client: &str, place: u8, time: i64, received: i64) -> Vec<u8> {
    let text = format!("IAMAT {client} +{place}-1 {time}");
    let Command::Iamat(iamat) = Command::parse(text.as_bytes()) else { panic!("{text}") };
    let mut out = Vec::new();
    Record::emit(&mut out, server.as_bytes(), &iamat, Nanos::from(received) * SECOND);
    out
}

pub fn apply(directory: &mut Directory, line: &[u8], source: Source) -> Applied {
    directory.apply(&Record::parse(line).unwrap(), source, Wall(0))
}

/// Returns all lines, sorted, to compare directories.
pub fn contents(directory: &Directory) -> Vec<Vec<u8>> {
    let mut lines: Vec<_> = (0..directory.slots())
        .filter_map(|s| directory.line(Slot(s)))
        .map(<[u8]>::to_vec)
        .collect();
    lines.sort();
    lines
}

#[test]
fn the_newest_record_is_kept_and_repeats_change_nothing() {
    let mut d = directory(10, 0);
    let first = line("A", "k", 1, 100, 100);
    assert!(matches!(apply(&mut d, &first, Source::Client), Applied::Stored(_)));
    let again = line("A", "k", 1, 100, 107);
    assert_eq!(apply(&mut d, &again, Source::Client), Applied::Duplicate);
    assert_eq!(d.get(b"k", Wall(0)), Some(&first[..]));
    assert_eq!(apply(&mut d, &line("A", "k", 2, 99, 108), Source::Client), Applied::Stale);
    let moved = line("A", "k", 2, 100, 109);
    assert!(matches!(apply(&mut d, &moved, Source::Client), Applied::Stored(_)));
    assert_eq!(d.get(b"k", Wall(0)), Some(&moved[..]));
    assert_eq!((d.len(), d.get(b"other", Wall(0))), (1, None));
}

#[test]
fn the_same_report_to_two_nodes_leaves_the_same_record_on_both() {
    let a = line("A", "k", 1, 100, 101);
    let b = line("B", "k", 1, 100, 102);
    let mut at_a = directory(10, 0);
    let mut at_b = directory(10, 0);
    apply(&mut at_a, &a, Source::Client);
    apply(&mut at_b, &b, Source::Client);
    apply(&mut at_a, &b, Source::Peer);
    apply(&mut at_b, &a, Source::Peer);
    assert_eq!(contents(&at_a), contents(&at_b));
    assert_eq!(at_a.sums().of(Branch::ROOT), at_b.sums().of(Branch::ROOT));
}

#[test]
fn expiry_is_a_function_of_the_record() {
    let mut d = directory(10, 60);
    let old = line("A", "k", 1, 100, 100);
    let record = Record::parse(&old).unwrap();
    assert!(matches!(d.apply(&record, Source::Peer, Wall(160 * SECOND)), Applied::Stored(_)));
    assert!(d.get(b"k", Wall(160 * SECOND)).is_some());
    assert_eq!(d.get(b"k", Wall(161 * SECOND)), None, "expired before the sweep");
    d.sweep(&Now { wall: Wall(161 * SECOND), ..Now::default() }, 1, |_, _| {});
    assert_eq!((d.len(), d.counters.expired), (0, 1));
    assert_eq!(d.sums().of(Branch::ROOT), 0);
    assert_eq!(d.apply(&record, Source::Peer, Wall(161 * SECOND)), Applied::Expired);
}

#[test]
fn the_records_of_a_leaf_add_up_to_its_sum() {
    let mut d = directory(1000, 0);
    for i in 0..500 {
        apply(&mut d, &line("A", &format!("client{i}"), 1, i, i), Source::Client);
    }
    let mut seen = 0;
    for leaf in 0..=u16::MAX {
        let mut sum = 0u64;
        for (digest, _) in d.leaf(Leaf(leaf)) {
            seen += 1;
            sum = sum.wrapping_add(digest);
        }
        assert_eq!(
            sum,
            d.sums().children(Branch { level: 3, index: leaf >> 4 })[usize::from(leaf & 15)]
        );
    }
    assert_eq!(seen, 500);
}

proptest! {
    /// Clients come, move and expire while the key changes, a few slots at a time. In the end,
    /// digests, leaves and sums are those of a directory that has always had the last key.
    #[test]
    fn a_key_changes_while_records_change(
        events in proptest::collection::vec((0u8..30, 0u32..5, 0u8..40), 1..200),
    ) {
        let (mut d, mut now) = (directory(1000, 60), 0);
        d.use_few_leaves(3);
        let leaves = || (0..4).map(Leaf);
        for (at, (client, budget, event)) in events.into_iter().enumerate() {
            let wall = Wall(Nanos::from(now) * SECOND);
            match event {
                0 => d.start_rekey((at as u64, 5)),
                1 => now += 30,
                2..10 => _ = d.continue_rekey(budget),
                10..15 => _ = d.sweep(&Now { wall, ..Now::default() }, budget, |_, _| {}),
                _ => {
                    let line = line("A", &format!("c{client}"), 1, now + at as i64, now);
                    d.apply(&Record::parse(&line).unwrap(), Source::Client, wall);
                }
            }
            let summed = |&slot: &Slot| d.line(slot).is_some() && d.is_summed(slot);
            let expected = (0..d.slots()).map(Slot).filter(summed).count();
            prop_assert_eq!(leaves().map(|leaf| d.leaf(leaf).count()).sum::<usize>(), expected);
        }
        while !d.continue_rekey(3) {}
        let mut fresh = directory(1000, 0);
        fresh.use_few_leaves(3);
        fresh.start_rekey(d.digest_key());
        for line in contents(&d) {
            apply(&mut fresh, &line, Source::Peer);
        }
        prop_assert_eq!(d.sums().of(Branch::ROOT), fresh.sums().of(Branch::ROOT));
        for leaf in leaves() {
            prop_assert_eq!(d.sums().leaf(leaf), fresh.sums().leaf(leaf));
            let digests = |d: &Directory| {
                d.leaf(leaf).map(|(digest, _)| digest).collect::<std::collections::BTreeSet<_>>()
            };
            prop_assert_eq!(digests(&d), digests(&fresh));
        }
    }
}

proptest! {
    /// A full directory keeps the top K clients, in any order of arrival.
    #[test]
    fn eviction_converges(
        updates in proptest::collection::vec((0u8..12, 0i64..40, 0u8..2), 1..60),
        seed in any::<u64>(),
    ) {
        let lines: Vec<_> = updates.iter().map(|(client, time, server)| {
            line(if *server == 0 { "A" } else { "B" }, &format!("c{client}"), 1, *time, time + 3)
        }).collect();
        let mut shuffled = lines.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state ^= state << 13; state ^= state >> 7; state ^= state << 17;
            shuffled.swap(i, (state % (i as u64 + 1)) as usize);
        }
        let (mut a, mut b, mut all) = (directory(4, 0), directory(4, 0), directory(100, 0));
        for l in &lines { apply(&mut a, l, Source::Peer); apply(&mut all, l, Source::Peer); }
        for l in &shuffled { apply(&mut b, l, Source::Peer); }
        prop_assert_eq!(contents(&a), contents(&b));
        prop_assert!(a.len() <= 4);
        // No evicted record ranks above the least record that was kept.
        let kept = contents(&a);
        prop_assert_eq!(a.bytes(), kept.iter().map(|line| line.len() as u64).sum::<u64>());
        let rank = |l: &Vec<u8>| Record::parse(l).unwrap().rank(5 * SECOND);
        let least = kept.iter().map(rank).min().unwrap();
        for l in contents(&all).iter().filter(|l| !kept.contains(l)) {
            prop_assert!(rank(l) <= least);
        }
        prop_assert_eq!(a.sums().of(Branch::ROOT), b.sums().of(Branch::ROOT));
    }
}
