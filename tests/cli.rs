//! The command line of the binary: output and exit status.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, helpers are part of them")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A command for the binary in the root of the repository, without the environment variables that it
/// reads.
fn proxy_herd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-herd"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    for name in ["GOOGLE_PLACES_API_KEY", "HERD_SECRET", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Returns the exit status, standard output and standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Writes a file for the test `test` and returns its path.
fn configuration(test: &str, yaml: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{test}.yml"));
    fs::write(&path, yaml).unwrap();
    path.to_str().unwrap().to_owned()
}

const USAGE: &str = "\
Usage: proxy-herd [-c FILE] NAME
       proxy-herd [-c FILE] --check
       proxy-herd [-c FILE] --status [NAME...]
       proxy-herd [-c FILE] --forget CLIENT [NAME]
       proxy-herd [-c FILE] --invite CLIENT|PREFIX* [NAME]
Nodes of conf/config.yml: Bailey, Bona, Campbell, Clark, Jaquez
Try 'proxy-herd --help' for more information.
";

#[test]
fn help_and_version_go_to_standard_output() {
    for option in ["--help", "-h"] {
        let (code, out, err) = run(&mut proxy_herd(&[option]));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.starts_with("Usage: proxy-herd [-c FILE] NAME\n"), "{out}");
        for part in ["--config FILE", "--check", "--limits", "HERD_SECRET", "Exit status:"] {
            assert!(out.contains(part), "{part} is missing in {out}");
        }
    }
    let version = format!("proxy-herd {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&mut proxy_herd(&["--version"])), (Some(0), version.clone(), String::new()));
    // Neither reads the configuration.
    let (code, out, _) = run(&mut proxy_herd(&["-V", "-c", "/nowhere"]));
    assert_eq!((code, out), (Some(0), version));
}

#[test]
fn limits_are_printed_as_a_markdown_table() {
    let (code, out, err) = run(&mut proxy_herd(&["--limits"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("| Key | Default |"));
    assert!(out.contains("\n| `limits.max_line` | 4096 bytes |"));
}

#[test]
fn an_invalid_command_line_lists_the_nodes_and_exits_with_2() {
    for (arguments, wrong) in [
        (&[][..], "missing node name"),
        (&["bona"], "there is no node `bona`; did you mean `Bona`?"),
        (&["Goloman"], "there is no node `Goloman`"),
        (&["\u{1b}[2J"], "there is no node `\\u{1b}[2J`"),
        (&["Bona", "Clark"], "more than one node name; each process runs one node"),
        (&["--check", "Bona"], "--check validates the whole configuration; omit the name"),
        (&["--bogus"], "Unrecognized option: 'bogus'"),
        (&["--bogus", "--config=conf/config.yml"], "Unrecognized option: 'bogus'"),
        (&["-x", "-cconf/config.yml", "Bona"], "Unrecognized option: 'x'"),
        (&["--check=yes"], "Option 'check' does not take an argument"),
    ] {
        let usage = format!("proxy-herd: {wrong}\n{USAGE}");
        assert_eq!(run(&mut proxy_herd(arguments)), (Some(2), String::new(), usage));
    }
}

#[test]
fn the_listed_nodes_are_those_of_the_given_configuration() {
    let file = configuration("names", "ports: {Alice: 1, Bob: 2}\nneighbors: {Bob: [Alice]}\n");
    for arguments in [
        &["-c", &file][..],
        &["--config", &file, "Bona"],
        &[&format!("-c{file}"), "--bogus"],
        &[&format!("--config={file}"), "--bogus"],
        &["--bogus", "--config", &file],
    ] {
        let (code, out, err) = run(&mut proxy_herd(arguments));
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert!(err.contains(&format!("\nNodes of {file}: Alice, Bob\n")), "{err}");
    }
    // Without a readable configuration, the error does not list nodes.
    let (code, _, err) = run(&mut proxy_herd(&["--bogus", "-c", "/nowhere"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("Unrecognized option: 'bogus'") && !err.contains("Nodes of"), "{err}");
    let (code, _, err) = run(&mut proxy_herd(&["Bona", "-c"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("Argument to option 'c' missing"), "{err}");
}

#[test]
fn an_argument_that_is_not_utf8_is_an_error() {
    let mut command = proxy_herd(&[]);
    command.arg(std::ffi::OsStr::from_bytes(b"Bon\xff"));
    let (code, _, err) = run(&mut command);
    assert_eq!(code, Some(2));
    assert!(err.contains("Bon\\xFF"), "{err}");
}

#[test]
fn a_configuration_that_cannot_be_loaded_exits_with_1() {
    let missing = "proxy-herd: /nowhere: does not exist; \
                   specify the configuration with -c FILE\n";
    for arguments in [
        &["-c", "/nowhere", "Bona"][..],
        &["-c", "/nowhere"],
        &["-c", "/nowhere", "A", "B"],
        &["-c", "/nowhere", "--check"],
    ] {
        let outcome = run(&mut proxy_herd(arguments));
        assert_eq!(outcome, (Some(1), String::new(), missing.to_owned()));
    }
    let file = configuration("invalid", "ports:\n  Bona: 0\n");
    let error = format!(
        "proxy-herd: {file}:2: field `ports.Bona`: 0 is out of range; use a number from 1 to 65535\n"
    );
    assert_eq!(run(&mut proxy_herd(&["--check", "-c", &file])), (Some(1), String::new(), error));
}

#[test]
fn check_prints_a_summary() {
    let (code, out, err) = run(&mut proxy_herd(&["--check"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "\
conf/config.yml: 5 nodes, 6 edges

Node      Listens on       Reached at       Neighbors
Bailey    127.0.0.1:10099  127.0.0.1:10099  Bona, Campbell
Bona      127.0.0.1:10044  127.0.0.1:10044  Bailey, Campbell, Clark
Campbell  127.0.0.1:10022  127.0.0.1:10022  Bailey, Bona, Jaquez
Clark     127.0.0.1:10211  127.0.0.1:10211  Bona, Jaquez
Jaquez    127.0.0.1:10194  127.0.0.1:10194  Campbell, Clark

Places: offline, built-in gazetteer
HTTP: Bailey at 127.0.0.1:8099, Bona at 127.0.0.1:8044, Campbell at 127.0.0.1:8022, Clark at 127.0.0.1:8211, Jaquez at 127.0.0.1:8194
Peers: no secret, no TLS, maximum clock offset 5 s
Logs: logs/NAME.log, level INFO
Storage: data/NAME, sync: interval
Limits: all at their defaults
"
    );
}

#[test]
fn check_prints_changed_limits_and_warnings() {
    let file = configuration(
        "differs",
        "ports: {Bailey: 80, Bona: 80, Clark: 81}\n\
         neighbors: {Bailey: [Bona]}\n\
         hosts: {Bailey: {listen: 0.0.0.0, dial: bailey.example}, Bona: \"2001:db8::1\"}\n\
         limits: {max_line: 512, idle_timeout_s: 90}\n\
         places: {provider: google, url: \"http://localhost:8080/emulator\", deadline_ms: 100}\n\
         peers: {seed_compatible: [Bona], max_clock_offset: 0.5}\n\
         logging: {level: warn, directory: /var/log/herd}\n",
    );
    let mut command = proxy_herd(&["--check", "-c", &file]);
    command.env("GOOGLE_PLACES_API_KEY", "canary-key").env("HERD_SECRET", "canary-secret");
    let (code, out, err) = run(&mut command);
    assert_eq!(code, Some(0));
    assert_eq!(
        err,
        format!(
            "proxy-herd: warning: {file}:2: field `neighbors`: no path connects \
             Bailey to Clark, so they will not share locations; add an edge\n"
        )
    );
    assert_eq!(
        out.strip_prefix(&file).unwrap(),
        "\
: 3 nodes, 1 edge

Node    Listens on        Reached at         Neighbors
Bailey  0.0.0.0:80        bailey.example:80  Bona
Bona    [2001:db8::1]:80  [2001:db8::1]:80   Bailey (original server)
Clark   127.0.0.1:81      127.0.0.1:81

Places: google at http://localhost:8080/emulator
HTTP: off
Peers: shared secret, no TLS, maximum clock offset 0.5 s
Logs: /var/log/herd/NAME.log, level WARNING
Storage: off
Limits not at their defaults:
    limits.max_line: 512 bytes, default 4096 bytes
    limits.idle_timeout_s: 90 s, default 0 (off)
    places.deadline_ms: 100 ms, default 5000 ms
"
    );
    assert!(!out.contains("canary") && !err.contains("canary"));
}

#[test]
fn check_names_the_engine_of_the_feed_without_its_password() {
    let file = configuration(
        "feed",
        "ports: {Bailey: 80}\n\
         storage: {directory: data}\n\
         feed: {url: \"redis://user:canary@127.0.0.1:6379/2\", stream: fleet}\n",
    );
    let (code, out, err) = run(&mut proxy_herd(&["--check", "-c", &file]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let expected =
        "\nStorage: data/NAME, sync: interval\nFeed: redis://127.0.0.1:6379/2, stream fleet:NAME\n";
    assert!(out.contains(expected) && !out.contains("canary"), "{out}");
}

#[test]
fn check_says_so_if_no_node_listens() {
    let yaml = "ports: {A: 12345}\nneighbors: {}\nhttp: {ports: {}}\ndevices: {ports: {}}\n";
    let file = configuration("nowhere", yaml);
    let (code, out, err) = run(&mut proxy_herd(&["--check", "-c", &file]));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\nHTTP: no node\nDevices: no node, without tokens\n"), "{out}");
}

/// `--check` finds invalid files that would keep a node from starting.
#[test]
fn check_reads_the_files_that_nodes_read() {
    let empty = configuration("empty", "");
    let no_longitude = configuration("no-longitude.csv", "name,lat\nA,1\n");
    let nodes = "ports: {Bailey: 80, Bona: 81}\n";
    for (test, lines, what) in [
        ("ca", format!("places: {{provider: overpass, ca_file: {empty}}}"), "certificate"),
        ("places", format!("places: {{file: {no_longitude}}}"), "places file"),
        (
            "tls",
            format!("peers: {{tls: {{certificate: {empty}, key: {empty}, ca: {empty}}}}}"),
            "peers.tls",
        ),
    ] {
        let file = configuration(test, &format!("{nodes}{lines}\n"));
        let checked = run(&mut proxy_herd(&["--check", "-c", &file]));
        assert_eq!((checked.0, checked.1.as_str()), (Some(1), ""), "{test}: {}", checked.2);
        assert!(checked.2.contains(what), "{test}: {}", checked.2);
        assert_eq!(
            run(&mut proxy_herd(&["-c", &file, "Bona"])),
            checked,
            "the error is the same as at start-up"
        );
    }
    // The certificates of nodes on other machines need not exist here.
    let tls = format!("peers: {{tls: {{certificate: '{{name}}.pem', key: a, ca: {empty}}}}}\n");
    let tls = tls.replace("key: a", "key: '{name}.key'");
    let file = configuration("elsewhere", &format!("{nodes}{tls}"));
    let (code, out, err) = run(&mut proxy_herd(&["--check", "-c", &file]));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("TLS, maximum clock offset"), "{out}");
    for node in ["Bailey", "Bona"] {
        assert!(err.contains(&format!("warning: {node} cannot start on this machine: ")), "{err}");
    }
}

#[test]
fn a_closed_pipe_on_standard_output_is_not_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let outcome = run(proxy_herd(&["--check"]).stdout(writer));
    assert_eq!(outcome, (Some(0), String::new(), String::new()));
}

#[test]
fn a_closed_pipe_on_standard_error_does_not_cause_a_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(proxy_herd(&["--bogus"]).stderr(writer)).0, Some(2));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (code, _, err) = run(proxy_herd(&["--check"]).stdout(full));
    assert_eq!(code, Some(1));
    assert!(err.contains("standard output: No space left on device"), "{err}");
}

#[test]
fn a_configuration_can_be_read_from_a_pipe() {
    let mut child = proxy_herd(&["--check", "-c", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"{\"ports\": {\"A\": 1}}")
        .unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(out.starts_with("/dev/stdin: 1 node, 0 edges\n"), "{out}");
}

/// The manual pages and docs/cli.md describe exactly the options that `--help` lists.
#[test]
fn the_documentation_describes_all_options() {
    let guide = include_str!("../docs/cli.md");
    let (node, bench) = guide.split_once("\n## herd-bench\n").unwrap();
    for (program, page, guide) in [
        (env!("CARGO_BIN_EXE_proxy-herd"), include_str!("../packaging/man/proxy-herd.1"), node),
        (env!("CARGO_BIN_EXE_herd-bench"), include_str!("../packaging/man/herd-bench.1"), bench),
    ] {
        let help = Command::new(program).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let expected = options(&help, |line| line.trim_start().starts_with('-'));
        let page = page.replace('\\', "");
        assert_eq!(options(&page, |line| line.starts_with(".B")), expected, "{page}");
        assert_eq!(options(guide, |line| line.starts_with("| `-")), expected, "docs/cli.md");
    }
}

/// Returns the long options in the lines that describe one.
fn options(text: &str, describes: fn(&str) -> bool) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| describes(line));
    lines
        .flat_map(|line| line.split(|c: char| !(c == '-' || c.is_ascii_lowercase())))
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .map(str::to_owned)
        .collect()
}

/// Runs `--check` on the configuration `yaml` of the test `test`, and returns its warnings.
fn warnings(test: &str, yaml: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let file = configuration(test, yaml);
    let mut command = proxy_herd(&["--check", "-c", &file]);
    let (code, _, err) = run(command.envs(environment.iter().copied()));
    assert_eq!(code, Some(0), "{err}");
    let prefix = "proxy-herd: warning: ";
    err.lines().map(|line| line.strip_prefix(prefix).unwrap().to_owned()).collect()
}

#[test]
fn check_warns_about_secrets_that_can_be_guessed_or_read() {
    let herd = "ports: {Bailey: 10099}\n";
    let secret = configuration("secret", "k");
    let yaml = format!("{herd}peers: {{secret_file: {secret}}}\n");
    let mode = |mode| fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    let [short] = warnings("secret-short", &yaml, &[]).try_into().unwrap();
    assert!(short.contains("has only 1 byte and can be guessed"), "{short}");
    mode(0o644);
    let both = warnings("secret-public", &yaml, &[]);
    assert!(both[1].contains("cli-secret.yml can be read by every user"), "{both:?}");
    fs::write(&secret, "correct horse battery staple\n").unwrap();
    assert_eq!(warnings("secret-public", &yaml, &[]).len(), 1);
    mode(0o640);
    assert_eq!(warnings("secret-private", &yaml, &[]), [""; 0]);
    // The environment takes precedence over the file.
    mode(0o644);
    let env = |value| warnings("secret-env", &yaml, &[("HERD_SECRET", value)]);
    assert_eq!(env("correct horse battery"), [""; 0]);
    assert!(env("aaaaaaaaaaaaaaaaaaaa")[0].contains("repeats one byte"));
    assert!(env("eleven-byte")[0].contains("has only 11 bytes"));
    let yaml = format!("{herd}api_key_file: {secret}\n");
    fs::write(&secret, "canary-key").unwrap();
    let [public] = warnings("key-public", &yaml, &[]).try_into().unwrap();
    assert!(public.starts_with("api_key_file ") && !public.contains("canary"), "{public}");
}

#[test]
fn check_warns_about_an_exposed_http_interface() {
    let yaml = |http: &str| {
        format!("ports: {{Bailey: 10099}}\nhttp: {{ports: {{Bailey: 8099}}, {http}}}\n")
    };
    for (listen, exposed) in [
        ("0.0.0.0", true),
        ("\"::\"", true),
        ("\"[::]\"", true),
        ("127.0.0.1", false),
        ("10.0.0.1", false),
    ] {
        let warnings = warnings("http-listen", &yaml(&format!("listen: {listen}")), &[]);
        assert_eq!(warnings.len(), usize::from(exposed), "{listen}: {warnings:?}");
        assert!(warnings.iter().all(|it| it.starts_with("http.listen is ")), "{warnings:?}");
    }
    let [any] = warnings("cors", &yaml("cors_origin: \"*\""), &[]).try_into().unwrap();
    assert!(any.starts_with("http.cors_origin is `*`: "), "{any}");
    assert_eq!(warnings("cors", &yaml("cors_origin: \"https://a.example\""), &[]), [""; 0]);
}

#[test]
fn check_warns_about_a_log_that_cannot_be_written() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cli-logs");
    let _ = fs::remove_dir_all(&directory); // of an earlier run
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("file"), "").unwrap();
    fs::create_dir_all(directory.join("taken/Bailey.log")).unwrap();
    let check = |path: &str| {
        let path = directory.join(path);
        let yaml =
            format!("ports: {{Bailey: 10099}}\nlogging: {{directory: {}}}\n", path.display());
        warnings("logs", &yaml, &[])
    };
    for (path, why) in [
        ("file", "ot a directory"),
        ("file/logs", "Not a directory"),
        ("file/a/b", "Not a directory"),
        (&"x".repeat(300), "File name too long"),
        ("taken", "is a directory"),
    ] {
        let [warning] = check(path).try_into().unwrap();
        assert!(warning.starts_with("cannot write the log ") && warning.contains(why), "{warning}");
    }
    assert_eq!(check("a/b/c"), [""; 0]);
    assert!(!directory.join("a").exists(), "--check leaves no directory");
    assert_eq!(check(""), [""; 0]);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "--check leaves no file");
}

/// The error about an unsuitable key names its format.
#[test]
fn check_names_a_foreign_tls_key() {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let path = |name: &str| {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("cli-tls-{name}"))
            .display()
            .to_string()
    };
    let (plain, cert) = (path("plain"), path("cert"));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        &plain,
        "-out",
        &cert,
        "-subj",
        "/CN=Bailey",
        "-addext",
        "subjectAltName=DNS:Bailey",
        "-config",
        &configuration("openssl", "[req]\ndistinguished_name=dn\n[dn]\n"),
    ]);
    let key = |name: &str, arguments: &[&str]| {
        let out = path(name);
        openssl(&[arguments, &["-out", &out]].concat());
        out
    };
    let encrypted = key("encrypted", &["pkey", "-in", &plain, "-aes256", "-passout", "pass:x"]);
    let traditional = key("traditional", &["ec", "-in", &plain, "-aes256", "-passout", "pass:x"]);
    let der = key("der", &["pkey", "-in", &plain, "-outform", "DER"]);
    let other = key("other", &["genpkey", "-algorithm", "ED25519"]);
    let curve = key("curve", &["genpkey", "-algorithm", "ED448"]);
    let check = |key: &str, certificate: &str| {
        let tls = format!("{{certificate: {certificate}, key: {key}, ca: {cert}}}");
        let file =
            configuration("tls-key", &format!("ports: {{Bailey: 10099}}\npeers: {{tls: {tls}}}\n"));
        run(&mut proxy_herd(&["--check", "-c", &file]))
    };
    for (key, certificate, setting, what) in [
        (&encrypted, &cert, "key", "is encrypted with a passphrase"),
        (&traditional, &cert, "key", "is encrypted with a passphrase"),
        (&der, &cert, "key", "binary form DER"),
        (&cert, &cert, "key", "contains a certificate and no private key"),
        (&curve, &cert, "key", "an algorithm that is not supported"),
        (&other, &cert, "certificate", "does not belong to the key"),
        (&plain, &plain, "certificate", "contains a private key and no certificate"),
    ] {
        let (code, out, err) = check(key, certificate);
        assert_eq!((code, out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
        assert!(err.contains(&format!("peers.tls.{setting} ")) && err.contains(what), "{err}");
    }
    assert_eq!(check(&plain, &cert).0, Some(0));
}
