//! The Prometheus text format, version 0.0.4: metric families with their HELP and TYPE lines.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use core::fmt::Write as _;

use crate::counters::{Reading, is_counter_name};
use crate::histogram::Histogram;

/// Prefix of all metric names.
const PREFIX: &str = "proxy_herd_";

/// Writes metrics, one family after the other.
pub struct Writer {
    text: String,
    /// The name of the current family, with its prefix.
    name: String,
}

impl Default for Writer {
    fn default() -> Self {
        Self { text: String::with_capacity(16 * 1024), name: String::new() }
    }
}

impl Writer {
    /// Writes counters and gauges, each family once with all its samples.
    pub fn readings(&mut self, readings: &[Reading]) {
        for (at, first) in readings.iter().enumerate() {
            let family = first.sample.family;
            if readings[..at].iter().any(|earlier| earlier.sample.family == family) {
                continue;
            }
            let kind = if first.sample.is_counter() { "counter" } else { "gauge" };
            self.family(PREFIX, family, kind, first.sample.help);
            for reading in readings[at..].iter().filter(|it| it.sample.family == family) {
                let Reading { sample, value } = reading;
                // Writing to a String cannot fail.
                let _ = writeln!(self.text, "{PREFIX}{family}{} {value}", sample.labels);
            }
        }
    }

    /// Begins the family of gauges `name`.
    pub fn gauge(&mut self, name: &str, help: &str) -> &mut Self {
        debug_assert!(!is_counter_name(name), "{name}");
        self.family(PREFIX, name, "gauge", help)
    }

    /// Begins the family of gauges `name`, which is the same for all programs and has no prefix.
    pub fn standard_gauge(&mut self, name: &str, help: &str) -> &mut Self {
        self.family("", name, "gauge", help)
    }

    /// Begins the family of counters `name`, which is the same for all programs and has no prefix.
    pub fn standard_counter(&mut self, name: &str, help: &str) -> &mut Self {
        debug_assert!(is_counter_name(name), "{name}");
        self.family("", name, "counter", help)
    }

    fn family(&mut self, prefix: &str, name: &str, kind: &str, help: &str) -> &mut Self {
        let Self { text, name: current, .. } = self;
        current.clear();
        current.extend([prefix, name]);
        let _ = writeln!(text, "# HELP {current} {help}\n# TYPE {current} {kind}");
        self
    }

    /// Writes a sample of the current family without labels.
    pub fn value(&mut self, value: impl Into<Value>) -> &mut Self {
        self.sample(&[], value)
    }

    /// Writes a sample of the current family with labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> &mut Self {
        let Self { text, name, .. } = self;
        text.push_str(name);
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
            Value::Integer(value) => writeln!(text, " {value}"),
            Value::Float(value) => writeln!(text, " {value}"),
        };
        self
    }

    /// Writes the histogram `name` of durations. The name ends in `_seconds`.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        debug_assert!(name.ends_with("_seconds"), "{name}");
        self.family(PREFIX, name, "histogram", help);
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

    /// Returns the finished document.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.text.into_bytes()
    }
}

/// Value of a sample.
pub enum Value {
    /// A count, a size in bytes, or a condition as 0 or 1.
    Integer(u64),
    /// A duration in seconds.
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Integer(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}
