//! `/api/fences`, and `/api/clients?fence=`: the clients inside a fence. Both are produced in slices.

use std::sync::Arc;

use super::OutputSlice;
use super::clients::{Age, DEFAULT_LIMIT, push_collection_end, push_collection_start, push_held};
use super::feature::push_feature;
use super::filter::Filter;
use super::limits::MAX_LISTED;
use super::query;
use super::response::Status;
use crate::fences::{Fence, FenceSet};
use crate::herd::Herd;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::text::digits::push_digits;
use crate::text::percent::push_encoded;
use crate::time::Wall;

/// Clients that are counted for the price of one record.
const COUNTED_PER_WORK: usize = 64;

/// A page of the clients inside a fence.
pub struct Inside {
    name: Vec<u8>,
    /// Next slot to list.
    at: Slot,
    age: Age,
    /// The age as the request wrote it.
    age_text: Vec<u8>,
    limit: u64,
    listed: u64,
    begun: bool,
}

impl Inside {
    /// Parses the query of `/api/clients?fence=`.
    ///
    /// # Errors
    ///
    /// The status and the body of the response.
    pub fn parse(query: &str, directory: &Directory) -> Result<Self, (Status, String)> {
        let inside = Self::parse_parameters(query).map_err(|why| (Status::BAD_REQUEST, why))?;
        find(directory, &inside.name).map_err(|why| (Status::NOT_FOUND, why))?;
        Ok(inside)
    }

    fn parse_parameters(query: &str) -> Result<Self, String> {
        let mut inside = Self {
            name: Vec::new(),
            at: Slot(0),
            age: Age::default(),
            age_text: Vec::new(),
            limit: DEFAULT_LIMIT,
            listed: 0,
            begun: false,
        };
        for (name, value) in query::parameters(query, &["fence", "limit", "after", "max_age"])? {
            let number = query::integer(&value);
            match name {
                "fence" if inside.name.is_empty() => inside.name = value.into_owned(),
                "fence" => return Err("name one fence; /events takes several".to_owned()),
                "max_age" => {
                    inside.age = Age::parse(&value)?;
                    inside.age_text = value.into_owned();
                }
                "limit" => {
                    inside.limit =
                        number.filter(|limit| (1..=MAX_LISTED).contains(limit)).ok_or_else(
                            || format!("limit must be an integer from 1 to {MAX_LISTED}"),
                        )?;
                }
                _ => {
                    inside.at = number
                        .and_then(|slot| u32::try_from(slot).ok().map(Slot))
                        .ok_or("after must be taken from the link to the next page")?;
                }
            }
        }
        Ok(inside)
    }

    /// Appends a slice of the body. Returns whether it was the last one.
    pub(super) fn advance(
        &mut self,
        herd: &mut Herd,
        now: Wall,
        slice: &mut OutputSlice<'_>,
    ) -> bool {
        if !herd.directory.evaluate_fences(slice.work) {
            return false;
        }
        if !std::mem::replace(&mut self.begun, true) {
            push_collection_start(slice.out);
        }
        let directory = &herd.directory;
        let Some(fences) = directory.fences() else {
            push_collection_end(directory, slice.out);
            return true;
        };
        if let Some(fence) = fences.set().find(&self.name) {
            for slot in fences.inside(fence.id, self.at) {
                self.at = slot;
                if self.listed == self.limit {
                    self.push_next(directory, slice.out);
                    return true;
                }
                if !slice.has_room() {
                    return false;
                }
                slice.spend(1);
                if let Some(record) = directory.record(slot, now)
                    && self.age.allows(&record, now)
                {
                    slice.out.extend_from_slice(if self.listed == 0 { b"\n" } else { b",\n" });
                    push_feature(slice.out, &record, now);
                    self.listed += 1;
                }
                self.at = Slot(slot.0.saturating_add(1));
            }
        }
        push_collection_end(directory, slice.out);
        true
    }

    /// Appends the end of a page that is not the last one.
    fn push_next(&self, directory: &Directory, out: &mut Vec<u8>) {
        push_held(directory, out);
        out.extend_from_slice(b"\"/api/clients?after=");
        push_digits(out, self.at.0.into(), 1);
        out.extend_from_slice(b"&limit=");
        push_digits(out, self.limit, 1);
        out.extend_from_slice(b"&fence=");
        push_encoded(out, &self.name);
        if !self.age_text.is_empty() {
            out.extend_from_slice(b"&max_age=");
            push_encoded(out, &self.age_text);
        }
        out.extend_from_slice(b"\"}\n");
    }
}

/// Returns the fence of this name.
///
/// # Errors
///
/// The reason for which there is none, for the body of the response.
pub fn find<'d>(directory: &'d Directory, name: &[u8]) -> Result<&'d Arc<Fence>, String> {
    let name_text = || String::from_utf8_lossy(name).into_owned();
    let Some(fences) = directory.fences() else {
        let why = "the configuration of this node has no section `fences`";
        return Err(format!("there is no fence `{}`; {why}", name_text()));
    };
    fences.set().find(name).ok_or_else(|| {
        format!("there is no fence `{}`; /api/fences lists all of them", name_text())
    })
}

/// Returns the reason for which a fence of a filter does not exist, for the body of the response.
pub fn missing(directory: &Directory, filter: &Filter) -> Option<String> {
    match filter.fences() {
        Some(mut names) => names.find_map(|name| find(directory, name).err()),
        None if filter.has_fences() && directory.fences().is_none() => find(directory, b"*").err(),
        None => None,
    }
}

/// The listing of all fences.
pub struct FenceListing {
    set: Arc<FenceSet>,
    /// The position of the current fence.
    at: usize,
    /// The part of its feature that has been sent.
    sent: usize,
    /// The clients inside that have been counted, and the next slot to count.
    counted: u64,
    next: Slot,
    begun: bool,
}

impl FenceListing {
    /// A listing of the fences in use.
    #[must_use]
    pub fn new(directory: &Directory) -> Self {
        let set = directory.fences().map(|fences| Arc::clone(fences.set())).unwrap_or_default();
        Self { set, at: 0, sent: 0, counted: 0, next: Slot(0), begun: false }
    }

    /// Appends a slice of the body. Returns whether it was the last one.
    pub(super) fn advance(&mut self, herd: &mut Herd, slice: &mut OutputSlice<'_>) -> bool {
        if !herd.directory.evaluate_fences(slice.work) {
            return false;
        }
        if !std::mem::replace(&mut self.begun, true) {
            push_collection_start(slice.out);
        }
        let set = Arc::clone(&self.set);
        while let Some(fence) = set.fences().get(self.at) {
            if !(self.push_feature(fence, slice) && self.count(fence, &herd.directory, slice)) {
                return false;
            }
            push_digits(slice.out, self.counted, 1);
            slice.out.extend_from_slice(b"}}");
            (self.at, self.sent, self.counted, self.next) = (self.at + 1, 0, 0, Slot(0));
        }
        slice.out.extend_from_slice(b"\n]}\n");
        true
    }

    /// Appends the rest of a feature up to the number of clients inside. Returns whether it is complete.
    fn push_feature(&mut self, fence: &Fence, slice: &mut OutputSlice<'_>) -> bool {
        if self.sent == 0 {
            if !slice.has_room() {
                return false;
            }
            slice.spend(1);
            slice.out.extend_from_slice(if self.at == 0 { b"\n" } else { b",\n" });
        }
        // At least one byte, so that the separator is not appended again.
        let room = slice.soft_limit.saturating_sub(slice.out.len()).max(1);
        let rest = &fence.feature[self.sent..];
        let part = &rest[..rest.len().min(room)];
        slice.out.extend_from_slice(part);
        self.sent += part.len();
        self.sent == fence.feature.len()
    }

    /// Counts the clients inside. Returns whether all have been counted.
    fn count(&mut self, fence: &Fence, directory: &Directory, slice: &mut OutputSlice<'_>) -> bool {
        let Some(fences) = directory.fences() else { return true };
        let mut slots = fences.inside(fence.id, self.next).fuse();
        loop {
            let before = self.counted;
            for slot in slots.by_ref().take(COUNTED_PER_WORK) {
                self.counted += 1;
                self.next = Slot(slot.0.saturating_add(1));
            }
            if self.counted - before < COUNTED_PER_WORK as u64 {
                return true;
            }
            slice.spend(1);
            if *slice.work == 0 {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fences::{Fences, file};
    use crate::protocol::record::Record;
    use crate::testing::{herd, identity};

    /// A node with three fences, of which the second one contains 300 clients.
    fn node() -> Herd {
        let feature = |name: &str, lng: u32| {
            format!(
                r#"{{"type":"Feature","properties":{{"name":"{name}","radius":9}},
                "geometry":{{"type":"Point","coordinates":[{lng},0]}}}}"#
            )
        };
        let features = [feature("a", 1), feature("b", 0), feature("c", 2)].join(",");
        let text = format!(r#"{{"type":"FeatureCollection","features":[{features}]}}"#);
        let set = Arc::new(file::parse(text.as_bytes(), &FenceSet::default()).unwrap());
        let mut herd = herd(identity(&["Clark"], 0, &[]));
        herd.directory.set_fences(Fences::new(set, Wall(0)));
        for client in 0..300 {
            let line = format!("AT Clark +0.000000000 c{client} +0+0 1");
            herd.apply_local_update(&Record::parse(line.as_bytes()).unwrap(), Wall(0));
        }
        herd
    }

    /// Produces a body in slices with space for `room` bytes and `work` units of work each.
    fn body(
        room: usize,
        work: usize,
        mut advance: impl FnMut(&mut OutputSlice<'_>) -> bool,
    ) -> serde_json::Value {
        let mut out = Vec::new();
        for _ in 0..10_000 {
            let soft_limit = out.len() + room;
            let mut slice = OutputSlice { out: &mut out, soft_limit, work: &mut { work } };
            if advance(&mut slice) {
                return serde_json::from_slice(&out).unwrap();
            }
        }
        panic!("the body does not end");
    }

    #[test]
    fn a_body_is_the_same_in_slices_of_any_size() {
        let mut herd = node();
        let whole = body(1 << 20, 1 << 20, {
            let mut listing = FenceListing::new(&herd.directory);
            let herd = &mut herd;
            move |slice| listing.advance(herd, slice)
        });
        let count = |at: usize| &whole["features"][at]["properties"]["inside"];
        assert_eq!([count(0), count(1), count(2)], [0, 300, 0]);
        for (room, work) in (1..400).flat_map(|room| [(room, 1), (room, 3), (room, 1000)]) {
            let mut listing = FenceListing::new(&herd.directory);
            let found = body(room, work, |slice| listing.advance(&mut herd, slice));
            assert_eq!(found, whole, "{room} bytes, {work} units");
            if room % 50 == 1 {
                let mut inside = Inside::parse("fence=b", &herd.directory).unwrap();
                let found = body(room, work, |slice| inside.advance(&mut herd, Wall(0), slice));
                assert_eq!(found["features"].as_array().unwrap().len(), 300);
            }
        }
    }
}
