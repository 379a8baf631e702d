//! Reading beside the writer: each read is one snapshot, on a connection of a small pool.
//!
//! Readers never wait for writers here, nor writers for readers. A connection whose read failed is
//! dropped, and the next read opens a new one.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rhubarb_core::{
    backend::{Result, StoreError},
    time::Now,
};
use rusqlite::{CachedStatement, Connection};
use tokio::sync::Semaphore;

use crate::{
    clock::Clock,
    error::{Fallible, Told},
    names::{Name, NameNo, Names},
    options::Durability,
};

/// Reads at the same time; more wait.
const READERS_MAX: usize = 4;

/// A pool of connections that only read.
pub(crate) struct Reads {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    names: Arc<Names>,
    idle: Mutex<Vec<Connection>>,
    room: Semaphore,
}

/// One snapshot.
pub(crate) struct Snapshot<'c> {
    /// The connection.
    pub(crate) connection: &'c Connection,
    /// What the clocks say.
    pub(crate) now: Now,
    /// The number of this boot; none if nothing was written in it.
    pub(crate) boot: Option<NameNo>,
    names: &'c Names,
}

impl<'c> Snapshot<'c> {
    /// A statement, prepared once per connection.
    pub(crate) fn prepare(&self, sql: &str) -> Fallible<CachedStatement<'c>> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// The number of a name, if the store has met it.
    pub(crate) fn find_number(&self, text: &str) -> Fallible<Option<NameNo>> {
        self.names.find(self.connection, text)
    }

    /// The name of a number.
    pub(crate) fn name(&self, number: NameNo) -> Fallible<Name> {
        self.names.name(self.connection, number)
    }
}

impl Reads {
    /// A pool without connections yet.
    pub(crate) fn new(path: PathBuf, clock: Arc<dyn Clock>, names: Arc<Names>) -> Self {
        Self { path, clock, names, idle: Mutex::default(), room: Semaphore::new(READERS_MAX) }
    }

    /// The number of a name, if this process has met it.
    pub(crate) fn known_number(&self, text: &str) -> Option<NameNo> {
        self.names.cached(text)
    }

    /// Reads on a thread that may block.
    pub(crate) async fn read<T, F>(self: &Arc<Self>, what: &'static str, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Snapshot<'_>) -> Fallible<T> + Send + 'static,
    {
        let gone = |text: String| StoreError::unreachable(what, Told(text));
        let _room = self.room.acquire().await.map_err(|error| gone(error.to_string()))?;
        let pool = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || pool.read_here(what, read)).await;
        done.map_err(|error| gone(error.to_string()))?
    }

    /// Reads on this thread: only for a few rows by their keys, which takes microseconds.
    pub(crate) fn read_here<T>(
        &self,
        what: &'static str,
        read: impl FnOnce(&Snapshot<'_>) -> Fallible<T>,
    ) -> Result<T> {
        self.try_read(read).map_err(|fault| fault.told(what))
    }

    fn try_read<T>(&self, read: impl FnOnce(&Snapshot<'_>) -> Fallible<T>) -> Fallible<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => crate::open::connect_reader(&self.path, Durability::Normal)?,
        };
        connection.prepare_cached("begin")?.execute([])?;
        let value = self.snapshot(&connection).and_then(|snapshot| read(&snapshot))?;
        connection.prepare_cached("commit")?.execute([])?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(value)
    }

    fn snapshot<'c>(&'c self, connection: &'c Connection) -> Fallible<Snapshot<'c>> {
        let reading = self.clock.read();
        let boot = self.names.find(connection, &reading.boot)?;
        Ok(Snapshot { connection, now: reading.now, boot, names: &self.names })
    }
}
