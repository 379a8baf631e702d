//! Settling: what an attempt came to, if its holder is still the newest.

use rhubarb_core::{
    backend::{Log, Result, Settlement, StoreError, too_late},
    ids::FencingToken,
    outcome::{Failure, Outcome},
    row::Settled,
};
use rusqlite::params;

use crate::{
    error::Fallible,
    record::{Ending, Record},
    rows::Extent,
    texts::{IN_ROW_BYTES_MAX, to_json},
    transaction::Transaction,
};

impl Transaction<'_> {
    /// Records an outcome, and leaves the queue alone.
    pub(crate) fn settle(&mut self, settlement: &Settlement) -> Fallible<Result<Settled>> {
        let Some(mut record) = self.find(settlement.id)? else { return Ok(Err(StoreError::NoTask(settlement.id))) };
        let settled = self.settle_record(&mut record, settlement)?;
        if settled.is_ok() {
            self.save_settled(&mut record, &settlement.outcome)?;
        }
        Ok(settled)
    }

    /// Records the success of an attempt whose row this process remembers, without reading it. None where
    /// it does not, or the row has changed since: nothing is written then.
    pub(crate) fn settle_remembered(&mut self, settlement: &Settlement) -> Fallible<Option<(Record, Settled)>> {
        let Settlement { id, fence, outcome, log, keep } = settlement;
        let Some(mut record) = self.recent.borrow_mut().recall(*id) else { return Ok(None) };
        let Outcome::Succeeded(output) = outcome else { return Ok(None) };
        let output = output.as_ref().map(to_json).transpose()?;
        if record.row.fence > FencingToken(1) || output.as_ref().is_some_and(|text| text.len() > IN_ROW_BYTES_MAX) {
            return Ok(None);
        }
        let Ok(settled) = record.row.settle(*fence, outcome, self.now, self.limits()) else { return Ok(None) };
        record.end_attempt(self.epoch(), Ending::of(outcome));
        record.close(self.epoch(), *keep);
        if record.changed() != Extent::Settlement || !self.save_success(&mut record, output.as_deref())? {
            return Ok(None);
        }
        self.put_log(record.seq, log)?;
        Ok(Some((record, settled)))
    }

    /// Writes a settled row, with what the task gave.
    pub(crate) fn save_settled(&mut self, record: &mut Record, outcome: &Outcome) -> Fallible<()> {
        match outcome {
            Outcome::Succeeded(Some(output)) => self.save_with_output(record, output),
            Outcome::Succeeded(None)
            | Outcome::Failed { .. }
            | Outcome::Snoozed(_)
            | Outcome::Interrupted { .. }
            | Outcome::Cancelled
            | Outcome::Poisoned(_) => self.save(record),
        }
    }

    /// Records an outcome; the caller saves the row by [`Self::save_settled`].
    pub(crate) fn settle_record(&mut self, record: &mut Record, settlement: &Settlement) -> Fallible<Result<Settled>> {
        let Settlement { fence, outcome, log, keep, .. } = settlement;
        let settled = match record.row.settle(*fence, outcome, self.now, self.limits()) {
            Ok(settled) => settled,
            Err(refused) => {
                self.note_too_late(record, *fence, outcome, log)?;
                return Ok(Err(refused.into()));
            }
        };
        record.end_attempt(self.epoch(), Ending::of(outcome));
        if settled.state.is_settled() {
            record.close(self.epoch(), *keep);
        }
        self.put_outcome(record, outcome, settled.buried.as_ref())?;
        self.put_log(record.seq, log)?;
        Ok(Ok(settled))
    }

    fn put_outcome(&self, record: &Record, outcome: &Outcome, buried: Option<&Failure>) -> Fallible<()> {
        match outcome {
            // Only what was claimed before can have failed before.
            Outcome::Succeeded(_) if record.row.fence > FencingToken(1) => self.put_failure(record.seq, None)?,
            Outcome::Interrupted { why, .. } => {
                self.put_why(record.seq, &Failure::new("interrupted", why.as_ref()))?;
            }
            Outcome::Succeeded(_)
            | Outcome::Failed { .. }
            | Outcome::Poisoned(_)
            | Outcome::Snoozed(_)
            | Outcome::Cancelled => {}
        }
        match buried.or(outcome.failure()) {
            Some(failure) => self.put_failure(record.seq, Some(failure)),
            None => Ok(()),
        }
    }

    /// Notes in the history what a holder gave that is not the newest any more.
    fn note_too_late(&self, record: &Record, fence: FencingToken, outcome: &Outcome, log: &Log) -> Fallible<()> {
        let note = too_late(outcome, log);
        if record.last.is_some_and(|last| last.fence == fence) {
            return if record.tombstone { Ok(()) } else { self.put_log(record.seq, &note) };
        }
        self.prepare("update attempt set log = ?3 where seq = ?1 and fence = ?2")?.execute(params![
            record.seq,
            fence.0.cast_signed(),
            to_json(&note)?
        ])?;
        Ok(())
    }
}
