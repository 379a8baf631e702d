//! Queues that keep no rows, or those of failed tasks alone, with real agents and functions.

use std::time::Duration;

use rhubarb::{
    Client,
    core::{
        backend::Delivery,
        envelope::Envelope,
        ids::{QueueName, TaskId},
        row::State,
    },
};
use rhubarb_tests::{App, enqueue, over_aws, until};
use serde_json::{Value, json};

use crate::{eventbridge::DEPLOY, readme::said};

const TRACKS: &str = r#"
[queues.none]
track = "none"
max_attempts = 2
backoff = { initial = "10ms", max = "1s" }
[queues.failures]
track = "failures"
max_attempts = 2
backoff = { initial = "10ms", max = "1s" }
[workers.all]
queues = ["none", "failures"]
concurrency = 2
"#;

/// What a task of this queue has written when it has ended once.
async fn runs(app: &App, client: &Client, queue: &str) {
    let ledger = app.path().join(format!("ledger-{queue}"));
    let id = enqueue(client, "nap", json!({"ms": 1, "ledger": ledger}), queue).await;
    let end = format!("end {id} 1 ");
    until(async || std::fs::read_to_string(&ledger).ok().filter(|text| text.contains(&end))).await;
    let name = QueueName::new(queue).unwrap();
    until(async || client.backend().broker().counts(&name).await.unwrap().is_empty().then_some(())).await;
    assert!(client.backend().tasks().read(&[id]).await.unwrap()[0].is_none(), "there is a row");
    let shown = app.run(&["task", &id.to_string()]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(shown.stderr.contains("there is no row of task") && shown.stderr.contains("failures, none"), "{shown:?}");
}

async fn dead_letter(client: &Client, queue: &str) -> Delivery {
    let dead = QueueName::new(queue).unwrap().dead_letters().unwrap();
    let broker = client.backend().broker();
    until(async || broker.receive(&dead, 1, Duration::from_secs(30), Duration::ZERO).await.unwrap().pop()).await
}

#[tokio::test]
async fn a_task_without_a_row_runs_and_leaves_nothing() {
    let app = App::new(TRACKS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    runs(&app, &client, "none").await;
    runs(&app, &client, "failures").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_task_without_a_row_that_kills_its_process_each_time_is_a_dead_letter() {
    let app = App::new(TRACKS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "crash", json!({"times": 9}), "none").await;
    let letter = dead_letter(&client, "none").await;
    assert_eq!(letter.attributes["error_kind"], "crashed", "{letter:?}");
    assert_eq!(Envelope::decode_full(&letter.body).unwrap().id, id);
    assert!(client.backend().tasks().read(&[id]).await.unwrap()[0].is_none(), "there is a row");
    agent.stop().await;
}

#[tokio::test]
async fn a_failed_task_of_a_queue_that_keeps_failures_is_listed_shown_and_redriven() {
    let app = App::new(TRACKS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "fail", json!({"times": 9, "fatal": true}), "failures").await;
    let listed = async || {
        let ran = app.run(&["tasks", "--state", "failed", "--json"]).await;
        ran.stdout.contains(&id.to_string()).then_some(())
    };
    until(listed).await;
    let shown = app.run(&["task", &id.to_string()]).await;
    assert!(shown.stdout.contains("told to fail attempt 1"), "{shown:?}");
    client.redrive(&[id]).await.remove(0).unwrap();
    let again = async || {
        let detail = client.task(id).await.unwrap();
        (detail.record.state == State::Failed && detail.attempts.len() == 2).then_some(detail)
    };
    let detail = until(again).await;
    assert_eq!((detail.record.redriven, detail.record.attempt), (1, 1), "it ran with its row");
    agent.stop().await;
}

#[tokio::test]
async fn what_needs_a_row_is_refused_before_anything_is_sent() {
    let app = App::new(TRACKS);
    let client = app.client().await;
    let refused = async |arguments: &[&str], word: &str| {
        let ran = app.run(&[&["enqueue", "noop", "--queue", "none"], arguments].concat()).await;
        assert!(ran.code == Some(2) && ran.stderr.contains(word) && ran.stderr.contains("track = \"full\""), "{ran:?}");
    };
    refused(&["--wait"], "`--wait`").await;
    refused(&["--idempotency-key", "k"], "`idempotency_key`").await;
    refused(&["--concurrency-key", "k"], "`concurrency_key`").await;
    // Where the template is deployed it waits in EventBridge.
    if !over_aws() {
        refused(&["--delay", "1h"], "`delay`").await;
    }
    let never = TaskId::mint();
    assert!(client.state(never).await.unwrap_err().to_string().contains("there is no row of task"));
    let name = QueueName::new("none").unwrap();
    assert!(client.backend().broker().counts(&name).await.unwrap_or_default().is_empty());
}

/// A schedule of EventBridge, as AWS's own command shows it.
async fn scheduled(app: &App, group: &str, name: &str) -> Value {
    let script = format!("aws scheduler get-schedule --group-name {group} --name {name} --output json");
    serde_json::from_str(&said(app.path(), &script, &app.variables()).await).unwrap()
}

/// The names of those that tasks without a row wait in.
async fn waiting(app: &App, group: &str) -> Vec<String> {
    let list = format!("aws scheduler list-schedules --group-name {group} --name-prefix _task.");
    let script = format!("{list} --query 'Schedules[].Name' --output json");
    serde_json::from_str(&said(app.path(), &script, &app.variables()).await).unwrap()
}

#[tokio::test]
async fn a_late_task_without_a_row_waits_in_eventbridge_and_is_cancelled_there() {
    let app = App::over(TRACKS, true);
    said(app.path(), DEPLOY, &app.variables()).await;
    let client = app.client().await;
    let group = client.config().app.aws_schedule_group();
    let at = "2099-01-01T00:00:00.5Z";
    let late = ["enqueue", "echo", "--args", r#"{"value": "ä"}"#, "--queue", "none", "--eta", at];
    let ran = app.run(&late).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let id: TaskId = ran.stdout.trim().parse().unwrap();

    let name = format!("_task.{id}");
    let found = scheduled(&app, &group, &name).await;
    assert_eq!(found["ScheduleExpression"], "at(2098-12-31T23:59:01)", "a minute before: the queue delays the rest");
    assert_eq!((&found["State"], &found["ActionAfterCompletion"]), (&json!("ENABLED"), &json!("DELETE")));
    let input = found["Target"]["Input"].as_str().unwrap();
    let body: Value = serde_json::from_str(input).unwrap();
    assert_eq!((&body["task"], &body["args"]["value"]), (&json!("echo"), &json!("ä")));
    let envelope = Envelope::decode_full(input).unwrap();
    assert_eq!((envelope.id, envelope.not_before.unwrap().to_string()), (id, "2099-01-01T00:00:00.5Z".to_owned()));

    let text = id.to_string();
    let again = app.run(&[&late[..], &["--id", &text]].concat()).await;
    assert!(again.code != Some(0) && again.stderr.contains(&text), "{again:?}");

    // A function enqueues as a producer does.
    let agent = app.agent(&["all"]).await;
    let args = json!({"children": 1, "queue": "none", "delay_ms": 3_600_000});
    enqueue(&client, "family", args, "none").await;
    let both = until(async || Some(waiting(&app, &group).await).filter(|names| names.len() == 2)).await;
    assert!(both.contains(&name), "{both:?}");
    agent.stop().await;

    for name in &both {
        let task = name.trim_start_matches("_task.");
        let ran = app.run(&["cancel", task]).await;
        assert!(ran.code == Some(0) && ran.stdout.contains("cancelled"), "{ran:?}");
    }
    assert_eq!(waiting(&app, &group).await, Vec::<String>::new());
    let ran = app.run(&["cancel", &text]).await;
    assert!(ran.code == Some(1) && ran.stderr.contains("there is no row of task"), "{ran:?}");
}
