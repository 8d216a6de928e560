//! `/api/clients?near=` and `/api/clients/ID/near`: the nearest clients, produced in slices.

use super::OutputSlice;
use super::clients::{Age, push_collection_end, push_collection_start};
use super::feature::push_feature_at;
use super::positions::{Positions, point};
use super::query;
use crate::geo::Point;
use crate::herd::Herd;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::spatial::{Clients, Hit, Nearest};
use crate::time::Wall;

/// Clients of a response if the request does not set `limit`.
const DEFAULT_LIMIT: u64 = 10;

/// Most clients of a response.
pub const MAX_NEAR: u64 = 1000;

/// Error message for a point that is not valid.
const NEAR_FORMAT: &str = "near must be LON,LAT in degrees, such as -118.4,34.07";

/// A query for the nearest clients.
pub struct Near {
    age: Age,
    /// The client at the center, which is not a result.
    excluded: Option<Vec<u8>>,
    stage: Stage,
    begun: bool,
}

enum Stage {
    /// Waits until this many changes have been entered into the index.
    Waiting(usize, Nearest),
    Searching(Nearest),
    Sending {
        hits: Vec<Hit>,
        at: usize,
        sent: u64,
    },
}

/// The parameters of a query.
struct Parameters {
    center: Option<Point>,
    radius_m: f64,
    limit: u64,
    age: Age,
}

impl Near {
    /// Parses the query of `/api/clients?near=`.
    ///
    /// # Errors
    ///
    /// The message says what is wrong with the query; it is sent in the response.
    pub fn parse(query: &str) -> Result<Self, String> {
        let parameters = Parameters::parse(query, &["near", "radius", "limit", "max_age"])?;
        let center = parameters.center.ok_or(NEAR_FORMAT)?;
        Ok(Self::new(&parameters, center, None))
    }

    /// Parses the query of `/api/clients/ID/near` for the client `name` at `center`.
    ///
    /// # Errors
    ///
    /// As [`Near::parse`].
    pub fn around(name: Vec<u8>, center: Point, query: &str) -> Result<Self, String> {
        let parameters = Parameters::parse(query, &["radius", "limit", "max_age"])?;
        Ok(Self::new(&parameters, center, Some(name)))
    }

    fn new(parameters: &Parameters, center: Point, excluded: Option<Vec<u8>>) -> Self {
        let &Parameters { radius_m, limit, age, .. } = parameters;
        let search = Nearest::new(center, radius_m, limit as usize);
        Self { age, excluded, stage: Stage::Waiting(0, search), begun: false }
    }

    /// Sets the number of changes to enter before the search begins.
    pub(super) fn wait_for(&mut self, entries: usize) {
        if let Stage::Waiting(changes, _) = &mut self.stage {
            *changes = entries;
        }
    }

    /// Appends a slice of the body. Returns whether it was the last one.
    pub(super) fn advance(
        &mut self,
        herd: &mut Herd,
        positions: &mut Positions,
        now: Wall,
        slice: &mut OutputSlice<'_>,
    ) -> bool {
        if let Stage::Waiting(changes, search) = &mut self.stage {
            if !positions.update(herd, changes, slice.work) {
                return false;
            }
            let search = std::mem::take(search);
            self.stage = Stage::Searching(search);
        }
        let directory = &herd.directory;
        if let Stage::Searching(search) = &mut self.stage {
            let wanted =
                Wanted { directory, now, age: self.age, excluded: self.excluded.as_deref() };
            if !search.step(positions.index(), slice.work, &wanted) {
                return false;
            }
            let hits = std::mem::take(search).into_hits();
            self.stage = Stage::Sending { hits, at: 0, sent: 0 };
        }
        let Stage::Sending { hits, at, sent } = &mut self.stage else { return false };
        if !std::mem::replace(&mut self.begun, true) {
            push_collection_start(slice.out);
        }
        while slice.has_room()
            && let Some(hit) = hits.get(*at)
        {
            slice.spend(1);
            *at += 1;
            // The client may have gone, or its slot may have another one, since it was found.
            let record = directory.record(hit.slot, now);
            if let Some(record) = record.filter(|record| record.client == &*hit.client) {
                slice.out.extend_from_slice(if *sent == 0 { b"\n" } else { b",\n" });
                push_feature_at(slice.out, &record, now, hit.distance_m);
                *sent += 1;
            }
        }
        let is_over = *at == hits.len();
        if is_over {
            push_collection_end(directory, slice.out);
        }
        is_over
    }
}

/// The clients that a query may find.
struct Wanted<'q> {
    directory: &'q Directory,
    now: Wall,
    age: Age,
    excluded: Option<&'q [u8]>,
}

impl Clients for Wanted<'_> {
    fn prefetch(&self, slot: Slot) {
        self.directory.prefetch_slots(&[slot]);
    }

    fn get(&self, slot: Slot) -> Option<(&[u8], Point)> {
        let (client, degrees) = if self.age.is_unlimited() {
            self.directory.located(slot, self.now)?
        } else {
            let record = self.directory.record(slot, self.now)?;
            let is_recent = self.age.allows(&record, self.now);
            (record.client, is_recent.then(|| record.degrees())??)
        };
        (self.excluded != Some(client)).then(|| (client, point(degrees)))
    }
}

impl Parameters {
    fn parse(query: &str, known: &[&str]) -> Result<Self, String> {
        let mut parameters = Self {
            center: None,
            radius_m: f64::INFINITY,
            limit: DEFAULT_LIMIT,
            age: Age::default(),
        };
        for (name, value) in query::parameters(query, known)? {
            match name {
                "near" => parameters.center = Some(query::point(&value).ok_or(NEAR_FORMAT)?),
                "radius" => {
                    let kilometers = query::number(&value)
                        .ok_or("radius must be a number of kilometers, at least 0")?;
                    parameters.radius_m = kilometers * 1000.0;
                }
                "limit" => {
                    parameters.limit = query::integer(&value)
                        .filter(|limit| (1..=MAX_NEAR).contains(limit))
                        .ok_or_else(|| format!("limit must be an integer from 1 to {MAX_NEAR}"))?;
                }
                _ => parameters.age = Age::parse(&value)?,
            }
        }
        Ok(parameters)
    }
}
