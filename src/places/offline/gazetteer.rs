//! The offline gazetteer: populated places and airports of the world, built into the binary.
//!
//! `scripts/build_gazetteer.py` generates the files. They are used in place: nothing is unpacked
//! or copied to the heap, and the kernel loads only the pages that a search touches. Numbers are
//! little-endian; a big-endian machine rejects the tree.
//!
//! `places.kdbush` is a tree for [`Index`]. The id of a place is its GeoNames id or, if the highest
//! bit is set, the ICAO or IATA code of an airport, with seven bits per letter.
//!
//! `places.names` contains the names of the places, in the order of the tree:
//!
//! | bytes | contents |
//! |---|---|
//! | 8 | `phnames1` |
//! | 4 + 4 | the number of places P and of regions R |
//! | 4 (R + 1) | the start of the text of each region, and the end of the last |
//! | 4 ⌈P / 16⌉ | the start of the record of every sixteenth place |
//! | | the texts of the regions |
//! | | a record per place: 2 bytes region, 1 byte length, the name |
//!
//! `places.ranks` is described in [`ranks`](super::ranks).

use std::fmt;

use super::index::{Hit, Index};
use crate::places::document::Place;
use crate::text::digits::put_digits;

/// The attributions in HTML that the licenses of the data require.
pub const ATTRIBUTIONS: [&str; 2] = [
    "Populated places: <a href=\"https://www.geonames.org/\">GeoNames</a>, \
     <a href=\"https://creativecommons.org/licenses/by/4.0/\">CC BY 4.0</a>",
    "Airports: <a href=\"https://github.com/mborsetti/airportsdata\">airportsdata</a>, MIT",
];

/// Google's types of a populated place.
const LOCALITY: [&str; 2] = ["locality", "political"];

/// Google's types of an airport.
const AIRPORT: [&str; 3] = ["airport", "point_of_interest", "establishment"];

/// The bit that marks the id of an airport.
const AIRPORT_BIT: u32 = 1 << 31;

const MAGIC: &[u8; 8] = b"phnames1";

/// The number of regions that two bytes can distinguish.
const MAX_REGIONS: usize = 1 << 16;

/// The number of records per block, whose start is stored.
const BLOCK: usize = 16;

/// Aligns the tree, which is read in place as 32-bit numbers; `include_bytes` guarantees no
/// alignment.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);

static TREE: &Aligned<[u8]> = &Aligned(*include_bytes!("../data/places.kdbush"));
static NAMES: &[u8] = include_bytes!("../data/places.names");

/// A gazetteer, borrowed from the contents of its two files.
#[derive(Clone, Copy, Debug)]
pub struct Gazetteer<'a> {
    index: Index<'a>,
    regions: &'a [u8],
    region_text: &'a [u8],
    blocks: &'a [u8],
    records: &'a [u8],
}

/// A file of the gazetteer is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged {
    pub(super) file: &'static str,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file } = self;
        write!(
            f,
            "the offline gazetteer is damaged: {file} is not a valid output of \
             scripts/build_gazetteer.py; run it and rebuild, or set places.file or places.provider"
        )
    }
}

impl std::error::Error for Damaged {}

impl Gazetteer<'static> {
    /// The gazetteer in the binary.
    ///
    /// # Errors
    ///
    /// [`Damaged`] if the binary was built from damaged files.
    pub fn embedded() -> Result<Self, Damaged> {
        Self::open(&TREE.0, NAMES)
    }
}

impl<'a> Gazetteer<'a> {
    /// Opens the contents of `places.kdbush`, aligned to 4 bytes, and of `places.names`, in constant
    /// time: only headers and lengths are checked. A search omits places whose records are damaged.
    ///
    /// # Errors
    ///
    /// [`Damaged`] if a file has the wrong format, is truncated, or does not match the other.
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

    /// The tree of the places.
    pub(super) fn index(&self) -> Index<'a> {
        self.index
    }

    /// Calls `visit` with the place of a hit, unless its record is damaged.
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

    /// Returns the name of a place and the number of its region.
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

/// Returns `records` without the first `count` of them.
fn skip(mut records: &[u8], count: usize) -> Option<&[u8]> {
    for _ in 0..count {
        records = records.get(3 + usize::from(*records.get(2)?)..)?;
    }
    Some(records)
}

/// Returns the 32-bit number at `index` of a table.
fn number(table: &[u8], index: usize) -> Option<usize> {
    let bytes = table.get(4 * index..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

/// A buffer for the text of a place id: a prefix and at most ten digits.
#[derive(Default)]
struct PlaceId([u8; 24]);

impl PlaceId {
    /// Returns `geonames:5408211`, `icao:KSMO`, or `iata:QDE`.
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
    use crate::geo::Point;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn embedded() -> Gazetteer<'static> {
        Gazetteer::embedded().unwrap()
    }

    /// Returns name, vicinity, place id and types of the places that a search finds.
    fn found(
        gazetteer: Gazetteer<'_>,
        center: Point,
        radius_m: f64,
        max: usize,
    ) -> Vec<[String; 4]> {
        let mut hits = Vec::new();
        gazetteer.index().nearest(center, radius_m, max, &mut hits);
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
    fn the_embedded_files_are_valid() {
        let gazetteer = embedded();
        assert!(gazetteer.len() >= 100_000);
        assert!(TREE.0.len() + NAMES.len() <= 4_000_000);
        let mut place_ids = std::collections::HashSet::new();
        let (mut localities, mut airports) = (0, 0);
        for (id, position) in gazetteer.index().ids().zip(0..) {
            let mut shown = false;
            gazetteer.describe(&Hit { meters: 0.0, id, position }, |place| {
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
            assert!(shown, "the record of place {position} is damaged");
        }
        assert!(localities > 100_000 && airports > 10_000, "{localities} and {airports}");
    }

    #[test]
    fn the_attributions_comply_with_the_licenses() {
        let attribution = include_str!("../data/ATTRIBUTION.md");
        for text in [attribution, &ATTRIBUTIONS.concat()] {
            assert!(text.contains("GeoNames") && text.contains("CC BY 4.0"));
            assert!(text.contains("https://creativecommons.org/licenses/by/4.0/"));
            assert!(text.contains("airportsdata") && text.contains("MIT"));
        }
        assert!(attribution.contains("Permission is hereby granted"), "the MIT notice is missing");
    }

    #[test]
    fn the_nearest_places_to_ucla_are_found() {
        let center = Point { lat: 34.068_930, lng: -118.445_127 };
        let names: Vec<_> = found(embedded(), center, 10_000.0, 5);
        let names: Vec<_> = names.iter().map(|place| place[0].as_str()).collect();
        assert_eq!(names, ["Bel Air", "Westwood", "Century City", "Brentwood", "Sawtelle"]);
    }

    #[test]
    fn airports_and_non_ascii_names_are_described() {
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
    fn place_ids_have_a_prefix() {
        let id = |id| PlaceId::default().write(id).to_owned();
        assert_eq!(id(0), "geonames:0");
        assert_eq!(id(AIRPORT_BIT - 1), "geonames:2147483647");
        let packed = |code: &str| code.bytes().fold(0, |id, letter| id << 7 | u32::from(letter));
        assert_eq!(id(AIRPORT_BIT | packed("KLAX")), "icao:KLAX");
        assert_eq!(id(AIRPORT_BIT | packed("QDE")), "iata:QDE");
    }

    #[test]
    fn truncated_and_wrong_files_are_rejected() {
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
        // A tree that is not aligned.
        let moved = [b"x", tree].concat();
        assert!(Gazetteer::open(&moved[1..], NAMES).is_err());
        assert!(
            Damaged { file: "places.names" }.to_string().contains("scripts/build_gazetteer.py")
        );
    }

    #[test]
    fn a_damaged_header_is_rejected_or_harmless() {
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

    /// The coordinates of all places, for the exhaustive search.
    static LOCATIONS: LazyLock<Vec<Point>> = LazyLock::new(|| {
        let index = embedded().index();
        (0..index.len()).map(|position| index.location(position)).collect()
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn searches_match_an_exhaustive_search(
            near in 0..141_419_usize,
            lat in prop_oneof![Just(90.0), Just(-90.0), Just(f64::NAN), -90.0..=90.0],
            lng in prop_oneof![Just(180.0), Just(-180.0), Just(f64::NAN), -180.0..=180.0],
            radius_m in prop_oneof![Just(0.0), 0.0..2_000.0, Just(50_000.0), 0.0..3e6],
            max in 0..=20_usize,
        ) {
            // NaN stands for the coordinate of a place, because most of the globe is empty.
            let place = LOCATIONS[near % LOCATIONS.len()];
            let or = |given: f64, other| if given.is_nan() { other } else { given };
            let center = Point { lat: or(lat, place.lat), lng: or(lng, place.lng) };
            let mut hits = Vec::new();
            embedded().index().nearest(center, radius_m, max, &mut hits);
            let distances = LOCATIONS.iter().map(|&point| center.distance_m(point));
            let mut expected: Vec<f64> = distances.filter(|&meters| meters <= radius_m).collect();
            expected.sort_by(f64::total_cmp);
            expected.truncate(max);
            let meters: Vec<f64> = hits.iter().map(|hit| hit.meters).collect();
            prop_assert_eq!(meters, expected);
        }

        #[test]
        fn damaged_files_never_cause_a_panic(
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
