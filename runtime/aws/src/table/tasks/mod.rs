//! The rows' verbs on DynamoDB.

mod cancel;
mod change;
mod claim;
mod count;
mod forget;
mod hold;
mod idempotency;
mod list;
mod permits;
mod queues;
mod settle;
mod small;
mod submit;
mod sweep;
mod wait;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rhubarb_core::{
    backend::{
        Buried, Called, ClaimAnswer, ClaimRequest, DueLease, DueRing, Filter, Glance, Page, QueueRow, Reach, Renewal,
        Report, Result, Rung, Settlement, StateCount, Submission, Submitted, TaskDetail, TaskRecord, Tasks,
    },
    envelope::{BlobRef, Envelope},
    ids::{FencingToken, QueueName, TaskId},
    outcome::Failure,
    permit::{PermitCounts, QueueLimits},
    row::{Renewed, Settled, State},
    time::Timestamp,
};

pub(super) use self::change::{PAUSE, TRIES};
use super::{Table, in_order, record::Record, rows::Whole};

/// Rows that are known at most, of tasks that this process holds. Others are read.
const HOLDS_MAX: usize = 10_000;

/// The rows of a table. Clones share what they know of the tasks that they hold.
#[derive(Clone, Debug)]
pub struct DynamoTasks {
    table: Table,
    known: Arc<Mutex<Known>>,
}

/// What need not be read: it is tried first, and a condition that fails brings the truth.
#[derive(Debug, Default)]
struct Known {
    /// The rows of tasks that were won here, as they were written last.
    holds: HashMap<TaskId, Record>,
    /// Queues whose rows are there.
    queues: HashSet<QueueName>,
}

impl DynamoTasks {
    /// The rows of this table.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self { table, known: Arc::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // A panic elsewhere leaves whole values behind: each change is one call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row of a task that is held here under this token, if it is known.
    fn held(&self, id: TaskId, fence: FencingToken) -> Option<Record> {
        self.known().holds.get(&id).filter(|record| record.row.fence == fence).cloned()
    }

    /// Remembers the row of a task that is held here.
    fn hold(&self, record: &Record) {
        let mut known = self.known();
        if known.holds.len() < HOLDS_MAX || known.holds.contains_key(&record.id) {
            known.holds.insert(record.id, record.clone());
        }
    }

    /// Forgets the row of a task that is not held here any more under this token.
    fn let_go(&self, id: TaskId, fence: FencingToken) {
        let mut known = self.known();
        if known.holds.get(&id).is_some_and(|record| record.row.fence <= fence) {
            known.holds.remove(&id);
        }
    }

    async fn read_one(&self, id: TaskId, now: Timestamp) -> Result<Option<TaskDetail>> {
        let Some(Whole { record, spec, attempts, .. }) = self.table.whole(id, now).await? else { return Ok(None) };
        let mut shown = record.shown();
        if let Some(fence) = record.failure_of {
            let whole =
                attempts.iter().find(|attempt| attempt.fence == fence).and_then(|attempt| attempt.failure.clone());
            shown.failure = whole.or(shown.failure);
        }
        // What a plain producer sent may be no envelope: then it was buried, and only its failure says why.
        let spec = spec.and_then(|spec| Envelope::decode_full(&spec).ok());
        let refusal = self.refusal(&record, self.table.now().await?).await?;
        Ok(Some(TaskDetail { record: shown, spec, attempts, refusal }))
    }
}

#[async_trait]
impl Tasks for DynamoTasks {
    async fn submit(&self, submissions: &[Submission]) -> Vec<Result<Submitted>> {
        in_order(submissions.iter().map(|submission| self.submit_one(submission)).collect()).await
    }

    async fn claim(&self, requests: &[ClaimRequest<'_>]) -> Vec<Result<ClaimAnswer>> {
        in_order(requests.iter().map(|request| self.claim_one(request)).collect()).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<Renewed>> {
        in_order(renewals.iter().map(|renewal| self.renew_one(*renewal)).collect()).await
    }

    async fn report(&self, reports: &[Report]) -> Vec<Result<()>> {
        in_order(reports.iter().map(|report| self.report_one(report)).collect()).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Vec<Result<Settled>> {
        in_order(settlements.iter().map(|settlement| self.settle_one(settlement)).collect()).await
    }

    async fn bury_poison(&self, queue: &QueueName, poison: &[(TaskId, Failure)]) -> Vec<Result<()>> {
        in_order(poison.iter().map(|(id, failure)| self.bury_one(queue, *id, failure)).collect()).await
    }

    async fn bury(&self, buried: &[Buried]) -> Vec<Result<()>> {
        in_order(buried.iter().map(|buried| self.bury_task(buried)).collect()).await
    }

    async fn read(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskDetail>>> {
        let now = self.table.now().await?.epoch;
        in_order(ids.iter().map(|id| self.read_one(*id, now)).collect()).await.into_iter().collect()
    }

    async fn list(&self, filter: &Filter) -> Result<Page<TaskRecord>> {
        self.list_page(filter).await
    }

    async fn count(&self) -> Result<Vec<StateCount>> {
        self.count_all().await
    }

    async fn permits(&self, queues: &[(QueueName, QueueLimits)]) -> Result<Vec<PermitCounts>> {
        self.permits_all(queues).await
    }

    async fn glance(&self, queues: &[QueueName]) -> Result<Vec<Glance>> {
        self.glance_all(queues).await
    }

    async fn wait_settled(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Option<State>>> {
        self.wait_for_settled(ids, wait).await
    }

    async fn due_leases(&self, limit: usize) -> Result<Vec<DueLease>> {
        self.ended_leases(limit).await
    }

    async fn reap(&self, leases: &[DueLease]) -> Vec<Result<Settled>> {
        in_order(leases.iter().map(|lease| self.reap_one(lease)).collect()).await
    }

    async fn due_rings(&self, limit: usize) -> Result<Vec<DueRing>> {
        self.unrung(limit).await
    }

    async fn call_parked(&self, reach: Reach, limit: usize) -> Result<Vec<Called>> {
        self.call_all(reach, limit).await
    }

    async fn rung(&self, rung: &[Rung]) -> Vec<Result<()>> {
        in_order(rung.iter().map(|rung| self.rung_one(*rung)).collect()).await
    }

    async fn doorbells_lost(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        self.ring_lost(queue, limit).await
    }

    async fn doorbells_aged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        self.ring_aged(queue, limit).await
    }

    async fn cancel(&self, ids: &[TaskId]) -> Vec<Result<State>> {
        in_order(ids.iter().map(|id| self.cancel_one(*id)).collect()).await
    }

    async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<Settled>> {
        in_order(ids.iter().map(|id| self.redrive_one(*id)).collect()).await
    }

    async fn discard(&self, ids: &[TaskId]) -> Vec<Result<Vec<BlobRef>>> {
        in_order(ids.iter().map(|id| self.discard_one(*id)).collect()).await
    }

    async fn queues(&self) -> Result<Vec<QueueRow>> {
        self.queue_rows().await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        self.set_paused(queue, paused).await
    }

    async fn mark_purged(&self, queue: &QueueName) -> Result<Timestamp> {
        self.set_purged(queue).await
    }

    async fn cancel_purged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        self.end_purged(queue, limit).await
    }

    async fn forget(&self, limit: usize) -> Result<(u64, Vec<BlobRef>)> {
        self.forget_some(limit).await
    }
}
