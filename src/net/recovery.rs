//! Loading the stored records of a node before it listens.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Instant as StdInstant;

use super::clock::wall;
use super::disk::execute;
use super::folder::Folder;
use super::regular_file;
use crate::config::{StorageConfig, Sync};
use crate::herd::directory::Directory;
use crate::herd::expiry::FUTURE_LIMIT;
use crate::node::store::Store;
use crate::protocol::time::SECOND;
use crate::storage::{
    DiskError, FileName, MAX_MANIFEST, Purpose, Recovered, Recovery, Settings, Storage, SyncMode,
};
use crate::time::Instant;

/// Bytes read from a file at once.
const CHUNK: usize = 1 << 20;

/// Loads the records of the node `name` from `folder` into `directory`, and prepares the log for new
/// ones. `feeds` is true if the node has a feed.
///
/// # Errors
///
/// If the folder belongs to another node or to a newer version, or cannot be written, or its files may not
/// be read. Damage is not an error: it is logged and skipped.
pub fn load(
    config: &StorageConfig,
    feeds: bool,
    name: &str,
    folder: &Folder,
    directory: &mut Directory,
) -> io::Result<Store> {
    let started = StdInstant::now();
    let located = |error| at_folder(folder.path(), &error);
    let mut recovered = recover(folder, name, directory).map_err(located)?;
    let path = folder.path().display();
    let forget_keep = directory.rules().forget_keep;
    if recovered.is_outdated(forget_keep, wall()) {
        recovered.set_aside(forget_keep, wall());
        directory.clear();
        log::warn!(
            "storage {path}: the node was last running longer ago than limits.forget_keep_s, so its \
             files may hold clients that the herd has erased; they were set aside for a day, and the node \
             starts empty; if its clock was ahead, correct it, stop the node, delete MANIFEST, and start it"
        );
    } else if let Some(newest) = recovered.newest() {
        directory.set_least_clock(newest);
        let behind = newest.nanos() - wall().nanos();
        if behind > FUTURE_LIMIT {
            log::warn!(
                "storage {path}: the clock is {} hours behind the newest time in the files; records that \
                 are more than a day ahead of it are kept, but not shown before it is set right",
                behind / (3600 * SECOND)
            );
        }
    }
    for damage in &recovered.damage {
        log::warn!("storage {path}: {damage}");
    }
    log::info!(
        "storage {path}: {} records loaded in {:.3} s; {} clients",
        recovered.records,
        started.elapsed().as_secs_f64(),
        directory.len()
    );
    let settings = Settings {
        node: name.into(),
        sync: match config.sync {
            Sync::Always => SyncMode::Always,
            Sync::Interval => SyncMode::Interval(config.limits.sync_interval),
            Sync::Never => SyncMode::Never,
        },
        max_bytes: config.limits.max_bytes,
        key: None,
        keeps_segments: feeds,
    };
    let mut storage = Storage::new(settings, recovered, Instant::START);
    storage.handle_wall(wall());
    while !storage.is_ready() {
        let Some(task) = storage.poll_task() else { break };
        let result = execute(folder, &task.ops);
        // Nothing else has to succeed before the node can listen: it serves from memory, or refuses
        // updates, until the disk accepts writes again.
        let is_required = matches!(task.purpose, Purpose::Create { .. } | Purpose::Publish);
        if let Err(failed) = &result
            && is_required
        {
            let (action, file) = task.ops[failed.op].describe();
            let file = file.map_or_else(String::new, |file| format!(" {file}"));
            return Err(io::Error::other(format!(
                "cannot use the storage {path}: cannot {action}{file}: {}; free space on its file \
                 system, correct its permissions, or change storage.directory",
                failed.error
            )));
        }
        storage.handle_task_done(task, result, Instant::START);
    }
    let gates = config.sync == Sync::Always;
    Ok(Store::new(storage, path.to_string().into(), gates))
}

/// Returns an error if the folder at `path` belongs to another node than `name` or to a newer version.
/// Changes nothing, so the node may be running.
///
/// # Errors
///
/// As stated, and if the folder may not be read. It exists.
pub fn examine(path: &Path, name: &str) -> io::Result<()> {
    let names = names(path)?;
    let manifest = read_manifest(path).map_err(|error| at_folder(path, &error))?;
    match Recovery::new(name, names.iter().map(String::as_str), manifest.as_deref()) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(at_folder(path, &io::Error::other(refusal))),
    }
}

fn at_folder(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("storage {}: {error}", path.display()))
}

fn recover(folder: &Folder, name: &str, directory: &mut Directory) -> io::Result<Recovered> {
    let names = names(folder.path())?;
    let manifest = read_manifest(folder.path())?;
    let mut recovery = Recovery::new(name, names.iter().map(String::as_str), manifest.as_deref())
        .map_err(io::Error::other)?;
    let mut buffer = Vec::with_capacity(2 * CHUNK);
    while let Some(file) = recovery.poll_file() {
        let mut reader = match folder.reader(file) {
            Ok(reader) => reader,
            Err(error) if is_refusal(&error) => return Err(cannot_open(file, &error)),
            Err(error) => {
                recovery.handle_failed(DiskError::from(&error));
                continue;
            }
        };
        buffer.clear();
        loop {
            match reader.by_ref().take(CHUNK as u64).read_to_end(&mut buffer) {
                Ok(read) => {
                    let now = wall();
                    let ended = read == 0;
                    let consumed = recovery
                        .handle_input(&buffer, ended, directory, now)
                        .map_err(io::Error::other)?;
                    buffer.drain(..consumed);
                    if ended {
                        break;
                    }
                }
                Err(error) => {
                    recovery.handle_failed(DiskError::from(&error));
                    break;
                }
            }
        }
    }
    Ok(recovery.finish())
}

fn cannot_open(file: FileName, error: &io::Error) -> io::Error {
    let remedy = "correct the permissions or the limit on open files";
    io::Error::new(error.kind(), format!("cannot open {file}: {error}; {remedy}"))
}

/// Returns whether a file cannot be opened for a reason outside of it. Its content is intact then: a node
/// that started without it would replace the file.
fn is_refusal(error: &io::Error) -> bool {
    let is_exhausted = |error: &io::Error| {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(error);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
    };
    error.kind() == io::ErrorKind::PermissionDenied || is_exhausted(error)
}

/// Returns the names in the folder.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// Returns the manifest, or `None` if there is none or it cannot be read.
///
/// # Errors
///
/// If it may not be read, or if a start, which writes a new manifest and renames it, would fail.
fn read_manifest(folder: &Path) -> io::Result<Option<Vec<u8>>> {
    let path = |file: FileName| folder.join(file.to_string());
    let (old, new) = (FileName::Manifest, FileName::NewManifest);
    let is_in_the_way = fs::symlink_metadata(path(old)).is_ok_and(|found| found.is_dir());
    let cannot_be_written = fs::metadata(path(new)).is_ok_and(|found| !found.is_file());
    if let Some(file) = is_in_the_way.then_some(old).or(cannot_be_written.then_some(new)) {
        return Err(io::Error::other(format!("{file} is not a regular file; move it away")));
    }
    let file = match regular_file::open(&path(old)) {
        Ok(file) => file,
        Err(error) if is_refusal(&error) => return Err(cannot_open(old, &error)),
        Err(_) => return Ok(None),
    };
    let mut bytes = Vec::new();
    Ok(file.take(MAX_MANIFEST as u64).read_to_end(&mut bytes).ok().map(|_| bytes))
}
