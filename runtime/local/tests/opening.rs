//! Opening a store: what it makes, what it refuses, and in which words.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use common::{spec, store};
use rhubarb_core::{
    backend::{Backend as _, StoreError, Take},
    outcome::Outcome,
    row::AckMode,
    time::Timestamp,
};
use rhubarb_local::{Durability, LocalBackend, Options};

fn open(folder: &Path) -> Result<LocalBackend, StoreError> {
    LocalBackend::open(folder, Options::default())
}

fn refusal(folder: &Path) -> String {
    open(folder).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_folder_is_private_to_its_user() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("deep").join(".rhubarb");
    open(&folder).unwrap();
    for path in [folder.clone(), folder.join("blobs"), folder.join("bells")] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn a_newer_schema_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let connection = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(open(folder.path()).map(|_| ()), Err(StoreError::NewerSchema { found: 99, known: 5 })));
}

/// Takes away what later versions have added.
const AS_IN_VERSION_1: &str = "alter table task drop column rings; alter table task drop column rung_at; \
    drop table schedule_revision; drop index task_root; alter table task drop column root; drop table permit; \
    drop table meter; drop table wall; pragma user_version = 1";

#[tokio::test]
async fn a_store_of_the_first_version_is_brought_up_to_date_and_goes_on() {
    let store = store();
    let (policy, worker) = (common::policy("q", AckMode::Lease), common::worker("w"));
    let take = |max| Take { policy: &policy, worker: &worker, max, wait: Duration::ZERO };
    store.backend.submit(&[spec("q", "1"), spec("q", "2"), spec("q", "3")], Timestamp(0)).await;
    // One is settled, one runs, one waits.
    let won = store.backend.take(take(2)).await.unwrap().won;
    let done = common::finish(&won[0], "q", Outcome::Succeeded(None));
    store.backend.finish(&[done]).await.remove(0).unwrap();
    let common::Store { backend, clock, folder } = store;
    drop(backend);
    let file = || rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    file().execute_batch(AS_IN_VERSION_1).unwrap();

    let backend = LocalBackend::open(folder.path(), Options { clock: clock.clone(), ..Options::default() }).unwrap();
    let version: u32 = file().query_row("pragma user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 5);
    clock.advance(Duration::from_secs(30));
    let leases = backend.tasks().due_leases(10).await.unwrap();
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [won[1].id]);
    assert_eq!(backend.tasks().reap(&leases).await.remove(0).unwrap().rings, 2, "its first went out with the row");
    let rings = backend.tasks().due_rings(10).await.unwrap();
    backend.ring(&rings, Timestamp(0)).await.remove(0).unwrap();
    let mut attempts: Vec<u32> = backend.take(take(9)).await.unwrap().won.iter().map(|won| won.row.attempt).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 2]);
    assert_eq!(common::broken_invariants(folder.path()), Vec::<String>::new());
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("store.db"), "these are not the bytes of a database".repeat(100)).unwrap();
    let refusal = refusal(folder.path());
    assert!(refusal.contains("store.db is not a database"), "{refusal}");
}

#[test]
fn another_program_s_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("create table theirs(x)").unwrap();
    let refusal = refusal(folder.path());
    assert!(refusal.contains("belongs to another program"), "{refusal}");
    let connection = rusqlite::Connection::open(&path).unwrap();
    let tables: i64 = connection.query_row("select count(*) from sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn a_folder_that_cannot_be_made_is_named_with_the_way_out() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let in_a_file = refusal(&file.join("store"));
    assert!(in_a_file.contains("is not a folder: name another one"), "{in_a_file}");
    // Nobody, not even root, makes folders here.
    let read_only = refusal(Path::new("/proc/rhubarb"));
    assert!(read_only.contains("/proc/rhubarb"), "{read_only}");
}

#[test]
fn a_store_that_many_open_at_once_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(folder.path()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for store in opened {
        store.unwrap();
    }
    assert_eq!(common::broken_invariants(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_accepted_is_there_when_the_store_is_opened_again() {
    for durability in [Durability::Normal, Durability::Full] {
        let folder = tempfile::tempdir().unwrap();
        let options = || Options { durability, ..Options::default() };
        let submission = spec("q", "null");
        let first = LocalBackend::open(folder.path(), options()).unwrap();
        first.submit(std::slice::from_ref(&submission), Timestamp(0)).await.remove(0).unwrap();
        drop(first);
        let second = LocalBackend::open(folder.path(), options()).unwrap();
        assert!(second.tasks().read(&[submission.id]).await.unwrap()[0].is_some());
    }
}

#[tokio::test]
async fn a_lease_of_an_earlier_boot_has_ended() {
    let store = store();
    store.backend.submit(&[spec("q", "null")], Timestamp(0)).await.remove(0).unwrap();
    let (policy, worker) = (common::policy("q", AckMode::Lease), common::worker("w"));
    let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::ZERO };
    assert_eq!(store.backend.take(take).await.unwrap().won.len(), 1);
    assert!(store.backend.tasks().due_leases(10).await.unwrap().is_empty());
    store.clock.reboot();
    let due = store.backend.tasks().due_leases(10).await.unwrap();
    assert_eq!(due.len(), 1);
    store.backend.tasks().reap(&due).await.remove(0).unwrap();
    let rings = store.backend.tasks().due_rings(10).await.unwrap();
    store.backend.ring(&rings, Timestamp(0)).await.remove(0).unwrap();
    assert_eq!(store.backend.take(take).await.unwrap().won[0].row.attempt, 2);
}
