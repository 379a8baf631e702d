//! Settling: what an attempt came to, if its holder is still the newest.
//!
//! Outcome, output, failure and a short log are one write of the row. A long log is written before it, under the
//! holder's own token, where it disturbs nobody if the row is not the holder's any more.

use rhubarb_core::{
    backend::{Result, Settlement, StoreError, too_late},
    outcome::{Failure, Outcome},
    row::Settled,
};

use super::DynamoTasks;
use crate::table::{
    Expression,
    attributes::s,
    record::{LOG_IN_ROW_BYTES_MAX, Record},
};

/// Characters of why an attempt was interrupted.
const WHY_CHARS_MAX: usize = 200;

impl DynamoTasks {
    pub(super) async fn settle_one(&self, settlement: &Settlement) -> Result<Settled> {
        let Settlement { id, fence, outcome, log, keep } = settlement;
        let mut known = self.held(*id, *fence);
        if log.text.len() > LOG_IN_ROW_BYTES_MAX {
            if known.is_none() {
                known = self.table.find(*id, self.table.now().await?.epoch).await?;
            }
            if known.as_ref().is_some_and(|record| record.row.is_held_by(*fence)) {
                self.table.put_log(*id, *fence, log, Expression::new()).await?;
            }
        }
        let limits = self.table.limits();
        let settled = self.change(*id, known, |record, now| {
            let settled = record.row.settle(*fence, outcome, now, limits)?;
            record.end_attempt(outcome.word(), now.epoch);
            record.keep_log(log);
            note(record, outcome, settled.buried.as_ref());
            record.close(now.epoch, *keep);
            Ok(settled)
        });
        let settled = settled.await.map(|(settled, _)| settled);
        self.let_go(*id, *fence);
        if let Err(StoreError::Refused(_)) = settled {
            self.note_too_late(settlement).await?;
        }
        settled
    }

    /// Notes in the history what a holder gave that is not the newest any more. The same settlement again notes
    /// nothing.
    async fn note_too_late(&self, settlement: &Settlement) -> Result<()> {
        let Settlement { id, fence, outcome, log, .. } = settlement;
        let now = self.table.now().await?.epoch;
        let Some(record) = self.table.find(*id, now).await?.filter(|record| !record.tombstone) else { return Ok(()) };
        let note = too_late(outcome, log);
        let Some(last) = record.last.as_ref().filter(|last| last.fence == *fence) else {
            let only = Expression::new().only_if(|e| {
                let (ended, word) = (e.name("outcome"), e.value(s(outcome.word())));
                format!("attribute_exists({ended}) AND {ended} <> {word}")
            });
            self.table.put_log(*id, *fence, &note, only).await?;
            return Ok(());
        };
        if last.outcome.as_deref() != Some(outcome.word()) {
            let cleared = |record: &mut Record, _| {
                record.log = None;
                Ok(())
            };
            self.change(*id, Some(record), cleared).await?;
            self.table.put_log(*id, *fence, &note, Expression::new()).await?;
        }
        Ok(())
    }
}

/// What a task gave, or why not.
fn note(record: &mut Record, outcome: &Outcome, buried: Option<&Failure>) {
    if let Some(failure) = buried.or(outcome.failure()) {
        record.fail(failure.clone());
    }
    match outcome {
        Outcome::Succeeded(output) => {
            record.output.clone_from(output);
            record.failure = None;
            record.failure_of = None;
        }
        Outcome::Interrupted { why, .. } => {
            if let Some(last) = &mut record.last {
                last.why = Some(why.chars().take(WHY_CHARS_MAX).collect());
            }
        }
        Outcome::Failed { .. } | Outcome::Snoozed(_) | Outcome::Cancelled | Outcome::Poisoned(_) => {}
    }
}
