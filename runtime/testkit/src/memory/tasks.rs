//! The rows' face.

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
    row::{AckMode, Claim, Renewed, Settled, State},
    time::{Now, Timestamp},
};

use super::MemoryBackend;
use crate::{faults::Verb, simulation::Sabotage};

/// How far a worker's clock is ahead that a sabotaged store trusts.
const SKEW: Duration = Duration::from_secs(4);

impl MemoryBackend {
    /// The clock that leases are judged by when they are reaped.
    fn reapers_clock(&self, now: Now) -> Now {
        let ahead = if self.is_sabotaged(Sabotage::ReapByWorkerClock) { SKEW } else { Duration::ZERO };
        Now { lease: now.lease.after(ahead), ..now }
    }
}

#[async_trait]
impl Tasks for MemoryBackend {
    async fn submit(&self, submissions: &[Submission]) -> Vec<Result<Submitted>> {
        let limits = self.limits();
        self.each(Verb::Submit, submissions.len(), |store, now, _| {
            submissions.iter().map(|submission| store.rows.submit(submission, limits, now)).collect()
        })
        .await
    }

    async fn claim(&self, requests: &[ClaimRequest<'_>]) -> Vec<Result<ClaimAnswer>> {
        let limits = self.limits();
        self.each(Verb::Claim, requests.len(), |store, now, _| {
            let unlimited = self.is_sabotaged(Sabotage::ClaimPastLimits);
            let claim = |request: &ClaimRequest<'_>| {
                if !unlimited {
                    return store.rows.claim(request, limits, now);
                }
                let mut request = request.clone();
                request.terms.limits = QueueLimits::NONE;
                store.rows.claim(&request, limits, now)
            };
            let mut answers: Vec<ClaimAnswer> = requests.iter().map(claim).collect();
            if self.is_sabotaged(Sabotage::DropHeldDeliveries) {
                for answer in &mut answers {
                    if let Claim::Held { ack, .. } = &mut answer.claim {
                        *ack = AckMode::Lease;
                    }
                }
            }
            answers.into_iter().map(Ok).collect()
        })
        .await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<Renewed>> {
        self.each(Verb::Renew, renewals.len(), |store, now, _| {
            renewals.iter().map(|renewal| Ok(store.rows.renew(*renewal, now))).collect()
        })
        .await
    }

    async fn report(&self, reports: &[Report]) -> Vec<Result<()>> {
        self.each(Verb::Report, reports.len(), |store, now, _| {
            reports.iter().map(|report| store.rows.report(report, now)).collect()
        })
        .await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Vec<Result<Settled>> {
        let limits = self.limits();
        self.each(Verb::Settle, settlements.len(), |store, now, _| {
            let twice = self.is_sabotaged(Sabotage::PermitGivenBackTwice);
            let held = if twice { store.rows.held_permits(now) } else { Vec::new() };
            let unfenced = self.is_sabotaged(Sabotage::NoFencing);
            let settle = |settlement: &Settlement| match store.rows.row(settlement.id).map(|row| row.fence) {
                Some(fence) if unfenced => store.rows.settle(&Settlement { fence, ..settlement.clone() }, limits, now),
                _ => store.rows.settle(settlement, limits, now),
            };
            let answers: Vec<Result<Settled>> = settlements.iter().map(settle).collect();
            let settled = |id| settlements.iter().zip(&answers).any(|(s, answer)| s.id == id && answer.is_ok());
            for (_, queue, permit) in held.iter().filter(|(id, ..)| settled(*id)) {
                store.rows.meters.follow(queue, Some(permit), None, now);
            }
            answers
        })
        .await
    }

    async fn bury_poison(&self, queue: &QueueName, poison: &[(TaskId, Failure)]) -> Vec<Result<()>> {
        self.each(Verb::BuryPoison, poison.len(), |store, now, _| {
            poison.iter().for_each(|(id, failure)| store.rows.bury_poison(queue, *id, failure, now));
            vec![Ok(()); poison.len()]
        })
        .await
    }

    async fn bury(&self, buried: &[Buried]) -> Vec<Result<()>> {
        self.each(Verb::Bury, buried.len(), |store, now, _| {
            for buried in buried {
                store.rows.bury(buried, now);
            }
            vec![Ok(()); buried.len()]
        })
        .await
    }

    async fn read(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskDetail>>> {
        self.whole(Verb::Read, |store, now, _| Ok(ids.iter().map(|id| store.rows.read(*id, now)).collect())).await
    }

    async fn list(&self, filter: &Filter) -> Result<Page<TaskRecord>> {
        self.whole(Verb::List, |store, now, _| store.rows.list(filter, now)).await
    }

    async fn count(&self) -> Result<Vec<StateCount>> {
        self.whole(Verb::Count, |store, now, _| Ok(store.rows.count(now))).await
    }

    async fn permits(&self, queues: &[(QueueName, QueueLimits)]) -> Result<Vec<PermitCounts>> {
        let count = |store: &super::Store| {
            queues.iter().map(|(queue, limits)| store.rows.permit_counts(queue, limits)).collect()
        };
        self.whole(Verb::Count, |store, _, _| Ok(count(store))).await
    }

    async fn wait_settled(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Option<State>>> {
        let give_up = self.now().lease.after(wait);
        loop {
            let changed = self.shared.changed.notified();
            let read = |store: &super::Store| ids.iter().map(|id| store.rows.state(*id)).collect::<Vec<_>>();
            let states = self.whole(Verb::WaitSettled, |store, _, _| Ok(read(store))).await?;
            let one_is_settled = states.iter().flatten().any(|state| state.is_settled());
            if one_is_settled || self.now().lease >= give_up {
                return Ok(states);
            }
            self.shared.options.clock.wait(changed, give_up).await;
        }
    }

    async fn due_leases(&self, limit: usize) -> Result<Vec<DueLease>> {
        self.whole(Verb::DueLeases, |store, now, _| Ok(store.rows.due_leases(limit, self.reapers_clock(now)))).await
    }

    async fn reap(&self, leases: &[DueLease]) -> Vec<Result<Settled>> {
        self.each(Verb::Reap, leases.len(), |store, now, _| {
            leases.iter().map(|lease| store.rows.reap(lease, self.reapers_clock(now))).collect()
        })
        .await
    }

    async fn due_rings(&self, limit: usize) -> Result<Vec<DueRing>> {
        self.whole(Verb::DueRings, |store, now, _| Ok(store.rows.due_rings(limit, now))).await
    }

    async fn call_parked(&self, reach: Reach, limit: usize) -> Result<Vec<Called>> {
        if reach == Reach::Returned && self.lock().rows.meters.nothing_returned() {
            return Ok(Vec::new());
        }
        if self.is_sabotaged(Sabotage::ParkedNeverCalled) {
            return Ok(Vec::new());
        }
        self.whole(Verb::CallParked, |store, now, _| Ok(store.rows.call_parked(reach, limit, now))).await
    }

    async fn rung(&self, rung: &[Rung]) -> Vec<Result<()>> {
        self.each(Verb::Rung, rung.len(), |store, now, _| rung.iter().map(|rung| store.rows.rung(*rung, now)).collect())
            .await
    }

    async fn doorbells_lost(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        self.whole(Verb::DoorbellsLost, |store, now, _| Ok(store.rows.doorbells_lost(queue, limit, now))).await
    }

    async fn doorbells_aged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        self.whole(Verb::DoorbellsAged, |store, now, _| Ok(store.rows.doorbells_aged(queue, limit, now))).await
    }

    async fn cancel(&self, ids: &[TaskId]) -> Vec<Result<State>> {
        self.each(Verb::Cancel, ids.len(), |store, now, _| ids.iter().map(|id| store.rows.cancel(*id, now)).collect())
            .await
    }

    async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<Settled>> {
        self.each(Verb::Redrive, ids.len(), |store, now, _| ids.iter().map(|id| store.rows.redrive(*id, now)).collect())
            .await
    }

    async fn discard(&self, ids: &[TaskId]) -> Vec<Result<Vec<BlobRef>>> {
        self.each(Verb::Discard, ids.len(), |store, now, _| ids.iter().map(|id| store.rows.discard(*id, now)).collect())
            .await
    }

    async fn queues(&self) -> Result<Vec<QueueRow>> {
        self.whole(Verb::Queues, |store, _, _| Ok(store.rows.queue_rows())).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        self.whole(Verb::Pause, |store, _, _| {
            store.rows.pause(queue, paused);
            Ok(())
        })
        .await
    }

    async fn mark_purged(&self, queue: &QueueName) -> Result<Timestamp> {
        self.whole(Verb::MarkPurged, |store, now, _| Ok(store.rows.mark_purged(queue, now))).await
    }

    async fn cancel_purged(&self, queue: &QueueName, limit: usize) -> Result<u64> {
        self.whole(Verb::CancelPurged, |store, now, _| Ok(store.rows.cancel_purged(queue, limit, now))).await
    }

    async fn forget(&self, limit: usize) -> Result<(u64, Vec<BlobRef>)> {
        self.whole(Verb::Forget, |store, now, _| Ok(store.rows.forget(limit, now))).await
    }
}
