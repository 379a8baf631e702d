//! A task's row as a verb sees it: decoded from its item, changed by the core's `Row`, encoded again.
//!
//! The item is kept beside what was read from it, so that a write carries only what has changed. Everything that
//! stands in an index is made here from the record, so that no verb thinks of it. What the last attempt left (its
//! log, its failure) stands in the row only until the next claim, which moves it to the history: a row that is
//! renewed stays small.

mod coding;

use std::time::Duration;

use rhubarb_core::{
    backend::{AttemptRecord, Log, Progress, Result, StoreError, Submission, TaskRecord, WonRow},
    envelope::{BlobRef, Envelope},
    ids::{FencingToken, QueueName, TaskId, TaskName, WorkerId},
    limits::{KEEP_DEFAULT, KEEP_FAILED_DEFAULT, TOMBSTONE_AGE},
    outcome::{Failure, Output},
    permit::Permit,
    row::{Row, State},
    time::{Now, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::{
    attributes::{Item, size},
    permits::SeenGate,
};

/// What is kept about a task that was not settled by a holder.
pub(crate) const KEEP: (Duration, Duration) = (KEEP_DEFAULT, KEEP_FAILED_DEFAULT);
/// A row that is renewed is under this, so that a heartbeat costs one unit.
pub(crate) const ROW_BYTES_MAX: usize = 1024;
/// What a claim adds to a row: the hold, the attempt, the place in the index of leases.
const CLAIM_BYTES: usize = 280;
/// A log up to this waits in the row for the next claim, and saves a write.
pub(crate) const LOG_IN_ROW_BYTES_MAX: usize = 4096;
/// What of an earlier failure stays in a row that is held; the history has all of it.
const FAILURE_CHARS_IN_HELD_ROW: usize = 120;

/// Where the envelope is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spec {
    /// In the row.
    Inline(String),
    /// In items of its own.
    Parts(Parts),
    /// Nowhere: never readable, or forgotten.
    Gone,
}

/// The items that hold an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parts {
    /// A hash of the envelope, so that another under the same id has other items.
    pub(crate) name: String,
    /// How many.
    pub(crate) count: u32,
}

/// The last attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) fence: FencingToken,
    pub(crate) attempt: u32,
    pub(crate) worker: WorkerId,
    pub(crate) started: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<String>,
    /// The row's failure is this attempt's.
    #[serde(default, skip_serializing_if = "coding::is_default")]
    pub(crate) failed: bool,
    /// Why it was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// A task's row.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: TaskId,
    pub(crate) task: TaskName,
    pub(crate) queue: QueueName,
    /// The task at the root of its tree, if it is not that itself.
    pub(crate) root: Option<TaskId>,
    pub(crate) submitted: Timestamp,
    pub(crate) row: Row,
    pub(crate) last: Option<Last>,
    pub(crate) settled: Option<Timestamp>,
    /// When the record's time to be kept has passed; none once it has been forgotten.
    pub(crate) forget_at: Option<Timestamp>,
    pub(crate) spec: Spec,
    pub(crate) failure: Option<Failure>,
    /// The attempt whose history has the whole of a failure that was cut.
    pub(crate) failure_of: Option<FencingToken>,
    pub(crate) output: Option<Output>,
    pub(crate) log: Option<Log>,
    pub(crate) progress: Option<Progress>,
    pub(crate) checkpoint: Option<BlobRef>,
    /// Only id, state and fence are left.
    pub(crate) tombstone: bool,
    /// When DynamoDB may delete it, in epoch seconds.
    pub(crate) ttl: Option<i64>,
    /// Where a held row stands in the index of leases: at the end of its lease, or before.
    lease_due: Option<Timestamp>,
    /// Drawn anew with each write; 0 in a row that nobody has touched since it was submitted.
    pub(crate) mark: u64,
    /// The item that it was read from.
    pub(crate) stored: Item,
    /// Its permit in that item.
    pub(crate) was_permit: Option<Box<Permit>>,
    /// The meters that its change was decided by, and what they become.
    pub(crate) gate: Option<Box<SeenGate>>,
}

impl Record {
    /// The record of a task that is accepted now. Where its envelope goes is not decided yet.
    pub(crate) fn new(submission: &Submission, row: Row) -> Self {
        let record = Self::of(submission.id, submission.task.clone(), submission.queue.clone(), row);
        Self { root: submission.root, ..record }
    }

    /// A record without an envelope.
    pub(crate) fn of(id: TaskId, task: TaskName, queue: QueueName, row: Row) -> Self {
        Self {
            id,
            task,
            queue,
            root: None,
            submitted: row.queued_at,
            row,
            last: None,
            settled: None,
            forget_at: None,
            spec: Spec::Gone,
            failure: None,
            failure_of: None,
            output: None,
            log: None,
            progress: None,
            checkpoint: None,
            tombstone: false,
            ttl: None,
            lease_due: None,
            mark: 0,
            stored: Item::new(),
            was_permit: None,
            gate: None,
        }
    }

    /// Puts the envelope into the row if there is room beside what a claim adds. Returns whether it did.
    pub(crate) fn hold_spec(&mut self, spec: &str) -> Result<bool> {
        let fits = size(&self.encode()?) + "spec".len() + spec.len() + CLAIM_BYTES <= ROW_BYTES_MAX;
        self.spec = if fits { Spec::Inline(spec.to_owned()) } else { Spec::Gone };
        Ok(fits)
    }

    /// The envelope that has to leave the row, so that its heartbeats stay cheap.
    pub(crate) fn spec_in_the_way(&self) -> Result<Option<&str>> {
        match &self.spec {
            Spec::Inline(spec) if self.row.state == State::Running && size(&self.encode()?) > ROW_BYTES_MAX => {
                Ok(Some(spec))
            }
            _ => Ok(None),
        }
    }

    /// Begins the attempt that a claim has won.
    pub(crate) fn begin(&mut self, worker: &WorkerId, now: Timestamp) {
        self.lease_due = self.row.hold.as_ref().map(|hold| Timestamp(hold.until.0));
        self.log = None;
        if let (Some(failure), Some(last)) = (&mut self.failure, &self.last)
            && let Some((cut, _)) = failure.message.char_indices().nth(FAILURE_CHARS_IN_HELD_ROW)
            && last.failed
        {
            failure.message.truncate(cut);
            failure.message.push('…');
            self.failure_of = Some(last.fence);
        }
        self.last = Some(Last {
            fence: self.row.fence,
            attempt: self.row.attempt,
            worker: worker.clone(),
            started: now,
            ended: None,
            outcome: None,
            failed: false,
            why: None,
        });
    }

    /// Notes a renewed lease. The place in the index of leases moves only when half a lease is left until it:
    /// at every second heartbeat. The sweep reads a row again before it believes that its lease has ended.
    pub(crate) fn renewed(&mut self, now: Now) {
        if let Some(last) = &mut self.last {
            (last.ended, last.outcome) = (None, None);
        }
        if let Some(hold) = &self.row.hold {
            let soon = Timestamp(now.lease.0).after(hold.lease / 2);
            self.lease_due = self.lease_due.filter(|at| *at >= soon).or(Some(Timestamp(hold.until.0)));
        }
    }

    /// Ends the last attempt with an outcome.
    pub(crate) fn end_attempt(&mut self, outcome: &str, now: Timestamp) {
        if let Some(last) = &mut self.last {
            (last.ended, last.outcome) = (Some(now), Some(outcome.to_owned()));
        }
    }

    /// Ends the last attempt if it was taken from its holder.
    pub(crate) fn lose(&mut self, now: Timestamp) {
        if self.last.as_ref().is_some_and(|last| last.ended.is_none()) {
            self.end_attempt("lost", now);
        }
    }

    /// Notes why the last attempt failed, and with it the task.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.failure_of = None;
        if let Some(last) = &mut self.last {
            last.failed = true;
        }
    }

    /// Keeps what the last attempt printed, if it is short: a long log has an item of its own.
    pub(crate) fn keep_log(&mut self, log: &Log) {
        self.log = (!log.is_empty() && log.text.len() <= LOG_IN_ROW_BYTES_MAX).then(|| log.clone());
    }

    /// Notes when it was settled and until when it is kept, if it is settled by now.
    pub(crate) fn close(&mut self, now: Timestamp, keep: (Duration, Duration)) {
        if self.row.state.is_settled() && self.settled.is_none() {
            let keep = if self.row.state == State::Failed { keep.1 } else { keep.0 };
            self.settled = Some(now);
            self.forget_at = Some(now.after(keep));
        }
    }

    /// Opens a settled record again.
    pub(crate) const fn reopen(&mut self) {
        self.settled = None;
        self.forget_at = None;
    }

    /// Leaves a tombstone: everything else goes, and the items beside the row with it. `bare` says that there
    /// are none any more.
    pub(crate) fn strip(&mut self, bare: bool) {
        self.spec = Spec::Gone;
        self.last = None;
        self.failure = None;
        self.failure_of = None;
        self.output = None;
        self.log = None;
        self.progress = None;
        self.checkpoint = None;
        self.tombstone = true;
        if bare {
            let until = self.settled.unwrap_or(self.submitted).after(TOMBSTONE_AGE);
            self.forget_at = None;
            self.ttl = Some(until.as_millis().div_euclid(1000) + 1);
        }
    }

    /// The blobs that it names, beside its envelope's.
    pub(crate) fn blobs(&self, envelope: Option<&Envelope>) -> Vec<BlobRef> {
        let arguments = envelope.and_then(|envelope| envelope.blob.clone());
        let output = match &self.output {
            Some(Output::Blob(blob)) => Some(blob.clone()),
            Some(Output::Inline(_)) | None => None,
        };
        [arguments, output, self.checkpoint.clone()].into_iter().flatten().collect()
    }

    /// What the holder must know.
    pub(crate) fn won(&self) -> WonRow {
        WonRow {
            fence: self.row.fence,
            attempt: self.row.attempt,
            max_attempts: self.row.max_attempts,
            alone: self.row.alone,
            submitted: self.submitted,
            queued_at: self.row.queued_at,
            started: self.last.as_ref().map_or(self.row.queued_at, |last| last.started),
            checkpoint: self.checkpoint.clone(),
        }
    }

    /// The last attempt for the history, but for a log that does not stand here.
    pub(crate) fn last_attempt(&self) -> Option<AttemptRecord> {
        let last = self.last.as_ref()?;
        let why = last.why.as_ref().map(|why| Failure::new("interrupted", why.as_str()));
        Some(AttemptRecord {
            attempt: last.attempt,
            fence: last.fence,
            worker: last.worker.clone(),
            started: last.started,
            ended: last.ended,
            outcome: last.outcome.clone(),
            failure: if last.failed { self.failure.clone() } else { why },
            log: self.log.clone().unwrap_or_default(),
        })
    }

    /// The row as people see it.
    pub(crate) fn shown(&self) -> TaskRecord {
        let row = &self.row;
        TaskRecord {
            id: self.id,
            task: self.task.clone(),
            queue: self.queue.clone(),
            state: row.state,
            attempt: row.attempt,
            max_attempts: self.last.is_some().then_some(row.max_attempts),
            submitted: self.submitted,
            queued_at: row.queued_at,
            not_before: row.not_before,
            expires: row.expires,
            started: self.last.as_ref().map(|last| last.started),
            settled: self.settled,
            worker: self.last.as_ref().map(|last| last.worker.clone()),
            progress: self.progress.clone(),
            cancel_asked: row.cancel_asked,
            redriven: row.redriven,
            interruptions: row.interruptions,
            snoozes: row.snoozes,
            failure: self.failure.clone(),
            output: self.output.clone(),
            checkpoint: self.checkpoint.clone(),
        }
    }

    /// The refusal of a write by one who does not hold it.
    pub(crate) const fn refused(&self) -> StoreError {
        StoreError::Refused(rhubarb_core::row::Refused { state: self.row.state, fence: self.row.fence })
    }
}

#[cfg(test)]
mod tests;
