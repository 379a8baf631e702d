//! Several agents, several queues, several processes on one store.

use std::time::Instant;

use rhubarb::core::{backend::Filter, row::State};
use rhubarb_tests::{App, a_clear_moment, enqueue, over_aws, reached, settled, until};
use serde_json::json;

const SHARED: &str = r#"
[queues.heavy]
[queues.light]
[workers.heavy]
queues = ["heavy"]
concurrency = 1
[workers.light]
queues = ["light"]
concurrency = 1
"#;

#[tokio::test]
async fn two_agents_share_a_queue() {
    let app = App::new(SHARED);
    let client = app.client().await;
    let one = app.agent(&["light", "--name", "one"]).await;
    let two = app.agent(&["light", "--name", "two"]).await;
    let first = enqueue(&client, "nap", json!({"ms": 60_000}), "light").await;
    let holder = reached(&client, first, State::Running).await.record.worker.unwrap();
    let second = enqueue(&client, "noop", json!({}), "light").await;
    let other = settled(&client, second).await.record.worker.unwrap();
    assert_ne!(holder, other, "the one with room takes it");
    client.cancel(&[first]).await;
    settled(&client, first).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_name_that_a_live_worker_holds_is_refused() {
    let app = App::new(SHARED);
    let agent = app.agent(&["light", "--name", "only"]).await;
    let ran = app.run(&["agent", "light", "--name", "only"]).await;
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("only") && ran.stderr.contains("--name"), "{}", ran.stderr);
    agent.kill().await;
    // A dead one's name is free: at once where its process can be seen, over AWS when it was silent for long.
    let client = app.client().await;
    until(async || client.workers().await.unwrap().iter().all(|worker| !worker.alive).then_some(())).await;
    a_clear_moment().await;
    let agent = app.agent(&["light", "--name", "only"]).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_long_task_never_delays_a_short_one() {
    let app = App::new(SHARED);
    let client = app.client().await;
    let heavy = app.agent(&["heavy"]).await;
    let light = app.agent(&["light"]).await;
    let long = enqueue(&client, "nap", json!({"ms": 600_000}), "heavy").await;
    reached(&client, long, State::Running).await;
    for _ in 0..20 {
        let id = enqueue(&client, "noop", json!({}), "light").await;
        settled(&client, id).await;
        assert_eq!(client.state(long).await.unwrap(), State::Running, "it need not end first");
    }
    client.cancel(&[long]).await;
    settled(&client, long).await;
    heavy.stop().await;
    light.stop().await;
}

#[tokio::test]
async fn a_task_on_a_queue_that_nobody_serves_says_so_and_starts_when_somebody_does() {
    let app = App::new(SHARED);
    let client = app.client().await;
    let id = enqueue(&client, "noop", json!({}), "light").await;
    let why = client.why_waiting(id).await.unwrap().unwrap().to_string();
    assert!(why.contains("no worker serves queue light"), "{why}");
    let ran = app.run(&["queues"]).await;
    assert!(ran.stdout.contains("light") && ran.stdout.contains("no live worker"), "{}", ran.stdout);
    let agent = app.agent(&["light"]).await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    agent.stop().await;
}

/// Producers must not feel the agents' writes: never "database is locked", and quick.
#[tokio::test]
async fn a_producer_enqueues_and_lists_while_agents_write() {
    let app = App::new(SHARED);
    let client = app.client().await;
    let heavy = app.agent(&["heavy"]).await;
    let light = app.agent(&["light"]).await;
    let long = enqueue(&client, "steps", json!({"total": 100_000, "ms": 1}), "heavy").await;
    reached(&client, long, State::Running).await;
    // An emulator answers one request after the other, and says nothing about how quick AWS is.
    let tasks = if over_aws() { 50 } else { 300 };
    let mut times = Vec::new();
    for _ in 0..tasks {
        let begun = Instant::now();
        enqueue(&client, "noop", json!({}), "light").await;
        let page = client.tasks(&Filter { limit: 50, ..Filter::default() }).await.unwrap();
        assert!(!page.items.is_empty());
        times.push(begun.elapsed());
    }
    times.sort();
    println!(
        "enqueue and list beside a running training: p50 {:?}, p99 {:?}",
        times[tasks / 2],
        times[tasks * 99 / 100]
    );
    client.cancel(&[long]).await;
    settled(&client, long).await;
    until(async || {
        let counts = client.backend().tasks().count().await.unwrap();
        let open: u64 = counts.iter().filter(|count| !count.state.is_settled()).map(|count| count.count).sum();
        (open == 0).then_some(())
    })
    .await;
    heavy.stop().await;
    light.stop().await;
}

#[tokio::test]
async fn a_function_enqueues_tasks_of_its_own() {
    let app = App::new("[queues.default]\n[workers.all]\nqueues = [\"default\"]\n");
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "family", json!({"children": 3}), "default").await;
    settled(&client, id).await;
    let children: Vec<String> = client.output(id).await.unwrap();
    assert_eq!(children.len(), 3);
    for child in children {
        let detail = settled(&client, child.parse().unwrap()).await;
        assert_eq!(detail.record.state, State::Succeeded);
        assert_eq!(detail.spec.unwrap().parent, Some(id));
    }
    agent.stop().await;
}
