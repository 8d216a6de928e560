//! What must be true, decided without the code that is under test: the order of records, who keeps
//! what, and when all are done.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proxy_herd::herd::digest::{Branch, LEAF_LEVEL, Leaf};
use proxy_herd::herd::directory::{Directory, Rules};
use proxy_herd::protocol::time::Nanos;

use crate::world::herd_hash;

/// A number of a record that was stored by the node that received it.
pub type RecordId = usize;

/// A record as the oracle knows it: from what was told to whom and when, never from its line.
#[derive(Clone, Debug)]
pub struct Fact {
    pub client: usize,
    /// The order of the contract: `(min(time, received + Δ), time, received, server, line)`.
    key: (Nanos, Nanos, Nanos, usize, Vec<u8>),
    digest: u64,
}

pub struct Oracle {
    rules: Rules,
    hashes: Vec<u64>,
    pub facts: Vec<Fact>,
    by_line: HashMap<Vec<u8>, RecordId>,
    /// What each node held when it was last looked at, by client.
    pub views: Vec<Vec<Option<RecordId>>>,
    /// The best that each node has held of each client in this life.
    best: Vec<Vec<Option<RecordId>>>,
    /// What some node held when the faults were over.
    at_quiet: Vec<Option<RecordId>>,
}

/// Something a client told a node.
pub struct Told<'a> {
    pub client: usize,
    /// Exactly the location and time it told before.
    pub repeat: bool,
    pub time: Nanos,
    pub node: usize,
    pub clock: Nanos,
    /// The reply, without LF.
    pub line: &'a [u8],
    /// Whether the node says that it stored it.
    pub stored: bool,
}

impl Oracle {
    pub fn new(rules: Rules, clients: &[String], nodes: usize) -> Self {
        Self {
            rules,
            hashes: clients.iter().map(|name| herd_hash(name.as_bytes())).collect(),
            facts: Vec::new(),
            by_line: HashMap::new(),
            views: vec![vec![None; clients.len()]; nodes],
            best: vec![vec![None; clients.len()]; nodes],
            at_quiet: vec![None; clients.len()],
        }
    }

    /// The node starts over with nothing.
    pub fn forget(&mut self, node: usize) {
        self.views[node].fill(None);
        self.best[node].fill(None);
    }

    /// A reply was given. Whether the record was stored must follow from the contract.
    pub fn told(&mut self, told: &Told<'_>) -> Result<Option<RecordId>, String> {
        let rank = told.time.min(told.clock + self.rules.max_clock_offset);
        let fact = Fact {
            client: told.client,
            key: (rank, told.time, told.clock, told.node, told.line.to_vec()),
            digest: herd_hash(told.line),
        };
        let held =
            self.views[told.node][told.client].filter(|&held| !self.is_expired(held, told.clock));
        let expected = match held {
            Some(_) if told.repeat => false,
            Some(held) => fact.key > self.facts[held].key,
            None => !self.is_crowded_out(told.node, &fact),
        };
        if told.stored != expected {
            return Err(format!(
                "{} was {}stored, but held was {}",
                told.line.escape_ascii(),
                if told.stored { "" } else { "not " },
                held.map_or("nothing".to_owned(), |held| self.show(held)),
            ));
        }
        if !told.stored {
            return Ok(None);
        }
        let id = self.facts.len();
        self.by_line.insert(told.line.to_vec(), id);
        self.facts.push(fact);
        Ok(Some(id))
    }

    /// Looks at what a node holds now, at `clock`: S2 and S3.
    pub fn look(&mut self, node: usize, directory: &Directory, clock: Nanos) -> Result<(), String> {
        let mut view = vec![None; self.hashes.len()];
        let mut clients = 0;
        for line in (0..directory.slots()).filter_map(|slot| directory.line(slot)) {
            let Some(&id) = self.by_line.get(line) else {
                return Err(format!("S3: nobody accepted {}", line.escape_ascii()));
            };
            if view[self.facts[id].client].replace(id).is_some() {
                return Err(format!("a client twice: {}", line.escape_ascii()));
            }
            clients += 1;
        }
        if directory.len() != clients || clients > self.rules.max_clients {
            return Err(format!("{clients} clients, it says {}", directory.len()));
        }
        self.add_up(directory, &view)?;
        for client in 0..view.len() {
            self.compare(node, client, &view, clock)?;
            let Some(now) = view[client] else { continue };
            self.best[node][client] = Some(now);
            if self.rules.client_ttl > 0 && self.at_quiet[client] != Some(now) {
                // What has taken its place may expire: then the older one is not missed.
                let older = |&id: &RecordId| self.facts[id].key < self.facts[now].key;
                self.at_quiet[client] = self.at_quiet[client].filter(|id| !older(id));
            }
        }
        self.views[node] = view;
        Ok(())
    }

    /// The sums of digests are those of what is held, or comparisons see what is not there.
    fn add_up(&self, directory: &Directory, view: &[Option<RecordId>]) -> Result<(), String> {
        let mut leaves: BTreeMap<u16, u64> = BTreeMap::new();
        for &id in view.iter().flatten() {
            let fact = &self.facts[id];
            let sum = leaves.entry(Leaf::of(self.hashes[fact.client]).0).or_default();
            *sum = sum.wrapping_add(fact.digest);
        }
        let sums = directory.sums();
        let total = leaves.values().fold(0u64, |sum, more| sum.wrapping_add(*more));
        let leaf_adds_up =
            |(&index, &sum): (&u16, &u64)| sums.of(Branch { level: LEAF_LEVEL, index }) == sum;
        if sums.of(Branch::ROOT) == total && leaves.iter().all(leaf_adds_up) {
            Ok(())
        } else {
            Err("the sums of digests are not those of the records".to_owned())
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
            && self.is_expired(now, clock)
        {
            return Err(format!("{} had expired already", self.show(now)));
        }
        let before = match view[client] {
            // With expiry a client may be forgotten and heard of again by an older record.
            Some(_) if self.rules.client_ttl > 0 => self.views[node][client],
            Some(_) => self.best[node][client],
            None => self.views[node][client],
        };
        let Some(before) = before else { return Ok(()) };
        match view[client] {
            _ if self.is_expired(before, clock) => Ok(()),
            Some(now) if self.facts[now].key < self.facts[before].key => {
                Err(format!("S2: {} went back to {}", self.show(before), self.show(now)))
            }
            Some(_) => Ok(()),
            None if self.is_evicted(before, view) => Ok(()),
            None => Err(format!("S2: {} is gone", self.show(before))),
        }
    }

    /// The faults are over: what `nodes` hold must not be lost from here on.
    pub fn quiet(&mut self) {
        // With a cap and expiry a record may be crowded out by others that expire before it.
        let capped = (self.rules.max_clients as usize) < self.hashes.len();
        if !(capped && self.rules.client_ttl > 0) {
            self.at_quiet = self.best_of_all(|_| true);
        }
    }

    /// Whether all `nodes` hold the same, and all of it: S1 and L2. With each, what its clock shows.
    pub fn converged(&self, nodes: &[(usize, Nanos)]) -> Result<(), String> {
        let alive = |id: RecordId| !nodes.iter().any(|&(_, clock)| self.is_expired(id, clock));
        let mut kept: Vec<RecordId> = self.best_of_all(alive).into_iter().flatten().collect();
        kept.sort_by_key(|&id| core::cmp::Reverse(self.standing(&self.facts[id])));
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

    /// Whether `node` holds this record or a newer one, or had good reason to drop it.
    pub fn has(&self, node: usize, id: RecordId) -> bool {
        let held = self.views[node][self.facts[id].client];
        held.is_some_and(|held| self.facts[held].key >= self.facts[id].key)
    }

    pub fn show(&self, id: RecordId) -> String {
        self.facts[id].key.4.escape_ascii().to_string()
    }

    /// The newest of each client that any node holds, or held when the faults were over, of those
    /// that count.
    fn best_of_all(&self, counts: impl Fn(RecordId) -> bool) -> Vec<Option<RecordId>> {
        (0..self.hashes.len())
            .map(|client| {
                let held = self.views.iter().filter_map(|view| view[client]);
                held.chain(self.at_quiet[client])
                    .filter(|&id| counts(id))
                    .max_by_key(|&id| &self.facts[id].key)
            })
            .collect()
    }

    /// Where a client stands among those of which only so many are kept.
    fn standing(&self, fact: &Fact) -> (Nanos, Nanos, Nanos, u64) {
        let (rank, time, received, ..) = fact.key;
        (rank, time, received, self.hashes[fact.client])
    }

    fn is_expired(&self, id: RecordId, clock: Nanos) -> bool {
        let ttl = self.rules.client_ttl;
        ttl > 0 && clock - self.facts[id].key.2 > ttl
    }

    fn is_crowded_out(&self, node: usize, fact: &Fact) -> bool {
        // What it holds of this very client has expired and makes room.
        let others = self.views[node].iter().flatten().copied();
        let held: Vec<RecordId> =
            others.filter(|&id| self.facts[id].client != fact.client).collect();
        held.len() >= self.rules.max_clients as usize
            && held.iter().all(|&id| self.standing(&self.facts[id]) > self.standing(fact))
    }

    fn is_evicted(&self, id: RecordId, view: &[Option<RecordId>]) -> bool {
        let standing = self.standing(&self.facts[id]);
        let mut held = view.iter().flatten();
        // Where records expire as well, there may be room again since.
        let full = view.iter().flatten().count() == self.rules.max_clients as usize;
        if self.rules.client_ttl > 0 {
            return view.len() > self.rules.max_clients as usize;
        }
        full && held.all(|&other| self.standing(&self.facts[other]) > standing)
    }
}
