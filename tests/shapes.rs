//! Random points and shapes against an oracle that shares no code with the node.
//!
//! Vertices are multiples of 2⁻²⁰ degrees, which are exact as binary fractions and as decimals, so that
//! the oracle decides with integers. Circles are compared by the chord through the sphere, and points
//! within a millimeter of the rim, where rounding decides, are left out. `SHAPE_PAIRS` sets the number of
//! pairs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

use std::fmt::Write as _;
use std::thread;

use proxy_herd::fences::{FenceSet, file};
use proxy_herd::geo::{EARTH_RADIUS_M, Point};
use proxy_herd::rng::Rng;
use proxy_herd::spatial::shape::Shape;

/// Units per degree.
const UNIT: i64 = 1 << 20;

/// A millimeter, relative to the radius of the earth.
const TOLERANCE: f64 = 0.001 / EARTH_RADIUS_M;

/// The angle from which on that of a chord is not exact.
const ALMOST_OPPOSITE: f64 = 3.1;

/// Pairs of a run in the test suite.
const SHORT_RUN: u64 = 200_000;

/// Fences and points that are compared with each other.
const BATCH: usize = 200;

/// Longitude and latitude in units.
type Spot = (i64, i64);

enum Figure {
    /// Polygons, each a list of rings that are not closed.
    Area(Vec<Vec<Vec<Spot>>>),
    Circle(Spot, f64),
}

fn degrees(units: i64) -> f64 {
    units as f64 / UNIT as f64
}

/// Returns whether a figure contains a point; `None` if that is a matter of rounding.
fn expected(figure: &Figure, spot: Spot) -> Option<bool> {
    let (half, quarter) = (180 * UNIT, 90 * UNIT);
    match figure {
        Figure::Area(polygons) if spot.1.abs() == quarter => {
            // A pole has every longitude.
            Some(polygons.iter().flatten().flatten().any(|vertex| vertex.1 == spot.1))
        }
        Figure::Area(polygons) => {
            let images = if spot.0.abs() == half { vec![half, -half] } else { vec![spot.0] };
            let is_in = |lng: i64| polygons.iter().any(|rings| is_in_polygon(rings, (lng, spot.1)));
            Some(images.into_iter().any(is_in))
        }
        Figure::Circle(center, radius_m) => {
            let [a, b] = [vector(*center), vector(spot)];
            let chord = (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt();
            let angle = 2.0 * (chord / 2.0).min(1.0).asin();
            let reach = radius_m / EARTH_RADIUS_M;
            let is_certain = (angle - reach).abs() > TOLERANCE && angle < ALMOST_OPPOSITE;
            is_certain.then_some(angle < reach)
        }
    }
}

/// Returns whether a point is inside an odd number of rings, or on an edge.
fn is_in_polygon(rings: &[Vec<Spot>], (x, y): Spot) -> bool {
    let mut is_inside = false;
    for ring in rings {
        for (at, &(x1, y1)) in ring.iter().enumerate() {
            let (x2, y2) = ring[(at + 1) % ring.len()];
            let cross =
                i128::from(x2 - x1) * i128::from(y - y1) - i128::from(y2 - y1) * i128::from(x - x1);
            let is_between = |a: i64, b: i64, c: i64| a.min(b) <= c && c <= a.max(b);
            if cross == 0 && is_between(x1, x2, x) && is_between(y1, y2, y) {
                return true;
            }
            // A ray to the east.
            let is_left_of_upward = y1 <= y && y < y2 && cross > 0;
            let is_left_of_downward = y2 <= y && y < y1 && cross < 0;
            is_inside ^= is_left_of_upward || is_left_of_downward;
        }
    }
    is_inside
}

fn vector((lng, lat): Spot) -> [f64; 3] {
    let ((sin, cos), (east, ahead)) =
        (degrees(lat).to_radians().sin_cos(), degrees(lng).to_radians().sin_cos());
    [cos * ahead, cos * east, sin]
}

/// Returns a random spot, often at a pole, on the antimeridian or the equator, or near `around`.
fn any_spot(rng: &mut Rng, around: &[Spot]) -> Spot {
    let (half, quarter) = (180 * UNIT, 90 * UNIT);
    let mut within = |most: i64| rng.below(2 * most as u64 + 1) as i64 - most;
    let (lng, lat) = (within(half), within(quarter));
    match rng.below(12) {
        0 => (rng.pick(&[half, -half]), lat),
        1 => (lng, rng.pick(&[quarter, -quarter])),
        2 => (rng.pick(&[half - UNIT / 9, UNIT / 9 - half]), lat),
        3 => (lng, rng.pick(&[0, quarter - UNIT / 7])),
        4..=9 if !around.is_empty() => {
            let (x, y) = rng.pick(around);
            let reach = rng.pick(&[0, 1, 1000, UNIT, 8 * UNIT]);
            let mut near = |center: i64, most: i64| {
                let off = rng.below(2 * reach as u64 + 1) as i64 - reach;
                (center + off).clamp(-most, most)
            };
            (near(x, half), near(y, quarter))
        }
        _ => (lng, lat),
    }
}

/// Returns the corners of a rectangle, of a star, or any corners.
fn any_ring(rng: &mut Rng) -> Vec<Spot> {
    let center = any_spot(rng, &[]);
    match rng.below(4) {
        0 => {
            let other = any_spot(rng, &[center]);
            vec![center, (other.0, center.1), other, (center.0, other.1)]
        }
        1 => (0..rng.range(3, 9)).map(|_| any_spot(rng, &[center])).collect(),
        _ => {
            let (corners, size) = (rng.range(3, 120), rng.pick(&[0.01, 1.0, 20.0]));
            let corner = |at: u64| {
                let turn = at as f64 / corners as f64 * core::f64::consts::TAU;
                let reach = size * UNIT as f64 * (0.3 + rng.below(1000) as f64 / 1000.0);
                let place = |center: i64, share: f64, most: i64| {
                    (center + (reach * share) as i64).clamp(-most * UNIT, most * UNIT)
                };
                (place(center.0, turn.cos(), 180), place(center.1, turn.sin(), 90))
            };
            (0..corners).map(corner).collect()
        }
    }
}

fn any_figure(rng: &mut Rng) -> Figure {
    if rng.percent(30) {
        let radius =
            rng.pick(&[1.0, 500.0, 20_000.0, 2e6, 1.2e7]) * (1.0 + rng.below(100) as f64 / 50.0);
        return Figure::Circle(any_spot(rng, &[]), radius);
    }
    let polygons = (0..rng.pick(&[1, 1, 1, 3])).map(|_| {
        let holes = rng.pick(&[0, 0, 1, 2]);
        (0..=holes).map(|_| any_ring(rng)).collect()
    });
    Figure::Area(polygons.collect())
}

/// Returns the feature of a figure.
fn feature(figure: &Figure, name: usize) -> String {
    let show = |(lng, lat): &Spot| format!("[{},{}]", degrees(*lng), degrees(*lat));
    match figure {
        Figure::Circle(center, radius) => format!(
            r#"{{"type":"Feature","properties":{{"name":"{name}","radius":{radius}}},
            "geometry":{{"type":"Point","coordinates":{}}}}}"#,
            show(center)
        ),
        Figure::Area(polygons) => {
            let ring = |ring: &Vec<Spot>| {
                let spots: Vec<String> = ring.iter().chain(&ring[..1]).map(show).collect();
                format!("[{}]", spots.join(","))
            };
            let polygon = |rings: &Vec<Vec<Spot>>| {
                format!("[{}]", rings.iter().map(ring).collect::<Vec<_>>().join(","))
            };
            let polygons: Vec<String> = polygons.iter().map(polygon).collect();
            format!(
                r#"{{"type":"Feature","properties":{{"name":"{name}"}},
                "geometry":{{"type":"MultiPolygon","coordinates":[{}]}}}}"#,
                polygons.join(",")
            )
        }
    }
}

/// Points worth trying: vertices and middles of edges, which belong to the shape.
fn landmarks(figure: &Figure) -> Vec<Spot> {
    match figure {
        Figure::Circle(center, _) => vec![*center],
        Figure::Area(polygons) => {
            let rings = polygons.iter().flatten();
            rings
                .flat_map(|ring| {
                    let next = ring.iter().cycle().skip(1);
                    ring.iter()
                        .zip(next)
                        .flat_map(|(a, b)| [*a, (i64::midpoint(a.0, b.0), i64::midpoint(a.1, b.1))])
                })
                .collect()
        }
    }
}

/// Compares a batch of fences with a batch of points. Returns the number of pairs, and of those inside.
fn compare(seed: u64) -> (u64, u64) {
    let rng = &mut Rng::new(seed);
    let figures: Vec<Figure> = (0..BATCH).map(|_| any_figure(rng)).collect();
    let mut text = r#"{"type":"FeatureCollection","features":["#.to_owned();
    for (at, figure) in figures.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{}", feature(figure, at));
    }
    let set = file::parse((text + "]}").as_bytes(), &FenceSet::default()).unwrap();
    let around: Vec<Spot> = figures.iter().flat_map(landmarks).collect();
    let (mut pairs, mut hits, mut found) = (0, 0, Vec::new());
    for _ in 0..BATCH {
        let spot = any_spot(rng, &around);
        let point = Point { lng: degrees(spot.0), lat: degrees(spot.1) };
        set.containing(point, &mut found);
        for (at, figure) in (0..).zip(&figures) {
            let Some(expected) = expected(figure, spot) else { continue };
            let inside = found.binary_search(&at).is_ok();
            assert_eq!(
                inside,
                expected,
                "seed {seed}: {point:?} in {}",
                feature(figure, at as usize)
            );
            pairs += 1;
            hits += u64::from(inside);
        }
        check_distance(&set, &figures, spot, rng);
    }
    (pairs, hits)
}

/// Compares the distance of a point from the edges of one polygon with that of many points on them. The
/// sampled distance is an upper bound, and exact up to the half of a step.
fn check_distance(set: &FenceSet, figures: &[Figure], spot: Spot, rng: &mut Rng) {
    const STEPS: u32 = 500;
    let at = rng.index(figures.len());
    let (Figure::Area(polygons), shape) = (&figures[at], &set.fences()[at].shape) else { return };
    if expected(&figures[at], spot) != Some(false) {
        return;
    }
    let from = vector(spot);
    let (mut least, mut longest) = (f64::INFINITY, 0.0_f64);
    for ring in polygons.iter().flatten() {
        for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
            let [dx, dy] = [degrees(b.0 - a.0), degrees(b.1 - a.1)];
            longest = longest.max(dx.hypot(dy).to_radians() / f64::from(STEPS));
            for step in 0..=STEPS {
                let share = f64::from(step) / f64::from(STEPS);
                let (lng, lat) = (degrees(a.0) + share * dx, degrees(a.1) + share * dy);
                let ((sin, cos), (east, ahead)) =
                    (lat.to_radians().sin_cos(), lng.to_radians().sin_cos());
                let to = [cos * ahead, cos * east, sin];
                let chord = (0..3).map(|axis| (from[axis] - to[axis]).powi(2)).sum::<f64>().sqrt();
                least = least.min(2.0 * (chord / 2.0).min(1.0).asin());
            }
        }
    }
    if least > ALMOST_OPPOSITE {
        return;
    }
    let point = Point { lng: degrees(spot.0), lat: degrees(spot.1) };
    let meters = |angle: f64| angle * EARTH_RADIUS_M;
    let at_most = meters(least) + 0.01;
    assert!(!shape.is_beyond(point, at_most), "{point:?} is within {at_most} m of fence {at}");
    let at_least = meters(least - longest) - 0.01;
    assert!(
        at_least <= 0.0 || shape.is_beyond(point, at_least),
        "{point:?} is more than {at_least} m away from fence {at}"
    );
    assert!(matches!(shape, Shape::Area(_)));
}

#[test]
fn random_points_and_shapes_agree_with_the_oracle() {
    let wanted = std::env::var("SHAPE_PAIRS").map_or(SHORT_RUN, |text| text.parse().unwrap());
    let batches = wanted.div_ceil((BATCH * BATCH) as u64 * 95 / 100);
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let counts: Vec<(u64, u64)> = thread::scope(|scope| {
        let run = |first: u64| {
            move || {
                (first..batches)
                    .step_by(threads as usize)
                    .map(compare)
                    .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
            }
        };
        let runs: Vec<_> = (0..threads).map(|first| scope.spawn(run(first))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let (pairs, hits) = counts.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    println!("{pairs} pairs agree, {hits} of them inside");
    assert!(pairs >= wanted && hits > pairs / 50, "{pairs} pairs, {hits} inside");
}
