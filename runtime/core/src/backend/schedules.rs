//! Rules that enqueue: kept and listed here; who fires them depends on the backend.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{backend::Result, ids::ScheduleName};

/// A schedule as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// Its name.
    pub name: ScheduleName,
    /// It is one of the configuration file's, and reconciled with it at start.
    pub from_file: bool,
    /// The rule and what it enqueues, as the configuration describes it.
    pub definition: serde_json::Value,
}

/// Schedules.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Creates or replaces schedules.
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
}
