//! Recovery: loading the files of a folder into a directory, over damage.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use super::damage::{Damage, DamageKind, Refusal};
use super::erasure::{Age, ERASE_WITHIN};
use super::file::{FileName, MAX_NUMBER};
use super::frame::Kind;
use super::growth::Growth;
use super::manifest::{Entry, Manifest, Usage, VERSION};
use super::mark::Mark;
use super::reader::Reader;
use super::task::DiskError;
use crate::herd::directory::{Applied, Directory, PREFETCH_BATCH, Source};
use crate::herd::expiry::FUTURE_LIMIT;
use crate::protocol::record::Record;
use crate::protocol::time::{Nanos, SECOND};
use crate::time::Wall;

/// Number of damaged places that are reported one by one. All are counted.
const MAX_REPORTED: usize = 32;

/// The result of a recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records read, including those that a newer one replaced or that had expired.
    pub records: u64,
    /// The first damaged places, each for one WARNING.
    pub damage: Vec<Damage>,
    /// The number of damaged places.
    pub damaged: u64,
    /// Bytes in all damaged places.
    pub damaged_bytes: u64,
    /// The times in the files.
    pub(super) age: Age,
    /// The time until which files that are set aside are kept.
    pub(super) aside_until: Option<Nanos>,
    /// The time until a snapshot is due that removes the records of erased clients.
    pub(super) erase_in: Option<Duration>,
    /// How often the node has started with this folder before.
    pub(super) boot: u64,
    pub(super) key: Option<[u8; 16]>,
    /// Files that hold records, each with its length.
    pub(super) files: Vec<Entry>,
    /// Files that are not needed.
    pub(super) obsolete: Vec<FileName>,
    /// Files that are longer than their content, and their length.
    pub(super) truncate: Vec<(FileName, u64)>,
    /// The highest number in use.
    pub(super) highest: u64,
    /// The newest mark, with the ordinal of the next own frame.
    pub(super) mark: Mark,
    /// True if the node had stopped after everything in the files was durable.
    pub(super) clean: bool,
    /// True if the files should be replaced by a snapshot soon, because some are damaged.
    pub(super) rewrite: bool,
}

/// Loading the records of a folder into a directory.
pub struct Recovery {
    node: Box<str>,
    /// True if the manifest is intact. Otherwise each file states its node and format.
    trusted: bool,
    /// The files to read, in this order.
    pending: VecDeque<Entry>,
    /// Files that are superseded, and are read only if something else is damaged.
    leftovers: Vec<FileName>,
    current: Option<Current>,
    /// True if the current file holds more than its header.
    has_content: bool,
    /// True if the current file has a mark, so that its own frames count.
    is_marked: bool,
    /// True if a record of the current file was newer than those of the files before.
    has_helped: bool,
    growth: Growth,
    recovered: Recovered,
}

impl Recovery {
    /// Begins a recovery of the folder of `node` that contains the files `names`, others included.
    /// `manifest` is the content of [`FileName::Manifest`], or `None` if there is none or it cannot be
    /// read. A manifest longer than [`MAX_MANIFEST`](super::MAX_MANIFEST) is damaged.
    ///
    /// # Errors
    ///
    /// If the manifest is intact, but that of another node or of a newer version.
    pub fn new<'n>(
        node: &str,
        names: impl IntoIterator<Item = &'n str>,
        manifest: Option<&[u8]>,
    ) -> Result<Self, Refusal> {
        let parsed = manifest.map_or(Ok(None), Manifest::parse)?;
        let newest = parsed.as_ref().and_then(Manifest::newest);
        let most = if newest >= Some(MAX_NUMBER) { u64::MAX } else { MAX_NUMBER };
        let is_ours = |file: &FileName| file.number().is_none_or(|number| number <= most);
        let found = names.into_iter().filter_map(FileName::parse).filter(is_ours);
        let found: BTreeSet<FileName> = found.collect();
        let mut recovery = Self {
            node: node.into(),
            trusted: parsed.is_some(),
            pending: VecDeque::new(),
            leftovers: Vec::new(),
            current: None,
            has_content: false,
            is_marked: false,
            has_helped: false,
            growth: Growth::default(),
            recovered: Recovered::default(),
        };
        let recovered = &mut recovery.recovered;
        recovered.highest = found.iter().filter_map(|file| file.number()).max().unwrap_or(0);
        if found.contains(&FileName::NewManifest) {
            recovered.obsolete.push(FileName::NewManifest);
        }
        match parsed {
            Some(manifest) if *manifest.node != *node => {
                return Err(Refusal::OtherNode(manifest.node.into()));
            }
            Some(manifest) => recovery.plan(&manifest, &found),
            None => recovery.plan_without(manifest, &found),
        }
        Ok(recovery)
    }

    /// Plans a recovery by an intact manifest.
    fn plan(&mut self, manifest: &Manifest, found: &BTreeSet<FileName>) {
        let recovered = &mut self.recovered;
        (recovered.boot, recovered.key) = (manifest.boot, manifest.key);
        recovered.clean = manifest.clean;
        recovered.aside_until = manifest.aside_until.map(|until| Nanos::from(until) * SECOND);
        let mut missing = Vec::new();
        for &entry in &manifest.files {
            let number = entry.file.number().unwrap_or(0);
            recovered.highest = recovered.highest.max(number);
            match (found.contains(&entry.file), entry.usage) {
                (true, Usage::Load) => self.pending.push_back(entry),
                (false, Usage::Load) => missing.push(entry),
                (true, Usage::Hold | Usage::Aside) => recovered.files.push(entry),
                (false, Usage::Hold | Usage::Aside) => {}
            }
        }
        // Segments that were created after the manifest was written.
        let listed = |file| manifest.files.iter().find(|entry| entry.file == file);
        let newest = manifest.newest();
        for &file in found {
            match file {
                FileName::Manifest | FileName::NewManifest => {}
                _ if listed(file).is_some() => {}
                FileName::Segment(number) if Some(number) > newest => {
                    self.pending.push_back(Entry { file, length: None, usage: Usage::Load });
                }
                _ => self.leftovers.push(file),
            }
        }
        for entry in missing {
            let length = entry.length.unwrap_or(0);
            self.recovered.report(Damage {
                file: entry.file,
                offset: 0,
                length,
                kind: DamageKind::Missing,
            });
        }
        self.pending.make_contiguous().sort_by_key(|entry| order(entry.file));
    }

    /// Plans a recovery without a manifest: reads all files.
    fn plan_without(&mut self, manifest: Option<&[u8]>, found: &BTreeSet<FileName>) {
        for &file in found {
            if file.number().is_some() {
                self.pending.push_back(Entry { file, length: None, usage: Usage::Load });
            }
        }
        let file = FileName::Manifest;
        match manifest {
            Some(text) => {
                let length = text.len() as u64;
                self.recovered.report(Damage {
                    file,
                    offset: 0,
                    length,
                    kind: DamageKind::Corrupt,
                });
            }
            // The first task of a new folder writes the manifest.
            None if self.pending.is_empty() && !found.contains(&file) => {}
            None => self.recovered.report(Damage {
                file,
                offset: 0,
                length: 0,
                kind: DamageKind::Missing,
            }),
        }
        self.pending.make_contiguous().sort_by_key(|entry| order(entry.file));
    }

    /// Returns the key material in the manifest, if it is intact and has some.
    #[must_use]
    pub const fn key(&self) -> Option<[u8; 16]> {
        self.recovered.key
    }

    /// Returns the next file to read, from its beginning. The previous one has ended or failed.
    pub fn poll_file(&mut self) -> Option<FileName> {
        let listed = self.pending.pop_front();
        let leftover = listed.is_none();
        let entry = match listed {
            Some(entry) => entry,
            // They may hold what is damaged elsewhere.
            None if self.recovered.rewrite => {
                Entry { file: self.leftovers.pop()?, length: None, usage: Usage::Load }
            }
            None => return None,
        };
        (self.has_content, self.is_marked, self.has_helped) = (false, false, false);
        let reader = Reader::new(entry.file, entry.length);
        self.current = Some(Current { entry, reader, leftover });
        Some(entry.file)
    }

    /// Handles the next bytes of the file. Returns the number consumed; the rest is passed again with
    /// the bytes that follow, so the buffer must hold more than [`MAX_FRAME`](super::frame::MAX_FRAME)
    /// bytes. `ended` is true if the file ends after `input`; everything is consumed then.
    ///
    /// # Errors
    ///
    /// If the manifest was damaged and the file belongs to another node or a newer version.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        ended: bool,
        directory: &mut Directory,
        now: Wall,
    ) -> Result<usize, Refusal> {
        let Self { current, recovered, node, trusted, has_content, is_marked, .. } = self;
        let Some(current) = current else { return Ok(input.len()) };
        if current.reader.consumed() == 0 {
            let expected = self.growth.expect(&current.entry, &self.pending, directory.len());
            directory.reserve(expected);
        }
        let (mut batch, mut refusal, mut boot) = (Batch::new(directory, now), None, 0);
        let (reports, mut age) = (!current.leftover, recovered.age);
        let mut mark = recovered.mark;
        let consumed = current.reader.read(
            input,
            ended,
            |kind, payload| match kind {
                Kind::HEADER if *trusted => {}
                Kind::HEADER => match check_header(node, payload) {
                    Ok(started) => boot = started,
                    Err(why) => refusal = Some(why),
                },
                _ => {
                    *has_content = true;
                    if kind.is_own() && *is_marked {
                        mark.ordinal = mark.ordinal.wrapping_add(1);
                    }
                    match kind {
                        Kind::TIME if reports => age.handle_mark(payload, now),
                        Kind::MARK => {
                            if let Some(found) = Mark::parse(payload) {
                                (mark, *is_marked) = (found, true);
                            }
                        }
                        Kind::SNAPSHOT => batch.push(payload),
                        _ if kind.is_record() => batch.push_logged(payload),
                        _ => {}
                    }
                }
            },
            |damage| {
                if reports {
                    recovered.report(damage);
                }
            },
        );
        batch.apply();
        recovered.records += batch.records;
        self.has_helped |= batch.stored;
        batch.newest.into_iter().flatten().for_each(|received| age.handle_record(received, now));
        recovered.age = age;
        if reports {
            recovered.mark = mark;
        }
        recovered.erase_in = recovered.erase_in.into_iter().chain(batch.erase_in).min();
        recovered.boot = recovered.boot.max(boot);
        if ended {
            self.end_file(None);
        }
        refusal.map_or(Ok(consumed), Err)
    }

    /// Handles a file that cannot be opened, or not be read from here on.
    pub fn handle_failed(&mut self, error: DiskError) {
        self.end_file(Some(error));
    }

    /// Ends the recovery. [`Recovery::poll_file`] has returned nothing.
    #[must_use]
    pub fn finish(mut self) -> Recovered {
        self.recovered.obsolete.append(&mut self.leftovers);
        self.recovered
    }

    fn end_file(&mut self, error: Option<DiskError>) {
        let Some(Current { mut entry, reader, leftover }) = self.current.take() else { return };
        let (listed, intact) = (entry.length, reader.intact());
        let damage = match error {
            Some(error) => {
                let end = listed.unwrap_or(0).max(intact);
                Some(reader.damage(end, DamageKind::Unreadable(error)))
            }
            None => reader.finish(),
        };
        let is_readable =
            !damage.as_ref().is_some_and(|it| matches!(it.kind, DamageKind::Unreadable(_)));
        entry.length = Some(if is_readable { intact } else { listed.unwrap_or(intact) });
        let is_intact = damage.is_none();
        let recovered = &mut self.recovered;
        if let Some(damage) = damage.filter(|_| !leftover) {
            recovered.report(damage);
        }
        // The others hold everything that is in this leftover, or nothing is in this file.
        let is_useless = if leftover { !self.has_helped } else { !self.has_content && is_intact };
        if is_useless {
            return recovered.obsolete.push(entry.file);
        }
        recovered.rewrite |= leftover;
        recovered.files.push(entry);
        if is_readable && reader.consumed() > intact {
            recovered.truncate.push((entry.file, reader.consumed()));
        }
    }
}

impl Recovered {
    /// Returns whether the files are older than `forget_keep`, so that they may hold clients that the
    /// herd has erased and no longer remembers.
    #[must_use]
    pub fn is_outdated(&self, forget_keep: Nanos, now: Wall) -> bool {
        self.age.last_written().is_some_and(|written| now.nanos() - written > forget_keep)
    }

    /// Returns the newest time that the clock of the node has had, according to the files. While the
    /// clock is behind it, records that seem to be from the future do not prove that the clock of
    /// another node is wrong.
    #[must_use]
    pub fn newest(&self) -> Option<Wall> {
        self.age.newest().map(Wall)
    }

    /// Sets all files aside, for at most a day and `forget_keep`: they are not loaded, and deleted then.
    /// The directory must be cleared.
    pub fn set_aside(&mut self, forget_keep: Nanos, now: Wall) {
        for entry in &mut self.files {
            entry.usage = Usage::Aside;
        }
        let time = forget_keep.min(ERASE_WITHIN.as_nanos() as Nanos);
        self.aside_until = Some(now.nanos() + time);
        self.age = Age::default();
        self.truncate.clear();
        (self.rewrite, self.clean, self.erase_in) = (false, true, None);
    }

    fn report(&mut self, damage: Damage) {
        self.damaged += 1;
        self.damaged_bytes += damage.length;
        self.rewrite |= damage.kind != DamageKind::TornTail;
        if self.damage.len() < MAX_REPORTED {
            self.damage.push(damage);
        }
    }
}

/// The file that is being read.
struct Current {
    entry: Entry,
    reader: Reader,
    leftover: bool,
}

/// Records that are applied together, so that their cache misses overlap.
struct Batch<'a, 'i> {
    directory: &'a mut Directory,
    now: Wall,
    held: Vec<Record<'i>>,
    /// Records so far.
    records: u64,
    /// True if one of them was stored.
    stored: bool,
    /// The newest receive time among those that are not ahead of the clock, and among all.
    newest: [Option<Nanos>; 2],
    /// The time until the records of clients that were erased by a tombstone in a segment must be gone.
    erase_in: Option<Duration>,
}

impl<'a, 'i> Batch<'a, 'i> {
    fn new(directory: &'a mut Directory, now: Wall) -> Self {
        Self {
            directory,
            now,
            held: Vec::with_capacity(PREFETCH_BATCH),
            records: 0,
            stored: false,
            newest: [None; 2],
            erase_in: None,
        }
    }

    /// Pushes a record of a segment, which may hold others of the same client.
    fn push_logged(&mut self, line: &'i [u8]) {
        self.push(line);
        if let Some(record) = self.held.last().filter(|it| it.line == line && it.is_tombstone()) {
            let left = ERASE_WITHIN.as_nanos() as Nanos - (self.now.nanos() - record.received);
            let left = Duration::from_nanos(u64::try_from(left).unwrap_or(0)).min(ERASE_WITHIN);
            self.erase_in = self.erase_in.into_iter().chain([left]).min();
        }
    }

    fn push(&mut self, line: &'i [u8]) {
        // A line that has an intact checksum but is not a record was written by a later version.
        let Some(record) = Record::parse(line) else { return };
        if self.held.len() == PREFETCH_BATCH {
            self.apply();
        }
        let is_ahead = record.received > self.now.nanos() + FUTURE_LIMIT;
        for newest in self.newest.iter_mut().skip(usize::from(is_ahead)) {
            *newest = (*newest).max(Some(record.received));
        }
        self.held.push(record);
    }

    fn apply(&mut self) {
        self.directory.prefetch(self.held.iter().map(|record| record.client));
        for record in self.held.drain(..) {
            self.records += 1;
            let applied = self.directory.apply(&record, Source::File, self.now);
            self.stored |= matches!(applied, Applied::Stored(_));
        }
    }
}

/// Snapshots come first: their records are most of all, and few of them are replaced.
fn order(file: FileName) -> (bool, FileName) {
    (matches!(file, FileName::Segment(_)), file)
}

/// Returns the payload of the first frame of each file.
pub(super) fn header(node: &str, boot: u64) -> Vec<u8> {
    format!("proxy-herd storage {VERSION} node {node} boot {boot}").into_bytes()
}

/// Checks the header of a file of `node`. Returns the number of starts that it states.
fn check_header(node: &str, payload: &[u8]) -> Result<u64, Refusal> {
    let text = String::from_utf8_lossy(payload);
    let mut fields = text.split(' ').skip(2);
    let version = fields.next().and_then(|version| version.parse().ok()).unwrap_or(VERSION);
    if version > VERSION {
        return Err(Refusal::NewerFormat(version));
    }
    let owner = fields.nth(1);
    let boot = fields.nth(1).and_then(|boot| boot.parse().ok());
    match owner.filter(|owner| *owner != node) {
        Some(other) => Err(Refusal::OtherNode(other.into())),
        None => Ok(boot.unwrap_or(0)),
    }
}
