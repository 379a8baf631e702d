//! Winning a task, or not.
//!
//! Most claims are of tasks that nobody has touched since they were accepted. Their rows need not be read: what
//! the message says is what the row holds, so the claim is one write, on condition that it is so. Where it is not,
//! the row that the failed condition brings is decided on, and one that is not there is put.

use rhubarb_core::{
    backend::{ClaimAnswer, ClaimRequest, Result, StoreError, Submission},
    permit::{Gate, concurrency_key},
    row::{Claim, ClaimTerms, Row},
    table::{PARTITION, SORT},
    time::Now,
};

use super::{
    DynamoTasks,
    change::{PAUSE, TRIES},
    submit::Accepted,
};
use crate::table::{
    attributes::{n, number},
    batch::pause,
    expression::Expression,
    keys,
    record::{KEEP, Record},
    rows::{Saved, new_mark},
};

/// What of a row that nobody has touched must be as the message says. The rest follows from `rev` 0.
const AS_SUBMITTED: [&str; 8] = ["rev", "fence", "state", "queue", "task", "max_attempts", "not_before", "expires"];

/// What became of a try to claim a row as it was seen.
enum Tried {
    Answered(ClaimAnswer),
    Differs(Option<Box<Record>>),
}

impl DynamoTasks {
    pub(super) async fn claim_one(&self, request: &ClaimRequest<'_>) -> Result<ClaimAnswer> {
        self.meet(&request.submission.queue).await?;
        let now = self.table.now().await?;
        let untouched = if request.terms.limits.is_none() {
            self.claim_untouched(request, now).await?
        } else {
            // Whether it may start is decided by its row and its meters, which are read.
            Tried::Differs(self.table.find(request.submission.id, now.epoch).await?.map(Box::new))
        };
        let mut seen = match untouched {
            Tried::Answered(answer) => return Ok(answer),
            Tried::Differs(found) => found,
        };
        for tried in 0..TRIES {
            let now = self.table.now().await?;
            let tried_now = match seen {
                Some(record) => self.claim_seen(*record, request, now).await?,
                None => self.claim_absent(request, now).await?,
            };
            match tried_now {
                Tried::Answered(answer) => return Ok(answer),
                Tried::Differs(found) => seen = found,
            }
            pause(PAUSE, tried).await;
        }
        Err(self.contended("claim a task"))
    }

    /// Claims a row that is as it was accepted, without reading it.
    async fn claim_untouched(&self, request: &ClaimRequest<'_>, now: Now) -> Result<Tried> {
        let ClaimRequest { submission, terms, .. } = request;
        let Submission { max_attempts, expires, .. } = *submission;
        let mut guess =
            Record::new(submission, Row::submitted(max_attempts, None, expires, now.epoch, self.table.limits()));
        let expected = guess.encode()?;
        // When it became available is not known here: that it was after the purge is a condition.
        let unpurged = ClaimTerms { purged_before: None, ..terms.clone() };
        if submission.not_before.is_some() || guess.row.claim(&unpurged, now) != Claim::Won {
            let found = self.table.find(submission.id, now.epoch).await?;
            return Ok(Tried::Differs(found.map(Box::new)));
        }
        guess.begin(terms.worker, now.epoch);
        guess.mark = new_mark();
        let change = Expression::difference(&expected, &guess.encode()?);
        let mut change = AS_SUBMITTED.into_iter().fold(change, |change, name| change.same_as_in(&expected, name));
        if let Some(purge) = terms.purged_before {
            change = change.only_if(|e| format!("{} > {}", e.name("queued_at"), e.value(n(purge.as_millis()))));
        }
        let key = keys::of(keys::task(submission.id), keys::ROW);
        let found = match self.table.update_and_read("claim a task", key.clone(), &change).await? {
            Ok(item) => Some(item),
            Err(Some(found)) => Some(found),
            Err(None) => self.table.get("read a task", key).await?,
        };
        let Some(item) = found else { return Ok(Tried::Differs(None)) };
        debug_assert!(item.contains_key(PARTITION) && item.contains_key(SORT));
        let mine = number(&item, "rev").and_then(|mark| u64::try_from(mark).ok()) == Some(guess.mark);
        match Record::decode(item, now.epoch)? {
            Some(record) if mine => Ok(Tried::Answered(self.win(&record, now))),
            found => Ok(Tried::Differs(found.map(Box::new))),
        }
    }

    /// Claims a row as it was seen.
    async fn claim_seen(&self, mut record: Record, request: &ClaimRequest<'_>, now: Now) -> Result<Tried> {
        let terms = &request.terms;
        let was_settled = record.row.state.is_settled();
        let claim = if terms.limits.is_none() && record.row.permit.is_none() {
            record.row.claim(terms, now)
        } else {
            self.claim_within(&mut record, request, now).await?
        };
        match claim {
            Claim::Won => {
                record.lose(now.epoch);
                if let Some(attempt) = record.last_attempt() {
                    // Before the row forgets it. Where the row is lost to another, its claimant writes the same.
                    self.table.archive(record.id, &attempt).await?;
                }
                record.begin(terms.worker, now.epoch);
            }
            Claim::Settled if !was_settled => {
                record.lose(now.epoch);
                record.close(now.epoch, KEEP);
            }
            Claim::Parked => {}
            Claim::Settled | Claim::Held { .. } | Claim::NotYet(_) => {
                return Ok(Tried::Answered(ClaimAnswer { claim, now: now.epoch, won: None }));
            }
        }
        match self.table.save(&mut record, now.epoch).await? {
            Saved::Done => Ok(Tried::Answered(self.answer(claim, &record, now))),
            Saved::Differs(found) => Ok(Tried::Differs(found)),
        }
    }

    /// Decides on a row of a limited queue, or one that has a permit, by its meters as they are now.
    async fn claim_within(&self, record: &mut Record, request: &ClaimRequest<'_>, now: Now) -> Result<Claim> {
        let ClaimRequest { submission, terms, .. } = request;
        let known = record.row.permit.as_ref().and_then(|permit| permit.key.clone());
        let key = match known {
            None if !terms.limits.key.is_none() => concurrency_key(&submission.spec),
            known => known,
        };
        let scopes = Gate::scopes(&terms.limits, key.as_deref(), &[record.row.permit.as_deref()]);
        let mut seen = self.table.gate(&record.queue, key, &scopes).await?;
        let claim = record.row.claim_within(terms, &mut seen.gate, now);
        if record.was_permit != record.row.permit || claim == Claim::Won {
            record.gate = Some(Box::new(seen));
        }
        Ok(claim)
    }

    /// Puts the row of a message that has none, claimed at once where it can be.
    async fn claim_absent(&self, request: &ClaimRequest<'_>, now: Now) -> Result<Tried> {
        let ClaimRequest { submission, sent, terms } = request;
        if submission.key.is_some() {
            return self.accept_keyed(request, now).await;
        }
        let mut record = self.record_of(submission, *sent);
        if !terms.limits.is_none() {
            return Ok(match self.accept(submission, &mut record, now.epoch).await? {
                Accepted::New => Tried::Differs(Some(Box::new(record))),
                Accepted::Exists(found) => Tried::Differs(found),
                Accepted::Keyed(_) => Tried::Differs(None),
            });
        }
        let claim = record.row.claim(terms, now);
        if claim == Claim::Won {
            record.begin(terms.worker, now.epoch);
        }
        record.close(now.epoch, KEEP);
        record.mark = new_mark();
        match self.accept(submission, &mut record, now.epoch).await? {
            Accepted::New => Ok(Tried::Answered(self.answer(claim, &record, now))),
            Accepted::Exists(found) => Ok(Tried::Differs(found)),
            Accepted::Keyed(_) => Ok(Tried::Differs(None)),
        }
    }

    /// Puts the row of a message with an idempotency key. Where the key makes it another task, that one is the
    /// task, and nothing is put. A key with other arguments cannot be told to a message: its task runs without it.
    async fn accept_keyed(&self, request: &ClaimRequest<'_>, now: Now) -> Result<Tried> {
        let ClaimRequest { submission, sent, .. } = request;
        let mut record = self.record_of(submission, *sent);
        match self.accept(submission, &mut record, now.epoch).await {
            Ok(Accepted::New) => Ok(Tried::Differs(Some(Box::new(record)))),
            Ok(Accepted::Exists(found)) => Ok(Tried::Differs(found)),
            Ok(Accepted::Keyed(_)) => {
                Ok(Tried::Answered(ClaimAnswer { claim: Claim::Settled, now: now.epoch, won: None }))
            }
            Err(StoreError::KeyReused { .. } | StoreError::Invalid(_)) => {
                let keyless = Submission { key: None, ..submission.clone() };
                let mut record = self.record_of(&keyless, *sent);
                match self.accept(&keyless, &mut record, now.epoch).await? {
                    Accepted::New => Ok(Tried::Differs(Some(Box::new(record)))),
                    Accepted::Exists(found) => Ok(Tried::Differs(found)),
                    Accepted::Keyed(_) => Ok(Tried::Differs(None)),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn record_of(&self, submission: &Submission, sent: rhubarb_core::time::Timestamp) -> Record {
        let Submission { max_attempts, not_before, expires, .. } = *submission;
        Record::new(submission, Row::submitted(max_attempts, not_before, expires, sent, self.table.limits()))
    }

    fn answer(&self, claim: Claim, record: &Record, now: Now) -> ClaimAnswer {
        match claim {
            Claim::Won => self.win(record, now),
            Claim::Settled | Claim::Held { .. } | Claim::NotYet(_) | Claim::Parked => {
                ClaimAnswer { claim, now: now.epoch, won: None }
            }
        }
    }

    fn win(&self, record: &Record, now: Now) -> ClaimAnswer {
        self.hold(record);
        ClaimAnswer { claim: Claim::Won, now: now.epoch, won: Some(record.won()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rhubarb_core::{
        backend::Window,
        envelope::{Envelope, null},
        ids::{QueueName, TaskId, TaskName, WorkerId},
        row::AckMode,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::table::answered::answered_by;

    /// What an update leaves of an item that it creates.
    fn item_of(update: &Value) -> Value {
        let mut item = update["Key"].clone();
        let (names, values) = (&update["ExpressionAttributeNames"], &update["ExpressionAttributeValues"]);
        let expression = update["UpdateExpression"].as_str().unwrap();
        let sets = expression.strip_prefix("SET ").unwrap().split(" REMOVE ").next().unwrap();
        for set in sets.split(", ") {
            let (name, value) = set.split_once(" = ").unwrap();
            item[names[name].as_str().unwrap()] = values[value].clone();
        }
        let now = json!({"N": "1800000000000"});
        for (name, value) in [
            ("task", json!({"S": "t"})),
            ("queue", json!({"S": "q"})),
            ("submitted", now.clone()),
            ("queued_at", now.clone()),
            ("rung_at", now),
            ("rings", json!({"N": "1"})),
        ] {
            item[name] = value;
        }
        item
    }

    #[tokio::test]
    async fn a_claim_that_was_done_although_its_answer_was_lost_is_won() {
        let table = answered_by(|operation, body| match operation {
            "UpdateItem" => {
                let item = item_of(&body);
                (400, json!({"__type": "ConditionalCheckFailedException", "message": "?", "Item": item}))
            }
            _ => (200, json!({})),
        });
        let envelope = Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), null());
        let submission = Submission::new(&envelope, QueueName::new("q").unwrap(), Window::DEFAULT);
        let worker = WorkerId::new("w").unwrap();
        let terms = ClaimTerms {
            worker: &worker,
            lease: Duration::from_secs(30),
            ack: AckMode::Lease,
            max_attempts: 3,
            purged_before: None,
            limits: rhubarb_core::permit::QueueLimits::NONE,
        };
        let request = ClaimRequest { submission, sent: rhubarb_core::time::Timestamp(0), terms };
        let answer = DynamoTasks::new(table).claim_one(&request).await.unwrap();
        assert_eq!(answer.claim, Claim::Won);
        assert_eq!(answer.won.unwrap().attempt, 1);
    }
}
