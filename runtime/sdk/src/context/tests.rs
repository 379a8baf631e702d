//! What a handler can ask, through the same client code as in production, of a host in memory.

use rhubarb_core::{
    backend::Cursor,
    ids::{QueueName, TaskName},
    outcome::{Failure, Output},
    time::Timestamp,
};
use serde::Serialize;

use super::*;
use crate::{TaskError, testing};

#[derive(Serialize, serde::Deserialize, Debug, PartialEq)]
struct Child {
    n: u32,
}

impl Task for Child {
    const NAME: &'static str = "child";
    const QUEUE: &'static str = "low";
    type Output = ();
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_progress_is_thinned_and_its_last_report_arrives() {
    let host = testing::Host::new();
    let storm = async |_: Child, cx: Context| {
        for step in 1..=1000_u32 {
            cx.progress(step, 1000_u32).await?;
        }
        Ok::<_, TaskError>(())
    };
    assert_eq!(host.run(storm, Child { n: 1 }).await, Ok(()));
    let done: Vec<u64> = host.progress().iter().map(|progress| progress.done).collect();
    assert_eq!(done, [1, 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_waits_is_sent_when_its_time_comes() {
    let host = testing::Host::new();
    let cx = host.context();
    cx.progress(1, 9).await.unwrap();
    cx.progress_message(2, 9, "second").await.unwrap();
    assert_eq!(host.progress().len(), 1);
    tokio::time::sleep(progress::INTERVAL * 2).await;
    assert_eq!(host.progress()[1].message.as_deref(), Some("second"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_costs_reports_and_no_attempt() {
    let host = testing::Host::new();
    let cx = host.context();
    host.set_store_reachable(false);
    cx.progress(1, 9).await.unwrap();
    tokio::time::advance(progress::INTERVAL).await;
    cx.progress(2, 9).await.unwrap();
    assert!(matches!(cx.checkpoint("x").await, Err(ContextError::Unavailable { .. })));
    host.set_store_reachable(true);
    cx.close().await;
    assert_eq!(host.progress().iter().map(|progress| progress.done).collect::<Vec<_>>(), [2]);
}

#[test]
fn what_a_queue_does_not_allow_is_said_in_the_hosts_words_alone() {
    let body = Bytes::from(r#"{"errorType":"NotAllowed","errorMessage":"set allow = [\"sweep\"]"}"#);
    let error = ContextError::of("sweep", &routes::Reply { status: http::StatusCode::FORBIDDEN, body });
    assert!(matches!(error, ContextError::NotAllowed(_)));
    assert_eq!(error.to_string(), r#"set allow = ["sweep"]"#);
}

#[tokio::test]
async fn a_handler_that_lost_its_lease_is_told() {
    let host = testing::Host::new();
    let cx = host.context();
    host.lose_lease();
    assert!(matches!(cx.progress(1, 2).await, Err(ContextError::LeaseLost)));
    assert!(matches!(cx.checkpoint("x").await, Err(ContextError::LeaseLost)));
    assert_eq!(cx.cancelled().await, CancelReason::LeaseLost);
}

#[tokio::test]
async fn the_next_attempt_finds_the_checkpoint() {
    let host = testing::Host::new();
    assert_eq!(host.context().last_checkpoint().await.unwrap(), None);
    host.context().checkpoint("epoch 3").await.unwrap();
    assert_eq!(host.context().last_checkpoint().await.unwrap(), Some(Bytes::from("epoch 3")));
}

#[tokio::test]
async fn a_handler_stops_when_it_is_cancelled() {
    let host = testing::Host::new();
    let cx = host.context();
    assert!(!cx.is_cancelled());
    let waiting = tokio::spawn({
        let cx = cx.clone();
        async move { cx.cancelled().await }
    });
    host.cancel(CancelReason::Shutdown);
    assert_eq!(waiting.await.unwrap(), CancelReason::Shutdown);
    assert_eq!(cx.cancel_reason(), Some(CancelReason::Shutdown));
}

#[tokio::test]
async fn blobs_are_written_read_listed_located_and_deleted() {
    let host = testing::Host::new().with_blob("models/a", "old").with_blob("modelsx", "other");
    let blobs = host.context().blobs();
    assert_eq!(blobs.put("models/b", "new").await.unwrap().size, 3);
    assert_eq!(blobs.get("models/b").await.unwrap(), "new");
    let listed: Vec<String> = blobs.list("models/").await.unwrap().iter().map(|blob| blob.key.to_string()).collect();
    assert_eq!(listed, ["models/a", "models/b"]);
    assert_eq!(blobs.locate("models/a").await.unwrap(), "memory:models/a");
    blobs.delete("models/a").await.unwrap();
    blobs.delete("models/a").await.unwrap();
    assert!(matches!(blobs.get("models/a").await, Err(ContextError::NotFound(text)) if text.contains("models/a")));
    assert!(matches!(blobs.get("../x").await, Err(ContextError::Invalid(_))));
    assert_eq!(host.blob_keys(), ["models/b", "modelsx"]);
}

#[tokio::test]
async fn a_task_is_enqueued_with_what_the_call_and_its_type_say() {
    let host = testing::Host::new();
    let id = TaskId::from_bytes([3; 16]);
    let call = host.context().enqueue(Child { n: 7 }).queue("high").id(id).delay(Duration::from_secs(5));
    let enqueued = call.max_attempts(2).gpus(0).idempotency_key("k").await.unwrap();
    assert_eq!(enqueued, Enqueued { id, existing: false });
    assert_eq!(host.enqueued::<Child>(), [Child { n: 7 }]);
    let expected = serde_json::json!({
        "task": "child", "args": {"n": 7}, "queue": "high", "type_queue": "low", "id": id,
        "delay_ms": 5000, "max_attempts": 2, "gpus": 0, "idempotency_key": "k",
    });
    assert_eq!(host.enqueued_json(), [expected]);
}

#[tokio::test]
async fn one_bad_task_among_many_fails_alone() {
    let host = testing::Host::new();
    let tasks = [NewTask::from(Child { n: 1 }), NewTask::from(Child { n: 2 }).queue("../x"), Child { n: 3 }.into()];
    let results = host.context().enqueue_all(tasks).await.unwrap();
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(matches!(&results[1], Err(ContextError::Invalid(text)) if text.contains("queue name")));
    assert_eq!(host.enqueued::<Child>(), [Child { n: 1 }, Child { n: 3 }]);
}

fn record(byte: u8, state: State) -> TaskRecord {
    TaskRecord {
        id: TaskId::from_bytes([byte; 16]),
        task: TaskName::new("a/b").unwrap(),
        queue: QueueName::new("low").unwrap(),
        state,
        attempt: 1,
        max_attempts: Some(3),
        submitted: Timestamp(i64::from(byte)),
        queued_at: Timestamp(5),
        not_before: None,
        expires: None,
        started: None,
        settled: None,
        worker: None,
        progress: None,
        cancel_asked: false,
        redriven: 0,
        interruptions: 0,
        snoozes: 0,
        failure: Some(Failure::new("k", "m")),
        output: Some(Output::Inline(serde_json::value::to_raw_value(&[1, 2]).unwrap())),
        checkpoint: None,
    }
}

#[tokio::test]
async fn tasks_are_read_listed_by_page_and_brought_back() {
    let records = [record(9, State::Failed), record(8, State::Succeeded), record(7, State::Failed)];
    let host = testing::Host::new().with_tasks(records);
    let cx = host.context();
    let detail = cx.task(TaskId::from_bytes([8; 16])).await.unwrap().unwrap();
    assert!(matches!(&detail.record.output, Some(Output::Inline(json)) if json.get() == "[1,2]"));
    assert!(cx.task(TaskId::from_bytes([1; 16])).await.unwrap().is_none());

    let mut filter =
        Filter { state: Some(State::Failed), task: TaskName::new("a/b").ok(), limit: 1, ..Filter::default() };
    let page = cx.tasks(&filter).await.unwrap();
    assert_eq!((page.items[0].id, page.next.clone()), (TaskId::from_bytes([9; 16]), Some(Cursor("1".into()))));
    filter.cursor = page.next;
    let page = cx.tasks(&filter).await.unwrap();
    assert_eq!((page.items[0].id, page.next), (TaskId::from_bytes([7; 16]), None));

    assert_eq!(cx.redrive(TaskId::from_bytes([7; 16])).await.unwrap(), State::Queued);
    assert!(matches!(cx.redrive(TaskId::from_bytes([8; 16])).await, Err(ContextError::Invalid(_))));
    assert_eq!(host.redriven(), [TaskId::from_bytes([7; 16])]);
    cx.sweep().await.unwrap();
    assert_eq!(host.sweeps(), 1);
}

#[tokio::test]
async fn without_a_host_progress_is_nothing_and_the_rest_says_so() {
    let room = Arc::new(AtomicUsize::new(0));
    let ends = Instant::now() + Duration::from_secs(60);
    let attempt = Attempt::new(TaskId::from_bytes([1; 16]), Host::default(), States::default(), room, ends);
    let cx = Context { attempt: Arc::new(attempt) };
    cx.progress(1, 2).await.unwrap();
    assert_eq!(cx.last_checkpoint().await.unwrap(), None);
    assert!(!cx.is_cancelled());
    let error = cx.checkpoint("x").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot write the checkpoint: the function runs without a Rhubarb host; put `rhubarb-lambda` before it, or run it under an agent"
    );
}

#[tokio::test]
async fn a_state_that_nobody_gave_names_its_type() {
    let host = testing::Host::new().with_state(7_u32);
    assert_eq!(*host.context().state::<u32>().unwrap(), 7);
    let error = host.context().state::<String>().unwrap_err();
    assert!(error.to_string().contains("alloc::string::String"), "{error}");
}
