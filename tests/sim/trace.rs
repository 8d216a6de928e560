//! A readable trace of a world, kept only when a seed is replayed.

use crate::schedule::Time;

/// The lines of a trace, or nothing, at no cost.
pub struct Trace(Option<Vec<String>>);

impl Trace {
    pub const fn off() -> Self {
        Self(None)
    }

    pub const fn on() -> Self {
        Self(Some(Vec::new()))
    }

    pub fn line(&mut self, at: Time, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(format!("{:12.6} {}", at as f64 / 1e9, what()));
        }
    }

    pub fn lines(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }
}
