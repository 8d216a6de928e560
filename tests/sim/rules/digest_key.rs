//! The key of the digests: which one is used, and when digests are compared.

use proxy_herd::herd::digest::Branch;
use proxy_herd::ids::Slot;

use super::*;

/// Older than the key that the other tests use.
const OLDER: DigestKey = DigestKey { born: 2, random: 0xabc };

/// The sums of the root's children, none of which are those of a node.
fn any_sums(purpose: char) -> String {
    format!("SUMS {purpose} 0 0 {}", ["1"; 16].join(" "))
}

fn is_equal(core: &Core, peer: u16) -> Option<bool> {
    let link = core.herd.link_to(NodeId(peer)).unwrap();
    core.herd.link(link).up.as_ref().unwrap().anti_entropy.is_equal()
}

#[test]
fn digests_are_compared_only_while_both_ends_use_one_key() {
    let mut b = Core::new(1, &[0], &[]);
    b.update("k");
    b.link_up(0, true);
    assert_eq!(b.sent(0)[0], "KEY 3 4", "a link begins with the key");
    for theirs in [None, Some("KEY 5 1"), Some("KEY 3 4 changing"), Some("KEY 3 5")] {
        if let Some(line) = theirs {
            b.receive(0, line);
        }
        b.receive(0, &any_sums('S'));
        b.receive(0, "PULL 0 0");
        assert_eq!((b.sent(0), is_equal(&b, 0)), (vec![], None), "{theirs:?}");
        // A record is accepted in any state of the digests.
        b.receive(0, "REPAIR S");
        b.receive(0, &format!("AT A +0.000000000 of-{} +1-1 5", theirs.unwrap_or_default().len()));
    }
    assert!(b.holds("of-0") && b.holds("of-7"));
    b.receive(0, "KEY 3 4");
    b.receive(0, &any_sums('S'));
    assert!(b.sent(0).iter().any(|line| line.starts_with("SUMS ") || line.starts_with("PULL ")));
    assert_eq!(is_equal(&b, 0), Some(false));
}

#[test]
fn an_older_key_is_adopted_a_few_records_at_a_time() {
    let [_, mut b] = a_and_b();
    let clients = 5_000;
    (0..clients).for_each(|i| drop(b.update(&format!("c{i}"))));
    b.sent(0);
    b.receive(0, "KEY 2 abc");
    assert_eq!(b.sent(0), ["KEY 2 abc changing"], "others may begin to change too");
    let mut slices = 0;
    while b.herd.directory.digest_key() != OLDER.derive(None) || b.herd.directory.is_rekeying() {
        b.receive(0, &any_sums('S'));
        let lines = b.sent(0);
        assert!(!lines.iter().any(|line| line.starts_with("SUMS ")), "{lines:?}");
        assert_eq!(is_equal(&b, 0), None);
        b.pass(MILLISECOND);
        b.store("B", &format!("new{slices}"));
        b.store("B", &format!("c{slices}"));
        slices += 1;
    }
    assert!((2..10).contains(&slices), "{slices} slices");
    let mut fresh = Core::with_key(1, &[0], &[], OLDER);
    let lines = |core: &Core| -> Vec<Vec<u8>> {
        let slots = (0..core.herd.directory.slots()).map(Slot);
        slots.filter_map(|slot| core.herd.directory.line(slot)).map(<[u8]>::to_vec).collect()
    };
    for line in lines(&b) {
        fresh.herd.apply_local_update(&Record::parse(&line).unwrap(), WALL);
    }
    let root = |core: &Core| core.herd.directory.sums().of(Branch::ROOT);
    assert_eq!(root(&b), root(&fresh));
    assert!(b.sent(0).contains(&"KEY 2 abc".to_owned()));
    b.receive(0, &any_sums('S'));
    assert!(b.sent(0).iter().any(|line| line.starts_with("SUMS ")), "it compares again");
}

#[test]
fn herds_with_different_keys_merge() {
    for older in 0..2 {
        let mut cores = [0, 1].map(|me: u16| {
            let key = if usize::from(me) == older { OLDER } else { KEYS.digest };
            let mut core = Core::with_key(me, &[1 - me], &[], key);
            (0..3_000).for_each(|i| drop(core.store("D", &format!("c{me}-{i}"))));
            core
        });
        link(&mut cores);
        run(&mut cores, timing().antientropy_interval + 2 * SETTLE);
        for (me, core) in cores.iter().enumerate() {
            assert_eq!(core.herd.digest_key(), OLDER);
            assert_eq!(core.herd.directory.len(), 6_000);
            assert_eq!(core.herd.counters.antientropy_repairs, 0);
            assert_eq!(is_equal(core, 1 - me as u16), Some(true));
        }
        // The older key remains although the node that made it up restarts.
        let restarted = older as u16;
        let key = DigestKey { born: 9, random: 9 };
        cores[older] = Core::with_key(restarted, &[1 - restarted], &[], key);
        cores[older].now = cores[1 - older].now;
        cores[1 - older].link_down(restarted);
        link(&mut cores);
        assert!(cores.iter().all(|core| core.herd.digest_key() == OLDER));
        assert_eq!(cores[older].herd.directory.len(), 6_000, "an empty node need not change it");
    }
}

/// The clock of one node says 1970 at each of its starts. The herd keeps its key.
#[test]
fn a_node_with_a_clock_in_1970_does_not_change_the_key_of_the_herd() {
    let herds = DigestKey { born: 1_790_000_000_000_000_000, random: 7 };
    for me in 0..2 {
        for start in 0..3 {
            let mut cores = [0, 1].map(|at: u16| {
                let own = DigestKey { born: 3_000_000_000 + start, random: u128::from(start) };
                Core::with_key(at, &[1 - at], &[], if at == me { own } else { herds })
            });
            (0..3_000).for_each(|i| drop(cores[usize::from(1 - me)].update(&format!("c{i}"))));
            link(&mut cores);
            run(&mut cores, SETTLE);
            assert!(cores.iter().all(|core| core.herd.digest_key() == herds));
            assert!(cores.iter().all(|core| core.herd.directory.len() == 3_000));
        }
    }
}

/// B ignores the sums, so its pong must not confirm them: A hears of the key first.
#[test]
fn a_change_of_the_key_is_announced_before_a_pong() {
    let mut cores = [Core::new(0, &[1], &[]), Core::new(1, &[0, 2], &[])];
    (0..3_000).for_each(|i| drop(cores[1].update(&format!("c{i}"))));
    link(&mut cores);
    let step = 100 * MILLISECOND;
    run(&mut cores, timing().antientropy_interval.saturating_sub(step));
    let [a, b] = &mut cores;
    b.link_up(2, true);
    b.receive(2, "KEY 2 abc");
    a.pass(step);
    let lines = a.sent(1);
    assert!(lines.iter().any(|line| line.starts_with("SUMS C 0 0 ")), "{lines:?}");
    for line in &lines {
        b.receive(0, line);
    }
    b.receive(0, "PING ff -");
    let lines = b.sent(0);
    assert_eq!(lines[0], "KEY 2 abc changing");
    assert!(lines[1].starts_with("PONG ff "), "{lines:?}");
    assert!(is_equal(a, 1).is_some(), "the result of the last comparison");
    for line in &lines {
        a.receive(1, line);
    }
    assert_eq!(is_equal(a, 1), None);
}
