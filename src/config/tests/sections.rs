//! Tests of the sections with settings.

use super::*;

#[test]
fn every_limit_is_read_and_its_range_enforced() {
    for limit in limits::all() {
        let limits::Limit { section, key, min, max, .. } = limit;
        let lines = |value: u64| {
            let companion = match *key {
                "max_in_flight" => "\n  pool_size: 256",
                "keepalive_ms" => "\n  timeout_ms: 600000",
                "timeout_ms" => "\n  keepalive_ms: 50",
                "sync_interval_ms" | "max_bytes" => "\n  directory: data",
                "max_accuracy_m" | "max_body" => "\n  ports: {Bona: 5055}",
                "max_pending_whatsat" => "\n  max_pending_whatsat_per_connection: 1",
                "max_pending_whatsat_per_connection" => "\n  max_pending_whatsat: 1000000",
                _ => "",
            };
            format!("{section}:\n  {key}: {value}{companion}\n")
        };
        pair(&lines(*min));
        pair(&lines(*max));
        let rejected = |value: u64| {
            let range = limit.range();
            format!("4: field `{section}.{key}`: {value} is out of range; use a number {range}")
        };
        assert_eq!(error_in_pair(&lines(max + 1)), rejected(max + 1));
        if limit.allows(0) {
            pair(&lines(0));
        } else {
            assert_eq!(error_in_pair(&lines(min - 1)), rejected(min - 1));
        }
    }
    let config = pair("limits: {max_line: 512, idle_timeout_s: 90}\npeers: {redial_max_ms: 500}\n");
    assert_eq!(config.limits.max_line, 512);
    assert_eq!(config.limits.idle_timeout, Some(Duration::from_secs(90)));
    assert_eq!(config.peers.limits.redial_max, Duration::from_millis(500));
}

#[test]
fn announced_settings_are_read_and_others_stay_as_they_are() {
    let now = "limits:\n  max_clients: 7\n  client_ttl_s: 60\n";
    let config = pair(&format!("{now}  next: {{max_clients: 9, max_clock_offset: 0.5}}\n"));
    let next = HerdSettings {
        max_clock_offset: Duration::from_millis(500),
        max_clients: 9,
        ..config.herd_settings()
    };
    assert_eq!((config.limits.max_clients, config.next), (7, Some(next)));
    let config = pair(&format!("{now}  next: {{client_ttl_s: 0, forget_keep_s: 5}}\n"));
    let next = config.next.unwrap();
    assert_eq!((next.client_ttl, next.forget_keep), (None, Duration::from_secs(5)));
    assert_eq!(next.max_clients, 7);

    for nothing in ["", "  next:\n", "  next: {}\n", "  next: {max_clients: }\n"] {
        let config = pair(&format!("{now}{nothing}"));
        assert_eq!((config.next, config.warnings.len()), (None, 0), "{nothing:?}");
    }
    let config = pair(&format!("{now}  next: {{max_clients: 7}}\n"));
    assert_eq!(config.next, None);
    let warning = "6: field `limits.next`: announces the settings that are configured; remove it";
    assert!(config.warnings.iter().any(|it| it.ends_with(warning)), "{:?}", config.warnings);
    for (wrong, error) in [
        (
            "max_clients: 0",
            "7: field `limits.next.max_clients`: 0 is out of range; use a number from 1 to 100000000",
        ),
        (
            "max_clock_offset: 86401",
            "7: field `limits.next.max_clock_offset`: 86401 is out of range; use a number of seconds from 0 to 86400",
        ),
        ("max_line: 9", "7: field `limits.next.max_line`: is unknown"),
        ("next: {}", "7: field `limits.next.next`: is unknown"),
    ] {
        let message = error_in_pair(&format!("{now}  next:\n    {wrong}\n"));
        assert!(message.starts_with(error), "{message}");
    }
}

#[test]
fn contradictory_limits_are_detected() {
    let idle = "timeout_ms must be at least twice keepalive_ms, or idle links time out; raise timeout_ms or lower keepalive_ms";
    for (lines, error) in [
        ("peers:\n  timeout_ms: 1999\n", format!("4: field `peers.timeout_ms`: {idle}")),
        ("peers:\n  keepalive_ms: 2501\n", format!("4: field `peers.keepalive_ms`: {idle}")),
    ] {
        assert_eq!(error_in_pair(lines), error, "{lines:?}");
    }
    let over = pair("places:\n  max_in_flight: 9\n");
    let warning = "4: field `places.max_in_flight`: 9 exceeds the 8 connections of pool_size, each of which carries one request; raise pool_size or lower this";
    assert!(over.warnings.iter().any(|it| it.ends_with(warning)), "{:?}", over.warnings);
    pair(
        "peers: {timeout_ms: 2000}\nlimits: {max_pending_whatsat: 128}\nplaces: {max_in_flight: 8}\n",
    );
}

#[test]
fn log_settings_are_read_and_invalid_ones_are_rejected() {
    let config = pair(
        "logging: {level: warn, directory: /var/log/herd, format: \"%(name)s %(message)s\"}\n",
    );
    assert_eq!(config.logging.level, log::LevelFilter::Warn);
    assert_eq!(config.logging.directory, Path::new("/var/log/herd"));
    assert_eq!(Ok(config.logging.format), "%(name)s %(message)s".parse());
    for (name, level) in [
        ("DEBUG", log::LevelFilter::Debug),
        ("Info", log::LevelFilter::Info),
        ("warning", log::LevelFilter::Warn),
        ("ERROR", log::LevelFilter::Error),
        ("CRITICAL", log::LevelFilter::Error),
    ] {
        assert_eq!(pair(&format!("logging: {{level: {name}}}")).logging.level, level);
    }
    for (lines, error) in [
        (
            "logging:\n  level: TRACE\n",
            "4: field `logging.level`: is not a valid level; use DEBUG, INFO, WARNING, ERROR or CRITICAL",
        ),
        (
            "logging:\n  level: 20\n",
            "4: field `logging.level`: is an integer, not a string; put it in quotes",
        ),
        (
            "logging:\n  format: \"%(lineno)d\"\n",
            "4: field `logging.format`: `%(lineno)d` is not a supported field; use %(asctime)s, %(levelname)s, %(name)s, %(message)s, or %% for a percent sign",
        ),
        (
            "logging:\n  format: \"%(name)s\"\n",
            "4: field `logging.format`: does not contain %(message)s; add it",
        ),
        (
            "logging:\n  directory: \"\"\n",
            "4: field `logging.directory`: is empty; enter a path or remove the line",
        ),
        (
            "logging:\n  directory: \"a\\0\"\n",
            "4: field `logging.directory`: contains a NUL character; correct the path",
        ),
        (
            "logging:\n  filenam: x\n",
            "4: field `logging.filenam`: is unknown; did you mean `filename`?",
        ),
    ] {
        assert_eq!(error_in_pair(lines), error, "{lines:?}");
    }
}

#[test]
fn durations_are_read_and_invalid_ones_are_rejected() {
    let config = pair("peers: {max_clock_offset: 0.25}\nbenchmark: {timeout: 0.5}\n");
    assert_eq!(config.peers.max_clock_offset, Duration::from_millis(250));
    assert_eq!(config.benchmark.timeout, Duration::from_millis(500));
    assert_eq!(pair("peers: {max_clock_offset: 0}").peers.max_clock_offset, Duration::ZERO);
    for (lines, error) in [
        (
            "peers:\n  max_clock_offset: -1\n",
            "4: field `peers.max_clock_offset`: -1 is out of range; use a number of seconds from 0 to 86400",
        ),
        (
            "peers:\n  max_clock_offset: 5s\n",
            "4: field `peers.max_clock_offset`: is a string, not a number; use a number of seconds from 0 to 86400",
        ),
        ("peers:\n  max_clock_offset: 1e999\n", "4: contains a number that is not finite"),
        (
            "benchmark:\n  timeout: 0\n",
            "4: field `benchmark.timeout`: 0 is out of range; use a number of seconds from 0.001 to 86400",
        ),
        (
            "benchmark:\n  num_clients: 0\n",
            "4: field `benchmark.num_clients`: 0 is out of range; use a number from 1 to 1000000",
        ),
        (
            "benchmark:\n  num_client: 0\n",
            "4: field `benchmark.num_client`: is unknown; did you mean `num_clients`?",
        ),
    ] {
        assert_eq!(error_in_pair(lines), error, "{lines:?}");
    }
}

#[test]
fn the_provider_depends_on_the_key_unless_it_is_set() {
    let provider = |lines: &str, environment: &[(&str, &str)]| {
        let config = load_with(&format!("{PAIR}{lines}"), environment).unwrap();
        let url = config.places.provider.server().map(|server| server.url.to_string());
        (config.places.provider.name(), url.unwrap_or_default())
    };
    let env = &[("GOOGLE_PLACES_API_KEY", "k")][..];
    let google = "https://places.googleapis.com".to_owned();
    assert_eq!(provider("", &[]), ("offline", String::new()));
    assert_eq!(provider("", env), ("google", google.clone()));
    assert_eq!(provider("api_key: k", &[]), ("google", google.clone()));
    assert_eq!(provider("places: {provider: offline}", env), ("offline", String::new()));
    assert_eq!(provider("places: {provider: google}", env), ("google", google));
    assert_eq!(
        provider("places: {provider: google_legacy}", env),
        ("google_legacy", "https://maps.googleapis.com".to_owned())
    );
    assert_eq!(
        provider("places: {provider: overpass}", &[]),
        ("overpass", "https://overpass-api.de/api/interpreter".to_owned())
    );
    let emulator = "places: {provider: google, url: \"http://127.0.0.1:8080/emulator/\"}";
    assert_eq!(provider(emulator, env), ("google", "http://127.0.0.1:8080/emulator".to_owned()));
    for (lines, error) in [
        (
            "places:\n  provider: google\n",
            "4: field `places.provider`: requires an API key; set the environment variable GOOGLE_PLACES_API_KEY, `api_key_file` or `api_key`, or use offline or overpass",
        ),
        (
            "api_key: API_KEY\nplaces:\n  provider: google_legacy\n",
            "5: field `places.provider`: requires an API key; set the environment variable GOOGLE_PLACES_API_KEY, `api_key_file` or `api_key`, or use offline or overpass",
        ),
        (
            "places:\n  provider: overpas\n",
            "4: field `places.provider`: is not a valid provider; use offline, google, google_legacy or overpass; did you mean `overpass`?",
        ),
        (
            "api_key: k\nplaces:\n  url: http://proxy.example\n",
            "5: field `places.url`: would send the API key over the network unencrypted; use https:// (plain http:// is accepted for loopback addresses only)",
        ),
        (
            "api_key: k\nplaces:\n  url: proxy.example\n",
            "5: field `places.url`: has no valid scheme; start it with https:// or http://",
        ),
        (
            "places:\n  keys: k\n",
            "4: field `places.keys`: is unknown; remove it or use one of provider, url, ca_file, file, deadline_ms, pool_size, cache_ttl_s, cache_entries, max_in_flight, max_queued, requests_per_second, requests_per_day",
        ),
    ] {
        assert_eq!(error_in_pair(lines), error, "{lines:?}");
    }
    // Overpass has no key, so plain HTTP is accepted.
    pair("places: {provider: overpass, url: \"http://overpass.example/api/interpreter\"}\n");
}

#[test]
fn the_default_cache_time_depends_on_the_provider() {
    let ttl = |lines: &str| pair(lines).places.limits.cache_ttl;
    assert_eq!(ttl("api_key: k"), None);
    assert_eq!(ttl("api_key: k\nplaces: {cache_ttl_s: 30}"), Some(Duration::from_secs(30)));
    assert_eq!(ttl("places: {provider: overpass}"), Some(Duration::from_hours(1)));
    assert_eq!(ttl("places: {provider: overpass, cache_ttl_s: 0}"), None);
}

#[test]
fn keys_without_effect_cause_a_warning() {
    assert_eq!(
        pair("places:\n  url: https://a.example\n").warnings,
        ["herd.yml:4: field `places.url`: has no effect with provider offline"]
    );
    assert_eq!(
        pair("places:\n  provider: overpass\n  file: own.csv\n").warnings,
        ["herd.yml:5: field `places.file`: has no effect with provider overpass"]
    );
}

#[test]
fn http_is_disabled_without_ports() {
    assert_eq!(load(ORIGINAL).http, None);
    assert_eq!(pair("http:\n").http, None);
    let http = pair("http: {ports: {Clark: 8001}}\n").http.unwrap();
    assert_eq!((http.ports.as_slice(), &http.listen), (&[None, Some(8001)][..], &Host::LOOPBACK));
    assert_eq!((http.cors_origin, http.tiles), (None, None));
    let all = "http: {ports: {Bona: 8000}, listen: \"::\", hosts: [Map.example, 10.0.0.1], \
               cors_origin: \"https://b.example\", \
               tiles: {url: \"https://t.example:8/{z}/{x}/{y}{r}.png\", attribution: \"© T\"}}\n";
    let http = pair(all).http.unwrap();
    assert!(http.listen.is_unspecified());
    assert_eq!(http.hosts, ["map.example", "10.0.0.1"].map(|host| host.parse::<Host>().unwrap()));
    assert_eq!(http.cors_origin.as_deref(), Some("https://b.example"));
    let tiles = http.tiles.unwrap();
    assert_eq!((tiles.origin.as_str(), tiles.attribution.as_str()), ("https://t.example:8", "© T"));
}

#[test]
fn invalid_http_settings_are_rejected() {
    for (http, expected) in [
        ("{}", "field `http.ports`: is missing; list the HTTP port of each node: {Bailey: 8099}"),
        ("{ports: {Clerk: 1}}", "field `http.ports.Clerk`: there is no node `Clerk`"),
        ("{ports: {Bona: 0}}", "field `http.ports.Bona`: 0 is out of range"),
        ("{ports: {Bona: 1001}}", "port 1001 is already the node port of Bona; choose another"),
        ("{ports: {Bona: 1002}}", "port 1002 is already the node port of Clark; choose another"),
        (
            "{ports: {Bona: 80, Clark: 80}}",
            "port 80 is already the HTTP port of Bona; choose another",
        ),
        ("{ports: {Bona: 80}, hosts: [\"a:1\"]}", "field `http.hosts[0]`: is not a valid host"),
        ("{ports: {Bona: 80}, cors_origin: \"https://a/b\"}", "has a path; an origin"),
        ("{ports: {Bona: 80}, cors_origin: a.example}", "has no valid scheme"),
        (
            "{ports: {Bona: 80}, tiles: {url: \"https://a/{z}/{x}/{y}.png?key={apikey}\"}}",
            "`{apikey}` is not a placeholder of tile URLs",
        ),
        (
            "{ports: {Bona: 80}, tiles: {url: \"https://{s}.a/{z}/{x}/{y}{r}.{ext}\"}}",
            "`{s}` is not a placeholder",
        ),
        ("{ports: {Bona: 80}, tiles: {url: \"https://a/{z}/{x}/{y}{ z }\"}}", "`{ z }` is not"),
        ("{ports: {Bona: 80}, tiles: {url: \"https://a/{z}/{x}/{y}/}{\"}}", "`}` is not"),
        ("{ports: {Bona: 80}, tiles: {url: \"https://a/{z}/{x}/{y}/{z\"}}", "`{z` is not"),
        ("{ports: {Bona: 80}, tiles: {url: \"https://a/{z}/{x}.png\"}}", "is not a valid tile URL"),
        (
            "{ports: {Bona: 80}, tiles: {url: \"https://a;/{z}/{x}/{y}\"}}",
            "is not a valid tile URL",
        ),
        ("{ports: {Bona: 80}, tiles: {}}", "field `http.tiles.url`: is missing"),
        ("{port: {Bona: 80}}", "did you mean `ports`?"),
    ] {
        let error = error_in(&format!("{PAIR}http: {http}\n"));
        assert!(error.starts_with("3: ") && error.contains(expected), "{http}: {error}");
    }
    // Nodes on different machines can have the same HTTP port.
    let hosts = "hosts: {Bona: 10.0.0.1, Clark: 10.0.0.2}\npeers: {secret_file: }\n";
    assert!(pair(&format!("{hosts}http: {{ports: {{Bona: 80, Clark: 80}}}}\n")).http.is_some());
}

#[test]
fn feed_settings_are_read_and_invalid_ones_are_rejected() {
    let with = |feed: &str| format!("storage: {{directory: data}}\nfeed: {{{feed}}}\n");
    assert!(pair("").feed.is_none());
    let feed = pair(&with("url: \"redis://127.0.0.1\"")).feed.unwrap();
    assert_eq!(feed.engine.to_string(), "redis://127.0.0.1:6379/0");
    assert_eq!((feed.entries, feed.stream.as_str()), (Entries::All, "herd"));
    assert_eq!((feed.max_entries, feed.password.is_none()), (1_000_000, true));
    let all = "url: \"rediss://:p%3Aw@a/1\", entries: updates, stream: x, max_entries: 0";
    let feed = pair(&with(all)).feed.unwrap();
    assert_eq!((feed.entries, feed.stream.as_str()), (Entries::Updates, "x"));
    assert_eq!((feed.max_entries, feed.password.unwrap().expose()), (0, &b"p:w"[..]));
    for (feed, error) in [
        ("", "field `feed.url`: is missing; enter the engine: redis://127.0.0.1:6379/0"),
        (
            "url: a",
            "field `feed.url`: has no valid scheme; start it with redis://, rediss://, http:// or https://",
        ),
        ("url: \"redis://a\", entries: none", "use all, updates or fences"),
        ("url: \"redis://a\", stream: \"\"", "field `feed.stream`"),
        ("url: \"redis://a\", max_entries: -1", "field `feed.max_entries`: -1 is out of range"),
        ("url: \"redis://a\", max_length: 1", "unknown"),
        (
            "url: \"redis://:canary@a\", password_file: b",
            "field `feed.password_file`: sets a second password",
        ),
    ] {
        let error_found = error_in(&format!("{PAIR}{}", with(feed)));
        assert!(error_found.contains(error), "{feed}: {error_found}");
        assert!(!error_found.contains("canary"), "{error_found}");
    }
    let error = error_in(&format!("{PAIR}feed: {{url: \"redis://a\"}}\n"));
    assert!(error.contains("field `feed`: requires the section `storage`"), "{error}");
    // The password in the URL is used elsewhere in the file.
    let error =
        error_in(&format!("{PAIR}{}canary: 1\n", with("url: \"redis://:canary@127.0.0.1\"")));
    assert!(!error.contains("canary"), "{error}");
    let warnings = pair(&with("url: \"redis://:canary@10.0.0.1\", ca_file: /dev/null")).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("unencrypted") && warnings[1].contains("has no effect"));
}

#[test]
fn the_listener_for_devices_is_off_without_ports_and_open_on_loopback_only() {
    assert_eq!(pair("").devices, None);
    assert_eq!(pair("devices:\n").devices, None);
    let devices = pair("devices: {ports: {Clark: 5055}}\n").devices.unwrap();
    assert_eq!(devices.ports, [None, Some(5055)]);
    assert_eq!((devices.listen, devices.tokens_file, devices.tls), (Host::LOOPBACK, None, None));
    assert_eq!(devices.null_island, NullIsland::Drop);
    assert_eq!((devices.limits.max_accuracy_m, devices.limits.max_body), (None, 2 << 20));
    for listen in ["127.9.9.9", "::1", "localhost", "\"::ffff:127.0.0.1\""] {
        pair(&format!("devices: {{ports: {{Clark: 5055}}, listen: {listen}}}\n"));
    }
    let all = "devices: {ports: {Bona: 5055}, listen: 0.0.0.0, tokens_file: a/tokens, \
               tls: {certificate: \"{name}.pem\", key: \"{name}.key\"}, max_accuracy_m: 200, \
               null_island: keep, max_body: 1048576}\n";
    let devices = pair(all).devices.unwrap();
    assert!(devices.listen.is_unspecified());
    assert_eq!(devices.tokens_file, Some("a/tokens".into()));
    let tls = devices.tls.unwrap();
    let files = (tls.certificate_of("Bona"), tls.key_of("Bona"));
    assert_eq!(files, ("Bona.pem".into(), "Bona.key".into()));
    assert_eq!(devices.null_island, NullIsland::Keep);
    assert_eq!((devices.limits.max_accuracy_m, devices.limits.max_body), (Some(200), 1 << 20));
}

#[test]
fn invalid_settings_for_devices_are_rejected() {
    let http = "http: {ports: {Bona: 80}}\n";
    for (devices, expected) in [
        ("{}", "field `devices.ports`: is missing; list the port for devices of each node"),
        ("{ports: {Clerk: 1}}", "field `devices.ports.Clerk`: there is no node `Clerk`"),
        ("{ports: {Bona: 1001}}", "port 1001 is already the node port of Bona; choose another"),
        ("{ports: {Clark: 80}}", "port 80 is already the HTTP port of Bona; choose another"),
        (
            "{ports: {Bona: 5055, Clark: 5055}}",
            "port 5055 is already the device port of Bona; choose another",
        ),
        (
            "{ports: {Bona: 1}, listen: 0.0.0.0}",
            "field `devices.listen`: 0.0.0.0 can be reached from other machines, so every device \
             needs a token; set devices.tokens_file, and",
        ),
        ("{ports: {Bona: 1}, listen: \"::\"}", "[::] can be reached from other machines"),
        ("{ports: {Bona: 1}, listen: herd.example}", "herd.example can be reached from other"),
        ("{ports: {Bona: 1}, tokens_file: \"\"}", "field `devices.tokens_file`: is empty"),
        ("{ports: {Bona: 1}, tokens_fil: x}", "did you mean `tokens_file`?"),
        ("{ports: {Bona: 1}, null_island: yes}", "is not a valid choice; use drop or keep"),
        ("{ports: {Bona: 1}, max_accuracy_m: 1000001}", "use a number from 1 to 1000000, or 0"),
        ("{ports: {Bona: 1}, tls: {certificate: c}}", "`devices.tls.certificate`: cannot read c"),
        (
            "{ports: {Bona: 1}, tls: {certificate: \"{name}\"}}",
            "field `devices.tls.key`: is missing; certificate and key are both required",
        ),
    ] {
        let error = error_in(&format!("{PAIR}{http}devices: {devices}\n"));
        assert!(error.starts_with("4: ") && error.contains(expected), "{devices}: {error}");
    }
    // Nodes on different machines can have the same port.
    let hosts = "hosts: {Bona: 10.0.0.1, Clark: 10.0.0.2}\n";
    let devices = "devices: {ports: {Bona: 5055, Clark: 5055}}\n";
    assert!(pair(&format!("{hosts}{devices}")).devices.is_some());
}

#[test]
fn storage_settings_are_read_and_invalid_ones_are_rejected() {
    assert_eq!(pair("").storage, None);
    let storage = pair("storage: {directory: data}\n").storage.unwrap();
    assert_eq!((storage.directory, storage.sync), ("data".into(), Sync::Interval));
    assert_eq!(storage.limits.sync_interval, Duration::from_secs(1));
    assert_eq!(storage.limits.max_bytes, 4 << 30);
    let storage = pair("storage: {directory: /var/lib/herd, sync: always}\n").storage.unwrap();
    assert_eq!((storage.directory, storage.sync), ("/var/lib/herd".into(), Sync::Always));
    for (lines, error) in [
        (
            "storage:\n  sync: never\n",
            "3: field `storage.directory`: is missing; name the directory in which the nodes store their records: data",
        ),
        (
            "storage:\n  directory: \"\"\n",
            "4: field `storage.directory`: is empty; enter a path or remove the line",
        ),
        (
            "storage:\n  directory: data\n  sync: sometimes\n",
            "5: field `storage.sync`: is not a valid mode; use always, interval or never",
        ),
    ] {
        assert_eq!(error_in_pair(lines), error, "{lines:?}");
    }
    // Such a node would write its files into the working directory.
    for name in [".", ".."] {
        let yaml = format!("ports: {{\"{name}\": 1}}\nneighbors: {{}}\n");
        assert_eq!(load(&yaml).nodes[0].name, name);
        let error = error_in(&format!("{yaml}storage: {{directory: data}}\n"));
        let expected =
            format!("the node `{name}` cannot have a directory of its name; rename the node");
        assert_eq!(error, format!("3: field `storage`: {expected}"));
    }
}
