//! Accepting tasks: a row where none is. A late put cannot overwrite a claim.

use rhubarb_core::{
    backend::{Buried, Result, Submission, Submitted},
    ids::{QueueName, TaskId, TaskName},
    outcome::Failure,
    row::Row,
    time::Timestamp,
};

use super::DynamoTasks;
use crate::table::{
    Expression,
    record::{KEEP, LOG_IN_ROW_BYTES_MAX, Record},
    rows::{Saved, new_mark},
};

/// What became of a row that was to be put.
pub(super) enum Accepted {
    /// It is there.
    New,
    /// Another is there, or was a moment ago.
    Exists(Option<Box<Record>>),
    /// Its key belongs to this task.
    Keyed(TaskId),
}

impl DynamoTasks {
    pub(super) async fn submit_one(&self, submission: &Submission) -> Result<Submitted> {
        self.meet(&submission.queue).await?;
        loop {
            let now = self.table.now().await?.epoch;
            let Submission { max_attempts, not_before, expires, .. } = *submission;
            let row = Row::submitted(max_attempts, not_before, expires, now, self.table.limits());
            let mut record = Record::new(submission, row);
            match self.accept(submission, &mut record, now).await? {
                Accepted::New => return Ok(Submitted::New),
                Accepted::Exists(Some(found)) => return Ok(Submitted::Exists(found.row.state)),
                Accepted::Keyed(first) => return Ok(Submitted::Keyed(first)),
                // It was forgotten between the put and the look: put it.
                Accepted::Exists(None) => {}
            }
        }
    }

    /// Puts a row with its envelope and its key; nothing of it stays where it is not accepted.
    pub(super) async fn accept(
        &self,
        submission: &Submission,
        record: &mut Record,
        now: Timestamp,
    ) -> Result<Accepted> {
        if let Some(key) = &submission.key {
            self.check_key(key)?;
        }
        self.table.place_spec(record, &submission.spec).await?;
        let accepted = match &submission.key {
            Some(key) => self.put_with_key(record, key).await,
            None => self.table.put_row(record, now).await.map(|saved| match saved {
                Saved::Done => Accepted::New,
                Saved::Differs(found) => Accepted::Exists(found),
            }),
        };
        match &accepted {
            Ok(Accepted::New) | Err(_) => {}
            Ok(Accepted::Exists(found)) => self.table.discard_parts(record, found.as_deref()).await?,
            Ok(Accepted::Keyed(_)) => self.table.discard_parts(record, None).await?,
        }
        accepted
    }

    /// Puts the failed row of a task that had none; where a row is, it stays. A long log is written before it.
    pub(super) async fn bury_task(&self, buried: &Buried) -> Result<()> {
        let Buried { submission, submitted, attempt, max_attempts, worker, started, failure, log, keep } = buried;
        self.meet(&submission.queue).await?;
        let now = self.table.now().await?.epoch;
        let mut record = Record::new(submission, Row::buried(*attempt, *max_attempts, *submitted));
        if log.text.len() > LOG_IN_ROW_BYTES_MAX {
            self.table.put_log(submission.id, record.row.fence, log, Expression::new()).await?;
        }
        record.begin(worker, *started);
        record.end_attempt("failed", now);
        record.keep_log(log);
        record.fail(failure.clone());
        record.close(now, *keep);
        record.mark = new_mark();
        self.accept(submission, &mut record, now).await?;
        Ok(())
    }

    /// Puts a failed row for a message that cannot be read; where a row is, it stays.
    pub(super) async fn bury_one(&self, queue: &QueueName, id: TaskId, failure: &Failure) -> Result<()> {
        self.meet(queue).await?;
        let now = self.table.now().await?.epoch;
        let mut record = Record::of(id, TaskName::unreadable(), queue.clone(), Row::poisoned(now));
        record.fail(failure.clone());
        record.close(now, KEEP);
        record.mark = new_mark();
        self.table.put_row(&mut record, now).await?;
        Ok(())
    }
}
