//! Coordinates of GeoJSON (RFC 7946, section 3.1.1), from JSON that is known to be valid.
//!
//! Numbers are read by the standard library, which rounds correctly, as locations of clients are.

use core::fmt::Write as _;

use super::limits::MAX_VERTICES;
use crate::spatial::shape::{Polygon, Vertex};

/// What is wrong with coordinates, and where in them.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Indices of the element: `[0][3]`.
    pub at: String,
    /// What is wrong, and the fix.
    pub message: String,
}

/// Reads the coordinates of a Point.
///
/// # Errors
///
/// If they are not a position in range.
pub fn point(json: &str) -> Result<Vertex, Fault> {
    Reader::new(json).position()
}

/// Reads the coordinates of a Polygon.
///
/// # Errors
///
/// If they are not a list of closed rings in range.
pub fn polygon(json: &str) -> Result<Polygon, Fault> {
    Reader::new(json).polygon()
}

/// Reads the coordinates of a `MultiPolygon`.
///
/// # Errors
///
/// If they are not a list of polygons.
pub fn polygons(json: &str) -> Result<Vec<Polygon>, Fault> {
    let mut reader = Reader::new(json);
    let mut polygons = Vec::new();
    reader.list("a list of polygons", |reader| {
        polygons.push(reader.polygon()?);
        Ok(())
    })?;
    if polygons.is_empty() {
        return Err(reader.fault("is empty; list at least one polygon"));
    }
    Ok(polygons)
}

struct Reader<'j> {
    json: &'j [u8],
    at: usize,
    /// Indices of the current element.
    path: Vec<usize>,
    /// Positions so far.
    positions: usize,
}

impl<'j> Reader<'j> {
    const fn new(json: &'j str) -> Self {
        Self { json: json.as_bytes(), at: 0, path: Vec::new(), positions: 0 }
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        let mut at = String::new();
        for index in &self.path {
            let _ = write!(at, "[{index}]"); // writing to a String cannot fail
        }
        Fault { at, message: message.into() }
    }

    /// Returns the next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while self.json.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    /// Reads a list, whose elements `each` reads.
    fn list(
        &mut self,
        expected: &str,
        mut each: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if self.peek() != Some(b'[') {
            return Err(self.fault(format!("must be {expected}, in brackets")));
        }
        self.at += 1;
        self.path.push(0);
        while let Some(next) = self.peek() {
            match next {
                b']' => {
                    self.at += 1;
                    break;
                }
                b',' => {
                    self.at += 1;
                    if let Some(index) = self.path.last_mut() {
                        *index += 1;
                    }
                }
                _ => each(self)?,
            }
        }
        self.path.pop();
        Ok(())
    }

    fn polygon(&mut self) -> Result<Polygon, Fault> {
        let mut rings = Vec::new();
        self.list("a list of rings", |reader| {
            rings.push(reader.ring()?);
            Ok(())
        })?;
        if rings.is_empty() {
            return Err(self.fault("is empty; list the outer ring, and then the holes"));
        }
        Ok(Polygon::new(&rings))
    }

    fn ring(&mut self) -> Result<Vec<Vertex>, Fault> {
        let mut ring = Vec::new();
        self.list("a ring, which is a list of positions", |reader| {
            ring.push(reader.position()?);
            Ok(())
        })?;
        if ring.len() < 4 {
            return Err(self.fault(format!(
                "has {} positions; a ring needs at least four, of which the last is the first",
                ring.len()
            )));
        }
        if ring.first() != ring.last() {
            return Err(self.fault("is not closed; repeat the first position as the last one"));
        }
        Ok(ring)
    }

    /// Reads a position. What follows longitude and latitude, such as the altitude, is ignored.
    fn position(&mut self) -> Result<Vertex, Fault> {
        let mut numbers = [None; 2];
        self.list("a position: [longitude, latitude]", |reader| {
            let number = reader.number()?;
            let index = reader.path.last().copied().unwrap_or_default();
            let (name, most) = if index == 0 { ("longitude", 180.0) } else { ("latitude", 90.0) };
            let Some(slot) = numbers.get_mut(index) else { return Ok(()) };
            if number.abs() > most {
                let cut = if index == 0 { "; cut shapes at the antimeridian" } else { "" };
                return Err(reader.fault(format!(
                    "{name} {number} is not from -{most} to {most}; the longitude comes first{cut}"
                )));
            }
            *slot = Some(number);
            Ok(())
        })?;
        self.positions += 1;
        if self.positions > MAX_VERTICES {
            return Err(
                self.fault(format!("is position {}; use at most {MAX_VERTICES}", self.positions))
            );
        }
        match numbers {
            [Some(lng), Some(lat)] => Ok([lng, lat]),
            _ => Err(self.fault("has less than two numbers; use [longitude, latitude]")),
        }
    }

    fn number(&mut self) -> Result<f64, Fault> {
        let rest = &self.json[self.at..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(|byte| is_part(byte)).count();
        let number = str::from_utf8(&rest[..length]).ok().and_then(|text| text.parse::<f64>().ok());
        self.at += length;
        // Adding 0 turns −0 into 0, so that equal coordinates have equal hashes.
        number.map(|number| number + 0.0).ok_or_else(|| {
            self.fault("is not a number; a position is [longitude, latitude] in degrees")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(result: Result<impl Sized, Fault>) -> String {
        let fault = result.err().unwrap();
        format!("{}: {}", fault.at, fault.message)
    }

    #[test]
    fn positions_are_read_exactly() {
        assert_eq!(point(" [ -118.445127 , 34.06893 , 12 ] "), Ok([-118.445_127, 34.068_93]));
        // The last digit is lost in two roundings.
        let digits = "-118.44512700000000123456789";
        let read = point(&format!("[{digits},1e-05]")).unwrap().map(f64::to_bits);
        assert_eq!(read, [digits, "0.00001"].map(|it| it.parse::<f64>().unwrap().to_bits()));
        assert!(point("[-0.0,-0]").unwrap().iter().all(|zero| zero.is_sign_positive()));
    }

    #[test]
    fn a_fault_has_its_place_and_a_fix() {
        for (json, expected) in [
            ("1", ": must be a list of rings, in brackets"),
            ("[]", ": is empty; list the outer ring, and then the holes"),
            ("[[1,2]]", "[0][0]: must be a position: [longitude, latitude], in brackets"),
            ("[[[1,2],[3]]]", "[0][1]: has less than two numbers; use [longitude, latitude]"),
            (
                "[[[1,2],[3,\"4\"]]]",
                "[0][1][1]: is not a number; a position is [longitude, latitude] in degrees",
            ),
            (
                "[[[1,2],[1,95]]]",
                "[0][1][1]: latitude 95 is not from -90 to 90; the longitude comes first",
            ),
            (
                "[[[1,2],[1e999,5]]]",
                "[0][1][0]: longitude inf is not from -180 to 180; the longitude comes first; cut \
                 shapes at the antimeridian",
            ),
            (
                "[[[1,2],[3,4],[1,2]]]",
                "[0]: has 3 positions; a ring needs at least four, of which the last is the first",
            ),
            (
                "[[[1,2],[3,4],[5,6],[1,3]]]",
                "[0]: is not closed; repeat the first position as the last one",
            ),
        ] {
            assert_eq!(fault(polygon(json)), *expected, "{json}");
        }
        assert_eq!(fault(polygons("[]")), ": is empty; list at least one polygon");
        assert_eq!(fault(polygons("[[[[1,2]]]]")).split(':').next(), Some("[0][0]"));
        assert_eq!(fault(point("{}")), ": must be a position: [longitude, latitude], in brackets");
    }
}
