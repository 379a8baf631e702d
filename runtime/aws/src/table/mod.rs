//! Rows, workers and schedules in one DynamoDB table.
//!
//! Each verb of the protocol is one conditional write: the row is read (or known from the claim that won it), the
//! core's `Row` decides, and what it changed is written under two conditions: that the row is as it was seen (`rev`,
//! drawn anew with each write) and that its fencing token is still the seen one. Where they fail, DynamoDB returns
//! the row as it is, and the decision is made again on that. A crash before the write changes nothing; after it the
//! row says what must happen next.
//!
//! Indexes name keys only and lag; what they name is read again before anything is decided.
//!
//! # What a task costs at track level `full`
//!
//! A write unit is one write of up to 1 KiB, to the table or to an index; an index that an item changes its place in
//! is written twice. Counted by the test `a_task_costs_three_requests`.
//!
//! | verb | requests | the row | its indexes | what is written to them |
//! |---|---|---|---|---|
//! | submit | 1 | 1 | 2 | into `by_queue`; into `by_state` as queued |
//! | claim | 1 | 1 | 3 | queued to running in `by_state`; into `due` by its lease |
//! | settle | 1 | 1 | 4 | running to succeeded in `by_state`; in `due` from its lease to its time to be kept |
//! | **a light task** | **3** | **3** | **9** | |
//! | heartbeat | 1 | 1 | 1 | every second one moves the lease's place in `due`: 2 |
//! | forget | 2 to 4 | 1 | 3 | out of all three; the tombstone is deleted by its TTL, for nothing |
//!
//! What adds to it: an envelope that does not fit a row under 1 KiB (about 300 bytes) is an item of its own, one
//! request and a unit per KiB; an idempotency key makes the submit a transaction, four units in place of one for the
//! two items; a claim that is not a task's first writes the attempt before it to the history, one request and one unit; a log over
//! 4 KiB is written on its own, beside the settle. Reads: none for the three verbs; a claim of a task that was
//! tried before learns the row from the failed condition (a unit).
//!
//! # Track levels
//!
//! What each level keeps of the guarantees (`runtime/README.md` numbers them), and what a task that succeeds asks of
//! this table; in brackets one that fails for good: the put of a failed row, or a dead letter. Without a claim,
//! attempts come from the receive count, so that interruptions, snoozes and a batch that dies spend one. The test
//! `a_level_costs_what_the_documentation_says` (`tests/rowless.rs`) counts the requests, those to SQS too.
//!
//! | level | 1 not lost | 2 one holder | 3 long | 4 short | 5 GPU | 6 shutdown | 7 once settled | 8 bad input | 9 ticks | 10 at least once | requests | row + index units |
//! |---|---|---|---|---|---|---|---|---|---|---|---|---|
//! | `full` | yes | yes | yes | yes | yes | yes | yes | yes | yes | yes | 3 | 3 + 9 |
//! | `failures` | yes | | up to 11 h | yes | yes | spends an attempt | | yes | | yes | 0 (1) | 0 (1 + 3) |
//! | `none` | yes | | up to 11 h | yes | yes | spends an attempt | | yes | | yes | 0 | 0 |
//!
//! # Counting
//!
//! Counts are asked of `by_state`, about 100 entries a read unit (half of that is charged). So what waits and runs
//! is counted for little, and a million kept records for about 8,000 units: count settled ones seldom, or keep less.
//! Up to 5,000 entries are read by one request, which is the whole count of a small table; a larger one is asked by
//! queue, state and shard.

mod access;
#[cfg(test)]
mod answered;
mod attributes;
mod batch;
mod clock;
mod expression;
mod keys;
mod permits;
mod record;
mod rows;
mod schedules;
mod setup;
mod tasks;
mod transaction;
mod workers;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_sdk_dynamodb::{Client, config::Builder};
use futures::StreamExt as _;
use rhubarb_core::{
    backend::{Result, StoreError},
    limits::Limits,
    time::Now,
};

use self::{clock::ReadsDate, expression::Expression};
pub use self::{clock::ServerClock, schedules::DynamoSchedules, tasks::DynamoTasks, workers::DynamoWorkers};
use crate::connect::Connection;

/// Requests of one call that are under way at a time.
const IN_FLIGHT: usize = 32;

/// The table. Clones share it.
#[derive(Clone, Debug)]
pub struct Table {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    name: String,
    clock: Arc<ServerClock>,
    limits: Limits,
    /// Meters that have a permit for somebody who is parked, by what this process has written.
    returned: Arc<Mutex<BTreeSet<permits::MeterName>>>,
}

impl Table {
    /// The table of this name. Connects to nothing yet.
    #[must_use]
    pub fn new(connection: &Connection, name: &str) -> Self {
        let clock = ServerClock::new();
        let config = Builder::from(&connection.config).interceptor(ReadsDate(Arc::clone(&clock)));
        let config = config.interceptor(connection.requests.clone()).build();
        let client = Client::from_conf(config);
        Self {
            inner: Arc::new(Inner {
                client,
                name: name.to_owned(),
                clock,
                limits: Limits::AWS,
                returned: Arc::default(),
            }),
        }
    }

    /// The same table under other limits: the longest delay of its queues decides when a late task is rung.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        let Inner { client, name, clock, returned, .. } = &*self.inner;
        let (clock, returned) = (Arc::clone(clock), Arc::clone(returned));
        let inner = Inner { client: client.clone(), name: name.clone(), clock, limits, returned };
        Self { inner: Arc::new(inner) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its clock: that of the server's answers.
    #[must_use]
    pub fn clock(&self) -> &ServerClock {
        &self.inner.clock
    }

    fn returned(&self) -> MutexGuard<'_, BTreeSet<permits::MeterName>> {
        // A panic elsewhere leaves a whole set behind: each change is one call.
        self.inner.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its queues allow.
    fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What the server's clock says. The first call of a process asks it by a read of nothing.
    pub(crate) async fn now(&self) -> Result<Now> {
        if let Some(now) = self.inner.clock.now() {
            return Ok(now);
        }
        self.get("read the clock", keys::of(keys::QUEUES, "clock")).await?;
        self.inner.clock.now().ok_or_else(|| StoreError::Broken {
            what: self.what("read the clock"),
            fix: "the endpoint's answers have no `Date`: check AWS_ENDPOINT_URL".to_owned(),
        })
    }
}

/// Does all of it, some at a time; the answers are in order.
async fn in_order<F: Future>(work: Vec<F>) -> Vec<F::Output> {
    futures::stream::iter(work).buffered(IN_FLIGHT).collect().await
}
