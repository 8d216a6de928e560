//! The dates of an X.509 certificate (RFC 5280, section 4.1.2.5).
//!
//! rustls verifies dates but does not return them, so the few fields before them are skipped here.

use core::cmp::Ordering;

use super::der::{Der, INTEGER, SEQUENCE, VERSION};

/// The first and the last second in which a certificate is valid, since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Validity {
    /// Returns the dates of `certificate`, which is in the binary form DER, or `None` if it is not a
    /// certificate.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let signed = Der(certificate).content(SEQUENCE)?;
        let mut fields = Der(Der(signed).content(SEQUENCE)?);
        if fields.0.first() == Some(&VERSION) {
            fields.content(VERSION)?;
        }
        fields.content(INTEGER)?; // serial number
        fields.content(SEQUENCE)?; // signature algorithm
        fields.content(SEQUENCE)?; // issuer
        let mut dates = Der(fields.content(SEQUENCE)?);
        let (not_before, not_after) = (dates.time()?, dates.time()?);
        dates.0.is_empty().then_some(Self { not_before, not_after })
    }

    /// Compares `now`, in seconds since the Unix epoch, with this period: `Less` before it, `Equal`
    /// in it, `Greater` after it.
    #[must_use]
    pub const fn position(&self, now: i64) -> Ordering {
        if now < self.not_before {
            Ordering::Less
        } else if now > self.not_after {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }
}

impl Der<'_> {
    /// Reads a time. Returns the seconds since the Unix epoch.
    fn time(&mut self) -> Option<i64> {
        let (tag, text) = self.next()?;
        let digits = text.strip_suffix(b"Z")?;
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let (year, rest) = digits.split_at(2);
                let year = number(year)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            (GENERALIZED_TIME, 14) => {
                let (year, rest) = digits.split_at(4);
                (number(year)?, rest)
            }
            _ => return None,
        };
        let mut parts = [0; 5];
        for (part, digits) in parts.iter_mut().zip(rest.chunks(2)) {
            *part = number(digits)?;
        }
        let [month, day, hour, minute, second] = parts;
        let in_range = (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        in_range.then(|| {
            days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
        })
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
    })
}

/// Days from 1970-01-01 to a day in the proleptic Gregorian calendar, by the algorithm
/// `days_from_civil` of H. Hinnant. Its years begin in March, so that a leap day is last.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let header = match length {
            0..0x80 => vec![tag, length as u8],
            _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        };
        [&header[..], content].concat()
    }

    /// A certificate without everything after the dates.
    fn certificate(version: &[u8], dates: &[u8]) -> Vec<u8> {
        let issuer = element(SEQUENCE, &[b'x'; 300]);
        let before = [version, &[INTEGER, 1, 7, SEQUENCE, 0]].concat();
        let fields = [&before[..], &issuer, &element(SEQUENCE, dates), b"the rest"].concat();
        element(SEQUENCE, &element(SEQUENCE, &fields))
    }

    fn dates(from: (u8, &str), to: (u8, &str)) -> Vec<u8> {
        [element(from.0, from.1.as_bytes()), element(to.0, to.1.as_bytes())].concat()
    }

    /// The expected numbers are from `date -u +%s`.
    #[test]
    fn both_forms_of_a_time_are_read() {
        let version = element(VERSION, &[INTEGER, 1, 2]);
        for (dates, not_before, not_after) in [
            (dates((UTC_TIME, "700101000000Z"), (UTC_TIME, "491231235959Z")), 0, 2_524_607_999),
            (
                dates((UTC_TIME, "500101000000Z"), (GENERALIZED_TIME, "99991231235959Z")),
                -631_152_000,
                253_402_300_799,
            ),
            (
                dates((UTC_TIME, "000229123456Z"), (GENERALIZED_TIME, "21000301000000Z")),
                951_827_696,
                4_107_542_400,
            ),
        ] {
            let expected = Some(Validity { not_before, not_after });
            assert_eq!(Validity::of(&certificate(&version, &dates)), expected);
            assert_eq!(Validity::of(&certificate(b"", &dates)), expected, "version 1");
        }
    }

    #[test]
    fn a_time_that_is_malformed_or_out_of_range_is_rejected() {
        let valid = (UTC_TIME, "491231235959Z");
        for time in [
            (UTC_TIME, "4912312359Z"),
            (UTC_TIME, "491231235959"),
            (UTC_TIME, "491231235959+0100"),
            (UTC_TIME, "4x1231235959Z"),
            (UTC_TIME, "491331235959Z"),
            (UTC_TIME, "490031235959Z"),
            (UTC_TIME, "491200235959Z"),
            (UTC_TIME, "491231245959Z"),
            (UTC_TIME, "491231236059Z"),
            (UTC_TIME, "491231235960Z"),
            (UTC_TIME, "20491231235959Z"),
            (GENERALIZED_TIME, "491231235959Z"),
            (GENERALIZED_TIME, "20491231235959.5Z"),
            (INTEGER, "491231235959Z"),
        ] {
            assert_eq!(Validity::of(&certificate(b"", &dates(time, valid))), None, "{time:?}");
            assert_eq!(Validity::of(&certificate(b"", &dates(valid, time))), None, "{time:?}");
        }
    }

    #[test]
    fn both_ends_belong_to_the_period() {
        let validity = Validity { not_before: 5, not_after: 7 };
        let positions: Vec<Ordering> = (4..=8).map(|now| validity.position(now)).collect();
        let (less, equal, greater) = (Ordering::Less, Ordering::Equal, Ordering::Greater);
        assert_eq!(positions, [less, equal, equal, equal, greater]);
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(mut bytes: Vec<u8>, at: usize, to: u8, cut: usize) {
            let _ = Validity::of(&bytes);
            // A damaged certificate.
            let valid = (UTC_TIME, "491231235959Z");
            bytes = certificate(&element(VERSION, &[INTEGER, 1, 2]), &dates(valid, valid));
            let length = bytes.len();
            bytes[at % length] = to;
            let _ = Validity::of(&bytes);
            prop_assert_eq!(Validity::of(&bytes[..cut % length]), None);
        }
    }
}
