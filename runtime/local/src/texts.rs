//! The texts of a task: in its row where they are short, beside it in `payload` where each change of
//! the row would copy them.

use rhubarb_core::{envelope::BlobRef, outcome::Failure};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Fallible, Fault},
    transaction::Transaction,
};

/// Texts up to this stand in the row; longer ones would make each change of the row costly.
pub(crate) const IN_ROW_BYTES_MAX: usize = 1024;

/// Which text of a task a row of `payload` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// The envelope.
    Spec = 0,
    /// What it gave.
    Output = 1,
    /// What its last attempt printed.
    Log = 2,
}

impl Payload {
    /// The key in `payload`.
    pub(crate) const fn key(self, seq: i64) -> i64 {
        seq * 4 + self as i64
    }
}

/// True if an envelope stands in its row.
pub(crate) const fn stands_in_row(spec: &str) -> bool {
    !spec.is_empty() && spec.len() <= IN_ROW_BYTES_MAX
}

impl Transaction<'_> {
    /// Writes why a task failed, last.
    pub(crate) fn put_failure(&self, seq: i64, failure: Option<&Failure>) -> Fallible<()> {
        let text = failure.map(to_json).transpose()?;
        self.prepare("update task set failure = ?2 where seq = ?1")?.execute(params![seq, text])?;
        Ok(())
    }

    /// Writes why the last attempt was interrupted.
    pub(crate) fn put_why(&self, seq: i64, why: &Failure) -> Fallible<()> {
        self.prepare("update task set why = ?2 where seq = ?1")?.execute(params![seq, to_json(why)?])?;
        Ok(())
    }

    /// Writes a text beside the row.
    pub(crate) fn put_payload(&self, seq: i64, payload: Payload, text: &str) -> Fallible<()> {
        let put = "insert into payload(key, body) values(?1, ?2) on conflict(key) do update set body = excluded.body";
        self.prepare(put)?.execute(params![payload.key(seq), text])?;
        Ok(())
    }

    /// Reads a text that does not stand in the row.
    pub(crate) fn payload(&self, seq: i64, payload: Payload) -> Fallible<Option<String>> {
        let mut select = self.prepare("select body from payload where key = ?1")?;
        Ok(select.query_row([payload.key(seq)], |row| row.get(0)).optional()?)
    }

    /// Reads the envelope of a row; none once the record was forgotten.
    pub(crate) fn spec(&self, seq: i64) -> Fallible<Option<String>> {
        let mut select = self.prepare("select spec from task where seq = ?1")?;
        match select.query_row([seq], |row| row.get::<_, Option<String>>(0)).optional()?.flatten() {
            Some(spec) => Ok(Some(spec)),
            None => self.payload(seq, Payload::Spec),
        }
    }

    /// What an earlier attempt left.
    pub(crate) fn checkpoint(&self, seq: i64) -> Fallible<Option<BlobRef>> {
        let mut select = self.prepare("select checkpoint from task where seq = ?1")?;
        let text: Option<String> = select.query_row([seq], |row| row.get(0)).optional()?.flatten();
        text.as_deref().map(from_json).transpose()
    }
}

/// A value as a column keeps it.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Fallible<String> {
    serde_json::to_string(value).map_err(|error| Fault::Damaged(format!("a value that is no JSON: {error}")))
}

/// A value back from a column.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Fallible<T> {
    serde_json::from_str(text).map_err(|error| Fault::Damaged(format!("a column that cannot be read: {error}")))
}
