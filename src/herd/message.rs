//! Messages between linked nodes, one per line.
//!
//! Records are sent as AT lines; every other message starts with its own keyword. The `push_…`
//! functions emit what [`Message::parse`] parses.

use core::fmt;

use super::digest::{Branch, FANOUT, LEAF_LEVEL, Leaf};
use super::digest_key::{Announcement, DigestKey};
use super::directory::{MAX_RECORD, Rules};
use super::takeover::{parse_spaced_rules, push_rules};
use crate::ids::BootId;
use crate::limits::{MAX_NODE_NAME, MAX_NODES};
use crate::protocol::next_field;
use crate::protocol::record::Record;
use crate::protocol::time::Nanos;
use crate::time::Wall;

/// Maximum number of digests per line: enough to make the other fields negligible, while a line
/// still fits into one or two packets.
pub const DIGESTS_PER_LINE: usize = 100;

/// Maximum length of [`LinkState::next`]: more than four numbers.
const MAX_NEXT: usize = 128;

// The longest message other than a record: LINKS of a node that is linked with all other nodes, with
// its word and two numbers.
const _: () = assert!((MAX_NODES + 1) * (MAX_NODE_NAME + 1) + MAX_NEXT + 48 <= MAX_RECORD);

/// The reason for a digest comparison. Records are counted separately for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A link came up or routes changed: differences are expected and fetched at once.
    Sync,
    /// Periodic check: no difference is expected, and records in flight are given time to arrive.
    Check,
}

/// A list of record digests in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests<'a>(&'a [u8]);

impl<'a> Digests<'a> {
    /// Returns the digests. Parsing has verified that all are hexadecimal numbers.
    pub fn iter(self) -> impl Iterator<Item = u64> + use<'a> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let (field, tail) = next_field(rest)?;
            rest = tail;
            hex(field)
        })
    }
}

/// A line about records of one leaf. A list that does not fit in one line is continued by the next
/// line of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfLeaf<'a> {
    /// Reason for the comparison.
    pub purpose: Purpose,
    /// The leaf.
    pub leaf: Leaf,
    /// True if the list continues in another line.
    pub more: bool,
    /// Digests of records.
    pub digests: Digests<'a>,
}

/// The version of a link state. Of two link states of a node the one with the greater version is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Sequence number, counted up by the node.
    pub sequence: u64,
    /// The process of the node. It decides between equal numbers of two lives of the node.
    pub boot: BootId,
}

/// A link state: the established links of a node, as it has advertised them. Other nodes store and
/// forward it unchanged, even if they do not know the names in it from their configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState<'a> {
    /// Name of the node.
    pub origin: &'a [u8],
    /// Its version.
    pub version: Version,
    /// The rules that the node will follow: four numbers, separated by commas.
    pub next: &'a [u8],
    /// Names of its linked neighbors, separated by spaces.
    pub up: &'a [u8],
}

impl<'a> LinkState<'a> {
    /// Returns the names of the linked neighbors.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.up;
        core::iter::from_fn(move || {
            let (name, tail) = next_field(rest)?;
            rest = tail;
            Some(name)
        })
    }
}

/// A line of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A flooded record.
    Record(Record<'a>),
    /// Announces that the next line is a record sent by anti-entropy.
    Repair(Purpose),
    /// The key of the digests that the sender uses.
    Key(Announcement),
    /// Keepalive, answered by a pong with the same id. With a hash of the link states of the sender,
    /// unless they have changed a short while ago.
    Ping(u64, Option<u64>),
    /// Reply to a ping, with the wall clock of the sender.
    Pong(u64, Wall),
    /// The last line of a connection: the sender continues the link on another one.
    Moved,
    /// The rules that the sender has taken over.
    Rules(Rules),
    /// A link state.
    Links(LinkState<'a>),
    /// The sums of the children of a branch.
    Sums(Purpose, Branch, [u64; FANOUT]),
    /// All digests of a leaf.
    Listing(OfLeaf<'a>),
    /// Records that the sender stores and the receiver does not.
    Offers(OfLeaf<'a>),
    /// Records that the sender requests.
    Wants(OfLeaf<'a>),
    /// Requests all records below this branch, of which the sender has none.
    Pull(Branch),
}

impl<'a> Message<'a> {
    /// Parses a line without LF. Returns `None` if it is not a valid message.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        if line.starts_with(b"AT ") {
            return Record::parse(line).map(Message::Record);
        }
        let (word, mut rest) = next_field(line)?;
        let mut field = || {
            let (field, tail) = next_field(rest)?;
            rest = tail;
            Some(field)
        };
        match word {
            b"KEY" => {
                let key = DigestKey { born: hex(field()?)?, random: hex128(field()?)? };
                let in_use = match field() {
                    None => true,
                    Some(b"changing") => false,
                    Some(_) => return None,
                };
                Some(Message::Key(Announcement { key, in_use }))
            }
            b"REPAIR" => Some(Message::Repair(purpose(field()?)?)),
            b"PING" => {
                let (id, hash) = (hex(field()?)?, field()?);
                let hash = if hash == b"-" { None } else { Some(hex(hash)?) };
                Some(Message::Ping(id, hash))
            }
            b"PONG" => Some(Message::Pong(hex(field()?)?, Wall(decimal(field()?)?))),
            b"MOVED" => field().is_none().then_some(Message::Moved),
            b"RULES" => parse_spaced_rules(rest).map(Message::Rules),
            b"LINKS" => {
                let (origin, boot) = (field()?, BootId(hex(field()?)?));
                let (sequence, next) = (hex(field()?)?, field()?);
                let version = Version { sequence, boot };
                (next.len() <= MAX_NEXT).then_some(())?;
                Some(Message::Links(LinkState { origin, version, next, up: rest }))
            }
            b"SUMS" => {
                let purpose = purpose(field()?)?;
                let branch = branch(field()?, field()?)?;
                let mut sums = [0; FANOUT];
                for sum in &mut sums {
                    *sum = hex(field()?)?;
                }
                (branch.level < LEAF_LEVEL).then_some(Message::Sums(purpose, branch, sums))
            }
            b"LISTING" => of_leaf(rest).map(Message::Listing),
            b"OFFERS" => of_leaf(rest).map(Message::Offers),
            b"WANTS" => of_leaf(rest).map(Message::Wants),
            b"PULL" => Some(Message::Pull(branch(field()?, field()?)?)),
            _ => None,
        }
    }
}

/// Appends `REPAIR`, which must be followed by a record.
pub fn push_repair(out: &mut Vec<u8>, purpose: Purpose) {
    push(out, format_args!("REPAIR {}\n", letter(purpose)));
}

/// Appends `KEY`.
pub fn push_key(out: &mut Vec<u8>, Announcement { key, in_use }: Announcement) {
    let changing = if in_use { "" } else { " changing" };
    push(out, format_args!("KEY {:x} {:x}{changing}\n", key.born, key.random));
}

/// Appends `PING`; `hash` is that of the link states.
pub fn push_ping(out: &mut Vec<u8>, id: u64, hash: Option<u64>) {
    match hash {
        Some(hash) => push(out, format_args!("PING {id:x} {hash:x}\n")),
        None => push(out, format_args!("PING {id:x} -\n")),
    }
}

/// Appends `PONG`; `wall` is the wall clock of this node.
pub fn push_pong(out: &mut Vec<u8>, id: u64, wall: Wall) {
    push(out, format_args!("PONG {id:x} {}\n", wall.nanos()));
}

/// Appends `MOVED`.
pub fn push_moved(out: &mut Vec<u8>) {
    out.extend_from_slice(b"MOVED\n");
}

/// Appends `RULES`.
pub fn push_rules_in_force(out: &mut Vec<u8>, rules: &Rules) {
    out.extend_from_slice(b"RULES ");
    push_rules(out, rules, ' ');
    out.push(b'\n');
}

/// Appends `LINKS`; `up` are the names of the linked neighbors.
pub fn push_links<'n>(
    out: &mut Vec<u8>,
    origin: &[u8],
    version: Version,
    next: &[u8],
    up: impl Iterator<Item = &'n [u8]>,
) {
    out.extend_from_slice(b"LINKS ");
    out.extend_from_slice(origin);
    push(out, format_args!(" {:x} {:x} ", version.boot.0, version.sequence));
    out.extend_from_slice(next);
    for name in up {
        out.push(b' ');
        out.extend_from_slice(name);
    }
    out.push(b'\n');
}

/// Appends `SUMS`.
pub fn push_sums(out: &mut Vec<u8>, purpose: Purpose, branch: Branch, sums: &[u64; FANOUT]) {
    push(out, format_args!("SUMS {} {} {:x}", letter(purpose), branch.level, branch.index));
    push_digests(out, sums);
}

/// Appends a line of a `LISTING`.
pub fn push_listing(out: &mut Vec<u8>, list: (Purpose, Leaf), digests: &[u64], more: bool) {
    push_of_leaf(out, "LISTING", list, digests, more);
}

/// Appends a line of `OFFERS`.
pub fn push_offers(out: &mut Vec<u8>, list: (Purpose, Leaf), digests: &[u64], more: bool) {
    push_of_leaf(out, "OFFERS", list, digests, more);
}

/// Appends a line of `WANTS`.
pub fn push_wants(out: &mut Vec<u8>, list: (Purpose, Leaf), digests: &[u64], more: bool) {
    push_of_leaf(out, "WANTS", list, digests, more);
}

fn push_of_leaf(
    out: &mut Vec<u8>,
    word: &str,
    (purpose, leaf): (Purpose, Leaf),
    digests: &[u64],
    more: bool,
) {
    let more = if more { "more" } else { "last" };
    push(out, format_args!("{word} {} {:x} {more}", letter(purpose), leaf.0));
    push_digests(out, digests);
}

/// Appends `PULL`.
pub fn push_pull(out: &mut Vec<u8>, branch: Branch) {
    push(out, format_args!("PULL {} {:x}\n", branch.level, branch.index));
}

fn push_digests(out: &mut Vec<u8>, digests: &[u64]) {
    for digest in digests {
        push(out, format_args!(" {digest:x}"));
    }
    out.push(b'\n');
}

fn push(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail. Formatting is not used for records.
    let _ = std::io::Write::write_fmt(out, text);
}

const fn letter(purpose: Purpose) -> char {
    match purpose {
        Purpose::Sync => 'S',
        Purpose::Check => 'C',
    }
}

fn purpose(field: &[u8]) -> Option<Purpose> {
    match field {
        b"S" => Some(Purpose::Sync),
        b"C" => Some(Purpose::Check),
        _ => None,
    }
}

fn branch(level: &[u8], index: &[u8]) -> Option<Branch> {
    Branch::new(u8::try_from(hex(level)?).ok()?, hex(index)?)
}

fn of_leaf(rest: &[u8]) -> Option<OfLeaf<'_>> {
    let (purpose, rest) = next_field(rest)?;
    let (leaf, rest) = next_field(rest)?;
    let (more, rest) = next_field(rest)?;
    let more = match more {
        b"more" => true,
        b"last" => false,
        _ => return None,
    };
    let (purpose, digests) = (self::purpose(purpose)?, digests(rest)?);
    Some(OfLeaf { purpose, leaf: self::leaf(leaf)?, more, digests })
}

fn leaf(field: &[u8]) -> Option<Leaf> {
    u16::try_from(hex(field)?).ok().map(Leaf)
}

fn digests(rest: &[u8]) -> Option<Digests<'_>> {
    let mut fields = rest;
    while let Some((field, tail)) = next_field(fields) {
        hex(field)?;
        fields = tail;
    }
    Some(Digests(rest))
}

/// Parses a hexadecimal number of at most 16 digits.
#[must_use]
pub fn hex(field: &[u8]) -> Option<u64> {
    if field.is_empty() || field.len() > 16 {
        return None;
    }
    field.iter().try_fold(0, |n, &b| Some(n << 4 | u64::from(char::from(b).to_digit(16)?)))
}

/// Parses a hexadecimal number of at most 32 digits.
fn hex128(field: &[u8]) -> Option<u128> {
    let (high, low) = field.split_at(field.len().saturating_sub(16));
    let high = if high.is_empty() { 0 } else { hex(high)? };
    Some(u128::from(high) << 64 | u128::from(hex(low)?))
}

fn decimal(field: &[u8]) -> Option<Nanos> {
    if field.len() > 30 {
        return None;
    }
    core::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(out: &[u8]) -> Message<'_> {
        Message::parse(out.strip_suffix(b"\n").expect("one line")).expect("parses")
    }

    type PushOfLeaf = fn(&mut Vec<u8>, (Purpose, Leaf), &[u64], bool);

    proptest! {
        #[test]
        fn emitted_messages_parse(
            id in any::<u64>(),
            wall in any::<i64>(),
            sync in any::<bool>(),
            more in any::<bool>(),
            random in any::<u128>(),
            level in 0u8..4,
            sums in any::<[u64; FANOUT]>(),
            listed in proptest::collection::vec(any::<u64>(), 0..DIGESTS_PER_LINE),
        ) {
            let purpose = if sync { Purpose::Sync } else { Purpose::Check };
            let branch = Branch::new(level, id % (1 << (4 * level))).unwrap();
            let leaf = Leaf(id as u16);
            let emitted = |emit: &dyn Fn(&mut Vec<u8>)| { let mut out = Vec::new(); emit(&mut out); out };

            let out = emitted(&|o| push_repair(o, purpose));
            prop_assert_eq!(parsed(&out), Message::Repair(purpose));
            let out = emitted(&push_moved);
            prop_assert_eq!(parsed(&out), Message::Moved);
            let key = DigestKey { born: id, random };
            let announcement = Announcement { key, in_use: more };
            let out = emitted(&|o| push_key(o, announcement));
            prop_assert_eq!(parsed(&out), Message::Key(announcement));
            for hash in [None, Some(!id)] {
                let out = emitted(&|o| push_ping(o, id, hash));
                prop_assert_eq!(parsed(&out), Message::Ping(id, hash));
            }
            let out = emitted(&|o| push_pong(o, id, Wall(wall.into())));
            prop_assert_eq!(parsed(&out), Message::Pong(id, Wall(wall.into())));
            let out = emitted(&|o| push_sums(o, purpose, branch, &sums));
            prop_assert_eq!(parsed(&out), Message::Sums(purpose, branch, sums));
            let out = emitted(&|o| push_pull(o, branch));
            prop_assert_eq!(parsed(&out), Message::Pull(branch));
            let version = Version { sequence: id, boot: BootId(!id) };
            let up = [&b"Clark"[..], b"Bailey"];
            let out = emitted(&|o| push_links(o, b"Bona", version, b"-", up.into_iter()));
            let Message::Links(state) = parsed(&out) else { panic!() };
            prop_assert_eq!((state.origin, state.version, state.next), (&b"Bona"[..], version, &b"-"[..]));
            prop_assert_eq!(state.names().collect::<Vec<_>>(), up);
            for (push, word) in [
                (push_listing as PushOfLeaf, "LISTING"),
                (push_offers, "OFFERS"),
                (push_wants, "WANTS"),
            ] {
                let out = emitted(&|o| push(o, (purpose, leaf), &listed, more));
                let list = match (parsed(&out), word) {
                    (Message::Listing(list), "LISTING")
                    | (Message::Offers(list), "OFFERS")
                    | (Message::Wants(list), "WANTS") => list,
                    (other, _) => panic!("{other:?}"),
                };
                prop_assert_eq!((list.purpose, list.leaf, list.more), (purpose, leaf, more));
                prop_assert_eq!(list.digests.iter().collect::<Vec<_>>(), listed.clone());
                prop_assert!(out.len() < 2048);
            }
        }

        #[test]
        fn any_bytes_parse_or_not(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Message::parse(&line);
        }
    }

    #[test]
    fn invalid_messages_are_rejected() {
        for bad in [
            "",
            "IAMAT k +1-1 5",
            "KEY 5",
            "KEY 5 ",
            "KEY 5 123456789012345678901234567890123",
            "KEY 5 6 yes",
            "PING",
            "PING x -",
            "PING 1",
            "PING 1 x",
            "PING 11111111111111111 -",
            "LINKS A 1 2",
            "LINKS A x 2 -",
            "SUMS S 4 0",
            "SUMS S 1 10 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
            "SUMS S 0 0 1",
            "LISTING S 10000 last 0",
            "LISTING S 0",
            "OFFERS 0 last 5",
            "WANTS X 0 last",
            "WANTS S 0 zz",
            "WANTS S 0 more zz",
            "PULL 5 0",
            "REPAIR",
            "MOVED 1",
            "ping 1",
        ] {
            assert_eq!(Message::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
