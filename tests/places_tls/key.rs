//! The API key is sent to the provider and shown nowhere else. A unique key takes every path that could
//! expose it, and then all output is searched for it.

use std::fs;
use std::path::Path;

use crate::common::{Client, Herd, Whatsat, find, seconds, wall_ns};
use crate::servers::{Server, authority, certificates, write_file};

/// A key that must not appear in any encoding. It has to be percent-encoded in a URL.
const CANARY: &str = "C4n4ryC0re/plus+x";

/// The part of the key that is the same in any encoding.
const TRACE: &[u8] = b"C4n4ryC0re";

/// The source of the key.
#[derive(Clone, Copy, Debug)]
enum Source {
    Environment,
    File,
    Configuration,
}

const SOURCES: [Source; 3] = [Source::Environment, Source::File, Source::Configuration];

/// A herd of one node, not started, with the canary as its key and verbose logging.
fn herd(source: Source, places: &str) -> Herd {
    let key = match source {
        Source::Environment => String::new(),
        Source::File => "api_key_file: key-file".to_owned(),
        Source::Configuration => format!("api_key: {CANARY}"),
    };
    let mut herd = Herd::with_level(&[("Solo", &[])], "DEBUG", &format!("{key}\n{places}"));
    herd.set_environment("RUST_LOG", "trace");
    herd.set_environment("RUST_BACKTRACE", "full");
    match source {
        Source::Environment => herd.set_environment("GOOGLE_PLACES_API_KEY", CANARY),
        Source::File => drop(write_file(&herd, "key-file", format!("{CANARY}\n").as_bytes())),
        Source::Configuration => {}
    }
    herd
}

/// `deadline_ms` must be long enough for a loaded machine, unless the provider does not respond.
fn section(provider: &str, url: &str, deadline_ms: u32) -> String {
    let authority = authority();
    let ca = authority.display();
    format!(
        "places: {{provider: {provider}, url: \"{url}\", ca_file: \"{ca}\", deadline_ms: {deadline_ms}}}"
    )
}

#[track_caller]
fn assert_absent(what: &str, bytes: &[u8]) {
    assert!(find(bytes, TRACE).is_none(), "the key is in {what}: {}", bytes.escape_ascii());
    assert!(find(bytes, b"panicked").is_none(), "{what}: {}", bytes.escape_ascii());
}

/// Searches all files of a herd: its logs and the output of its nodes.
fn search(herd: &Herd) -> usize {
    fn search(directory: &Path) -> usize {
        let mut searched = 0;
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                searched += search(&path);
            } else if !["config.yml", "key-file"].contains(&name) {
                let bytes = fs::read(&path).unwrap();
                assert_absent(name, &bytes);
                searched += bytes.len();
            }
        }
        searched
    }
    search(herd.directory())
}

/// Asks about `count` different places, and searches the replies.
fn ask(client: &mut Client, count: usize) -> Vec<String> {
    let mut statuses = Vec::new();
    for i in 0..count {
        client.iamat("kiwi", &format!("+34.0{i}-118.4"), &seconds(wall_ns()));
        client.send(b"WHATSAT kiwi 10 20\n");
        let reply = client.until(b"\n\n");
        assert_absent("a reply", &reply);
        statuses.push(Whatsat::parse(&reply).status().to_owned());
    }
    statuses
}

/// A server that requires the canary receives it. Otherwise the other tests would prove nothing.
#[test]
fn every_source_of_the_key_reaches_the_provider() {
    let emulator = Server::emulator(&["--api-key", CANARY]);
    for source in SOURCES {
        for provider in ["google", "google_legacy"] {
            let mut herd = herd(source, &section(provider, emulator.url(), 30_000));
            herd.start("Solo");
            assert_eq!(ask(&mut herd.client("Solo"), 1), ["OK"], "{source:?} {provider}");
            let check = herd.run(&["--check"]);
            assert!(check.status.success());
            assert_absent("--check", &[check.stdout, check.stderr].concat());
            herd.signal("Solo", "USR1");
            herd.wait_for_log("Solo", &[r#"places_answers_total{status="ok"}=1"#]);
            assert!(search(&herd) > 0);
        }
    }
}

#[test]
fn a_rejected_key_is_not_shown() {
    let emulator = Server::emulator(&[]);
    for source in SOURCES {
        for provider in ["google", "google_legacy"] {
            let mut herd = herd(source, &section(provider, emulator.url(), 30_000));
            herd.start("Solo");
            assert_eq!(ask(&mut herd.client("Solo"), 1), ["REQUEST_DENIED"], "{provider}");
            search(&herd);
        }
    }
}

fn response(head: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {head}\r\nX-Your-Key: {CANARY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Responses of a server or a proxy that repeat the key.
fn leaks() -> Vec<String> {
    let mut all = Vec::new();
    let encoded = CANARY.replace('/', "%2F").replace('+', "%2B");
    let escaped = CANARY.replace('/', "\\/");
    for echo in [CANARY, &encoded, &escaped, &CANARY.repeat(3)] {
        for code in ["200 OK", "400 No", "403 No", "429 No", "500 No", "503 No"] {
            for body in [
                format!(r#"{{"error":{{"code":403,"message":"bad {echo}","status":"{echo}"}}}}"#),
                format!(
                    r#"{{"status":"REQUEST_DENIED","error_message":"bad {echo}","results":[]}}"#
                ),
                format!(r#"{{"status":"OK","results":[{{"name":"{echo}","vicinity":"{echo}"}}]}}"#),
                format!(r#"{{"places":[{{"displayName":{{"text":"{echo}"}},"id":"{echo}"}}]}}"#),
                format!("<html>{echo}</html>"),
            ] {
                all.push(response(code, &body));
            }
        }
        for code in ["301 Moved", "302 Found", "307 There", "308 There"] {
            for target in ["https://other.example/x?key=", "https://", "/", ""] {
                all.push(response(&format!("{code}\r\nLocation: {target}{echo}"), ""));
            }
        }
    }
    all.push(format!("HTTP/1.1 200 {CANARY}\r\nContent-Length: 2\r\n\r\n{{}}"));
    all.push(format!("HTTP/1.1 999 {CANARY}\r\nContent-Length: 2\r\n\r\n{{}}"));
    for broken in ["HTTP/1.1 200 OK\r\nContent-Length: ", "HTTP/1.1 ", "", "{\"error\": \""] {
        all.push(format!("{broken}{CANARY}\r\n\r\n"));
    }
    all
}

#[test]
fn a_key_repeated_by_the_server_is_not_passed_on() {
    let holder = Herd::new(&[("Solo", &[])], "");
    let good = r#"{"status":"ZERO_RESULTS","results":[],"html_attributions":[]}"#;
    let good = write_file(&holder, "good", response("200 OK", good).as_bytes());
    let leaks = leaks();
    let mut options = Vec::new();
    for (i, response) in leaks.iter().enumerate() {
        let bad = write_file(&holder, &format!("bad{i}"), response.as_bytes());
        // Good responses in between keep the circuit breaker closed.
        for file in [&bad, &good] {
            options.extend(["--response".to_owned(), file.to_str().unwrap().to_owned()]);
        }
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    for provider in ["google", "google_legacy"] {
        let server = Server::hostile(&options);
        let mut herd = herd(Source::Configuration, &section(provider, server.url(), 30_000));
        herd.start("Solo");
        let statuses = ask(&mut herd.client("Solo"), 2 * leaks.len());
        // Every response was sent; no question was refused without a request.
        let answered = server.end().iter().filter(|event| event["event"] == "response").count();
        assert_eq!(answered, statuses.len(), "{provider}: {statuses:?}");
        assert!(statuses.iter().skip(1).step_by(2).all(|status| status == "ZERO_RESULTS"));
        search(&herd);
    }
}

#[test]
fn no_connection_failure_shows_the_key() {
    for (i, options) in [
        &["--certificate", "expired"][..],
        &["--certificate", "wrong-host"],
        &["--certificate", "self-signed"],
        &["--at", "hello"],
        &["--at", "hello", "--then", "close"],
        &["--at", "wire:300", "--then", "reset"],
        &["--at", "request"],
        &["--at", "request", "--then", "reset"],
        &["--at", "request", "--skip-requests", "1", "--then", "close"],
        &["--at", "body", "--then", "close"],
    ]
    .iter()
    .enumerate()
    {
        let server = Server::hostile(options);
        let provider = ["google", "google_legacy"][i / 2 % 2];
        let mut herd = herd(SOURCES[i % 3], &section(provider, server.url(), 700));
        herd.start("Solo");
        ask(&mut herd.client("Solo"), 3);
        herd.signal("Solo", "TERM");
        herd.wait("Solo", crate::common::DEADLINE);
        search(&herd);
    }
    for url in ["https://localhost:1", "https://[::1]:1", "https://a.invalid"] {
        let mut herd = herd(Source::Environment, &section("google_legacy", url, 30_000));
        herd.start("Solo");
        assert_eq!(ask(&mut herd.client("Solo"), 1), ["UNKNOWN_ERROR"], "{url}");
        search(&herd);
    }
}

/// Errors of a configuration name the line and the field, but never repeat the key.
#[test]
fn errors_of_a_configuration_do_not_show_the_key() {
    let authorities = certificates().display();
    for wrong in [
        format!("api_key: \"{CANARY}\n"),
        format!("api_key: [{CANARY}]\n"),
        format!("api_key: {{a: {CANARY}}}\n"),
        format!("api_kye: {CANARY}\n"),
        format!("api_key: {CANARY}\napi_key: {CANARY}\n"),
        format!("api_key: {CANARY} y\n"),
        format!("api_key: {CANARY}: y\n"),
        format!("api_key:{CANARY}\n"),
        format!("api_key: *{CANARY}\n"),
        format!("api_key: \"\\q{CANARY}\"\n"),
        format!("api_key: \"{CANARY}\\u00e9\"\n"),
        format!("api_key_file: {CANARY}\n"),
        format!("places: {{api_key: {CANARY}}}\n"),
        format!("places: {CANARY}\n"),
        format!("{CANARY}\n"),
        format!("api_key: {CANARY}\nplaces: [\n"),
        format!("api_key: {CANARY}\nplaces: {{pool_size: 0}}\n"),
        format!("api_key: {CANARY}\nplaces: {{url: \"http://a.example\"}}\n"),
        format!("api_key: {CANARY}\nplaces: {{url: \"https://a.example/?key={CANARY}\"}}\n"),
        format!("api_key: {CANARY}\nplaces: {{ca_file: {authorities}/nothing}}\n"),
        format!("api_key: {CANARY}\nplaces: {{ca_file: {authorities}/ca.key}}\n"),
    ] {
        let herd = Herd::new(&[("Solo", &[])], &wrong);
        let output = herd.run(&["Solo"]);
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        assert_absent(&wrong.escape_debug().to_string(), &[output.stdout, output.stderr].concat());
        search(&herd);
    }
    let mut herd = Herd::new(&[("Solo", &[])], "");
    herd.set_environment("GOOGLE_PLACES_API_KEY", format!("{CANARY} y"));
    let output = herd.run(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_absent("the error about the environment", &[output.stdout, output.stderr].concat());
}
