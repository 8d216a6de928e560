//! Opening files that must be regular ones: a FIFO would keep the program waiting, and reading a device
//! may never reach an end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// A flag with which opening a FIFO does not wait for its other end. It has no effect on regular files.
pub const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

/// Opens a file for reading.
///
/// # Errors
///
/// As [`open_with`].
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a file with `options`.
///
/// # Errors
///
/// As [`OpenOptions::open`], and if it is not a regular file.
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if found.is_file() {
        Ok(file)
    } else if found.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn other_files_are_refused_at_once() {
        let folder = std::env::temp_dir().join(format!("regular-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, fifo) = (folder.join("file"), folder.join("fifo"));
        fs::write(&file, "content").unwrap();
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (sender, results) = mpsc::channel();
        let paths = [file, fifo, "/dev/zero".into(), folder.clone()];
        thread::spawn(move || {
            for path in paths {
                let read = open(&path);
                let written = open_with(OpenOptions::new().append(true), &path);
                let both = open_with(OpenOptions::new().read(true).append(true), &path);
                let kind = |opened: io::Result<File>| opened.err().map(|error| error.to_string());
                sender.send([read, written, both].map(kind)).unwrap();
            }
        });
        let next = || results.recv_timeout(Duration::from_mins(1)).expect("it waits");
        assert_eq!(next(), [None, None, None]);
        let other = "it is not a regular file";
        let [read, written, both] = next();
        assert_eq!((read.as_deref(), both.as_deref()), (Some(other), Some(other)));
        assert!(written.is_some());
        assert!(next().iter().all(|error| error.as_deref() == Some(other)));
        assert!(next().iter().flatten().all(|error| error.to_lowercase().starts_with("is a dir")));
        fs::remove_dir_all(&folder).unwrap();
    }
}
