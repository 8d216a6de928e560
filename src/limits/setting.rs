//! The declaration of settings: one row each, from which the field, its default, its range and its
//! documentation are derived.

use std::fmt::Write as _;
use std::time::Duration;

/// The unit of a number in the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds; the key ends in `_s`.
    Seconds,
    /// Milliseconds; the key ends in `_ms`.
    Milliseconds,
}

impl Unit {
    /// Returns the symbol that follows a number; empty for a count.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => "bytes",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
        }
    }
}

/// The description of a setting.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Section of the file, such as `limits`.
    pub section: &'static str,
    /// Key in the section.
    pub key: &'static str,
    /// Unit of `default`, `min` and `max`.
    pub unit: Unit,
    /// Value if the file does not set the key.
    pub default: u64,
    /// Smallest valid value, except for a meaningful 0.
    pub min: u64,
    /// Largest valid value.
    pub max: u64,
    /// Meaning of 0, if 0 is valid although it is below `min`, such as `off`.
    pub zero: Option<&'static str>,
    /// The quantity that is limited.
    pub what: &'static str,
    /// Reason for the default.
    pub why: &'static str,
}

impl Limit {
    /// Returns true if `value` is valid.
    pub const fn allows(&self, value: u64) -> bool {
        (self.min <= value && value <= self.max) || (value == 0 && self.zero.is_some())
    }

    /// Formats `value` with its unit or the meaning of 0: `60 s`, `0 (no limit)`.
    pub fn describe(&self, value: u64) -> String {
        match self.zero {
            Some(zero) if value == 0 => format!("0 ({zero})"),
            _ if self.unit == Unit::Count => value.to_string(),
            _ => format!("{value} {}", self.unit.name()),
        }
    }

    /// Formats the range: `from 1 to 3600 s, or 0 (off)`.
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
    /// The description.
    pub limit: Limit,
    /// Returns the value in the unit of the file.
    pub get: fn(&S) -> u64,
    /// Sets a value in the unit of the file, which [`Limit::allows`] has accepted.
    pub set: fn(&mut S, u64),
}

/// The type of a setting.
pub trait Quantity {
    /// Converts a number of this unit into the quantity.
    fn from_number(number: u64, unit: Unit) -> Self;
    /// Converts the quantity into a number of this unit.
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

/// 0 is `None`: the limit is off.
impl<Q: Quantity> Quantity for Option<Q> {
    fn from_number(number: u64, unit: Unit) -> Self {
        (number != 0).then(|| Q::from_number(number, unit))
    }

    fn to_number(&self, unit: Unit) -> u64 {
        self.as_ref().map_or(0, |quantity| quantity.to_number(unit))
    }
}

/// Declares the settings of one section: a struct with a field for each row, its defaults, and the
/// table of rows. The form of a row is
/// `field: type = default [(meaning of 0)], min..=max Unit, "what", "why";`.
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
            /// All settings of the section, in the order of the documentation.
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
