//! The fence file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::reload::{FileSet, Fresh};
use crate::config::Config;
use crate::fences::limits::MAX_FILE_BYTES;
use crate::fences::{FenceSet, file};

/// Returns the fences of the configuration, if it has any.
///
/// # Errors
///
/// If the file cannot be read or is not valid. The message names the file, the fence and the fix.
pub fn load(config: &Config) -> io::Result<Option<Arc<FenceSet>>> {
    let Some(fences) = &config.fences else { return Ok(None) };
    let set = read(&fences.file, &FenceSet::default())?;
    Ok(Some(Arc::new(set)))
}

/// Returns the set of files that SIGHUP reloads, of which `first` has been read.
pub fn file_set(config: &Config, first: &Arc<FenceSet>) -> Option<FileSet> {
    let path = config.fences.as_ref()?.file.clone();
    // The set in use and the one before it. This thread releases the latter, which takes long if there
    // are many fences.
    let held = Mutex::new([Arc::clone(first), Arc::default()]);
    let load = move || {
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Arc::new(read(&path, &held[0])?);
        held.swap(0, 1);
        held[0] = Arc::clone(&fresh);
        Ok(Fresh::Fences(fresh))
    };
    Some(FileSet { name: "fences.file", load: Arc::new(load), flaw: None })
}

/// Returns the warnings about fences.
pub fn warnings(set: &FenceSet) -> impl Iterator<Item = String> {
    set.warnings.iter().map(|warning| format!("fences.file: {warning}"))
}

fn read(path: &Path, previous: &FenceSet) -> io::Result<FenceSet> {
    let failed = |why: String| io::Error::other(format!("{}:{why}", path.display()));
    let mut bytes = Vec::new();
    // One byte more than allowed, so that an oversized file is detected without reading all of it.
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| failed(format!(" cannot be read: {error}; correct `fences.file`")))?;
    if bytes.len() > MAX_FILE_BYTES {
        let why = format!(" is larger than {MAX_FILE_BYTES} bytes; simplify the fences");
        return Err(failed(why));
    }
    file::parse(&bytes, previous).map_err(|error| failed(error.to_string()))
}
