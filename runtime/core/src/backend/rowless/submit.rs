//! Accepting tasks of any level: a row and its message, or the message alone.
//!
//! The message alone is enough: what is answered as new, the broker has. The same id sent twice is two messages, and
//! its task may run twice. One that comes later than its queue can delay is kept elsewhere until then, where the backend
//! has such a place, and there its id is one: what is to come of it is answered as existing.

use std::time::Duration;

use crate::{
    backend::{Backend, LateMessage, OutgoingMessage, QueueSpec, Result, StoreError, Submission, Submitted, batches},
    config::{Config, Track},
    ids::QueueName,
    limits::LATE_LEAD,
    row::State,
    time::Timestamp,
};

/// The way that a task takes to its queue.
#[derive(Clone, Copy)]
enum Road {
    /// A row, and its doorbell.
    Row,
    /// Its message, at once.
    Message,
    /// Its message, kept elsewhere until the queue can delay it.
    Later(Timestamp),
}

/// Accepts tasks, each as its queue keeps them: [`Backend::submit`], or the message alone.
///
/// # Errors
///
/// Per item, as [`Backend::submit`]; `Invalid` where a task without a row is to come later than anything can keep it.
pub async fn submit<B: Backend + ?Sized>(
    backend: &B,
    config: &Config,
    submissions: &[Submission],
    now: Timestamp,
) -> Vec<Result<Submitted>> {
    let is_rowless = |submission: &Submission| config.queue(&submission.queue).is_some_and(|q| q.track != Track::Full);
    if !submissions.iter().any(is_rowless) {
        return backend.submit(submissions, now).await;
    }
    let roads: Vec<Road> =
        submissions.iter().map(|one| if is_rowless(one) { road(backend, one, now) } else { Road::Row }).collect();
    let (mut with_row, mut messages, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for (submission, road) in submissions.iter().zip(&roads) {
        match road {
            Road::Row => with_row.push(submission.clone()),
            Road::Message => messages.push(submission.message(now, backend.broker())),
            Road::Later(at) => late.push(late_message(submission, *at)),
        }
    }
    let mut of_rows = if with_row.is_empty() { Vec::new() } else { backend.submit(&with_row, now).await }.into_iter();
    let mut of_messages = send(backend, config, messages).await.into_iter();
    let mut of_late = keep(backend, config, &late, now).await.into_iter();
    let missing = || Err(StoreError::Invalid("the backend did not answer for every task".into()));
    let answer = |road| match road {
        Road::Row => of_rows.next(),
        Road::Message => of_messages.next(),
        Road::Later(_) => of_late.next(),
    };
    roads.into_iter().map(answer).map(|answer| answer.unwrap_or_else(missing)).collect()
}

/// How a task without a row comes to its queue. What waits elsewhere is sent a little early: the queue delays the rest.
fn road<B: Backend + ?Sized>(backend: &B, submission: &Submission, now: Timestamp) -> Road {
    let (broker, queue) = (backend.broker(), &submission.queue);
    let delay_max = broker.limits().delay_max;
    let late = submission.not_before.filter(|at| !broker.is_fifo(queue) && at.since(now) > delay_max);
    late.map_or(Road::Message, |at| Road::Later(at.before(LATE_LEAD.min(delay_max))))
}

fn late_message(submission: &Submission, at: Timestamp) -> LateMessage {
    let Submission { id, queue, spec, .. } = submission;
    LateMessage { task: *id, queue: queue.clone(), body: spec.clone(), at: whole_second(at) }
}

/// Rounded up.
fn whole_second(at: Timestamp) -> Timestamp {
    const SECOND: i64 = 1000;
    Timestamp(at.as_millis().saturating_add(SECOND - 1).div_euclid(SECOND).saturating_mul(SECOND))
}

async fn keep<B: Backend + ?Sized>(
    backend: &B,
    config: &Config,
    late: &[LateMessage],
    now: Timestamp,
) -> Vec<Result<Submitted>> {
    if late.is_empty() {
        return Vec::new();
    }
    let Some(later) = backend.schedules().later() else {
        let delay_max = backend.broker().limits().delay_max;
        return late.iter().map(|message| Err(nowhere(config, &message.queue, delay_max))).collect();
    };
    let submitted = |kept| if kept { Submitted::New } else { Submitted::Exists(State::Scheduled) };
    later.keep(late, now).await.into_iter().map(|kept| kept.map(submitted)).collect()
}

fn nowhere(config: &Config, queue: &QueueName, delay_max: Duration) -> StoreError {
    let track = config.queue(queue).map_or(Track::None, |queue| queue.track);
    StoreError::Invalid(format!(
        "`delay` or `not_before` (eta) is over {delay_max:?} ahead, and queue {queue} has track = \"{track}\" and keeps no rows: here only the queue delays, {delay_max:?} at most. Ask for less, or write track = \"full\" in [queues.{queue}]"
    ))
}

async fn send<B: Backend + ?Sized>(
    backend: &B,
    config: &Config,
    messages: Vec<(QueueName, OutgoingMessage)>,
) -> Vec<Result<Submitted>> {
    let mut answers = batches::send(backend.broker(), messages.clone()).await;
    // A store that makes its queues itself may not have met one of them yet.
    let unmet = |answer: &Result<_>| matches!(answer, Err(StoreError::NoQueue(_)));
    let specs: Vec<QueueSpec> = config.queues.values().filter(|q| q.track != Track::Full).map(QueueSpec::of).collect();
    if answers.iter().any(unmet) && backend.broker().declare(&specs).await.is_ok() {
        let again: Vec<usize> = (0..answers.len()).filter(|index| unmet(&answers[*index])).collect();
        let sent = batches::send(backend.broker(), again.iter().map(|index| messages[*index].clone()).collect()).await;
        for (index, sent) in again.into_iter().zip(sent) {
            answers[index] = sent;
        }
    }
    answers.into_iter().map(|sent| sent.map(|_| Submitted::New)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_up_to_a_second() {
        for (at, expected) in [(0, 0), (1, 1000), (999, 1000), (1000, 1000), (1001, 2000)] {
            assert_eq!(whole_second(Timestamp(at)), Timestamp(expected));
        }
        assert!(whole_second(Timestamp(i64::MAX)) <= Timestamp(i64::MAX));
    }
}
