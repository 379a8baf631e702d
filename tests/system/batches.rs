//! Many tasks at once, handed over in batches, while functions die.

use futures::StreamExt as _;
use rhubarb::core::{backend::Filter, ids::QueueName, row::State};
use rhubarb_tests::{App, until};
use serde_json::{json, value::RawValue};

const BATCHES: &str = r#"
[queues.bulk]
batch = 10
lease = "5s"
max_attempts = 3
backoff = { initial = "1ms", max = "5ms" }
[workers.all]
queues = ["bulk"]
concurrency = 2
"#;

/// One task of a hundred kills its process in its first attempt. All settle, none twice, and no
/// bystander of the same batch loses an attempt.
#[tokio::test]
async fn a_thousand_tasks_settle_while_one_percent_kill_their_process() {
    const TASKS: u64 = 1000;
    let app = App::new(BATCHES);
    let client = app.client().await;
    let tasks = (0..TASKS).map(|n| {
        let (name, args) = if n % 100 == 37 { ("crash", json!({"times": 1})) } else { ("echo", json!({"value": n})) };
        let args = RawValue::from_string(args.to_string()).unwrap();
        rhubarb::NewTask::named(name.parse().unwrap(), args).queue("bulk")
    });
    let accepted: Vec<_> = client.enqueue_all(futures::stream::iter(tasks)).collect().await;
    assert!(accepted.iter().all(Result::is_ok));
    let agent = app.agent(&["all"]).await;
    let bulk = QueueName::new("bulk").unwrap();
    until(async || {
        let counts = client.backend().tasks().count().await.unwrap();
        let settled = counts.iter().filter(|count| count.state.is_settled()).map(|count| count.count).sum::<u64>();
        (settled == TASKS).then_some(())
    })
    .await;
    let mut filter = Filter { queue: Some(bulk), limit: 300, ..Filter::default() };
    let mut seen = 0;
    loop {
        let page = client.tasks(&filter).await.unwrap();
        for record in &page.items {
            let attempts = if record.task.as_str() == "crash" { 2 } else { 1 };
            assert_eq!((record.state, record.attempt), (State::Succeeded, attempts), "{} {}", record.task, record.id);
            let detail = client.task(record.id).await.unwrap();
            let committed = detail.attempts.iter().filter(|a| a.outcome.as_deref() == Some("succeeded")).count();
            assert_eq!(committed, 1);
            seen += 1;
        }
        match page.next {
            Some(next) => filter.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, TASKS);
    agent.stop().await;
}

#[tokio::test]
async fn each_record_of_a_batch_has_its_own_outcome() {
    let app = App::new(BATCHES);
    let client = app.client().await;
    let mut ids = Vec::new();
    for (task, args) in [
        ("noop", json!({})),
        ("fail", json!({"times": 9, "fatal": true})),
        ("echo", json!({"value": [1, 2]})),
        ("fail", json!({"times": 1})),
        ("panics", json!({"message": "as told"})),
    ] {
        ids.push(rhubarb_tests::enqueue(&client, task, args, "bulk").await);
    }
    let agent = app.agent(&["all"]).await;
    let mut states = Vec::new();
    for id in &ids {
        let detail = rhubarb_tests::settled(&client, *id).await;
        states.push((detail.record.state, detail.record.attempt));
    }
    let (done, failed) = (State::Succeeded, State::Failed);
    assert_eq!(states, [(done, 1), (failed, 1), (done, 1), (done, 2), (failed, 3)]);
    let panicked = client.task(ids[4]).await.unwrap().record.failure.unwrap();
    assert!(panicked.message.contains("as told"), "{panicked}");
    agent.stop().await;
}
