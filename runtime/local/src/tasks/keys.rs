//! Idempotency keys: a second task with a key is the first one, for the key's window.
//!
//! The key is written in the transaction of the row, so that there is never one without the other.
//! Whether a key that lasts until its task is settled still holds is read from that task's state:
//! settling writes nothing here.

use rhubarb_core::{
    backend::{Result, StoreError, Submission, Submitted, Window},
    ids::TaskId,
};
use rusqlite::{OptionalExtension as _, params};

use crate::{error::Fallible, transaction::Transaction};

/// The task that has a key.
pub(crate) struct Holder {
    pub(crate) id: TaskId,
    args: [u8; 32],
    until: Option<i64>,
}

impl Transaction<'_> {
    /// The answer to a submission whose key another task has; none where it may go on.
    pub(crate) fn keyed(&mut self, submission: &Submission) -> Fallible<Option<Result<Submitted>>> {
        let Some(holder) = self.key_holder(submission)? else { return Ok(None) };
        if holder.id == submission.id {
            return Ok(None);
        }
        let Some(key) = &submission.key else { return Ok(None) };
        Ok(Some(if holder.args == key.args_sha256 {
            Ok(Submitted::Keyed(holder.id))
        } else {
            Err(StoreError::KeyReused { key: key.key.clone(), first: holder.id })
        }))
    }

    /// The task that has the submission's key now.
    pub(crate) fn key_holder(&mut self, submission: &Submission) -> Fallible<Option<Holder>> {
        let Some(key) = &submission.key else { return Ok(None) };
        let task = self.number(submission.task.as_str())?;
        let mut select = self.prepare("select id, args, until from key where task = ?1 and key = ?2")?;
        let found = select.query_row(params![task, key.key], |row| {
            Ok(Holder { id: TaskId::from_bytes(row.get(0)?), args: row.get(1)?, until: row.get(2)? })
        });
        let Some(holder) = found.optional()? else { return Ok(None) };
        let holds = match holder.until {
            Some(until) => until > self.epoch().as_millis(),
            None => self.find(holder.id)?.is_some_and(|record| !record.row.state.is_settled()),
        };
        Ok(holds.then_some(holder))
    }

    /// Writes the submission's key, in place of one whose window has passed.
    pub(crate) fn put_key(&mut self, submission: &Submission) -> Fallible<()> {
        let Some(key) = &submission.key else { return Ok(()) };
        let task = self.number(submission.task.as_str())?;
        let until = match key.window {
            Window::For(window) => Some(self.epoch().after(window).as_millis()),
            Window::UntilSettled => None,
        };
        self.prepare("insert or replace into key(task, key, id, args, until) values(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![task, key.key, &submission.id.as_bytes()[..], &key.args_sha256[..], until])?;
        Ok(())
    }
}
