//! Query strings: parameters, integers, boxes.

use std::borrow::Cow;

use super::position::{Bounds, Position};
use crate::geo::Point;
use crate::protocol::decimal::{Decimal, split_sign};
use crate::text::percent::decode;

/// The name and the value of a parameter.
type Parameter<'q> = (&'q str, Cow<'q, [u8]>);

/// Returns the parameters of a query. Values are decoded, names are not.
///
/// # Errors
///
/// A parameter that is not `known` or cannot be decoded, for the body of the response.
pub fn parameters<'q>(query: &'q str, known: &[&str]) -> Result<Vec<Parameter<'q>>, String> {
    let mut parameters = Vec::new();
    for (name, value) in pairs(query) {
        if !known.contains(&name) {
            if known.is_empty() {
                return Err(format!("unknown parameter `{name}`; there are none here"));
            }
            let known = known.join(", ");
            return Err(format!("unknown parameter `{name}`; known parameters: {known}"));
        }
        let Some(value) = decode(value) else {
            return Err(format!("{name} is not valid percent-encoding"));
        };
        parameters.push((name, value));
    }
    Ok(parameters)
}

/// Returns the names and values of a query as they were sent.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = query;
    let pair = core::iter::from_fn(move || {
        (!rest.is_empty()).then(|| {
            let (pair, after) = cut(rest, b'&');
            rest = after;
            pair
        })
    });
    pair.filter(|pair| !pair.is_empty()).map(|pair| cut(pair, b'='))
}

/// Divides `text` at the first delimiter, which is ASCII. Without one, the second part is empty.
fn cut(text: &str, delimiter: u8) -> (&str, &str) {
    match memchr::memchr(delimiter, text.as_bytes()) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
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

/// Parses a point: `LON,LAT` in degrees.
#[must_use]
pub fn point(text: &[u8]) -> Option<Point> {
    let mut fields = text.split(|&byte| byte == b',');
    let lng = degrees(fields.next()?, 180)?;
    let lat = degrees(fields.next()?, 90)?;
    fields.next().is_none().then_some(Point { lat, lng })
}

/// Parses a number that is not negative.
#[must_use]
pub fn number(text: &[u8]) -> Option<f64> {
    let text = &*plain(text)?;
    let (negative, digits) = split_sign(text).unwrap_or((false, text));
    let number = Decimal::parse(digits)?.to_f64(0);
    (!negative || number == 0.0).then_some(number)
}

/// Exponents up to which [`plain`] expands: more than the range of an `f64`.
const MAX_EXPONENT: usize = 400;

/// Returns a number with an exponent (`1e-05`, as Python prints it) without one, digit by digit, and
/// any other text as it is. Returns `None` if it is not a number, or too large for any parameter.
#[must_use]
pub fn plain(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(at) = text.iter().position(|byte| matches!(byte, b'e' | b'E')) else {
        return Some(text.into());
    };
    let (negative, decimal) = split_sign(&text[..at]).unwrap_or((false, &text[..at]));
    let (shrinks, exponent) = split_sign(&text[at + 1..]).unwrap_or((false, &text[at + 1..]));
    Decimal::parse(decimal)?;
    if exponent.is_empty() || !exponent.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exponent =
        exponent.iter().fold(0i64, |n, digit| (n * 10 + i64::from(digit - b'0')).min(1 << 40));
    let point = decimal.iter().position(|&byte| byte == b'.').unwrap_or(decimal.len());
    let zeros = decimal.iter().take_while(|&&byte| byte == b'0' || byte == b'.').count();
    let digits: Vec<u8> = decimal[zeros..].iter().copied().filter(|&byte| byte != b'.').collect();
    // The position of the point relative to the first digit that is not zero.
    let point = point as i64 - zeros as i64 + i64::from(zeros > point);
    let point = if shrinks { point - exponent } else { point + exponent };
    let (zeros, shift) =
        (usize::try_from(-point).unwrap_or(0), usize::try_from(point).unwrap_or(0));
    let mut out = if negative { b"-".to_vec() } else { Vec::new() };
    if digits.is_empty() || zeros > MAX_EXPONENT {
        out.push(b'0');
        return Some(out.into());
    }
    if shift > MAX_EXPONENT {
        return None;
    }
    let (integer, fraction) = digits.split_at(shift.min(digits.len()));
    out.extend_from_slice(if integer.is_empty() { b"0" } else { integer });
    out.resize(out.len() + shift - integer.len(), b'0');
    out.push(b'.');
    out.resize(out.len() + zeros, b'0');
    out.extend_from_slice(fraction);
    Some(out.into())
}

fn degrees(field: &[u8], max: u64) -> Option<f64> {
    let field = &*plain(field)?;
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
        assert_eq!(found, [("bbox", b"1,2"[..].into()), ("limit", b"5"[..].into())]);
        assert!(parameters("box=1", &known).unwrap_err().contains("known parameters: bbox, limit"));
        assert!(parameters("x=1", &[]).unwrap_err().ends_with("`x`; there are none here"));
        assert!(parameters("bbox=%4", &known).unwrap_err().contains("percent-encoding"));
    }

    #[test]
    fn boxes_are_four_numbers_in_range() {
        assert!(bounds(b"-118.5,34,-118,34.5").is_some());
        assert!(bounds(b"179,-1,-179,1").is_some(), "across the antimeridian");
        for bad in ["", "1,2,3", "1,2,3,4,5", "a,2,3,4", "-181,0,0,0", "0,-91,0,0", "0,1,0,0"] {
            assert!(bounds(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(bounds(b"nan,0,0,0").is_none() && bounds(b"0,0,inf,0").is_none());
    }

    #[test]
    fn numbers_may_have_an_exponent() {
        let plain = |text: &str| {
            plain(text.as_bytes()).map(|it| String::from_utf8(it.into_owned()).unwrap())
        };
        for (text, expected) in [
            ("12.5", "12.5"),
            ("1e-05", "0.00001"),
            ("-1.25E+1", "-12.5"),
            ("+1.e2", "100."),
            (".5e1", "5."),
            ("0.0012e3", "1.2"),
            ("120e-1", "12.0"),
            ("00e5", "0"),
            ("-0.0e-9999999999999999999999", "-0"),
            ("1e-402", "0"),
        ] {
            assert_eq!(plain(text).as_deref(), Some(expected), "{text}");
        }
        for bad in ["e1", "1e", "1e+", "1e1.0", "1e1e1", ".e1", "1e401", "1 e1", "--1e1"] {
            assert_eq!(plain(bad), None, "{bad}");
        }
        assert_eq!(bounds(b"-1.185e+02,340e-1,-118,3.45E1"), bounds(b"-118.5,34,-118,34.5"));
        assert!(bounds(b"1.8e2,0,-1.8e2,1e-9").is_some());
        for bad in ["1.8000000000000000001e2,0,0,0", "0,0,0,9.1e1", "1e999999999999999999999,0,0,0"]
        {
            assert!(bounds(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn integers_are_decimal_digits() {
        assert_eq!(integer(b"0123"), Some(123));
        for bad in ["", "+1", "-1", "1.0", "99999999999999999999"] {
            assert_eq!(integer(bad.as_bytes()), None, "{bad}");
        }
    }
}
