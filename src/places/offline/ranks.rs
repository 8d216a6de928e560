//! The places of the gazetteer by population, for the names on a map.
//!
//! `places.ranks` contains one byte per place, in the order of the tree:
//!
//! | bytes | contents |
//! |---|---|
//! | 8 | `phranks1` |
//! | 16 | the start of the SHA-256 of the tree, the names and the ranks |
//! | | a rank per place |
//!
//! A rank of 0 means that the population is unknown, as that of an airport. The other ranks are
//! logarithms: 1 stands for 1,500 inhabitants, and 18 more for twice as many.
//!
//! A search examines all places. A place that ranks below those found so far costs one comparison of
//! bytes that are next to each other, so this takes less time than a descent in the tree whenever the
//! box is large.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::gazetteer::{Damaged, Gazetteer};
use super::index::Hit;
use crate::geo::Point;
use crate::places::document::Place;

static RANKS: &[u8] = include_bytes!("../data/places.ranks");

const MAGIC: &[u8; 8] = b"phranks1";

/// Bytes of the digest.
const DIGEST: usize = 16;

/// Ranks per doubling of the population.
const STEPS: f64 = 18.0;

/// The population of rank 1.
const LEAST: f64 = 1500.0;

/// Bits of the position of a place in a [`Found`].
const POSITION_BITS: u32 = 24;

const POSITION_MASK: u32 = (1 << POSITION_BITS) - 1;

/// The rank of a place, and its position in the tree as a difference from the largest possible one, so
/// that a greater number comes first.
type Found = u32;

/// The places of the gazetteer in the binary, with their ranks.
#[derive(Clone, Copy, Debug)]
pub struct RankedPlaces {
    gazetteer: Gazetteer<'static>,
    digest: &'static [u8],
    ranks: &'static [u8],
}

/// A place with a name for a map.
pub struct Label<'a> {
    /// Name, type and location.
    pub place: &'a Place<'a>,
    /// The population, rounded to two digits; `None` if it is unknown.
    pub population: Option<u64>,
}

/// A search for the most populous places in a region.
#[derive(Debug)]
pub struct Largest {
    /// The place to examine next.
    at: usize,
    max: usize,
    /// The places found, the last of them on top.
    found: BinaryHeap<Reverse<Found>>,
}

impl Largest {
    /// Returns a search for `max` places.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { at: 0, max, found: BinaryHeap::new() }
    }

    /// The number of places examined.
    #[must_use]
    pub const fn examined(&self) -> usize {
        self.at
    }

    /// Returns the places found, the most populous first, for [`RankedPlaces::describe`].
    #[must_use]
    pub fn into_sorted(self) -> Vec<usize> {
        let found = self.found.into_sorted_vec().into_iter();
        found.map(|Reverse(found)| (POSITION_MASK - (found & POSITION_MASK)) as usize).collect()
    }
}

impl RankedPlaces {
    /// The places in the binary.
    ///
    /// # Errors
    ///
    /// [`Damaged`] if the binary was built from damaged files.
    pub fn embedded() -> Result<Self, Damaged> {
        Self::open(Gazetteer::embedded()?, RANKS).ok_or(Damaged { file: "places.ranks" })
    }

    fn open(gazetteer: Gazetteer<'static>, file: &'static [u8]) -> Option<Self> {
        let (digest, ranks) = file.strip_prefix(MAGIC)?.split_at_checked(DIGEST)?;
        let places = gazetteer.index().len();
        (ranks.len() == places && places <= POSITION_MASK as usize).then_some(Self {
            gazetteer,
            digest,
            ranks,
        })
    }

    /// A digest of the data.
    #[must_use]
    pub const fn digest(&self) -> &'static [u8] {
        self.digest
    }

    /// Examines up to `count` places for a search, which finds those for which `is_inside` returns
    /// true. Returns whether the search is over.
    pub fn search(
        &self,
        search: &mut Largest,
        count: usize,
        is_inside: impl Fn(Point) -> bool,
    ) -> bool {
        let index = self.gazetteer.index();
        let end = self.ranks.len().min(search.at.saturating_add(count));
        for (position, &rank) in (search.at..end).zip(&self.ranks[search.at..end]) {
            let found = u32::from(rank) << POSITION_BITS | (POSITION_MASK - position as u32);
            let is_full = search.found.len() >= search.max;
            if is_full && search.found.peek().is_none_or(|&Reverse(last)| found < last) {
                continue;
            }
            if is_inside(index.location(position)) {
                search.found.push(Reverse(found));
                if is_full {
                    search.found.pop();
                }
            }
        }
        search.at = end;
        end == self.ranks.len()
    }

    /// Calls `visit` with a place, unless its record is damaged.
    pub fn describe(&self, position: usize, visit: impl FnOnce(&Label<'_>)) {
        let population = self.ranks.get(position).copied().and_then(population);
        let id = self.gazetteer.index().id(position);
        self.gazetteer.describe(&Hit { meters: 0.0, id, position }, |place| {
            visit(&Label { place, population });
        });
    }
}

/// Returns the population of a rank, rounded to two digits.
fn population(rank: u8) -> Option<u64> {
    let steps = f64::from(rank.checked_sub(1)?);
    let inhabitants = LEAST * (steps / STEPS).exp2();
    let unit = 10_f64.powf(inhabitants.log10().floor() - 1.0);
    Some(((inhabitants / unit).round() * unit).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::digest::{SHA256, digest};

    fn names(max: usize, slice: usize, is_inside: impl Fn(Point) -> bool) -> Vec<String> {
        let places = RankedPlaces::embedded().unwrap();
        let mut search = Largest::new(max);
        while !places.search(&mut search, slice, &is_inside) {}
        let mut names = Vec::new();
        for position in search.into_sorted() {
            places.describe(position, |label| names.push(label.place.name.to_owned()));
        }
        names
    }

    #[test]
    fn the_file_belongs_to_the_other_two() {
        let places = RankedPlaces::embedded().unwrap();
        let files = [
            include_bytes!("../data/places.kdbush").as_slice(),
            include_bytes!("../data/places.names"),
            places.ranks,
        ];
        assert_eq!(digest(&SHA256, &files.concat()).as_ref()[..DIGEST], *places.digest);
        for bad in [&RANKS[..RANKS.len() - 1], &RANKS[1..], &RANKS[..20], &[]] {
            assert!(RankedPlaces::open(places.gazetteer, bad).is_none());
        }
    }

    #[test]
    fn the_most_populous_places_come_first() {
        let world = names(5, 1000, |_| true);
        assert_eq!(world[0], "Shanghai", "{world:?}");
        let la = |at: Point| (33.9..34.2).contains(&at.lat) && (-118.6..-118.1).contains(&at.lng);
        let largest = names(4, usize::MAX, la);
        assert_eq!(largest[0], "Los Angeles", "{largest:?}");
        assert!(names(1000, usize::MAX, la).contains(&"Santa Monica Municipal Airport".to_owned()));
        assert!(names(0, 7000, |_| true).is_empty());
    }

    #[test]
    fn populations_are_rounded_to_two_digits() {
        assert_eq!([0, 1, 19, 37].map(population), [None, Some(1500), Some(3000), Some(6000)]);
        assert_eq!(population(2), Some(1600));
        assert_eq!(population(255), Some(27_000_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn searches_match_a_sort_of_all_places(
            west in -180.0..180.0, south in -90.0..90.0, size in 0.1..90.0,
            max in 0..60_usize, slice in 1000..200_000_usize,
        ) {
            let places = RankedPlaces::embedded().unwrap();
            let is_inside = |at: Point| {
                (west..=west + size).contains(&at.lng) && (south..=south + size).contains(&at.lat)
            };
            let mut expected: Vec<usize> = (0..places.ranks.len())
                .filter(|&position| is_inside(places.gazetteer.index().location(position)))
                .collect();
            expected.sort_by_key(|&position| Reverse(places.ranks[position]));
            expected.truncate(max);
            let mut search = Largest::new(max);
            while !places.search(&mut search, slice, is_inside) {}
            prop_assert_eq!(search.into_sorted(), expected);
        }
    }
}
