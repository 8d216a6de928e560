//! The key of the digests: each process makes one up, and a link compares only under the older one.

use ring::hmac;
use siphasher::sip::SipHasher13;

use crate::SECRET;
use crate::common::wall_ns;
use crate::peer::{Peer, hello, with_fake_neighbor};

/// Dials node `A` as its neighbor `False`, and completes the handshake.
fn linked(herd: &crate::common::Herd, secret: Option<&str>) -> Peer {
    let mut peer = Peer::dial(herd);
    if let Some(secret) = secret {
        peer.handshake(secret, 1);
    } else {
        peer.send(&[&hello("False", "A", 1, false)]);
        peer.line();
    }
    peer
}

/// Reads lines until one that begins with `word`, which it returns in words, and the lines before it.
fn line_with(peer: &mut Peer, word: &str) -> (Vec<String>, Vec<String>) {
    let mut before = Vec::new();
    loop {
        let line = String::from_utf8(peer.line()).unwrap();
        if line.starts_with(word) {
            return (line.split(' ').map(str::to_owned).collect(), before);
        }
        before.push(line);
    }
}

/// With a secret as well: the key must not follow from the configuration alone.
#[test]
fn each_process_makes_up_a_random_key() {
    for secret in [None, Some(SECRET)] {
        let keys: Vec<u128> = (0..2)
            .map(|_| {
                let (herd, _listener) = with_fake_neighbor(secret, "");
                let (key, before) = line_with(&mut linked(&herd, secret), "KEY ");
                assert!(before.is_empty(), "a link begins with the key: {before:?}");
                let born = i128::from_str_radix(&key[1], 16).unwrap();
                let age = wall_ns() - born;
                assert!((0..60_000_000_000).contains(&age), "born {age} ns ago");
                assert_eq!(key.len(), 3);
                u128::from_str_radix(&key[2], 16).unwrap()
            })
            .collect();
        assert_ne!(keys[0], keys[1]);
        // Either half may be short by chance, but not by much.
        assert!(keys.iter().all(|key| key >> 96 != 0 && key & 0xffff_ffff != 0), "{keys:x?}");
    }
}

/// 2026-01-01T00:00:00Z, in nanoseconds. Earlier keys rank last.
const BORN: u64 = 1_767_225_600_000_000_000;

/// The node, which holds a record, changes to the older key of its neighbor, and compares only then.
/// The sums are computed here independently: without a secret, with an empty one.
#[test]
fn a_link_compares_digests_under_the_older_key_only() {
    for secret in [None, Some(SECRET)] {
        let (herd, _listener) = with_fake_neighbor(secret, "");
        let mut peer = linked(&herd, secret);
        let record = b"AT False +0.263873386 kiwi +34.068930-118.445127 1621464827";
        let key = format!("KEY {BORN:x} 2");
        peer.send(&[record, key.as_bytes()]);
        let (key, mut before) = line_with(&mut peer, &key);
        assert_eq!(key[3..], ["changing"], "it holds a record");
        let (key, more) = line_with(&mut peer, "KEY ");
        assert_eq!(key[1..], [format!("{BORN:x}"), "2".to_owned()]);
        before.extend(more);
        assert!(before.iter().all(|line| !line.starts_with("SUMS ")), "{before:?}");
        let (sums, _) = line_with(&mut peer, "SUMS S 0 0 ");

        let material = [&b"digests"[..], &BORN.to_be_bytes(), &2u128.to_be_bytes()].concat();
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.unwrap_or("").as_bytes());
        let tag = hmac::sign(&secret, &material);
        let (halves, _) = tag.as_ref().as_chunks::<8>();
        let [k0, k1] = [halves[0], halves[1]].map(u64::from_be_bytes);
        let hash = |bytes: &[u8]| SipHasher13::new_with_keys(k0, k1).hash(bytes);
        let mut expected = vec!["0".to_owned(); 16];
        expected[(hash(b"kiwi") >> 60) as usize] = format!("{:x}", hash(record));
        assert_eq!(sums[4..], expected);
    }
}
