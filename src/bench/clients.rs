//! Simulated clients: a client's location is a function of its number and a timestamp.
//!
//! The benchmark can therefore check what a node returns for a client without storing what the client
//! sent.

use crate::protocol::record::Record;
use crate::protocol::time::SECOND;
use crate::rng::scramble;
use crate::text::digits::put_digits;

/// Length of a [`Payload`] in bytes.
pub const PAYLOAD_LENGTH: usize = 72;

/// The fields of an IAMAT, which its reply repeats verbatim: client, location and time, each preceded
/// by a space. Every field has the same width for all clients.
pub type Payload = [u8; PAYLOAD_LENGTH];

/// A payload with zeros for the digits that [`payload`] fills in.
const TEMPLATE: &Payload =
    b" client00000000.bench.example +33.000000-118.000000 0000000000.000000000";

/// End of the client's name.
const CLIENT_END: usize = 29;

/// End of the location.
const LOCATION_END: usize = 51;

/// Most clients that can be simulated. A name has eight digits, of which the highest numbers are
/// reserved for [`PROBE_CLIENTS`].
pub const MAX_CLIENTS: u32 = 90_000_000;

/// Number of the first client whose records the prober follows from node to node.
pub const PROBE_CLIENTS: u32 = 99_999_000;

/// Latest timestamp that the template can hold, in nanoseconds since the Unix epoch.
pub const MAX_TIME: u64 = 10_000_000_000 * 1_000_000_000 - 1;

/// The payload of `client` at `time`. Locations are in Los Angeles, so that the gazetteer has results
/// within 10 km of each.
pub fn payload(client: u32, time: u64) -> Payload {
    let mut payload = *TEMPLATE;
    put_digits(&mut payload[7..15], u64::from(client));
    let random = scramble(u64::from(client) << 32 ^ time);
    let latitude = 800_000 + (random & 0xffff_ffff) % 200_000; // fraction of 33.8° to 34.0° north
    let longitude = (random >> 32) % 400_000; // fraction of 118.0° to 118.4° west
    put_digits(&mut payload[34..40], latitude);
    put_digits(&mut payload[45..LOCATION_END], longitude);
    put_digits(&mut payload[52..62], time / 1_000_000_000);
    put_digits(&mut payload[63..], time % 1_000_000_000);
    payload
}

/// The client's name in a payload.
pub fn name(payload: &Payload) -> &[u8] {
    &payload[1..CLIENT_END]
}

/// Location and time in a payload.
pub fn location_and_time(payload: &Payload) -> (&[u8], &[u8]) {
    (&payload[CLIENT_END + 1..LOCATION_END], &payload[LOCATION_END + 1..])
}

/// The timestamp of `record` in nanoseconds since the Unix epoch, or `None` if the client `name` never
/// sent that record.
pub fn sent_at(record: &Record<'_>, name: &[u8]) -> Option<u64> {
    let number = str::from_utf8(record.client.get(6..14)?).ok()?.parse().ok()?;
    let time = u64::try_from(record.time).ok().filter(|&time| time <= MAX_TIME)?;
    let payload = payload(number, time);
    let is_same_client = record.client == name && self::name(&payload) == name;
    (is_same_client && payload[CLIENT_END..] == *record.report()).then_some(time)
}

const _: () = assert!(SECOND == 1_000_000_000, "timestamps are split at the second");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::Command;

    #[test]
    fn a_payload_is_a_valid_iamat_and_is_recognized_in_a_record() {
        for (client, time) in [(0, 1), (12_345, 1_621_464_827_959_498_503), (99_999_999, MAX_TIME)]
        {
            let payload = payload(client, time);
            let command = [&b"IAMAT"[..], &payload].concat();
            let Command::Iamat(iamat) = Command::parse(&command) else { panic!("{client}") };
            assert_eq!((iamat.client, iamat.time_nanos), (name(&payload), i128::from(time)));
            assert_eq!((iamat.location, iamat.time), location_and_time(&payload));
            let line = [&b"AT Bona +0.000000001"[..], &payload].concat();
            let record = Record::parse(&line).unwrap();
            assert_eq!(sent_at(&record, name(&payload)), Some(time));
            assert_eq!(sent_at(&record, b"client00000001.bench.example"), None, "another client");
            let mut elsewhere = line.clone();
            elsewhere[line.len() - 24] ^= 1; // a digit of the longitude
            assert_eq!(sent_at(&Record::parse(&elsewhere).unwrap(), name(&payload)), None);
        }
    }
}
