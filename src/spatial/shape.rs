//! Shapes of fences: containment and distance.

use robust::{Coord, orient2d};

use super::boxes::{Bounds, Boxes};
use crate::geo::{EARTH_RADIUS_M, Point, ROUNDING_M};

/// Longest piece of an edge, in degrees, along which the distance from a point has one minimum.
const PIECE_DEGREES: f64 = 1.0;

/// Steps of the search for the nearest point of a piece. Each reduces its length by a factor of 0.618:
/// from 111 km to less than a millimeter.
const STEPS: u32 = 40;

/// The ratio of the golden-section search (Kiefer 1953).
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Meters per degree of a great circle.
const METERS_PER_DEGREE: f64 = EARTH_RADIUS_M * core::f64::consts::PI / 180.0;

/// Number of vertices from which the edges of a polygon are indexed. Below, examining all of them is
/// faster.
const INDEXED: usize = 48;

/// A vertex: longitude and latitude.
pub type Vertex = [f64; 2];

/// The shape of a fence. Borders belong to it.
#[derive(Debug, PartialEq)]
pub enum Shape {
    /// All points within a great-circle distance in meters of the center.
    Circle(Point, f64),
    /// The union of polygons.
    Area(Vec<Polygon>),
}

/// A polygon with holes: the points that a ray leaves through an odd number of edges, and the edges
/// themselves, which are straight in longitude and latitude (RFC 7946, section 3.1.1).
#[derive(Debug)]
pub struct Polygon {
    /// The closed rings, one after the other.
    vertices: Box<[Vertex]>,
    /// The end of each ring.
    ends: Box<[u32]>,
    /// The edges by their first vertex; empty if there are few.
    index: Boxes,
}

/// The index follows from the vertices.
impl PartialEq for Polygon {
    fn eq(&self, other: &Self) -> bool {
        self.vertices == other.vertices && self.ends == other.ends
    }
}

impl Polygon {
    /// The polygon with these rings, each of which ends where it begins.
    #[must_use]
    pub fn new(rings: &[Vec<Vertex>]) -> Self {
        let vertices: Box<[Vertex]> = rings.iter().flatten().copied().collect();
        let mut end = 0;
        let ends = rings.iter().map(|ring| {
            end += ring.len() as u32;
            end
        });
        let ends = ends.collect();
        let mut polygon = Self { vertices, ends, index: Boxes::default() };
        if polygon.vertices.len() >= INDEXED {
            let bounds = |at: u32| {
                // Between two rings there is no edge. The vertex keeps the numbers in step.
                let [from, to] = polygon.edge(at).unwrap_or([polygon.vertices[at as usize]; 2]);
                let [west, south] = [from[0].min(to[0]), from[1].min(to[1])];
                [west, south, from[0].max(to[0]), from[1].max(to[1])]
            };
            let bounds: Vec<Bounds> = (0..polygon.vertices.len() as u32).map(bounds).collect();
            polygon.index = Boxes::new(&bounds);
        }
        polygon
    }

    /// Returns the vertices of all rings.
    #[must_use]
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// Returns the ends of the rings in [`Polygon::vertices`].
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Returns the edge that begins at a vertex, unless a ring ends there.
    fn edge(&self, at: u32) -> Option<[Vertex; 2]> {
        let to = self.vertices.get(at as usize + 1)?;
        let is_end = self.ends.binary_search(&(at + 1)).is_ok();
        (!is_end).then(|| [self.vertices[at as usize], *to])
    }

    /// Calls `found` with every edge that shares a point with `bounds`, and possibly with others, until
    /// it returns false.
    fn visit(&self, bounds: Bounds, mut found: impl FnMut([Vertex; 2]) -> bool) {
        if self.vertices.len() >= INDEXED {
            return self.index.visit(bounds, |at| self.edge(at).is_none_or(&mut found));
        }
        let mut rest = &*self.vertices;
        let mut begin = 0;
        for &end in &self.ends {
            let (ring, others) = rest.split_at((end - begin) as usize);
            (rest, begin) = (others, end);
            if ring.array_windows().any(|&edge| !found(edge)) {
                return;
            }
        }
    }

    /// Returns whether the polygon contains a point by its coordinates alone. Exact: the predicate
    /// evaluates the sign of the orientation without rounding (Shewchuk 1997).
    fn contains(&self, [x, y]: Vertex) -> bool {
        let (mut is_odd, mut is_on_edge) = (false, false);
        let coord = |[x, y]: Vertex| Coord { x, y };
        self.visit([x, y, f64::MAX, y], |[from, to]| {
            let (low, high) = if from[1] <= to[1] { (from, to) } else { (to, from) };
            if y < low[1] || y > high[1] {
                return true;
            }
            let turn = orient2d(coord(low), coord(high), coord([x, y]));
            if turn == 0.0 {
                is_on_edge = low[0].min(high[0]) <= x && x <= low[0].max(high[0]);
                return !is_on_edge;
            }
            // The upper end of an edge belongs to the next one, which a ray must not count twice.
            if y < high[1] && turn > 0.0 {
                is_odd = !is_odd;
            }
            true
        });
        is_odd || is_on_edge
    }

    fn bounds(&self) -> Bounds {
        let empty = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
        self.vertices.iter().fold(empty, |[west, south, east, north], &[x, y]| {
            [west.min(x), south.min(y), east.max(x), north.max(y)]
        })
    }
}

impl Shape {
    /// Returns whether the shape contains `point`.
    #[must_use]
    pub fn contains(&self, point: Point) -> bool {
        match self {
            Self::Circle(center, radius_m) => center.distance_m(point) <= radius_m + ROUNDING_M,
            Self::Area(polygons) => contains(polygons, point),
        }
    }

    /// Returns whether `point`, which is outside, is more than `meters` away.
    #[must_use]
    pub fn is_beyond(&self, point: Point, meters: f64) -> bool {
        match self {
            Self::Circle(center, radius_m) => {
                center.distance_m(point) > radius_m + meters + ROUNDING_M
            }
            Self::Area(polygons) => {
                let mut is_beyond = true;
                for bounds in circle_bounds(point, meters) {
                    for polygon in polygons {
                        polygon.visit(bounds, |edge| {
                            is_beyond = !is_within(edge, point, meters);
                            is_beyond
                        });
                        if !is_beyond {
                            return false;
                        }
                    }
                }
                true
            }
        }
    }

    /// Returns the number of vertices.
    #[must_use]
    pub fn vertices(&self) -> usize {
        match self {
            Self::Circle(..) => 1,
            Self::Area(polygons) => polygons.iter().map(|polygon| polygon.vertices.len()).sum(),
        }
    }

    /// Returns rectangles that together contain the shape.
    #[must_use]
    pub fn bounds(&self) -> Vec<Bounds> {
        match self {
            Self::Circle(center, radius_m) => circle_bounds(*center, *radius_m),
            Self::Area(polygons) => {
                polygons.iter().flat_map(|polygon| around_the_seams(polygon.bounds())).collect()
            }
        }
    }
}

fn contains(polygons: &[Polygon], point: Point) -> bool {
    // All longitudes are the same point at a pole, and an area that reaches the pole has a vertex there.
    if point.lat.abs() >= 90.0 {
        let mut vertices = polygons.iter().flat_map(Polygon::vertices);
        return vertices.any(|vertex| vertex[1].total_cmp(&point.lat).is_eq());
    }
    let contains = |lng: f64| polygons.iter().any(|polygon| polygon.contains([lng, point.lat]));
    // 180° W and 180° E are the same meridian.
    contains(point.lng) || (point.lng.abs() >= 180.0 && contains(-point.lng))
}

/// Returns whether some point of an edge is at most `meters` away from `point`.
fn is_within([from, to]: [Vertex; 2], point: Point, meters: f64) -> bool {
    let [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    let pieces = (dx.abs().max(dy.abs()) / PIECE_DEGREES).ceil().max(1.0) as u32;
    let at = |share: f64| Point { lng: from[0] + share * dx, lat: from[1] + share * dy };
    let distance = |share: f64| point.distance_m(at(share));
    (0..pieces).any(|piece| {
        let (mut low, mut high) =
            (f64::from(piece) / f64::from(pieces), f64::from(piece + 1) / f64::from(pieces));
        let ends = distance(low).min(distance(high));
        if ends <= meters {
            return true;
        }
        let length = (high - low) * dx.hypot(dy) * METERS_PER_DEGREE;
        if ends - length > meters {
            return false; // too far, wherever along the piece
        }
        for _ in 0..STEPS {
            let (left, right) = (high - (high - low) * GOLDEN, low + (high - low) * GOLDEN);
            let (at_left, at_right) = (distance(left), distance(right));
            if at_left.min(at_right) <= meters {
                return true;
            }
            if at_left < at_right { high = right } else { low = left }
        }
        false
    })
}

/// Returns rectangles that contain a circle. They are slightly too large.
fn circle_bounds(center: Point, radius_m: f64) -> Vec<Bounds> {
    const SLACK: f64 = 1e-9;
    let reach = radius_m / METERS_PER_DEGREE + SLACK;
    let (south, north) = (center.lat - reach, center.lat + reach);
    if south <= -90.0 || north >= 90.0 {
        return vec![[-180.0, south.max(-90.0), 180.0, north.min(90.0)]];
    }
    // The meridians that touch the circle.
    let ratio = reach.to_radians().sin() / center.lat.to_radians().cos();
    let turn = ratio.min(1.0).asin().to_degrees() + SLACK;
    around_the_seams([center.lng - turn, south, center.lng + turn, north])
}

/// Splits a rectangle at the antimeridian, and repeats one that touches the antimeridian or a pole on
/// the other side, where the same points have other coordinates.
fn around_the_seams([west, south, east, north]: Bounds) -> Vec<Bounds> {
    if south <= -90.0 || north >= 90.0 {
        return vec![[-180.0, south, 180.0, north]];
    }
    let mut bounds = vec![[west.max(-180.0), south, east.min(180.0), north]];
    if west <= -180.0 {
        bounds.push([west.min(-180.0) + 360.0, south, 180.0, north]);
    }
    if east >= 180.0 {
        bounds.push([-180.0, south, east - 360.0, north]);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(points: &[(f64, f64)]) -> Vec<Vertex> {
        points.iter().chain(&points[..1]).map(|&(x, y)| [x, y]).collect()
    }

    fn area(polygons: Vec<Polygon>) -> Shape {
        Shape::Area(polygons)
    }

    fn rectangle(west: f64, south: f64, east: f64, north: f64) -> Polygon {
        Polygon::new(&[ring(&[(west, south), (east, south), (east, north), (west, north)])])
    }

    fn at(lng: f64, lat: f64) -> Point {
        Point { lat, lng }
    }

    #[test]
    fn borders_and_rims_are_inside_and_holes_are_not() {
        let hole = ring(&[(4.0, 4.0), (6.0, 4.0), (6.0, 6.0), (4.0, 6.0)]);
        let outer = ring(&[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]);
        let shape = area(vec![Polygon::new(&[outer, hole])]);
        for inside in [(1.0, 1.0), (0.0, 0.0), (10.0, 5.0), (5.0, 10.0), (4.0, 5.0), (6.0, 6.0)] {
            assert!(shape.contains(at(inside.0, inside.1)), "{inside:?}");
        }
        for outside in [(5.0, 5.0), (10.000_000_001, 5.0), (-1e-12, 5.0), (5.0, -1e-300)] {
            assert!(!shape.contains(at(outside.0, outside.1)), "{outside:?}");
        }
        let radius = at(0.0, 0.0).distance_m(at(0.0, 1.0));
        assert!(Shape::Circle(at(0.0, 0.0), radius).contains(at(0.0, 1.0)));
        assert!(!Shape::Circle(at(0.0, 0.0), radius - 1e-6).contains(at(0.0, 1.0)));
        // On both sides of the antimeridian, whose longitudes differ in the last digit of the distance.
        let radius = at(180.0, 51.3).distance_m(at(179.0, 51.3));
        for (center, rim) in [(180.0, -179.0), (-180.0, 179.0), (-180.0, -179.0), (180.0, 179.0)] {
            let circle = Shape::Circle(at(center, 51.3), radius);
            assert!(circle.contains(at(rim, 51.3)), "{center} {rim}");
            assert!(!circle.is_beyond(at(rim, 51.3), 0.0), "{center} {rim}");
        }
    }

    #[test]
    fn an_area_cut_at_the_antimeridian_is_one() {
        let fiji = area(vec![
            rectangle(179.0, -18.0, 180.0, -16.0),
            rectangle(-180.0, -18.0, -179.0, -16.0),
        ]);
        for lng in [179.5, 180.0, -180.0, -179.5] {
            assert!(fiji.contains(at(lng, -17.0)), "{lng}");
        }
        assert!(!fiji.contains(at(0.0, -17.0)) && !fiji.contains(at(178.9, -17.0)));
        let west = area(vec![rectangle(-180.0, -18.0, -179.0, -16.0)]);
        assert!(west.contains(at(180.0, -17.0)), "the same meridian");
    }

    #[test]
    fn a_pole_is_one_point() {
        let cap = area(vec![rectangle(-180.0, 80.0, 180.0, 90.0)]);
        let wedge = area(vec![rectangle(0.0, 80.0, 10.0, 90.0)]);
        for lng in [-180.0, 0.0, 5.0, 77.0, 180.0] {
            assert!(cap.contains(at(lng, 90.0)) && wedge.contains(at(lng, 90.0)), "{lng}");
            assert!(!cap.contains(at(lng, -90.0)));
        }
        assert!(!wedge.contains(at(77.0, 89.9)));
        let polar = Shape::Circle(at(0.0, 89.0), 200_000.0);
        assert!(polar.contains(at(180.0, 89.5)) && polar.contains(at(90.0, 90.0)));
    }

    /// Distances to a parallel, which is no great circle, and across the antimeridian.
    #[test]
    fn distances_are_measured_to_the_nearest_point_of_an_edge() {
        let strip = area(vec![rectangle(0.0, 0.0, 40.0, 60.0)]);
        let north = at(20.0, 60.0).distance_m(at(20.0, 60.1));
        assert!(strip.is_beyond(at(20.0, 60.1), north - 0.01));
        assert!(!strip.is_beyond(at(20.0, 60.1), north + 0.01));
        let edge = area(vec![rectangle(179.0, 0.0, 180.0, 1.0)]);
        let gap = at(180.0, 0.5).distance_m(at(-179.9, 0.5));
        assert!(edge.is_beyond(at(-179.9, 0.5), gap - 1.0));
        assert!(!edge.is_beyond(at(-179.9, 0.5), gap + 0.01));
        let circle = Shape::Circle(at(0.0, 0.0), 1000.0);
        let away = at(0.0, 0.0).distance_m(at(0.02, 0.0));
        assert!(circle.is_beyond(at(0.02, 0.0), away - 1000.0 - 0.01));
        assert!(!circle.is_beyond(at(0.02, 0.0), away - 1000.0 + 0.01));
    }

    /// A star has as many edges as one likes, and reaching around it costs no more than the index.
    #[test]
    fn an_indexed_polygon_is_the_same_as_a_linear_one() {
        let corner = |n: u32, of: u32| {
            let turn = f64::from(n) / f64::from(of) * core::f64::consts::TAU;
            let reach = if n.is_multiple_of(2) { 10.0 } else { 4.0 };
            (reach * turn.cos(), reach * turn.sin())
        };
        let star = |of: u32| (0..of).map(|n| corner(n, of)).collect::<Vec<_>>();
        let hole = ring(&[(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]);
        let few = Polygon::new(&[ring(&star(10)), hole.clone()]);
        // The same star with 50 vertices on each edge.
        let fine = star(10)
            .iter()
            .zip(star(10).iter().cycle().skip(1))
            .flat_map(|(a, b)| {
                (0..50)
                    .map(|step| {
                        let share = f64::from(step) / 50.0;
                        (a.0 + (b.0 - a.0) * share, a.1 + (b.1 - a.1) * share)
                    })
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>();
        let many = Polygon::new(&[ring(&fine), hole]);
        let (few, many) = (area(vec![few]), area(vec![many]));
        assert!(many.vertices() > INDEXED && few.vertices() < INDEXED);
        for x in -44..=44 {
            for y in -44..=44 {
                let point = at(f64::from(x) / 4.0 + 0.01, f64::from(y) / 4.0 + 0.02);
                assert_eq!(few.contains(point), many.contains(point), "{point:?}");
                if !few.contains(point) {
                    for meters in [10_000.0, 100_000.0] {
                        let expected = few.is_beyond(point, meters);
                        assert_eq!(many.is_beyond(point, meters), expected, "{point:?} {meters}");
                    }
                }
            }
        }
    }

    fn any_shape() -> impl Strategy<Value = Shape> {
        let longitude = prop_oneof![-180.0..=180.0_f64, 179.0..=180.0_f64, -180.0..=-179.0_f64];
        let latitude = prop_oneof![-90.0..=90.0_f64, 89.0..=90.0_f64, Just(-90.0)];
        let place = (longitude, latitude);
        let circle = (place.clone(), 0.0..3e6_f64)
            .prop_map(|((lng, lat), radius)| Shape::Circle(at(lng, lat), radius));
        let box_ = (place.clone(), place).prop_map(|(a, b)| {
            area(vec![rectangle(a.0.min(b.0), a.1.min(b.1), a.0.max(b.0), a.1.max(b.1))])
        });
        prop_oneof![circle, box_]
    }

    proptest! {
        #[test]
        fn bounds_contain_the_shape(
            shape in any_shape(),
            lng in prop_oneof![-180.0..=180.0_f64, Just(180.0), Just(-180.0)],
            lat in prop_oneof![-90.0..=90.0_f64, Just(90.0), Just(-90.0)],
        ) {
            let within = |[west, south, east, north]: Bounds| {
                west <= lng && lng <= east && south <= lat && lat <= north
            };
            if shape.contains(at(lng, lat)) {
                prop_assert!(shape.bounds().into_iter().any(within), "{:?}", shape.bounds());
            }
        }

        /// The nearest of many points along the edges is an upper bound, and close.
        #[test]
        fn distance_agrees_with_many_samples(
            shape in any_shape(), lng in -180.0..=180.0_f64, lat in -89.0..=89.0_f64,
        ) {
            let (Shape::Area(area), point) = (&shape, at(lng, lat)) else { return Ok(()) };
            if shape.contains(point) {
                return Ok(());
            }
            let edges = area.iter().flat_map(|polygon| polygon.vertices().windows(2));
            let sampled = edges.flat_map(|edge| (0..=2000).map(move |step| {
                let share = f64::from(step) / 2000.0;
                let along = |axis: usize| edge[0][axis] + share * (edge[1][axis] - edge[0][axis]);
                point.distance_m(at(along(0), along(1)))
            }));
            let sampled = sampled.fold(f64::INFINITY, f64::min);
            prop_assert!(!shape.is_beyond(point, sampled + 0.001));
            prop_assert!(shape.is_beyond(point, sampled * 0.999 - 12_000.0));
        }
    }
}
