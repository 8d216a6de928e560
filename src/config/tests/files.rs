//! Tests of keys, secrets and the files that a configuration refers to.

use super::*;

#[test]
fn the_environment_takes_precedence_over_a_file_and_a_file_over_the_value() {
    let yaml = format!("{PAIR}api_key: from-value\napi_key_file: key.txt\n");
    let directory = TempDir::with(&[("herd.yml", yaml.as_bytes()), ("key.txt", b"from-file\r\n")]);
    let env = &[("GOOGLE_PLACES_API_KEY", "from-environment")];
    assert_eq!(key(&directory.load(env).unwrap()).unwrap(), b"from-environment");
    assert_eq!(key(&directory.load(&[]).unwrap()).unwrap(), b"from-file");
    assert_eq!(key(&pair("api_key: from-value")).unwrap(), b"from-value");

    let yaml = format!("{PAIR}peers: {{secret_file: secret}}\n");
    let directory = TempDir::with(&[("herd.yml", yaml.as_bytes()), ("secret", b"\x00\xff\n")]);
    let secret = |environment| directory.load(environment).unwrap().peers.secret.unwrap();
    assert_eq!(secret(&[]).expose(), b"\x00\xff");
    assert_eq!(secret(&[("HERD_SECRET", "hush")]).expose(), b"hush");
}

#[test]
fn the_placeholder_is_not_a_key_in_any_source() {
    assert_eq!(key(&pair("api_key: API_KEY")), None);
    let config = load_with(PAIR, &[("GOOGLE_PLACES_API_KEY", "API_KEY")]).unwrap();
    assert_eq!(config.places.provider.name(), "offline");
}

#[test]
fn invalid_keys_and_secrets_are_rejected() {
    let not_a_key = "contains a space, a line break or another character that is not valid in a key; copy the key again";
    for (lines, error) in [
        (
            "api_key: \"\"\n",
            "3: field `api_key`: is empty; enter a key or remove the line".to_owned(),
        ),
        (
            "api_key: 123\n",
            "3: field `api_key`: is an integer, not a string; put it in quotes".to_owned(),
        ),
        ("api_key: \"canary\\r\\nHost: x\"\n", format!("3: field `api_key`: {not_a_key}")),
        ("api_key: \"canary \"\n", format!("3: field `api_key`: {not_a_key}")),
        ("api_key: canäry\n", format!("3: field `api_key`: {not_a_key}")),
    ] {
        assert_eq!(error_in_pair(lines), error, "{lines:?}");
    }
    let env = |name, value| load_with(PAIR, &[(name, value)]).unwrap_err().to_string();
    assert_eq!(
        env("GOOGLE_PLACES_API_KEY", "canary\nx"),
        format!("environment variable GOOGLE_PLACES_API_KEY: {not_a_key}")
    );
    for name in ["GOOGLE_PLACES_API_KEY", "HERD_SECRET"] {
        let error = format!("environment variable {name}: is empty; set a value or unset it");
        assert_eq!(env(name, ""), error);
        assert_eq!(env(name, "\n"), error);
    }
}

#[test]
fn files_are_relative_to_the_configuration() {
    let yaml = format!(
        "{PAIR}places: {{provider: overpass, ca_file: ca.pem}}\n\
         peers: {{tls: {{certificate: ca.pem, key: ca.pem, ca: ca.pem}}}}\n"
    );
    let directory = TempDir::with(&[("herd.yml", yaml.as_bytes()), ("ca.pem", b"-")]);
    let config = directory.load(&[]).unwrap();
    let pem = directory.0.join("ca.pem");
    assert_eq!(config.places.provider.server().unwrap().ca_file.as_ref(), Some(&pem));
    assert_eq!(config.peers.tls.unwrap().key_of("Bona"), pem);

    let yaml = format!("{PAIR}places: {{file: own.csv}}\n");
    let directory = TempDir::with(&[("herd.yml", yaml.as_bytes()), ("own.csv", b"-")]);
    match directory.load(&[]).unwrap().places.provider {
        ProviderConfig::Offline { file } => assert_eq!(file, Some(directory.0.join("own.csv"))),
        other => panic!("{other:?}"),
    }

    let yaml = format!("{PAIR}fences: {{file: areas.geojson}}\n");
    let directory = TempDir::with(&[("herd.yml", yaml.as_bytes()), ("areas.geojson", b"-")]);
    let file = directory.0.join("areas.geojson");
    assert_eq!(directory.load(&[]).unwrap().fences, Some(FencesConfig { file }));
}

#[test]
fn plain_links_beside_tls_cause_a_warning() {
    let load = |more: &str| {
        let tls = format!("{{certificate: ca.pem, key: ca.pem, ca: ca.pem{more}}}");
        let yaml = format!("{PAIR}peers: {{tls: {tls}}}\n");
        TempDir::with(&[("herd.yml", yaml.as_bytes()), ("ca.pem", b"-")]).load(&[])
    };
    for (more, accepted) in
        [("", false), (", accept_plain: false", false), (", accept_plain: true", true)]
    {
        let config = load(more).unwrap();
        assert_eq!(config.peers.tls.as_ref().unwrap().accept_plain, accepted);
        assert_eq!(config.peers.requires_tls(), !accepted);
        let warnings = config.warnings.iter().filter(|it| {
            it.ends_with(
                "field `peers.tls.accept_plain`: links without TLS are established too; remove it \
                 when all nodes have peers.tls",
            )
        });
        assert_eq!(warnings.count(), usize::from(accepted), "{:?}", config.warnings);
    }
    let error = load(", accept_plain: \"true\"").unwrap_err();
    let expected =
        "`peers.tls.accept_plain`: is a string, not a boolean; use true or false, without quotes";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn unusable_files_are_rejected() {
    let missing = "No such file or directory (os error 2); correct the path, which is relative to the configuration";
    let secret = "use a file that contains only the secret";
    for (lines, error) in [
        ("places: {provider: overpass, ca_file: no.pem}\n", format!("`places.ca_file`: cannot read no.pem: {missing}")),
        ("fences: {file: no.geojson}\n", format!("`fences.file`: cannot read no.geojson: {missing}")),
        ("fences: {}\n", "`fences.file`: is missing; name the GeoJSON file: fences.geojson".to_owned()),
        ("fences: {files: a}\n", "`fences.files`: is unknown; did you mean `file`?".to_owned()),
        ("places: {file: no.csv}\n", format!("`places.file`: cannot read no.csv: {missing}")),
        ("places: {file: .}\n", "`places.file`: cannot read .: is a directory; correct the path, which is relative to the configuration".to_owned()),
        ("peers: {tls: {certificate: no, key: no, ca: no}}\n", format!("`peers.tls.certificate`: cannot read no: {missing}")),
        ("peers: {tls: {certificate: empty, key: empty}}\n", "`peers.tls.ca`: is missing; certificate, key and ca are all required".to_owned()),
        ("api_key_file: canary\n", format!("`api_key_file`: refers to a file that cannot be read: No such file or directory (os error 2); {secret}")),
        ("api_key_file: empty\n", "`api_key_file`: refers to an empty file; write the secret to it".to_owned()),
        ("peers: {secret_file: empty}\n", "`peers.secret_file`: refers to an empty file; write the secret to it".to_owned()),
        ("peers: {secret_file: large}\n", format!("`peers.secret_file`: refers to a file larger than 4096 bytes; {secret}")),
        ("api_key_file: lines\n", "`api_key_file`: contains a space, a line break or another character that is not valid in a key; copy the key again".to_owned()),
    ] {
        let yaml = format!("{PAIR}{lines}");
        let directory = TempDir::with(&[
            ("herd.yml", yaml.as_bytes()),
            ("empty", b"\n"),
            ("large", &[b'x'; 4097]),
            ("lines", b"canary\nX-Header: x\n"),
        ]);
        let actual = directory.load(&[]).unwrap_err();
        assert_eq!(actual, format!("herd.yml:3: field {error}"), "{lines:?}");
        assert!(!actual.contains("canary"));
    }
}

#[test]
fn a_secret_that_becomes_part_of_a_name_is_not_shown() {
    let with_secret = "B: 2}\nplaces: {url: https://canary:x@a.example}\nhosts: {C";
    for text in [
        format!("ports: {{A: 1, '{with_secret}': 3}}\n"),
        format!("ports: {{A: 1}}\nneighbors: {{'{with_secret}': [A]}}\n"),
        format!("ports: {{A: 1}}\nneighbors: {{A: ['{with_secret}']}}\n"),
        format!("ports: {{A: 1}}\nhttp: {{ports: {{'{with_secret}': 3}}}}\n"),
    ] {
        let error = Config::from_bytes(Path::new("f"), text.as_bytes(), &|_| None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("B…") && !error.contains("canary"), "{error}");
    }
}
