//! TLS between nodes: each node presents a certificate for its name from the herd's own CA.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::{DEADLINE, Herd, assert_bytes, eventually, find, lines, refused, show};
use crate::peer::{Peer, hello};
use crate::{PAIR, SECRET};

/// Creates a new CA and certificates for these nodes, and returns their directory.
fn create_certificates(herd: &Herd, authority: &str, names: &[&str]) -> PathBuf {
    let directory = herd.directory().join(authority);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mint_certs.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(&directory).arg("--herd").args(names);
    let output = command.output().expect("these tests require python3 and openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

/// The `peers` section of a node that uses the certificate of `name` in one directory and trusts
/// the CA in another.
fn peers(certificates: &Path, name: &str, trusts: &Path) -> String {
    let (certificates, trusts) = (certificates.display(), trusts.display());
    format!(
        "peers: {{tls: {{certificate: \"{certificates}/{name}.pem\", \
         key: \"{certificates}/{name}.key\", ca: \"{trusts}/ca.pem\"}}}}"
    )
}

/// Two nodes configured for TLS, not yet started.
fn pair() -> (Herd, PathBuf) {
    pair_with("")
}

fn pair_with(config: &str) -> (Herd, PathBuf) {
    let mut herd = Herd::new(&PAIR, config);
    let certificates = create_certificates(&herd, "certificates", &["Left", "Right", "Other"]);
    for name in ["Left", "Right"] {
        let own = peers(&certificates, "{name}", &certificates);
        herd.set_host(name, Ipv4Addr::LOCALHOST, &[], &own);
    }
    (herd, certificates)
}

fn assert_not_linked(herd: &Herd) {
    for (name, other) in [("Left", "Right"), ("Right", "Left")] {
        herd.client(name).iamat(name, "+1+1", "1");
        assert_eq!(herd.counter(name, "links_established_total"), 0);
        assert_eq!(herd.held(name, other), None);
    }
}

/// Connects to `name` over TLS, with the client certificate of `identity` if given.
fn connect(
    herd: &Herd,
    name: &str,
    certificates: &Path,
    identity: Option<&str>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(name) => {
            let file = |kind: &str| certificates.join(format!("{name}.{kind}"));
            let chain = vec![CertificateDer::from_pem_file(file("pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TcpStream::connect(herd.address(name)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), server).unwrap(), stream)
}

/// With and without a secret; many records at once, and reconnection of either node.
#[test]
fn nodes_link_over_tls_and_bring_each_other_up_to_date() {
    for secret in [None, Some(SECRET)] {
        let (mut herd, _) = pair();
        if let Some(secret) = secret {
            herd.set_environment("HERD_SECRET", secret);
        }
        herd.start_all();
        herd.wait_until_connected(&herd.names());
        let mut client = herd.client("Left");
        let updates = (0..5_000).map(|i| format!("IAMAT c{i} +34.07-118.45 {i}"));
        let sender = client.send_in_background(lines(updates));
        let held: Vec<_> = (0..5_000).map(|_| client.line()).collect();
        sender.join().unwrap();
        for restarted in ["Right", "Left"] {
            herd.kill(restarted);
            herd.start(restarted);
            for at in [0, 1_234, 4_999] {
                herd.wait_until_held(&herd.names(), &format!("c{at}"), &held[at]);
            }
        }
        for name in herd.names() {
            eventually("all clients are stored", DEADLINE, || {
                (herd.counter(&name, "clients") >= 5_000).then_some(())
            });
            assert_eq!(herd.counter(&name, "handshakes_refused_total"), 0);
        }
        #[cfg(target_os = "linux")]
        herd.wait_until_listed_alone(); // the links have moved to the ports for links
    }
}

/// The first byte on the wire is that of a TLS handshake, and no plaintext handshake line follows.
#[test]
fn a_node_with_tls_sends_no_plaintext() {
    let (mut herd, _) = pair();
    let listener = TcpListener::bind(herd.address("Right")).unwrap();
    listener.set_nonblocking(true).unwrap();
    herd.start("Left");
    let stream = eventually("Left dials", DEADLINE, || listener.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    let mut received = Vec::new();
    (&stream).write_all(&[&hello("Right", "Left", 1, false)[..], b"\n"].concat()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = (&stream).read_to_end(&mut received); // until the node gives up
    assert_eq!(received.first(), Some(&0x16), "{}", show(&received));
    assert!(find(&received, b"HERD").is_none());
    herd.wait_for_log("Left", &["WARNING", "cannot reach Right"]);
    assert_eq!(herd.counter("Left", "links_established_total"), 0);
}

#[test]
fn a_certificate_of_a_different_ca_is_refused_and_both_sides_log_the_reason() {
    let (mut herd, certificates) = pair();
    let others = create_certificates(&herd, "others", &["Right"]);
    herd.set_host("Right", Ipv4Addr::LOCALHOST, &[], &peers(&others, "Right", &certificates));
    herd.start("Left"); // sees Right as unreachable first, and then with a wrong certificate
    herd.wait_for_log("Left", &["WARNING", "cannot reach Right", "refused"]);
    herd.start("Right");
    herd.wait_for_log("Left", &["WARNING", "cannot reach Right", "invalid peer certificate"]);
    herd.wait_for_log("Right", &["WARNING", "cannot reach Left", "received fatal alert"]);
    assert_not_linked(&herd);
}

/// A certificate of the herd's CA, but for a different node.
#[test]
fn a_certificate_for_a_different_name_is_refused_and_both_sides_log_the_reason() {
    let (mut herd, certificates) = pair();
    let own = peers(&certificates, "Other", &certificates);
    herd.set_host("Right", Ipv4Addr::LOCALHOST, &[], &own);
    herd.start_all();
    let why = "its certificate is for another name";
    herd.wait_for_log("Left", &["WARNING", "Right is not linked", why]);
    herd.wait_for_log("Right", &["WARNING", "Left is not linked", why]);
    assert_not_linked(&herd);
}

#[test]
fn a_node_without_tls_is_refused_and_both_sides_log_the_reason() {
    let (mut herd, _) = pair();
    herd.set_host("Right", Ipv4Addr::LOCALHOST, &[], "");
    herd.start_all();
    let why = "it does not speak TLS; set peers.tls on both sides";
    herd.wait_for_log("Left", &["WARNING", "Right is not linked", why]);
    herd.wait_for_log("Right", &["WARNING", "Left is not linked", why]);
    assert_not_linked(&herd);
}

/// A node that accepts links without TLS as well dials as the neighbor requires: without TLS at first,
/// over TLS after a refusal, and without TLS again when that fails.
#[test]
fn a_node_with_mixed_links_dials_as_the_neighbor_requires() {
    let (mut herd, certificates) = pair();
    let mixed = peers(&certificates, "Left", &certificates);
    let mixed = mixed.replace("tls: {", "tls: {accept_plain: true, ");
    herd.set_host("Left", Ipv4Addr::LOCALHOST, &[], &mixed);
    let listener = TcpListener::bind(herd.address("Right")).unwrap();
    listener.set_nonblocking(true).unwrap();
    herd.start("Left");
    for (answer, over_tls) in [
        ("REFUSED its certificate is for another name\n", false),
        ("REFUSED it does not speak TLS; set peers.tls on both sides\n", false),
        ("? what a strange line\n", true),
        ("REFUSED it does not speak TLS; set peers.tls on both sides\n", false),
        ("", true),
        ("", false),
    ] {
        let stream = eventually("Left dials", 2 * DEADLINE, || listener.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut first = [0];
        (&stream).read_exact(&mut first).unwrap();
        assert_eq!(first[0], if over_tls { 0x16 } else { b'H' }, "before the answer {answer:?}");
        (&stream).write_all(answer.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = (&stream).read_to_end(&mut Vec::new()); // until the node gives up
    }
    herd.wait_for_log("Left", &["INFO", "Right requires TLS and is dialed over TLS from now on"]);
    let lines = herd.log_lines("Left");
    let about_tls =
        |line: &&String| line.contains("WARNING") && line.contains("does not speak TLS");
    assert_eq!(lines.iter().filter(about_tls).count(), 0, "{lines:#?}");
}

/// Without TLS, a neighbor is authenticated as if there were none.
#[test]
fn a_node_with_mixed_links_verifies_certificates_and_secrets() {
    let (mut herd, certificates) = pair();
    herd.set_environment("HERD_SECRET", SECRET);
    let mixed = peers(&certificates, "Left", &certificates);
    let mixed = mixed.replace("tls: {", "tls: {accept_plain: true, ");
    herd.set_host("Left", Ipv4Addr::LOCALHOST, &[], &mixed);
    herd.start("Left");
    let hello = hello("Right", "Left", 1, true);
    let mut plain = Peer::connect(herd.address("Left"));
    plain.send(&[&hello, b"PROOF 00"]);
    assert!(plain.line().starts_with(b"HERD "));
    plain.rest();
    herd.wait_for_log("Left", &["Right is not linked", "its proof is wrong"]);
    let mut other = connect(&herd, "Left", &certificates, Some("Other"));
    other.write_all(&[&hello[..], b"\n"].concat()).unwrap();
    let mut received = Vec::new();
    let _ = other.read_to_end(&mut received);
    assert_bytes(&received, b"REFUSED its certificate is for another name\n");
}

/// Connections without input, which may be in the clear or TLS, end at their deadlines all the same.
#[test]
fn a_node_with_tls_closes_silent_connections() {
    let (mut herd, _) = pair_with("limits: {idle_timeout_s: 2, max_connections: 2}");
    herd.start("Left"); // Right is not linked, so connections over the limit are on probation
    let mut silent = herd.client("Left");
    assert_bytes(&silent.rest(), b"");
    herd.wait_for_log("Left", &[&silent.address(), "closed", "idle timeout"]);
    let _crowd = [herd.client("Left"), herd.client("Left")];
    let mut refused = herd.client("Left");
    assert_bytes(&refused.rest(), b"? too many connections\n");
    herd.wait_for_log("Left", &[&refused.address(), "closed", "too many connections"]);
}

/// A TLS connection without a certificate is refused, as is a peer with the certificate of another
/// node. Clients need neither TLS nor a certificate.
#[test]
fn only_a_connection_with_the_certificate_of_a_neighbor_becomes_a_peer() {
    let (mut herd, certificates) = pair();
    herd.start("Left");
    let record = b"AT Right +0.263873386 evil +1+1 1\n";
    let greeting = [&hello("Right", "Left", 1, false)[..], b"\n"].concat();

    let mut anonymous = connect(&herd, "Left", &certificates, None);
    // TLS 1.3 lets the client send before its missing certificate is refused.
    let _ = anonymous.write_all(&[&greeting[..], record].concat());
    let mut received = Vec::new();
    assert!(anonymous.read_to_end(&mut received).is_err(), "{}", show(&received));
    assert_bytes(&received, b"");

    let mut other = connect(&herd, "Left", &certificates, Some("Other"));
    other.write_all(&[&greeting[..], record].concat()).unwrap();
    let _ = other.read_to_end(&mut received);
    assert_bytes(&received, b"REFUSED its certificate is for another name\n");
    herd.wait_for_log("Left", &["Right is not linked", "its certificate is for another name"]);

    let mut plain = Peer::connect(herd.address("Left"));
    plain.send(&[greeting.trim_ascii(), record.trim_ascii()]);
    plain.rest();
    herd.wait_for_log("Left", &["Right is not linked", "it does not speak TLS"]);

    // The control: with the neighbor's own certificate, the same input establishes a link.
    assert_eq!(herd.held("Left", "evil"), None);
    let mut right = connect(&herd, "Left", &certificates, Some("Right"));
    right.write_all(&[&greeting[..], record].concat()).unwrap();
    eventually("the record of a peer is stored", DEADLINE, || herd.held("Left", "evil"));
    assert_bytes(&herd.client("Left").ask(b"hello"), &refused(b"hello"));
}

/// The reason contains the time of each attempt. It is logged once nevertheless, and `--status` shows
/// the last one.
#[test]
fn an_expired_certificate_is_reported_once() {
    let (mut herd, certificates) = pair();
    let ca = |file: &str| certificates.join(file).display().to_string();
    let (request, extensions) = (ca("request"), ca("extensions"));
    fs::write(&extensions, "subjectAltName=DNS:Right\nextendedKeyUsage=serverAuth,clientAuth\n")
        .unwrap();
    for arguments in [
        &["req", "-new", "-key", &ca("Right.key"), "-subj", "/CN=Right", "-out", &request][..],
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca("ca.pem"),
            "-CAkey",
            &ca("ca.key"),
            "-extfile",
            &extensions,
            "-days",
            "0",
            "-out",
            &ca("Right.pem"),
        ],
    ] {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let minted = Instant::now();
    // It is valid until the end of the second in which it was created.
    eventually("the certificate has expired", DEADLINE, || {
        (minted.elapsed() > Duration::from_millis(1_500)).then_some(())
    });
    herd.start_all();
    // The pause between dials doubles, so this takes some seconds.
    eventually("Left has dialed several times", 2 * DEADLINE, || {
        let dials = herd.log_lines("Right").iter().filter(|line| line.ends_with(" opened")).count();
        (dials >= 8).then_some(())
    });
    let lines = herd.log_lines("Left");
    let reports: Vec<_> = lines.iter().filter(|line| line.contains("cannot reach Right")).collect();
    let expired = reports.iter().filter(|line| line.contains("certificate expired"));
    assert_eq!(expired.count(), 1, "{reports:#?}");
    assert_not_linked(&herd);
}

/// An invalid key file is an error at startup that names the setting and the file.
#[test]
fn invalid_certificate_files_are_reported_at_startup() {
    let (mut herd, certificates) = pair();
    fs::write(certificates.join("Left.key"), "nonsense").unwrap();
    herd.spawn("Left");
    assert_eq!(herd.wait("Left", DEADLINE).code(), Some(1));
    let stderr = herd.stderr("Left");
    assert!(stderr.contains("peers.tls.key") && stderr.contains("Left.key"), "{stderr}");
}
