//! The filter of one subscriber of `/events`.

use super::change::{Change, name_hash};
use super::clients::{Age, BBOX_FORMAT};
use super::feature::without_guard;
use super::limits::{MAX_FILTER_CLIENTS, MAX_FILTER_FENCES};
use super::position::{Bounds, Position};
use super::query;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::time::Wall;

/// Selects the clients that are in a box or in fences, have one of several names and were heard from
/// recently. Each condition may be absent.
#[derive(Default)]
pub(super) struct Filter {
    bounds: Option<Bounds>,
    /// Names and their hashes; empty if every name passes.
    clients: Vec<(u32, Vec<u8>)>,
    age: Age,
    fences: Option<FenceNames>,
}

/// The fences of a filter.
enum FenceNames {
    All,
    These(Vec<Vec<u8>>),
}

impl Filter {
    /// Parses the query of `/events`. Also returns the parameter `last_event_id`, the equivalent of
    /// the header field `Last-Event-ID` for clients that cannot set one.
    ///
    /// # Errors
    ///
    /// The message says what is wrong with the query; it is sent in the response.
    pub fn parse(query: &str) -> Result<(Self, Option<String>), String> {
        let (mut filter, mut last_event_id) = (Self::default(), None);
        for (name, value) in
            query::parameters(query, &["bbox", "client", "fence", "max_age", "last_event_id"])?
        {
            match name {
                "bbox" => filter.bounds = Some(query::bounds(&value).ok_or(BBOX_FORMAT)?),
                "max_age" => filter.age = Age::parse(&value)?,
                "fence" => filter.add_fence(value.into_owned())?,
                "client" if filter.clients.len() < MAX_FILTER_CLIENTS => {
                    let name = without_guard(value.into_owned());
                    filter.clients.push((name_hash(&name), name));
                }
                "client" => {
                    return Err(format!("at most {MAX_FILTER_CLIENTS} clients are allowed"));
                }
                _ => last_event_id = String::from_utf8(value.into_owned()).ok(),
            }
        }
        if filter.bounds.is_some() && filter.fences.is_some() {
            return Err("bbox and fence exclude each other; use one of them".to_owned());
        }
        Ok((filter, last_event_id))
    }

    fn add_fence(&mut self, name: Vec<u8>) -> Result<(), String> {
        match self.fences.get_or_insert(FenceNames::These(Vec::new())) {
            FenceNames::All => {}
            _ if name == b"*" => self.fences = Some(FenceNames::All),
            FenceNames::These(names) if names.len() < MAX_FILTER_FENCES => names.push(name),
            FenceNames::These(_) => {
                return Err(format!("at most {MAX_FILTER_FENCES} fences are allowed; * is all"));
            }
        }
        Ok(())
    }

    /// Returns whether the filter is about fences.
    pub const fn has_fences(&self) -> bool {
        self.fences.is_some()
    }

    /// The names of the fences; `None` if all pass.
    pub fn fences(&self) -> Option<impl Iterator<Item = &[u8]>> {
        match &self.fences {
            Some(FenceNames::These(names)) => Some(names.iter().map(Vec::as_slice)),
            Some(FenceNames::All) | None => None,
        }
    }

    /// Returns whether a fence passes.
    pub fn allows_fence(&self, name: &str) -> bool {
        self.fences().is_none_or(|mut names| names.any(|wanted| wanted == name.as_bytes()))
    }

    /// Returns whether the client of a record has been heard from recently enough.
    pub fn allows(&self, record: &Record<'_>, now: Wall) -> bool {
        self.age.allows(record, now)
    }

    /// The names that pass; empty if all do.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.clients.iter().map(|(_, name)| name.as_slice())
    }

    /// Returns whether `change` probably passes: it enters, leaves or stays in the box, and the
    /// hash of its name matches. [`Filter::contains_client`] settles the name.
    pub fn may_contain(&self, change: &Change) -> bool {
        let is_in_box = |position| self.contains(position);
        (is_in_box(change.position) || change.previous.is_some_and(is_in_box))
            && (self.clients.is_empty()
                || self.clients.iter().any(|(hash, _)| *hash == change.name_hash))
    }

    /// Returns whether `position` is in the box. Without a box every position is.
    pub fn contains(&self, position: Position) -> bool {
        self.bounds.is_none_or(|bounds| bounds.contains(position))
    }

    /// Returns whether the client in a slot has been heard from recently enough.
    pub fn allows_age(&self, slot: Slot, directory: &Directory, now: Wall) -> bool {
        self.age.is_unlimited()
            || directory.record(slot, now).is_some_and(|record| self.age.allows(&record, now))
    }

    /// Returns whether the client of this name passes; `None` if its slot has been freed.
    pub fn contains_client(&self, name: Option<&[u8]>) -> bool {
        self.clients.is_empty() || self.names().any(|wanted| name == Some(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_passes_where_it_comes_from_and_where_it_goes() {
        let (filter, _) = Filter::parse("bbox=0,0,10,10&client=kiwi").unwrap();
        let (inside, outside) = (Position::new(5.0, 5.0), Position::new(20.0, 5.0));
        let change = |position, previous, name| Change {
            slot: Slot(0),
            position,
            previous,
            name_hash: name_hash(name),
        };
        assert!(filter.may_contain(&change(inside, None, b"kiwi")));
        assert!(filter.may_contain(&change(outside, Some(inside), b"kiwi")), "it leaves the box");
        assert!(!filter.may_contain(&change(outside, Some(outside), b"kiwi")));
        assert!(!filter.may_contain(&change(inside, None, b"plum")));
        assert!(filter.contains_client(Some(b"kiwi")) && !filter.contains_client(None));
    }

    #[test]
    fn the_number_of_names_is_limited() {
        let query = |names: usize| vec!["client=a"; names].join("&");
        assert!(Filter::parse(&query(MAX_FILTER_CLIENTS)).is_ok());
        let error = Filter::parse(&query(MAX_FILTER_CLIENTS + 1)).err();
        assert_eq!(error.as_deref(), Some("at most 16 clients are allowed"));
        let (_, last_event_id) = Filter::parse("last_event_id=1-2-3").unwrap();
        assert_eq!(last_event_id.as_deref(), Some("1-2-3"));
    }
}
