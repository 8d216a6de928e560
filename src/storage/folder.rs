//! What is in the folder: the size of each file, and which files are needed.

use std::collections::BTreeMap;

use super::Segment;
use super::file::FileName;
use super::manifest::{Entry, Usage};
use super::task::Op;

/// Length of a manifest without files, and of the line of a file, at most.
const MANIFEST_BYTES: u64 = 200;
const ENTRY_BYTES: u64 = 40;

/// The files of the folder, apart from the manifest.
#[derive(Default)]
pub(super) struct Folder {
    files: BTreeMap<FileName, Held>,
    /// Files that are to be deleted.
    obsolete: Vec<FileName>,
    /// Files with reserved space after their content, which is to be released.
    truncate: Vec<FileName>,
    /// The highest number given to a file.
    highest: u64,
    /// The sum over all files, kept up to date.
    sizes: Sizes,
}

/// A file.
#[derive(Clone, Copy, Debug)]
struct Held {
    role: Role,
    /// The length of its content.
    length: u64,
    /// The space that it occupies, unless its content is longer.
    reserved: u64,
    /// True once nothing more is written to it.
    is_sealed: bool,
}

/// The purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It is loaded at the next start.
    Live,
    /// It is only kept for a cursor.
    Kept,
    /// It is too old to be loaded, and kept for a while.
    Aside,
    /// It is to be deleted, or not listed yet.
    Other,
}

impl Held {
    const fn size(&self) -> u64 {
        if self.length > self.reserved { self.length } else { self.reserved }
    }
}

/// Bytes in the files of a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// All files, with reserved space.
    pub(super) total: u64,
    /// The files that are only kept for a cursor.
    pub(super) kept: u64,
    /// The files that are set aside.
    pub(super) aside: u64,
    /// The content of the files that are loaded.
    pub(super) content: u64,
    /// The number of files that are loaded.
    pub(super) live_files: u64,
}

impl Folder {
    /// The folder after a recovery.
    pub(super) fn new(
        files: Vec<Entry>,
        obsolete: Vec<FileName>,
        truncate: Vec<(FileName, u64)>,
        highest: u64,
    ) -> Self {
        let mut folder = Self { highest, ..Self::default() };
        for Entry { file, length, usage } in files {
            let role = match usage {
                Usage::Load => Role::Live,
                Usage::Hold => Role::Kept,
                Usage::Aside => Role::Aside,
            };
            let length = length.unwrap_or(0);
            folder.insert(file, Held { role, length, reserved: 0, is_sealed: true });
        }
        for (file, length) in truncate {
            folder.change(file, |held| held.reserved = length);
            folder.truncate.push(file);
        }
        for file in obsolete {
            folder.give_up(file);
        }
        folder
    }

    /// Returns a number that no file has.
    pub(super) const fn next_number(&mut self) -> u64 {
        self.highest += 1;
        self.highest
    }

    /// Takes note of a new segment.
    pub(super) fn add_segment(&mut self, number: u64, length: u64, reserved: u64) {
        let held = Held { role: Role::Live, length, reserved, is_sealed: false };
        self.insert(FileName::Segment(number), held);
    }

    /// Takes note that a segment has this length now.
    pub(super) fn set_length(&mut self, number: u64, length: u64) {
        self.change(FileName::Segment(number), |held| held.length = length);
    }

    /// Takes note that nothing more is written to a segment.
    pub(super) fn seal(&mut self, number: u64, length: u64) {
        let file = FileName::Segment(number);
        let mut has_reserve = false;
        self.change(file, |held| {
            held.length = length;
            held.is_sealed = true;
            has_reserve = held.reserved > length;
        });
        if has_reserve {
            self.truncate.push(file);
        }
    }

    /// Takes note of the length of a snapshot that is not listed yet.
    pub(super) fn set_snapshot(&mut self, file: FileName, length: u64) {
        self.insert(file, Held { role: Role::Other, length, reserved: 0, is_sealed: true });
    }

    /// Has a file deleted.
    pub(super) fn give_up(&mut self, file: FileName) {
        if !self.change(file, |held| held.role = Role::Other) {
            self.insert(file, Held { role: Role::Other, length: 0, reserved: 0, is_sealed: true });
        }
        self.truncate.retain(|other| *other != file);
        self.obsolete.push(file);
    }

    /// Returns the files of the manifest once `snapshot` is in force: all that are loaded now, unless
    /// it replaces them.
    pub(super) fn entries(&self, snapshot: Option<u64>, keep_from: Option<u64>) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(self.files.len());
        for (&file, held) in &self.files {
            let role = held.role_after(file, snapshot, keep_from);
            let usage = match role {
                Role::Live => Usage::Load,
                Role::Kept => Usage::Hold,
                Role::Aside => Usage::Aside,
                Role::Other => continue,
            };
            let length = held.is_sealed.then_some(held.length);
            entries.push(Entry { file, length, usage });
        }
        entries
    }

    /// Puts `snapshot` in force, and gives up the files that it replaces.
    pub(super) fn put_in_force(&mut self, snapshot: u64, keep_from: Option<u64>) {
        let files: Vec<(FileName, Held)> =
            self.files.iter().map(|(&file, &held)| (file, held)).collect();
        for (file, held) in files {
            let role = held.role_after(file, Some(snapshot), keep_from);
            if role == Role::Other && held.role != Role::Other {
                self.give_up(file);
            } else {
                self.change(file, |held| held.role = role);
            }
        }
    }

    /// Gives up the kept segments before `from`. Returns the first and the last.
    pub(super) fn release_kept(&mut self, from: u64) -> Option<(u64, u64)> {
        let kept = |(file, held): (&FileName, &Held)| {
            let number = file.number()?;
            (held.role == Role::Kept && number < from).then_some(number)
        };
        let released: Vec<u64> = self.files.iter().filter_map(kept).collect();
        for &number in &released {
            self.give_up(FileName::Segment(number));
        }
        Some((*released.first()?, *released.last()?))
    }

    /// Gives up the files that are set aside.
    pub(super) fn release_aside(&mut self) {
        let aside = |(&file, held): (&FileName, &Held)| (held.role == Role::Aside).then_some(file);
        let released: Vec<FileName> = self.files.iter().filter_map(aside).collect();
        for file in released {
            self.give_up(file);
        }
    }

    /// The segments that are loaded or kept for a cursor, oldest first.
    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> {
        self.files.iter().filter_map(|(&file, held)| match (file, held.role) {
            (_, Role::Other | Role::Aside) => None,
            (FileName::Segment(number), _) => Some(Segment { number, length: held.length }),
            _ => None,
        })
    }

    /// The number of the oldest kept segment.
    pub(super) fn oldest_kept(&self) -> Option<u64> {
        let kept =
            |(file, held): (&FileName, &Held)| (held.role == Role::Kept).then(|| file.number())?;
        self.files.iter().find_map(kept)
    }

    /// Returns operations that delete files which are not needed, at most `most`.
    pub(super) fn take_obsolete(&mut self, most: usize) -> Vec<Op> {
        let from = self.obsolete.len().saturating_sub(most);
        self.obsolete.drain(from..).map(|file| Op::Delete { file }).collect()
    }

    /// Puts a file back that could not be deleted.
    pub(super) fn put_back(&mut self, file: FileName) {
        self.obsolete.push(file);
    }

    /// Takes note that a file is deleted.
    pub(super) fn remove(&mut self, file: FileName) {
        if let Some(held) = self.files.remove(&file) {
            self.sizes.subtract(&held);
        }
    }

    /// Returns the next segment whose reserved space is to be released, and its length.
    pub(super) fn poll_truncate(&mut self) -> Option<(FileName, u64)> {
        let file = self.truncate.pop()?;
        self.change(file, |held| held.reserved = 0);
        Some((file, self.files.get(&file)?.length))
    }

    /// Whether files are to be deleted.
    pub(super) const fn has_obsolete(&self) -> bool {
        !self.obsolete.is_empty()
    }

    /// Bytes in the files, with the manifest and its successor.
    pub(super) fn sizes(&self) -> Sizes {
        let manifests = 2 * (MANIFEST_BYTES + ENTRY_BYTES * self.files.len() as u64);
        Sizes { total: self.sizes.total + manifests, ..self.sizes }
    }

    /// Space reserved for a segment.
    pub(super) fn reserved(&self, number: u64) -> u64 {
        self.files.get(&FileName::Segment(number)).map_or(0, |held| held.reserved)
    }

    /// Takes note of the space reserved for a segment.
    pub(super) fn set_reserved(&mut self, number: u64, reserved: u64) {
        self.change(FileName::Segment(number), |held| held.reserved = reserved);
    }

    fn insert(&mut self, file: FileName, held: Held) {
        self.remove(file);
        self.sizes.add(&held);
        self.files.insert(file, held);
    }

    /// Changes what is noted about a file. Returns false if there is none.
    fn change(&mut self, file: FileName, change: impl FnOnce(&mut Held)) -> bool {
        let Some(held) = self.files.get_mut(&file) else { return false };
        self.sizes.subtract(held);
        change(held);
        self.sizes.add(held);
        true
    }
}

impl Sizes {
    const fn add(&mut self, held: &Held) {
        self.total += held.size();
        match held.role {
            Role::Live => {
                self.content += held.length;
                self.live_files += 1;
            }
            Role::Kept => self.kept += held.size(),
            Role::Aside => self.aside += held.size(),
            Role::Other => {}
        }
    }

    const fn subtract(&mut self, held: &Held) {
        self.total -= held.size();
        match held.role {
            Role::Live => {
                self.content -= held.length;
                self.live_files -= 1;
            }
            Role::Kept => self.kept -= held.size(),
            Role::Aside => self.aside -= held.size(),
            Role::Other => {}
        }
    }
}

impl Held {
    /// The role of `file` once `snapshot` is in force.
    fn role_after(&self, file: FileName, snapshot: Option<u64>, keep_from: Option<u64>) -> Role {
        let Some(snapshot) = snapshot else { return self.role };
        match (self.role, file) {
            (_, FileName::Snapshot(number)) if number == snapshot => Role::Live,
            (Role::Aside, _) => Role::Aside,
            (Role::Live, FileName::Segment(number)) if number >= snapshot => Role::Live,
            (Role::Live | Role::Kept, FileName::Segment(number))
                if keep_from.is_some_and(|from| number >= from) =>
            {
                Role::Kept
            }
            _ => Role::Other,
        }
    }
}
