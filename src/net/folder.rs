//! The folder in which a node stores its records: its lock, and operations on its files.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::regular_file;
use crate::net::limits::OPEN_FILES;
use crate::storage::{FileName, LOCK, Op, Write};

/// Permissions of folders and files before the umask: locations are personal data.
const MODES: (u32, u32) = (0o750, 0o640);

/// The folder of a running node. Only one process can hold it.
pub struct Folder {
    path: PathBuf,
    /// The folder itself, for syncing it.
    handle: File,
    /// Locked until it is dropped.
    _lock: File,
    /// Files that are written to, opened when they are created; at most [`OPEN_FILES`].
    files: Mutex<HashMap<FileName, Open>>,
}

/// An open file.
struct Open {
    file: Arc<File>,
    /// True unless it may have been written to since the last sync began. Such a file is closed only if
    /// all are: a descriptor of its own is sure to report that writing failed.
    is_clean: bool,
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
        DirBuilder::new().recursive(true).mode(MODES.0).create(path).map_err(located)?;
        let handle = File::open(path).map_err(located)?;
        let lock =
            regular_file::open_with(options().create(true).truncate(false), &path.join(LOCK))
                .map_err(located)?;
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
    /// As [`regular_file::open`].
    pub fn reader(&self, file: FileName) -> io::Result<File> {
        regular_file::open(&self.path_of(file))
    }

    /// Performs a write to the current segment. Returns the number of bytes written, which may be
    /// less than all.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn write(&self, write: &Write<'_>) -> io::Result<usize> {
        let file = self.file(write.file, false)?;
        loop {
            match file.write_at(write.bytes, write.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    /// Performs an operation of a task. May take as long as the disk does.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn execute(&self, op: &Op) -> io::Result<()> {
        match *op {
            Op::Create { file, size } => self.create(file, size),
            Op::Write { file, offset, ref bytes } => {
                self.file(file, false)?.write_all_at(bytes, offset)
            }
            Op::Reserve { file, size } => reserve(&*self.file(file, false)?, size),
            Op::Sync { file } => {
                let synced = self.file(file, true)?.sync_data();
                if synced.is_err() {
                    self.file(file, false)?;
                }
                synced
            }
            Op::SyncFolder => self.handle.sync_all(),
            Op::Rename { from, to } => {
                fs::rename(self.path_of(from), self.path_of(to))?;
                self.files().remove(&from);
                self.files().remove(&to);
                Ok(())
            }
            Op::Truncate { file, length } => {
                let file = self.file(file, false)?;
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
        let mut options = options();
        options.create(true).truncate(true).read(true);
        let file = regular_file::open_with(&mut options, &self.path_of(name))?;
        if size > 0 {
            // Without reserved space, writes allocate it, and fail if the disk is full.
            let _ = reserve(&file, size);
        }
        insert(&mut self.files(), name, Open { file: Arc::new(file), is_clean: false });
        Ok(())
    }

    /// Returns a file for writing, or for syncing if `syncs` is true. A file that is not open is opened
    /// first: an earlier process has created it, or there were too many.
    fn file(&self, name: FileName, syncs: bool) -> io::Result<Arc<File>> {
        if let Some(open) = self.files().get_mut(&name) {
            open.is_clean = syncs;
            return Ok(Arc::clone(&open.file));
        }
        let file = Arc::new(regular_file::open_with(&mut options(), &self.path_of(name))?);
        let open = Open { file: Arc::clone(&file), is_clean: syncs };
        insert(&mut self.files(), name, open);
        Ok(file)
    }

    /// Held for moments only: never during an operation on a file.
    fn files(&self) -> MutexGuard<'_, HashMap<FileName, Open>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_string())
    }
}

/// Adds a file to those that are open, and closes another one if there are too many.
fn insert(files: &mut HashMap<FileName, Open>, name: FileName, open: Open) {
    if files.len() >= OPEN_FILES
        && let Some((&oldest, _)) = files.iter().min_by_key(|(name, open)| (!open.is_clean, **name))
    {
        files.remove(&oldest);
    }
    files.insert(name, open);
}

/// Options for writing to a file.
fn options() -> OpenOptions {
    OpenOptions::new().write(true).mode(MODES.1).clone()
}

/// Reserves space for a file, so that later writes need not allocate it.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::empty(), 0, size)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("folder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Folder::open(&path).unwrap()
    }

    fn segment(number: u64) -> FileName {
        FileName::Segment(number)
    }

    fn create(folder: &Folder, number: u64) {
        folder.execute(&Op::Create { file: segment(number), size: 0 }).unwrap();
        let bytes = number.to_string().into_bytes();
        folder.execute(&Op::Write { file: segment(number), offset: 0, bytes }).unwrap();
    }

    #[test]
    fn descriptors_are_bounded_however_many_files_there_are() {
        let folder = folder("bounded");
        for number in 1..=3 * OPEN_FILES as u64 {
            create(&folder, number);
            assert!(folder.files().len() <= OPEN_FILES);
        }
        for number in 1..=3 * OPEN_FILES as u64 {
            folder.execute(&Op::Sync { file: segment(number) }).unwrap();
            assert!(folder.files().len() <= OPEN_FILES);
            let write = Write { file: segment(number), offset: 3, bytes: b"end" };
            assert_eq!(folder.write(&write).unwrap(), 3);
            let text = fs::read(folder.path_of(segment(number))).unwrap();
            assert!(text.starts_with(number.to_string().as_bytes()) && text.ends_with(b"end"));
        }
        fs::remove_dir_all(folder.path()).unwrap();
    }

    #[test]
    fn a_file_that_was_not_synced_stays_open_longest() {
        let folder = folder("unsynced");
        create(&folder, 1);
        for number in 2..=OPEN_FILES as u64 + 5 {
            create(&folder, number);
            folder.execute(&Op::Sync { file: segment(number) }).unwrap();
        }
        assert!(folder.files().contains_key(&segment(1)));
        assert!(!folder.files().contains_key(&segment(2)));
        fs::remove_dir_all(folder.path()).unwrap();
    }

    /// Opening it does not wait for a program at its other end either.
    #[test]
    fn a_fifo_is_refused() {
        let folder = folder("fifo");
        let path = folder.path_of(segment(1));
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (sender, results) = mpsc::channel();
        thread::spawn(move || {
            let read = folder.reader(segment(1)).map(|_| ());
            let synced = folder.execute(&Op::Sync { file: segment(1) });
            sender.send((read, synced)).unwrap();
            fs::remove_dir_all(folder.path()).unwrap();
        });
        let (read, synced) = results.recv_timeout(Duration::from_mins(1)).expect("it waits");
        assert_eq!(read.unwrap_err().to_string(), "it is not a regular file");
        assert!(synced.is_err());
    }

    #[test]
    fn other_users_cannot_read_the_records() {
        let folder = folder("modes");
        create(&folder, 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(folder.path()) & 0o027, 0);
        assert_eq!(mode(&folder.path_of(segment(1))) & 0o137, 0);
        fs::remove_dir_all(folder.path()).unwrap();
    }
}
