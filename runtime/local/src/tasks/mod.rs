//! The rows' verbs, each in the file of its kind; here they are handed to the writer or the readers.

mod cancel;
mod claim;
mod count;
mod forget;
mod keep;
mod keys;
mod list;
mod queues;
mod read;
mod settle;
mod submit;
mod sweep;
mod wait;

use std::time::Duration;

use async_trait::async_trait;
use rhubarb_core::{
    backend::{
        Buried, Called, ClaimAnswer, ClaimRequest, DueLease, DueRing, Filter, Page, QueueRow, Reach, Renewal, Report,
        Result, Rung, Settlement, StateCount, Submission, Submitted, TaskDetail, TaskRecord, Tasks,
    },
    envelope::BlobRef,
    ids::{QueueName, TaskId},
    outcome::Failure,
    permit::{PermitCounts, QueueLimits},
    row::{Renewed, Settled, State},
    time::Timestamp,
};

pub(crate) use claim::OwnedClaim;
pub(crate) use submit::KEEP;
pub(crate) use sweep::row_limit;

use crate::{error::Fallible, open::LocalBackend, reads::Snapshot, transaction::Transaction};

impl LocalBackend {
    /// Runs a verb for each item in one transaction. A failure of the whole is every item's.
    pub(crate) async fn each<I, T, F>(&self, what: &'static str, items: Vec<I>, mut verb: F) -> Vec<Result<T>>
    where
        I: Send + 'static,
        T: Send + 'static,
        F: FnMut(&mut Transaction<'_>, I) -> Fallible<Result<T>> + Send + 'static,
    {
        let count = items.len();
        if count == 0 {
            return Vec::new();
        }
        let answers = self.inner.writer.call(what, count, move |transaction| {
            items.into_iter().map(|item| verb(transaction, item)).collect::<Fallible<Vec<Result<T>>>>()
        });
        answers.await.unwrap_or_else(|error| std::iter::repeat_with(|| Err(error.clone())).take(count).collect())
    }
}

#[async_trait]
impl Tasks for LocalBackend {
    async fn submit(&self, submissions: &[Submission]) -> Vec<Result<Submitted>> {
        self.submit_each(submissions, false).await
    }

    async fn claim(&self, requests: &[ClaimRequest<'_>]) -> Vec<Result<ClaimAnswer>> {
        let requests = requests.iter().map(OwnedClaim::new).collect();
        self.each("claim tasks", requests, |transaction, request| transaction.claim_request(&request).map(Ok)).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<Renewed>> {
        self.each("renew leases", renewals.to_vec(), |transaction, renewal| transaction.renew(renewal).map(Ok)).await
    }

    async fn report(&self, reports: &[Report]) -> Vec<Result<()>> {
        self.each("report progress", reports.to_vec(), |transaction, report| transaction.report(&report)).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Vec<Result<Settled>> {
        self.each("settle tasks", settlements.to_vec(), |transaction, settlement| transaction.settle(&settlement)).await
    }

    async fn bury_poison(&self, queue: &QueueName, poison: &[(TaskId, Failure)]) -> Vec<Result<()>> {
        let queue = queue.clone();
        self.each("bury messages that cannot be read", poison.to_vec(), move |transaction, (id, failure)| {
            transaction.bury_poison(&queue, id, &failure).map(Ok)
        })
        .await
    }

    async fn bury(&self, buried: &[Buried]) -> Vec<Result<()>> {
        self.each("bury tasks", buried.to_vec(), |transaction, buried| transaction.bury(&buried).map(Ok)).await
    }

    async fn read(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskDetail>>> {
        let ids = ids.to_vec();
        self.inner.reads.read("read tasks", move |snapshot| ids.iter().map(|id| snapshot.detail(*id)).collect()).await
    }

    async fn list(&self, filter: &Filter) -> Result<Page<TaskRecord>> {
        let filter = filter.clone();
        self.inner.reads.read("list tasks", move |snapshot| Ok(snapshot.list(&filter))).await?
    }

    async fn count(&self) -> Result<Vec<StateCount>> {
        self.inner.reads.read("count tasks", |snapshot| snapshot.count()).await
    }

    async fn permits(&self, queues: &[(QueueName, QueueLimits)]) -> Result<Vec<PermitCounts>> {
        let queues = queues.to_vec();
        let count = move |snapshot: &Snapshot<'_>| {
            queues.iter().map(|(queue, limits)| snapshot.permit_counts(queue, limits)).collect()
        };
        self.inner.reads.read("count permits", count).await
    }

    async fn wait_settled(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Option<State>>> {
        self.wait_for_settled(ids, wait).await
    }

    async fn due_leases(&self, limit: usize) -> Result<Vec<DueLease>> {
        self.inner.reads.read("find ended leases", move |snapshot| snapshot.due_leases(limit)).await
    }

    async fn reap(&self, leases: &[DueLease]) -> Vec<Result<Settled>> {
        self.each("reap tasks", leases.to_vec(), |transaction, lease| transaction.reap(&lease)).await
    }

    async fn due_rings(&self, limit: usize) -> Result<Vec<DueRing>> {
        self.inner.reads.read("find due tasks", move |snapshot| snapshot.due_rings(limit)).await
    }

    async fn call_parked(&self, reach: Reach, limit: usize) -> Result<Vec<Called>> {
        // A permit that comes back calls in its own transaction: only time that has passed is looked at here.
        let look = reach == Reach::Everywhere
            && self.inner.reads.read("look for free permits", |snapshot| snapshot.has_due_meters()).await?;
        if look {
            let verb = move |transaction: &mut Transaction<'_>| transaction.call_due(limit);
            self.inner.writer.call("call parked tasks", limit, verb).await?;
        }
        Ok(Vec::new())
    }

    async fn rung(&self, rung: &[Rung]) -> Vec<Result<()>> {
        self.each("note rung tasks", rung.to_vec(), |transaction, rung| transaction.rung(rung).map(Ok)).await
    }

    async fn doorbells_lost(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        let queue = queue.clone();
        let verb = move |transaction: &mut Transaction<'_>| transaction.doorbells_lost(&queue, limit);
        self.inner.writer.call("find lost doorbells", limit, verb).await
    }

    async fn doorbells_aged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        let queue = queue.clone();
        let verb = move |transaction: &mut Transaction<'_>| transaction.doorbells_aged(&queue, limit);
        self.inner.writer.call("find old doorbells", limit, verb).await
    }

    async fn cancel(&self, ids: &[TaskId]) -> Vec<Result<State>> {
        self.each("cancel tasks", ids.to_vec(), |transaction, id| transaction.cancel(id)).await
    }

    async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<Settled>> {
        self.each("redrive tasks", ids.to_vec(), |transaction, id| transaction.redrive(id, false)).await
    }

    async fn discard(&self, ids: &[TaskId]) -> Vec<Result<Vec<BlobRef>>> {
        self.each("discard tasks", ids.to_vec(), |transaction, id| transaction.discard(id)).await
    }

    async fn queues(&self) -> Result<Vec<QueueRow>> {
        self.inner.reads.read("read queues", |snapshot| snapshot.queues()).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let queue = queue.clone();
        let verb = move |transaction: &mut Transaction<'_>| transaction.pause(&queue, paused);
        self.inner.writer.call("pause or resume a queue", 1, verb).await
    }

    async fn mark_purged(&self, queue: &QueueName) -> Result<Timestamp> {
        let queue = queue.clone();
        let verb = move |transaction: &mut Transaction<'_>| transaction.mark_purged(&queue);
        self.inner.writer.call("mark a queue as purged", 1, verb).await
    }

    async fn cancel_purged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        let queue = queue.clone();
        let verb = move |transaction: &mut Transaction<'_>| transaction.cancel_purged(&queue, limit);
        self.inner.writer.call("cancel purged tasks", limit, verb).await
    }

    async fn forget(&self, limit: usize) -> Result<(u64, Vec<BlobRef>)> {
        self.inner.writer.call("forget old records", limit, move |transaction| transaction.forget(limit)).await
    }
}
