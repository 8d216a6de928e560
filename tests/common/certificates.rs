//! Certificates with arbitrary dates, names and usages, created by `scripts/mint_certs.py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

/// A day in seconds.
pub const DAY: i64 = 86_400;

/// Extensions of a certificate authority.
pub const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
     subjectKeyIdentifier=hash\n";

/// Creates keys and certificates with the functions of the script. Its arguments are the directory of
/// the script and a list of certificates, as JSON.
const MINT: &str = "
import datetime, json, pathlib, sys, tempfile
sys.path.insert(0, sys.argv[1])
import mint_certs as mint
for it in json.loads(sys.argv[2]):
    directory = pathlib.Path(it['directory'])
    with tempfile.TemporaryDirectory(prefix='.mint-', dir=directory) as scratch:
        issuer = mint.Issuer(pathlib.Path(scratch))
        at = lambda seconds: issuer.now + datetime.timedelta(seconds=seconds)
        ca = it['issuer'] and mint.Pair(*map(pathlib.Path, it['issuer']))
        target = mint.pair(directory, it['name'])
        issuer.certificate(target, it['name'], it['extensions'], at(it['from']), at(it['to']), ca)
";

/// A certificate to be created as `NAME.pem` and `NAME.key` in a directory.
pub struct Certificate {
    directory: PathBuf,
    name: String,
    issuer: Option<[PathBuf; 2]>,
    extensions: String,
    /// The first and the last second of its validity, from now.
    dates: (i64, i64),
}

impl Certificate {
    /// A certificate authority `NAME`.
    pub fn authority(directory: &Path, name: &str) -> Self {
        fs::create_dir_all(directory).unwrap();
        Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            issuer: None,
            extensions: AUTHORITY.to_owned(),
            dates: (-3_600, 365 * DAY),
        }
    }

    /// A certificate for the node `name`, valid for 90 days and issued by the authority `ca` of the
    /// same directory.
    pub fn of_node(directory: &Path, name: &str) -> Self {
        let dates = (-3_600, 90 * DAY);
        Self { dates, ..Self::authority(directory, name) }
            .with_usages("serverAuth,clientAuth")
            .issued_by(directory, "ca")
    }

    pub fn issued_by(mut self, directory: &Path, name: &str) -> Self {
        let file = |kind: &str| directory.join(format!("{name}.{kind}"));
        self.issuer = Some([file("pem"), file("key")]);
        self
    }

    /// A certificate for the node that it is named after, with these extended key usages.
    pub fn with_usages(mut self, usages: &str) -> Self {
        self.extensions = format!(
            "subjectAltName=DNS:{}\nextendedKeyUsage={usages}\nbasicConstraints=critical,CA:FALSE\n",
            self.name
        );
        self
    }

    pub fn with_extensions(mut self, extensions: &str) -> Self {
        extensions.clone_into(&mut self.extensions);
        self
    }

    /// Valid from and until these numbers of seconds from now.
    pub const fn valid(mut self, from: i64, to: i64) -> Self {
        self.dates = (from, to);
        self
    }

    /// Creates the files. Returns the path of the certificate.
    pub fn create(&self) -> PathBuf {
        create(&[self]);
        self.directory.join(format!("{}.pem", self.name))
    }
}

/// Creates the files of several certificates, in this order.
pub fn create(certificates: &[&Certificate]) {
    let list: Vec<_> = certificates
        .iter()
        .map(|it| {
            let (from, to) = it.dates;
            json!({
                "directory": it.directory, "name": it.name, "issuer": it.issuer,
                "extensions": it.extensions, "from": from, "to": to,
            })
        })
        .collect();
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
    let list = serde_json::to_string(&list).unwrap();
    let mut command = Command::new("python3");
    let output = command.args(["-B", "-c", MINT, scripts, &list]).output();
    let output = output.expect("these tests require python3 and openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The last second of the validity of a certificate, as `openssl x509` reports it.
pub fn end_of(certificate: &Path) -> i64 {
    let mut command = Command::new("sh");
    let script = "date -u -d \"$(openssl x509 -in \"$0\" -noout -enddate | cut -d= -f2)\" +%s";
    let output = command.args(["-c", script]).arg(certificate).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
