//! Where clients are: the nearest clients of a point, and shapes that contain points, exact everywhere
//! on the sphere. Pure.
//!
//! [`Index`] is a quadtree over the slots of the directory. [`Nearest`] is a search in it that can be
//! interrupted after any number of steps and continued although the index has changed meanwhile.

mod blocks;
pub mod boxes;
pub mod grid;
pub mod index;
pub mod nearest;
mod rect;
pub mod shape;

pub use index::Index;
pub use nearest::{Clients, Hit, Nearest};
