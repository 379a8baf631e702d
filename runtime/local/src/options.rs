//! How a store is opened.

use std::{sync::Arc, time::Duration};

use rhubarb_core::limits::Limits;

use crate::clock::{Clock, SystemClock};

/// A commit takes milliseconds, and a copy of a long log a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a power cut may take. A crash of a process, kill -9 too, never takes anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The operating system writes to the disk when it sees fit: a power cut can take the last
    /// accepted tasks and outcomes (about the last half minute), never tear the file.
    #[default]
    Normal,
    /// Every answer waits until the disk has it: a power cut takes nothing, and each commit costs a
    /// flush of the disk. Calls that come in together share one.
    Full,
}

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// What a power cut may take.
    pub durability: Durability,
    /// What it may be asked for.
    pub limits: Limits,
    /// Where it reads the time.
    pub clock: Arc<dyn Clock>,
    /// How long it waits for another process to stop writing before it says in the log who that is.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Normal,
            limits: Limits::AWS,
            clock: Arc::new(SystemClock::new()),
            patience: PATIENCE,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("durability", &self.durability).field("limits", &self.limits).finish()
    }
}
