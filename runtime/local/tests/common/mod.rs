//! What the tests of the embedded store share: a store in a folder of its own, on a clock moved by hand.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{sync::Arc, time::Duration};

use rhubarb_core::{
    backend::{ClaimPolicy, Submission, Window},
    envelope::Envelope,
    ids::{QueueName, TaskId, TaskName, WorkerId},
    row::AckMode,
};
use rhubarb_local::{LocalBackend, ManualClock, Options};
use serde_json::value::RawValue;

/// A store, its clock and its folder.
pub(crate) struct Store {
    pub(crate) backend: LocalBackend,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) folder: tempfile::TempDir,
}

/// A new store.
pub(crate) fn store() -> Store {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new());
    let backend = open(folder.path(), &clock);
    Store { backend, clock, folder }
}

fn open(folder: &std::path::Path, clock: &Arc<ManualClock>) -> LocalBackend {
    LocalBackend::open(folder, Options { clock: clock.clone(), ..Options::default() }).unwrap()
}

impl Store {
    /// The same folder opened once more, as another process would.
    pub(crate) fn open_again(&self) -> LocalBackend {
        open(self.folder.path(), &self.clock)
    }
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(crate) fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

pub(crate) fn policy(name: &str, ack: AckMode) -> ClaimPolicy {
    ClaimPolicy {
        queue: queue(name),
        ack,
        lease: Duration::from_secs(30),
        max_attempts: 3,
        raw_task: None,
        purged_before: None,
        keep: (Duration::from_secs(3_600), Duration::from_secs(7_200)),
    }
}

pub(crate) fn envelope(args: &str) -> Envelope {
    Envelope::new(TaskId::mint(), TaskName::new("task").unwrap(), RawValue::from_string(args.to_owned()).unwrap())
}

pub(crate) fn spec(name: &str, args: &str) -> Submission {
    Submission::new(&envelope(args), queue(name), Window::DEFAULT)
}
