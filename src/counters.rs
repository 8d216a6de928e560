//! Declaration of counters: one row per counter, which gives its field, its name and its text.
//!
//! The `counters!` macro turns the rows into a struct of `u64` fields and a table. The log line of
//! SIGUSR1, `/metrics` and docs/metrics.md are all produced from the table, so a counter has the
//! same name and meaning everywhere.

/// Description of one counter or gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Name of the metric family, without the prefix `proxy_herd_`. Ends in `_total` for a counter.
    pub family: &'static str,
    /// Labels as Prometheus writes them, such as `{deadline="line"}`; empty if there are none.
    pub labels: &'static str,
    /// HELP text of the family, a sentence.
    pub help: &'static str,
    /// Meaning of this sample within its family; empty if the family has no labels.
    pub meaning: &'static str,
}

/// A row of a table of counters that are kept in an `S`.
pub struct Row<S: 'static> {
    /// Name and meaning.
    pub sample: Sample,
    /// Reads the value.
    pub read: fn(&S) -> u64,
}

/// A counter or gauge and its current value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Name and meaning.
    pub sample: Sample,
    /// Current value.
    pub value: u64,
}

impl Sample {
    /// A gauge. `labels` as in [`Sample::labels`].
    #[must_use]
    pub const fn gauge(family: &'static str, labels: &'static str, help: &'static str) -> Self {
        Self { family, labels, help, meaning: "" }
    }

    /// The value of this sample.
    #[must_use]
    pub const fn reading(self, value: u64) -> Reading {
        Reading { sample: self, value }
    }

    /// Returns whether the value only grows. Gauges go up and down.
    #[must_use]
    pub fn is_counter(&self) -> bool {
        self.family.ends_with("_total")
    }

    /// Description of the value: the meaning of the sample or, without labels, that of the family.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        if self.meaning.is_empty() { self.help } else { self.meaning }
    }
}

/// The current values of all counters in `counters`, in the order of their table.
pub fn read<S>(table: &'static [Row<S>], counters: &S) -> impl Iterator<Item = Reading> {
    table.iter().map(|row| row.sample.reading((row.read)(counters)))
}

/// Returns whether a name ends in `_total`, as the names of counters must.
#[must_use]
pub const fn is_counter_name(name: &str) -> bool {
    matches!(name.as_bytes(), [.., b'_', b't', b'o', b't', b'a', b'l'])
}

/// Declares a struct of counters and its `TABLE`.
///
/// A family without labels reads `name_total: "HELP." { field }`. A family with labels has several
/// rows, each `field (label = "value"): "Meaning."`. Rows under `derived` have no field; they
/// compute their value from others.
macro_rules! counters {
    (
        $(#[$about:meta])*
        $name:ident {
            $(
                $family:ident: $help:literal {
                    $($field:ident $(($($label:ident = $value:literal),+): $meaning:literal)?),+ $(,)?
                }
            )+
        }
        $(derived {
            $(
                $of:ident: $of_help:literal {
                    $(($($key:ident = $is:literal),+): $means:literal = $read:expr),+ $(,)?
                }
            )+
        })?
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(
                #[doc = counters!(@text $help $($meaning)?)]
                pub $field: u64,
            )+)+
        }

        impl $name {
            /// All counters of this struct, in the order in which they are shown.
            pub const TABLE: &[$crate::counters::Row<Self>] = &[
                $($(
                    $crate::counters::Row {
                        sample: $crate::counters::Sample {
                            family: stringify!($family),
                            labels: counters!(@labels $($($label = $value),+)?),
                            help: $help,
                            meaning: counters!(@text "" $($meaning)?),
                        },
                        read: |counters| counters.$field,
                    },
                )+)+
                $($($(
                    $crate::counters::Row {
                        sample: $crate::counters::Sample {
                            family: stringify!($of),
                            labels: counters!(@labels $($key = $is),+),
                            help: $of_help,
                            meaning: $means,
                        },
                        read: $read,
                    },
                )+)+)?
            ];
        }

        // Rejects a counter without `_total` at compile time.
        const _: () = {
            let mut row = 0;
            while row < $name::TABLE.len() {
                assert!($crate::counters::is_counter_name($name::TABLE[row].sample.family));
                row += 1;
            }
        };
    };
    (@text $help:literal) => { $help };
    (@text $help:literal $meaning:literal) => { $meaning };
    (@labels) => { "" };
    (@labels $first:ident = $of_first:literal $(, $label:ident = $value:literal)*) => {
        concat!(
            "{", stringify!($first), "=\"", $of_first, "\"",
            $(",", stringify!($label), "=\"", $value, "\"",)* "}"
        )
    };
}

pub(crate) use counters;

#[cfg(test)]
mod tests {
    use super::*;

    counters! {
        /// Counters of a kitchen.
        Kitchen {
            dishes_total: "Dishes served." { dishes }
            eggs_total: "Eggs used, by state." {
                boiled (state = "boiled", size = "l"): "Boiled for at least five minutes.",
                broken (state = "broken"): "Dropped.",
            }
        }
        derived {
            plates_total: "Plates used, by outcome." {
                (outcome = "clean"): "Returned clean." = |kitchen| kitchen.dishes - kitchen.broken,
            }
        }
    }

    #[test]
    fn a_row_gives_a_field_a_name_and_a_text() {
        let kitchen = Kitchen { dishes: 3, boiled: 2, broken: 1 };
        let lines: Vec<_> = read(Kitchen::TABLE, &kitchen)
            .map(|Reading { sample, value }| {
                format!("{}{}={value} {}", sample.family, sample.labels, sample.text())
            })
            .collect();
        assert_eq!(
            lines,
            [
                "dishes_total=3 Dishes served.",
                "eggs_total{state=\"boiled\",size=\"l\"}=2 Boiled for at least five minutes.",
                "eggs_total{state=\"broken\"}=1 Dropped.",
                "plates_total{outcome=\"clean\"}=2 Returned clean.",
            ]
        );
        assert!(Kitchen::TABLE.iter().all(|row| row.sample.is_counter()));
        assert!(!Sample::gauge("cooks", "", "Cooks present.").is_counter());
    }
}
