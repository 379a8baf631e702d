//! Accepting tasks: the row, its doorbell and its idempotency key in one transaction.

use rhubarb_core::{
    backend::{Result, StoreError, Submission, Submitted},
    ids::QueueName,
    limits::{KEEP_DEFAULT, KEEP_FAILED_DEFAULT, Limits},
    outcome::Failure,
    row::{Row, State},
    time::Timestamp,
};

use crate::{
    error::Fallible,
    open::{Inner, LocalBackend},
    transaction::Transaction,
};

/// How long records are kept where no queue's policy is at hand.
pub(crate) const KEEP: (std::time::Duration, std::time::Duration) = (KEEP_DEFAULT, KEEP_FAILED_DEFAULT);

/// Checks a submission against the limits.
fn check(limits: &Limits, submission: &Submission) -> Result<()> {
    limits.check_body(&submission.spec)?;
    if let Some(key) = &submission.key {
        let count = key.key.chars().count();
        if count == 0 || count > limits.key_chars_max {
            let max = limits.key_chars_max;
            return Err(Inner::invalid(format!("the idempotency key has {count} characters: 1 to {max} are allowed")));
        }
    }
    Ok(())
}

impl LocalBackend {
    /// Accepts tasks, with their doorbells or without.
    pub(crate) async fn submit_each(&self, submissions: &[Submission], ring: bool) -> Vec<Result<Submitted>> {
        let checked =
            |submission: &Submission| check(&self.inner.ground.limits, submission).map(|()| submission.clone());
        let items = submissions.iter().map(checked).collect();
        self.each("submit tasks", items, move |transaction, item: Result<Submission>| match item {
            Ok(submission) => transaction.submit(&submission, ring),
            Err(error) => Ok(Err(error)),
        })
        .await
    }
}

impl Transaction<'_> {
    /// Accepts one task.
    pub(crate) fn submit(&mut self, submission: &Submission, ring: bool) -> Fallible<Result<Submitted>> {
        if let Some(answer) = self.keyed(submission)? {
            return Ok(answer);
        }
        let Submission { max_attempts, not_before, expires, .. } = *submission;
        let row = Row::submitted(max_attempts, not_before, expires, self.epoch(), self.limits());
        let bell_at = (ring && row.ring_at.is_none()).then(|| row.not_before.unwrap_or(self.epoch()));
        if !self.insert(submission, &row, bell_at)? {
            return self.submit_again(submission, bell_at);
        }
        if submission.key.is_some() {
            self.put_key(submission)?;
        }
        Ok(Ok(Submitted::New))
    }

    /// The same id again: rings where no doorbell is out, as after a crash between a row and its message.
    fn submit_again(&mut self, submission: &Submission, bell_at: Option<Timestamp>) -> Fallible<Result<Submitted>> {
        let Some(mut record) = self.find(submission.id)? else {
            return Ok(Err(StoreError::NoTask(submission.id)));
        };
        let state = record.row.state;
        let waits = !state.is_settled() && state != State::Running;
        if let Some(at) = bell_at.filter(|_| waits && !record.bell.is_out()) {
            record.bell.ring(at, self.epoch());
            self.save(&mut record)?;
        }
        Ok(Ok(Submitted::Exists(state)))
    }

    /// Puts a failed row for a message that cannot be read; where a row is, it stays.
    pub(crate) fn bury_poison(
        &mut self,
        queue: &QueueName,
        id: rhubarb_core::ids::TaskId,
        failure: &Failure,
    ) -> Fallible<()> {
        let Ok(task) = rhubarb_core::ids::TaskName::new("unreadable") else { return Ok(()) };
        let submission = Submission {
            id,
            task,
            queue: queue.clone(),
            spec: String::new(),
            not_before: None,
            expires: None,
            max_attempts: None,
            key: None,
        };
        let row = Row::poisoned(self.epoch());
        if self.insert(&submission, &row, None)?
            && let Some(mut record) = self.find(id)?
        {
            record.close(self.epoch(), KEEP);
            self.save(&mut record)?;
            self.put_failure(record.seq, Some(failure))?;
            self.note_settled();
        }
        Ok(())
    }
}
