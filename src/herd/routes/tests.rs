use super::forgetting::IGNORE_LAST_FOR;
use super::*;
use crate::herd::vertices::MAX_LEARNED;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

const BOOT: BootId = BootId(7);

/// A link state of `origin`, as text: its sequence number, boot id and neighbors.
fn receive(routes: &mut Routes, origin: &str, version: (u64, u64), up: &str) -> Received {
    receive_at(Instant::START, routes, origin, version, up)
}

fn receive_at(
    now: Instant,
    routes: &mut Routes,
    origin: &str,
    version: (u64, u64),
    up: &str,
) -> Received {
    let version = Version { sequence: version.0, boot: BootId(version.1) };
    let state = LinkState { origin: origin.as_bytes(), version, next: b"-", up: up.as_bytes() };
    routes.receive(&state, NodeId(1), now)
}

fn just_under(time: Duration) -> Duration {
    time.saturating_sub(Duration::from_millis(1))
}

/// Handles all timeouts up to `until`. Returns whether the node must advertise its links again.
fn run(routes: &mut Routes, until: Instant) -> bool {
    let mut starts_over = false;
    while let Some(at) = routes.poll_timeout().filter(|&at| at <= until) {
        starts_over |= routes.handle_timeout(at);
    }
    starts_over
}

fn routes(me: u16, names: &[impl AsRef<[u8]>]) -> Routes {
    let names: Vec<Box<[u8]>> = names.iter().map(|name| name.as_ref().into()).collect();
    Routes::new(NodeId(me), BOOT, b"-", &names, Instant::START)
}

fn ids(nodes: &[u16]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn name(node: u16) -> String {
    format!("n{node:02}")
}

/// The routes of each node once all link states have reached all nodes. Every node knows the names
/// of its neighbors from its configuration, and all others if `all` is true.
fn settled(nodes: u16, edges: &[(u16, u16)], all: bool) -> Vec<Routes> {
    let up = |node: u16| -> Vec<u16> {
        edges
            .iter()
            .filter_map(|&(a, b)| if a == node { Some(b) } else { (b == node).then_some(a) })
            .collect()
    };
    let one = |me: u16| {
        let known: BTreeSet<u16> =
            if all { (0..nodes).collect() } else { up(me).into_iter().chain([me]).collect() };
        let known: Vec<String> = known.into_iter().map(name).collect();
        let id = |node: u16| NodeId(known.iter().position(|it| *it == name(node)).unwrap() as u16);
        let mut routes = routes(id(me).0, &known);
        // In different orders, so that names are learned in different orders.
        for other in (0..nodes).map(|other| (other + me) % nodes) {
            if other == me {
                let up: Vec<NodeId> = up(me).into_iter().map(id).collect();
                routes.set_own_links(&up, None, Instant::START);
            } else {
                let up: Vec<String> = up(other).into_iter().map(name).collect();
                receive(&mut routes, &name(other), (2, 7), &up.join(" "));
            }
        }
        routes.handle_timeout(Instant::START + SETTLE);
        routes
    };
    (0..nodes).map(one).collect()
}

/// The tree of an origin on a node, by numbers.
fn tree(routes: &mut Routes, origin: u16) -> Option<(Option<u16>, Vec<u16>)> {
    let origin = routes.vertex(name(origin).as_bytes())?;
    let Tree { parent, children, .. } = routes.tree(origin)?.clone();
    let number = |node: NodeId| {
        let name = routes.vertices.name(node.into());
        std::str::from_utf8(&name[1..]).unwrap().parse().unwrap()
    };
    Some((parent.map(number), children.into_iter().map(number).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Forwarding along the trees delivers a record to every reachable node exactly once, on a
    /// shortest path, even if the nodes learn all names but those of their neighbors.
    #[test]
    fn each_reachable_node_receives_one_copy(
        nodes in prop_oneof![1u16..12, 60u16..70],
        pairs in proptest::collection::btree_set((0u16..70, 0u16..70), 0..200),
        all in any::<bool>(),
    ) {
        let edges: BTreeSet<_> = pairs.into_iter()
            .map(|(a, b)| (a % nodes, b % nodes)).filter(|&(a, b)| a < b).collect();
        let edges = Vec::from_iter(edges);
        let mut routes = settled(nodes, &edges, all);
        for origin in 0..nodes {
            let mut copies = vec![0; nodes.into()];
            let mut depths = vec![None; nodes.into()];
            let mut queue = VecDeque::from([(None, origin, 0i32)]);
            while let Some((from, node, depth)) = queue.pop_front() {
                copies[usize::from(node)] += 1;
                depths[usize::from(node)] = Some(depth);
                let (parent, children) = tree(&mut routes[usize::from(node)], origin).unwrap();
                prop_assert_eq!(parent, from);
                queue.extend(children.into_iter().map(|child| (Some(node), child, depth + 1)));
            }
            for (node, copies) in copies.into_iter().enumerate() {
                let reachable = tree(&mut routes[node], origin).is_some();
                prop_assert_eq!(copies, usize::from(reachable), "node {} of {:?}", node, origin);
            }
            for &(a, b) in &edges {
                let [a, b] = [a, b].map(|node| depths[usize::from(node)]);
                prop_assert_eq!(a.is_some(), b.is_some(), "only one end of an edge is reached");
                prop_assert!(a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= 1), "a detour");
            }
            for &(a, b) in &edges {
                let [a, b] = [a, b].map(|node| routes[usize::from(node)].hash());
                prop_assert_eq!(a, b, "both ends of an edge hold the same link states");
            }
        }
    }
}

#[test]
fn trees_wait_until_the_graph_has_settled() {
    let mut routes = settled(2, &[(0, 1)], true).remove(0);
    assert!(tree(&mut routes, 1).is_some() && routes.hash().is_some());
    routes.set_own_links(&[], None, Instant::START + SETTLE * 2);
    assert!(tree(&mut routes, 0).is_none() && tree(&mut routes, 1).is_none());
    routes.handle_timeout(Instant::START + SETTLE * 5 / 2);
    assert!(tree(&mut routes, 0).is_none() && routes.hash().is_none());
    routes.handle_timeout(Instant::START + SETTLE * 3);
    assert!(tree(&mut routes, 0).is_some());
    assert!(tree(&mut routes, 1).is_none(), "no longer reachable");
}

#[test]
fn an_edge_needs_both_ends() {
    for (mine, theirs) in [(&[1][..], ""), (&[], "A")] {
        let mut routes = routes(0, &["A", "B"]);
        routes.set_own_links(&ids(mine), None, Instant::START);
        receive(&mut routes, "B", (2, 7), theirs);
        routes.handle_timeout(Instant::START + SETTLE);
        assert!(!routes.has_edge(NodeId(1)));
        assert!(routes.tree(Vertex(0)).unwrap().children.is_empty());
        assert!(routes.tree(Vertex(1)).is_none());
        assert!(routes.members().iter().all(|member| member.links.is_empty()));
    }
}

#[test]
fn of_two_link_states_the_one_with_the_greater_number_is_newer_and_the_process_decides_ties() {
    let mut routes = routes(0, &["A", "B"]);
    let b = Vertex(1);
    let new = |lost_edge, changed| Received::New { origin: b, lost_edge, changed };
    assert_eq!(receive(&mut routes, "B", (5, 50), "A"), new(false, true));
    assert_eq!(receive(&mut routes, "B", (5, 50), "A"), Received::Known(b));
    assert_eq!(receive(&mut routes, "B", (5, 49), ""), Received::Older(b));
    assert_eq!(receive(&mut routes, "B", (4, 51), ""), Received::Older(b));
    assert_eq!(receive(&mut routes, "B", (6, 50), "A"), new(false, false));
    assert_eq!(receive(&mut routes, "B", (6, 51), "A"), new(true, false), "another life");
    assert_eq!(receive(&mut routes, "B", (7, 51), ""), new(true, true));
    assert_eq!(receive(&mut routes, "B", (9, 51), ""), new(true, false), "one was missed");
    assert_eq!(receive(&mut routes, "B", (LAST_SEQUENCE + 1, 51), ""), Received::Ignored);
}

#[test]
fn a_link_state_of_another_life_of_this_node_is_exceeded() {
    let mut routes = routes(0, &["A", "B"]);
    routes.set_own_links(&ids(&[1]), None, Instant::START);
    let version = |sequence, boot| Version { sequence, boot: BootId(boot) };
    assert_eq!(routes.version(Vertex(0)), Some(version(2, 7)));
    assert_eq!(receive(&mut routes, "A", (2, 6), ""), Received::Older(Vertex(0)));
    for contested in [version(2, 8), version(40, 1)] {
        let received = receive(&mut routes, "A", (contested.sequence, contested.boot.0), "");
        assert_eq!(received, Received::Contested(contested));
    }
    routes.set_own_links(&ids(&[1]), Some(40), Instant::START);
    assert_eq!(routes.version(Vertex(0)), Some(version(41, 7)));
}

#[test]
fn link_states_are_forwarded_as_they_were_received() {
    let mut routes = routes(0, &["A", "B"]);
    let line = b"LINKS X 1f 9 1,2,3,4 Z A unknown B";
    let state = LinkState {
        origin: b"X",
        version: Version { sequence: 9, boot: BootId(0x1f) },
        next: b"1,2,3,4",
        up: b"Z A unknown B",
    };
    let received = routes.receive(&state, NodeId(1), Instant::START);
    let Received::New { origin, .. } = received else { panic!("{received:?}") };
    let mut out = Vec::new();
    routes.push_state(origin, &mut out);
    assert_eq!(out.strip_suffix(b"\n"), Some(&line[..]));
    assert_eq!(routes.next(b"X"), Some(&b"1,2,3,4"[..]));
}

#[test]
fn a_state_whose_names_are_too_many_is_not_known_in_part() {
    let mut routes = routes(0, &["A", "B"]);
    let names: Vec<String> = (0..=MAX_LEARNED as u16).map(name).collect();
    assert_eq!(receive(&mut routes, "B", (2, 7), &names.join(" ")), Received::Ignored);
    assert_eq!(routes.version(Vertex(1)), None);
    assert_eq!(routes.vertices.sorted().len(), 2, "no name is kept");
}

#[test]
fn a_node_that_is_neither_configured_nor_reachable_is_forgotten_after_a_while() {
    let mut routes = routes(0, &["A", "B"]);
    routes.set_own_links(&ids(&[1]), None, Instant::START);
    receive(&mut routes, "B", (2, 7), "A X");
    receive(&mut routes, "X", (2, 7), "B");
    let mut now = Instant::START;
    let mut pass = |routes: &mut Routes, time| {
        now += time;
        routes.handle_timeout(now);
    };
    let names = |routes: &Routes| -> Vec<Vec<u8>> {
        routes.members().iter().map(|member| member.name.to_vec()).collect()
    };
    pass(&mut routes, SETTLE);
    pass(&mut routes, FORGET_AFTER * 2);
    assert_eq!(names(&routes), [b"A", b"B", b"X"]);
    let reachable = routes.hash();
    receive(&mut routes, "B", (3, 7), "A");
    pass(&mut routes, FORGET_AFTER * 2);
    assert_eq!(names(&routes), [b"A", b"B"], "X is not shown");
    assert_ne!(routes.hash(), reachable);
    assert!(routes.version(Vertex(2)).is_some(), "but still known");
    let due = routes.poll_timeout().unwrap();
    routes.handle_timeout(due);
    assert_eq!((routes.version(Vertex(2)), routes.vertex(b"X")), (None, None));
    assert_eq!(routes.poll_timeout(), None);
}

/// A newer link state of it, with the same links, does not prolong that.
#[test]
fn a_node_that_has_departed_is_offered_for_a_while_and_forgotten() {
    let mut routes = routes(0, &["A", "B"]);
    routes.set_own_links(&ids(&[1]), None, Instant::START);
    receive(&mut routes, "B", (2, 7), "A");
    let Received::New { origin: x, .. } = receive(&mut routes, "X", (2, 7), "Y") else { panic!() };
    run(&mut routes, Instant::START + SETTLE);
    let gone = Instant::START + SETTLE + OFFER_FOR;
    assert_eq!(routes.offered(gone), [Vertex(0), Vertex(1)]);
    receive_at(gone, &mut routes, "X", (3, 7), "Y");
    assert_eq!(routes.offered(gone), [Vertex(0), Vertex(1)]);
    // It returns, and departs before the graph has settled.
    receive_at(gone, &mut routes, "B", (3, 7), "A X");
    receive_at(gone, &mut routes, "X", (4, 7), "B");
    assert!(routes.offered(gone).contains(&x));
    receive_at(gone, &mut routes, "X", (5, 7), "Y");
    let settled = gone + SETTLE;
    run(&mut routes, settled + just_under(FORGET_AFTER));
    assert!(routes.version(x).is_some());
    run(&mut routes, settled + FORGET_AFTER);
    assert_eq!(routes.version(x), None);
}

/// It returns when it is about to be forgotten, before the graph has settled.
#[test]
fn a_node_that_has_just_returned_is_not_forgotten() {
    let mut routes = routes(0, &["A", "B"]);
    routes.set_own_links(&ids(&[1]), None, Instant::START);
    receive(&mut routes, "B", (2, 7), "A");
    let Received::New { origin: x, .. } = receive(&mut routes, "X", (2, 7), "B") else { panic!() };
    let (before, due) = (Instant::START + FORGET_AFTER, Instant::START + SETTLE + FORGET_AFTER);
    run(&mut routes, before + SETTLE / 2);
    assert!(!routes.offered(due).contains(&x));
    receive_at(before + SETTLE / 2, &mut routes, "B", (3, 7), "A X");
    assert!(routes.offered(due).contains(&x), "known in the same version, and reachable again");
    run(&mut routes, due + FORGET_AFTER * 2);
    assert!(routes.version(x).is_some());
}

/// A broken peer has used the last sequence number in the name of another node.
#[test]
fn a_link_state_with_the_last_number_is_forgotten_and_its_node_is_heard_again() {
    for name in ["B", "X"] {
        let mut routes = routes(0, &["A", "B"]);
        routes.set_own_links(&ids(&[1]), None, Instant::START);
        let last = (LAST_SEQUENCE, u64::MAX);
        let Received::New { origin, .. } = receive(&mut routes, name, last, "A") else { panic!() };
        let ends = Instant::START + FORGET_AFTER;
        run(&mut routes, Instant::START + just_under(FORGET_AFTER));
        assert_eq!(receive(&mut routes, name, (5, 7), "A"), Received::Older(origin));
        run(&mut routes, ends);
        assert_eq!(receive_at(ends, &mut routes, name, last, ""), Received::Ignored);
        assert_eq!(routes.version(origin), None);
        let received = receive_at(ends, &mut routes, name, (5, 7), "A");
        assert!(matches!(received, Received::New { .. }));
        run(&mut routes, ends + SETTLE);
        assert_eq!(routes.has_edge(NodeId(1)), name == "B");
        receive_at(ends + SETTLE, &mut routes, name, (6, 7), "A");
        run(&mut routes, ends + IGNORE_LAST_FOR);
        let now = ends + IGNORE_LAST_FOR;
        assert!(matches!(receive_at(now, &mut routes, name, last, ""), Received::New { .. }));
    }
}

#[test]
fn a_node_that_has_used_the_last_number_starts_over_once_the_others_have_forgotten_it() {
    let mut routes = routes(0, &["A", "B"]);
    let version = |sequence, boot| Version { sequence, boot: BootId(boot) };
    let last = (LAST_SEQUENCE, u64::MAX);
    assert_eq!(receive(&mut routes, "A", last, ""), Received::Ignored, "it cannot be exceeded");
    let contested = version(LAST_SEQUENCE - 1, 9);
    let received = receive(&mut routes, "A", (LAST_SEQUENCE - 1, 9), "");
    assert_eq!(received, Received::Contested(contested));
    for contested in [Some(LAST_SEQUENCE - 1), Some(LAST_SEQUENCE), None] {
        routes.set_own_links(&ids(&[1]), contested, Instant::START);
        assert_eq!(routes.version(Vertex(0)), Some(version(LAST_SEQUENCE, 7)));
    }
    let (soon, over) = (Instant::START + FORGET_AFTER, Instant::START + START_OVER_AFTER);
    assert!(!run(&mut routes, soon));
    assert!(run(&mut routes, over), "to be advertised");
    assert_eq!(routes.version(Vertex(0)), Some(version(1, 7)));
    assert!(!run(&mut routes, over + START_OVER_AFTER));
    // The order of hashes does not matter, only that they are those of the states.
    let before = routes.hash();
    routes.unsettle(over);
    run(&mut routes, over + SETTLE);
    assert_eq!(routes.hash(), before);
}

#[test]
fn records_are_flooded_while_the_names_are_too_many_to_know_the_graph() {
    let mut routes = routes(0, &["A", "B"]);
    let names: Vec<String> = (0..MAX_LEARNED as u16).map(name).collect();
    routes.set_own_links(&ids(&[1]), None, Instant::START);
    receive(&mut routes, "B", (2, 7), &format!("A {}", names.join(" ")));
    receive(&mut routes, &names[0], (2, 7), "B");
    run(&mut routes, Instant::START + SETTLE);
    assert!(routes.hash().is_some() && routes.has_edge(NodeId(1)));
    let now = Instant::START + SETTLE * 2;
    assert_eq!(receive_at(now, &mut routes, "other", (2, 7), "B"), Received::Ignored);
    assert_eq!(receive_at(now, &mut routes, "", (2, 7), "B"), Received::Ignored);
    run(&mut routes, now + just_under(INCOMPLETE_FOR));
    assert_eq!((routes.hash(), routes.has_edge(NodeId(1))), (None, false));
    assert_eq!(routes.tree(Vertex(1)), None);
    // Meanwhile nodes depart and are forgotten.
    receive_at(now, &mut routes, "B", (3, 7), "A");
    run(&mut routes, now + INCOMPLETE_FOR);
    assert_eq!(routes.vertex(names[0].as_bytes()), None);
    assert!(routes.hash().is_some() && routes.has_edge(NodeId(1)));
    let received = receive_at(now + INCOMPLETE_FOR, &mut routes, "other", (2, 7), "B");
    assert!(matches!(received, Received::New { .. }));
}

#[test]
fn a_name_that_is_too_long_does_not_disable_trees() {
    let mut routes = routes(0, &["A", "B"]);
    routes.set_own_links(&ids(&[1]), None, Instant::START);
    receive(&mut routes, "B", (2, 7), "A");
    run(&mut routes, Instant::START + SETTLE);
    let long = "x".repeat(crate::limits::MAX_NODE_NAME + 1);
    assert_eq!(receive(&mut routes, &long, (2, 7), "B"), Received::Ignored);
    assert!(routes.has_edge(NodeId(1)));
}
