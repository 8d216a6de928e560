//! Tests of `ports`, `hosts` and `neighbors`.

use super::*;

#[test]
fn invalid_nodes_are_rejected() {
    let long = format!("ports: {{{}: 1}}\n", "x".repeat(65));
    for (yaml, error) in [
        (
            "ports:\n  A:\n",
            "2: field `ports.A`: is null, not an integer; use a number from 1 to 65535",
        ),
        (
            "ports:\n  A: 65536\n",
            "2: field `ports.A`: 65536 is out of range; use a number from 1 to 65535",
        ),
        (
            "ports:\n  A:\n    -1\n",
            "3: field `ports.A`: -1 is out of range; use a number from 1 to 65535",
        ),
        (
            "ports:\n  A: 99999999999999999999999999999999999999999\n",
            "2: field `ports.A`: is a decimal number, not an integer; use a number from 1 to 65535",
        ),
        (
            "ports:\n  A: 1.5\n",
            "2: field `ports.A`: is a decimal number, not an integer; use a number from 1 to 65535",
        ),
        (
            "ports:\n  A: \"80\"\n",
            "2: field `ports.A`: is a string, not an integer; use a number from 1 to 65535, without quotes",
        ),
        (
            "ports:\n  A: true\n",
            "2: field `ports.A`: is a boolean, not an integer; use a number from 1 to 65535",
        ),
        (
            "ports:\n  A: [80]\n",
            "2: field `ports.A`: is a list, not an integer; use a number from 1 to 65535",
        ),
        ("ports: {\"\": 1}\n", "1: field `ports.`: is empty; enter a node name"),
        (
            "ports: {a b: 1}\n",
            "1: field `ports.a b`: contains white space or a control character; a node name is a single field of AT lines",
        ),
        (
            "ports: {\"a\\u00a0b\": 1}\n",
            "1: field `ports.a\\u{a0}b`: contains white space or a control character; a node name is a single field of AT lines",
        ),
        (
            "ports: {\"a\\e\": 1}\n",
            "1: field `ports.a\\u{1b}`: contains white space or a control character; a node name is a single field of AT lines",
        ),
        (
            "ports: {\"-\": 1}\n",
            "1: field `ports.-`: is not a node name, but that of an administrator; choose another one",
        ),
        (
            "ports: {../a: 1}\n",
            "1: field `ports.../a`: contains a `/`; a node name is also the name of a log file",
        ),
        (
            &long,
            &format!(
                "1: field `ports.{}`: is 65 bytes long; a node name has at most 64",
                "x".repeat(65)
            ),
        ),
        (
            "ports:\n  A: 80\n  B: 80\n",
            "3: field `ports.B`: port 80 on 127.0.0.1 is already used by A; choose another port, or set the address of each machine under `hosts`",
        ),
        (
            "ports: {A: 80, B: 80}\nhosts: {A: \"::1\", B: \"[0:0::1]\"}\n",
            "1: field `ports.B`: port 80 on [::1] is already used by A; choose another port, or set the address of each machine under `hosts`",
        ),
    ] {
        assert_eq!(error_in(yaml), error, "{yaml:?}");
    }
    let herd = |nodes: usize| {
        (0..nodes)
            .fold("ports:\n".to_owned(), |yaml, node| yaml + &format!("  n{node}: {}\n", node + 1))
    };
    assert_eq!(load(&herd(1000)).nodes.len(), 1000);
    assert_eq!(
        error_in(&herd(1001)),
        "1: field `ports`: lists 1001 nodes; a herd has at most 1000"
    );
}

#[test]
fn unusual_names_are_valid() {
    let config = load("ports: {No: 1, 007: 2, \"1\": 3, Ñandú: 4}\nneighbors: {No: [007, \"1\", Ñandú, \"No\"]}\n".replace(", \"No\"]", "]").as_str());
    let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["No", "007", "1", "Ñandú"]);
    assert_eq!(config.nodes[0].neighbors, [1, 2, 3]);
    let longest = "x".repeat(64);
    assert_eq!(load(&format!("ports: {{{longest}: 1}}")).nodes[0].name, longest);
}

#[test]
fn edges_are_symmetric_and_invalid_ones_are_rejected() {
    let ports = "ports: {A: 1, Bona: 2, C: 3}\n";
    let config = load(&format!("{ports}neighbors:\n  C: [Bona, A, A]\n  Bona: [C]\n  A:\n"));
    assert_eq!(neighbors(&config), [&[2][..], &[2], &[0, 1]], "symmetric, sorted, once");
    for (lines, error) in [
        (
            "neighbors:\n  A: [bona]\n",
            "3: field `neighbors.A[0]`: there is no node `bona`; add it to `ports` or correct the name; did you mean `Bona`?",
        ),
        (
            "neighbors:\n  A: [\n    C,\n    Goloman]\n",
            "5: field `neighbors.A[1]`: there is no node `Goloman`; add it to `ports` or correct the name",
        ),
        (
            "neighbors:\n  Holiday: [A]\n",
            "3: field `neighbors.Holiday`: there is no node `Holiday`; add it to `ports` or correct the name",
        ),
        (
            "neighbors:\n  C: [A, C]\n",
            "3: field `neighbors.C[1]`: C is listed as its own neighbor; remove it",
        ),
        (
            "neighbors:\n  A: Bona\n",
            "3: field `neighbors.A`: is a string, not a list; write the items in brackets: [a, b]",
        ),
        (
            "neighbors:\n  A: [1]\n",
            "3: field `neighbors.A[0]`: is an integer, not a string; put it in quotes",
        ),
        (
            "neighbors:\n  A: [~]\n",
            "3: field `neighbors.A[0]`: is null, not a string; use a single value",
        ),
        (
            "neighbors: [A]\n",
            "2: field `neighbors`: is a list, not a mapping; write `key: value` pairs",
        ),
        (
            "neighbors:\n  A: [C]\n  A: [Bona]\n",
            "4: field `neighbors.A`: is already set on line 3; remove one of the two",
        ),
    ] {
        assert_eq!(error_in(&format!("{ports}{lines}")), error, "{lines:?}");
    }
}

#[test]
fn a_disconnected_topology_causes_a_warning() {
    let config = load("ports: {A: 1, B: 2, C: 3, D: 4}\nneighbors:\n  B: [A]\n  C: [D]\n");
    assert_eq!(
        config.warnings,
        [
            "herd.yml:2: field `neighbors`: no path connects A to C, D, so they will not share locations; add an edge"
        ]
    );
    let config = load("ports: {A: 1, B: 2}\n");
    assert_eq!(
        config.warnings,
        ["herd.yml:1: no path connects A to B, so they will not share locations; add an edge"]
    );
    assert_eq!(load("ports: {A: 1}").warnings, [""; 0]);
}

#[test]
fn hosts_are_read_and_invalid_ones_are_rejected() {
    let hosts = |lines: &str| {
        let config = pair(lines);
        let NodeConfig { listen, dial, .. } = &config.nodes[0];
        (listen.to_string(), dial.to_string())
    };
    let both = |host: &str| (host.to_owned(), host.to_owned());
    assert_eq!(hosts("hosts: {Bona: 10.0.0.1}"), both("10.0.0.1"));
    assert_eq!(hosts("hosts: {Bona: \"::1\"}"), both("[::1]"));
    assert_eq!(hosts("hosts: {Bona: \"[::1]\"}"), both("[::1]"));
    assert_eq!(hosts("hosts: {Bona: Bona.example}"), both("bona.example"));
    assert_eq!(hosts("hosts: {Bona: {dial: bona}}"), both("bona"));
    assert_eq!(hosts("hosts: {Bona: {listen: 10.0.0.1}}"), both("10.0.0.1"));
    assert_eq!(hosts("hosts: {Bona: {}}"), both("127.0.0.1"));
    assert_eq!(
        hosts("hosts: {Bona: {listen: 0.0.0.0, dial: bona}}"),
        ("0.0.0.0".to_owned(), "bona".to_owned())
    );
    for (lines, error) in [
        (
            "hosts:\n  Bona: 1.2.3\n",
            "4: field `hosts.Bona`: is not a valid host; use an IPv4 or IPv6 address or a host name",
        ),
        (
            "hosts:\n  Bona: 1.5\n",
            "4: field `hosts.Bona`: is a decimal number, not a string; put it in quotes",
        ),
        (
            "hosts:\n  Bona: {listen: \"a b\"}\n",
            "4: field `hosts.Bona.listen`: is not a valid host; use an IPv4 or IPv6 address or a host name",
        ),
        (
            "hosts:\n  Bona: {lisen: a}\n",
            "4: field `hosts.Bona.lisen`: is unknown; did you mean `listen`?",
        ),
        (
            "hosts:\n  Bonna: a\n",
            "4: field `hosts.Bonna`: there is no node `Bonna`; add it to `ports` or correct the name; did you mean `Bona`?",
        ),
        (
            "hosts:\n  Bona: \"::\"\n",
            "4: field `hosts.Bona`: peers cannot connect to [::]; write {listen: [::], dial: ADDRESS} with the address at which they reach this node",
        ),
        (
            "hosts:\n  Bona: {listen: 0.0.0.0}\n",
            "4: field `hosts.Bona`: peers cannot connect to 0.0.0.0; write {listen: 0.0.0.0, dial: ADDRESS} with the address at which they reach this node",
        ),
    ] {
        assert_eq!(error_in_pair(lines), error, "{lines:?}");
    }
    // Nodes on different machines usually share a port number.
    load(
        "ports: {A: 80, B: 80}\nhosts: {A: {listen: 0.0.0.0, dial: a}, B: {listen: 0.0.0.0, dial: b}}",
    );
}

#[test]
fn links_that_will_be_refused_cause_a_warning() {
    let yaml = format!("{PAIR}hosts: {{Clark: clark.example}}\n");
    let warning = "herd.yml:3: field `hosts`: Clark is at clark.example, which is not a loopback \
                   address, but neither a secret nor TLS is configured, so links to it will be \
                   refused; set the environment variable HERD_SECRET, peers.secret_file or peers.tls";
    assert_eq!(load(&yaml).warnings, [warning]);
    let config = load_with(&yaml, &[("HERD_SECRET", "hush\n")]).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.peers.secret.unwrap().expose(), b"hush");
}

#[test]
fn original_servers_are_marked() {
    let config = pair("peers: {seed_compatible: [Clark]}\n");
    assert_eq!(config.nodes.iter().map(|it| it.seed_compatible).collect::<Vec<_>>(), [false, true]);
    assert_eq!(
        error_in_pair("peers:\n  seed_compatible: [Bona, clark]\n"),
        "4: field `peers.seed_compatible[1]`: there is no node `clark`; add it to `ports` or correct the name; did you mean `Clark`?"
    );
}
