//! Accepting tasks: the row, its doorbell and its idempotency key in one transaction.

use std::collections::HashSet;

use rhubarb_core::{
    backend::{Buried, Result, StoreError, Submission, Submitted},
    ids::QueueName,
    limits::{KEEP_DEFAULT, KEEP_FAILED_DEFAULT, Limits},
    outcome::Failure,
    row::{Row, State},
    time::Timestamp,
};

use crate::{
    error::Fallible,
    open::{Inner, LocalBackend},
    record::{Ending, Last},
    rows::{MANY, NewTask},
    texts::stands_in_row,
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

/// Fits the statement that puts many rows at once.
fn is_ordinary(submission: &Submission) -> bool {
    submission.key.is_none() && submission.root.is_none() && stands_in_row(&submission.spec)
}

impl LocalBackend {
    /// Accepts tasks, with their doorbells or without.
    pub(crate) async fn submit_each(&self, submissions: &[Submission], ring: bool) -> Vec<Result<Submitted>> {
        let checked =
            |submission: &Submission| check(&self.inner.ground.limits, submission).map(|()| submission.clone());
        let items: Vec<Result<Submission>> = submissions.iter().map(checked).collect();
        let count = items.len();
        if count == 0 {
            return Vec::new();
        }
        let verb = move |transaction: &mut Transaction<'_>| transaction.submit_all(items, ring);
        let answers = self.inner.writer.call("submit tasks", count, verb).await;
        answers.unwrap_or_else(|error| std::iter::repeat_with(|| Err(error.clone())).take(count).collect())
    }
}

impl Transaction<'_> {
    /// Accepts tasks in order: runs of ordinary ones together, the others by themselves.
    fn submit_all(&mut self, items: Vec<Result<Submission>>, ring: bool) -> Fallible<Vec<Result<Submitted>>> {
        let mut answers = Vec::with_capacity(items.len());
        let mut run: Vec<Submission> = Vec::with_capacity(MANY);
        for item in items {
            match item {
                Ok(submission) if is_ordinary(&submission) => {
                    run.push(submission);
                    if run.len() == MANY {
                        self.submit_run(&run, ring, &mut answers)?;
                        run.clear();
                    }
                }
                other => {
                    self.submit_run(&run, ring, &mut answers)?;
                    run.clear();
                    answers.push(match other {
                        Ok(submission) => self.submit(&submission, ring)?,
                        Err(error) => Err(error),
                    });
                }
            }
        }
        self.submit_run(&run, ring, &mut answers)?;
        Ok(answers)
    }

    fn submit_run(&mut self, run: &[Submission], ring: bool, answers: &mut Vec<Result<Submitted>>) -> Fallible<()> {
        let Ok(run) = <&[Submission; MANY]>::try_from(run) else {
            for submission in run {
                answers.push(self.submit(submission, ring)?);
            }
            return Ok(());
        };
        let mut tasks = Vec::with_capacity(MANY);
        for submission in run {
            tasks.push(self.new_task(submission, ring)?);
        }
        let Ok(tasks) = <[NewTask<'_>; MANY]>::try_from(tasks) else { return Ok(()) };
        let (before, all_new) = self.insert_many(&tasks)?;
        let mut seen = HashSet::new();
        for NewTask { submission, queue, row, bell_at, .. } in tasks {
            let id = submission.id;
            // Where some were there before, or twice in this run, each is looked at.
            let new = all_new || (seen.insert(id) && self.find(id)?.is_some_and(|record| record.seq > before));
            if new {
                self.count(queue, row.state, 1);
                if bell_at.is_some() {
                    self.ring(queue);
                }
            }
            answers.push(if new { Ok(Submitted::New) } else { self.submit_again(submission, bell_at)? });
        }
        Ok(())
    }

    fn new_task<'s>(&mut self, submission: &'s Submission, ring: bool) -> Fallible<NewTask<'s>> {
        let Submission { max_attempts, not_before, expires, .. } = *submission;
        let row = Row::submitted(max_attempts, not_before, expires, self.epoch(), self.limits());
        let bell_at = (ring && row.ring_at.is_none()).then(|| row.not_before.unwrap_or(self.epoch()));
        let task = self.number(submission.task.as_str())?;
        let queue = self.number(submission.queue.as_str())?;
        Ok(NewTask { submission, task, queue, row, bell_at })
    }

    /// Accepts one task.
    pub(crate) fn submit(&mut self, submission: &Submission, ring: bool) -> Fallible<Result<Submitted>> {
        if let Some(answer) = self.keyed(submission)? {
            return Ok(answer);
        }
        let NewTask { row, bell_at, .. } = self.new_task(submission, ring)?;
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

    /// Puts the failed row of a task that had none; where a row is, it stays.
    pub(crate) fn bury(&mut self, buried: &Buried) -> Fallible<()> {
        let Buried { submission, submitted, attempt, max_attempts, worker, started, failure, log, keep } = buried;
        let row = Row::buried(*attempt, *max_attempts, *submitted);
        if !self.insert(submission, &row, None)? {
            return Ok(());
        }
        let Some(mut record) = self.find(submission.id)? else { return Ok(()) };
        let (fence, worker, now) = (row.fence, self.number(worker.as_str())?, self.epoch());
        let (ended, ending) = (Some(now), Some(Ending::Failed as i64));
        record.last = Some(Last { fence, attempt: *attempt, worker, started: *started, ended, ending });
        record.row = row;
        record.close(now, *keep);
        self.save(&mut record)?;
        self.put_failure(record.seq, Some(failure))?;
        self.put_log(record.seq, log)?;
        self.note_settled();
        Ok(())
    }

    /// Puts a failed row for a message that cannot be read; where a row is, it stays.
    pub(crate) fn bury_poison(
        &mut self,
        queue: &QueueName,
        id: rhubarb_core::ids::TaskId,
        failure: &Failure,
    ) -> Fallible<()> {
        let submission = Submission {
            id,
            task: rhubarb_core::ids::TaskName::unreadable(),
            queue: queue.clone(),
            spec: String::new(),
            not_before: None,
            expires: None,
            max_attempts: None,
            key: None,
            root: None,
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
