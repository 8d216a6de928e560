//! Targets taken apart: percent-encoding, parameters, boxes.

use super::position::{Bounds, Position};
use crate::protocol::decimal::{Decimal, split_sign};

/// What percent-encoded text stands for; `None` where a `%` is not followed by two digits.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (&[high, low], behind) = behind.split_first_chunk()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        decoded.push((digit(high)? * 16 + digit(low)?) as u8);
        rest = behind;
    }
    Some(decoded)
}

/// Appends `bytes` so that they can stand as one segment of a path (RFC 3986, section 2.3).
pub fn push_encoded(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            let hex = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            out.extend_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
}

/// The parameters of a query: names as they stand, values decoded.
///
/// # Errors
///
/// For people: a parameter that is not known, or cannot be decoded.
pub fn parameters(query: &str, known: &[&str]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&name) {
            let known = known.join(", ");
            return Err(format!("there is no parameter `{name}` here; known are {known}"));
        }
        let Some(value) = decode(value) else {
            return Err(format!("{name} is not percent-encoded as it should be"));
        };
        parameters.push((name.to_owned(), value));
    }
    Ok(parameters)
}

/// A whole number in decimal digits.
#[must_use]
pub fn whole(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

/// `minLon,minLat,maxLon,maxLat` in degrees.
#[must_use]
pub fn bounds(text: &[u8]) -> Option<Bounds> {
    let mut numbers = [0.0; 4];
    let mut fields = text.split(|&byte| byte == b',');
    for (at, number) in numbers.iter_mut().enumerate() {
        *number = degrees(fields.next()?, [180, 90][at % 2])?;
    }
    let [west, south, east, north] = numbers;
    let ordered = fields.next().is_none() && south <= north;
    ordered
        .then(|| Bounds { least: Position::new(south, west), greatest: Position::new(north, east) })
}

fn degrees(field: &[u8], most: u64) -> Option<f64> {
    let (negative, digits) = split_sign(field).unwrap_or((false, field));
    let decimal = Decimal::parse(digits)?;
    let degrees = decimal.to_f64(0);
    decimal.cmp_whole(most).is_le().then_some(if negative { -degrees } else { degrees })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_known_and_decoded() {
        let known = ["bbox", "limit"];
        let found = parameters("bbox=1%2C2&&limit=5", &known).unwrap();
        assert_eq!(found, [("bbox".into(), b"1,2".to_vec()), ("limit".into(), b"5".to_vec())]);
        assert!(parameters("box=1", &known).unwrap_err().contains("known are bbox, limit"));
        assert!(parameters("bbox=%4", &known).unwrap_err().contains("percent-encoded"));
    }

    #[test]
    fn boxes() {
        assert!(bounds(b"-118.5,34,-118,34.5").is_some());
        assert!(bounds(b"179,-1,-179,1").is_some(), "across the antimeridian");
        for bad in ["", "1,2,3", "1,2,3,4,5", "a,2,3,4", "-181,0,0,0", "0,-91,0,0", "0,1,0,0"] {
            assert!(bounds(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(bounds(b"0,0,1e1,1").is_none() && bounds(b"nan,0,0,0").is_none());
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole(b"0123"), Some(123));
        for bad in ["", "+1", "-1", "1.0", "99999999999999999999"] {
            assert_eq!(whole(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_comes_back(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut encoded = Vec::new();
            push_encoded(&mut encoded, &name);
            let text = String::from_utf8(encoded).unwrap();
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
            prop_assert_eq!(decode(&text), Some(name));
        }
    }
}
