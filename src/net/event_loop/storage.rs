//! The storage: finished tasks, the replies that have waited for them, and new tasks.

use std::cmp::Reverse;
use std::mem;
use std::time::Duration;

use mio::Token;

use super::EventLoop;
use crate::net::connection::{Held, Stage};
use crate::net::limits::EVENTS_PER_TURN;
use crate::net::token::key;
use crate::storage::{Condition, Event, Gate, Position};
use crate::time::Now;

/// Time between two marks of the wall clock in the log. The age of the files is known as precisely.
const TIME_MARK_INTERVAL: Duration = Duration::from_mins(10);

/// The close reason of a client whose update cannot be made durable.
const NOT_DURABLE: &str = "the update cannot be stored";

impl EventLoop {
    /// Handles the tasks that the disk threads have finished, and releases what has waited for them.
    pub(super) fn finish_disk_tasks(&mut self, now: &Now) {
        let (Some(disk), Some(store)) = (&self.disk, &mut self.node.store) else { return };
        let mut finished = false;
        while disk.finish_task(&mut store.storage, now.instant) {
            finished = true;
        }
        if finished {
            self.release_gated(now);
        }
    }

    /// Holds the output of a connection until `position` is durable.
    pub(super) fn hold(&mut self, token: Token, held: Held, position: Position) {
        let Some(connection) = self.get(token) else { return };
        connection.held = Some(held);
        self.gated.push(Reverse((position, token)));
        if self.gated.len() > 2 * self.connections.len() + EVENTS_PER_TURN {
            // Most are of connections that have closed while the disk was slow.
            let connections = &self.connections;
            self.gated.retain(|Reverse((_, token))| {
                let (key, generation) = key(*token);
                connections.get(key).is_some_and(|it| it.generation == generation)
            });
        }
    }

    /// Sends the output that no longer waits, and has its connections served in the next turn.
    fn release_gated(&mut self, now: &Now) {
        while let Some(&Reverse((position, token))) = self.gated.peek() {
            let Some(store) = &self.node.store else { return };
            let gate = store.storage.gate(position);
            if gate == Gate::Wait {
                return;
            }
            self.gated.pop();
            let Some(connection) = self.get(token) else { continue };
            if gate == Gate::Refused && connection.held.as_ref().is_some_and(|it| it.is_update) {
                self.refuse_update(token, now);
                continue;
            }
            match connection.release(now.instant) {
                Ok(()) => self.enqueue(token),
                Err(error) => self.close(token, now, &error),
            }
        }
    }

    /// Ends a connection with an update that cannot be made durable. Replies before it are sent, if they
    /// wait for nothing else. A device gets a response that makes it try again.
    pub(super) fn refuse_update(&mut self, token: Token, now: &Now) {
        let Self { connections, devices, telemetry, .. } = self;
        let Some(connection) = connections.get_mut(key(token).0) else { return };
        connection.held = None;
        let mut waits = false;
        if let Stage::Open(session) = &mut connection.stage {
            let devices = devices.as_mut().map(|devices| &mut devices.shared);
            let mut response = Vec::new();
            session.handle_refused(devices, &mut response);
            waits = session.is_waiting();
            if let Err(error) = connection.send(&response, now.instant) {
                return self.close(token, now, &error);
            }
        }
        telemetry.counters.updates_refused += 1;
        if waits {
            // The AT line is among the replies that follow the places.
            self.close(token, now, NOT_DURABLE);
        } else {
            self.begin_shutdown(token, NOT_DURABLE, now);
        }
    }

    /// Runs the timers of the storage, starts its tasks, and logs its events.
    pub(super) fn drive_storage(&mut self, now: &Now) {
        let (Some(disk), Some(store)) = (&self.disk, &mut self.node.store) else { return };
        let (identity, directory) = (self.node.herd.identity(), &self.node.herd.directory);
        store.append_transitions(identity.name(identity.me), directory.fences());
        let storage = &mut store.storage;
        if storage.poll_timeout().is_some_and(|at| at <= now.instant) {
            storage.handle_timeout(now.instant);
        }
        if self.time_mark_at <= now.instant {
            // A node whose files have no mark within this time starts empty.
            let keep = u64::try_from(identity.rules.forget_keep).unwrap_or(u64::MAX);
            let interval = TIME_MARK_INTERVAL.min(Duration::from_nanos(keep) / 4);
            self.time_mark_at = now.instant + interval;
            storage.append_time(now.wall);
        }
        storage.handle_directory(directory, now.instant);
        disk.write(storage, now.instant);
        while let Some(task) = storage.poll_task() {
            disk.start_task(task);
        }
        while let Some(event) = storage.poll_event() {
            log_event(&event, &store.folder);
        }
        // A write may have failed, so that replies are refused rather than kept waiting.
        self.release_gated(now);
    }

    /// Has everything synced at the end of the node. Returns true once it is.
    pub(super) fn storage_is_synced(&mut self, now: &Now) -> bool {
        let Some(store) = &mut self.node.store else { return true };
        if !mem::replace(&mut self.storage_stops, true) {
            store.storage.append_time(now.wall);
            store.storage.handle_shutdown(now.instant);
        }
        self.drive_storage(now);
        self.node.store.as_ref().is_none_or(|store| store.storage.is_idle())
    }
}

fn log_event(event: &Event, folder: &str) {
    match event {
        Event::Began(problem) => log::error!("storage {folder}: {problem}"),
        Event::Ended(Condition::Behind) => {
            log::info!("storage {folder}: the disk accepts writes again, and nothing is missing");
        }
        Event::Ended(Condition::Growing) => {
            log::info!("storage {folder}: old files are removed again");
        }
        Event::Compacted { records, before, after, took } => log::info!(
            "storage {folder}: compacted from {before} to {after} bytes, {records} records, in {:.1} s",
            took.as_secs_f64()
        ),
        Event::GivenUp { first, last } => log::warn!(
            "storage {folder}: segments {first} to {last} were removed before they were delivered, \
             because storage.max_bytes is reached"
        ),
    }
}
