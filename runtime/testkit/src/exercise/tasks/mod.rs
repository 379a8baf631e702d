//! What the rows owe: every verb of the protocol, its refusals, and what listings show.

mod asked;
mod claimed;
mod held;
mod kept;
mod submitted;
mod swept;

use futures::future::join_all;
use rhubarb_core::{
    backend::{ClaimAnswer, ClaimRequest, DueLease, DueRing, Log, Settlement, Submission, TaskDetail, Tasks, WonRow},
    ids::{FencingToken, QueueName, TaskId, WorkerId},
    outcome::Outcome,
    permit::QueueLimits,
    row::{AckMode, Claim, ClaimTerms, Settled},
    time::Timestamp,
};

use super::{DAY, KEEP, LEASE, SECOND, eventually, new_queue, new_submission, only};
use crate::clock::Clockwork;

/// More than the facts leave due behind.
const MANY: usize = 10_000;

/// Exercises the rows.
///
/// # Panics
///
/// They do not do what they owe.
pub async fn tasks(tasks: &dyn Tasks, time: &dyn Clockwork) {
    let case = Case { tasks, time };
    submitted::exercise(&case).await;
    claimed::exercise(&case).await;
    held::exercise(&case).await;
    swept::exercise(&case).await;
    asked::exercise(&case).await;
    kept::exercise(&case).await;
}

/// The rows and their time.
struct Case<'a> {
    tasks: &'a dyn Tasks,
    time: &'a dyn Clockwork,
}

/// How a fact claims.
#[derive(Clone)]
struct Claimant {
    worker: WorkerId,
    ack: AckMode,
    max_attempts: u32,
    purged_before: Option<Timestamp>,
    limits: QueueLimits,
}

impl Default for Claimant {
    fn default() -> Self {
        let worker = WorkerId::new("exercise-1").unwrap();
        Self { worker, ack: AckMode::Lease, max_attempts: 3, purged_before: None, limits: QueueLimits::NONE }
    }
}

impl Case<'_> {
    async fn submit(&self, queue: &QueueName) -> Submission {
        let submission = new_submission(queue);
        only(self.tasks.submit(std::slice::from_ref(&submission)).await).unwrap();
        submission
    }

    async fn claim_as(&self, claimant: &Claimant, submission: &Submission) -> ClaimAnswer {
        let terms = ClaimTerms {
            worker: &claimant.worker,
            lease: LEASE,
            ack: claimant.ack,
            max_attempts: claimant.max_attempts,
            purged_before: claimant.purged_before,
            limits: claimant.limits,
        };
        let request = ClaimRequest { submission: submission.clone(), sent: self.time.now(), terms };
        only(self.tasks.claim(&[request]).await).unwrap()
    }

    async fn claim(&self, submission: &Submission) -> ClaimAnswer {
        self.claim_as(&Claimant::default(), submission).await
    }

    async fn win_as(&self, claimant: &Claimant, submission: &Submission) -> WonRow {
        let answer = self.claim_as(claimant, submission).await;
        assert_eq!(answer.claim, Claim::Won);
        answer.won.unwrap()
    }

    async fn win(&self, submission: &Submission) -> WonRow {
        self.win_as(&Claimant::default(), submission).await
    }

    /// A new task that runs.
    async fn running(&self) -> (Submission, FencingToken) {
        let submission = self.submit(&new_queue()).await;
        let fence = self.win(&submission).await.fence;
        (submission, fence)
    }

    async fn settle(
        &self,
        id: TaskId,
        fence: FencingToken,
        outcome: Outcome,
    ) -> rhubarb_core::backend::Result<Settled> {
        let log = Log { text: format!("{} {fence}", outcome.word()), ..Log::default() };
        only(self.tasks.settle(&[Settlement { id, fence, outcome, log, keep: KEEP }]).await)
    }

    /// A new task that has come to this, and its row's answer.
    async fn settled(&self, outcome: Outcome) -> (Submission, Settled) {
        let (submission, fence) = self.running().await;
        let settled = self.settle(submission.id, fence, outcome).await.unwrap();
        (submission, settled)
    }

    async fn find(&self, id: TaskId) -> Option<TaskDetail> {
        only(self.tasks.read(&[id]).await.unwrap())
    }

    async fn read(&self, id: TaskId) -> TaskDetail {
        self.find(id).await.unwrap()
    }

    /// Whether the listing of ended leases shows this task now.
    async fn lease_is_due(&self, id: TaskId) -> Option<DueLease> {
        self.tasks.due_leases(MANY).await.unwrap().into_iter().find(|lease| lease.id == id)
    }

    async fn due_lease(&self, id: TaskId) -> DueLease {
        eventually(self.time, "an ended lease is not due", async || self.lease_is_due(id).await).await
    }

    async fn ring_is_due(&self, id: TaskId) -> Option<DueRing> {
        self.tasks.due_rings(MANY).await.unwrap().into_iter().find(|ring| ring.id == id)
    }

    async fn due_ring(&self, id: TaskId) -> DueRing {
        eventually(self.time, "an unrung row is not due", async || self.ring_is_due(id).await).await
    }

    async fn assert_no_ring_is_due(&self, id: TaskId) {
        let quiet = async || self.ring_is_due(id).await.is_none().then_some(());
        eventually(self.time, "a rung row is due", quiet).await;
    }

    /// Lets the lease of a running task end and the reaper take it.
    async fn reap(&self, id: TaskId) -> Settled {
        self.time.advance(LEASE).await;
        let lease = self.due_lease(id).await;
        only(self.tasks.reap(&[lease]).await).unwrap()
    }
}
