//! The fence file: a GeoJSON `FeatureCollection` (RFC 7946).

use core::fmt;
use std::collections::HashMap;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::coordinates::{self, Fault};
use super::limits::{MAX_FENCES, MAX_NAME, MAX_VERTICES};
use super::set::{Fence, FenceId, FenceSet};
use crate::geo::Point;
use crate::protocol::time::{Nanos, SECOND};
use crate::spatial::shape::Shape;
use crate::text::json::push_string;

/// An error in a fence file. It is displayed as
/// `LINE: feature 3 "depot": properties.radius: what is wrong; what to do`.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    /// Line, counted from 1; that on which the feature begins if the error is in one.
    pub line: u64,
    /// Number of the feature, counted from 1, and its name if it has one.
    feature: Option<(usize, String)>,
    /// Path of the member, or empty.
    field: String,
    /// What is wrong, and the fix.
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        match &self.feature {
            Some((number, name)) if name.is_empty() => write!(f, "feature {number}: ")?,
            Some((number, name)) => write!(f, "feature {number} {name:?}: ")?,
            None => {}
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl core::error::Error for Error {}

/// Parses the content of a fence file. Fences of `previous` that are the same keep their numbers.
///
/// # Errors
///
/// The first fence that is not valid.
pub fn parse(bytes: &[u8], previous: &FenceSet) -> Result<FenceSet, Error> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let line = line_of(bytes, error.valid_up_to());
        in_file(line, "the file is not valid UTF-8; save it in that encoding")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document: Members<'_> = serde_json::from_str(text).map_err(|error| {
        // The line is displayed separately.
        let why = error.to_string();
        let why = why.rfind(" at line ").map_or(why.as_str(), |end| &why[..end]);
        in_file(error.line().max(1) as u64, &format!("the file is not a JSON object: {why}"))
    })?;
    let kind = document.get("type").and_then(parsed::<String>);
    let features = document.get("features").and_then(parsed::<Vec<&RawValue>>);
    let (Some("FeatureCollection"), Some(features)) = (kind.as_deref(), features) else {
        return Err(in_file(
            1,
            "the file is not a GeoJSON FeatureCollection; put the fences into \
             {\"type\": \"FeatureCollection\", \"features\": […]}",
        ));
    };
    if features.len() > MAX_FENCES {
        let message = format!("{} fences are too many; use at most {MAX_FENCES}", features.len());
        return Err(in_file(1, &message));
    }
    let mut reader = Reader::default();
    for (number, feature) in (1..).zip(features) {
        reader.read(number, feature.get()).map_err(|FieldError { field, message }| {
            let at = feature.get().as_ptr() as usize - text.as_ptr() as usize;
            let line = line_of(text.as_bytes(), at);
            Error { line, feature: Some((number, reader.name.clone())), field, message }
        })?;
    }
    let mut set = FenceSet::new(reader.fences, previous);
    set.warnings = reader.warnings;
    Ok(set)
}

fn in_file(line: u64, message: &str) -> Error {
    Error { line, feature: None, field: String::new(), message: message.to_owned() }
}

/// Returns the number of the line that contains the byte at `at`.
fn line_of(bytes: &[u8], at: usize) -> u64 {
    1 + memchr::memchr_iter(b'\n', &bytes[..at.min(bytes.len())]).count() as u64
}

/// Returns the JSON value in `raw` as a `T`, or `None` if it is something else.
fn parsed<'j, T: Deserialize<'j>>(raw: &'j str) -> Option<T> {
    serde_json::from_str(raw).ok()
}

/// What is wrong with a member of a feature.
struct FieldError {
    field: String,
    message: String,
}

fn wrong(field: &str, message: impl Into<String>) -> FieldError {
    FieldError { field: field.to_owned(), message: message.into() }
}

/// The members of an object with their JSON texts, in the order of the file.
struct Members<'j>(Vec<(String, &'j str)>);

impl<'j> Members<'j> {
    /// Returns the text of a member that is not `null`. Of several with one name, the last one counts.
    fn get(&self, name: &str) -> Option<&'j str> {
        let member = self.0.iter().rev().find(|(member, _)| member == name);
        member.map(|(_, json)| *json).filter(|json| *json != "null")
    }
}

impl<'j> Deserialize<'j> for Members<'j> {
    fn deserialize<D: Deserializer<'j>>(reader: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'j> Visitor<'j> for Object {
            type Value = Members<'j>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> Result<Members<'j>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'j RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        reader.deserialize_map(Object)
    }
}

/// The fences that have been read.
#[derive(Default)]
struct Reader {
    fences: Vec<Fence>,
    /// The number of the feature that has a name.
    numbers: HashMap<Box<str>, usize>,
    vertices: usize,
    /// The name of the current feature, once it is known.
    name: String,
    warnings: Vec<String>,
}

impl Reader {
    /// Reads the feature with this number.
    fn read(&mut self, number: usize, json: &str) -> Result<(), FieldError> {
        self.name.clear();
        let feature: Members<'_> =
            parsed(json).ok_or_else(|| wrong("", "is not an object; list GeoJSON features"))?;
        let properties: Members<'_> = match feature.get("properties") {
            None => Members(Vec::new()),
            Some(json) => parsed(json).ok_or_else(|| {
                wrong("properties", "is not an object; use {\"name\": \"depot\"}")
            })?,
        };
        self.read_name(number, &properties)?;
        if feature.get("type").and_then(parsed::<String>).as_deref() != Some("Feature") {
            return Err(wrong("type", "is not \"Feature\"; list GeoJSON features"));
        }
        let hysteresis_m = measure(&properties, "hysteresis", "meters")?.unwrap_or(0.0);
        let dwell_s = measure(&properties, "dwell", "seconds")?.unwrap_or(0.0);
        let shape = shape(&feature, &properties)?;
        self.vertices += shape.vertices();
        if self.vertices > MAX_VERTICES {
            let message = format!(
                "with this fence, all fences together have more than {MAX_VERTICES} vertices; simplify \
                 them"
            );
            return Err(wrong("geometry.coordinates", message));
        }
        self.warn_of_long_edges(number, &shape);
        self.fences.push(Fence {
            id: FenceId(0),
            name: self.name.as_str().into(),
            shape,
            hysteresis_m,
            // The cast saturates.
            dwell: (dwell_s * SECOND as f64) as Nanos,
            feature: rendered(&feature, &properties),
        });
        Ok(())
    }

    fn read_name(&mut self, number: usize, properties: &Members<'_>) -> Result<(), FieldError> {
        let field = "properties.name";
        let json = properties
            .get("name")
            .ok_or_else(|| wrong(field, "is missing; every fence needs a name of its own"))?;
        let name: String = parsed(json).ok_or_else(|| {
            wrong(field, format!("{} is not a string; put it in quotes", excerpt(json)))
        })?;
        let fault = match name.len() {
            0 => Some("is empty; every fence needs a name of its own".to_owned()),
            1..=MAX_NAME if name == "*" => {
                Some("\"*\" stands for all fences in queries; use another name".to_owned())
            }
            1..=MAX_NAME => None,
            bytes => Some(format!("has {bytes} bytes; use at most {MAX_NAME}")),
        };
        if let Some(fault) = fault {
            return Err(wrong(field, fault));
        }
        self.name = name;
        match self.numbers.insert(self.name.as_str().into(), number) {
            Some(other) => Err(wrong(
                field,
                format!("is that of feature {other}, too; every fence needs a name of its own"),
            )),
            None => Ok(()),
        }
    }

    /// Warns of an edge across more than half of the world, unless it lies on a border of the map.
    fn warn_of_long_edges(&mut self, number: usize, shape: &Shape) {
        let Shape::Area(polygons) = shape else { return };
        let is_long = |polygon: &crate::spatial::shape::Polygon| {
            polygon.vertices().windows(2).any(|edge| {
                let is_border = edge.iter().all(|[lng, _]| lng.abs() >= 180.0);
                (edge[0][0] - edge[1][0]).abs() > 180.0 && !is_border
            })
        };
        if polygons.iter().any(is_long) {
            self.warnings.push(format!(
                "feature {number} {:?} has an edge across more than half of the world, since edges are \
                 straight in longitude; if it is meant to cross the antimeridian, cut it there \
                 (RFC 7946, section 3.1.9)",
                self.name
            ));
        }
    }
}

/// Returns a property that is a number and not negative.
fn measure(properties: &Members<'_>, name: &str, unit: &str) -> Result<Option<f64>, FieldError> {
    let Some(json) = properties.get(name) else { return Ok(None) };
    let number = json.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.map(|number| Some(number + 0.0)).ok_or_else(|| {
        let message =
            format!("{} is not a number of {unit} of at least 0; write it as 2.5", excerpt(json));
        wrong(&format!("properties.{name}"), message)
    })
}

fn shape(feature: &Members<'_>, properties: &Members<'_>) -> Result<Shape, FieldError> {
    const KINDS: &str = "use Polygon, MultiPolygon, or Point with properties.radius";
    let geometry = feature
        .get("geometry")
        .and_then(parsed::<Members<'_>>)
        .ok_or_else(|| wrong("geometry", format!("is missing or not an object; {KINDS}")))?;
    let kind = geometry.get("type").and_then(parsed::<String>).unwrap_or_default();
    let coordinates = geometry.get("coordinates").unwrap_or("null");
    let in_coordinates =
        |Fault { at, message }| FieldError { field: format!("geometry.coordinates{at}"), message };
    match kind.as_str() {
        "Polygon" => {
            let polygon = coordinates::polygon(coordinates).map_err(in_coordinates)?;
            Ok(Shape::Area(vec![polygon]))
        }
        "MultiPolygon" => {
            coordinates::polygons(coordinates).map(Shape::Area).map_err(in_coordinates)
        }
        "Point" => {
            let [lng, lat] = coordinates::point(coordinates).map_err(in_coordinates)?;
            let radius = measure(properties, "radius", "meters")?.filter(|radius| *radius > 0.0);
            let radius = radius.ok_or_else(|| {
                wrong(
                    "properties.radius",
                    "is missing or 0; give the radius of the circle around a Point in meters",
                )
            })?;
            Ok(Shape::Circle(Point { lat, lng }, radius))
        }
        _ => Err(wrong("geometry.type", format!("{kind:?} is not an area; {KINDS}"))),
    }
}

/// Returns the feature up to the number of clients inside, without white space between tokens.
fn rendered(feature: &Members<'_>, properties: &Members<'_>) -> Box<[u8]> {
    let mut out = b"{".to_vec();
    for (name, json) in &feature.0 {
        if name != "properties" {
            push_member(&mut out, name, json);
        }
    }
    out.extend_from_slice(b"\"properties\":{");
    for (name, json) in &properties.0 {
        if name != "inside" {
            push_member(&mut out, name, json);
        }
    }
    out.extend_from_slice(b"\"inside\":");
    out.into()
}

/// Appends a member and a comma.
fn push_member(out: &mut Vec<u8>, name: &str, json: &str) {
    push_string(out, name);
    out.push(b':');
    let (mut is_string, mut is_escaped) = (false, false);
    for &byte in json.as_bytes() {
        if is_string || !byte.is_ascii_whitespace() {
            out.push(byte);
        }
        if byte == b'"' && !is_escaped {
            is_string = !is_string;
        }
        is_escaped = is_string && byte == b'\\' && !is_escaped;
    }
    out.push(b',');
}

/// Returns the start of a value, for a message.
fn excerpt(json: &str) -> String {
    const SHOWN: usize = 40;
    let more = if json.chars().nth(SHOWN).is_some() { "…" } else { "" };
    let shown = json.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c });
    shown.collect::<String>() + more
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(document: &Value) -> Result<FenceSet, String> {
        let bytes = serde_json::to_vec(document).unwrap();
        parse(&bytes, &FenceSet::default()).map_err(|error| error.to_string())
    }

    fn with(feature: &Value) -> Result<FenceSet, String> {
        read(&json!({"type": "FeatureCollection", "features": [feature]}))
    }

    fn circle(properties: &Value) -> Value {
        json!({
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [-118.4, 34.0]},
            "properties": properties,
        })
    }

    const SQUARE: &str = "[[0,0],[1,0],[1,1],[0,1],[0,0]]";

    fn square(kind: &str, coordinates: &str) -> Value {
        json!({
            "type": "Feature",
            "geometry": {"type": kind, "coordinates": serde_json::from_str::<Value>(coordinates).unwrap()},
            "properties": {"name": "square"},
        })
    }

    #[test]
    fn a_feature_is_kept_as_it_was_written() {
        let text = r#"{ "type": "FeatureCollection", "name": "x", "features": [
            { "id": 7, "type": "Feature", "bbox": [ 1, 2, 3, 4 ],
              "geometry": { "type": "Polygon", "coordinates": [ [ [0.10, 0], [1,0],[1,1],[0.1e0,0.0] ] ] },
              "properties": { "inside": 5, "note": "two  \" spaces\\", "name": "a\u0062", "hysteresis": 12.50,
                "dwell": 3, "color": null } } ] }"#;
        let set = parse(text.as_bytes(), &FenceSet::default()).unwrap();
        let [fence] = set.fences() else { panic!() };
        assert_eq!(
            String::from_utf8_lossy(&fence.feature),
            r#"{"id":7,"type":"Feature","bbox":[1,2,3,4],"geometry":{"type":"Polygon","coordinates":[[[0.10,0],[1,0],[1,1],[0.1e0,0.0]]]},"properties":{"note":"two  \" spaces\\","name":"a\u0062","hysteresis":12.50,"dwell":3,"color":null,"inside":"#
        );
        assert_eq!((&*fence.name, fence.hysteresis_m, fence.dwell), ("ab", 12.5, 3 * SECOND));
        assert_eq!(set.find(b"ab").map(|fence| fence.id), Some(fence.id));
        assert!(set.find(b"x").is_none() && set.find(b"\xff").is_none());
    }

    #[test]
    fn errors_name_the_feature_the_field_and_the_fix() {
        let cases = [
            (circle(&json!(null)), "1: feature 1: properties.name: is missing; every fence needs"),
            (
                circle(&json!({"name": 5})),
                "1: feature 1: properties.name: 5 is not a string; put it",
            ),
            (circle(&json!({"name": ""})), "1: feature 1: properties.name: is empty; every fence"),
            (circle(&json!({"name": "*"})), "1: feature 1: properties.name: \"*\" stands for all"),
            (
                circle(&json!({"name": "é".repeat(65)})),
                "1: feature 1: properties.name: has 130 bytes; use at most 128",
            ),
            (
                circle(&json!({"name": "a"})),
                "1: feature 1 \"a\": properties.radius: is missing or 0; give the radius",
            ),
            (
                circle(&json!({"name": "a", "radius": -1})),
                "1: feature 1 \"a\": properties.radius: -1 is not a number of meters of at least 0",
            ),
            (
                circle(&json!({"name": "a", "radius": 5, "dwell": "10"})),
                "1: feature 1 \"a\": properties.dwell: \"10\" is not a number of seconds of at least 0",
            ),
            (
                square("LineString", SQUARE),
                "1: feature 1 \"square\": geometry.type: \"LineString\" is not an area; use Polygon",
            ),
            (
                square("Polygon", SQUARE),
                "1: feature 1 \"square\": geometry.coordinates[0][0]: must be a position",
            ),
            (
                square("MultiPolygon", "[[[[0,0],[1,0],[1,1],[0,91],[0,0]]]]"),
                "1: feature 1 \"square\": geometry.coordinates[0][0][3][1]: latitude 91 is not from",
            ),
            (
                json!({"type": "Feature", "geometry": null, "properties": {"name": "n"}}),
                "1: feature 1 \"n\": geometry: is missing or not an object; use Polygon",
            ),
            (json!({"properties": {"name": "n"}}), "1: feature 1 \"n\": type: is not \"Feature\""),
            (json!([]), "1: feature 1: is not an object; list GeoJSON features"),
            (json!({"properties": 1}), "1: feature 1: properties: is not an object; use"),
        ];
        for (feature, expected) in cases {
            let error = with(&feature).err().unwrap();
            assert!(error.starts_with(expected), "{error}\nnot {expected}");
        }
        let twice = [circle(&json!({"name": "a", "radius": 1})), circle(&json!({"name": "a"}))];
        let error = read(&json!({"type": "FeatureCollection", "features": twice})).err().unwrap();
        assert_eq!(
            error,
            "1: feature 2 \"a\": properties.name: is that of feature 1, too; every fence needs a name of \
             its own"
        );
    }

    #[test]
    fn errors_have_lines() {
        let of = |bytes: &[u8]| parse(bytes, &FenceSet::default()).err().unwrap().to_string();
        assert!(of(b"{\n\"a\": }").starts_with("2: the file is not a JSON object: expected value"));
        assert!(of(b"\n\n\xff").starts_with("3: the file is not valid UTF-8;"));
        assert!(
            of(b"{\"type\":\"Feature\"}").starts_with("1: the file is not a GeoJSON FeatureColl")
        );
        assert!(of(b"[1]").starts_with("1: the file is not a JSON object: invalid type: sequence"));
        let text = r#"{"type":"FeatureCollection","features":[{"properties":{"name":[
            1]}}]}"#;
        assert!(!of(text.as_bytes()).contains('\n'), "a message has one line");
        let text = "{\"type\":\"FeatureCollection\",\n\"features\":\n[{},\n{}]}";
        assert!(of(text.as_bytes()).starts_with("3: feature 1: properties.name"));
    }

    #[test]
    fn the_hash_depends_on_what_decides_who_is_inside() {
        let (a, b) = (json!({"name": "a", "radius": 5}), json!({"name": "b", "radius": 5.0}));
        let hash = |features: &[Value]| {
            let features: Vec<Value> = features.iter().map(circle).collect();
            read(&json!({"type": "FeatureCollection", "features": features})).unwrap().hash()
        };
        let both = hash(&[a.clone(), b.clone()]);
        assert_eq!(both.len(), 16);
        assert_eq!(both, hash(&[b.clone(), a.clone()]), "the order of the file");
        let colored = json!({"color": "red", "radius": 5e0, "name": "a", "dwell": 0});
        assert_eq!(both, hash(&[colored, b.clone()]));
        for other in [
            json!({"name": "a", "radius": 5.000_001}),
            json!({"name": "a", "radius": 5, "dwell": 1}),
            json!({"name": "a", "radius": 5, "hysteresis": 1}),
            json!({"name": "c", "radius": 5}),
        ] {
            assert_ne!(both, hash(&[other, b.clone()]));
        }
        assert_ne!(both, hash(&[a]));
    }

    #[test]
    fn an_uncut_shape_is_reported() {
        let crossing = "[[[179.9,0],[-179.9,0],[-179.9,1],[179.9,1],[179.9,0]]]";
        let [warning] = &with(&square("Polygon", crossing)).unwrap().warnings[..] else { panic!() };
        assert!(
            warning.contains("feature 1 \"square\" has an edge across more than half"),
            "{warning}"
        );
        let cap = "[[[-180,80],[180,80],[180,90],[-180,90],[-180,80]]]";
        assert!(with(&square("Polygon", cap)).unwrap().warnings.is_empty());
    }

    #[test]
    fn fences_that_stay_the_same_keep_their_numbers() {
        let file = |features: &[Value], previous: &FenceSet| {
            let features: Vec<Value> = features.iter().map(circle).collect();
            let document = json!({"type": "FeatureCollection", "features": features});
            parse(&serde_json::to_vec(&document).unwrap(), previous).unwrap()
        };
        let fence = |name: &str, radius: u32| json!({"name": name, "radius": radius});
        let first = file(&[fence("a", 1), fence("b", 2), fence("c", 3)], &FenceSet::default());
        assert!(first.has_new() && first.retired().is_empty());
        let changed = file(&[fence("d", 4), fence("b", 2), fence("c", 4)], &first);
        let ids = |set: &FenceSet| set.fences().iter().map(|it| it.id.0).collect::<Vec<_>>();
        assert_eq!((ids(&first), ids(&changed)), (vec![0, 1, 2], vec![3, 1, 4]));
        let mut retired: Vec<&str> = changed.retired().values().map(|it| &*it.name).collect();
        retired.sort_unstable();
        assert_eq!((retired, changed.has_new()), (vec!["a", "c"], true));
        let found = changed.get(FenceId(4)).unwrap();
        assert_eq!((&*found.name, changed.get(FenceId(2)).is_none()), ("c", true));
        let colored = json!({"name": "b", "radius": 2, "color": "red"});
        let last = file(&[colored], &changed);
        assert_eq!((ids(&last), last.has_new()), (vec![1], false));
        assert!(String::from_utf8_lossy(&last.fences()[0].feature).contains("red"));
    }
}
