//! Query strings: parameters, integers, boxes.

use super::position::{Bounds, Position};
use crate::protocol::decimal::{Decimal, split_sign};
use crate::text::percent::decode;

/// Returns the parameters of a query. Values are decoded, names are not.
///
/// # Errors
///
/// A parameter that is not `known` or cannot be decoded, for the body of the response.
pub fn parameters(query: &str, known: &[&str]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&name) {
            let known = known.join(", ");
            return Err(format!("unknown parameter `{name}`; known parameters: {known}"));
        }
        let Some(value) = decode(value) else {
            return Err(format!("{name} is not valid percent-encoding"));
        };
        parameters.push((name.to_owned(), value));
    }
    Ok(parameters)
}

/// Parses an unsigned decimal integer of at most 19 digits.
#[must_use]
pub fn integer(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

/// Parses a box: `minLon,minLat,maxLon,maxLat` in degrees.
#[must_use]
pub fn bounds(text: &[u8]) -> Option<Bounds> {
    let mut numbers = [0.0; 4];
    let mut fields = text.split(|&byte| byte == b',');
    for (at, number) in numbers.iter_mut().enumerate() {
        *number = degrees(fields.next()?, [180, 90][at % 2])?;
    }
    let [west, south, east, north] = numbers;
    let ordered = fields.next().is_none() && south <= north;
    ordered.then(|| Bounds {
        southwest: Position::new(south, west),
        northeast: Position::new(north, east),
    })
}

fn degrees(field: &[u8], max: u64) -> Option<f64> {
    let (negative, digits) = split_sign(field).unwrap_or((false, field));
    let decimal = Decimal::parse(digits)?;
    let degrees = decimal.to_f64(0);
    decimal.cmp_integer(max).is_le().then_some(if negative { -degrees } else { degrees })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_must_be_known_and_are_decoded() {
        let known = ["bbox", "limit"];
        let found = parameters("bbox=1%2C2&&limit=5", &known).unwrap();
        assert_eq!(found, [("bbox".into(), b"1,2".to_vec()), ("limit".into(), b"5".to_vec())]);
        assert!(parameters("box=1", &known).unwrap_err().contains("known parameters: bbox, limit"));
        assert!(parameters("bbox=%4", &known).unwrap_err().contains("percent-encoding"));
    }

    #[test]
    fn boxes_are_four_numbers_in_range() {
        assert!(bounds(b"-118.5,34,-118,34.5").is_some());
        assert!(bounds(b"179,-1,-179,1").is_some(), "across the antimeridian");
        for bad in ["", "1,2,3", "1,2,3,4,5", "a,2,3,4", "-181,0,0,0", "0,-91,0,0", "0,1,0,0"] {
            assert!(bounds(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(bounds(b"0,0,1e1,1").is_none() && bounds(b"nan,0,0,0").is_none());
    }

    #[test]
    fn integers_are_decimal_digits() {
        assert_eq!(integer(b"0123"), Some(123));
        for bad in ["", "+1", "-1", "1.0", "99999999999999999999"] {
            assert_eq!(integer(bad.as_bytes()), None, "{bad}");
        }
    }
}
