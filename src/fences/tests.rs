mod ends;

use core::time::Duration;

use proptest::prelude::*;

use super::machine::Records;
use super::*;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::protocol::time::{Nanos, SECOND};
use crate::time::{Instant, Now, Wall};

/// The start of the node, in seconds.
const START: i64 = 1_000;

/// A depot of about 22 km around 34.1° N, 118.1° W, with what the name says.
const FENCES: &str = r#"{"type": "FeatureCollection", "features": [
  {"type": "Feature", "properties": {"name": "plain"}, "geometry": {"type": "Polygon",
    "coordinates": [[[-118.2, 34.0], [-118.0, 34.0], [-118.0, 34.2], [-118.2, 34.2], [-118.2, 34.0]]]}},
  {"type": "Feature", "properties": {"name": "steady", "hysteresis": 2000}, "geometry": {"type": "Polygon",
    "coordinates": [[[-118.2, 34.0], [-118.0, 34.0], [-118.0, 34.2], [-118.2, 34.2], [-118.2, 34.0]]]}},
  {"type": "Feature", "properties": {"name": "slow", "dwell": 60}, "geometry": {"type": "Polygon",
    "coordinates": [[[-118.2, 34.0], [-118.0, 34.0], [-118.0, 34.2], [-118.2, 34.2], [-118.2, 34.0]]]}},
  {"type": "Feature", "properties": {"name": "both", "hysteresis": 2000, "dwell": 60}, "geometry":
    {"type": "Polygon", "coordinates":
      [[[-118.2, 34.0], [-118.0, 34.0], [-118.0, 34.2], [-118.2, 34.2], [-118.2, 34.0]]]}}
]}"#;

/// Latitudes on the meridian of the depot: in it, two kilometers outside and less, and far away.
const IN: f64 = 34.1;
const BAND: f64 = 34.21;
const OUT: f64 = 35.0;

fn set(json: &str, previous: &FenceSet) -> std::sync::Arc<FenceSet> {
    std::sync::Arc::new(file::parse(json.as_bytes(), previous).unwrap())
}

fn at(seconds: i64) -> Now {
    let uptime = Duration::from_secs((seconds - START).unsigned_abs());
    Now { instant: Instant::at(uptime), wall: Wall(Nanos::from(seconds) * SECOND) }
}

/// The slots of a directory.
#[derive(Default)]
struct Lines(Vec<Option<Vec<u8>>>);

impl Records for Lines {
    fn line(&self, slot: Slot) -> Option<&[u8]> {
        self.0.get(slot.index())?.as_deref()
    }
}

struct Fixture {
    fences: Fences,
    lines: Lines,
    /// The next transition to return.
    next: u64,
}

impl Fixture {
    fn new(json: &str) -> Self {
        let fences = Fences::new(set(json, &FenceSet::default()), at(START).wall);
        Self { fences, lines: Lines(vec![None; 8]), next: 1 }
    }

    fn store(&mut self, slot: u32, line: &[u8], is_local: bool) {
        let record = Record::parse(line).unwrap();
        self.store_at(slot, &record, is_local, Wall(record.received));
    }

    fn store_at(&mut self, slot: u32, record: &Record<'_>, is_local: bool, now: Wall) {
        match self.lines.0[slot as usize].take() {
            None => self.fences.handle_first(Slot(slot), record, is_local),
            Some(old) => self.fences.handle_replaced(Slot(slot), &old, record, now),
        }
        self.lines.0[slot as usize] = Some(record.line.to_vec());
    }

    /// Stores a record, received at this second, and returns the transitions.
    fn update(&mut self, slot: u32, lat: f64, received: i64) -> Vec<String> {
        self.move_to(slot, (-118.1, lat), received)
    }

    fn move_to(&mut self, slot: u32, (lng, lat): (f64, f64), received: i64) -> Vec<String> {
        let line = format!("AT A +0.000000000 c{slot} {lat:+}{lng:+} {received}");
        self.store(slot, line.as_bytes(), true);
        self.transitions()
    }

    fn tick(&mut self, seconds: i64) -> Vec<String> {
        self.fences.handle_timeout(&self.lines, &at(seconds));
        self.transitions()
    }

    fn remove(&mut self, slot: u32, reason: Reason) -> Vec<String> {
        self.remove_at(slot, reason, START)
    }

    fn remove_at(&mut self, slot: u32, reason: Reason, seconds: i64) -> Vec<String> {
        if let Some(line) = self.lines.0[slot as usize].take() {
            self.fences.handle_removed(Slot(slot), &line, reason, at(seconds).wall);
        }
        self.transitions()
    }

    fn install(&mut self, json: &str) {
        self.install_at(json, START);
    }

    fn install_at(&mut self, json: &str, seconds: i64) {
        let set = set(json, self.fences.set());
        self.fences.install(set, self.lines.0.len() as u32, at(seconds).wall);
    }

    fn evaluate(&mut self) -> Vec<String> {
        assert!(self.fences.evaluate(&self.lines, &mut { usize::MAX }));
        self.transitions()
    }

    /// Returns the transitions since the last call: `c0 enters plain`, `c0 leaves plain: moved`.
    fn transitions(&mut self) -> Vec<String> {
        let log = self.fences.transitions();
        let shown = log.since(self.next).map(|transition| {
            let client = String::from_utf8_lossy(Record::parse(transition.line()).unwrap().client)
                .into_owned();
            let name = transition.fence_name();
            match transition.left {
                None => format!("{client} enters {name}"),
                Some(reason) => format!("{client} leaves {name}: {}", reason.as_str()),
            }
        });
        let shown = shown.collect();
        self.next = log.end();
        shown
    }

    /// Returns the slots inside a fence.
    fn inside(&self, name: &str) -> Vec<u32> {
        let fence = self.fences.set().find(name.as_bytes()).unwrap();
        self.fences.inside(fence.id, Slot(0)).map(|slot| slot.0).collect()
    }
}

const NONE: [&str; 0] = [];

/// A feature collection of one fence.
fn one(properties: &str, geometry: &str) -> String {
    format!(
        r#"{{"type":"FeatureCollection","features":[{{"type":"Feature","properties":{properties},
        "geometry":{geometry}}}]}}"#
    )
}

#[test]
fn a_client_enters_and_leaves() {
    let mut f = Fixture::new(FENCES);
    assert_eq!(f.update(0, OUT, 1_000), NONE);
    assert_eq!(f.fences.clients_inside(), 0);
    assert_eq!(f.update(0, IN, 1_001), ["c0 enters plain", "c0 enters steady"]);
    assert_eq!(f.update(0, 34.15, 1_002), NONE);
    assert_eq!((f.inside("plain"), f.fences.clients_inside()), (vec![0], 1));
    assert_eq!(f.update(0, OUT, 1_003), ["c0 leaves plain: moved", "c0 leaves steady: moved"]);
    assert_eq!((f.inside("plain"), f.fences.clients_inside()), (vec![], 0));
    assert_eq!(f.update(1, IN, 1_004), ["c1 enters plain", "c1 enters steady"], "its first record");
    let counters = f.fences.transitions().counters;
    assert_eq!((counters.entered, counters.left), (4, 2));
}

/// A line drawn in the plane from 179.9 to −179.9 crosses the whole map.
#[test]
fn a_move_across_the_antimeridian_is_short() {
    let mut everything = Fixture::new(&one(
        r#"{"name": "fiji"}"#,
        r#"{"type": "MultiPolygon", "coordinates": [
            [[[179,-18],[180,-18],[180,-16],[179,-16],[179,-18]]],
            [[[-180,-18],[-179,-18],[-179,-16],[-180,-16],[-180,-18]]]]}"#,
    ));
    assert_eq!(everything.move_to(0, (179.9, -17.0), 1_000), ["c0 enters fiji"]);
    for (second, lng) in (1_001..).zip([-179.9, 180.0, -180.0, 179.5]) {
        assert_eq!(everything.move_to(0, (lng, -17.0), second), NONE, "{lng}");
    }
    let mut greenwich = Fixture::new(&one(
        r#"{"name": "greenwich"}"#,
        r#"{"type": "Polygon", "coordinates": [[[-10,-20],[10,-20],[10,0],[-10,0],[-10,-20]]]}"#,
    ));
    assert_eq!(greenwich.move_to(0, (179.9, -17.0), 1_000), NONE);
    assert_eq!(greenwich.move_to(0, (-179.9, -17.0), 1_001), NONE);
    let circle = r#"{"type": "Point", "coordinates": [180, 0]}"#;
    let mut seam = Fixture::new(&one(r#"{"name": "seam", "radius": 50000}"#, circle));
    assert_eq!(seam.move_to(0, (179.9, 0.0), 1_000), ["c0 enters seam"]);
    assert_eq!(seam.move_to(0, (-179.9, 0.0), 1_001), NONE);
    assert_eq!(seam.move_to(0, (-179.5, 0.0), 1_002), ["c0 leaves seam: moved"]);
}

#[test]
fn a_radius_is_not_a_rectangle() {
    let circle = r#"{"type": "Point", "coordinates": [0, 60]}"#;
    let mut f = Fixture::new(&one(r#"{"name": "round", "radius": 100000}"#, circle));
    // 0.8 of the radius in each direction, which is 1.13 of it in all.
    let (north, east) = (0.8 * 0.8993, 0.8 * 0.8993 * 2.0);
    assert_eq!(f.move_to(0, (east, 60.0 + north), 1_000), NONE);
    assert_eq!(f.move_to(0, (east, 60.0), 1_001), ["c0 enters round"]);
    assert_eq!(f.move_to(0, (-east, 60.0 - north), 1_002), ["c0 leaves round: moved"]);
    assert_eq!(f.move_to(0, (0.0, 60.0 - north), 1_003), ["c0 enters round"]);
}

#[test]
fn a_restart_causes_no_events() {
    let mut f = Fixture::new(FENCES);
    f.lines.0[0] = Some(format!("AT A +0.000000000 c0 {IN:+}-118.1 990").into_bytes());
    f.lines.0[1] = Some(format!("AT A +0.000000000 c1 {BAND:+}-118.1 990").into_bytes());
    f.fences.begin_evaluation(8);
    assert_eq!(f.evaluate(), NONE);
    for name in ["plain", "steady", "slow", "both"] {
        assert_eq!(f.inside(name), [0], "{name}");
    }
    assert_eq!(f.tick(2_000), NONE);
    assert_eq!(f.update(0, 34.15, 2_001), NONE);
    assert_eq!(f.update(0, OUT, 2_002), ["c0 leaves plain: moved", "c0 leaves steady: moved"]);
    // A node without storage gets its records from others.
    let line = |client, received| format!("AT B +0.000000000 {client} {IN:+}-118.1 {received}");
    f.store(2, line("c2", START - 1).as_bytes(), false);
    assert_eq!((f.transitions(), f.inside("slow")), (vec![], vec![0, 2]));
    f.store(3, line("c3", START).as_bytes(), false);
    assert_eq!(f.transitions(), ["c3 enters plain", "c3 enters steady"]);
    f.store(4, line("c4", START - 1).as_bytes(), true);
    assert_eq!(f.transitions(), ["c4 enters plain", "c4 enters steady"]);
}

#[test]
fn jitter_on_a_border_causes_no_events_with_hysteresis() {
    let mut f = Fixture::new(FENCES);
    assert_eq!(f.update(0, BAND, 1_000), NONE, "it was not inside");
    assert_eq!(f.update(0, IN, 1_001), ["c0 enters plain", "c0 enters steady"]);
    for second in 1_002..1_010 {
        let lat = if second % 2 == 0 { BAND } else { 34.199 };
        let event = if second % 2 == 0 { "c0 leaves plain: moved" } else { "c0 enters plain" };
        assert_eq!(f.update(0, lat, second), [event], "only the fence without hysteresis");
    }
    assert_eq!(f.update(0, OUT, 1_010), ["c0 leaves plain: moved", "c0 leaves steady: moved"]);
    assert_eq!(f.update(0, BAND, 1_011), NONE);
}

#[test]
fn a_change_counts_once_it_has_lasted() {
    let slow = |transitions: Vec<String>| -> Vec<String> {
        transitions.into_iter().filter(|it| it.contains("slow") || it.contains("both")).collect()
    };
    let mut f = Fixture::new(FENCES);
    assert_eq!(slow(f.update(0, IN, 1_000)), NONE);
    assert_eq!((f.inside("slow"), f.fences.clients_inside()), (vec![], 1));
    assert_eq!(slow(f.update(0, IN, 1_059)), NONE);
    assert_eq!(slow(f.update(0, IN, 1_060)), ["c0 enters slow", "c0 enters both"], "a record");
    // In the band, only the fence with hysteresis holds it.
    assert_eq!(slow(f.update(0, BAND, 1_061)), NONE);
    assert_eq!(slow(f.update(0, IN, 1_120)), NONE, "59 s outside");
    assert_eq!(slow(f.update(0, OUT, 1_200)), NONE);
    // Had the node been asked at 1260, it would have said so.
    let both = ["c0 leaves slow: moved", "c0 leaves both: moved"];
    assert_eq!(slow(f.update(0, IN, 1_261)), both);
    assert_eq!(slow(f.update(0, OUT, 1_270)), NONE, "9 s inside");
    assert_eq!(f.tick(5_000), NONE, "nothing is pending");

    assert_eq!(f.fences.poll_timeout(), None);
    assert_eq!(slow(f.update(1, IN, 6_000)), NONE);
    assert_eq!(f.fences.poll_timeout(), Some(Instant::START));
    assert_eq!(slow(f.tick(6_001)), NONE);
    assert_eq!(f.fences.poll_timeout(), Some(at(6_060).instant));
    assert_eq!(slow(f.tick(6_059)), NONE);
    assert_eq!(slow(f.tick(6_060)), ["c1 enters slow", "c1 enters both"], "no further record");
    assert_eq!((f.tick(9_000), f.fences.poll_timeout()), (vec![], None));
}

/// Records of other nodes carry the clocks of these.
#[test]
fn a_timer_never_waits_longer_than_the_dwell_time() {
    for received in [1_000, 500, 5_000] {
        let mut f = Fixture::new(FENCES);
        f.update(0, IN, received);
        let expected = if received == 500 { 1_000 } else { 1_060 };
        f.tick(1_000);
        let due = f.fences.poll_timeout().unwrap_or(at(1_000).instant);
        assert_eq!(due, at(expected).instant, "received at {received}");
        f.tick(1_060);
        assert_eq!(f.inside("slow"), [0]);
    }
}

/// A phone that was offline sends its positions all at once.
#[test]
fn a_late_batch_is_reported_in_order_and_not_at_all_with_a_dwell_time() {
    let mut f = Fixture::new(FENCES);
    let mut all = Vec::new();
    for lat in [IN, OUT, IN, OUT] {
        all.extend(f.update(0, lat, 1_000));
    }
    let enters = ["c0 enters plain", "c0 enters steady"];
    let leaves = ["c0 leaves plain: moved", "c0 leaves steady: moved"];
    assert_eq!(all, [enters, leaves, enters, leaves].concat());
    assert_eq!((f.tick(1_000), f.tick(9_000)), (vec![], vec![]));
}

#[test]
fn a_reload_affects_only_the_fences_that_have_changed() {
    let circle = |name: &str, lng: f64, radius: u32| {
        format!(
            r#"{{"type":"Feature","properties":{{"name":"{name}","radius":{radius}}},
            "geometry":{{"type":"Point","coordinates":[{lng},0]}}}}"#
        )
    };
    let file = |features: &[String]| {
        format!(r#"{{"type":"FeatureCollection","features":[{}]}}"#, features.join(","))
    };
    let first =
        file(&[circle("same", 0.0, 1000), circle("moved", 0.0, 1000), circle("gone", 0.0, 9)]);
    let second =
        file(&[circle("new", 0.0, 1000), circle("moved", 0.001, 1000), circle("same", 0.0, 1000)]);
    for is_on_demand in [false, true] {
        let mut f = Fixture::new(&first);
        f.move_to(0, (0.0, 0.0), 1_000);
        f.move_to(1, (1.0, 0.0), 1_000);
        f.install(&second);
        assert!(f.fences.is_evaluating());
        let leaves = ["c0 leaves moved: fence", "c0 leaves gone: fence"];
        if is_on_demand {
            // The record that was held is evaluated before the one that replaces it.
            let expected =
                ["c0 leaves same: moved", "c0 leaves new: moved", "c0 leaves moved: moved"];
            assert_eq!(f.move_to(0, (1.0, 0.0), 1_001), [&leaves[..], &expected].concat());
            assert_eq!(f.evaluate(), NONE);
        } else {
            assert_eq!(f.evaluate(), leaves);
            for name in ["same", "moved", "new"] {
                assert_eq!(f.inside(name), [0], "{name}");
            }
            let moves = f.move_to(1, (0.0, 0.0), 1_001);
            assert_eq!(moves, ["c1 enters new", "c1 enters moved", "c1 enters same"]);
        }
        assert!(!f.fences.is_evaluating());
        f.install(&second);
        assert!(!f.fences.is_evaluating(), "nothing has changed");
    }
    // A client that goes before it is evaluated leaves a fence that is gone.
    let mut f = Fixture::new(&first);
    f.move_to(0, (0.0, 0.0), 1_000);
    f.install(&file(&[]));
    f.install(&file(&[circle("same", 0.0, 2000)]));
    let fences = ["c0 leaves same: fence", "c0 leaves moved: fence", "c0 leaves gone: fence"];
    assert_eq!(f.remove(0, Reason::Expired), [&fences[..], &["c0 leaves same: expired"]].concat());
    assert_eq!(f.evaluate(), NONE);
}

#[test]
fn the_log_of_transitions_is_bounded() {
    let circle = r#"{"type": "Point", "coordinates": [0, 0]}"#;
    let mut f = Fixture::new(&one(r#"{"name": "a", "radius": 1000}"#, circle));
    for second in 0..i64::try_from(limits::MAX_TRANSITIONS).unwrap() + 10 {
        // The place of a transition is used again for one with a longer line, or a shorter one.
        let lng = [0.0, 1.0, 0.001_234_5, 1.5, 0.001, 1.234_567][second as usize % 6];
        let event = if lng < 1.0 { "c0 enters a" } else { "c0 leaves a: moved" };
        assert_eq!(f.move_to(0, (lng, 0.0), second), [event]);
    }
    let log = f.fences.transitions();
    assert_eq!((log.first(), log.end()), (11, 11 + limits::MAX_TRANSITIONS as u64));
    assert!(log.get(10).is_none() && log.get(11).is_some() && log.get(log.end()).is_none());
    assert_eq!(log.since(0).count(), limits::MAX_TRANSITIONS);
}

/// What one client does in the random test: a record at a place after some seconds, a pause, or its
/// removal.
#[derive(Clone, Debug)]
enum Step {
    Move(u32, f64, i64),
    Wait(i64),
    Remove(u32, i64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![Just(IN), Just(BAND), Just(OUT), Just(34.2)];
    prop_oneof![
        6 => (0..3_u32, place, 0..40_i64).prop_map(|(slot, lat, after)| Step::Move(slot, lat, after)),
        2 => (0..90_i64).prop_map(Step::Wait),
        1 => (0..3_u32, 0..90_i64).prop_map(|(slot, after)| Step::Remove(slot, after)),
    ]
}

/// The state of one client and one fence, by the rules as documented.
#[derive(Clone, Default)]
struct Rule {
    told: bool,
    now: bool,
    since: i64,
}

impl Rule {
    fn settle(&mut self, dwell: i64, second: i64, out: &mut Vec<bool>) {
        if self.told != self.now && self.since + dwell <= second {
            self.told = self.now;
            out.push(self.told);
        }
    }

    fn step(&mut self, lat: f64, (hysteresis, dwell): (bool, i64), second: i64) -> Vec<bool> {
        let mut out = Vec::new();
        self.settle(dwell, second, &mut out);
        let now = (34.0..=34.2).contains(&lat) || (hysteresis && self.now && lat == BAND);
        if now != self.now {
            (self.now, self.since) = (now, second);
        }
        self.settle(dwell, second, &mut out);
        out
    }
}

proptest! {
    #[test]
    fn transitions_are_those_of_the_rules(steps in proptest::collection::vec(any_step(), 1..60)) {
        const KINDS: [(&str, bool, i64); 4] =
            [("plain", false, 0), ("steady", true, 0), ("slow", false, 60), ("both", true, 60)];
        let mut f = Fixture::new(FENCES);
        let mut rules = vec![[const { Rule { told: false, now: false, since: 0 } }; 4]; 3];
        let mut second = START;
        for step in steps {
            let mut expected = Vec::new();
            let mut expect = |slot: u32, name: &str, told: Vec<bool>, reason: &str| {
                expected.extend(told.into_iter().map(|told| {
                    if told {
                        format!("c{slot} enters {name}")
                    } else {
                        format!("c{slot} leaves {name}: {reason}")
                    }
                }));
            };
            let mut found = match step {
                Step::Move(slot, lat, after) => {
                    second += after;
                    for (rule, (name, hysteresis, dwell)) in rules[slot as usize].iter_mut().zip(KINDS) {
                        expect(slot, name, rule.step(lat, (hysteresis, dwell), second), "moved");
                    }
                    f.update(slot, lat, second)
                }
                Step::Wait(after) => {
                    second += after;
                    for (slot, rules) in (0..).zip(&mut rules) {
                        for (rule, (name, _, dwell)) in rules.iter_mut().zip(KINDS) {
                            let mut told = Vec::new();
                            rule.settle(dwell, second, &mut told);
                            expect(slot, name, told, "moved");
                        }
                    }
                    f.tick(second)
                }
                Step::Remove(slot, after) => {
                    second += after;
                    for (rule, (name, _, dwell)) in rules[slot as usize].iter_mut().zip(KINDS) {
                        let mut told = Vec::new();
                        rule.settle(dwell, second, &mut told);
                        expect(slot, name, told, "moved");
                        let told = if std::mem::take(rule).told { vec![false] } else { vec![] };
                        expect(slot, name, told, "evicted");
                    }
                    f.remove_at(slot, Reason::Evicted, second)
                }
            };
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
            for (at, (name, ..)) in KINDS.into_iter().enumerate() {
                let inside = (0..3).filter(|slot| rules[*slot as usize][at].told).collect::<Vec<_>>();
                prop_assert_eq!(f.inside(name), inside);
            }
            let any = rules.iter().filter(|rules| rules.iter().any(|rule| rule.told)).count();
            prop_assert_eq!(f.fences.clients_inside(), any);
        }
    }
}
