//! Records, which are stored as their AT lines. `parse(emit(x)) == x`.
//!
//! A client is erased by a record, too: a tombstone, which is an AT line without a location.

use core::cmp::Ordering;

use super::command::Iamat;
use super::decimal::plain_billionths_at;
use super::location::{self, Location};
use super::next_field;
use super::time::{
    MAX_SECONDS, Nanos, SECOND, parse_difference, parse_time, push_difference, push_time,
};

/// A parsed record: views of its AT line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// AT line without LF, exactly as stored and sent.
    pub line: &'a [u8],
    /// Name of the node that received the IAMAT.
    pub server: &'a [u8],
    /// Position of the client name in `line`.
    pub client_at: usize,
    /// Client name.
    pub client: &'a [u8],
    /// Time given by the client.
    pub time: Nanos,
    /// Wall clock of the receiving node when the IAMAT arrived: `time` plus the clock difference.
    pub received: Nanos,
}

impl<'a> Record<'a> {
    /// Appends the AT line, without LF, with which `server` answers `iamat` received at `received`.
    /// Returns its record.
    pub fn emit(
        out: &'a mut Vec<u8>,
        server: &[u8],
        iamat: &Iamat<'_>,
        received: Nanos,
    ) -> Record<'a> {
        let start = out.len();
        out.extend_from_slice(b"AT ");
        out.extend_from_slice(server);
        push_difference(out, received - iamat.time_nanos);
        let client_at = out.len() - start;
        if let Some(report) = iamat.report {
            out.extend_from_slice(report);
        } else {
            out.extend_from_slice(iamat.client);
            for field in [iamat.location, iamat.time] {
                out.push(b' ');
                out.extend_from_slice(field);
            }
        }
        let line = &out[start..];
        Record {
            line,
            server: &line[3..3 + server.len()],
            client_at,
            client: &line[client_at..client_at + iamat.client.len()],
            time: iamat.time_nanos,
            received,
        }
    }

    /// Appends the line, without LF, with which `server` erases `client` at `time`, and returns its
    /// record: `AT <server> +0.000000000 <client> <time>`. Returns `None` if the time is before 1970
    /// or after the year 9999.
    pub fn emit_tombstone(
        out: &'a mut Vec<u8>,
        server: &[u8],
        client: &[u8],
        time: Nanos,
    ) -> Option<Record<'a>> {
        if !(0..=Nanos::from(MAX_SECONDS) * SECOND).contains(&time) {
            return None;
        }
        let start = out.len();
        out.extend_from_slice(b"AT ");
        out.extend_from_slice(server);
        push_difference(out, 0);
        let client_at = out.len() - start;
        out.extend_from_slice(client);
        out.push(b' ');
        push_time(out, time);
        Self::known(&out[start..], client_at, client.len())
    }

    /// Returns the record of a stored line whose client name is at `client_at`. Parses only the
    /// fields that determine the order of records. Returns `None` if the line is not a record.
    #[must_use]
    pub fn known(line: &'a [u8], client_at: usize, client_len: usize) -> Option<Self> {
        let (server, _) = next_field(line.get(3..)?)?;
        let difference = line.get(3 + server.len() + 1..client_at.checked_sub(1)?)?;
        let client = line.get(client_at..client_at + client_len)?;
        let time = line.get(memchr::memrchr(b' ', line)? + 1..)?;
        let time = parse_time(time)?;
        let received = time + parse_difference(difference)?;
        Some(Self { line, server, client_at, client, time, received })
    }

    /// Parses an AT line, without LF, in the form that peers send: single spaces, no white space at
    /// either end.
    #[must_use]
    #[inline]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let any = || Self::parse_with_location(line).map(|(record, _)| record);
        Self::parse_plain(line).or_else(any)
    }

    /// As [`Record::parse`]. Also returns the location, which a tombstone lacks.
    #[must_use]
    #[inline]
    pub fn parse_with_location(line: &'a [u8]) -> Option<(Self, Option<Location<'a>>)> {
        let field = |rest: &'a [u8]| next_field(rest.strip_prefix(b" ")?);
        let (server, rest) = field(line.strip_prefix(b"AT")?)?;
        let (difference, rest) = field(rest)?;
        let (client, rest) = field(rest)?;
        let client_at = line.len() - rest.len() - client.len();
        let (location, rest) = field(rest)?;
        if rest.is_empty() {
            let record = Self::parse_tombstone(line, [server, difference, client, location])?;
            return Some((record, None));
        }
        let (time, rest) = field(rest)?;
        // The fields and five single spaces must account for every byte.
        let fields = server.len() + difference.len() + client.len() + location.len() + time.len();
        if !rest.is_empty() || fields + "AT".len() + 5 != line.len() {
            return None;
        }
        let location = Location::parse(location)?;
        let time = parse_time(time)?;
        let received = time + parse_difference(difference)?;
        Some((Self { line, server, client_at, client, time, received }, Some(location)))
    }

    /// Parses an AT line if location and time are as nearly all clients send them. Returns `None` for all
    /// other lines, which may be valid.
    fn parse_plain(line: &'a [u8]) -> Option<Self> {
        let field = |rest: &'a [u8]| next_field(rest.strip_prefix(b" ")?);
        let (server, rest) = field(line.strip_prefix(b"AT")?)?;
        let (difference, rest) = field(rest)?;
        let (client, rest) = field(rest)?;
        let client_at = line.len() - rest.len() - client.len();
        let client_end = client_at + client.len();
        let location_end = Location::plain_end(line, client_end + 1)?;
        let (time, end) = plain_billionths_at(line, location_end + 1)?;
        let is_plain = client_at == "AT".len() + 3 + server.len() + difference.len()
            && line[client_end] == b' '
            && line[location_end] == b' '
            && end == line.len();
        if !is_plain {
            return None;
        }
        let time = time.into();
        let received = time + parse_difference(difference)?;
        Some(Self { line, server, client_at, client, time, received })
    }

    /// Parses a line with these fields. Only one form of a time is accepted, so an AT line that has
    /// lost its location is not taken for a tombstone.
    fn parse_tombstone(line: &'a [u8], fields: [&'a [u8]; 4]) -> Option<Self> {
        let [server, difference, client, time] = fields;
        let length: usize = fields.iter().map(|field| field.len()).sum();
        let (seconds, nanos) = time.split_at_checked(time.len().checked_sub(10)?)?;
        let digits = |field: &[u8]| !field.is_empty() && field.iter().all(u8::is_ascii_digit);
        let is_canonical = digits(seconds)
            && nanos[0] == b'.'
            && digits(&nanos[1..])
            && (seconds.len() == 1 || seconds[0] != b'0');
        if !is_canonical || difference != b"+0.000000000" || length + "AT".len() + 4 != line.len() {
            return None;
        }
        Self::known(line, line.len() - time.len() - 1 - client.len(), client.len())
            .filter(|record| record.server == server)
    }

    /// Returns whether this record erases the client.
    #[must_use]
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        // As by `is_tombstone`, without a slice.
        self.line.get(self.client_at + self.client.len() + 1).is_some_and(u8::is_ascii_digit)
    }

    /// Returns location and time, verbatim; of a tombstone, the time. An IAMAT that repeats both is an exact repeat.
    #[must_use]
    pub fn report(&self) -> &'a [u8] {
        &self.line[self.client_at + self.client.len()..]
    }

    /// Returns the location of the client, or `None` for a tombstone.
    #[must_use]
    pub fn location(&self) -> Option<Location<'a>> {
        Location::parse(next_field(self.report())?.0)
    }

    /// Returns latitude and longitude of the client in degrees, or `None` for a tombstone.
    #[must_use]
    pub fn degrees(&self) -> Option<(f64, f64)> {
        location::degrees(self.report().strip_prefix(b" ")?)
    }

    /// The order of records: `key = (min(time, received + Δ), time, received, server, line)`.
    ///
    /// `max_clock_offset` is Δ. This is a total order that depends only on the two lines. All nodes
    /// therefore agree, and merging is a maximum: commutative, associative and idempotent.
    #[must_use]
    pub fn cmp(&self, other: &Record<'_>, max_clock_offset: Nanos) -> Ordering {
        let rank = |record: &Record<'_>| record.rank(max_clock_offset);
        rank(self)
            .cmp(&rank(other))
            .then_with(|| self.time.cmp(&other.time))
            .then_with(|| self.received.cmp(&other.received))
            .then_with(|| self.server.cmp(other.server))
            .then_with(|| self.line.cmp(other.line))
    }

    /// Returns the first part of the key: the client's time, limited to `max_clock_offset` ahead of
    /// the clock of the receiving node.
    #[must_use]
    pub fn rank(&self, max_clock_offset: Nanos) -> Nanos {
        self.time.min(self.received + max_clock_offset)
    }
}

/// Returns whether [`Record::report`] is that of a tombstone: a location begins with a sign.
#[must_use]
pub fn is_tombstone(report: &[u8]) -> bool {
    report.get(1).is_some_and(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::super::command::Command;
    use super::super::time::SECOND;
    use super::*;
    use proptest::prelude::*;

    const DELTA: Nanos = 5 * SECOND;

    fn emit(server: &str, line: &str, received: Nanos) -> Vec<u8> {
        let Command::Iamat(iamat) = Command::parse(line.as_bytes()) else { panic!("{line}") };
        let mut out = Vec::new();
        let emitted = Record::emit(&mut out, server.as_bytes(), &iamat, received);
        assert_eq!(Record::parse(emitted.line), Some(emitted));
        let known = Record::known(emitted.line, emitted.client_at, emitted.client.len());
        assert_eq!(known, Some(emitted));
        out
    }

    #[test]
    fn the_at_line_of_the_specification() {
        let line = emit(
            "Clark",
            "IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 1621464827.959498503",
            1_621_464_828_223_371_889,
        );
        let expected: &[u8] =
            b"AT Clark +0.263873386 kiwi.cs.ucla.edu +34.068930-118.445127 1621464827.959498503";
        assert_eq!(line, expected);
        let record = Record::parse(&line).unwrap();
        assert_eq!(record.client, b"kiwi.cs.ucla.edu");
        assert_eq!(record.received, 1_621_464_828_223_371_889);
        assert_eq!(record.report(), b" +34.068930-118.445127 1621464827.959498503");
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in [
            "AT Clark +0.2 kiwi +1-1",
            "AT Clark +0.2 kiwi +1-1 5 6",
            "AT  Clark +0.2 kiwi +1-1 5",
            "AT Clark +0.2 kiwi +1-1 5 ",
            "AT Clark 0.2 kiwi +1-1 5",
            "AT Clark +0.2 kiwi +91-1 5",
            "AT Clark +0.2 kiwi +1-1 x",
            "AT Clark\t+0.2 kiwi\t+1-1  5",
            "AT Clark +0.2 kiwi +1-1\t5",
            "AT\rClark +0.2 kiwi +1-1 5",
            "at Clark +0.2 kiwi +1-1 5",
            "",
        ] {
            assert_eq!(Record::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_tombstone_is_an_at_line_without_a_location() {
        let mut line = Vec::new();
        let time = 1_621_464_828_223_371_889;
        let record = Record::emit_tombstone(&mut line, b"Clark", b"kiwi", time).unwrap();
        assert_eq!(record.line, b"AT Clark +0.000000000 kiwi 1621464828.223371889");
        assert_eq!(Record::parse(record.line), Some(record));
        assert_eq!((record.client, record.time, record.received), (&b"kiwi"[..], time, time));
        assert!(record.is_tombstone() && record.location().is_none());
        let living = emit("Clark", "IAMAT k +1-1 5", 0);
        assert!(!Record::parse(&living).unwrap().is_tombstone());
        for time in [-1, 253_402_300_799 * SECOND + 1] {
            assert_eq!(Record::emit_tombstone(&mut Vec::new(), b"A", b"k", time), None);
        }
        for other in [
            "AT Clark +0.000000000 kiwi 1621464828",
            "AT Clark +0.000000000 kiwi 1621464828.22337188",
            "AT Clark +0.000000000 kiwi +1621464828.223371889",
            "AT Clark +0.000000000 kiwi 01621464828.223371889",
            "AT Clark +0.000000001 kiwi 1621464828.223371889",
            "AT Clark -0.000000000 kiwi 1621464828.223371889",
            "AT Clark +0.000000000 kiwi  1621464828.223371889",
            "AT Clark +0.000000000 kiwi 1621464828.223371889 ",
            "AT Clark +0.000000000 kiwi .223371889",
            "AT Clark +0.000000000 kiwi 953402300799.000000000",
            "AT Clark +0.000000000 1621464828.223371889",
        ] {
            assert_eq!(Record::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_client_whose_clock_ran_ahead_recovers() {
        // The clock was a day ahead; five seconds after its correction, updates are newer again.
        let ahead = emit("Clark", "IAMAT k +1-1 186400", 100_000 * SECOND);
        let soon = emit("Clark", "IAMAT k +2-2 100004", 100_004 * SECOND);
        let later = emit("Clark", "IAMAT k +3-3 100006", 100_006 * SECOND);
        let order =
            |a: &[u8], b: &[u8]| Record::parse(a).unwrap().cmp(&Record::parse(b).unwrap(), DELTA);
        assert_eq!(order(&soon, &ahead), Ordering::Less);
        assert_eq!(order(&later, &ahead), Ordering::Greater);
    }

    prop_compose! {
        fn any_record()(server in "[AB]", time in 0i64..12, ahead in -8i64..8, place in 0u8..2) -> Vec<u8> {
            let line = format!("IAMAT k +{place}-1 {time}");
            emit(&server, &line, Nanos::from(time + ahead) * SECOND)
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in any_record(), b in any_record(), c in any_record()) {
            let cmp = |a: &[u8], b: &[u8]| Record::parse(a).unwrap().cmp(&Record::parse(b).unwrap(), DELTA);
            prop_assert_eq!(cmp(&a, &b), cmp(&b, &a).reverse());
            prop_assert_eq!(cmp(&a, &b) == Ordering::Equal, a == b);
            if cmp(&a, &b).is_le() && cmp(&b, &c).is_le() {
                prop_assert!(cmp(&a, &c).is_le());
            }
        }

        #[test]
        fn a_plain_line_is_parsed_as_any_other(
            location in "[+-][0-9]{1,3}[.]?[0-9]{0,8}[+-][0-9]{1,3}[.]?[0-9]{0,8}[/ x]?",
            time in "[+-]?[0-9]{7,11}[.]?[0-9]{0,11} ?",
            spaces in proptest::collection::vec("| |\\t|  | | | ", 5),
        ) {
            let fields = ["A", "+0.5", "k", location.as_str(), time.as_str()];
            let line = fields.iter().zip(&spaces).map(|(field, space)| format!("{space}{field}"));
            let line = format!("AT{}", line.collect::<String>());
            let plain = Record::parse_plain(line.as_bytes());
            let any = Record::parse_with_location(line.as_bytes()).map(|(record, _)| record);
            prop_assert!(plain.is_none() || plain == any);
        }

        #[test]
        fn any_bytes_parse_or_not(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(record) = Record::parse(&line) {
                prop_assert_eq!(record.is_tombstone(), record.location().is_none());
                prop_assert_eq!(record.line, &line[..]);
            }
        }
    }
}
