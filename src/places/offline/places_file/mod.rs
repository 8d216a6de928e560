//! Places files: places of the operator, such as depots, customers or shops.
//!
//! There are two formats, both in UTF-8:
//!
//! - GeoJSON (RFC 7946): a `FeatureCollection` of `Point`s with the property `name`.
//! - A table, separated by commas, semicolons or tabs (RFC 4180). Its first line names the columns:
//!   `name`, `latitude` (or `lat`) and `longitude` (`lon`, `lng`, `long`), in any order.
//!
//! The properties or columns `kind` (or `type`, `category`) and `vicinity` (or `address`) are
//! optional. Others are ignored.

mod geojson;
mod table;

use std::fmt;

use geo_index::kdtree::KDTree;

use super::index::{self, Hit, Index};
use crate::geo::Point;
use crate::places::document::Place;
use crate::places::limits::{MAX_PLACE_TEXT, MAX_PLACES, MAX_PLACES_FILE_BYTES};

/// The names of each field. The first is used in error messages.
const NAME: &[&str] = &["name"];
const LATITUDE: &[&str] = &["latitude", "lat"];
const LONGITUDE: &[&str] = &["longitude", "lon", "lng", "long"];
const KIND: &[&str] = &["kind", "type", "category"];
const VICINITY: &[&str] = &["vicinity", "address"];

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// GeoJSON.
    GeoJson,
    /// A table whose separator is the one with which its first line names the columns: comma, semicolon
    /// or tab.
    Csv,
    /// A table whose columns are separated by tabs.
    Tsv,
}

impl Format {
    /// Determines the format from the extension of the file name, or else from the contents.
    pub fn of(file_name: &str, bytes: &[u8]) -> Self {
        let extension = file_name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let is = |known: &[&str]| known.iter().any(|known| extension.eq_ignore_ascii_case(known));
        if is(&["geojson", "json"]) {
            Self::GeoJson
        } else if is(&["tsv", "tab"]) {
            Self::Tsv
        } else if is(&["csv"]) || !without_bom(bytes).trim_ascii_start().starts_with(b"{") {
            Self::Csv
        } else {
            Self::GeoJson
        }
    }
}

/// An error in a places file.
///
/// It is displayed as ``line 3: field `latitude`: what is wrong; what to do``, without the file
/// name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    line: u64,
    field: Option<&'static str>,
    message: String,
}

impl Error {
    /// The line of the error, counted from 1. For an invalid place it is the line on which the place
    /// starts in a table, or ends in GeoJSON.
    pub fn line(&self) -> u64 {
        self.line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if let Some(field) = self.field {
            write!(f, "field `{field}`: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// An error in one field of a place.
#[derive(Debug)]
struct FieldError {
    field: &'static str,
    message: String,
}

impl FieldError {
    fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

/// Parses the contents of a file.
///
/// # Errors
///
/// [`Error`] for the first error: the file is not in `format`, a place has no name or no valid
/// coordinates, a text is longer than [`MAX_PLACE_TEXT`], or there are no places or more than
/// [`MAX_PLACES`].
pub fn parse(bytes: &[u8], format: Format) -> Result<OwnPlaces, Error> {
    if bytes.len() > MAX_PLACES_FILE_BYTES {
        let message = format!(
            "the file has {} bytes, at most {MAX_PLACES_FILE_BYTES} are allowed; remove what is not \
             needed, or use CSV",
            bytes.len()
        );
        return Err(Error { line: 1, field: None, message });
    }
    let bytes = without_bom(bytes);
    let mut list = List::default();
    match format {
        Format::GeoJson => geojson::read(bytes, &mut list)?,
        Format::Csv => table::read(bytes, table::separator(bytes), &mut list)?,
        Format::Tsv => table::read(bytes, b'\t', &mut list)?,
    }
    if list.points.is_empty() {
        let message = "there are no places in the file; add at least one, or remove places.file";
        return Err(Error { line: 1, field: None, message: message.to_owned() });
    }
    Ok(OwnPlaces { tree: index::build(&list.points), texts: list.texts, text: list.text })
}

fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The places of a file, indexed.
#[derive(Debug)]
pub struct OwnPlaces {
    tree: KDTree<i32>,
    texts: Vec<Texts>,
    text: String,
}

/// The texts of a place, which follow each other from `start` on, by their lengths in bytes.
#[derive(Debug)]
struct Texts {
    start: u32,
    name: u16,
    kind: u16,
    vicinity: u16,
}

impl OwnPlaces {
    /// The number of places.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns true if there are no places, which is never the case for the places of a file.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The tree of the places.
    pub(super) fn index(&self) -> Index<'_> {
        Index::of(&self.tree)
    }

    /// Calls `visit` with the place of a hit.
    pub(super) fn describe(&self, hit: &Hit, visit: impl FnOnce(&Place<'_>)) {
        let texts = &self.texts[hit.id as usize];
        let (name, rest) = self.text[texts.start as usize..].split_at(usize::from(texts.name));
        let (kind, rest) = rest.split_at(usize::from(texts.kind));
        let types = [kind];
        visit(&Place {
            name,
            vicinity: &rest[..usize::from(texts.vicinity)],
            place_id: None,
            types: if kind.is_empty() { &[] } else { &types },
            location: Some(self.index().location(hit.position)),
        });
    }
}

/// The places parsed so far.
#[derive(Default)]
struct List {
    points: Vec<Point>,
    texts: Vec<Texts>,
    text: String,
}

impl List {
    fn push(
        &mut self,
        point: Point,
        name: &str,
        kind: &str,
        vicinity: &str,
    ) -> Result<(), FieldError> {
        if self.points.len() == MAX_PLACES {
            let message = format!("there are more than {MAX_PLACES} places; remove some");
            return Err(FieldError::new("name", message));
        }
        if name.trim().is_empty() {
            return Err(FieldError::new("name", "the place has no name; add one"));
        }
        let start = self.text.len() as u32;
        let mut append = |field, text: &str| {
            let text = text.trim();
            if text.len() > MAX_PLACE_TEXT {
                let length = text.len();
                let message = format!("has {length} bytes; at most {MAX_PLACE_TEXT} are allowed");
                return Err(FieldError::new(field, message));
            }
            self.text.push_str(text);
            Ok(text.len() as u16)
        };
        let name = append("name", name)?;
        let kind = append("kind", kind)?;
        let vicinity = append("vicinity", vicinity)?;
        self.texts.push(Texts { start, name, kind, vicinity });
        self.points.push(point);
        Ok(())
    }
}

/// Validates coordinates.
fn point(lat: f64, lng: f64) -> Result<Point, FieldError> {
    if !(-90.0..=90.0).contains(&lat) {
        let message = "is not between -90 and 90; use degrees north of the equator";
        let swapped = if (-180.0..=180.0).contains(&lat) && (-90.0..=90.0).contains(&lng) {
            " (are latitude and longitude swapped? GeoJSON has the longitude first)"
        } else {
            ""
        };
        return Err(FieldError::new("latitude", format!("{lat} {message}{swapped}")));
    }
    if !(-180.0..=180.0).contains(&lng) {
        let message = "is not between -180 and 180; use degrees east of Greenwich";
        return Err(FieldError::new("longitude", format!("{lng} {message}")));
    }
    Ok(Point { lat, lng })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// All places of a file as (name, kind, vicinity, latitude, longitude), sorted.
    fn places(bytes: &[u8], format: Format) -> Vec<(String, String, String, f64, f64)> {
        let own = parse(bytes, format).unwrap_or_else(|error| panic!("{error}"));
        let mut hits = Vec::new();
        own.index().nearest(Point { lat: 0.0, lng: 0.0 }, 1e9, usize::MAX, &mut hits);
        assert_eq!(hits.len(), own.len());
        let mut places = Vec::new();
        for hit in &hits {
            own.describe(hit, |place| {
                let Point { lat, lng } = place.location.unwrap();
                assert_eq!(place.place_id, None);
                let texts = [place.name, &place.types.join(" "), place.vicinity];
                let [name, kind, vicinity] = texts.map(str::to_owned);
                places.push((name, kind, vicinity, lat, lng));
            });
        }
        places.sort_by(|a, b| a.0.cmp(&b.0));
        places
    }

    fn error(bytes: &[u8], format: Format) -> String {
        parse(bytes, format).map(|_| "no error").unwrap_err().to_string()
    }

    fn depot() -> Vec<(String, String, String, f64, f64)> {
        vec![("Depot \"A\", north".into(), "depot".into(), "Main St 1".into(), 34.5, -118.25)]
    }

    #[test]
    fn tables_may_be_written_in_many_ways() {
        for table in [
            "name,latitude,longitude,kind,vicinity\n\"Depot \"\"A\"\", north\",34.5,-118.25,depot,Main St 1\n",
            "\u{feff}Name;LAT;Lon;Type;Address\r\n\"Depot \"\"A\"\", north\"; 34.5 ;-118.25;depot;Main St 1",
            "category\tlng\tlat\tid\tname\tvicinity\n\ndepot\t-118.25\t34.5\t7\t\" Depot \"\"A\"\", north\"\tMain St 1\n\n",
            "long,lat,kind,\"name\",address\n-118.25,+34.5,depot,\"Depot \"\"A\"\", north\",Main St 1",
        ] {
            assert_eq!(places(table.as_bytes(), Format::Csv), depot(), "{table}");
        }
        let table = "name\tlatitude\tlongitude\nA;B,C\t1\t2\n";
        let expected = [("A;B,C".into(), String::new(), String::new(), 1.0, 2.0)];
        assert_eq!(places(table.as_bytes(), Format::Tsv), expected);
    }

    #[test]
    fn names_of_columns_may_contain_other_separators() {
        for table in [
            "name;latitude;longitude;\"street, number, postcode, town\"\nDepot;34.5;-118.25;x\n",
            "name;lat;lon;a,b,c,d,e\nDepot;34.5;-118.25;x\n",
            "\"a;b;c;d;e\",name,lat,lon\nx,Depot,34.5,-118.25\n",
            "\"say \"\"a;b;c;d\"\"\",lat,lon,name\nx,34.5,-118.25,Depot\n",
            "\"a\nb;c;d;e;f;g\",name,lat,lon\n\"x\ny\",Depot,34.5,-118.25\n",
            "lat\tlon\t\"a,b;c,d;e,f\"\tname\n34.5\t-118.25\t1;2,3\tDepot\n",
            "\r\n\r\nname;lat;lon\r\nDepot;34.5;-118.25\r\n",
            "name;lat;lon\rDepot;34.5;-118.25\r",
            "\u{feff}\"name\";\"lat\";\"lon\";\",,,,,\"\nDepot;34.5;-118.25;\",,,,\"\n",
        ] {
            let found = places(table.as_bytes(), Format::Csv);
            assert_eq!(found, [("Depot".into(), String::new(), String::new(), 34.5, -118.25)]);
        }
        let incomplete = error(b"name;lat;\"a, b, c\"\nA;1;2\n", Format::Csv);
        assert!(incomplete.contains("among [\"name\", \"lat\", \"a, b, c\"]"), "{incomplete}");
        let unknown = error(b"x;y;z,w\n", Format::Csv);
        assert!(unknown.contains("among [\"x\", \"y\", \"z,w\"]"), "{unknown}");
    }

    #[test]
    fn other_members_of_geojson_are_ignored() {
        let text = "\u{feff}{\"features\": [{\"type\": \"Feature\", \"id\": 7,
            \"geometry\": {\"type\": \"Point\", \"coordinates\": [-118.25, 34.5, 71]},
            \"properties\": {\"name\": \"Depot \\\"A\\\", north\", \"kind\": null, \"type\": \"depot\",
                \"category\": \"other\", \"address\": \"Main St 1\", \"open\": [1, {}]}}],
            \"bbox\": [1, 2], \"type\": \"FeatureCollection\"}\n";
        assert_eq!(places(text.as_bytes(), Format::GeoJson), depot());
    }

    #[test]
    fn the_format_is_determined_by_the_extension_or_the_contents() {
        for (file_name, bytes, format) in [
            ("shops.GeoJSON", "", Format::GeoJson),
            ("/etc/herd.d/shops.json", "name,lat", Format::GeoJson),
            ("shops.csv", "{", Format::Csv),
            ("shops.tsv", "", Format::Tsv),
            ("shops.tab", "", Format::Tsv),
            ("shops", "\u{feff} \n{\"type\"", Format::GeoJson),
            ("shops.txt", "name,lat", Format::Csv),
        ] {
            assert_eq!(Format::of(file_name, bytes.as_bytes()), format, "{file_name}");
        }
    }

    #[test]
    fn errors_in_tables_have_a_line_and_advice() {
        for (table, line, words) in [
            ("", 1, "field `name`: there is no such column among []; name the columns"),
            (
                "name,lat\nA,1\n",
                1,
                "field `longitude`: there is no such column among [\"name\", \"lat\"]",
            ),
            ("Name,Lat,Long\n", 1, "there are no places in the file; add at least one"),
            ("name,lat,lon\nA,1,2\nB,x,2\n", 3, "field `latitude`: \"x\" is not a number; use"),
            ("name;lat;lon\nA;34,5;2\n", 2, "field `latitude`: \"34,5\" is not a number; use"),
            (
                "name,lat,lon\n\n\nA,91,2\n",
                4,
                "field `latitude`: 91 is not between -90 and 90; use degrees north of the equator (are",
            ),
            (
                "name,lat,lon\nA,NaN,2\n",
                2,
                "field `latitude`: NaN is not between -90 and 90; use degrees north of the equator",
            ),
            (
                "name,lat,lon\nA,1,inf\n",
                2,
                "field `longitude`: inf is not between -180 and 180; use degrees east of",
            ),
            ("name,lat,lon\nA,1,\n", 2, "field `longitude`: \"\" is not a number"),
            (
                "name,lat,lon\n\"A\nB\",1,2\n \t,1,2\n",
                4,
                "field `name`: the place has no name; add one",
            ),
            (
                "name,lat,lon\nA,1,2\nB, C,1,2\n",
                3,
                "the line has 4 columns, the first line 3; quote",
            ),
        ] {
            let error = parse(table.as_bytes(), Format::Csv).unwrap_err();
            assert_eq!(error.line(), line, "{table:?}: {error}");
            let expected = format!("line {line}: {words}");
            assert!(error.to_string().starts_with(&expected), "{table:?}: {error}");
        }
        let latin_1 = error(b"name,lat,lon\nA,1,2\nZ\xfcrich,47,8\n", Format::Csv);
        assert_eq!(latin_1, "line 3: the text is not UTF-8; save the file as UTF-8");
    }

    #[test]
    fn errors_in_geojson_have_a_line_and_advice() {
        let feature = |geometry: &str, properties: &str| {
            format!(
                "{{\"type\": \"FeatureCollection\", \"features\": [\n\
                 {{\"geometry\": {{\"type\": \"Point\", \"coordinates\": [1, 2]}}, \"properties\": {{\"name\": \"A\"}}}},\n\
                 {{\"geometry\": {geometry}, \"properties\": {properties}}}\n]}}"
            )
        };
        let point = "{\"type\": \"Point\", \"coordinates\": [1, 2]}";
        let name = "{\"name\": \"B\"}";
        for (text, words) in [
            (feature(point, "{}"), "line 3: field `name`: feature 2: the place has no name; add"),
            (feature(point, "null"), "line 3: field `name`: feature 2: the place has no name; add"),
            (
                feature(point, "{\"name\": 5}"),
                "line 3: field `name`: feature 2: 5 is not a string; put",
            ),
            (
                feature("null", name),
                "line 3: field `geometry`: feature 2: \"null\" is not a Point; use",
            ),
            (
                feature("{\"type\": \"Polygon\", \"coordinates\": [[[1, 2]]]}", name),
                "line 3: field `geometry`: feature 2: \"Polygon\" is not a Point; use",
            ),
            (
                feature("{\"type\": \"Point\", \"coordinates\": [1]}", name),
                "line 3: field `coordinates`: feature 2: a Point has two numbers; use [longitude",
            ),
            (
                feature("{\"type\": \"Point\", \"coordinates\": [34, -118]}", name),
                "line 3: field `latitude`: feature 2: -118 is not between -90 and 90; use degrees \
                 north of the equator (are latitude and longitude swapped? GeoJSON",
            ),
            (feature("5", name), "line 3: invalid type: integer `5`"),
            (
                feature(point, name).trim_end_matches("\n]}").to_owned(),
                "line 3: EOF while parsing a list at line 3 column",
            ),
            (
                "[]".to_owned(),
                "line 1: invalid type: sequence, expected a GeoJSON FeatureCollection",
            ),
            (
                "{}".to_owned(),
                "line 1: the file is not a GeoJSON FeatureCollection; put the places",
            ),
            (
                "{\"type\": \"FeatureCollection\"}".to_owned(),
                "line 1: there are no places in the file",
            ),
            (format!("{}x", feature(point, name)), "line 4: trailing characters at line 4"),
            (String::new(), "line 1: EOF while parsing a value"),
            ("[".repeat(100_000), "line 1: invalid type: sequence"),
            (feature(&"[".repeat(100_000), name), "line 3: "),
        ] {
            let error = error(text.as_bytes(), Format::GeoJson);
            assert!(error.starts_with(words), "{text:.200}: {error}");
        }
    }

    #[test]
    fn files_and_texts_have_limits() {
        let longest = "x".repeat(MAX_PLACE_TEXT);
        for field in ["name", "kind", "vicinity"] {
            let with = |text: &str| {
                let other = |column| if field == column { text } else { "a" };
                let [name, kind, vicinity] = ["name", "kind", "vicinity"].map(other);
                format!("name,kind,vicinity,lat,lon\n{name},{kind},{vicinity},1,2\n")
            };
            assert!(parse(with(&longest).as_bytes(), Format::Csv).is_ok());
            let error = error(with(&format!("{longest}x")).as_bytes(), Format::Csv);
            let expected =
                format!("line 2: field `{field}`: has 257 bytes; at most 256 are allowed");
            assert_eq!(error, expected);
        }
        let mut list = List::default();
        let here = Point { lat: 1.0, lng: 2.0 };
        for _ in 0..MAX_PLACES {
            list.push(here, "a", "", "").unwrap();
        }
        let excess = list.push(here, "a", "", "").unwrap_err();
        assert_eq!(excess.message, "there are more than 500000 places; remove some");
        let too_large = vec![b'\n'; MAX_PLACES_FILE_BYTES + 1];
        assert!(error(&too_large, Format::Csv).contains("at most 67108864 are allowed"));
    }

    proptest! {
        /// Any text round-trips through either format.
        #[test]
        fn written_places_are_parsed(
            rows in prop::collection::vec(
                ("\\PC{1,12}[\"\n\r,;\t]?x", "\\PC{0,8}", -900_000_000..=900_000_000_i32, -1_800_000_000..=1_800_000_000_i32),
                1..20,
            ),
        ) {
            let mut expected: Vec<_> = rows
                .iter()
                .map(|(name, kind, lat, lng)| {
                    let (lat, lng) = (f64::from(*lat) / 1e7, f64::from(*lng) / 1e7);
                    (name.trim().to_owned(), kind.trim().to_owned(), String::new(), lat, lng)
                })
                .collect();
            expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let sorted = |mut places: Vec<(String, String, String, f64, f64)>| {
                places.sort_by(|a, b| a.partial_cmp(b).unwrap());
                places
            };
            let mut table = csv::Writer::from_writer(Vec::new());
            table.write_record(["name", "kind", "lat", "lon"]).unwrap();
            let mut features = Vec::new();
            for (name, kind, _, lat, lng) in &expected {
                table.write_record([name, kind, &lat.to_string(), &lng.to_string()]).unwrap();
                features.push(json!({
                    "type": "Feature",
                    "geometry": {"type": "Point", "coordinates": [lng, lat]},
                    "properties": {"name": name, "kind": kind},
                }));
            }
            let table = table.into_inner().unwrap();
            prop_assert_eq!(&sorted(places(&table, Format::Csv)), &expected);
            let collection = json!({"type": "FeatureCollection", "features": features});
            let text = serde_json::to_vec(&collection).unwrap();
            prop_assert_eq!(&sorted(places(&text, Format::GeoJson)), &expected);
        }

        #[test]
        fn any_bytes_are_places_or_an_error(
            text in prop_oneof![any::<String>(), "[{}\\[\\]\":,a-f0-9\n;\t]{0,60}"],
            start in prop::sample::select(vec![
                "", "name,lat,lon\n", "{\"type\":\"FeatureCollection\",\"features\":[{\"geometry\":",
            ]),
        ) {
            let bytes = [start.as_bytes(), text.as_bytes()].concat();
            for format in [Format::GeoJson, Format::Csv, Format::Tsv] {
                if let Err(error) = parse(&bytes, format) {
                    prop_assert!(error.line() >= 1);
                }
            }
        }
    }
}
