//! Certificates: `--check` and a running node find what is wrong with them, and SIGHUP replaces them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

#[path = "../peers/peer.rs"]
#[allow(dead_code, reason = "these tests need only the first line of a handshake")]
mod peer;

mod check;
mod expiry;
mod reload;
mod rolling;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use common::certificates::{Certificate, create};
use common::{Client, DEADLINE, Herd, eventually, free_port, show};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Two nodes whose edge is listed by one end only.
const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

/// The section `peers` of nodes that have their certificates and the authority in `directory`.
fn peers(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "peers: {{tls: {{certificate: \"{directory}/{{name}}.pem\", \
         key: \"{directory}/{{name}}.key\", ca: \"{directory}/ca.pem\"}}}}"
    )
}

/// Creates an authority and certificates for these nodes in `directory`.
fn mint(directory: &Path, names: &[&str]) {
    let ca = Certificate::authority(directory, "ca");
    let nodes: Vec<_> = names.iter().map(|name| Certificate::of_node(directory, name)).collect();
    create(&std::iter::once(&ca).chain(&nodes).collect::<Vec<_>>());
}

/// Exit status, warnings and error of `--check`.
fn check(herd: &Herd) -> (Option<i32>, Vec<String>, String) {
    let output = herd.run(&["--check"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let is_warning = |line: &&str| line.starts_with("proxy-herd: warning: ");
    let (warnings, errors): (Vec<&str>, Vec<&str>) = stderr.lines().partition(is_warning);
    let warnings = warnings.iter().map(|line| line["proxy-herd: warning: ".len()..].to_owned());
    (output.status.code(), warnings.collect(), errors.join("\n"))
}

/// A herd that serves HTTP, whose nodes have certificates and the authority in one directory.
struct Secured {
    herd: Herd,
    directory: std::path::PathBuf,
    http: Vec<(String, u16)>,
}

impl Secured {
    /// Mints certificates for the nodes, and starts none of them.
    fn new(nodes: &[(&str, &[&str])]) -> Self {
        let http: Vec<(String, u16)> =
            nodes.iter().map(|(name, _)| ((*name).to_owned(), free_port())).collect();
        let mut ports = String::new();
        for (name, port) in &http {
            let _ = write!(ports, "{name}: {port}, ");
        }
        let herd = Herd::new(nodes, "");
        let directory = herd.directory().join("certificates");
        let names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
        mint(&directory, &names);
        let config = std::fs::read_to_string(herd.config()).unwrap();
        std::fs::write(herd.config(), format!("{config}http: {{ports: {{{ports}}}}}\n")).unwrap();
        let mut secured = Self { herd, directory, http };
        let peers = peers(&secured.directory);
        for name in names {
            secured.configure(name, &peers);
        }
        secured
    }

    /// Appends `extra` to the configuration of a node, from its next start on.
    fn configure(&mut self, name: &str, extra: &str) {
        self.herd.set_host(name, Ipv4Addr::LOCALHOST, &[], extra);
    }

    fn port(&self, name: &str) -> u16 {
        self.http.iter().find(|(node, _)| node == name).unwrap().1
    }

    /// The body of a response to a request on a new connection.
    fn get(&self, name: &str, target: &str) -> String {
        let address = (Ipv4Addr::LOCALHOST, self.port(name)).into();
        eventually("the node accepts", DEADLINE, || TcpStream::connect(address).ok());
        let client = Client::connect(address);
        let request = format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let response = client.exchange(request.as_bytes());
        let response =
            String::from_utf8(response).unwrap_or_else(|it| panic!("{}", show(it.as_bytes())));
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body.to_owned()
    }

    /// The problems that a node reports.
    fn problems(&self, name: &str) -> Vec<String> {
        let overview: serde_json::Value =
            serde_json::from_str(&self.get(name, "/api/herd")).unwrap();
        serde_json::from_value(overview["problems"].clone()).unwrap()
    }

    /// The sample of a metric, by its name with labels.
    fn metric(&self, name: &str, sample: &str) -> Option<f64> {
        let metrics = self.get(name, "/metrics");
        let value =
            metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }

    /// The expiry of a file, by `/metrics`.
    fn expiry(&self, name: &str, file: &Path) -> Option<f64> {
        let file = file.display();
        let family = "proxy_herd_certificate_expiry_timestamp_seconds";
        self.metric(name, &format!("{family}{{file=\"{file}\"}}"))
    }

    /// The lines of the log with `part`.
    fn logged(&self, name: &str, part: &str) -> Vec<String> {
        let lines = self.herd.log_lines(name).into_iter();
        lines.filter(|line| line.contains(part)).collect()
    }

    /// Waits until all nodes are linked, each with `links` others.
    fn wait_until_linked(&self, links: usize) {
        for (name, _) in &self.http {
            eventually(&format!("{name} has {links} links"), DEADLINE, || {
                let overview: serde_json::Value =
                    serde_json::from_str(&self.get(name, "/api/herd")).unwrap();
                let up = overview["links"].as_array().unwrap().iter().filter(|it| it["up"] == true);
                (up.count() == links).then_some(())
            });
        }
    }

    /// The certificate that a node presents in a new handshake, if it and its authority are accepted.
    /// `trusted` is the file of the authorities to trust, `identity` the own certificate and key.
    fn presented(&self, name: &str, trusted: &Path, identity: &Path) -> Result<Vec<u8>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(trusted).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let chain = vec![CertificateDer::from_pem_file(identity).unwrap()];
        let key = PrivateKeyDer::from_pem_file(identity.with_extension("key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), server).unwrap();
        let mut stream = TcpStream::connect(self.herd.address(name)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut stream);
        // With TLS 1.3, only an answer shows that the own certificate was accepted.
        std::io::Write::write_all(&mut stream, b"hello\n").map_err(|error| error.to_string())?;
        let mut answer = [0; 8];
        std::io::Read::read_exact(&mut stream, &mut answer).map_err(|error| error.to_string())?;
        assert_eq!(&answer, b"? hello\n");
        Ok(tls.peer_certificates().unwrap()[0].to_vec())
    }
}

/// The first certificate in a file.
fn certificate(file: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(file).unwrap().to_vec()
}
