//! Tasks of the lane [`Lane::Files`](super::Lane::Files): the manifest, new segments, parts of a
//! snapshot, deletion.

use super::{ManifestState, Storage};
use crate::protocol::time::SECOND;
use crate::storage::SyncMode;
use crate::storage::file::FileName;
use crate::storage::frame::{Kind, Salt, push_frame};
use crate::storage::manifest::Manifest;
use crate::storage::task::{Op, Purpose};

/// Files that one task deletes.
const DELETED_AT_ONCE: usize = 64;

/// Space that is reserved ahead of the log with `always`, at least and at most: a sync need not wait
/// for the file system to record a new size.
const RESERVE: (u64, u64) = (16 << 10, 1 << 20);

impl Storage {
    /// The most urgent task of the lane [`Lane::Files`].
    pub(super) fn next_files_task(&mut self) -> Option<(Purpose, Vec<Op>)> {
        if !self.unsynced.is_empty() {
            let ops = self.unsynced.drain(..).map(|file| Op::Sync { file }).collect();
            return Some((Purpose::SyncLoaded, ops));
        }
        if self.manifest == ManifestState::Outdated {
            self.manifest = ManifestState::Publishing;
            return Some((Purpose::Publish, self.publish()));
        }
        if self.folder.has_obsolete() {
            // Until the folder is synced, a power cut may bring them back, so that they still take space.
            let mut ops = self.folder.take_obsolete(DELETED_AT_ONCE);
            ops.push(Op::SyncFolder);
            return Some((Purpose::Delete, ops));
        }
        if self.spare.is_none() && !self.must_wait() {
            return Some(self.create_segment());
        }
        if let Some((file, length)) = self.folder.poll_truncate() {
            return Some((Purpose::Truncate, vec![Op::Truncate { file, length }]));
        }
        if let Some(reserve) = self.poll_reserve() {
            return Some(reserve);
        }
        let snapshot = self.snapshot.as_mut()?;
        let (ops, last) = snapshot.poll_part(&mut self.part)?;
        self.folder.set_snapshot(snapshot.file(), snapshot.length);
        Some((Purpose::Snapshot { last }, ops))
    }

    /// The last task of the process: a manifest that states that everything is durable.
    pub(super) fn last_task(&mut self) -> Option<(Purpose, Vec<Op>)> {
        let is_durable = self.journal.is_idle() && !self.journal.has_hole();
        if self.is_closed || !is_durable || self.manifest != ManifestState::Current {
            return None;
        }
        self.is_closed = true;
        if let Some(segment) = self.journal.close() {
            self.seal(&segment);
        }
        Some((Purpose::Publish, self.publish()))
    }

    /// Replaces the manifest by one that lists the files in force: those of the completed snapshot, or
    /// those that were loaded.
    fn publish(&self) -> Vec<Op> {
        let snapshot = self.snapshot.as_ref().filter(|it| it.is_complete()).map(|it| it.number);
        let manifest = Manifest {
            node: self.settings.node.to_string(),
            boot: self.boot,
            key: self.settings.key,
            clean: self.is_closed && self.settings.sync != SyncMode::Never,
            files: self.folder.entries(snapshot, self.keep_from),
            aside_until: self.aside.map(|aside| u64::try_from(aside.until / SECOND).unwrap_or(0)),
        };
        let (file, bytes) = (FileName::NewManifest, manifest.to_text());
        vec![
            Op::Create { file, size: 0 },
            Op::Write { file, offset: 0, bytes },
            Op::Sync { file },
            Op::Rename { from: file, to: FileName::Manifest },
            Op::SyncFolder,
        ]
    }

    fn create_segment(&mut self) -> (Purpose, Vec<Op>) {
        let number = self.folder.next_number();
        let file = FileName::Segment(number);
        let mut bytes = Vec::new();
        push_frame(&mut bytes, &Salt::of(file), Kind::HEADER, &self.header);
        let header = bytes.len() as u64;
        let reserved = if self.reserves() { RESERVE.0.min(self.segment_bytes()) } else { 0 };
        let ops = vec![
            Op::Create { file, size: reserved },
            Op::Write { file, offset: 0, bytes },
            Op::Sync { file },
            Op::SyncFolder,
        ];
        (Purpose::Create { segment: number, header, reserved }, ops)
    }

    /// Reserves space ahead of the log when half of it is used.
    fn poll_reserve(&mut self) -> Option<(Purpose, Vec<Op>)> {
        let (segment, length) = self.journal.current().map(|it| (it.number, it.length()))?;
        let ahead = length.clamp(RESERVE.0, RESERVE.1);
        if !self.reserves() || self.folder.reserved(segment) > length + ahead / 2 {
            return None;
        }
        let size = (length + ahead).min(self.segment_bytes());
        if size <= self.folder.reserved(segment) || self.is_over_limit(ahead) {
            return None;
        }
        let ops = vec![Op::Reserve { file: FileName::Segment(segment), size }];
        Some((Purpose::Reserve { segment, size }, ops))
    }

    fn reserves(&self) -> bool {
        self.settings.sync == SyncMode::Always && !self.cannot_reserve
    }

    pub(super) fn handle_part_done(&mut self, ops: Vec<Op>, last: bool, has_failed: bool) {
        for op in ops {
            if let Op::Write { mut bytes, .. } = op {
                bytes.clear();
                self.part = bytes;
            }
        }
        if has_failed {
            if let Some(snapshot) = self.snapshot.take() {
                self.folder.give_up(snapshot.file());
            }
            self.rewrite = true;
        } else if last {
            self.manifest = ManifestState::Outdated;
        }
    }
}
