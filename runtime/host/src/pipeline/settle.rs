//! Settling: outcomes are written in the background until the store has them.
//!
//! Leases are kept meanwhile: the holder is the holder. A crash before the write leaves a lease that ends, and in
//! mode `message` a message that comes back.

use std::{sync::Arc, time::Duration};

use rhubarb_core::{
    backend::{
        Finish, Log, Settlement, StoreError,
        rowless::{self, Ended},
    },
    outcome::Outcome,
    row::Settled,
};

use rhubarb_telemetry::spans;

use super::{Held, Host};
use crate::{attempt::Attempt, measure, routes::Shared};

/// A settlement that the store does not take is tried again after this, doubled up to the next.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// An attempt that is over: what it came to, and what it printed.
pub(super) type Settling = (Held, Outcome, Log);

impl Host {
    pub(super) async fn settle(&self, settlements: Vec<Settling>) {
        self.judge_and_settle(async { settlements }).await;
    }

    /// Judges and writes outcomes in the background; waits only where too many are under way.
    pub(super) async fn judge_and_settle(&self, judge: impl Future<Output = Vec<Settling>> + Send + 'static) {
        // The semaphore is never closed.
        let room = Arc::clone(&self.settle_room).acquire_owned().await.ok();
        let shared = Arc::clone(&self.shared);
        self.settling.spawn(async move {
            settle(&shared, judge.await).await;
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
    kept.iter().zip(&finishes).for_each(|(held, finish)| held.attempt.span.end(&finish.settlement.outcome));
    let mut pause = SETTLE_PAUSE;
    loop {
        kept.iter().for_each(|held| held.attempt.note_settling(true));
        let span = span_of(shared, &kept);
        let answers = write(shared, &kept, &finishes).await;
        span.end(answers.iter().find_map(|answer| answer.as_ref().err()));
        let mut open = (Vec::new(), Vec::new());
        for ((held, finish), answer) in kept.into_iter().zip(finishes).zip(answers) {
            let line = held.attempt.span.enter();
            let is_over = heed(&finish, &answer);
            drop(line);
            if is_over {
                measure::settled(&held.attempt, &finish, &answer);
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

/// Writes outcomes where their tasks are kept: in rows, or in their messages alone.
async fn write(shared: &Shared, kept: &[Held], finishes: &[Finish]) -> Vec<Result<Settled, StoreError>> {
    let Shared { backend, worker, .. } = shared;
    let is_rowless = |held: &Held| held.attempt.won.is_rowless();
    // What is settled together is of one queue.
    let Some(queue) = kept.iter().find(|held| is_rowless(held)).map(|held| &held.attempt.queue) else {
        return backend.finish(finishes).await;
    };
    let each = || kept.iter().zip(finishes);
    let with_row: Vec<Finish> =
        each().filter(|(held, _)| !is_rowless(held)).map(|(_, finish)| finish.clone()).collect();
    let without: Vec<Ended<'_>> = each()
        .filter(|(held, _)| is_rowless(held))
        .map(|(held, finish)| Ended { won: &held.attempt.won, finish, unknown: held.attempt.is_unknown() })
        .collect();
    let mut of_rows = if with_row.is_empty() { Vec::new() } else { backend.finish(&with_row).await }.into_iter();
    let of_messages = rowless::finish(&**backend, queue.track, &queue.name, worker, &without).await;
    let mut of_messages = of_messages.into_iter();
    let missing = || Err(StoreError::Invalid("the backend did not answer for every attempt".into()));
    let answer = |held| if is_rowless(held) { of_messages.next() } else { of_rows.next() }.unwrap_or_else(missing);
    kept.iter().map(answer).collect()
}

/// The span of one write. What is settled together is of one queue.
fn span_of(shared: &Shared, held: &[Held]) -> spans::Settle {
    let queue = held.first().map(|held| &held.attempt.queue.name);
    let attempts = held.iter().map(|held| &held.attempt.span);
    queue.map_or_else(spans::Settle::default, |queue| spans::Settle::begin(&shared.queues, queue, attempts))
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
