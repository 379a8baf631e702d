//! What a verb works with: one write transaction, its time, and what must be told after its commit.
//!
//! Counts by queue and state are kept as sums of what the transactions changed, written once per
//! commit, so that counting never reads rows.

use std::cell::{Cell, RefCell};

use rhubarb_core::{
    ids::MessageId,
    limits::Limits,
    row::State,
    time::{Now, Timestamp},
};
use rusqlite::{CachedStatement, Connection, params};

use crate::{
    error::Fallible,
    names::{Name, NameNo, Naming},
    recent::Recent,
};

/// What one store is opened with, for every transaction.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The limits.
    pub(crate) limits: Limits,
    /// The store's own id.
    pub(crate) store_id: [u8; 8],
}

/// The statements that every task goes through. Finding one by its text costs a good part of what it
/// does, so they stay at hand for the length of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usual {
    /// Finds a row by its task.
    Find,
    /// Writes a claim.
    Claim,
    /// Writes a settlement.
    Settle,
    /// Writes a success of a row that was not read again.
    Succeed,
}

/// One write transaction.
pub(crate) struct Transaction<'c> {
    /// The connection it runs on.
    pub(crate) connection: &'c Connection,
    /// When it began, which counts as now for all of it.
    pub(crate) now: Now,
    /// The number of this boot.
    pub(crate) boot: NameNo,
    /// What the store was opened with.
    pub(crate) ground: &'c Ground,
    /// What this process has claimed lately.
    pub(crate) recent: &'c RefCell<Recent>,
    names: Naming<'c>,
    counts: Vec<((NameNo, State), i64)>,
    told: Told,
    /// Meters whose permits have come back.
    returned: Vec<(NameNo, String)>,
    usual: [Cell<Option<CachedStatement<'c>>>; 4],
}

/// Whom a commit concerns.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The queues that have something new.
    pub(crate) queues: Vec<NameNo>,
    /// Some task was settled.
    pub(crate) settled: bool,
}

impl<'c> Transaction<'c> {
    /// Begins; the caller has begun the connection's own transaction.
    pub(crate) fn new(
        connection: &'c Connection,
        now: Now,
        boot: &str,
        mut names: Naming<'c>,
        ground: &'c Ground,
        recent: &'c RefCell<Recent>,
    ) -> Fallible<Self> {
        let boot = names.number(connection, boot)?;
        let usual = Default::default();
        Ok(Self {
            connection,
            now,
            boot,
            ground,
            recent,
            names,
            counts: Vec::new(),
            told: Told::default(),
            returned: Vec::new(),
            usual,
        })
    }

    /// Ends: calls parked tasks for the permits that have come back, and writes the counts. The caller commits, then shares the names and tells.
    pub(crate) fn end(mut self) -> Fallible<(Naming<'c>, Told)> {
        self.call_returned()?;
        for ((queue, state), change) in self.counts.iter().filter(|(_, change)| *change != 0) {
            let key = params![queue, *state as u8, change];
            let update = "update count set n = n + ?3 where queue = ?1 and state = ?2";
            if self.connection.prepare_cached(update)?.execute(key)? == 0 {
                self.connection
                    .prepare_cached("insert into count(queue, state, n) values(?1, ?2, ?3)")?
                    .execute(key)?;
            }
        }
        Ok((self.names, self.told))
    }

    /// A statement, prepared once per connection.
    pub(crate) fn prepare(&self, sql: &str) -> Fallible<CachedStatement<'c>> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// A statement of every task's; to be laid back after use.
    pub(crate) fn at_hand(&self, usual: Usual, sql: &str) -> Fallible<CachedStatement<'c>> {
        self.usual[usual as usize].take().map_or_else(|| self.prepare(sql), Ok)
    }

    /// Keeps a statement at hand for the next task.
    pub(crate) fn lay_back(&self, usual: Usual, statement: CachedStatement<'c>) {
        self.usual[usual as usize].set(Some(statement));
    }

    /// The number of a name; a new one where the store has not met it.
    pub(crate) fn number(&mut self, text: &str) -> Fallible<NameNo> {
        self.names.number(self.connection, text)
    }

    /// The number of a name, if the store has met it.
    pub(crate) fn find_number(&self, text: &str) -> Fallible<Option<NameNo>> {
        self.names.find(self.connection, text)
    }

    /// The name of a number.
    pub(crate) fn name(&self, number: NameNo) -> Fallible<Name> {
        self.names.name(self.connection, number)
    }

    /// The wall clock.
    pub(crate) const fn epoch(&self) -> Timestamp {
        self.now.epoch
    }

    /// The limits.
    pub(crate) const fn limits(&self) -> &'c Limits {
        &self.ground.limits
    }

    /// Notes that there are `change` more tasks of a queue in a state.
    pub(crate) fn count(&mut self, queue: NameNo, state: State, change: i64) {
        match self.counts.iter_mut().find(|(key, _)| *key == (queue, state)) {
            Some((_, sum)) => *sum += change,
            None => self.counts.push(((queue, state), change)),
        }
    }

    /// Notes that a queue has a new message, or will have one sooner.
    pub(crate) fn ring(&mut self, queue: NameNo) {
        if !self.told.queues.contains(&queue) {
            self.told.queues.push(queue);
        }
    }

    /// Notes that a permit of this meter is free, and that somebody is parked for it.
    pub(crate) fn note_returned(&mut self, queue: NameNo, line: String) {
        self.returned.push((queue, line));
    }

    /// The next meter that was noted so.
    pub(crate) fn next_returned(&mut self) -> Option<(NameNo, String)> {
        self.returned.pop()
    }

    /// Notes that a task was settled.
    pub(crate) const fn note_settled(&mut self) {
        self.told.settled = true;
    }

    /// What a message of the table `message` is called.
    pub(crate) fn message_id(&self, seq: i64) -> MessageId {
        message_id(self.ground.store_id, seq)
    }

    /// What the doorbell of a row is called.
    pub(crate) fn doorbell_id(&self, seq: i64) -> MessageId {
        message_id(self.ground.store_id, seq | (1 << 60))
    }
}

/// A UUID made from the store's id and a number, so that it takes no room in the file.
fn message_id(store: [u8; 8], seq: i64) -> MessageId {
    let mut bytes = [0_u8; 16];
    bytes[..8].copy_from_slice(&store);
    bytes[8..].copy_from_slice(&seq.to_be_bytes());
    MessageId::new(uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string())
}
