//! Names as small numbers: queues, tasks, workers and boots stand in rows by the number they got when
//! the store first met them.
//!
//! The cache is shared by all connections of a process and holds only what is committed: what a
//! transaction adds is kept apart until its commit, and dropped with it.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use rhubarb_core::ids::{QueueName, TaskName, WorkerId};
use rusqlite::{Connection, OptionalExtension as _};

use crate::error::{Fallible, Fault};

/// Names beyond this make the cache start anew: producers choose task names.
const CACHED_MAX: usize = 10_000;

/// A name's number.
pub(crate) type NameNo = i64;

/// One name in every type it is asked for as: a copy is a pointer's.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    text: Arc<str>,
    queue: Option<QueueName>,
    task: Option<TaskName>,
    worker: Option<WorkerId>,
}

impl Name {
    fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            queue: QueueName::new(text).ok(),
            task: TaskName::new(text).ok(),
            worker: WorkerId::new(text).ok(),
        }
    }

    fn as_type<T: Clone>(&self, typed: Option<&T>, what: &str) -> Fallible<T> {
        typed.cloned().ok_or_else(|| Fault::Damaged(format!("`{}` as a {what}", self.text.escape_default())))
    }

    /// The name as a queue's.
    pub(crate) fn queue(&self) -> Fallible<QueueName> {
        self.as_type(self.queue.as_ref(), "queue")
    }

    /// The name as a task's.
    pub(crate) fn task(&self) -> Fallible<TaskName> {
        self.as_type(self.task.as_ref(), "task name")
    }

    /// The name as a worker's.
    pub(crate) fn worker(&self) -> Fallible<WorkerId> {
        self.as_type(self.worker.as_ref(), "worker")
    }
}

/// The committed names that this process has met.
#[derive(Debug, Default)]
pub(crate) struct Names(RwLock<Maps>);

#[derive(Debug, Default)]
struct Maps {
    numbers: HashMap<Arc<str>, NameNo>,
    names: HashMap<NameNo, Name>,
}

impl Maps {
    fn insert(&mut self, number: NameNo, name: Name) {
        if self.names.len() >= CACHED_MAX {
            *self = Self::default();
        }
        self.numbers.insert(Arc::clone(&name.text), number);
        self.names.insert(number, name);
    }
}

impl Names {
    /// The number of a name, if the store has met it.
    pub(crate) fn find(&self, connection: &Connection, text: &str) -> Fallible<Option<NameNo>> {
        if let Some(number) = self.cached(text) {
            return Ok(Some(number));
        }
        let number = select_number(connection, text)?;
        if let Some(number) = number {
            self.add(number, Name::new(text));
        }
        Ok(number)
    }

    /// The name of a number.
    pub(crate) fn name(&self, connection: &Connection, number: NameNo) -> Fallible<Name> {
        if let Some(name) = self.0.read().unwrap_or_else(PoisonError::into_inner).names.get(&number) {
            return Ok(name.clone());
        }
        let name = select_name(connection, number)?;
        self.add(number, name.clone());
        Ok(name)
    }

    /// The number of a name, if this process has met it.
    pub(crate) fn cached(&self, text: &str) -> Option<NameNo> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).numbers.get(text).copied()
    }

    fn add(&self, number: NameNo, name: Name) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(number, name);
    }
}

/// What one transaction sees: the committed names and those it adds itself.
#[derive(Debug)]
pub(crate) struct Naming<'n> {
    committed: &'n Names,
    added: HashMap<Arc<str>, NameNo>,
}

impl<'n> Naming<'n> {
    /// Begins with nothing added.
    pub(crate) fn new(committed: &'n Names) -> Self {
        Self { committed, added: HashMap::new() }
    }

    /// The number of a name; a new one where the store has not met it.
    pub(crate) fn number(&mut self, connection: &Connection, text: &str) -> Fallible<NameNo> {
        if let Some(number) = self.committed.cached(text).or_else(|| self.added.get(text).copied()) {
            return Ok(number);
        }
        if let Some(number) = select_number(connection, text)? {
            // Perhaps added by this very transaction before the cache was emptied: cached at commit.
            self.added.insert(text.into(), number);
            return Ok(number);
        }
        connection.prepare_cached("insert into name(text) values(?1)")?.execute([text])?;
        let number = connection.last_insert_rowid();
        self.added.insert(text.into(), number);
        Ok(number)
    }

    /// The number of a name, if the store has met it.
    pub(crate) fn find(&self, connection: &Connection, text: &str) -> Fallible<Option<NameNo>> {
        match self.committed.cached(text).or_else(|| self.added.get(text).copied()) {
            Some(number) => Ok(Some(number)),
            None => select_number(connection, text),
        }
    }

    /// The name of a number.
    pub(crate) fn name(&self, connection: &Connection, number: NameNo) -> Fallible<Name> {
        match self.committed.0.read().unwrap_or_else(PoisonError::into_inner).names.get(&number) {
            Some(name) => Ok(name.clone()),
            None => select_name(connection, number),
        }
    }

    /// Shares what was added, after the commit.
    pub(crate) fn commit(self) {
        for (text, number) in self.added {
            self.committed.add(number, Name::new(&text));
        }
    }
}

fn select_number(connection: &Connection, text: &str) -> Fallible<Option<NameNo>> {
    let mut select = connection.prepare_cached("select id from name where text = ?1")?;
    Ok(select.query_row([text], |row| row.get(0)).optional()?)
}

fn select_name(connection: &Connection, number: NameNo) -> Fallible<Name> {
    let mut select = connection.prepare_cached("select text from name where id = ?1")?;
    let text: Option<String> = select.query_row([number], |row| row.get(0)).optional()?;
    text.map(|text| Name::new(&text)).ok_or_else(|| Fault::Damaged(format!("name number {number} without a name")))
}
