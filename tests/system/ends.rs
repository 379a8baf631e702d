//! How tasks and agents end: cancelled, expired, drained, interrupted.

use std::time::Duration;

use rhubarb::core::{ids::QueueName, row::State};
use rhubarb_tests::{App, a_clear_moment, enqueue, over_aws, reached, settled, until};
use rustix::process::Signal;
use serde_json::json;

const ENDS: &str = r#"
[queues.work]
lease = "3s"
[queues.message]
lease = "3s"
ack = "message"
[workers.all]
queues = ["work", "message"]
concurrency = 2
grace = "300ms"
"#;

#[tokio::test]
async fn a_queued_task_is_cancelled_and_never_runs() {
    let app = App::new(ENDS);
    let client = app.client().await;
    let ledger = app.path().join("ledger");
    let id = enqueue(&client, "nap", json!({"ms": 1, "ledger": ledger}), "work").await;
    assert_eq!(client.cancel(&[id]).await[0].as_ref().unwrap(), &State::Cancelled);
    let agent = app.agent(&["all"]).await;
    let other = enqueue(&client, "noop", json!({}), "work").await;
    settled(&client, other).await;
    assert_eq!(client.state(id).await.unwrap(), State::Cancelled);
    assert!(!ledger.exists(), "it never began");
    agent.stop().await;
}

#[tokio::test]
async fn a_running_task_is_told_and_one_that_does_not_listen_is_killed() {
    let app = App::new(ENDS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    for (stubborn, queue) in [(false, "work"), (true, "work"), (true, "message")] {
        let id = enqueue(&client, "nap", json!({"ms": 60_000, "stubborn": stubborn}), queue).await;
        reached(&client, id, State::Running).await;
        assert_eq!(client.cancel(&[id]).await[0].as_ref().unwrap(), &State::Running, "it is asked first");
        assert_eq!(settled(&client, id).await.record.state, State::Cancelled);
    }
    // Whoever was killed for it is replaced.
    let id = enqueue(&client, "noop", json!({}), "work").await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn a_task_past_its_time_expires_and_never_runs() {
    let app = App::new(ENDS);
    let client = app.client().await;
    let ledger = app.path().join("ledger");
    let args = serde_json::value::RawValue::from_string(json!({"ms": 1, "ledger": ledger}).to_string()).unwrap();
    let soon = std::time::SystemTime::now() + Duration::from_millis(50);
    let soon = rhubarb::core::time::Timestamp::from_system(soon);
    let id = client.enqueue_named("nap".parse().unwrap(), args).queue("work").expires(soon).await.unwrap().id();
    until(async || {
        (std::time::SystemTime::now() > std::time::UNIX_EPOCH + Duration::from_millis(soon.0 as u64)).then_some(())
    })
    .await;
    a_clear_moment().await;
    let agent = app.agent(&["all"]).await;
    assert_eq!(settled(&client, id).await.record.state, State::Expired);
    assert!(!ledger.exists());
    agent.stop().await;
}

#[tokio::test]
async fn a_drain_lets_short_work_finish_and_interrupts_the_rest_without_spending_an_attempt() {
    let app = App::new(ENDS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let short = enqueue(&client, "nap", json!({"ms": 150}), "work").await;
    let long = enqueue(&client, "nap", json!({"ms": 60_000}), "message").await;
    reached(&client, short, State::Running).await;
    reached(&client, long, State::Running).await;
    let (status, log) = agent.stop().await;
    assert!(status.success(), "{log}");
    assert_eq!(client.state(short).await.unwrap(), State::Succeeded);
    let detail = client.task(long).await.unwrap();
    assert_eq!((detail.record.state, detail.record.attempt), (State::Queued, 0), "{log}");
    assert_eq!(detail.record.interruptions, 1);
    assert!(client.workers().await.unwrap().is_empty(), "it has left");
    // Available at once, not after a lease.
    let next = app.agent(&["all"]).await;
    reached(&client, long, State::Running).await;
    client.cancel(&[long]).await;
    settled(&client, long).await;
    next.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_hands_the_work_back() {
    let app = App::new(&ENDS.replace("300ms", "60s"));
    let client = app.client().await;
    let mut agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "nap", json!({"ms": 60_000, "stubborn": true}), "work").await;
    reached(&client, id, State::Running).await;
    agent.signal(Signal::TERM);
    agent.saw("drains").await;
    agent.signal(Signal::TERM);
    agent.ended().await;
    let detail = client.task(id).await.unwrap();
    assert_eq!((detail.record.state, detail.record.attempt), (State::Queued, 0));
}

#[tokio::test]
async fn a_purge_cancels_what_waits_and_leaves_what_runs() {
    let app = App::new(ENDS);
    let client = app.client().await;
    let agent = app.agent(&["all", "--concurrency", "1"]).await;
    let running = enqueue(&client, "nap", json!({"ms": if over_aws() { 6000 } else { 1500 }}), "work").await;
    reached(&client, running, State::Running).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(enqueue(&client, "noop", json!({}), "work").await);
    }
    a_clear_moment().await;
    let ran = app.run(&["purge", "work", "--yes"]).await;
    let about = if over_aws() { "about " } else { "" };
    assert_eq!(ran.stdout.trim(), format!("purged {about}4 messages from 1 queue"), "{ran:?}");
    for id in waiting {
        assert_eq!(client.state(id).await.unwrap(), State::Cancelled);
    }
    a_clear_moment().await;
    let newer = enqueue(&client, "noop", json!({}), "work").await;
    assert_eq!(settled(&client, newer).await.record.state, State::Succeeded, "what came after the purge runs");
    assert_eq!(settled(&client, running).await.record.state, State::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn a_paused_queue_rests_until_it_is_resumed() {
    let app = App::new(ENDS);
    let client = app.client().await;
    let queue = QueueName::new("work").unwrap();
    client.pause(&queue).await.unwrap();
    let agent = app.agent(&["all"]).await;
    let paused = enqueue(&client, "noop", json!({}), "work").await;
    let open = enqueue(&client, "noop", json!({}), "message").await;
    assert_eq!(settled(&client, open).await.record.state, State::Succeeded);
    assert_eq!(client.state(paused).await.unwrap(), State::Queued);
    client.resume(&queue).await.unwrap();
    assert_eq!(settled(&client, paused).await.record.state, State::Succeeded);
    agent.stop().await;
}

#[tokio::test]
async fn a_buried_task_is_brought_back_with_its_id_and_its_history() {
    let app = App::new(ENDS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "fail", json!({"times": 9, "fatal": true}), "work").await;
    assert_eq!(settled(&client, id).await.record.state, State::Failed);
    let ran = app.run(&["dead", "redrive", &id.to_string()]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let again = until(async || {
        let detail = client.task(id).await.unwrap();
        (detail.record.state == State::Failed && detail.attempts.len() == 2).then_some(detail)
    })
    .await;
    assert_eq!((again.record.attempt, again.record.redriven), (1, 1), "attempts count from 1 again");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_whose_grace_outlasts_the_platforms_patience_does_not_start() {
    let app = App::new(ENDS);
    let refused = app.run(&["agent", "all", "--grace", "25s", "--kill-delay", "30s"]).await;
    assert_eq!(refused.code, Some(64), "{refused:?}");
    assert!(refused.stderr.contains("Lower the grace to 23s"), "{refused:?}");
    app.agent(&["all", "--kill-delay", "30s"]).await.stop().await;
}
