//! The rows: one record per task, changed by the protocol's verbs alone.

mod orders;
mod records;

use std::time::Duration;

use async_trait::async_trait;

pub use orders::*;
pub use records::*;

use crate::{
    backend::Result,
    envelope::BlobRef,
    ids::{QueueName, TaskId},
    outcome::Failure,
    permit::{PermitCounts, QueueLimits},
    row::{Renewed, Settled, State},
    time::Timestamp,
};

/// The rows.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// Puts rows where none are. Does not send: see [`crate::backend::Backend::submit`].
    ///
    /// # Errors
    ///
    /// Per item: `KeyReused`, `Invalid`.
    async fn submit(&self, submissions: &[Submission]) -> Vec<Result<Submitted>>;

    /// Tries to win tasks; puts the row of a message that has none.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn claim(&self, requests: &[ClaimRequest<'_>]) -> Vec<Result<ClaimAnswer>>;

    /// Keeps leases for their full length from now.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached; the lease may still be kept.
    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<Renewed>>;

    /// Records progress, checkpoints and output of running attempts.
    ///
    /// # Errors
    ///
    /// Per item: `Refused` where a newer holder exists.
    async fn report(&self, reports: &[Report]) -> Vec<Result<()>>;

    /// Records outcomes. Does not touch the queue: see [`crate::backend::Backend::finish`].
    ///
    /// # Errors
    ///
    /// Per item: `Refused` where a newer holder exists; what it gave is then noted in the history.
    async fn settle(&self, settlements: &[Settlement]) -> Vec<Result<Settled>>;

    /// Puts a failed row for a message that cannot be read, under its message id. Idempotent.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn bury_poison(&self, queue: &QueueName, poison: &[(TaskId, Failure)]) -> Vec<Result<()>>;

    /// Puts the failed rows of tasks that had none, with their last attempt. Where a row is, it stays. Idempotent.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn bury(&self, buried: &[Buried]) -> Vec<Result<()>>;

    /// Reads tasks with their history; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn read(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskDetail>>>;

    /// Lists tasks, the newest first.
    ///
    /// # Errors
    ///
    /// The store cannot be reached, or the cursor is not one of its own.
    async fn list(&self, filter: &Filter) -> Result<Page<TaskRecord>>;

    /// Counts tasks by queue and state, without reading them.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn count(&self) -> Result<Vec<StateCount>>;

    /// Glances at queues, however many tasks they have. The body of the trait is for stores that keep count.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn glance(&self, queues: &[QueueName]) -> Result<Vec<Glance>> {
        let counts = self.count().await?;
        let of_queue = |queue: &QueueName| {
            let own = || counts.iter().filter(|count| count.queue == *queue);
            let queued = own().find(|count| count.state == State::Queued);
            Glance { states: own().map(|of| (of.state, of.count)).collect(), oldest: queued.and_then(|of| of.oldest) }
        };
        Ok(queues.iter().map(of_queue).collect())
    }

    /// Counts permits of these queues by the limits they have, however many tasks and keys there are
    /// ([`crate::permit::COUNTED_MAX`]).
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn permits(&self, queues: &[(QueueName, QueueLimits)]) -> Result<Vec<PermitCounts>>;

    /// Returns each task's state once one of them is settled, or after `wait`.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn wait_settled(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Option<State>>>;

    /// Running rows whose lease has ended, the longest ended first.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn due_leases(&self, limit: usize) -> Result<Vec<DueLease>>;

    /// Brings back, or buries, what the reaper names, if it is still as seen.
    ///
    /// # Errors
    ///
    /// Per item: `Refused` where it has changed.
    async fn reap(&self, leases: &[DueLease]) -> Vec<Result<Settled>>;

    /// Rows whose doorbell must ring now.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn due_rings(&self, limit: usize) -> Result<Vec<DueRing>>;

    /// Calls parked tasks for which permits are free, those first that became available first, `limit` at most of
    /// each queue and key ([`crate::permit`]). They are queued and unrung until their doorbells, which are returned,
    /// have been sent and noted; the sweep rings those that are not. A store that rings by itself returns none.
    ///
    /// # Errors
    ///
    /// The store cannot be reached; what was not called is called by the sweep.
    async fn call_parked(&self, reach: Reach, limit: usize) -> Result<Vec<Called>>;

    /// Notes that doorbells have been rung. A row that has gone on since, or that another doorbell must ring
    /// for by now, stays as it is; that is no error.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached; it will be rung once more.
    async fn rung(&self, rung: &[Rung]) -> Vec<Result<()>>;

    /// Marks up to `limit` rung rows of a queue that has stood empty as unrung. Returns how many.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn doorbells_lost(&self, queue: &QueueName, limit: usize) -> Result<u64>;

    /// Marks up to `limit` rung rows of a queue as unrung whose doorbell is so old that the queue will soon
    /// forget it ([`crate::row::Row::doorbell_aged`]). Returns how many. A store whose doorbells are never
    /// forgotten leaves those alone.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn doorbells_aged(&self, queue: &QueueName, limit: usize) -> Result<u64>;

    /// Cancels tasks, or asks their holders to. Returns each one's state afterwards.
    ///
    /// # Errors
    ///
    /// Per item: `NoTask`, or `Refused` where it is settled.
    async fn cancel(&self, ids: &[TaskId]) -> Vec<Result<State>>;

    /// Brings failed tasks back. Does not send: see [`crate::backend::Backend::redrive`].
    ///
    /// # Errors
    ///
    /// Per item: `NoTask`, or `Refused` where it is not failed.
    async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<Settled>>;

    /// Forgets failed tasks now, not when their time to be kept has passed: what is left of each is a tombstone,
    /// so that no message that is still out can run it. Returns, for each, the claim checks that nothing names any
    /// more. See [`crate::backend::Backend::discard`].
    ///
    /// # Errors
    ///
    /// Per item: `NoTask`, also where the record is forgotten already, or `Refused` where it is not failed.
    async fn discard(&self, ids: &[TaskId]) -> Vec<Result<Vec<BlobRef>>>;

    /// What is kept about queues; those never mentioned have no row.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn queues(&self) -> Result<Vec<QueueRow>>;

    /// Pauses or resumes a queue for all agents.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()>;

    /// Notes that a queue was purged now; its waiting tasks are cancelled at claim or by
    /// [`Self::cancel_purged`].
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn mark_purged(&self, queue: &QueueName) -> Result<Timestamp>;

    /// Cancels up to `limit` waiting tasks that became available at or before the queue's purge.
    /// Returns how many it cancelled; fewer than `limit` means that none is left.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn cancel_purged(&self, queue: &QueueName, limit: usize) -> Result<u64>;

    /// Removes up to `limit` records whose time to be kept has passed, and tombstones whose time has.
    /// Returns how many, and the claim checks that nothing names any more.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn forget(&self, limit: usize) -> Result<(u64, Vec<BlobRef>)>;
}
