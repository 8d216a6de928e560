//! How a section's settings are declared: one row each, from which the field, its default, its range
//! and its documentation come.

use std::fmt::Write as _;
use std::time::Duration;

/// How a number in the configuration file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things that are counted.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds; the key ends in `_s`.
    Seconds,
    /// Milliseconds; the key ends in `_ms`.
    Milliseconds,
}

impl Unit {
    /// The unit behind a number, for people; nothing for a count.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => "bytes",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
        }
    }
}

/// What the documentation of a setting says.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The section of the file it belongs to, such as `limits`.
    pub section: &'static str,
    /// Its key in that section.
    pub key: &'static str,
    /// The unit of `default`, `min` and `max`.
    pub unit: Unit,
    /// The value where the file says nothing.
    pub default: u64,
    /// The smallest value that makes sense.
    pub min: u64,
    /// The largest value that makes sense.
    pub max: u64,
    /// What 0 means, where 0 switches the cap off although it is below `min`.
    pub zero: Option<&'static str>,
    /// What is limited.
    pub what: &'static str,
    /// Why the default is what it is.
    pub why: &'static str,
}

impl Limit {
    /// Whether the file may say `value`.
    pub const fn allows(&self, value: u64) -> bool {
        (self.min <= value && value <= self.max) || (value == 0 && self.zero.is_some())
    }

    /// `value` with its unit, or what 0 means: `60 s`, `no limit`.
    pub fn describe(&self, value: u64) -> String {
        match self.zero {
            Some(zero) if value == 0 => format!("0 ({zero})"),
            _ if self.unit == Unit::Count => value.to_string(),
            _ => format!("{value} {}", self.unit.name()),
        }
    }

    /// The range in words: `from 1 to 3600 s, or 0 (off)`.
    pub fn range(&self) -> String {
        let mut range = format!("from {} to {}", self.min, self.describe(self.max));
        if let Some(zero) = self.zero {
            let _ = write!(range, ", or 0 ({zero})");
        }
        range
    }
}

/// A row of a table: a [`Limit`] and the field of `S` that holds its value.
pub struct Setting<S: 'static> {
    /// What its documentation says.
    pub limit: Limit,
    /// The value as the file would write it.
    pub get: fn(&S) -> u64,
    /// Takes a value of the file that [`Limit::allows`].
    pub set: fn(&mut S, u64),
}

/// A type that a setting can have.
pub trait Quantity {
    /// The quantity of which there are `number` in this unit.
    fn from_number(number: u64, unit: Unit) -> Self;
    /// The quantity as a number of this unit.
    fn to_number(&self, unit: Unit) -> u64;
}

impl Quantity for u64 {
    fn from_number(number: u64, _: Unit) -> Self {
        number
    }

    fn to_number(&self, _: Unit) -> u64 {
        *self
    }
}

impl Quantity for u32 {
    fn from_number(number: u64, _: Unit) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }

    fn to_number(&self, _: Unit) -> u64 {
        u64::from(*self)
    }
}

impl Quantity for usize {
    fn from_number(number: u64, _: Unit) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }

    fn to_number(&self, _: Unit) -> u64 {
        *self as u64
    }
}

impl Quantity for Duration {
    fn from_number(number: u64, unit: Unit) -> Self {
        match unit {
            Unit::Milliseconds => Self::from_millis(number),
            _ => Self::from_secs(number),
        }
    }

    fn to_number(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Milliseconds => self.as_millis() as u64,
            _ => self.as_secs(),
        }
    }
}

/// 0 is `None`: the cap is off.
impl<Q: Quantity> Quantity for Option<Q> {
    fn from_number(number: u64, unit: Unit) -> Self {
        (number != 0).then(|| Q::from_number(number, unit))
    }

    fn to_number(&self, unit: Unit) -> u64 {
        self.as_ref().map_or(0, |quantity| quantity.to_number(unit))
    }
}

/// Declares the settings of one section: a struct with a field for each row, its defaults, and
/// the table of the rows. A row reads
/// `field: type = default [(what 0 means)], min..=max Unit, "what", "why";`.
macro_rules! settings {
    (
        $(#[$about:meta])*
        $name:ident in $section:literal {
            $(
                $field:ident: $type:ty = $default:literal $(($zero:literal))?,
                $min:literal..=$max:literal $unit:ident, $what:literal, $why:literal;
            )*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $(
                #[doc = concat!($what, ".")]
                #[doc = ""]
                #[doc = concat!($why, ".")]
                pub $field: $type,
            )*
        }

        impl $name {
            /// Every setting of the section, in the order of the documentation.
            pub const TABLE: &[Setting<Self>] = &[$(
                Setting {
                    limit: Limit {
                        section: $section,
                        key: settings!(@key $field $unit),
                        unit: Unit::$unit,
                        default: $default,
                        min: $min,
                        max: $max,
                        zero: settings!(@zero $($zero)?),
                        what: $what,
                        why: $why,
                    },
                    get: |section| section.$field.to_number(Unit::$unit),
                    set: |section, number| {
                        section.$field = <$type>::from_number(number, Unit::$unit);
                    },
                },
            )*];
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: <$type>::from_number($default, Unit::$unit),)* }
            }
        }

        // A default outside its own range does not compile.
        const _: () = {
            let mut row = 0;
            while row < $name::TABLE.len() {
                let limit = &$name::TABLE[row].limit;
                assert!(limit.allows(limit.default));
                row += 1;
            }
        };
    };
    (@key $field:ident Seconds) => { concat!(stringify!($field), "_s") };
    (@key $field:ident Milliseconds) => { concat!(stringify!($field), "_ms") };
    (@key $field:ident $unit:ident) => { stringify!($field) };
    (@zero) => { None };
    (@zero $zero:literal) => { Some($zero) };
}

pub(super) use settings;
