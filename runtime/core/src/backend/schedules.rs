//! Rules that enqueue: kept here with how far each has been dealt with; who fires them depends on the backend.
//!
//! A record has two writers. People change what it says ([`Schedules::put`], [`Schedules::delete`],
//! [`Schedules::pause`]); whoever fires it notes how far it has come ([`Schedules::note`],
//! [`Schedules::enter`]). Neither undoes what the other wrote.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    backend::{Later, Result},
    ids::{ScheduleName, TaskId},
    schedule::Position,
    time::Timestamp,
};

/// A schedule as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// Its name.
    pub name: ScheduleName,
    /// It is one of the configuration file's, and reconciled with it at start.
    pub from_file: bool,
    /// The rule and what it enqueues, as [`crate::config::Definition`] writes it.
    pub definition: serde_json::Value,
    /// When it began: a rate without a start counts from here.
    #[serde(default)]
    pub since: Timestamp,
    /// Every tick up to this time has been fired or left out.
    #[serde(default)]
    pub passed: Timestamp,
    /// The last tick that was fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_tick: Option<Timestamp>,
    /// It does not fire until it is resumed.
    #[serde(default)]
    pub paused: bool,
    /// When it was last resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Timestamp>,
    /// The backend fires it by itself, not an agent; the backend's to write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hosted: bool,
    /// The task of a tick that was let through last, where ticks must not overlap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Current>,
}

/// The task of a tick that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The task.
    pub task: TaskId,
    /// Its tick.
    pub tick: Timestamp,
}

/// How far a schedule has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The schedule.
    pub name: ScheduleName,
    /// Every tick up to this one is dealt with.
    pub passed: Timestamp,
    /// The last tick that was fired, if one was.
    pub last_tick: Option<Timestamp>,
}

impl ScheduleRecord {
    /// A schedule that begins at `since`: no earlier tick is fired.
    #[must_use]
    pub fn new(name: ScheduleName, from_file: bool, definition: serde_json::Value, since: Timestamp) -> Self {
        Self {
            name,
            from_file,
            definition,
            since,
            passed: since.before(Duration::from_millis(1)),
            last_tick: None,
            paused: false,
            resumed: None,
            hosted: false,
            current: None,
        }
    }

    /// How far it has been dealt with.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { passed: self.passed, resumed: self.resumed }
    }

    /// What a put over this record leaves: the new definition, and all that was noted. Returns whether anything
    /// is to be written.
    pub fn replace(&mut self, new: &Self) -> bool {
        if self.definition == new.definition && self.from_file == new.from_file {
            let changes = self.hosted != new.hosted;
            self.hosted = new.hosted;
            return changes;
        }
        self.hosted = new.hosted;
        self.definition.clone_from(&new.definition);
        self.from_file = new.from_file;
        self.since = new.since;
        self.passed = self.passed.max(new.passed);
        true
    }

    /// Notes how far it has come; what is known to be further stays.
    pub fn note(&mut self, noted: &Noted) {
        self.passed = self.passed.max(noted.passed);
        self.last_tick = self.last_tick.max(noted.last_tick);
    }

    /// Pauses or resumes it. Returns whether that changed anything.
    pub fn pause(&mut self, paused: bool, now: Timestamp) -> bool {
        let changes = self.paused != paused;
        if changes {
            self.paused = paused;
            self.resumed = if paused { self.resumed } else { Some(now) };
        }
        changes
    }

    /// Lets a tick's task take the place of the one that is in. Returns whether it was `expected` who was.
    pub fn enter(&mut self, expected: Option<Current>, next: Current) -> bool {
        let is_as_seen = self.current == expected;
        if is_as_seen {
            self.current = Some(next);
        }
        is_as_seen
    }
}

/// Schedules.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Creates schedules, or changes what they say; see [`ScheduleRecord::replace`] for what stays. The same
    /// definition again changes nothing.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn put(&self, schedules: &[ScheduleRecord]) -> Vec<Result<()>>;

    /// Deletes schedules. Deleting one that is gone is no error.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn delete(&self, names: &[ScheduleName]) -> Vec<Result<()>>;

    /// Lists schedules by name.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn list(&self) -> Result<Vec<ScheduleRecord>>;

    /// Reads schedules as they are now; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn read(&self, names: &[ScheduleName]) -> Result<Vec<Option<ScheduleRecord>>>;

    /// Pauses or resumes a schedule; see [`ScheduleRecord::pause`]. Returns false if there is none.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn pause(&self, name: &ScheduleName, paused: bool) -> Result<bool>;

    /// Notes how far schedules have come; see [`ScheduleRecord::note`]. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached; the same ticks are fired again, to the same tasks.
    async fn note(&self, noted: &[Noted]) -> Vec<Result<()>>;

    /// Lets the task of a tick take the place of the one that is in, if that is still `expected`; see
    /// [`ScheduleRecord::enter`]. Returns false if it is not, or if there is no such schedule.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn enter(&self, name: &ScheduleName, expected: Option<Current>, next: Current) -> Result<bool>;

    /// A number that grows whenever a schedule is put, deleted, paused or resumed.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn revision(&self) -> Result<u64>;

    /// True for a schedule that the backend fires by itself; the others an agent fires. What it goes by is as old
    /// as the last [`Self::left_to_agents`].
    fn fires(&self, schedule: &ScheduleRecord) -> bool {
        let _ = schedule;
        false
    }

    /// True if an agent may have something to fire. Where it is false, none asks for the role `scheduler`.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn left_to_agents(&self) -> Result<bool> {
        Ok(true)
    }

    /// How often agents look for changes and renew the role `scheduler`, which they hold for three times as long.
    fn look_every(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Who keeps messages until their time, where anybody does.
    fn later(&self) -> Option<&dyn Later> {
        None
    }
}
