//! Time limits, memory limits, retries and delays.

use std::time::{Duration, SystemTime};

use rhubarb::core::{outcome::Failure, row::State, time::Timestamp};
use rhubarb_tests::{App, enqueue, reached, settled};
use serde_json::json;

const LIMITS: &str = r#"
[queues.short]
timeout = "400ms"
soft_timeout = "200ms"
max_attempts = 2
backoff = { initial = "1ms", max = "2ms" }
[queues.work]
[workers.all]
queues = ["short", "work"]
concurrency = 2
max_memory_per_child = "100MiB"
[workers.fresh]
queues = ["work"]
concurrency = 1
max_tasks_per_child = 2
"#;

#[tokio::test]
async fn the_soft_limit_tells_the_function_and_the_hard_limit_kills_it() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let ledger = app.path().join("ledger");
    let polite = enqueue(&client, "nap", json!({"ms": 60_000, "ledger": ledger}), "short").await;
    let stubborn = enqueue(&client, "nap", json!({"ms": 60_000, "stubborn": true}), "short").await;
    for id in [polite, stubborn] {
        let detail = settled(&client, id).await;
        assert_eq!((detail.record.state, detail.record.attempt), (State::Failed, 2));
        assert_eq!(detail.record.failure.unwrap().kind, Failure::TIMEOUT);
    }
    let noted = std::fs::read_to_string(&ledger).unwrap();
    assert_eq!(noted.matches("Timeout").count(), 2, "told in both attempts: {noted}");
    agent.stop().await;
}

#[tokio::test]
async fn a_task_may_lower_its_time_limit() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let args = serde_json::value::RawValue::from_string(json!({"ms": 60_000, "stubborn": true}).to_string()).unwrap();
    let task = client.enqueue_named("nap".parse().unwrap(), args).queue("work");
    let id = task.timeout(Duration::from_millis(200)).max_attempts(1).await.unwrap().id();
    assert_eq!(settled(&client, id).await.record.failure.unwrap().kind, Failure::TIMEOUT);
    agent.stop().await;
}

#[tokio::test]
async fn a_snooze_spends_no_attempt() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "snooze", json!({"times": 5, "ms": 1}), "work").await;
    let detail = settled(&client, id).await;
    assert_eq!((detail.record.state, detail.record.attempt, detail.record.snoozes), (State::Succeeded, 1, 5));
    agent.stop().await;
}

#[tokio::test]
async fn a_retry_comes_after_the_delay_that_the_function_asked_for() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "fail", json!({"times": 1, "after_ms": 300}), "work").await;
    let detail = settled(&client, id).await;
    assert_eq!((detail.record.state, detail.record.attempt), (State::Succeeded, 2));
    let (first, second) = (&detail.attempts[0], &detail.attempts[1]);
    let pause = second.started.since(first.ended.unwrap());
    assert!(pause >= Duration::from_millis(300), "{pause:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_delayed_task_waits_and_then_runs() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let args = serde_json::value::RawValue::from_string("{}".into()).unwrap();
    let delay = Duration::from_secs(2);
    let before = Timestamp::from_system(SystemTime::now());
    let id = client.enqueue_named("noop".parse().unwrap(), args).queue("work").delay(delay).await.unwrap().id();
    let seen = client.task(id).await.unwrap().record;
    assert_eq!(seen.state, State::Scheduled);
    let due = seen.not_before.unwrap();
    assert!(due >= before.after(delay), "{due} for {before}");
    let started = settled(&client, id).await.record.started.unwrap();
    assert!(started >= due, "{started} for {due}");
    agent.stop().await;
}

#[tokio::test]
async fn a_process_is_replaced_after_its_tasks_or_when_it_holds_too_much_memory() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let fresh = app.agent(&["fresh"]).await;
    let mut pids: Vec<u32> = Vec::new();
    for _ in 0..4 {
        let id = enqueue(&client, "grow", json!({"mib": 1}), "work").await;
        settled(&client, id).await;
        pids.push(client.output(id).await.unwrap());
    }
    assert_eq!((pids[0], pids[2]), (pids[1], pids[3]), "two tasks each");
    assert_ne!(pids[1], pids[2]);
    fresh.stop().await;

    let agent = app.agent(&["all", "--concurrency", "1"]).await;
    let mut pids: Vec<u32> = Vec::new();
    for mib in [1, 200, 1] {
        let id = enqueue(&client, "grow", json!({"mib": mib}), "work").await;
        settled(&client, id).await;
        pids.push(client.output(id).await.unwrap());
    }
    assert_eq!(pids[0], pids[1]);
    assert_ne!(pids[1], pids[2], "over its memory, it is not used again");
    agent.stop().await;
}

#[tokio::test]
async fn what_a_function_prints_is_kept_with_its_attempt_and_capped() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "say", json!({"text": "a line of output", "nap_ms": 3000}), "work").await;
    reached(&client, id, State::Running).await;
    let running = rhubarb_tests::until(async || {
        let log = client.logs(id).await.unwrap().pop()?.log.text;
        (!log.is_empty()).then_some(log)
    });
    assert!(running.await.contains("a line of output"), "readable while it runs");
    let detail = settled(&client, id).await;
    let log = &detail.attempts[0].log;
    assert!(log.text.contains("a line of output") && log.text.contains("to stderr"), "{log:?}");
    let id = enqueue(&client, "say", json!({"text": "x".repeat(1000), "times": 20_000}), "work").await;
    let detail = settled(&client, id).await;
    let log = &detail.attempts[0].log;
    assert_eq!(detail.record.state, State::Succeeded);
    assert!(log.dropped > 10_000_000 && log.text.len() < 1_000_000, "{} kept, {} dropped", log.text.len(), log.dropped);
    agent.stop().await;
}

#[tokio::test]
async fn a_large_output_travels_as_a_blob() {
    let app = App::new(LIMITS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "big", json!({"bytes": 3_000_000}), "work").await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    let output: String = client.output(id).await.unwrap();
    assert_eq!(output.len(), 3_000_000);
    // The same for arguments.
    let id = enqueue(&client, "echo", json!({"value": "y".repeat(1_000_000)}), "work").await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    let output: String = client.output(id).await.unwrap();
    assert_eq!(output.len(), 1_000_000);
    agent.stop().await;
}
