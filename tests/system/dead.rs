//! Dead letters: tasks that failed for good are listed, shown, brought back and discarded, by their rows alone.

use std::time::Duration;

use rhubarb::core::{
    backend::OutgoingMessage,
    ids::{QueueName, TaskId},
    outcome::Failure,
    row::State,
};
use rhubarb_tests::{App, Ran, enqueue, settled, until};
use serde_json::{Value, json};

const DEAD: &str = r#"
[queues.work]
lease = "{lease}"
[queues.other]
lease = "{lease}"
max_attempts = 1
[queues.aside]
ack = "message"
max_attempts = 1
max_receives = 2
[workers.all]
queues = ["work", "other"]
concurrency = 2
[workers.none]
queues = ["work"]
concurrency = 1
"#;

async fn dead(app: &App, arguments: &[&str]) -> Ran {
    let ran = app.run(&[&["dead"], arguments].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

/// The ids of `rhubarb dead list` with these filters.
async fn listed(app: &App, filters: &[&str]) -> Vec<TaskId> {
    let ran = dead(app, &[&["list", "--json"], filters].concat()).await;
    let id = |line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().parse().unwrap();
    ran.stdout.lines().map(id).collect()
}

async fn listed_so(app: &App, filters: &[&str], expected: &[TaskId]) {
    let sorted = |mut ids: Vec<TaskId>| {
        ids.sort_unstable();
        ids
    };
    let expected = sorted(expected.to_vec());
    until(async || (sorted(listed(app, filters).await) == expected).then_some(())).await;
}

#[tokio::test]
async fn dead_letters_are_found_by_queue_task_time_and_reason() {
    let app = App::new(DEAD);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let fatal = enqueue(&client, "fail", json!({"times": 9, "fatal": true}), "work").await;
    let crashed = enqueue(&client, "crash", json!({"times": 9}), "other").await;
    let good = enqueue(&client, "noop", json!({}), "work").await;
    for id in [fatal, crashed, good] {
        settled(&client, id).await;
    }
    listed_so(&app, &[], &[fatal, crashed]).await;
    listed_so(&app, &["--queue", "other"], &[crashed]).await;
    listed_so(&app, &["--task", "fail"], &[fatal]).await;
    listed_so(&app, &["--reason", "crashed"], &[crashed]).await;
    listed_so(&app, &["--since", "1h"], &[fatal, crashed]).await;
    listed_so(&app, &["--since", "2100-01-01T00:00:00Z"], &[]).await;
    let shown = dead(&app, &["show", &crashed.to_string()]).await.stdout;
    assert!(shown.contains("state        failed") && shown.contains("SIGABRT"), "{shown}");
    let refused = app.run(&["dead", "show", &good.to_string()]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("is succeeded, no dead letter"), "{refused:?}");
    agent.stop().await;
}

#[tokio::test]
async fn dead_letters_are_redriven_by_filter_and_all_at_once_with_a_yes() {
    let app = App::new(DEAD);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(enqueue(&client, "crash", json!({"times": 9}), "other").await);
    }
    let fatal = enqueue(&client, "fail", json!({"times": 9, "fatal": true}), "work").await;
    for id in ids.iter().chain([&fatal]) {
        settled(&client, *id).await;
    }
    agent.stop().await;
    listed_so(&app, &["--reason", "crashed"], &ids).await;
    let ran = dead(&app, &["redrive", "--reason", "crashed"]).await;
    assert_eq!(ran.stdout.trim(), "3 dead letters queued again");
    for id in &ids {
        assert_eq!(client.state(*id).await.unwrap(), State::Queued);
    }
    assert_eq!(client.state(fatal).await.unwrap(), State::Failed, "the filter does not fit it");
    let unasked = app.run(&["dead", "redrive", "--all"]).await;
    assert!(unasked.code == Some(2) && unasked.stderr.contains("--yes"), "{unasked:?}");
    let nothing = app.run(&["dead", "redrive"]).await;
    assert!(nothing.code == Some(2) && nothing.stderr.contains("--reason"), "{nothing:?}");
    listed_so(&app, &[], &[fatal]).await;
    let ran = dead(&app, &["redrive", "--all", "--yes", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap(), json!({"id": fatal, "done": "redriven"}));
    assert_eq!(client.state(fatal).await.unwrap(), State::Queued);
}

#[tokio::test]
async fn a_discarded_task_leaves_the_dead_letters_and_a_late_message_of_it_does_not_run() {
    let app = App::new(DEAD);
    let client = app.client().await;
    let ledger = app.path().join("ledger");
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "fail", json!({"times": 9, "fatal": true}), "work").await;
    let envelope = settled(&client, id).await.spec.unwrap();
    listed_so(&app, &[], &[id]).await;
    assert_eq!(dead(&app, &["discard", &id.to_string()]).await.stdout.trim(), format!("{id} discarded"));
    listed_so(&app, &[], &[]).await;
    let again = app.run(&["dead", "discard", &id.to_string()]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    // An operator moves its message by hand, with a body that would do something.
    let mut late = envelope;
    late.task = "nap".parse().unwrap();
    late.args = serde_json::value::to_raw_value(&json!({"ms": 1, "ledger": ledger})).unwrap();
    let queue = QueueName::new("work").unwrap();
    let message = OutgoingMessage { body: late.encode(), ..OutgoingMessage::default() };
    client.backend().broker().send(&queue, &[message]).await.pop().unwrap().unwrap();
    let other = enqueue(&client, "noop", json!({}), "work").await;
    settled(&client, other).await;
    let put_away = async || client.backend().broker().counts(&queue).await.unwrap().is_empty().then_some(());
    until(put_away).await;
    assert!(!ledger.exists(), "it never began");
    agent.stop().await;
}

/// What the broker itself moves aside becomes rows: an unreadable message under its own id, a readable one under its
/// task's, with its envelope, so that it can be redriven.
#[tokio::test]
async fn what_the_broker_moved_aside_is_adopted_into_rows_that_can_be_redriven() {
    let app = App::new(DEAD);
    let client = app.client().await;
    let (queue, broker) = (QueueName::new("aside").unwrap(), client.backend().broker());
    // Declares the queues; nobody serves this one.
    app.agent(&["none"]).await.stop().await;
    let specs: Vec<_> = client.config().queues.get(&queue).into_iter().map(spec_of).collect();
    broker.declare(&specs).await.unwrap();
    let bodies = ["{\"args\": 7", r#"{"task":"echo","args":{"value":5}}"#];
    let messages = bodies.map(|body| OutgoingMessage { body: body.into(), ..OutgoingMessage::default() });
    let sent: Vec<TaskId> = broker.send(&queue, &messages).await.iter().flatten().map(TaskId::of_message).collect();
    let [poison, plain] = sent[..] else { panic!("two are sent") };
    // Somebody receives them and dies, until the broker has had enough.
    let dead_letters = client.config().queues[&queue].dead_letters().unwrap();
    until(async || {
        broker.receive(&queue, 10, Duration::ZERO, Duration::ZERO).await.unwrap();
        (broker.counts(&dead_letters).await.ok()?.visible == 2).then_some(())
    })
    .await;
    let agent = app.agent(&["none"]).await;
    listed_so(&app, &["--queue", "aside"], &[poison, plain]).await;
    agent.stop().await;
    let kind = async |id| client.task(id).await.unwrap().record.failure.unwrap().kind;
    assert_eq!(kind(poison).await, Failure::POISON);
    assert_eq!(kind(plain).await, Failure::MOVED_ASIDE);
    let emptied = async || broker.counts(&dead_letters).await.unwrap().is_empty().then_some(());
    until(emptied).await;
    let ran = app.run(&["dead", "redrive", &poison.to_string()]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("cannot be brought back"), "{ran:?}");
    dead(&app, &["redrive", &plain.to_string()]).await;
    assert_eq!(client.state(plain).await.unwrap(), State::Queued);
    let counts = broker.counts(&queue).await.unwrap();
    assert_eq!(counts.visible, 1, "its doorbell rings on its own queue");
}

fn spec_of(queue: &rhubarb::core::config::QueueConfig) -> rhubarb::core::backend::QueueSpec {
    rhubarb::core::backend::QueueSpec {
        queue: queue.name.clone(),
        max_receives: Some(queue.max_receives),
        dead_letters: queue.dead_letters(),
    }
}
