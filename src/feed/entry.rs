//! Entries: what is delivered, and its fields.

use super::id::Id;
use crate::protocol::location::Location;
use crate::protocol::record::Record;
use crate::protocol::time::push_seconds;
use crate::storage::{Kind, Transition};

/// An entry of the history.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// A client has given a record to this node.
    At(Record<'a>, Location<'a>),
    /// A client was erased on this node.
    Forget(Record<'a>),
    /// A client has entered a fence, or has left it.
    Fence(Record<'a>, Location<'a>, Transition<'a>),
    /// Entries are missing.
    Gap {
        /// The id after which they are missing.
        from: Id,
        /// The number of entries.
        count: u32,
    },
}

/// The entries that are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// All.
    #[default]
    All,
    /// Records and tombstones.
    Updates,
    /// Transitions.
    Fences,
}

impl Filter {
    /// Returns whether an entry is delivered. A gap always is.
    #[must_use]
    pub const fn wants(self, entry: &Entry<'_>) -> bool {
        match (self, entry) {
            (_, Entry::Gap { .. })
            | (Self::All, _)
            | (Self::Updates, Entry::At(..) | Entry::Forget(_))
            | (Self::Fences, Entry::Fence(..)) => true,
            (Self::Updates, Entry::Fence(..)) | (Self::Fences, _) => false,
        }
    }
}

/// A field of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/feed.md describes the fields")]
pub enum Field {
    Type,
    Line,
    Client,
    Lon,
    Lat,
    Time,
    Received,
    Fence,
    Reason,
    From,
    To,
    Count,
}

impl Field {
    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Line => "line",
            Self::Client => "client",
            Self::Lon => "lon",
            Self::Lat => "lat",
            Self::Time => "time",
            Self::Received => "received",
            Self::Fence => "fence",
            Self::Reason => "reason",
            Self::From => "from",
            Self::To => "to",
            Self::Count => "count",
        }
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Bytes, which need not be UTF-8.
    Text(&'a [u8]),
    /// A decimal number.
    Number(&'a [u8]),
}

impl<'a> Entry<'a> {
    /// The entry of a frame. Returns `None` if the frame is not part of the history, or if its payload is
    /// not what it should be, which only another program can have written.
    #[must_use]
    pub fn of(kind: Kind, payload: &'a [u8]) -> Option<Self> {
        match kind {
            Kind::UPDATE => {
                let (record, location) = Record::parse_with_location(payload)?;
                Some(Self::At(record, location?))
            }
            Kind::FORGET => match Record::parse_with_location(payload)? {
                (record, None) => Some(Self::Forget(record)),
                (_, Some(_)) => None,
            },
            Kind::ENTER | Kind::LEAVE => {
                let transition = Transition::parse(payload)?;
                let (record, location) = Record::parse_with_location(transition.line)?;
                Some(Self::Fence(record, location?, transition))
            }
            _ => None,
        }
    }

    /// Calls `field` with each field and its value, in their order. `id` is the id of the entry.
    /// `scratch` is a buffer.
    #[inline]
    pub fn fields(&self, id: Id, scratch: &mut Vec<u8>, mut field: impl FnMut(Field, Value<'_>)) {
        match self {
            Self::At(record, location) => {
                field(Field::Type, Value::Text(b"at"));
                record_fields(record, Some(location), scratch, &mut field);
            }
            Self::Forget(record) => {
                field(Field::Type, Value::Text(b"forget"));
                record_fields(record, None, scratch, &mut field);
            }
            Self::Fence(record, location, transition) => {
                let kind: &[u8] = if transition.left.is_some() { b"leave" } else { b"enter" };
                field(Field::Type, Value::Text(kind));
                record_fields(record, Some(location), scratch, &mut field);
                field(Field::Fence, Value::Text(&transition.fence));
                if let Some(reason) = transition.left {
                    field(Field::Reason, Value::Text(reason.as_bytes()));
                }
            }
            Self::Gap { from, count } => {
                field(Field::Type, Value::Text(b"gap"));
                field(Field::From, Value::Text(from.to_string().as_bytes()));
                field(Field::To, Value::Text(id.to_string().as_bytes()));
                field(Field::Count, Value::Number(count.to_string().as_bytes()));
            }
        }
    }

    /// Returns the number of fields.
    #[must_use]
    pub const fn field_count(&self) -> usize {
        match self {
            Self::At(..) => 7,
            Self::Forget(_) => 5,
            Self::Fence(_, _, Transition { left: None, .. }) => 8,
            Self::Fence(..) => 9,
            Self::Gap { .. } => 4,
        }
    }
}

fn record_fields(
    record: &Record<'_>,
    location: Option<&Location<'_>>,
    scratch: &mut Vec<u8>,
    field: &mut impl FnMut(Field, Value<'_>),
) {
    field(Field::Line, Value::Text(record.line));
    field(Field::Client, Value::Text(record.client));
    if let Some(location) = location {
        scratch.clear();
        location.push_longitude(scratch);
        field(Field::Lon, Value::Number(scratch));
        scratch.clear();
        location.push_latitude(scratch);
        field(Field::Lat, Value::Number(scratch));
    }
    scratch.clear();
    push_seconds(scratch, record.time, 9);
    field(Field::Time, Value::Number(scratch));
    scratch.clear();
    push_seconds(scratch, record.received, 9);
    field(Field::Received, Value::Number(scratch));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(kind: Kind, line: &[u8]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let entry = Entry::of(kind, line).unwrap();
        entry.fields(Id::ZERO, &mut Vec::new(), |field, value| {
            let (Value::Text(value) | Value::Number(value)) = value;
            found.push((field.name().to_owned(), value.escape_ascii().to_string()));
        });
        assert_eq!(found.len(), entry.field_count());
        found
    }

    #[test]
    fn an_entry_has_the_fields_of_its_record() {
        let line = b"AT Clark +0.263873386 k\xffwi +34.068930-118.445127 1621464827.5";
        let fields = fields(Kind::UPDATE, line);
        let expected = [
            ("type", "at"),
            ("line", "AT Clark +0.263873386 k\\xffwi +34.068930-118.445127 1621464827.5"),
            ("client", "k\\xffwi"),
            ("lon", "-118.445127"),
            ("lat", "34.068930"),
            ("time", "1621464827.500000000"),
            ("received", "1621464827.763873386"),
        ];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_tombstone_has_no_location() {
        let fields = fields(Kind::FORGET, b"AT Clark +0.000000000 kiwi 1621464827.500000000");
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["type", "line", "client", "time", "received"]);
        assert_eq!(fields[0].1, "forget");
    }

    #[test]
    fn a_transition_has_the_fields_of_its_record_and_the_fence() {
        let line = "AT Clark +0.263873386 kiwi +34.068930-118.445127 1621464827.5";
        let entered = fields(Kind::ENTER, format!("my%20depot - {line}").as_bytes());
        assert_eq!(entered[0].1, "enter");
        assert_eq!((entered[1].1.as_str(), entered[7].1.as_str()), (line, "my depot"));
        let left = fields(Kind::LEAVE, format!("depot expired {line}").as_bytes());
        assert_eq!((left[0].1.as_str(), left[7].1.as_str()), ("leave", "depot"));
        assert_eq!(left[8], ("reason".to_owned(), "expired".to_owned()));
    }

    #[test]
    fn frames_that_are_not_of_this_node_are_no_entries() {
        let line = b"AT Clark +0.263873386 kiwi +34.068930-118.445127 1621464827.5";
        for kind in [Kind::RECEIVED, Kind::SNAPSHOT, Kind::TIME, Kind::HEADER, Kind::MARK] {
            assert!(Entry::of(kind, line).is_none());
        }
        assert!(Entry::of(Kind::UPDATE, b"AT").is_none());
        let tombstone = b"AT Clark +0.000000000 kiwi 1621464827.500000000";
        assert!(Entry::of(Kind::UPDATE, tombstone).is_none(), "its fields would be too few");
        assert!(Entry::of(Kind::FORGET, line).is_none());
    }
}
