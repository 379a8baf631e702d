//! Limits over several agents: never more at once, or in a period, than a queue and its keys allow.

use std::path::Path;

use rhubarb::{
    client::Client,
    core::{ids::TaskId, row::State, time::Timestamp},
};
use rhubarb_tests::{App, enqueue, reached, settled, until};
use serde_json::{json, value::RawValue};

const LIMITED: &str = r#"
[queues.work]
lease = "3s"
max_attempts = 10
max_running_per_key = 2
[queues.rated]
rate_limit = "5/4s"
[workers.all]
queues = ["work", "rated"]
concurrency = 5
"#;

async fn nap_of(client: &Client, key: &str, ms: u64, ledger: &Path) -> TaskId {
    let args = RawValue::from_string(json!({"ms": ms, "ledger": ledger}).to_string()).unwrap();
    client.enqueue_named("nap".parse().unwrap(), args).queue("work").concurrency_key(key).await.unwrap().id()
}

/// The most that ran at once by what the functions themselves have noted.
fn most_at_once(ledger: &Path) -> usize {
    let text = std::fs::read_to_string(ledger).unwrap();
    let (mut running, mut most) = (0, 0);
    for line in text.lines() {
        match line.split(' ').next() {
            Some("begin") => running += 1,
            Some("end") => running -= 1,
            other => assert_eq!(other, None, "{line}"),
        }
        most = most.max(running);
    }
    assert_eq!(running, 0, "all have ended");
    most
}

#[tokio::test]
async fn two_agents_run_no_more_of_a_key_at_once_than_its_limit() {
    let app = App::new(LIMITED);
    let client = app.client().await;
    let ledgers = ["tenant-7", "tenant-8"].map(|key| (key, app.path().join(key)));
    let mut tasks = Vec::new();
    for _ in 0..20 {
        for (key, ledger) in &ledgers {
            tasks.push(nap_of(&client, key, 30, ledger).await);
        }
    }
    let one = app.agent(&["all", "--name", "one"]).await;
    let two = app.agent(&["all", "--name", "two"]).await;
    for id in tasks {
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    }
    for (_, ledger) in &ledgers {
        assert!(most_at_once(ledger) <= 2);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_task_without_a_permit_says_what_it_waits_for_and_a_killed_holder_s_permit_comes_back() {
    let app = App::new(LIMITED);
    let client = app.client().await;
    let ledger = app.path().join("ledger");
    let first = app.agent(&["all", "--name", "first"]).await;
    let held = [nap_of(&client, "tenant-7", 2_000, &ledger).await, nap_of(&client, "tenant-7", 2_000, &ledger).await];
    for id in held {
        reached(&client, id, State::Running).await;
    }
    let parked = nap_of(&client, "tenant-7", 1, &ledger).await;
    reached(&client, parked, State::Waiting).await;
    let ran = app.run(&["task", &parked.to_string()]).await;
    assert!(ran.stdout.contains("waiting for a permit: 2 of 2 of key tenant-7 are running"), "{}", ran.stdout);
    first.kill().await;
    let second = app.agent(&["all", "--name", "second"]).await;
    for id in held.into_iter().chain([parked]) {
        assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    }
    second.stop().await;
}

#[tokio::test]
async fn no_more_tasks_start_in_a_period_than_a_queue_s_rate_allows() {
    let app = App::new(LIMITED);
    let client = app.client().await;
    let mut tasks = Vec::new();
    for _ in 0..12 {
        tasks.push(enqueue(&client, "noop", json!({}), "rated").await);
    }
    let one = app.agent(&["all", "--name", "one"]).await;
    let two = app.agent(&["all", "--name", "two"]).await;
    let mut started: Vec<Timestamp> = Vec::new();
    for id in tasks {
        started.push(settled(&client, id).await.record.started.unwrap());
    }
    started.sort_unstable();
    for six in started.windows(6) {
        assert!(six[5].since(six[0]).as_secs_f64() >= 4.0, "{started:?}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_parked_task_can_be_cancelled() {
    let app = App::new("[queues.work]\nmax_running = 1\n[workers.all]\nqueues = [\"work\"]\nconcurrency = 2\n");
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let long = enqueue(&client, "nap", json!({"ms": 60_000}), "work").await;
    reached(&client, long, State::Running).await;
    let parked = enqueue(&client, "noop", json!({}), "work").await;
    reached(&client, parked, State::Waiting).await;
    client.cancel(&[parked]).await;
    assert_eq!(settled(&client, parked).await.record.state, State::Cancelled);
    let next = enqueue(&client, "noop", json!({}), "work").await;
    reached(&client, next, State::Waiting).await;
    client.cancel(&[long]).await;
    assert_eq!(settled(&client, next).await.record.state, State::Succeeded);
    until(async || (client.state(long).await.unwrap() == State::Cancelled).then_some(())).await;
    agent.stop().await;
}
