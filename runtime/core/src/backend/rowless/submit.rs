//! Accepting tasks of any level: a row and its message, or the message alone.
//!
//! The message alone is enough: what is answered as new, the broker has. The same id sent twice is two messages, and
//! its task may run twice.

use crate::{
    backend::{Backend, OutgoingMessage, QueueSpec, Result, StoreError, Submission, Submitted, batches},
    config::{Config, Track},
    ids::QueueName,
    time::Timestamp,
};

/// Accepts tasks, each as its queue keeps them: [`Backend::submit`], or the message alone.
///
/// # Errors
///
/// Per item, as [`Backend::submit`].
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
    let with_row: Vec<Submission> = submissions.iter().filter(|one| !is_rowless(one)).cloned().collect();
    let messages: Vec<(QueueName, OutgoingMessage)> =
        submissions.iter().filter(|one| is_rowless(one)).map(|one| message(backend, one, now)).collect();
    let mut of_rows = if with_row.is_empty() { Vec::new() } else { backend.submit(&with_row, now).await }.into_iter();
    let mut of_messages = send(backend, config, messages).await.into_iter();
    let missing = || Err(StoreError::Invalid("the backend did not answer for every task".into()));
    let answer = |one| if is_rowless(one) { of_messages.next() } else { of_rows.next() }.unwrap_or_else(missing);
    submissions.iter().map(answer).collect()
}

/// The one message of a task. A delay that the queue cannot hold is not cut: the broker refuses it.
fn message<B: Backend + ?Sized>(backend: &B, submission: &Submission, now: Timestamp) -> (QueueName, OutgoingMessage) {
    let (queue, message) = submission.message(now, backend.broker());
    let delay = submission.not_before.map_or(message.delay, |at| at.since(now));
    let delay = if message.deduplication.is_some() { message.delay } else { delay };
    (queue, OutgoingMessage { delay, ..message })
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
