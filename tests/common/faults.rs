//! Faults below a node: C libraries for `LD_PRELOAD`, and the file from which they read what fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::Herd;

/// Returns the library that is compiled from a C file below `tests`, once per process.
pub fn library(source: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.entry(source.to_owned()).or_insert_with(|| compile(source)).clone()
}

fn compile(source: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source);
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.file_stem().unwrap());
    let library = library.with_extension("so");
    // Another process may load the library at this moment.
    let new = library.with_extension(format!("{}.so", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&new, &source]);
    let output = compiler.output().expect("these tests need a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&new, &library).unwrap();
    library
}

/// The faults of the nodes that a herd starts from now on. The library includes `faults.h`.
pub struct Faults(File);

impl Faults {
    /// Injects the library compiled from `source`, without a fault.
    pub fn inject(herd: &mut Herd, source: &str) -> Self {
        let path = herd.directory().join("faults");
        fs::write(&path, [0; 64]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        herd.set_environment("LD_PRELOAD", library(source));
        herd.set_environment("TEST_FAULTS", path);
        Self(file)
    }

    /// Sets a field, by its index.
    pub fn set(&self, field: usize, value: i64) {
        self.0.write_all_at(&value.to_ne_bytes(), 8 * field as u64).unwrap();
    }

    /// Returns a field.
    pub fn get(&self, field: usize) -> i64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 8 * field as u64).unwrap();
        i64::from_ne_bytes(bytes)
    }
}
