//! What the pipeline tells the metrics: one line at each place, nothing at all where there are none.

use std::time::Duration;

use rhubarb_core::{
    backend::{Finish, StoreError},
    ids::{FencingToken, FunctionName, QueueName},
    outcome::Outcome,
    row::Settled,
};
use rhubarb_telemetry::metrics;

use crate::{
    attempt::{Attempt, Stop},
    routes::Shared,
};

/// An attempt begins: if it is the task's first, how long that has waited.
pub(crate) fn began(attempt: &Attempt) {
    let Some(metrics) = metrics::get() else { return };
    let (won, row) = (&attempt.won, &attempt.won.row);
    if row.fence == FencingToken(1) {
        let from = attempt.envelope.not_before.map_or(row.submitted, |at| at.max(row.submitted));
        metrics.waited(&attempt.queue.name, &won.task, row.started.since(from));
    }
}

/// An attempt has run for so long in a function, and this came of it.
pub(crate) fn ran(shared: &Shared, attempt: &Attempt, outcome: &Outcome, ran: Duration) {
    let Some(metrics) = metrics::get() else { return };
    let error = outcome.failure().map(|failure| failure.kind.as_str());
    metrics.ran(&shared.queues, &attempt.queue.name, &attempt.won.task, ran, error);
}

/// A settlement is over: written, or refused for good.
pub(crate) fn settled(attempt: &Attempt, finish: &Finish, answer: &Result<Settled, StoreError>) {
    let Some(metrics) = metrics::get() else { return };
    let (queue, outcome) = (&finish.queue, &finish.settlement.outcome);
    match answer {
        Ok(settled) => {
            let state = settled.state;
            let retried = matches!(outcome, Outcome::Failed { .. }) && !state.is_settled();
            let settled = state.is_settled().then(|| state.as_str());
            metrics.ended(queue, &attempt.won.task, outcome.word(), settled, retried);
        }
        // Counted when the attempt was told, if it was.
        Err(StoreError::Refused(_)) if attempt.stopped() != Some(Stop::Lost) => metrics.lease_lost(queue),
        Err(_) => {}
    }
}

/// A holder has learnt from a renewal that it is none any more.
pub(crate) fn lease_lost(queue: &QueueName) {
    if let Some(metrics) = metrics::get() {
        metrics.lease_lost(queue);
    }
}

/// A function's process was started, or could not be.
pub(crate) fn function_started(function: &FunctionName, started: bool) {
    if let Some(metrics) = metrics::get() {
        metrics.function_started(function, started);
    }
}

/// The sweep has taken a task from a silent worker.
pub(crate) fn reaped(queue: &QueueName) {
    if let Some(metrics) = metrics::get() {
        metrics.reaped(queue);
    }
}

/// The sweep has put messages into rows that the broker had moved aside.
pub(crate) fn dead_letters(queue: &QueueName, messages: u64) {
    if let Some(metrics) = metrics::get().filter(|_| messages > 0) {
        metrics.dead_letters(queue, messages);
    }
}
