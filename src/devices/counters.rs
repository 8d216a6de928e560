//! Counters of requests and positions, by dialect and result.

use crate::counters::{Row, Sample};

/// A dialect that devices speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The form and the query of `OsmAnd`, Traccar Client and `GPSLogger`.
    Osmand,
    /// The JSON of Traccar Client 9 and Colota.
    Traccar,
    /// The JSON of `OwnTracks`.
    Owntracks,
    /// The JSON of Overland.
    Overland,
    /// Flat JSON objects, which users compose as templates.
    Template,
    /// None of these.
    Unknown,
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestResult {
    /// It contained at least one position that was stored or that is known already.
    Taken,
    /// It is answered like a request that was taken, but contains nothing that can ever be used.
    Ignored,
    /// The device is to try again: the node is overloaded, or its disk has failed.
    Unavailable,
    /// Its token is wrong or missing.
    Unauthorized,
    /// Its address has sent too many wrong tokens.
    Limited,
    /// It violates HTTP or a limit, or comes from a page of a browser.
    Refused,
}

/// The result of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionResult {
    /// Stored and flooded.
    Stored,
    /// Stored and flooded, with a time that is ahead of the node's clock.
    Ahead,
    /// The same record is held.
    Repeat,
    /// A newer record is held.
    Stale,
    /// Over a limit on clients, or expired.
    OverLimit,
    /// Without valid coordinates, time or name.
    Unusable,
    /// With a time from before such devices existed.
    Old,
    /// With a radius of accuracy that is too great.
    Inaccurate,
    /// At exactly 0, 0 without an accuracy.
    NullIsland,
}

const DIALECTS: usize = Dialect::Unknown as usize + 1;
const REQUESTS: usize = RequestResult::Refused as usize + 1;
const POSITIONS: usize = PositionResult::NullIsland as usize + 1;

/// Monotonic counters of devices since start-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    requests: [[u64; REQUESTS]; DIALECTS],
    positions: [[u64; POSITIONS]; DIALECTS],
}

/// The row of a result, of a dialect or of requests in none.
macro_rules! row {
    (request ($dialect:ident $label:literal $of:literal) ($result:ident $name:literal $text:literal)) => {
        row!(@request $dialect $label $result $name concat!("Requests of ", $of, " ", $text, "."))
    };
    (unknown ($result:ident $name:literal $text:literal)) => {
        row!(@request Unknown "unknown" $result $name concat!("Requests ", $text, "."))
    };
    (@request $dialect:ident $label:literal $result:ident $name:literal $text:expr) => {
        Row {
            sample: Sample {
                family: "device_requests_total",
                labels: row!(@labels $label $name),
                help: "Requests of devices, by dialect and result.",
                meaning: $text,
            },
            read: |counters| counters.requests(Dialect::$dialect, RequestResult::$result),
        }
    };
    (position ($dialect:ident $label:literal $of:literal) ($result:ident $name:literal $text:literal)) => {
        Row {
            sample: Sample {
                family: "device_positions_total",
                labels: row!(@labels $label $name),
                help: "Positions in requests of devices, by dialect and result.",
                meaning: concat!("Positions of ", $of, " ", $text, "."),
            },
            read: |counters| counters.positions(Dialect::$dialect, PositionResult::$result),
        }
    };
    (@labels $label:literal $name:literal) => {
        concat!("{dialect=\"", $label, "\",result=\"", $name, "\"}")
    };
}

/// The rows of every result of every dialect.
macro_rules! table {
    (
        dialects $dialects:tt
        request { $($unknown:tt)* } $requests:tt
        position $positions:tt
    ) => {
        table!(@[$(row!(unknown $unknown),)*] request $dialects $requests position $dialects $positions)
    };
    (@[$($rows:tt)*]) => { &[$($rows)*] };
    (@$rows:tt $of:ident {} $results:tt $($rest:tt)*) => { table!(@$rows $($rest)*) };
    (@[$($rows:tt)*] $of:ident { $first:tt $($others:tt)* } { $($result:tt)* } $($rest:tt)*) => {
        table!(
            @[$($rows)* $(row!($of $first $result),)*] $of { $($others)* } { $($result)* } $($rest)*
        )
    };
}

impl Counters {
    /// Counts a request.
    pub const fn count_request(&mut self, dialect: Dialect, result: RequestResult) {
        self.requests[dialect as usize][result as usize] += 1;
    }

    /// Counts a position.
    pub const fn count_position(&mut self, dialect: Dialect, result: PositionResult) {
        self.positions[dialect as usize][result as usize] += 1;
    }

    /// Returns the number of requests of a dialect with this result.
    #[must_use]
    pub const fn requests(&self, dialect: Dialect, result: RequestResult) -> u64 {
        self.requests[dialect as usize][result as usize]
    }

    /// Returns the number of positions of a dialect with this result.
    #[must_use]
    pub const fn positions(&self, dialect: Dialect, result: PositionResult) -> u64 {
        self.positions[dialect as usize][result as usize]
    }

    /// All counters, in the order in which they are shown. A request is of a known dialect once it has
    /// been executed.
    pub const TABLE: &[Row<Self>] = table! {
        dialects {
            (Osmand "osmand" "OsmAnd, Traccar Client and GPSLogger")
            (Traccar "traccar" "Traccar Client 9 and Colota, in JSON,")
            (Owntracks "owntracks" "OwnTracks")
            (Overland "overland" "Overland")
            (Template "template" "templates in JSON")
        }
        request {
            (Ignored "ignored" "without anything usable, which were confirmed nevertheless")
            (Unavailable "unavailable"
                "to be repeated, because the node was overloaded or its disk had failed")
            (Unauthorized "unauthorized" "with a wrong token or none")
            (Limited "limited" "from an address that had sent too many wrong tokens")
            (Refused "refused" "that violated HTTP or a limit, or that pages of browsers made")
        } {
            (Taken "taken" "with at least one position that is held now, or is not new")
            (Ignored "ignored" "without a usable position, which were confirmed nevertheless")
            (Unavailable "unavailable" "to be repeated, because the disk had failed")
        }
        position {
            (Stored "stored" "that were stored and flooded")
            (Ahead "ahead" "that were stored with a time ahead of the node's clock")
            (Repeat "repeat" "dropped because the same record is held")
            (Stale "stale" "dropped because a newer record is held")
            (OverLimit "over_limit" "dropped because of a limit on clients or their time to live")
            (Unusable "unusable" "without valid coordinates, time or name")
            (Old "old" "with a time from before such devices existed")
            (Inaccurate "inaccurate" "dropped because of `devices.max_accuracy_m`")
            (NullIsland "null_island" "dropped because of `devices.null_island`")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_in_one_piece_and_each_row_reads_its_counter() {
        let mut counters = Counters::default();
        counters.count_request(Dialect::Overland, RequestResult::Taken);
        counters.count_position(Dialect::Template, PositionResult::NullIsland);
        let (mut read, mut families) = (Vec::new(), Vec::new());
        for row in Counters::TABLE {
            if (row.read)(&counters) == 1 {
                read.push(row.sample.labels);
            }
            if families.last() != Some(&row.sample.family) {
                families.push(row.sample.family);
            }
        }
        let overland = "{dialect=\"overland\",result=\"taken\"}";
        assert_eq!(read, [overland, "{dialect=\"template\",result=\"null_island\"}"]);
        assert_eq!(families, ["device_requests_total", "device_positions_total"]);
    }
}
