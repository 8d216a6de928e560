//! `/api/clients`: a listing of the clients in a box, produced in slices.

use super::OutputSlice;
use super::feature::push_feature;
use super::limits::MAX_LISTED;
use super::position::{Bounds, Position};
use super::query;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::protocol::time::{Nanos, SECOND};
use crate::text::digits::push_digits;
use crate::text::percent::push_encoded;
use crate::time::Wall;

/// Clients of one page if the request does not set `limit`.
pub(super) const DEFAULT_LIMIT: u64 = 1000;

/// A page of a listing: a walk through the slots of the directory.
pub struct Listing {
    /// Next slot to examine.
    at: Slot,
    bounds: Option<Bounds>,
    /// The box as the request wrote it, for the link to the next page.
    bounds_text: String,
    /// The age as the request wrote it.
    age: Age,
    age_text: String,
    limit: u64,
    listed: u64,
    begun: bool,
}

/// The condition that a client has been heard from recently.
#[derive(Clone, Copy, Default)]
pub struct Age(Option<Nanos>);

impl Age {
    /// Parses the parameter `max_age`, in seconds.
    ///
    /// # Errors
    ///
    /// If it is not a number.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        let seconds =
            query::number(value).ok_or("max_age must be a number of seconds, at least 0")?;
        // The cast saturates: no record is that old.
        Ok(Self(Some((seconds * SECOND as f64) as Nanos)))
    }

    /// Returns whether every record is recent enough.
    #[must_use]
    pub const fn is_unlimited(self) -> bool {
        self.0.is_none()
    }

    /// Returns whether the record is recent enough.
    #[must_use]
    pub fn allows(self, record: &Record<'_>, now: Wall) -> bool {
        self.0.is_none_or(|most| now.nanos() - record.received <= most)
    }
}

impl Listing {
    /// Parses the query of `/api/clients`.
    ///
    /// # Errors
    ///
    /// The message says what is wrong with the query; it is sent in the response.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut listing = Self {
            at: Slot(0),
            bounds: None,
            bounds_text: String::new(),
            age: Age::default(),
            age_text: String::new(),
            limit: DEFAULT_LIMIT,
            listed: 0,
            begun: false,
        };
        for (name, value) in query::parameters(query, &["bbox", "limit", "after", "max_age"])? {
            let number = query::integer(&value);
            match name {
                "bbox" => {
                    listing.bounds = Some(query::bounds(&value).ok_or(BBOX_FORMAT)?);
                    listing.bounds_text = String::from_utf8_lossy(&value).into_owned();
                }
                "max_age" => {
                    listing.age = Age::parse(&value)?;
                    listing.age_text = String::from_utf8_lossy(&value).into_owned();
                }
                "limit" => {
                    listing.limit =
                        number.filter(|limit| (1..=MAX_LISTED).contains(limit)).ok_or_else(
                            || format!("limit must be an integer from 1 to {MAX_LISTED}"),
                        )?;
                }
                _ => {
                    listing.at = number
                        .and_then(|slot| u32::try_from(slot).ok().map(Slot))
                        .ok_or("after must be taken from the link to the next page")?;
                }
            }
        }
        Ok(listing)
    }

    /// Appends a slice of the body. Returns whether it was the last one.
    pub(super) fn advance(
        &mut self,
        directory: &Directory,
        now: Wall,
        slice: &mut OutputSlice<'_>,
    ) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            push_collection_start(slice.out);
        }
        while self.at.0 < directory.slots() && self.listed < self.limit && slice.has_room() {
            slice.spend(1);
            self.push_current(directory, now, slice.out);
            self.at.0 += 1;
        }
        let more = self.at.0 < directory.slots();
        let ended = !more || self.listed == self.limit;
        if ended {
            self.push_end(more, directory, slice.out);
        }
        ended
    }

    /// Appends the client in the current slot, if it is in the box.
    fn push_current(&mut self, directory: &Directory, now: Wall, out: &mut Vec<u8>) {
        let Some(location) = directory.location(self.at) else { return };
        if self.bounds.is_some_and(|bounds| !bounds.contains(Position::from(location))) {
            return;
        }
        let Some(record) = directory.record(self.at, now) else { return };
        if !self.age.allows(&record, now) {
            return;
        }
        out.extend_from_slice(if self.listed == 0 { b"\n" } else { b",\n" });
        push_feature(out, &record, now);
        self.listed += 1;
    }

    fn push_end(&self, more: bool, directory: &Directory, out: &mut Vec<u8>) {
        if !more {
            return push_collection_end(directory, out);
        }
        push_held(directory, out);
        out.extend_from_slice(b"\"/api/clients?after=");
        push_digits(out, self.at.0.into(), 1);
        out.extend_from_slice(b"&limit=");
        push_digits(out, self.limit, 1);
        if self.bounds.is_some() {
            out.extend_from_slice(b"&bbox=");
            out.extend_from_slice(self.bounds_text.as_bytes());
        }
        if !self.age_text.is_empty() {
            out.extend_from_slice(b"&max_age=");
            push_encoded(out, self.age_text.as_bytes());
        }
        out.push(b'"');
        out.extend_from_slice(b"}\n");
    }
}

/// Appends the beginning of a `FeatureCollection`.
pub(super) fn push_collection_start(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"FeatureCollection\",\"features\":[");
}

/// Appends the end of a `FeatureCollection` without a next page.
pub(super) fn push_collection_end(directory: &Directory, out: &mut Vec<u8>) {
    push_held(directory, out);
    out.extend_from_slice(b"null}\n");
}

/// Appends the end of a `FeatureCollection` up to the target of the next page.
pub(super) fn push_held(directory: &Directory, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\n],\"held\":");
    push_digits(out, directory.clients().into(), 1);
    out.extend_from_slice(b",\"next\":");
}

/// Error message for a box that is not valid.
pub const BBOX_FORMAT: &str = "bbox must be minLon,minLat,maxLon,maxLat in degrees, such as -118.5,34,-118,34.5; \
     minLon may be greater than maxLon to cross the antimeridian";
