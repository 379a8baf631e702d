//! Claims: winning the right to an attempt, which moves the attempt before it to the history.

use std::time::Duration;

use rhubarb_core::{
    backend::{ClaimAnswer, ClaimRequest, Submission},
    ids::WorkerId,
    permit::QueueLimits,
    row::{AckMode, Claim, ClaimTerms, Row},
    time::Timestamp,
};
use rusqlite::params;

use super::submit::KEEP;
use crate::{
    error::Fallible,
    record::{Ending, Last, Record},
    texts::Payload,
    transaction::Transaction,
};

/// A claim request that can be sent to the writer.
#[derive(Clone, Debug)]
pub(crate) struct OwnedClaim {
    submission: Submission,
    sent: Timestamp,
    worker: WorkerId,
    lease: Duration,
    ack: AckMode,
    max_attempts: u32,
    purged_before: Option<Timestamp>,
    limits: QueueLimits,
}

impl OwnedClaim {
    /// Copies a request.
    pub(crate) fn new(request: &ClaimRequest<'_>) -> Self {
        let ClaimTerms { worker, lease, ack, max_attempts, purged_before, limits } = request.terms;
        let submission = request.submission.clone();
        Self { submission, sent: request.sent, worker: worker.clone(), lease, ack, max_attempts, purged_before, limits }
    }

    fn terms(&self) -> ClaimTerms<'_> {
        let Self { worker, lease, ack, max_attempts, purged_before, limits, .. } = self;
        ClaimTerms {
            worker,
            lease: *lease,
            ack: *ack,
            max_attempts: *max_attempts,
            purged_before: *purged_before,
            limits: *limits,
        }
    }
}

impl Transaction<'_> {
    /// Answers one claim request.
    pub(crate) fn claim_request(&mut self, request: &OwnedClaim) -> Fallible<ClaimAnswer> {
        let now = self.epoch();
        let Some(mut record) = self.find_or_put(&request.submission, request.sent)? else {
            return Ok(ClaimAnswer { claim: Claim::Settled, now, won: None });
        };
        let claim = self.claim(&mut record, &request.terms(), KEEP)?;
        self.save(&mut record)?;
        let won = match claim {
            Claim::Won => Some(record.won(self.checkpoint(record.seq)?)),
            _ => None,
        };
        Ok(ClaimAnswer { claim, now, won })
    }

    /// The row of a message's task, put now where there is none. None where the message's idempotency
    /// key makes it a task that exists under another id: that one is the task, and nothing is put.
    pub(crate) fn find_or_put(&mut self, submission: &Submission, sent: Timestamp) -> Fallible<Option<Record>> {
        if let Some(record) = self.find(submission.id)? {
            return Ok(Some(record));
        }
        match self.keyed(submission)? {
            Some(Ok(_)) => return Ok(None),
            // A key reused with other arguments: a message cannot be told, so its task runs without the key.
            Some(Err(_)) => {
                let keyless = Submission { key: None, ..submission.clone() };
                return self.put(&keyless, sent);
            }
            None => {}
        }
        self.put(submission, sent)
    }

    fn put(&mut self, submission: &Submission, sent: Timestamp) -> Fallible<Option<Record>> {
        let Submission { max_attempts, not_before, expires, .. } = *submission;
        let mut row = Row::submitted(max_attempts, not_before, expires, self.epoch(), self.limits());
        row.queued_at = sent;
        self.insert(submission, &row, None)?;
        self.put_key(submission)?;
        self.find(submission.id)
    }

    /// Tries to win a row; the caller saves it.
    pub(crate) fn claim(
        &mut self,
        record: &mut Record,
        terms: &ClaimTerms<'_>,
        keep: (Duration, Duration),
    ) -> Fallible<Claim> {
        // The agent may have read the mark before the clock was set back: it says nothing of what came since.
        let purged_before = terms.purged_before.filter(|at| *at <= self.epoch());
        let terms = &ClaimTerms { purged_before, ..terms.clone() };
        let was_settled = record.row.state.is_settled();
        let claim = if terms.limits.is_none() && record.row.permit.is_none() {
            record.row.claim(terms, self.now)
        } else {
            self.claim_within(record, terms)?
        };
        match claim {
            Claim::Won => self.begin_attempt(record, terms)?,
            Claim::Settled if !was_settled => record.close(self.epoch(), keep),
            Claim::Settled | Claim::Held { .. } | Claim::NotYet(_) | Claim::Parked => {}
        }
        Ok(claim)
    }

    fn begin_attempt(&mut self, record: &mut Record, terms: &ClaimTerms<'_>) -> Fallible<()> {
        if record.last.is_some() {
            self.archive_last(record.seq)?;
        }
        let worker = self.number(terms.worker.as_str())?;
        record.last = Some(Last {
            fence: record.row.fence,
            attempt: record.row.attempt,
            worker,
            started: self.epoch(),
            ended: None,
            ending: None,
        });
        if terms.ack == AckMode::Lease {
            record.bell.at = None;
        }
        Ok(())
    }

    /// Moves the last attempt from the row to the history. One that never ended was lost: its lease has
    /// ended, or nobody could claim.
    fn archive_last(&self, seq: i64) -> Fallible<()> {
        self.prepare(
            "insert or replace into attempt(seq, fence, attempt, worker, started, ended, outcome, failure, log) \
             select seq, last_fence, last_attempt, last_worker, last_started, coalesce(last_ended, ?2), \
             coalesce(last_outcome, ?3), case when last_outcome in (2, 6, 7) then failure else why end, \
             (select body from payload where key = ?4) from task where seq = ?1",
        )?
        .execute(params![seq, self.epoch().as_millis(), Ending::LostBefore as i64, Payload::Log.key(seq)])?;
        self.prepare("update task set why = null where seq = ?1 and why is not null")?.execute([seq])?;
        self.prepare("delete from payload where key = ?1")?.execute([Payload::Log.key(seq)])?;
        Ok(())
    }
}
