//! The offline gazetteer: real places of the world, built into the binary.
//!
//! `scripts/build_gazetteer.py` makes the two files that are read here, where they lie: nothing
//! is unpacked at the start and nothing is copied to the heap, and only the pages that a search
//! touches are ever loaded. Numbers are little-endian; a machine that is not refuses the tree.
//!
//! `places.kdbush` is a tree for [`Index`]. A place's id in it is its GeoNames id, or, with the
//! highest bit set, the letters of an airport's ICAO or IATA code, seven bits each.
//!
//! `places.names` says what the places are called, in the order of the tree:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `phnames1` |
//! | 4 + 4 | the number of places P and of regions R |
//! | 4 (R + 1) | where each region's text starts, and where the last one ends |
//! | 4 ⌈P / 16⌉ | where the record of each sixteenth place starts |
//! | | the regions' texts |
//! | | a record for each place: 2 bytes region, 1 byte length, the name |

use std::fmt;

use super::index::{Hit, Index};
use crate::places::document::Place;
use crate::text::digits::put_digits;

/// What the licences of the data ask to be shown with it, in HTML.
pub const ATTRIBUTIONS: [&str; 2] = [
    "Populated places: <a href=\"https://www.geonames.org/\">GeoNames</a>, \
     <a href=\"https://creativecommons.org/licenses/by/4.0/\">CC BY 4.0</a>",
    "Airports: <a href=\"https://github.com/mborsetti/airportsdata\">airportsdata</a>, MIT",
];

/// Google's types of a populated place.
const LOCALITY: [&str; 2] = ["locality", "political"];

/// Google's types of an airport.
const AIRPORT: [&str; 3] = ["airport", "point_of_interest", "establishment"];

/// Marks the id of an airport.
const AIRPORT_BIT: u32 = 1 << 31;

const MAGIC: &[u8; 8] = b"phnames1";

/// Regions that the two bytes of a record can tell apart.
const MAX_REGIONS: usize = 1 << 16;

/// Records between two whose start is written down.
const BLOCK: usize = 16;

/// The tree is read in place as 32-bit numbers, so it must lie as they do; `include_bytes` alone
/// promises nothing.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);

static TREE: &Aligned<[u8]> = &Aligned(*include_bytes!("../data/places.kdbush"));
static NAMES: &[u8] = include_bytes!("../data/places.names");

/// Places to search, borrowed from the bytes of their two files.
#[derive(Clone, Copy, Debug)]
pub struct Gazetteer<'a> {
    index: Index<'a>,
    regions: &'a [u8],
    region_text: &'a [u8],
    blocks: &'a [u8],
    records: &'a [u8],
}

/// The gazetteer's files are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged {
    file: &'static str,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file } = self;
        write!(
            f,
            "the offline gazetteer is damaged: {file} is not what scripts/build_gazetteer.py makes; \
             run it and build again, or set places.file or places.provider"
        )
    }
}

impl std::error::Error for Damaged {}

impl Gazetteer<'static> {
    /// The gazetteer in the binary.
    ///
    /// # Errors
    ///
    /// The binary was built from damaged files.
    pub fn embedded() -> Result<Self, Damaged> {
        Self::open(&TREE.0, NAMES)
    }
}

impl<'a> Gazetteer<'a> {
    /// Opens the contents of `places.kdbush`, aligned to 4 bytes, and of `places.names`. Takes the
    /// same short time for any size, since only the outline is checked; where something is damaged
    /// further inside, a search leaves out what it cannot read.
    ///
    /// # Errors
    ///
    /// One of the two is no such file, is cut short, or is about other places than the other.
    pub fn open(tree: &'a [u8], names: &'a [u8]) -> Result<Self, Damaged> {
        let index = Index::open(tree).ok_or(Damaged { file: "places.kdbush" })?;
        Self::with_names(index, names).ok_or(Damaged { file: "places.names" })
    }

    fn with_names(index: Index<'a>, names: &'a [u8]) -> Option<Self> {
        let rest = names.strip_prefix(MAGIC)?;
        let (places, region_count) = (number(rest, 0)?, number(rest, 1)?);
        if places != index.len() || region_count > MAX_REGIONS {
            return None;
        }
        let (regions, rest) = rest.get(8..)?.split_at_checked(4 * (region_count + 1))?;
        let (blocks, rest) = rest.split_at_checked(4 * places.div_ceil(BLOCK))?;
        let (region_text, records) = rest.split_at_checked(number(regions, region_count)?)?;
        let last = places.checked_sub(1)? / BLOCK;
        let end = skip(records.get(number(blocks, last)?..)?, places - last * BLOCK)?;
        end.is_empty().then_some(Self { index, regions, region_text, blocks, records })
    }

    /// The number of places.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The tree to search for the nearest places.
    pub(super) fn index(&self) -> Index<'a> {
        self.index
    }

    /// Shows `visit` the place that a search found; nothing if its record is damaged.
    pub(super) fn describe(&self, hit: &Hit, visit: impl FnOnce(&Place<'_>)) {
        let Some((name, region)) = self.record(hit.position) else { return };
        let mut text = PlaceId::default();
        visit(&Place {
            name,
            vicinity: self.region(region).unwrap_or_default(),
            place_id: Some(text.write(hit.id)),
            types: if hit.id & AIRPORT_BIT == 0 { &LOCALITY } else { &AIRPORT },
            location: Some(self.index.location(hit.position)),
        });
    }

    /// The name of a place and the number of its region.
    fn record(&self, position: usize) -> Option<(&'a str, usize)> {
        let block = self.records.get(number(self.blocks, position / BLOCK)?..)?;
        let record = skip(block, position % BLOCK)?;
        let (&[region_low, region_high, length], rest) = record.split_first_chunk()?;
        let name = std::str::from_utf8(rest.get(..usize::from(length))?).ok()?;
        Some((name, usize::from(u16::from_le_bytes([region_low, region_high]))))
    }

    fn region(&self, region: usize) -> Option<&'a str> {
        let text = number(self.regions, region)?..number(self.regions, region + 1)?;
        std::str::from_utf8(self.region_text.get(text)?).ok()
    }
}

/// What is left of `records` behind the first `count` of them.
fn skip(mut records: &[u8], count: usize) -> Option<&[u8]> {
    for _ in 0..count {
        records = records.get(3 + usize::from(*records.get(2)?)..)?;
    }
    Some(records)
}

/// The 32-bit number at `index` of a table of them.
fn number(table: &[u8], index: usize) -> Option<usize> {
    let bytes = table.get(4 * index..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

/// Room for the text of a place's id: a prefix and at most ten digits.
#[derive(Default)]
struct PlaceId([u8; 24]);

impl PlaceId {
    /// `geonames:5408211`, `icao:KSMO`, or `iata:QDE`.
    fn write(&mut self, id: u32) -> &str {
        let mut length = 0;
        let mut push = |text: &[u8]| {
            self.0[length..length + text.len()].copy_from_slice(text);
            length += text.len();
        };
        if id & AIRPORT_BIT == 0 {
            let mut text = [b'0'; 10];
            let start = put_digits(&mut text, u64::from(id)).min(text.len() - 1);
            push(b"geonames:");
            push(&text[start..]);
        } else {
            match [21, 14, 7, 0].map(|shift| (id >> shift & 0x7f) as u8) {
                [0, iata @ ..] => [&b"iata:"[..], &iata].into_iter().for_each(push),
                icao => [&b"icao:"[..], &icao].into_iter().for_each(push),
            }
        }
        std::str::from_utf8(&self.0[..length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::geo::Point;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn embedded() -> Gazetteer<'static> {
        Gazetteer::embedded().unwrap()
    }

    /// What a search finds, as name, vicinity, place id and types.
    fn found(
        gazetteer: Gazetteer<'_>,
        centre: Point,
        radius_m: f64,
        max: usize,
    ) -> Vec<[String; 4]> {
        let mut hits = Vec::new();
        gazetteer.index().nearest(centre, radius_m, max, &mut hits);
        let mut found = Vec::new();
        for hit in &hits {
            gazetteer.describe(hit, |place| {
                let place_id = place.place_id.unwrap();
                let texts = [place.name, place.vicinity, place_id, &place.types.join(" ")];
                found.push(texts.map(str::to_owned));
            });
        }
        found
    }

    #[test]
    fn the_embedded_files_are_sound() {
        let gazetteer = embedded();
        assert!(gazetteer.len() >= 100_000);
        assert!(TREE.0.len() + NAMES.len() <= 4_000_000);
        let mut place_ids = std::collections::HashSet::new();
        let (mut localities, mut airports) = (0, 0);
        for (id, position) in gazetteer.index().ids().zip(0..) {
            let mut shown = false;
            gazetteer.describe(&Hit { metres: 0.0, id, position }, |place| {
                shown = true;
                assert!(!place.name.is_empty() && !place.vicinity.is_empty());
                let Point { lat, lng } = place.location.unwrap();
                assert!(lat.abs() <= 90.0 && lng.abs() <= 180.0, "{}", place.name);
                assert!(place_ids.insert(place.place_id.unwrap().to_owned()), "{}", place.name);
                match place.types {
                    ["locality", ..] => localities += 1,
                    ["airport", ..] => airports += 1,
                    other => panic!("{other:?}"),
                }
            });
            assert!(shown, "place {position} is damaged");
        }
        assert!(localities > 100_000 && airports > 10_000, "{localities} and {airports}");
    }

    #[test]
    fn the_licences_get_what_they_ask_for() {
        let attribution = include_str!("../data/ATTRIBUTION.md");
        for text in [attribution, &ATTRIBUTIONS.concat()] {
            assert!(text.contains("GeoNames") && text.contains("CC BY 4.0"));
            assert!(text.contains("https://creativecommons.org/licenses/by/4.0/"));
            assert!(text.contains("airportsdata") && text.contains("MIT"));
        }
        assert!(attribution.contains("Permission is hereby granted"), "the MIT notice is gone");
    }

    #[test]
    fn around_ucla() {
        let centre = Point { lat: 34.068_930, lng: -118.445_127 };
        let names: Vec<_> = found(embedded(), centre, 10_000.0, 5);
        let names: Vec<_> = names.iter().map(|place| place[0].as_str()).collect();
        assert_eq!(names, ["Bel Air", "Westwood", "Century City", "Brentwood", "Sawtelle"]);
    }

    #[test]
    fn an_airport_and_a_name_that_is_not_ascii() {
        let santa_monica = Point { lat: 34.016, lng: -118.451 };
        let airport = found(embedded(), santa_monica, 1_000.0, 1).remove(0);
        let types = "airport point_of_interest establishment";
        let region = "California, United States";
        assert_eq!(airport, ["Santa Monica Municipal Airport", region, "icao:KSMO", types]);
        let zurich = found(embedded(), Point { lat: 47.366_67, lng: 8.55 }, 100.0, 1).remove(0);
        let types = "locality political";
        assert_eq!(zurich, ["Zürich", "Zurich, Switzerland", "geonames:2657896", types]);
    }

    #[test]
    fn place_ids_are_spelled_out() {
        let id = |id| PlaceId::default().write(id).to_owned();
        assert_eq!(id(0), "geonames:0");
        assert_eq!(id(AIRPORT_BIT - 1), "geonames:2147483647");
        let packed = |code: &str| code.bytes().fold(0, |id, letter| id << 7 | u32::from(letter));
        assert_eq!(id(AIRPORT_BIT | packed("KLAX")), "icao:KLAX");
        assert_eq!(id(AIRPORT_BIT | packed("QDE")), "iata:QDE");
    }

    #[test]
    fn files_that_are_cut_or_of_another_kind_are_refused() {
        let tree = &TREE.0;
        for cut in [0, 1, 2, 7, 8, 9, 1000, tree.len() / 2, tree.len() - 1] {
            let damaged = Gazetteer::open(&tree[..cut], NAMES).unwrap_err();
            assert_eq!(damaged.file, "places.kdbush", "cut at {cut}");
        }
        for cut in [0, 7, 8, 15, 16, 1000, 20_000, NAMES.len() / 2, NAMES.len() - 1] {
            let damaged = Gazetteer::open(tree, &NAMES[..cut]).unwrap_err();
            assert_eq!(damaged.file, "places.names", "cut at {cut}");
        }
        let longer = [NAMES, b"x"].concat();
        assert!(Gazetteer::open(tree, &longer).is_err());
        assert!(Gazetteer::open(NAMES, tree).is_err());
        // A tree that does not lie as 32-bit numbers do.
        let moved = [b"x", tree].concat();
        assert!(Gazetteer::open(&moved[1..], NAMES).is_err());
        assert!(
            Damaged { file: "places.names" }.to_string().contains("scripts/build_gazetteer.py")
        );
    }

    #[test]
    fn a_damaged_header_is_refused_or_harmless() {
        for byte in 0..8 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut tree = TREE.0.to_vec();
                tree[byte] = value;
                if let Ok(gazetteer) = Gazetteer::open(&tree, NAMES) {
                    found(gazetteer, Point { lat: 34.0, lng: -118.0 }, 50_000.0, 20);
                }
            }
        }
    }

    /// Where the places are, for the search that looks at every one.
    static LOCATIONS: LazyLock<Vec<Point>> = LazyLock::new(|| {
        let index = embedded().index();
        (0..index.len()).map(|position| index.location(position)).collect()
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_search_finds_what_looking_at_every_place_finds(
            near in 0..141_419_usize,
            lat in prop_oneof![Just(90.0), Just(-90.0), Just(f64::NAN), -90.0..=90.0],
            lng in prop_oneof![Just(180.0), Just(-180.0), Just(f64::NAN), -180.0..=180.0],
            radius_m in prop_oneof![Just(0.0), 0.0..2_000.0, Just(50_000.0), 0.0..3e6],
            max in 0..=20_usize,
        ) {
            // Where a coordinate is not given, that of a place: most of the globe is empty.
            let place = LOCATIONS[near % LOCATIONS.len()];
            let or = |given: f64, other| if given.is_nan() { other } else { given };
            let centre = Point { lat: or(lat, place.lat), lng: or(lng, place.lng) };
            let mut hits = Vec::new();
            embedded().index().nearest(centre, radius_m, max, &mut hits);
            let distances = LOCATIONS.iter().map(|&point| centre.distance_m(point));
            let mut expected: Vec<f64> = distances.filter(|&metres| metres <= radius_m).collect();
            expected.sort_by(f64::total_cmp);
            expected.truncate(max);
            let metres: Vec<f64> = hits.iter().map(|hit| hit.metres).collect();
            prop_assert_eq!(metres, expected);
        }

        #[test]
        fn damage_inside_never_panics(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..2_000),
            in_names in any::<bool>(),
        ) {
            let (mut tree, mut names) = (TREE.0.to_vec(), NAMES.to_vec());
            let file = if in_names { &mut names } else { &mut tree };
            for (index, value) in damage {
                let place = index.index(file.len());
                file[place] = value;
            }
            if let Ok(gazetteer) = Gazetteer::open(&tree, &names) {
                for (lat, lng) in [(34.0, -118.4), (48.8, 2.3), (90.0, 0.0), (-17.0, 180.0)] {
                    let near = found(gazetteer, Point { lat, lng }, 2e6, 500);
                    prop_assert!(near.len() <= 500);
                }
            }
        }
    }
}
