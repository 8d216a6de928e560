//! `/api/labels`: the largest places in a box, for the names on a map. Produced in slices.

use super::OutputSlice;
use super::clients::BBOX_FORMAT;
use super::position::{Bounds, Position};
use super::query;
use crate::geo::push_degrees;
use crate::places::offline::ATTRIBUTIONS;
use crate::places::offline::ranks::{Label, Largest, RankedPlaces};
use crate::text::digits::push_digits;
use crate::text::hex;
use crate::text::json::push_string;

/// Places of a response if the request does not set `limit`.
const DEFAULT_LIMIT: u64 = 100;

/// Most places of a response.
pub const MAX_LABELS: u64 = 1000;

/// Places that are examined for the work of one record.
const PLACES_PER_RECORD: usize = 16;

/// A query for labels.
pub struct Labels {
    places: RankedPlaces,
    bounds: Option<Bounds>,
    stage: Stage,
}

enum Stage {
    Searching(Largest),
    /// The places, and the number of those that have been sent.
    Sending(Vec<usize>, usize),
}

impl Labels {
    /// Parses the query of `/api/labels`.
    ///
    /// # Errors
    ///
    /// The message says what is wrong with the query; it is sent in the response.
    pub fn parse(places: RankedPlaces, query: &str) -> Result<Self, String> {
        let (mut bounds, mut limit) = (None, DEFAULT_LIMIT);
        for (name, value) in query::parameters(query, &["bbox", "limit"])? {
            if name == "bbox" {
                bounds = Some(query::bounds(&value).ok_or(BBOX_FORMAT)?);
            } else {
                limit = query::integer(&value)
                    .filter(|limit| (1..=MAX_LABELS).contains(limit))
                    .ok_or_else(|| format!("limit must be an integer from 1 to {MAX_LABELS}"))?;
            }
        }
        Ok(Self { places, bounds, stage: Stage::Searching(Largest::new(limit as usize)) })
    }

    /// Appends a slice of the body. Returns whether it was the last one.
    pub(super) fn advance(&mut self, slice: &mut OutputSlice<'_>) -> bool {
        let (places, bounds) = (self.places, self.bounds);
        if let Stage::Searching(search) = &mut self.stage {
            let count = slice.work.saturating_mul(PLACES_PER_RECORD);
            let before = search.examined();
            let is_over = places.search(search, count, |at| {
                bounds.is_none_or(|bounds| bounds.contains(Position::new(at.lat, at.lng)))
            });
            slice.spend((search.examined() - before).div_ceil(PLACES_PER_RECORD));
            if !is_over {
                return false;
            }
            push_start(slice.out);
            let found = std::mem::replace(search, Largest::new(0)).into_sorted();
            self.stage = Stage::Sending(found, 0);
        }
        let Stage::Sending(found, sent) = &mut self.stage else { return false };
        while slice.has_room()
            && let Some(&position) = found.get(*sent)
        {
            slice.spend(1);
            let separator: &[u8] = if *sent == 0 { b"\n" } else { b",\n" };
            *sent += 1;
            places.describe(position, |label| {
                slice.out.extend_from_slice(separator);
                push_label(slice.out, label);
            });
        }
        let is_over = *sent == found.len();
        if is_over {
            slice.out.extend_from_slice(b"\n]}\n");
        }
        is_over
    }
}

/// Returns the quoted entity tag of all responses. It changes with the data and with the program, which
/// determines their format.
pub fn tag(places: &RankedPlaces) -> String {
    let mut digest = Vec::new();
    hex::push(&mut digest, places.digest());
    format!("\"{}-{}\"", env!("CARGO_PKG_VERSION"), String::from_utf8_lossy(&digest))
}

fn push_start(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"FeatureCollection\",\"html_attributions\":[");
    for (at, attribution) in ATTRIBUTIONS.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push_string(out, attribution);
    }
    out.extend_from_slice(b"],\"features\":[");
}

fn push_label(out: &mut Vec<u8>, label: &Label<'_>) {
    let Label { place, population } = label;
    let at = place.location.unwrap_or_default();
    out.extend_from_slice(
        b"{\"type\":\"Feature\",\"geometry\":{\"type\":\"Point\",\"coordinates\":[",
    );
    push_degrees(out, at.lng);
    out.push(b',');
    push_degrees(out, at.lat);
    out.extend_from_slice(b"]},\"properties\":{\"name\":");
    push_string(out, place.name);
    out.extend_from_slice(b",\"type\":");
    push_string(out, place.types.first().copied().unwrap_or_default());
    out.extend_from_slice(b",\"population\":");
    match population {
        Some(population) => push_digits(out, *population, 1),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}}");
}
