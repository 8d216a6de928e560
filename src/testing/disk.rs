//! A simulated disk below one folder: what the kernel shows, and what a power cut leaves of it.
//!
//! A power cut keeps what was synced. Of everything else, each sector and each change of the folder
//! survives or not, independently: writes are lost, torn, reordered, and replaced by zeros. A sync
//! that fails drops what it covered from the list of dirty sectors, as Linux does, so that a later one
//! succeeds without having written it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::rng::Rng;
use crate::storage::{DiskError, FileName, Op, Write};

/// Bytes that are written as a whole or not at all. Small, so that frames are torn.
const SECTOR: usize = 32;

/// The folder of a node on a simulated disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    inodes: Vec<Inode>,
    /// The folder as the kernel shows it.
    folder: BTreeMap<FileName, usize>,
    /// The folder after a power cut, without the changes.
    durable: BTreeMap<FileName, usize>,
    /// Changes of the folder that are not durable.
    changes: Vec<Change>,
    /// Bytes that fit on the disk; `None` if there is no limit.
    pub capacity: Option<u64>,
    /// Number of syncs that will fail.
    pub failing_syncs: u32,
    /// Number of other operations that will fail.
    pub failing_ops: u32,
    /// True if writes are sometimes short.
    pub short_writes: bool,
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
struct Inode {
    /// As the kernel shows it.
    content: Vec<u8>,
    /// As it was last synced.
    durable: Vec<u8>,
    /// Sectors that have changed since.
    dirty: BTreeSet<usize>,
    /// Bytes reserved, which a reader sees as zeros.
    reserved: usize,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Create(FileName, usize),
    Rename(FileName, FileName),
    Delete(FileName),
}

impl Disk {
    /// Executes an operation of a task.
    ///
    /// # Errors
    ///
    /// If a fault was planned or the disk is full. A write may have been executed in part.
    pub fn execute(&mut self, op: &Op, rng: &mut Rng) -> Result<(), DiskError> {
        let is_sync = matches!(op, Op::Sync { .. } | Op::SyncFolder);
        if !is_sync && self.failing_ops > 0 {
            self.failing_ops -= 1;
            if let Op::Write { file, offset, bytes } = op {
                let part = rng.index(bytes.len() + 1);
                self.write_at(*file, *offset, &bytes[..part])?;
            }
            return Err(error(io::ErrorKind::Other));
        }
        match *op {
            Op::Create { file, size } => {
                let reserved = if self.free() < size { 0 } else { size as usize };
                self.inodes.push(Inode { reserved, ..Inode::default() });
                let id = self.inodes.len() - 1;
                self.folder.insert(file, id);
                self.changes.push(Change::Create(file, id));
            }
            Op::Write { file, offset, ref bytes } => {
                let written = self.write_at(file, offset, bytes)?;
                if written < bytes.len() {
                    return Err(error(io::ErrorKind::StorageFull));
                }
            }
            Op::Reserve { file, size } => {
                let free = self.free();
                let inode = self.inode(file)?;
                if size > inode.content.len().max(inode.reserved) as u64 + free {
                    return Err(error(io::ErrorKind::StorageFull));
                }
                inode.reserved = inode.reserved.max(size as usize);
            }
            Op::Sync { file } => return self.sync(file, rng),
            Op::SyncFolder => {
                if self.failing_syncs > 0 {
                    self.failing_syncs -= 1;
                    return Err(error(io::ErrorKind::Other));
                }
                self.durable = self.folder.clone();
                self.changes.clear();
            }
            Op::Rename { from, to } => {
                let id = self.folder.remove(&from).ok_or_else(|| error(io::ErrorKind::NotFound))?;
                self.folder.insert(to, id);
                self.changes.push(Change::Rename(from, to));
            }
            Op::Truncate { file, length } => {
                let inode = self.inode(file)?;
                inode.reserved = inode.reserved.min(length as usize);
                inode.content.truncate(length as usize);
            }
            Op::Delete { file } => {
                self.folder.remove(&file);
                self.changes.push(Change::Delete(file));
            }
        }
        Ok(())
    }

    /// Executes a write of the loop. Returns the number of bytes written.
    ///
    /// # Errors
    ///
    /// If a fault was planned or the disk is full.
    pub fn write(&mut self, write: &Write<'_>, rng: &mut Rng) -> Result<usize, DiskError> {
        if self.failing_ops > 0 {
            self.failing_ops -= 1;
            return Err(error(io::ErrorKind::Other));
        }
        let length = write.bytes.len();
        let length =
            if self.short_writes && rng.percent(30) { 1 + rng.index(length) } else { length };
        match self.write_at(write.file, write.offset, &write.bytes[..length])? {
            0 => Err(error(io::ErrorKind::StorageFull)),
            written => Ok(written),
        }
    }

    /// Returns the names of all files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.folder.keys().map(ToString::to_string).collect()
    }

    /// Returns what a reader of the file sees, or `None` if there is no such file.
    #[must_use]
    pub fn read(&self, file: FileName) -> Option<Vec<u8>> {
        let inode = &self.inodes[*self.folder.get(&file)?];
        let mut content = inode.content.clone();
        content.resize(content.len().max(inode.reserved), 0);
        Some(content)
    }

    /// Replaces the content of a file, or deletes it, durably.
    pub fn set(&mut self, file: FileName, content: Option<Vec<u8>>) {
        self.folder.remove(&file);
        self.durable.remove(&file);
        if let Some(content) = content {
            self.inodes.push(Inode { durable: content.clone(), content, ..Inode::default() });
            self.folder.insert(file, self.inodes.len() - 1);
            self.durable.insert(file, self.inodes.len() - 1);
        }
    }

    /// Returns the number of bytes that the files occupy.
    #[must_use]
    pub fn used(&self) -> u64 {
        let size = |&id: &usize| self.inodes[id].content.len().max(self.inodes[id].reserved) as u64;
        self.folder.values().map(size).sum()
    }

    /// Cuts the power: what was not synced survives in part.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        let mut folder = std::mem::take(&mut self.durable);
        for change in std::mem::take(&mut self.changes) {
            if rng.percent(50) {
                continue;
            }
            match change {
                Change::Create(file, id) => drop(folder.insert(file, id)),
                Change::Rename(from, to) => {
                    if let Some(id) = folder.remove(&from) {
                        folder.insert(to, id);
                    }
                }
                Change::Delete(file) => drop(folder.remove(&file)),
            }
        }
        for inode in &mut self.inodes {
            inode.persist(rng, 50);
            inode.dirty.clear();
            inode.content.clone_from(&inode.durable);
        }
        self.durable.clone_from(&folder);
        self.folder = folder;
    }

    /// Flips one bit of a random file. Returns false if there is none to flip.
    pub fn flip_bit(&mut self, rng: &mut Rng) -> bool {
        let files: Vec<usize> = self.folder.values().copied().collect();
        if files.is_empty() {
            return false;
        }
        let inode = &mut self.inodes[rng.pick(&files)];
        if inode.content.is_empty() {
            return false;
        }
        let at = rng.index(inode.content.len());
        inode.content[at] ^= 1 << rng.index(8);
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte = inode.content[at];
        }
        true
    }

    fn free(&self) -> u64 {
        self.capacity.map_or(u64::MAX / 2, |most| most.saturating_sub(self.used()))
    }

    fn inode(&mut self, file: FileName) -> Result<&mut Inode, DiskError> {
        let id = *self.folder.get(&file).ok_or_else(|| error(io::ErrorKind::NotFound))?;
        Ok(&mut self.inodes[id])
    }

    /// Writes as much as fits. Returns the number of bytes written.
    fn write_at(&mut self, file: FileName, offset: u64, bytes: &[u8]) -> Result<usize, DiskError> {
        let free = self.free();
        let inode = self.inode(file)?;
        let start = offset as usize;
        let size = inode.content.len().max(inode.reserved);
        let room = size.saturating_sub(start).saturating_add(free as usize);
        let length = bytes.len().min(room);
        let end = start + length;
        if inode.content.len() < end {
            inode.content.resize(end, 0);
        }
        inode.content[start..end].copy_from_slice(&bytes[..length]);
        if length > 0 {
            inode.dirty.extend(start / SECTOR..=(end - 1) / SECTOR);
        }
        Ok(length)
    }

    fn sync(&mut self, file: FileName, rng: &mut Rng) -> Result<(), DiskError> {
        let fails = self.failing_syncs > 0;
        self.failing_syncs -= u32::from(fails);
        let inode = self.inode(file)?;
        if fails {
            inode.persist(rng, 50);
            // Later syncs do not write them: the kernel considers these pages clean.
            inode.dirty.clear();
            return Err(error(io::ErrorKind::Other));
        }
        inode.persist(rng, 100);
        inode.dirty.clear();
        Ok(())
    }
}

impl Inode {
    /// Makes each dirty sector durable with a probability of `percent` %, and the length as well.
    fn persist(&mut self, rng: &mut Rng, percent: u64) {
        let length = self.content.len();
        if percent == 100 || rng.percent(percent) {
            self.durable.resize(length, 0);
        }
        for &sector in &self.dirty {
            let (start, end) = (sector * SECTOR, length.min((sector + 1) * SECTOR));
            if start >= end || !rng.percent(percent) {
                continue;
            }
            if self.durable.len() < end {
                self.durable.resize(end, 0);
            }
            self.durable[start..end].copy_from_slice(&self.content[start..end]);
        }
    }
}

fn error(kind: io::ErrorKind) -> DiskError {
    DiskError::from(&io::Error::from(kind))
}
