//! A static index of rectangles.

use geo_index::rtree::sort::HilbertSort;
use geo_index::rtree::{RTree, RTreeBuilder, RTreeIndex as _};

/// A rectangle of longitudes and latitudes: west, south, east, north.
pub type Bounds = [f64; 4];

/// Rectangles that do not change, in a packed R-tree. They are kept in single precision, rounded
/// outward, so that a node of the tree is four cache lines.
#[derive(Debug, Default)]
pub struct Boxes(Option<RTree<f32>>);

impl Boxes {
    /// Builds the index. The rectangles are numbered from 0.
    #[must_use]
    pub fn new(boxes: &[Bounds]) -> Self {
        if boxes.is_empty() {
            return Self(None);
        }
        let mut builder = RTreeBuilder::<f32>::new(boxes.len() as u32);
        for bounds in boxes {
            let [west, south, east, north] = outward(*bounds);
            builder.add(west, south, east, north);
        }
        Self(Some(builder.finish::<HilbertSort>()))
    }

    /// Calls `found` with the number of every rectangle that shares a point with `bounds`, and possibly
    /// with some that are a rounding error away. Ends early once `found` returns false.
    pub fn visit(&self, bounds: Bounds, mut found: impl FnMut(u32) -> bool) {
        let Some(tree) = &self.0 else { return };
        let root = tree.boxes().len().saturating_sub(4);
        let top = tree.level_bounds().len().saturating_sub(1);
        descend(tree, root, top, outward(bounds), &mut found);
    }
}

/// Visits the rectangles from `node` on that have the same parent. Returns false if `found` did. The
/// recursion is as deep as the tree, which is less than eight levels.
fn descend(
    tree: &RTree<f32>,
    node: usize,
    level: usize,
    bounds: [f32; 4],
    found: &mut impl FnMut(u32) -> bool,
) -> bool {
    let [west, south, east, north] = bounds;
    let end = (node + usize::from(tree.node_size()) * 4).min(tree.level_bounds()[level]);
    let children = tree.boxes()[node..end].chunks_exact(4);
    for (at, child) in (node / 4..).zip(children) {
        let is_apart = east < child[0] || north < child[1] || west > child[2] || south > child[3];
        if is_apart {
            continue;
        }
        let index = tree.indices().get(at);
        let goes_on = match level {
            0 => found(index as u32),
            _ => descend(tree, index, level - 1, bounds, found),
        };
        if !goes_on {
            return false;
        }
    }
    true
}

/// Returns a rectangle in single precision that contains `bounds`.
fn outward([west, south, east, north]: Bounds) -> [f32; 4] {
    let down = |value: f64| {
        let rounded = value as f32;
        if f64::from(rounded) > value { rounded.next_down() } else { rounded }
    };
    let up = |value: f64| -down(-value);
    [down(west), down(south), up(east), up(north)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_bounds() -> impl Strategy<Value = Bounds> {
        let side = prop_oneof![0.0..0.001_f64, 0.0..90.0_f64, Just(0.0)];
        (-180.0..=180.0_f64, -90.0..=90.0_f64, side.clone(), side)
            .prop_map(|(west, south, width, height)| [west, south, west + width, south + height])
    }

    fn share_a_point(a: Bounds, b: Bounds) -> bool {
        a[0] <= b[2] && b[0] <= a[2] && a[1] <= b[3] && b[1] <= a[3]
    }

    proptest! {
        #[test]
        fn every_rectangle_that_shares_a_point_is_found_once(
            boxes in proptest::collection::vec(any_bounds(), 0..400),
            query in any_bounds(),
        ) {
            let mut found = Vec::new();
            Boxes::new(&boxes).visit(query, |at| {
                found.push(at as usize);
                true
            });
            found.sort_unstable();
            for (at, bounds) in boxes.iter().enumerate() {
                let hits = found.iter().filter(|&&hit| hit == at).count();
                prop_assert!(hits <= 1);
                prop_assert!(hits == 1 || !share_a_point(*bounds, query), "{bounds:?}");
            }
            let near = |at: &&usize| {
                let [west, south, east, north] = boxes[**at];
                !share_a_point([west - 1e-4, south - 1e-4, east + 1e-4, north + 1e-4], query)
            };
            prop_assert_eq!(found.iter().find(near), None);
        }
    }

    #[test]
    fn a_visit_ends_early() {
        let boxes: Vec<Bounds> = (0..500).map(|_| [0.0, 0.0, 1.0, 1.0]).collect();
        let mut visited = 0;
        Boxes::new(&boxes).visit([0.5; 4], |_| {
            visited += 1;
            visited < 7
        });
        assert_eq!(visited, 7);
    }
}
