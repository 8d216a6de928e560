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

/// The side of a square that contains the [`Range::AREA`], in meters.
pub const AREA_M: u32 = 37_000;

/// The size of the rectangle in which each client moves, in millionths of degrees of latitude and of
/// longitude. Each rectangle lies somewhere in the [`Range::AREA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range([u64; 2]);

impl Range {
    /// 33.8° to 34.0° north and 118.0° to 118.4° west, which is in Los Angeles, so that the gazetteer has
    /// results within 10 km of each location.
    pub const AREA: Self = Self([200_000, 400_000]);

    /// A square with sides of about `meters`, at most the area.
    pub fn of_meters(meters: u32) -> Self {
        let side = |meters_per_degree: u64, most: u64| {
            (u64::from(meters) * 1_000_000 / meters_per_degree).clamp(1, most)
        };
        let [latitude, longitude] = Self::AREA.0;
        Self([side(111_195, latitude), side(92_290, longitude)])
    }
}

/// The payload of `client` at `time`: a random location within its range.
pub fn payload(client: u32, time: u64, range: Range) -> Payload {
    let mut payload = *TEMPLATE;
    put_digits(&mut payload[7..15], u64::from(client));
    let (random, home) = (scramble(u64::from(client) << 32 ^ time), scramble(u64::from(client)));
    let [latitude, longitude] = [0, 1].map(|axis| {
        let ([size, area], bits) = ([range.0[axis], Range::AREA.0[axis]], 32 * axis);
        (home >> bits & 0xffff_ffff) % (area - size + 1) + (random >> bits & 0xffff_ffff) % size
    });
    put_digits(&mut payload[34..40], 800_000 + latitude);
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
pub fn sent_at(record: &Record<'_>, name: &[u8], range: Range) -> Option<u64> {
    let number = str::from_utf8(record.client.get(6..14)?).ok()?.parse().ok()?;
    let time = u64::try_from(record.time).ok().filter(|&time| time <= MAX_TIME)?;
    let payload = payload(number, time, range);
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
        let last = (99_999_999, MAX_TIME, Range::AREA);
        for (client, time, range) in [
            (0, 1, Range::of_meters(0)),
            (12_345, 1_621_464_827_959_498_503, Range::of_meters(30)),
            last,
        ] {
            let payload = payload(client, time, range);
            let command = [&b"IAMAT"[..], &payload].concat();
            let Command::Iamat(iamat) = Command::parse(&command) else { panic!("{client}") };
            assert_eq!((iamat.client, iamat.time_nanos), (name(&payload), i128::from(time)));
            assert_eq!((iamat.location, iamat.time), location_and_time(&payload));
            let line = [&b"AT Bona +0.000000001"[..], &payload].concat();
            let record = Record::parse(&line).unwrap();
            assert_eq!(sent_at(&record, name(&payload), range), Some(time));
            let other = b"client00000001.bench.example";
            assert_eq!(sent_at(&record, other, range), None, "another client");
            let mut elsewhere = line.clone();
            elsewhere[line.len() - 24] ^= 1; // a digit of the longitude
            assert_eq!(sent_at(&Record::parse(&elsewhere).unwrap(), name(&payload), range), None);
        }
    }

    #[test]
    fn a_client_stays_within_its_range() {
        assert_eq!(Range::of_meters(AREA_M), Range::AREA);
        for client in 0..100 {
            let locations = (1..100).map(|time| {
                let payload = payload(client, time, Range::of_meters(30));
                let digits = |field: &[u8]| str::from_utf8(field).unwrap().parse::<u64>().unwrap();
                [digits(&payload[34..40]), digits(&payload[45..LOCATION_END])]
            });
            for axis in 0..2 {
                let values: Vec<u64> = locations.clone().map(|location| location[axis]).collect();
                let spread = values.iter().max().unwrap() - values.iter().min().unwrap();
                assert!((200..[270, 325][axis]).contains(&spread), "{spread}");
            }
        }
    }
}
