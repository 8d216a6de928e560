//! `/api/clients`: those in a box, a slice at a time.

use super::Slice;
use super::feature::push_feature;
use super::position::{Bounds, Position};
use super::query;
use super::response::{Answer, Chunk};
use crate::herd::directory::{Directory, Slot};
use crate::limits::WEB_MAX_LISTED;
use crate::protocol::time::Nanos;
use crate::text::digits::push_digits;

/// Clients of one response, where the request does not say.
const DEFAULT_LIMIT: u64 = 1000;

/// A walk along the slots of the directory that is on its way into a response.
pub struct Listing {
    at: Slot,
    bounds: Option<Bounds>,
    /// The box as the request wrote it, for the link to the next page.
    bounds_text: String,
    limit: u64,
    listed: u64,
    begun: bool,
    pub(super) answer: Answer,
}

impl Listing {
    /// The listing that `query` asks for.
    ///
    /// # Errors
    ///
    /// For people: what is wrong with the query.
    pub fn new(query: &str, answer: Answer) -> Result<Self, String> {
        let mut listing = Self {
            at: 0,
            bounds: None,
            bounds_text: String::new(),
            limit: DEFAULT_LIMIT,
            listed: 0,
            begun: false,
            answer,
        };
        for (name, value) in query::parameters(query, &["bbox", "limit", "after"])? {
            let number = query::whole(&value);
            match name.as_str() {
                "bbox" => {
                    listing.bounds = Some(query::bounds(&value).ok_or(BBOX)?);
                    listing.bounds_text = String::from_utf8_lossy(&value).into_owned();
                }
                "limit" => {
                    listing.limit = number
                        .filter(|limit| (1..=WEB_MAX_LISTED).contains(limit))
                        .ok_or("limit is a whole number from 1 to 100000")?;
                }
                _ => {
                    listing.at = number
                        .and_then(|slot| Slot::try_from(slot).ok())
                        .ok_or("after is what the link to the next page says")?;
                }
            }
        }
        Ok(listing)
    }

    /// Appends a slice of the body. Returns whether that was the last one.
    pub(super) fn advance(
        &mut self,
        directory: &Directory,
        now: Nanos,
        slice: &mut Slice<'_>,
    ) -> bool {
        let chunk = self.answer.chunked.then(|| Chunk::begin(slice.out));
        if !std::mem::replace(&mut self.begun, true) {
            slice.out.extend_from_slice(b"{\"type\":\"FeatureCollection\",\"features\":[");
        }
        while self.at < directory.slots() && self.listed < self.limit && slice.has_room() {
            slice.spend(1);
            self.list(directory, now, slice.out);
            self.at += 1;
        }
        let more = self.at < directory.slots();
        let ended = !more || self.listed == self.limit;
        if ended {
            self.end(more, directory, slice.out);
        }
        if let Some(chunk) = chunk {
            chunk.end(slice.out);
            if ended {
                Chunk::last(slice.out);
            }
        }
        ended
    }

    fn list(&mut self, directory: &Directory, now: Nanos, out: &mut Vec<u8>) {
        let Some(location) = directory.location(self.at) else { return };
        if self.bounds.is_some_and(|bounds| !bounds.contain(Position::from(location))) {
            return;
        }
        let Some(record) = directory.record(self.at, now) else { return };
        out.extend_from_slice(if self.listed == 0 { b"\n" } else { b",\n" });
        push_feature(out, &record, now);
        self.listed += 1;
    }

    fn end(&self, more: bool, directory: &Directory, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\n],\"held\":");
        push_digits(out, directory.len().into(), 1);
        out.extend_from_slice(b",\"next\":");
        if more {
            out.extend_from_slice(b"\"/api/clients?after=");
            push_digits(out, self.at.into(), 1);
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

/// How a box is written.
pub const BBOX: &str = "bbox is minLon,minLat,maxLon,maxLat in degrees, such as -118.5,34,-118,34.5; \
                        minLon may be greater than maxLon across the antimeridian";
