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
devices: {ports: {Bona: 5055}, listen: "::1", tokens_file: tokens, null_island: keep, max_accuracy_m: 9}
benchmark: {num_clients: 5, test_duration: 5, timeout: 2}
"#;

/// The secret of the test below in the forms in which a message could contain it.
const CANARIES: &[&str] = &["canary", "1029384756", "0x3d5af7f4", "777555333.25"];

/// A value under a secret key: plain, quoted, tagged, anchored, nested or malformed.
fn secret_value() -> impl Strategy<Value = String> {
    let tag = prop_oneof![
        4 => "",
        2 => "!(secret|env|include|!str|!int|!float|!bool|!null|!binary|!map|!seq|!timestamp) ",
        1 => "!canary ",
        1 => "!<tag:canary> ",
        1 => "!e!canary ",
        1 => "!!canary ",
    ];
    let anchor = prop_oneof![3 => "", 3 => "&k ", 1 => "&canary "];
    let scalar = prop_oneof![
        4 => (0..CANARIES.len()).prop_map(|at| CANARIES[at].to_owned()),
        4 => "[-@%*!|>?:\"'\\[{&`a.]{0,2}canary[]}\"':#\\\\ a]{0,2}",
        1 => Just("canary: x".to_owned()),
        1 => Just("\n  canary: canary".to_owned()),
        1 => Just("{canary: [canary, {a: canary}]}".to_owned()),
        1 => Just("1029384756e400".to_owned()),
        1 => Just("!canary".to_owned()),
        1 => Just("|\n  canary\n  canary".to_owned()),
    ];
    (tag, anchor, scalar).prop_map(|(tag, anchor, scalar)| format!("{anchor}{tag}{scalar}"))
}

/// A further section, in which `*k` is an alias of the secret.
fn section() -> impl Strategy<Value = String> {
    let place = prop_oneof![
        Just("hosts: {*k : 1}"),
        Just("hosts: {A: *k}"),
        Just("hosts: {A: {listen: 0.0.0.0, dial: *k}, B: {listen: ::, dial: *k}}"),
        Just("neighbors: {A: [*k]}"),
        Just("neighbors: {*k : [A]}"),
        Just("limits: {max_line: *k}"),
        Just("limits: {*k : 1}"),
        Just("peers: {max_clock_offset: *k}"),
        Just("peers: {secret_file: *k}"),
        Just("peers: {seed_compatible: [*k]}"),
        Just("peers: {tls: {certificate: *k, key: *k, ca: *k}}"),
        Just("places: {provider: *k}"),
        Just("places: {provider: google, url: *k}"),
        Just("places: {provider: overpass, ca_file: *k}"),
        Just("places: {file: *k}"),
        Just("places: {provider: google, max_in_flight: *k, pool_size: 1}"),
        Just("logging: {level: *k}"),
        Just("logging: {format: *k}"),
        Just("http: {ports: {*k : 1}}"),
        Just("http: {ports: {A: *k}}"),
        Just("http: {ports: {A: 8000}, hosts: [*k]}"),
        Just("http: {ports: {A: 8000}, cors_origin: *k}"),
        Just("http: {ports: {A: 8000}, tiles: {url: *k}}"),
        Just("devices: {ports: {*k : 1}}"),
        Just("devices: {ports: {A: 1}, listen: *k}"),
        Just("devices: {ports: {A: 1}, tokens_file: *k, tls: {certificate: *k, key: *k}}"),
        Just("devices: {ports: {A: 1}, tokens: *k}"),
        Just("devices: {ports: {A: 1}, null_island: *k}"),
        Just("benchmark: {timeout: *k}"),
        Just("ports: *k"),
        Just("<<: *k"),
        Just("<<: [*k, *k]"),
        Just("<<: {api_key: *k}"),
        Just("api_key: *k"),
        Just("*k : *k"),
    ];
    prop_oneof![4 => place.prop_map(str::to_owned), 1 => secret_value().prop_map(|it| format!("api_key: {it}"))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_error_or_warning_contains_a_secret(
        key in "(api_key|peers: \\{secret|token|tokens|password|api_key|api_key)",
        value in secret_value(),
        sections in proptest::collection::vec(section(), 0..3),
        nodes in "(ports: \\{A: 1001, B: 1001\\}|ports: \\{A: 1001\\})",
    ) {
        let closing = if key.contains('{') { "}" } else { "" };
        let text = format!("{nodes}\n{key}: {value}{closing}\n{}\n", sections.join("\n"));
        let messages = match Config::from_bytes(Path::new("f"), text.as_bytes(), &|_| None) {
            Err(error) => vec![error.to_string()],
            Ok(config) => config.warnings,
        };
        for message in messages.iter().map(|message| message.to_ascii_lowercase()) {
            let found = CANARIES.iter().find(|canary| message.contains(**canary));
            prop_assert_eq!(found, None, "{} for {}", message, text);
        }
    }
}

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
