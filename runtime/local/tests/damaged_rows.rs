//! Rows with anything in them: what reads them answers, with an error that names the task where it must, and never ends
//! the store's threads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::time::Duration;

use common::{Store, finish, policy, queue, spec, store, worker};
use proptest::prelude::*;
use rhubarb_core::{
    backend::{Backend as _, Filter, StoreError, Take},
    ids::TaskId,
    outcome::{Failure, Outcome, Output},
    row::AckMode,
    time::Timestamp,
};
use rusqlite::types::Value;

/// A store with a task that waits, one that runs, one that has failed twice and one that is done.
async fn a_little_of_everything() -> (Store, Vec<TaskId>) {
    let store = store();
    let specs: Vec<_> = (0..4).map(|_| spec("q", "null")).collect();
    let long = spec("q", &format!("\"{}\"", "x".repeat(5_000)));
    for answer in store.backend.submit(&[specs.clone(), vec![long.clone()]].concat(), Timestamp(0)).await {
        answer.unwrap();
    }
    let (policy, worker) = (policy("q", AckMode::Lease), worker("w"));
    let take = |max| Take { policy: &policy, worker: &worker, max, wait: Duration::ZERO };
    let won = store.backend.take(take(3)).await.unwrap().won;
    let again = |retry_in| Outcome::Failed { failure: Failure::new("oops", "no luck"), retry_in };
    let output = Output::Inline(serde_json::value::RawValue::from_string("7".into()).unwrap());
    for (won, outcome) in won.iter().zip([again(Some(Duration::ZERO)), Outcome::Succeeded(Some(output))]) {
        store.backend.finish(&[finish(won, "q", outcome)]).await.remove(0).unwrap();
    }
    let ids = specs.iter().chain([&long]).map(|submission| submission.id).collect();
    (store, ids)
}

/// Every column of the tables that say something about tasks, but what they are found by.
fn columns(connection: &rusqlite::Connection) -> Vec<(String, String)> {
    let mut columns = Vec::new();
    for table in ["task", "payload", "attempt", "permit", "meter", "message", "queue", "count", "name"] {
        let mut select = connection.prepare(&format!("select name from pragma_table_info('{table}')")).unwrap();
        for column in select.query_map([], |row| row.get::<_, String>(0)).unwrap() {
            columns.push((table.to_owned(), column.unwrap()));
        }
    }
    columns.retain(|(_, column)| !["seq", "key"].contains(&column.as_str()));
    columns
}

fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>(),
        Just(i64::MIN),
        Just(i64::MAX),
        Just(-1),
        Just(i64::from(u32::MAX)),
        Just(i64::from(u32::MAX) + 1),
        0..300_i64
    ];
    let texts =
        ["", "null", "{}", "[]", "\u{0}", "{\"kind\":1}", "9e999", "{\"limits\":{\"max_running\":-1}}", "[[-1,0]]"];
    prop_oneof![
        Just(Value::Null),
        number.prop_map(Value::Integer),
        any::<f64>().prop_map(Value::Real),
        ".{0,40}".prop_map(Value::Text),
        proptest::sample::select(texts.to_vec()).prop_map(|text| Value::Text(text.to_owned())),
        (1..100_000_usize).prop_map(|count| Value::Text("[".repeat(count))),
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Value::Blob),
    ]
}

/// Everything that reads tasks, as programs do. What each of them was refused.
async fn read_everything(store: &Store, ids: &[TaskId]) -> Vec<StoreError> {
    let backend = store.open_again();
    let tasks = backend.tasks();
    let mut refused = Vec::new();
    let mut note = |error: Option<StoreError>| refused.extend(error);
    for id in ids {
        note(tasks.read(&[*id]).await.err());
    }
    note(tasks.list(&Filter { limit: 10, ..Filter::default() }).await.err());
    for state in rhubarb_core::row::State::ALL {
        note(tasks.list(&Filter { limit: 10, state: Some(state), ..Filter::default() }).await.err());
    }
    note(tasks.count().await.err());
    note(tasks.queues().await.err());
    note(tasks.wait_settled(ids, Duration::ZERO).await.err());
    note(backend.broker().counts(&queue("q")).await.err());
    store.clock.advance(Duration::from_secs(120));
    note(tasks.due_leases(10).await.err());
    note(tasks.due_rings(10).await.err());
    let (policy, worker) = (policy("q", AckMode::Lease), worker("w"));
    let take = Take { policy: &policy, worker: &worker, max: 10, wait: Duration::ZERO };
    note(backend.take(take).await.err());
    refused
}

fn told(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error} {source}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_row_with_anything_in_it_is_read_or_named_and_never_ends_the_store(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), value()), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (store, ids) = a_little_of_everything().await;
            {
                let connection = rusqlite::Connection::open(store.folder.path().join("store.db")).unwrap();
                let columns = columns(&connection);
                for (index, value) in &changes {
                    let (table, column) = index.get(&columns);
                    // What the table itself refuses cannot be there.
                    let _ = connection.execute(&format!("update or ignore {table} set {column} = ?1"), [value]);
                }
            }
            for error in read_everything(&store, &ids).await {
                let told = told(&error);
                assert!(!told.contains("panicked") && !told.contains("writer has ended"), "{changes:?}: {told}");
                assert!(told.len() < 2_000, "{changes:?}: {} bytes of an error", told.len());
            }
        });
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_with_its_task_and_its_column() {
    for (column, value) in [("state", "'text'"), ("attempt", "-1"), ("failure", "'{'"), ("last_worker", "999999")] {
        let (store, ids) = a_little_of_everything().await;
        let connection = rusqlite::Connection::open(store.folder.path().join("store.db")).unwrap();
        connection.execute(&format!("update task set {column} = {value} where seq = 1"), []).unwrap();
        let error = store.open_again().tasks().read(&[ids[0]]).await.unwrap_err();
        let told = told(&error);
        assert!(told.contains(&format!("a row of task {} that cannot be read", ids[0])), "{column}: {told}");
    }
}
