//! Property tests of the loader.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// A configuration with every section, which the property tests mutate.
const FULL: &str = r#"api_key: "canary-key"
ports: {Bailey: 10099, Bona: 10044, Clark: 10211}
neighbors: {Bailey: [Bona], Clark: ["Bona", Bailey]}
hosts: {Bona: {listen: 0.0.0.0, dial: bona.example}, Clark: "[::1]"}
places: {provider: google, url: "https://canary-user:x@a.example/p", deadline_ms: 100}
limits: &l {max_line: 0x200, idle_timeout_s: 1}
logging: {level: INFO, format: "%(asctime)s %(message)s"}
peers: {max_clock_offset: 1.5, seed_compatible: [Clark], timeout_ms: 9000}
http: {ports: {Bona: 8044}, listen: 0.0.0.0, hosts: [a.example], cors_origin: "https://b.example"}
benchmark: {num_clients: 5, test_duration: 5, timeout: 2}
"#;

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_cause_a_panic(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..512),
            "[ -~\t\n]{0,200}".prop_map(String::into_bytes),
        ],
    ) {
        let _ = Config::from_bytes(Path::new("f"), &bytes, &|_| None);
    }

    #[test]
    fn typing_errors_neither_cause_a_panic_nor_reveal_a_secret(
        edits in proptest::collection::vec(
            (0..FULL.len(), 0..8_usize, "[\\[\\]{}:,#&*!|>'\"%@`~ \t\na0.<?-]{0,4}"),
            1..6,
        ),
    ) {
        let mut text = FULL.to_owned();
        for (at, removed, inserted) in edits {
            let start = at.min(text.len());
            let end = (start + removed).min(text.len());
            text.replace_range(start..end, &inserted);
        }
        match Config::from_bytes(Path::new("f"), text.as_bytes(), &|_| None) {
            Err(error) => prop_assert!(!error.to_string().contains("canary"), "{}", error),
            Ok(config) => {
                let shown = format!("{config:?}");
                prop_assert!(!shown.contains("canary-key"), "{}", shown);
            }
        }
    }

    #[test]
    fn every_edge_is_known_to_both_of_its_ends(
        lists in proptest::collection::vec(proptest::collection::vec(0..8_usize, 0..8), 8),
    ) {
        let mut yaml = String::from("ports: {n0: 1, n1: 2, n2: 3, n3: 4, n4: 5, n5: 6, n6: 7, n7: 8}\nneighbors:\n");
        for (node, list) in lists.iter().enumerate() {
            let names: Vec<_> = list.iter().filter(|&&it| it != node).map(|it| format!("n{it}")).collect();
            let _ = writeln!(yaml, "  n{node}: [{}]", names.join(", "));
        }
        let config = load(&yaml);
        for (a, node) in config.nodes.iter().enumerate() {
            prop_assert!(node.neighbors.is_sorted_by(|x, y| x < y));
            for b in 0..8 {
                let listed = a != b && (lists[a].contains(&b) || lists[b].contains(&a));
                prop_assert_eq!(node.neighbors.contains(&b), listed);
            }
        }
    }
}
