//! The sweep: brings back what fell silent, rings what is due, forgets what is old.
//!
//! It is part of every agent, one of which holds its role at a time, and of a scheduled function where
//! no agent runs. All its writes are conditional on what it has read, so two sweeps at once, or one that
//! crashes half-way, do no harm.

use std::{collections::HashMap, time::Duration};

use rhubarb_core::{
    backend::{Backend, BlobKey, Counts, Reach, StoreError},
    config::Config,
    ids::{QueueName, WorkerId},
    limits::DOORBELL_PATIENCE,
    reaper::Reaper,
    time::Timestamp,
};
use serde::Serialize;
use tokio::time::Instant;

use crate::{adopt::adopt, measure};

/// Rows of one kind that one sweep takes at most; the rest is for the next.
const STEP: usize = 1000;

/// How often a sweep looks for doorbells that their queue will soon forget: there is a day for it.
const OLD_DOORBELLS_EVERY: Duration = Duration::from_secs(60 * 60);

/// How often a sweep looks into a queue's dead letters: a request each, and there is mostly nothing.
const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(60);

/// How often a sweep looks for parked tasks where no queue is limited.
const PARKED_WITHOUT_LIMITS_EVERY: Duration = Duration::from_secs(60);

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Silent tasks brought back or buried.
    pub reaped: usize,
    /// Doorbells rung.
    pub rung: usize,
    /// Rung rows whose doorbell was taken for lost, or was so old that its queue would soon forget it.
    pub lost: u64,
    /// Waiting tasks cancelled because their queue was purged.
    pub purged: u64,
    /// Records and tombstones removed.
    pub forgotten: u64,
    /// Messages that the broker had moved aside, put into rows.
    pub adopted: u64,
    /// Parked tasks called because a permit was free.
    pub called: usize,
}

/// What a sweep remembers from one run to the next.
pub struct Sweep {
    began: Instant,
    reaper: Reaper,
    messages: HashMap<QueueName, Counts>,
    empty_since: HashMap<QueueName, Instant>,
    looked_for_old: HashMap<QueueName, Instant>,
    looked_for_dead: HashMap<QueueName, Instant>,
    looked_for_parked: Option<Instant>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            reaper: Reaper::new(),
            messages: HashMap::new(),
            empty_since: HashMap::new(),
            looked_for_old: HashMap::new(),
            looked_for_dead: HashMap::new(),
            looked_for_parked: None,
        }
    }
}

impl Sweep {
    /// Sweeps once, for this worker. `now` is the wall clock. Each step is done whatever became of the others, so that one
    /// queue that cannot be counted does not keep silent tasks from coming back.
    ///
    /// # Errors
    ///
    /// The first that a step met. Where the leases could not be read, what was watched is watched anew:
    /// nobody could renew either, perhaps.
    pub async fn run(
        &mut self,
        backend: &dyn Backend,
        config: &Config,
        worker: &WorkerId,
        now: Timestamp,
    ) -> Result<Swept, StoreError> {
        let queues = &config.queues.keys().cloned().collect::<Vec<_>>()[..];
        let reaped = self.reap(backend).await;
        let purged = cancel_purged(backend).await;
        let adopted = self.adopt(backend, config, worker, now).await;
        let aged = self.find_old_doorbells(backend, queues).await;
        let lost = self.find_lost_doorbells(backend, queues).await;
        let called = self.call_parked(backend, config).await;
        let rung = ring(backend, now).await;
        let forgotten = forget(backend).await;
        Ok(Swept {
            reaped: reaped?,
            rung: rung?,
            lost: lost? + aged?,
            purged: purged?,
            forgotten: forgotten?,
            adopted: adopted?,
            called: called?,
        })
    }

    /// What the queues held when they were last counted.
    #[must_use]
    pub const fn messages(&self) -> &HashMap<QueueName, Counts> {
        &self.messages
    }

    async fn adopt(
        &mut self,
        backend: &dyn Backend,
        config: &Config,
        worker: &WorkerId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut adopted = 0;
        for queue in config.queues.values() {
            if self.looked_for_dead.get(&queue.name).is_some_and(|at| at.elapsed() < DEAD_LETTERS_EVERY) {
                continue;
            }
            let of_queue = adopt(backend, queue, worker, now).await?;
            measure::dead_letters(&queue.name, of_queue);
            adopted += of_queue;
            self.looked_for_dead.insert(queue.name.clone(), Instant::now());
        }
        Ok(adopted)
    }

    /// Calls parked tasks. Where no queue is limited, some may be parked still from the time when one was.
    async fn call_parked(&mut self, backend: &dyn Backend, config: &Config) -> Result<usize, StoreError> {
        let limited = config.queues.values().any(|queue| !queue.limits.is_none());
        if !limited && self.looked_for_parked.is_some_and(|at| at.elapsed() < PARKED_WITHOUT_LIMITS_EVERY) {
            return Ok(0);
        }
        let called = backend.call_parked(Reach::Everywhere).await?;
        self.looked_for_parked = Some(Instant::now());
        Ok(called)
    }

    async fn reap(&mut self, backend: &dyn Backend) -> Result<usize, StoreError> {
        let due = match backend.tasks().due_leases(STEP).await {
            Ok(due) => due,
            Err(error) => {
                self.reaper.read_failed();
                return Err(error);
            }
        };
        let ripe = self.reaper.observe(&due, self.began.elapsed());
        if ripe.is_empty() {
            return Ok(0);
        }
        let mut reaped = 0;
        for (lease, answer) in ripe.iter().zip(backend.tasks().reap(&ripe).await) {
            let (id, queue) = (lease.id, &lease.queue);
            match answer {
                Ok(settled) => {
                    reaped += 1;
                    measure::reaped(queue);
                    let state = settled.state;
                    tracing::warn!(task.id = %id, queue.name = %queue, "task {id} fell silent: its lease ended and it is {state} now");
                }
                // Renewed, settled or claimed since it was read.
                Err(StoreError::Refused(_) | StoreError::NoTask(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(reaped)
    }

    async fn find_old_doorbells(&mut self, backend: &dyn Backend, queues: &[QueueName]) -> Result<u64, StoreError> {
        let mut aged = 0;
        for queue in queues {
            if self.looked_for_old.get(queue).is_some_and(|at| at.elapsed() < OLD_DOORBELLS_EVERY) {
                continue;
            }
            let found = backend.tasks().doorbells_aged(queue, STEP).await?;
            aged += found;
            // As many as were asked for: there may be more.
            if found < STEP as u64 {
                self.looked_for_old.insert(queue.clone(), Instant::now());
            }
        }
        Ok(aged)
    }

    async fn find_lost_doorbells(&mut self, backend: &dyn Backend, queues: &[QueueName]) -> Result<u64, StoreError> {
        let mut lost = 0;
        for queue in queues {
            let empty = match backend.broker().counts(queue).await {
                Ok(counts) => {
                    self.messages.insert(queue.clone(), counts);
                    counts.is_empty()
                }
                // Nothing was ever sent to it.
                Err(StoreError::NoQueue(_)) => true,
                Err(error) => {
                    self.empty_since.remove(queue);
                    return Err(error);
                }
            };
            if !empty {
                self.empty_since.remove(queue);
                continue;
            }
            let since = *self.empty_since.entry(queue.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= DOORBELL_PATIENCE {
                lost += backend.tasks().doorbells_lost(queue, STEP).await?;
            }
        }
        Ok(lost)
    }
}

async fn ring(backend: &dyn Backend, now: Timestamp) -> Result<usize, StoreError> {
    let due = backend.tasks().due_rings(STEP).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let answers = backend.ring(&due, now).await;
    // One that failed stays due and is rung by the next sweep.
    Ok(answers.into_iter().filter(Result::is_ok).count())
}

async fn cancel_purged(backend: &dyn Backend) -> Result<u64, StoreError> {
    let mut cancelled = 0;
    for row in backend.tasks().queues().await? {
        if row.purged_before.is_some() {
            cancelled += backend.tasks().cancel_purged(&row.queue, STEP).await?;
        }
    }
    Ok(cancelled)
}

async fn forget(backend: &dyn Backend) -> Result<u64, StoreError> {
    let (forgotten, blobs) = backend.tasks().forget(STEP).await?;
    let keys: Vec<BlobKey> = blobs.into_iter().filter_map(|blob| BlobKey::new(blob.key).ok()).collect();
    if !keys.is_empty() {
        // A blob that stays behind costs its bytes and nothing else.
        for error in backend.blobs().delete(&keys).await.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %error, "cannot delete a blob that nothing names any more");
        }
    }
    Ok(forgotten)
}

/// How often a sweep runs where an agent holds its role: often enough that a silent task is back
/// within two lease periods, also with the shortest leases.
pub const EVERY: Duration = Duration::from_secs(1);
