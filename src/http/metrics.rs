//! The Prometheus text format, version 0.0.4: samples with their help and type before them.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use core::fmt::Write as _;

use crate::histogram::Histogram;

/// What all names begin with.
const PREFIX: &str = "proxy_herd_";

/// Writes metrics, one family after the other.
pub struct Writer {
    text: String,
    name: String,
}

impl Default for Writer {
    fn default() -> Self {
        Self { text: String::with_capacity(16 * 1024), name: String::new() }
    }
}

impl Writer {
    /// Begins the family of counters `name`, which ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> &mut Self {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.family(name, "counter", help)
    }

    /// Begins the family of gauges `name`.
    pub fn gauge(&mut self, name: &str, help: &str) -> &mut Self {
        debug_assert!(!name.ends_with("_total"), "{name}");
        self.family(name, "gauge", help)
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        self.name.clear();
        self.name.push_str(name);
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
        self
    }

    /// A sample of the family that was begun last, without labels.
    pub fn value(&mut self, value: impl Into<Value>) -> &mut Self {
        self.sample(&[], value)
    }

    /// A sample with labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> &mut Self {
        let Self { text, name, .. } = self;
        let _ = write!(text, "{PREFIX}{name}");
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(text, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for character in value.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = match value.into() {
            Value::Whole(value) => writeln!(text, " {value}"),
            Value::Decimal(value) => writeln!(text, " {value}"),
        };
        self
    }

    /// The histogram `name` of durations, which ends in `_seconds`.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        debug_assert!(name.ends_with("_seconds"), "{name}");
        self.family(name, "histogram", help);
        for (bound_us, count) in histogram.cumulative() {
            let bound = bound_us as f64 / 1e6;
            let _ = writeln!(self.text, "{PREFIX}{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let (count, sum) = (histogram.count(), histogram.sum_ns() as f64 / 1e9);
        let _ = writeln!(
            self.text,
            "{PREFIX}{name}_bucket{{le=\"+Inf\"}} {count}\n{PREFIX}{name}_sum {sum}\n\
             {PREFIX}{name}_count {count}"
        );
    }

    /// The document.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.text.into_bytes()
    }
}

/// The value of a sample.
pub enum Value {
    /// A count.
    Whole(u64),
    /// Seconds.
    Decimal(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Decimal(value)
    }
}
