//! The disk of a node: writes on the loop, and everything that may wait for the disk on threads.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use mio::Waker;

use super::folder::Folder;
use crate::storage::{DiskError, Failed, Lane, Op, Storage, Task};
use crate::time::Instant;

/// Most tasks of one lane that wait: the storage has at most one at a time in each.
const TASKS: usize = 1;

/// A finished task.
type Done = (Task, Result<(), Failed>);

/// The folder of the storage and the threads that work on it.
pub struct Disk {
    folder: Arc<Folder>,
    /// One for each [`Lane`].
    lanes: [SyncSender<Task>; 2],
    done: Receiver<Done>,
}

impl Disk {
    /// Starts the threads. They wake the loop whenever a task is finished.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(folder: Folder, waker: &Arc<Waker>) -> io::Result<Self> {
        let folder = Arc::new(folder);
        let (finished, done) = sync_channel(2 * TASKS);
        let lane = |name: &str| {
            let (tasks, queue) = sync_channel::<Task>(TASKS);
            let (folder, waker) = (Arc::clone(&folder), Arc::clone(waker));
            let finished = finished.clone();
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                for task in queue {
                    let result = execute(&folder, &task.ops);
                    // The loop has ended.
                    if finished.send((task, result)).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
            Ok::<_, io::Error>(tasks)
        };
        let lanes = [lane("sync")?, lane("files")?];
        Ok(Self { folder, lanes, done })
    }

    /// Returns the folder.
    pub fn folder(&self) -> Arc<Folder> {
        Arc::clone(&self.folder)
    }

    /// Performs the writes of the storage. Called before replies leave.
    pub fn write(&self, storage: &mut Storage, now: Instant) {
        while let Some(write) = storage.poll_write() {
            let written = self.folder.write(&write).map_err(|error| DiskError::from(&error));
            storage.handle_written(written, now);
        }
    }

    /// Passes the next finished task to `storage`. Returns false if there is none.
    pub fn finish_task(&self, storage: &mut Storage, now: Instant) -> bool {
        let Ok((task, result)) = self.done.try_recv() else { return false };
        storage.handle_task_done(task, result, now);
        true
    }

    /// Starts a task.
    pub fn start_task(&self, task: Task) {
        let lane = match task.lane {
            Lane::Sync => &self.lanes[0],
            Lane::Files => &self.lanes[1],
        };
        // The channel has room, since each lane has at most one task; the threads end with the loop.
        let _ = lane.send(task);
    }
}

/// Executes operations in order until one fails.
pub fn execute(folder: &Folder, ops: &[Op]) -> Result<(), Failed> {
    for (op, operation) in ops.iter().enumerate() {
        folder.execute(operation).map_err(|error| Failed { op, error: DiskError::from(&error) })?;
    }
    Ok(())
}
