//! What the tests of the embedded store share: a store in a folder of its own, on a clock moved by hand.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its own part; a helper that fails is a failed test"
)]

use std::{sync::Arc, time::Duration};

use rhubarb_core::{
    backend::{ClaimPolicy, Finish, Log, Settlement, Submission, Window, Won},
    envelope::Envelope,
    ids::{QueueName, TaskId, TaskName, WorkerId},
    outcome::Outcome,
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
    ClaimPolicy { keep: (Duration::from_secs(3_600), Duration::from_secs(7_200)), ..ClaimPolicy::new(queue(name), ack) }
}

pub(crate) fn envelope(args: &str) -> Envelope {
    Envelope::new(TaskId::mint(), TaskName::new("task").unwrap(), RawValue::from_string(args.to_owned()).unwrap())
}

pub(crate) fn spec(name: &str, args: &str) -> Submission {
    Submission::new(&envelope(args), queue(name), Window::DEFAULT)
}

/// Tells what must hold of the file whatever was done, and is not so.
pub(crate) fn broken_invariants(folder: &std::path::Path) -> Vec<String> {
    let connection = rusqlite::Connection::open(folder.join("store.db")).unwrap();
    let checks = [
        (
            "a waiting row out of the doorbell index",
            "select count(*) from task where state in (0, 1, 2, 4) and bell_at is null",
        ),
        ("a settled row in the doorbell index", "select count(*) from task where state >= 5 and bell_at is not null"),
        ("a settled row that is never forgotten", "select count(*) from task where state >= 5 and forget_at is null"),
        ("an unsettled row that is forgotten", "select count(*) from task where state < 5 and forget_at is not null"),
        (
            "a running row that nobody holds",
            "select count(*) from task where state = 3 and (flags & 4 = 0 or lease_until is null)",
        ),
        (
            "a wrong count",
            "select count(*) from (select queue, state, sum(n) as n from (select queue, state, count(*) as n from task \
             where flags & 32 = 0 group by 1, 2 union all select queue, state, -n from count) group by 1, 2) where n <> 0",
        ),
        ("a payload without a row", "select count(*) from payload where key / 4 not in (select seq from task)"),
        ("a history without a row", "select count(*) from attempt where seq not in (select seq from task)"),
        ("a damaged file", "select count(*) from pragma_integrity_check where integrity_check <> 'ok'"),
    ];
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    checks.iter().filter(|(_, sql)| count(sql) > 0).map(|(what, sql)| format!("{what}: {}", count(sql))).collect()
}

/// What a holder says when it settles.
pub(crate) fn finish(won: &Won, name: &str, outcome: Outcome) -> Finish {
    let keep = (Duration::from_secs(3_600), Duration::from_secs(7_200));
    let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log: Log::default(), keep };
    Finish { queue: queue(name), settlement, receipt: won.receipt.clone(), hideable: Duration::from_secs(600) }
}
