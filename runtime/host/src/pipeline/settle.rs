//! Settling: outcomes are written in the background until the store has them.
//!
//! Leases are kept meanwhile: the holder is the holder. A crash before the write leaves a lease that ends, and in
//! mode `message` a message that comes back.

use std::{sync::Arc, time::Duration};

use rhubarb_core::{
    backend::{Finish, Log, Settlement, StoreError},
    outcome::Outcome,
    row::Settled,
};

use super::{Held, Host};
use crate::{attempt::Attempt, routes::Shared};

/// A settlement that the store does not take is tried again after this, doubled up to the next.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// An attempt that is over: what it came to, and what it printed.
pub(super) type Settling = (Held, Outcome, Log);

impl Host {
    pub(super) async fn settle(&self, settlements: Vec<Settling>) {
        self.judge_and_settle(|| settlements).await;
    }

    /// Judges and writes outcomes in the background; waits only where too many are under way.
    pub(super) async fn judge_and_settle(&self, judge: impl FnOnce() -> Vec<Settling> + Send + 'static) {
        // The semaphore is never closed.
        let room = Arc::clone(&self.settle_room).acquire_owned().await.ok();
        let shared = Arc::clone(&self.shared);
        self.settling.spawn(async move {
            settle(&shared, judge()).await;
            drop(room);
        });
    }
}

/// Writes outcomes until the store has them. Leases are kept until then: the holder is the holder.
async fn settle(shared: &Shared, settlements: Vec<Settling>) {
    let backend = &*shared.backend;
    let reports: Vec<_> = settlements.iter().filter_map(|(held, _, _)| held.attempt.last_progress()).collect();
    if !reports.is_empty() {
        // Only shown to people; the outcome counts.
        let _ = backend.tasks().report(&reports).await;
    }
    let visibility_max = backend.broker().limits().visibility_max;
    let (mut kept, mut finishes): (Vec<Held>, Vec<Finish>) = settlements
        .into_iter()
        .map(|(held, outcome, log)| {
            let hideable = visibility_max.saturating_sub(held.taken.elapsed());
            let finish = finish(&held.attempt, outcome, log, hideable);
            (held, finish)
        })
        .unzip();
    let mut pause = SETTLE_PAUSE;
    loop {
        kept.iter().for_each(|held| held.attempt.note_settling(true));
        let answers = backend.finish(&finishes).await;
        let mut open = (Vec::new(), Vec::new());
        for ((held, finish), answer) in kept.into_iter().zip(finishes).zip(answers) {
            if heed(&finish, &answer) {
                if let Some(listener) = &shared.listener {
                    listener.settled(&finish, &answer);
                }
                drop(held.kept);
            } else {
                held.attempt.note_settling(false);
                open.0.push(held);
                open.1.push(finish);
            }
        }
        (kept, finishes) = open;
        if kept.is_empty() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SETTLE_PAUSE_MAX);
    }
}

fn finish(attempt: &Attempt, outcome: Outcome, log: Log, hideable: Duration) -> Finish {
    let settlement = Settlement {
        id: attempt.won.id,
        fence: attempt.won.row.fence,
        outcome,
        log,
        keep: (attempt.queue.keep, attempt.queue.keep_failed),
    };
    Finish { queue: attempt.queue.name.clone(), settlement, receipt: attempt.won.receipt.clone(), hideable }
}

/// Says what became of a settlement. Returns whether it is over.
fn heed(finish: &Finish, answer: &Result<Settled, StoreError>) -> bool {
    let (id, outcome) = (finish.settlement.id, &finish.settlement.outcome);
    let queue = &finish.queue;
    match (answer, outcome.failure()) {
        (Ok(settled), Some(failure)) => {
            let state = settled.state;
            tracing::warn!(task.id = %id, queue.name = %queue, error.kind = failure.kind, "task {id} failed an attempt and is {state}: {failure}");
            true
        }
        (Ok(settled), None) => {
            tracing::debug!(task.id = %id, queue.name = %queue, "task {id} {}: {}", outcome.word(), settled.state);
            true
        }
        (Err(StoreError::Refused(refused)), _) => {
            tracing::warn!(task.id = %id, queue.name = %queue, "task {id} {} too late: {refused}", outcome.word());
            true
        }
        (Err(StoreError::NoTask(_)), _) => true,
        (Err(error), _) => {
            tracing::error!(task.id = %id, queue.name = %queue, error = %error, "cannot settle task {id}; trying again");
            false
        }
    }
}
