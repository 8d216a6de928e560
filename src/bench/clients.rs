//! The clients that are played: where each one is at a time follows from its number and the time.
//!
//! So the benchmark knows what a node must answer about a client without keeping what it said.

use crate::protocol::record::Record;
use crate::protocol::time::SECOND;
use crate::rng::scramble;
use crate::text::digits::put_digits;

/// Length of [`Said`].
pub const SAID: usize = 72;

/// What follows `IAMAT` in a command and the difference in its reply: a space before the client,
/// its location and its time. The fields have the same widths for all clients.
pub type Said = [u8; SAID];

const TEMPLATE: &Said = b" client00000000.bench.example +33.000000-118.000000 0000000000.000000000";

/// The client and the space before it.
const CLIENT_END: usize = 29;

/// All but the time and the space before it.
const PLACE_END: usize = 51;

/// Clients are told apart by eight digits; the last of those are the prober's.
pub const MAX_CLIENTS: u32 = 90_000_000;

/// The first of the clients whose records are followed from node to node.
pub const PROBE_CLIENTS: u32 = 99_999_000;

/// A time, in nanoseconds since 1970, that the template can hold.
pub const MAX_TIME: u64 = 10_000_000_000 * 1_000_000_000 - 1;

/// What `client` says at `time`: it is somewhere in Los Angeles, where there is always something
/// within 10 km.
pub fn said(client: u32, time: u64) -> Said {
    let mut said = *TEMPLATE;
    put_digits(&mut said[7..15], u64::from(client));
    let place = scramble(u64::from(client) << 32 ^ time);
    put_digits(&mut said[34..40], 800_000 + (place & 0xffff_ffff) % 200_000); // 33.8 to 34.0 north
    put_digits(&mut said[45..PLACE_END], (place >> 32) % 400_000); // 118.0 to 118.4 west
    put_digits(&mut said[52..62], time / 1_000_000_000);
    put_digits(&mut said[63..], time % 1_000_000_000);
    said
}

/// The client's name in what it said.
pub fn name(said: &Said) -> &[u8] {
    &said[1..CLIENT_END]
}

/// Location and time in what a client said.
pub fn place_and_time(said: &Said) -> (&[u8], &[u8]) {
    (&said[CLIENT_END + 1..PLACE_END], &said[PLACE_END + 1..])
}

/// The time at which the client called `name` said what `record` holds, in nanoseconds since 1970;
/// `None` if it never said that.
pub fn said_at(record: &Record<'_>, name: &[u8]) -> Option<u64> {
    let number = str::from_utf8(record.client.get(6..14)?).ok()?.parse().ok()?;
    let time = u64::try_from(record.time).ok().filter(|&time| time <= MAX_TIME)?;
    let said = said(number, time);
    let same = record.client == name && self::name(&said) == name;
    (same && said[CLIENT_END..] == *record.said()).then_some(time)
}

const _: () = assert!(SECOND == 1_000_000_000);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::Command;

    #[test]
    fn what_is_said_is_an_iamat_and_is_recognised_in_a_record() {
        for (client, time) in [(0, 1), (12_345, 1_621_464_827_959_498_503), (99_999_999, MAX_TIME)]
        {
            let said = said(client, time);
            let command = [&b"IAMAT"[..], &said].concat();
            let Command::Iamat(iamat) = Command::parse(&command) else { panic!("{client}") };
            assert_eq!((iamat.client, iamat.time_nanos), (name(&said), i128::from(time)));
            assert_eq!((iamat.location, iamat.time), place_and_time(&said));
            let line = [&b"AT Bona +0.000000001"[..], &said].concat();
            let record = Record::parse(&line).unwrap();
            assert_eq!(said_at(&record, name(&said)), Some(time));
            assert_eq!(said_at(&record, b"client00000001.bench.example"), None, "somebody else");
            let mut elsewhere = line.clone();
            elsewhere[line.len() - 24] ^= 1; // a digit of the longitude
            assert_eq!(said_at(&Record::parse(&elsewhere).unwrap(), name(&said)), None);
        }
    }
}
