//! Positions of one request, as they will be reported.

use core::cmp::Ordering;
use std::borrow::Cow;

use super::counters::{Dialect, PositionResult};
use super::number::Number;
use super::time::{APPLE_EPOCH, push_seconds};
use super::{NullIsland, Settings};
use crate::protocol::location::Location;
use crate::protocol::time::{Nanos, SECOND};
use crate::text::digits::push_digits;
use crate::time::Now;

/// The beginning of 2010, the year of the oldest of the apps: no device has sent a fix before.
pub const EARLIEST: Nanos = 1_262_304_000 * SECOND;

/// Longest name of a device, in bytes.
pub const MAX_DEVICE: usize = 1024;

/// Bytes by which the texts of a request's positions may exceed its body. They are shorter, unless
/// exponents expand.
const ARENA_EXCESS: usize = 4096;

/// Values of a position as they were sent, without their encoding.
#[derive(Default)]
pub struct Raw<'a> {
    /// Name of the device; `None` if the request names it elsewhere.
    pub device: Option<Cow<'a, [u8]>>,
    /// Name of the device if there is no other.
    pub label: Option<Cow<'a, [u8]>>,
    /// Degrees.
    pub latitude: Option<Cow<'a, [u8]>>,
    /// Degrees.
    pub longitude: Option<Cow<'a, [u8]>>,
    /// Time of the fix; `None` for the time of arrival.
    pub time: Option<Cow<'a, [u8]>>,
    /// Meters.
    pub accuracy: Option<Cow<'a, [u8]>>,
    /// True if a time that is far too early may count from 2001.
    pub may_be_apple_time: bool,
}

/// A valid position. The texts are in [`Fixes`].
#[derive(Clone, Copy, Debug)]
pub struct Fix {
    /// Time of the fix.
    pub time: Nanos,
    /// Dialect, for the counters.
    pub dialect: Dialect,
    device: Span,
    location: Span,
    /// Empty for the time of arrival.
    seconds: Span,
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    length: u16,
}

/// The positions of a request, and their texts.
#[derive(Default)]
pub struct Fixes {
    list: Vec<Fix>,
    arena: Vec<u8>,
    /// The device that the request names for all its positions, or nothing.
    device: Span,
    max_arena: usize,
}

/// The texts of a position.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'f> {
    /// Name of the device, as it was sent; may be empty.
    pub device: &'f [u8],
    /// Location field of an IAMAT.
    pub location: &'f [u8],
    /// Time field of an IAMAT; empty for the time of arrival.
    pub seconds: &'f [u8],
}

impl Fixes {
    /// Empties the list for a request with a body of this length.
    pub fn begin(&mut self, body: usize) {
        self.list.clear();
        self.arena.clear();
        self.device = Span::default();
        self.max_arena = body + ARENA_EXCESS;
    }

    /// Sets the device of all positions that do not name one.
    pub fn set_device(&mut self, device: &[u8]) {
        self.device = self.push_device(device).unwrap_or_default();
    }

    /// Number of positions.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Sorts the positions by time. Those of the same time keep their order.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|fix| fix.time);
    }

    /// Returns a position and its texts.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(Fix, Texts<'_>)> {
        let fix = *self.list.get(index)?;
        let text = |span: Span| &self.arena[span.start as usize..][..usize::from(span.length)];
        let texts = Texts {
            device: text(fix.device),
            location: text(fix.location),
            seconds: text(fix.seconds),
        };
        Some((fix, texts))
    }

    /// Adds a position.
    ///
    /// # Errors
    ///
    /// The reason why it will not be reported.
    pub fn push(
        &mut self,
        raw: &Raw<'_>,
        mut dialect: Dialect,
        settings: &Settings,
        now: &Now,
    ) -> Result<(), (Dialect, PositionResult)> {
        let start = self.arena.len();
        let result = self.add(raw, &mut dialect, settings, now);
        if result.is_err() {
            self.arena.truncate(start);
        }
        result.map_err(|reason| (dialect, reason))
    }

    fn add(
        &mut self,
        raw: &Raw<'_>,
        dialect: &mut Dialect,
        settings: &Settings,
        now: &Now,
    ) -> Result<(), PositionResult> {
        let unusable = PositionResult::Unusable;
        let device = match (&raw.device, &raw.label) {
            (Some(device), _) => self.push_device(device).ok_or(unusable)?,
            (None, Some(label)) if self.device.length == 0 => {
                self.push_device(label).ok_or(unusable)?
            }
            _ => self.device,
        };
        let latitude = raw.latitude.as_deref().and_then(Number::parse).ok_or(unusable)?;
        let longitude = raw.longitude.as_deref().and_then(Number::parse).ok_or(unusable)?;
        let at = self.arena.len();
        latitude.push_signed(&mut self.arena).ok_or(unusable)?;
        longitude.push_signed(&mut self.arena).ok_or(unusable)?;
        Location::parse(&self.arena[at..]).ok_or(unusable)?;
        let location = self.span(at).ok_or(unusable)?;
        let at = self.arena.len();
        let mut time = now.wall.nanos();
        if let Some(text) = &raw.time {
            time = push_seconds(text, &mut self.arena).ok_or(unusable)?;
            let apple = time + APPLE_EPOCH;
            let is_apple = raw.may_be_apple_time
                && time < EARLIEST
                && (EARLIEST..now.wall.nanos() + 86_400 * SECOND).contains(&apple);
            if is_apple {
                // Overland's OwnTracks mode sends seconds since 2001.
                *dialect = Dialect::Overland;
                self.add_to_seconds(at, apple);
                time = apple;
            }
            if time < EARLIEST {
                return Err(PositionResult::Old);
            }
        }
        let seconds = self.span(at).ok_or(unusable)?;
        if self.arena.len() > self.max_arena {
            return Err(unusable);
        }
        let accuracy = raw.accuracy.as_deref().and_then(Number::parse);
        // By convention, 0 and negative numbers stand for an unknown accuracy.
        let accuracy = accuracy.filter(|it| !it.is_negative() && !it.is_zero());
        if let (Some(accuracy), Some(most)) = (accuracy, settings.max_accuracy_m) {
            let is_greater = accuracy.cmp_integer(most.into()).is_none_or(Ordering::is_gt);
            if is_greater {
                return Err(PositionResult::Inaccurate);
            }
        }
        let is_null_island = latitude.is_zero() && longitude.is_zero() && accuracy.is_none();
        if is_null_island && settings.null_island == NullIsland::Drop {
            return Err(PositionResult::NullIsland);
        }
        self.list.push(Fix { time, dialect: *dialect, device, location, seconds });
        Ok(())
    }

    /// Replaces the whole seconds of the time at `at` by those of `time`.
    fn add_to_seconds(&mut self, at: usize, time: Nanos) {
        let text = self.arena.split_off(at);
        let fraction = memchr::memchr(b'.', &text).map_or(&[][..], |point| &text[point..]);
        push_digits(&mut self.arena, (time / SECOND) as u64, 1);
        self.arena.extend_from_slice(fraction);
    }

    fn push_device(&mut self, device: &[u8]) -> Option<Span> {
        let device = device.trim_ascii();
        let start = self.arena.len();
        if device.len() > MAX_DEVICE {
            return None;
        }
        self.arena.extend_from_slice(device);
        self.span(start)
    }

    /// Returns the end of the arena from `start` on.
    fn span(&self, start: usize) -> Option<Span> {
        let length = u16::try_from(self.arena.len() - start).ok()?;
        Some(Span { start: u32::try_from(start).ok()?, length })
    }
}
