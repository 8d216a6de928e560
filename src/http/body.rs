//! Bodies that are produced over several turns.

use super::OutputSlice;
use super::clients::Listing;
use super::fences::{FenceListing, Inside};
use super::labels::Labels;
use super::near::Near;
use super::positions::Positions;
use crate::herd::Herd;
use crate::time::Wall;

/// A body that takes work, so that it is produced in slices and needs one of the
/// [`MAX_LISTINGS`](super::limits::MAX_LISTINGS) seats.
pub enum Body {
    /// All clients, or those in a box.
    Listing(Listing),
    /// The nearest clients of a point.
    Near(Near),
    /// The largest places in a box.
    Labels(Labels),
    /// The clients inside a fence.
    Inside(Inside),
    /// All fences.
    Fences(FenceListing),
}

impl Body {
    /// Appends the next slice. Returns whether it was the last one.
    pub fn advance(
        &mut self,
        herd: &mut Herd,
        positions: &mut Positions,
        now: Wall,
        slice: &mut OutputSlice<'_>,
    ) -> bool {
        match self {
            Self::Listing(listing) => listing.advance(&herd.directory, now, slice),
            Self::Near(near) => near.advance(herd, positions, now, slice),
            Self::Labels(labels) => labels.advance(slice),
            Self::Inside(inside) => inside.advance(herd, now, slice),
            Self::Fences(fences) => fences.advance(herd, slice),
        }
    }
}
