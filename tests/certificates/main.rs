//! Certificates: `--check` and a running node find what is wrong with them, and SIGHUP replaces them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod check;

use std::path::Path;

use common::Herd;
use common::certificates::{Certificate, create};

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
