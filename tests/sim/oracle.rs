//! The expected state, computed without the code under test: the order of records, what each node
//! keeps, and whether the herd has converged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proxy_herd::herd::digest::{Branch, LEAF_LEVEL, Leaf};
use proxy_herd::herd::directory::{Directory, Rules};
use proxy_herd::ids::Slot;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::time::Wall;

use crate::world::herd_hash;

/// Index of a record that the node which received it has stored.
pub type RecordId = usize;

/// A record as the oracle knows it: from the update that was sent, never from the AT line.
#[derive(Clone, Debug)]
pub struct Fact {
    pub client: usize,
    /// The client was erased.
    is_tombstone: bool,
    /// The order of the contract: `(min(time, received + Δ), time, received, server, line)`. A full
    /// directory evicts the least.
    key: (Nanos, Nanos, Nanos, usize, Vec<u8>),
}

pub struct Oracle {
    rules: Rules,
    /// Records may disappear because of a clock.
    is_volatile: bool,
    /// The bits of leaf numbers that are in use.
    leaf_bits: u16,
    clients: Vec<String>,
    pub facts: Vec<Fact>,
    by_line: HashMap<Vec<u8>, RecordId>,
    /// Per node and client, the record that it held when it was last observed.
    pub views: Vec<Vec<Option<RecordId>>>,
    /// Per node and client, the best record that it has held since it started.
    best: Vec<Vec<Option<RecordId>>>,
    /// Per client, the best record that any node held at the end of the faults.
    at_quiet: Vec<Option<RecordId>>,
}

/// An update that a node has answered.
pub struct Answered<'a> {
    pub client: usize,
    /// Location and time are those of the stored record.
    pub repeat: bool,
    pub time: Nanos,
    pub node: usize,
    pub clock: Nanos,
    /// The reply, without LF.
    pub line: &'a [u8],
    /// True if the node reports that it stored the record.
    pub stored: bool,
}

impl Oracle {
    pub fn new(
        rules: Rules,
        is_volatile: bool,
        clients: &[String],
        nodes: usize,
        leaf_bits: u16,
    ) -> Self {
        Self {
            rules,
            is_volatile,
            leaf_bits,
            clients: clients.to_vec(),
            facts: Vec::new(),
            by_line: HashMap::new(),
            views: vec![vec![None; clients.len()]; nodes],
            best: vec![vec![None; clients.len()]; nodes],
            at_quiet: vec![None; clients.len()],
        }
    }

    /// The node has lost everything.
    pub fn forget(&mut self, node: usize) {
        self.views[node].fill(None);
        self.best[node].fill(None);
    }

    /// Checks whether a node stored an update if and only if it should have.
    pub fn answered(&mut self, update: &Answered<'_>) -> Result<Option<RecordId>, String> {
        let rank = update.time.min(update.clock + self.rules.max_clock_offset);
        let fact = Fact {
            client: update.client,
            is_tombstone: false,
            key: (rank, update.time, update.clock, update.node, update.line.to_vec()),
        };
        let held = self.views[update.node][update.client]
            .filter(|&held| self.is_alive(held, update.clock));
        let expected = match held {
            Some(_) if update.repeat => false,
            Some(held) => fact.key > self.facts[held].key,
            None => !self.ranks_too_low(update.node, &fact),
        };
        if update.stored != expected {
            return Err(format!(
                "{} was {}stored; the stored record was {}",
                update.line.escape_ascii(),
                if update.stored { "" } else { "not " },
                held.map_or("nothing".to_owned(), |held| self.show(held)),
            ));
        }
        if !update.stored {
            return Ok(None);
        }
        let id = self.facts.len();
        self.by_line.insert(update.line.to_vec(), id);
        self.facts.push(fact);
        Ok(Some(id))
    }

    /// An original server has stored and flooded a record that it received at `clock` by its own clock.
    pub fn flooded_by_original(&mut self, update: &Answered<'_>) -> RecordId {
        let rank = update.time.min(update.clock + self.rules.max_clock_offset);
        self.by_line.insert(update.line.to_vec(), self.facts.len());
        self.facts.push(Fact {
            client: update.client,
            is_tombstone: false,
            key: (rank, update.time, update.clock, update.node, update.line.to_vec()),
        });
        self.facts.len() - 1
    }

    /// A node was asked at `clock` to erase a client. `line` is that of the tombstone; `None` if it
    /// does not know the client.
    pub fn forgotten(
        &mut self,
        node: usize,
        client: usize,
        clock: Nanos,
        line: Option<&[u8]>,
    ) -> Result<Option<RecordId>, String> {
        // One that is too far ahead is invisible to the node, and erased nevertheless.
        let held = self.views[node][client]
            .filter(|&held| !self.has_expired(held, clock) && !self.facts[held].is_tombstone);
        let (held, line) = match (held, line) {
            (None, None) => return Ok(None),
            (Some(held), Some(line)) => (held, line),
            _ => return Err(format!("n{node:02}: {held:?} is held, and the answer is {line:?}")),
        };
        // The tombstone is newer than what it erases.
        let time = clock.max(self.facts[held].key.0 + 1);
        let (seconds, nanos) = (time / SECOND, time % SECOND);
        let name = &self.clients[client];
        let expected = format!("AT n{node:02} +0.000000000 {name} {seconds}.{nanos:09}");
        if line != expected.as_bytes() {
            return Err(format!("{} is not {expected}", line.escape_ascii()));
        }
        let id = self.facts.len();
        let key = (time, time, time, node, line.to_vec());
        self.by_line.insert(line.to_vec(), id);
        self.facts.push(Fact { client, is_tombstone: true, key });
        Ok(Some(id))
    }

    /// Checks the records that a node holds at wall time `clock`: properties S2 and S3.
    pub fn observe(
        &mut self,
        node: usize,
        directory: &Directory,
        clock: Nanos,
    ) -> Result<(), String> {
        let mut view = vec![None; self.clients.len()];
        let mut clients = 0;
        for line in (0..directory.slots()).map(Slot).filter_map(|slot| directory.line(slot)) {
            let Some(&id) = self.by_line.get(line) else {
                return Err(format!("S3: no node accepted {}", line.escape_ascii()));
            };
            if view[self.facts[id].client].replace(id).is_some() {
                return Err(format!("two records of one client: {}", line.escape_ascii()));
            }
            clients += 1;
        }
        if directory.len() != clients || clients > self.rules.max_clients {
            return Err(format!(
                "{clients} clients are stored, but it reports {}",
                directory.len()
            ));
        }
        self.check_sums(directory, &view)?;
        for &id in view.iter().flatten().filter(|&&id| self.facts[id].is_tombstone) {
            let name = &self.clients[self.facts[id].client];
            if directory.get(name.as_bytes(), Wall(clock)).is_some() {
                return Err(format!("{name} is visible although it was erased"));
            }
        }
        for client in 0..view.len() {
            self.compare(node, client, &view, clock)?;
            let Some(now) = view[client] else { continue };
            self.best[node][client] = Some(now);
            if self.is_volatile && self.at_quiet[client] != Some(now) {
                // The newer record may disappear; the older one is not expected then.
                let older = |&id: &RecordId| self.facts[id].key < self.facts[now].key;
                self.at_quiet[client] = self.at_quiet[client].filter(|id| !older(id));
            }
        }
        self.views[node] = view;
        Ok(())
    }

    /// Checks the digest sums of a node whose records have not changed since it was last observed.
    pub fn check_digests(&self, node: usize, directory: &Directory) -> Result<(), String> {
        self.check_sums(directory, &self.views[node])
    }

    /// Checks that the digest sums are those of the records that are stored.
    fn check_sums(&self, directory: &Directory, view: &[Option<RecordId>]) -> Result<(), String> {
        if directory.is_rekeying() {
            return Ok(());
        }
        let mut leaves: BTreeMap<u16, u64> = BTreeMap::new();
        let hash = |bytes: &[u8]| herd_hash(directory.digest_key(), bytes);
        for &id in view.iter().flatten() {
            let client = hash(self.clients[self.facts[id].client].as_bytes());
            let sum = leaves.entry(Leaf::of(client).0 & self.leaf_bits).or_default();
            *sum = sum.wrapping_add(hash(self.line(id)));
        }
        let sums = directory.sums();
        let total = leaves.values().fold(0u64, |sum, more| sum.wrapping_add(*more));
        let leaf_adds_up =
            |(&index, &sum): (&u16, &u64)| sums.of(Branch { level: LEAF_LEVEL, index }) == sum;
        if sums.of(Branch::ROOT) == total && leaves.iter().all(leaf_adds_up) {
            Ok(())
        } else {
            Err("the digest sums do not match the records".to_owned())
        }
    }

    fn compare(
        &self,
        node: usize,
        client: usize,
        view: &[Option<RecordId>],
        clock: Nanos,
    ) -> Result<(), String> {
        if let Some(now) = view[client]
            && view[client] != self.views[node][client]
            && !self.is_alive(now, clock)
            && !self.is_tombstone_of_ahead(now, node, clock)
        {
            return Err(format!("{} was stored although it is not alive", self.show(now)));
        }
        let before = match view[client] {
            // A client may be dropped and then stored again from an older record.
            Some(_) if self.is_volatile => self.views[node][client],
            Some(_) => self.best[node][client],
            None => self.views[node][client],
        };
        let Some(before) = before else { return Ok(()) };
        match view[client] {
            _ if !self.is_alive(before, clock) => Ok(()),
            Some(now) if self.facts[now].key < self.facts[before].key => Err(format!(
                "S2: {} was replaced by the older {}",
                self.show(before),
                self.show(now)
            )),
            Some(_) => Ok(()),
            None if self.is_evicted(before, view) => Ok(()),
            None => Err(format!("S2: {} was dropped", self.show(before))),
        }
    }

    /// The faults are over: records that any node holds, and that are alive at the true time, must not
    /// be lost from now on.
    pub fn quiet(&mut self, clock: Nanos) {
        // With a cap, a record may be evicted in favor of others that disappear before it.
        let capped = (self.rules.max_clients as usize) < self.clients.len();
        if !(capped && self.is_volatile) {
            self.at_quiet = self.best_of_all(|id| !self.is_volatile || self.is_alive(id, clock));
        }
    }

    /// Checks that all `nodes`, each with its wall time, hold the same records and have lost none:
    /// properties S1 and L2.
    pub fn converged(&self, nodes: &[(usize, Nanos)]) -> Result<(), String> {
        let alive = |id: RecordId| nodes.iter().all(|&(_, clock)| self.is_alive(id, clock));
        if self.is_volatile && nodes.iter().any(|&(_, clock)| clock != nodes[0].1) {
            return self.newest_are_everywhere(nodes, alive);
        }
        let mut kept: Vec<RecordId> = self.best_of_all(alive).into_iter().flatten().collect();
        kept.sort_by_key(|&id| core::cmp::Reverse(&self.facts[id].key));
        kept.truncate(self.rules.max_clients as usize);
        let kept: BTreeSet<RecordId> = kept.into_iter().collect();
        for &(node, _) in nodes {
            let view = &self.views[node];
            let held: BTreeSet<RecordId> =
                view.iter().flatten().copied().filter(|&id| alive(id)).collect();
            if let Some(&lacks) = kept.difference(&held).next() {
                return Err(format!("n{node:02} lacks {}", self.show(lacks)));
            }
            if let Some(&excess) = held.difference(&kept).next() {
                return Err(format!("n{node:02} still holds {}", self.show(excess)));
            }
        }
        Ok(())
    }

    /// While clocks differ, a node may hold an older record of a client than another, because the newest
    /// is not alive by its clock. If it is alive on all nodes, they must hold it.
    fn newest_are_everywhere(
        &self,
        nodes: &[(usize, Nanos)],
        alive: impl Fn(RecordId) -> bool,
    ) -> Result<(), String> {
        for client in 0..self.clients.len() {
            let records = (0..self.facts.len()).filter(|&id| self.facts[id].client == client);
            let newest = records.max_by_key(|&id| &self.facts[id].key);
            let Some(newest) = newest.filter(|&id| alive(id)) else { continue };
            if let Some(&(node, _)) = nodes.iter().find(|&&(node, _)| !self.has(node, newest)) {
                return Err(format!("n{node:02} lacks {}", self.show(newest)));
            }
        }
        Ok(())
    }

    /// Returns whether a node must have received a record that was stored `since` ago: the record has
    /// been alive by its clock all the time, and no newer one may have stood in its way.
    pub fn is_due(&self, id: RecordId, clock: Nanos, since: Nanos) -> bool {
        let newer =
            |fact: &Fact| fact.client == self.facts[id].client && fact.key > self.facts[id].key;
        self.is_alive(id, clock)
            && self.is_alive(id, clock - since)
            && !(self.is_volatile && self.facts.iter().any(newer))
    }

    /// Returns whether a node holds a newer record of the same client. If a sync has yet to bring that one
    /// to other nodes, it stops this one on its way, and they have neither for a while.
    pub fn is_outdone(&self, id: RecordId) -> bool {
        let Fact { client, key, .. } = &self.facts[id];
        let mut held = self.views.iter().filter_map(|view| view[*client]);
        held.any(|held| self.facts[held].key > *key)
    }

    /// The AT lines of the best record of each client that was not erased.
    pub fn newest_lines(&self) -> impl Iterator<Item = &[u8]> {
        let best = self.best_of_all(|_| true).into_iter().flatten();
        best.filter(|&id| !self.facts[id].is_tombstone).map(|id| self.line(id))
    }

    /// The AT line of a record, without LF.
    pub fn line(&self, id: RecordId) -> &[u8] {
        &self.facts[id].key.4
    }

    /// Returns whether `node` holds this record or a newer one.
    pub fn has(&self, node: usize, id: RecordId) -> bool {
        let held = self.views[node][self.facts[id].client];
        held.is_some_and(|held| self.facts[held].key >= self.facts[id].key)
    }

    pub fn show(&self, id: RecordId) -> String {
        self.facts[id].key.4.escape_ascii().to_string()
    }

    /// Per client, the best of the records that any node holds, or held at the end of the faults, and
    /// for which `counts` is true.
    fn best_of_all(&self, counts: impl Fn(RecordId) -> bool) -> Vec<Option<RecordId>> {
        (0..self.clients.len())
            .map(|client| {
                let held = self.views.iter().filter_map(|view| view[client]);
                held.chain(self.at_quiet[client])
                    .filter(|&id| counts(id))
                    .max_by_key(|&id| &self.facts[id].key)
            })
            .collect()
    }

    /// Returns whether a record is alive: at most a day ahead of the clock, and not older than the time
    /// to live.
    fn is_alive(&self, id: RecordId, clock: Nanos) -> bool {
        clock - self.facts[id].key.2 >= -86_400_000_000_000 && !self.has_expired(id, clock)
    }

    /// Returns whether a node has made a tombstone for a record that was too far ahead of its clock. Both
    /// are invisible to it.
    fn is_tombstone_of_ahead(&self, id: RecordId, node: usize, clock: Nanos) -> bool {
        let fact = &self.facts[id];
        fact.is_tombstone && fact.key.3 == node && !self.has_expired(id, clock)
    }

    fn has_expired(&self, id: RecordId, clock: Nanos) -> bool {
        let (fact, rules) = (&self.facts[id], &self.rules);
        let ttl = if fact.is_tombstone { rules.forget_keep } else { rules.client_ttl };
        ttl > 0 && clock - fact.key.2 > ttl
    }

    fn ranks_too_low(&self, node: usize, fact: &Fact) -> bool {
        // The record of this client has expired and makes room.
        let others = self.views[node].iter().flatten().copied();
        let held: Vec<RecordId> =
            others.filter(|&id| self.facts[id].client != fact.client).collect();
        held.len() >= self.rules.max_clients as usize
            && held.iter().all(|&id| self.facts[id].key > fact.key)
    }

    /// Returns whether a node must be observed after each record that it receives, not only after each
    /// turn. A record that has expired counts until it is removed, so another one may be evicted, and then
    /// there may be room for an older one of the same client.
    pub fn needs_each_record(&self) -> bool {
        self.is_volatile && (self.rules.max_clients as usize) < self.clients.len()
    }

    fn is_evicted(&self, id: RecordId, view: &[Option<RecordId>]) -> bool {
        let mut held = view.iter().flatten();
        let full = view.iter().flatten().count() == self.rules.max_clients as usize;
        full && held.all(|&other| self.facts[other].key > self.facts[id].key)
    }
}
