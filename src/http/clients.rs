//! `/api/clients`: a listing of the clients in a box, produced in slices.

use super::OutputSlice;
use super::feature::push_feature;
use super::limits::MAX_LISTED;
use super::position::{Bounds, Position};
use super::query;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::text::digits::push_digits;
use crate::time::Wall;

/// Clients of one page if the request does not set `limit`.
const DEFAULT_LIMIT: u64 = 1000;

/// A page of a listing: a walk through the slots of the directory.
pub struct Listing {
    /// Next slot to examine.
    at: Slot,
    bounds: Option<Bounds>,
    /// The box as the request wrote it, for the link to the next page.
    bounds_text: String,
    limit: u64,
    listed: u64,
    begun: bool,
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
            limit: DEFAULT_LIMIT,
            listed: 0,
            begun: false,
        };
        for (name, value) in query::parameters(query, &["bbox", "limit", "after"])? {
            let number = query::integer(&value);
            match name.as_str() {
                "bbox" => {
                    listing.bounds = Some(query::bounds(&value).ok_or(BBOX_FORMAT)?);
                    listing.bounds_text = String::from_utf8_lossy(&value).into_owned();
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
            slice.out.extend_from_slice(b"{\"type\":\"FeatureCollection\",\"features\":[");
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
        out.extend_from_slice(if self.listed == 0 { b"\n" } else { b",\n" });
        push_feature(out, &record, now);
        self.listed += 1;
    }

    fn push_end(&self, more: bool, directory: &Directory, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\n],\"held\":");
        push_digits(out, directory.clients().into(), 1);
        out.extend_from_slice(b",\"next\":");
        if more {
            out.extend_from_slice(b"\"/api/clients?after=");
            push_digits(out, self.at.0.into(), 1);
            out.extend_from_slice(b"&limit=");
            push_digits(out, self.limit, 1);
            if self.bounds.is_some() {
                out.extend_from_slice(b"&bbox=");
                out.extend_from_slice(self.bounds_text.as_bytes());
            }
            out.push(b'"');
        } else {
            out.extend_from_slice(b"null");
        }
        out.extend_from_slice(b"}\n");
    }
}

/// Error message for a box that is not valid.
pub const BBOX_FORMAT: &str = "bbox must be minLon,minLat,maxLon,maxLat in degrees, such as -118.5,34,-118,34.5; \
     minLon may be greater than maxLon to cross the antimeridian";
