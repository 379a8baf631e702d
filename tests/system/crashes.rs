//! What is killed comes back: agents and functions, at any point.

use rhubarb::core::{outcome::Failure, row::State};
use rhubarb_tests::{App, enqueue, is_running, reached, settled, until};
use serde_json::json;

const QUICK: &str = r#"
[queues.work]
lease = "{lease}"
max_attempts = 3
backoff = { initial = "10ms", max = "20ms" }
[queues.message]
lease = "{lease}"
ack = "message"
timeout = "1h"
backoff = { initial = "10ms", max = "20ms" }
[workers.all]
queues = ["work", "message"]
concurrency = 2
"#;

#[tokio::test]
async fn a_crashed_function_costs_its_task_one_attempt() {
    let app = App::new(QUICK);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "crash", json!({"times": 1}), "work").await;
    let detail = settled(&client, id).await;
    assert_eq!((detail.record.state, detail.record.attempt), (State::Succeeded, 2));
    let first = &detail.attempts[0];
    assert_eq!(first.outcome.as_deref(), Some("failed"));
    let failure = first.failure.as_ref().unwrap();
    assert_eq!(failure.kind, Failure::CRASHED);
    assert!(failure.message.contains("SIGABRT"), "{}", failure.message);
    agent.stop().await;
}

#[tokio::test]
async fn a_task_that_always_kills_its_function_is_buried_with_the_reason() {
    let app = App::new(QUICK);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    for queue in ["work", "message"] {
        let id = enqueue(&client, "crash", json!({"times": 99}), queue).await;
        let detail = settled(&client, id).await;
        assert_eq!((detail.record.state, detail.record.attempt), (State::Failed, 3));
        assert_eq!(detail.record.failure.unwrap().kind, Failure::CRASHED);
        assert_eq!(detail.attempts.len(), 3);
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_a_killed_agent_held_is_finished_by_the_next_one_in_both_ack_modes() {
    let app = App::new(QUICK);
    let client = app.client().await;
    let first = app.agent(&["all", "--name", "first"]).await;
    let ledger = app.path().join("ledger");
    let nap = json!({"ms": 1500, "ledger": ledger});
    let leased = enqueue(&client, "nap", nap.clone(), "work").await;
    let kept = enqueue(&client, "nap", nap, "message").await;
    reached(&client, leased, State::Running).await;
    reached(&client, kept, State::Running).await;
    let begun =
        until(async || std::fs::read_to_string(&ledger).ok().filter(|text| text.matches("begin").count() == 2)).await;
    first.kill().await;
    // The functions of a killed agent die with it: nobody goes on in secret.
    for line in begun.lines() {
        let pid: u32 = line.rsplit(' ').next().unwrap().parse().unwrap();
        until(async || (!is_running(pid)).then_some(())).await;
    }
    let second = app.agent(&["all", "--name", "second"]).await;
    for id in [leased, kept] {
        let detail = settled(&client, id).await;
        assert_eq!(detail.record.state, State::Succeeded);
        assert_eq!(detail.record.attempt, 2, "the lost attempt counts");
        assert_eq!(detail.record.worker.unwrap().as_str(), "second");
        assert_eq!(detail.attempts[0].outcome.as_deref(), Some("lost"));
    }
    second.stop().await;
}

#[tokio::test]
async fn a_task_that_was_cut_off_resumes_from_its_checkpoint() {
    let app = App::new(QUICK);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "steps", json!({"total": 6, "ms": 1, "crash_at": 4}), "work").await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
    let output: Vec<u64> = client.output(id).await.unwrap();
    assert_eq!(output, [0, 0, 0, 0, 4, 4], "four steps of the first attempt, two of the second");
    let progress = detail.record.progress.unwrap();
    assert_eq!((progress.done, progress.total), (6, 6), "the last progress is always written");
    agent.stop().await;
}

#[tokio::test]
async fn what_a_function_started_dies_with_it() {
    let app = App::new(QUICK);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let ledger = app.path().join("children");
    let id = enqueue(&client, "litter", json!({"ledger": ledger, "die": true}), "work").await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Failed);
    let children = std::fs::read_to_string(&ledger).unwrap();
    assert_eq!(children.lines().count(), 3, "one for each attempt");
    for pid in children.lines() {
        let pid: u32 = pid.parse().unwrap();
        until(async || (!is_running(pid)).then_some(())).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_stopped_for_longer_than_its_lease_commits_nothing_twice() {
    let app = App::new(QUICK);
    let client = app.client().await;
    let frozen = app.agent(&["all", "--name", "frozen"]).await;
    let id = enqueue(&client, "nap", json!({"ms": 2500}), "work").await;
    reached(&client, id, State::Running).await;
    frozen.freeze(&app).await;
    let other = app.agent(&["all", "--name", "other"]).await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Succeeded);
    assert_eq!(detail.record.worker.as_ref().unwrap().as_str(), "other");
    frozen.signal(rustix::process::Signal::CONT);
    frozen.stop().await;
    let after = client.task(id).await.unwrap();
    assert_eq!(after.record.worker.unwrap().as_str(), "other", "the stale holder's settlement is refused");
    let committed = after.attempts.iter().filter(|attempt| attempt.outcome.as_deref() == Some("succeeded")).count();
    assert_eq!(committed, 1);
    other.stop().await;
}

/// A late settlement saves a day of work: the reaper has queued the task again, but nobody claimed it since.
#[tokio::test]
async fn a_settlement_after_the_reaper_and_before_a_new_claim_is_kept() {
    let app = App::new(QUICK);
    let client = app.client().await;
    let frozen = app.agent(&["all", "--name", "frozen", "--concurrency", "1"]).await;
    let ledger = app.path().join("ledger");
    let id = enqueue(&client, "nap", json!({"ms": 1000, "ledger": ledger}), "work").await;
    reached(&client, id, State::Running).await;
    until(async || std::fs::read_to_string(&ledger).ok()).await;
    frozen.freeze(&app).await;
    // It sweeps and serves no queue, so nobody claims what it brings back.
    let sweeper = app.agent(&["--scheduler-only", "--name", "sweeper"]).await;
    reached(&client, id, State::Queued).await;
    frozen.signal(rustix::process::Signal::CONT);
    let detail = settled(&client, id).await;
    assert_eq!((detail.record.state, detail.record.attempt), (State::Succeeded, 1), "the first attempt's work counts");
    let noted = std::fs::read_to_string(&ledger).unwrap();
    assert_eq!(noted.matches("begin").count(), 1, "it ran once: {noted}");
    frozen.stop().await;
    sweeper.stop().await;
}
