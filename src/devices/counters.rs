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

/// The row of a combination. Its text is about requests, or positions, `$of` a dialect.
macro_rules! row {
    (request $dialect:ident $label:literal $result:ident $name:literal $($text:literal)+) => {
        Row {
            sample: Sample {
                family: "device_requests_total",
                labels: row!(@labels $label $name),
                help: "Requests of devices, by dialect and result.",
                meaning: concat!($($text),+),
            },
            read: |counters| counters.requests(Dialect::$dialect, RequestResult::$result),
        }
    };
    (position $dialect:ident $label:literal $result:ident $name:literal $($text:literal)+) => {
        Row {
            sample: Sample {
                family: "device_positions_total",
                labels: row!(@labels $label $name),
                help: "Positions in requests of devices, by dialect and result.",
                meaning: concat!($($text),+),
            },
            read: |counters| counters.positions(Dialect::$dialect, PositionResult::$result),
        }
    };
    (@labels $label:literal $name:literal) => {
        concat!("{dialect=\"", $label, "\",result=\"", $name, "\"}")
    };
}

/// The rows of all combinations that occur. A request is of a known dialect once it has been executed.
macro_rules! table {
    ($($dialect:ident $label:literal $of:literal),+ $(,)?) => {
        table!(@requests [
            row!(request Unknown "unknown" Ignored "ignored"
                "Requests without anything usable, which were confirmed nevertheless."),
            row!(request Unknown "unknown" Unavailable "unavailable"
                "Requests to be repeated, because the node was overloaded or its disk had failed."),
            row!(request Unknown "unknown" Unauthorized "unauthorized"
                "Requests with a wrong token or none."),
            row!(request Unknown "unknown" Limited "limited"
                "Requests from an address that had sent too many wrong tokens."),
            row!(request Unknown "unknown" Refused "refused"
                "Requests that violated HTTP or a limit, or that pages of browsers made."),
        ] [$(($dialect $label $of))+] $(($dialect $label $of))+)
    };
    (@requests [$($rows:tt)*] $all:tt ($dialect:ident $label:literal $of:literal) $($rest:tt)*) => {
        table!(@requests [
            $($rows)*
            row!(request $dialect $label Taken "taken"
                "Requests of " $of " with at least one position that is held now, or is not new."),
            row!(request $dialect $label Ignored "ignored"
                "Requests of " $of " without a usable position, which were confirmed nevertheless."),
            row!(request $dialect $label Unavailable "unavailable"
                "Requests of " $of " to be repeated, because the disk had failed."),
        ] $all $($rest)*)
    };
    (@requests $rows:tt [$($all:tt)+]) => { table!(@positions $rows $($all)+) };
    (@positions [$($rows:tt)*] ($dialect:ident $label:literal $of:literal) $($rest:tt)*) => {
        table!(@positions [
            $($rows)*
            row!(position $dialect $label Stored "stored"
                "Positions of " $of " that were stored and flooded."),
            row!(position $dialect $label Ahead "ahead"
                "Positions of " $of " that were stored with a time ahead of the node's clock."),
            row!(position $dialect $label Repeat "repeat"
                "Positions of " $of " dropped because the same record is held."),
            row!(position $dialect $label Stale "stale"
                "Positions of " $of " dropped because a newer record is held."),
            row!(position $dialect $label OverLimit "over_limit"
                "Positions of " $of " dropped because of a limit on clients or their time to live."),
            row!(position $dialect $label Unusable "unusable"
                "Positions of " $of " without valid coordinates, time or name."),
            row!(position $dialect $label Old "old"
                "Positions of " $of " with a time from before such devices existed."),
            row!(position $dialect $label Inaccurate "inaccurate"
                "Positions of " $of " dropped because of `devices.max_accuracy_m`."),
            row!(position $dialect $label NullIsland "null_island"
                "Positions of " $of " dropped because of `devices.null_island`."),
        ] $($rest)*)
    };
    (@positions $rows:tt) => { &$rows };
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

    /// All counters, in the order in which they are shown.
    pub const TABLE: &[Row<Self>] = table! {
        Osmand "osmand" "OsmAnd, Traccar Client and GPSLogger",
        Traccar "traccar" "Traccar Client 9 and Colota, in JSON,",
        Owntracks "owntracks" "OwnTracks",
        Overland "overland" "Overland",
        Template "template" "templates in JSON",
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
