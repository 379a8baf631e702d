//! From SQLite's errors to what a caller can choose from: try again, or mend something first.

use std::{io, path::Path};

use rhubarb_core::{backend::StoreError, ids::TaskId};
use rusqlite::ErrorCode;

/// A failure inside a transaction: it takes the whole transaction with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// SQLite's own.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file holds what this build never writes.
    #[error("the store holds {0}")]
    Damaged(String),
    /// The writer lock cannot be had.
    #[error("the writer lock: {0}")]
    Lock(String),
}

/// How the name of a row that cannot be read begins.
const ROW_OF: &str = "a row of ";

/// A transaction's result.
pub(crate) type Fallible<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Names the task whose row, or history, cannot be read, unless it is named.
    pub(crate) fn of_task(self, id: TaskId) -> Self {
        match self {
            Self::Damaged(found) if found.starts_with(ROW_OF) => Self::Damaged(found),
            other => other.of_row(format_args!("task {id}")),
        }
    }

    /// Names the row whose content cannot be read; any other failure stays as it is.
    pub(crate) fn of_row(self, row: impl std::fmt::Display) -> Self {
        match self {
            Self::Sqlite(
                error @ (rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..)),
            ) => Self::Damaged(format!("{ROW_OF}{row} that cannot be read: {error}")),
            Self::Damaged(found) => Self::Damaged(format!("{ROW_OF}{row} that cannot be read: {found}")),
            other @ (Self::Sqlite(_) | Self::Lock(_)) => other,
        }
    }

    /// What the caller is told.
    pub(crate) fn told(&self, what: &str) -> StoreError {
        match self {
            Self::Sqlite(error) => sqlite_error(error, what),
            Self::Lock(_) => StoreError::unreachable(what, Told(self.to_string())),
            Self::Damaged(found) => broken(what, format!("the store holds {found}; restore store.db from a copy")),
        }
    }
}

fn broken(what: &str, fix: impl Into<String>) -> StoreError {
    StoreError::Broken { what: what.to_owned(), fix: fix.into() }
}

fn sqlite_error(error: &rusqlite::Error, what: &str) -> StoreError {
    let fix = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full: free some space",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "the folder or store.db is read-only: make it writable"
        }
        Some(ErrorCode::CannotOpen) => {
            "store.db cannot be opened: make the folder and its files readable and writable for this user"
        }
        Some(ErrorCode::NotADatabase) => "store.db is not a database: move it away, or name another folder",
        Some(ErrorCode::DatabaseCorrupt) => "store.db is damaged: restore it from a copy, or move it away",
        _ => return StoreError::unreachable(what, Told(error.to_string())),
    };
    broken(what, fix)
}

/// Says why a folder or a file of the store cannot be used.
pub(crate) fn path_error(error: &io::Error, what: &str, path: &Path) -> StoreError {
    let path = path.display();
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => format!("no permission for {path}: make it writable for this user"),
        io::ErrorKind::ReadOnlyFilesystem => format!("{path} is on a read-only disk: name another folder"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("the disk of {path} is full: free some space")
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            format!("{path} is not a folder: name another one")
        }
        _ => format!("{path}: {error}"),
    };
    broken(what, fix)
}

/// An error as text, where its own value cannot be kept: one commit's failure is many callers'.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Told(pub(crate) String);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rhubarb_core::{
        backend::{Backend as _, Submission, Window},
        envelope::Envelope,
        ids::{QueueName, TaskId, TaskName},
        time::Timestamp,
    };
    use serde_json::value::RawValue;

    use super::*;
    use crate::{LocalBackend, Options};

    fn submission() -> Submission {
        let args = RawValue::from_string(format!("\"{}\"", "x".repeat(50_000))).unwrap();
        let envelope = Envelope::new(TaskId::mint(), TaskName::new("task").unwrap(), args);
        Submission::new(&envelope, QueueName::new("q").unwrap(), Window::DEFAULT)
    }

    async fn allow_pages(backend: &LocalBackend, pages: u32) {
        let verb = move |transaction: &mut crate::transaction::Transaction<'_>| {
            let pragma = format!("pragma max_page_count = {pages}");
            Ok(transaction.connection.query_row(&pragma, [], |_| Ok(()))?)
        };
        backend.inner.writer.call("set a limit", 1, verb).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_named_and_what_was_accepted_before_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let backend = LocalBackend::open(folder.path(), Options::default()).unwrap();
        allow_pages(&backend, 100).await;
        let mut accepted = Vec::new();
        let refusal = loop {
            let submission = submission();
            match backend.submit(std::slice::from_ref(&submission), Timestamp(0)).await.remove(0) {
                Ok(_) => accepted.push(submission.id),
                Err(error) => break error,
            }
        };
        assert!(matches!(&refusal, StoreError::Broken { .. }), "{refusal:?}");
        assert!(refusal.to_string().contains("the disk is full: free some space"), "{refusal}");
        assert!(!accepted.is_empty());
        let found = backend.tasks().read(&accepted).await.unwrap();
        assert!(found.iter().all(Option::is_some));
        allow_pages(&backend, 1_000_000).await;
        backend.submit(&[submission()], Timestamp(0)).await.remove(0).unwrap();
        let states = backend.tasks().wait_settled(&accepted, Duration::ZERO).await.unwrap();
        assert_eq!(states.len(), accepted.len());
    }
}
