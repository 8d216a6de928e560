//! The folder in which a node stores its records: its lock, and operations on its files.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{FileName, LOCK, Op, Write};

/// The folder of a running node. Only one process can hold it.
pub struct Folder {
    path: PathBuf,
    /// The folder itself, for syncing it.
    handle: File,
    /// Locked until it is dropped.
    _lock: File,
    /// Files that are written to, opened when they are created.
    files: Mutex<HashMap<FileName, Arc<File>>>,
}

impl Folder {
    /// Opens the folder at `path`, after creating it if necessary, and locks it.
    ///
    /// # Errors
    ///
    /// If the folder cannot be created or written, or another process has locked it. The message
    /// names the folder and the fix.
    pub fn open(path: &Path) -> io::Result<Self> {
        let located = |error: io::Error| {
            let path = path.display();
            let text = format!("cannot use the storage {path}: {error}; correct storage.directory");
            io::Error::new(error.kind(), text)
        };
        fs::create_dir_all(path).map_err(located)?;
        let handle = File::open(path).map_err(located)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(located)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(format!(
                    "the storage {} is in use by another process; stop it, or change \
                     storage.directory",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(located(error)),
        }
        Ok(Self { path: path.to_owned(), handle, _lock: lock, files: Mutex::default() })
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// As [`File::open`].
    pub fn reader(&self, file: FileName) -> io::Result<File> {
        File::open(self.path_of(file))
    }

    /// Performs a write to the current segment. Returns the number of bytes written, which may be
    /// less than all.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn write(&self, write: &Write<'_>) -> io::Result<usize> {
        self.file(write.file)?.write_at(write.bytes, write.offset)
    }

    /// Performs an operation of a task. May take as long as the disk does.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn execute(&self, op: &Op) -> io::Result<()> {
        match *op {
            Op::Create { file, size } => self.create(file, size),
            Op::Write { file, offset, ref bytes } => self.file(file)?.write_all_at(bytes, offset),
            Op::Reserve { file, size } => reserve(&*self.file(file)?, size),
            Op::Sync { file } => self.file(file)?.sync_data(),
            Op::SyncFolder => self.handle.sync_all(),
            Op::Rename { from, to } => {
                fs::rename(self.path_of(from), self.path_of(to))?;
                let mut files = self.files();
                if let Some(renamed) = files.remove(&from) {
                    files.insert(to, renamed);
                }
                Ok(())
            }
            Op::Truncate { file, length } => {
                let file = self.file(file)?;
                if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) }
            }
            Op::Delete { file } => {
                self.files().remove(&file);
                match fs::remove_file(self.path_of(file)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }

    fn create(&self, name: FileName, size: u64) -> io::Result<()> {
        let options = OpenOptions::new().create(true).truncate(true).read(true).write(true).clone();
        let file = options.open(self.path_of(name))?;
        if size > 0 {
            // Without reserved space, writes allocate it, and fail if the disk is full.
            let _ = reserve(&file, size);
        }
        self.files().insert(name, Arc::new(file));
        Ok(())
    }

    /// Returns a file for writing. A file of an earlier process is opened first.
    fn file(&self, name: FileName) -> io::Result<Arc<File>> {
        if let Some(file) = self.files().get(&name) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().write(true).open(self.path_of(name))?);
        self.files().insert(name, Arc::clone(&file));
        Ok(file)
    }

    /// Held for moments only: never during an operation on a file.
    fn files(&self) -> MutexGuard<'_, HashMap<FileName, Arc<File>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_string())
    }
}

/// Reserves space for a file, so that later writes need not allocate it.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::empty(), 0, size)?)
}
