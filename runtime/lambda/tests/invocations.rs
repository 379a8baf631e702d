//! What an invocation does with its batch: in this process, with the function as a real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use common::{Sandbox, envelope, queue};
use rhubarb_core::{
    backend::{Backend as _, Broker as _, ClaimPolicy, Take, Tasks as _},
    row::{AckMode, State},
};
use rhubarb_lambda::feeder::{Answer, InvocationError};
use rhubarb_testkit::{Fault, Verb};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_batch_that_succeeds_is_settled_and_answered_without_failures() {
    let sandbox = Sandbox::new("batch = 10").await;
    let ids = [sandbox.enqueue(json!({})).await, sandbox.enqueue(json!({})).await];
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    for id in ids {
        assert_eq!(sandbox.row(id).state, State::Succeeded);
        assert_eq!(sandbox.backend.doorbells(&queue(), id), 0);
    }
}

#[tokio::test]
async fn a_failed_task_stays_hidden_for_its_own_delay() {
    let sandbox = Sandbox::new("").await;
    let id = sandbox.enqueue(json!({ "fail_after_ms": 60_000 })).await;
    assert_eq!(sandbox.invoke().await, [0]);
    assert_eq!((sandbox.row(id).state, sandbox.row(id).attempt), (State::Retrying, 1));
    sandbox.pass(59 * SECOND);
    assert!(sandbox.receive().await.is_empty());
    sandbox.pass(SECOND);
    assert_eq!(sandbox.invoke().await, [0]);
    assert_eq!(sandbox.row(id).attempt, 2);
}

#[tokio::test]
async fn only_the_messages_that_must_come_back_are_named() {
    let sandbox = Sandbox::new("batch = 10").await;
    let good = sandbox.enqueue(json!({})).await;
    let bad = sandbox.enqueue(json!({ "fail_after_ms": 1000 })).await;
    let fine = sandbox.enqueue(json!({})).await;
    assert_eq!(sandbox.invoke().await, [1]);
    assert_eq!(
        [good, bad, fine].map(|id| sandbox.row(id).state),
        [State::Succeeded, State::Retrying, State::Succeeded]
    );
}

#[tokio::test]
async fn a_task_without_attempts_left_is_failed_and_its_message_is_done() {
    let sandbox = Sandbox::new("max_attempts = 1").await;
    let id = sandbox.enqueue(json!({ "fail_after_ms": 1000 })).await;
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!(sandbox.row(id).state, State::Failed);
}

#[tokio::test]
async fn a_function_that_dies_is_settled_at_once() {
    let sandbox = Sandbox::new("").await;
    let id = sandbox.enqueue(json!({ "say": "last words", "abort": true })).await;
    let began = Instant::now();
    assert_eq!(sandbox.invoke().await, [0]);
    assert!(began.elapsed() < 5 * SECOND, "not after a visibility timeout, nor after the deadline");
    let attempt = sandbox.detail(id).await.attempts.pop().unwrap();
    assert_eq!(attempt.failure.unwrap().kind, "crashed");
    assert_eq!(attempt.log.text, "last words\n");
    assert_eq!(sandbox.row(id).state, State::Retrying);
}

#[tokio::test]
async fn when_a_batch_dies_each_goes_on_alone_and_only_the_killer_is_blamed() {
    let sandbox = Sandbox::new("batch = 10").await;
    let killer = sandbox.enqueue(json!({ "abort": true })).await;
    let victim = sandbox.enqueue(json!({})).await;
    assert_eq!(sandbox.invoke().await, [0, 1]);
    assert_eq!([killer, victim].map(|id| (sandbox.row(id).attempt, sandbox.row(id).alone)), [(0, true), (0, true)]);
    assert_eq!(sandbox.invoke().await, [0]);
    assert_eq!([killer, victim].map(|id| sandbox.row(id).state), [State::Retrying, State::Succeeded]);
}

#[tokio::test]
async fn what_the_deadline_cuts_off_goes_back_and_spends_no_attempt() {
    let sandbox = Sandbox::new("").await;
    for stubborn in [false, true] {
        let id = sandbox.enqueue(json!({ "nap_ms": 60_000, "stubborn": stubborn })).await;
        let began = Instant::now();
        assert_eq!(sandbox.invoke_within(5 * SECOND, &[]).await, [0]);
        assert!(began.elapsed() < 4 * SECOND, "time to settle is kept back");
        let row = sandbox.row(id);
        assert_eq!((row.state, row.attempt, row.interruptions), (State::Queued, 0, 1));
        assert_eq!(sandbox.receive().await.len(), 1, "it can be delivered at once");
    }
}

#[tokio::test]
async fn a_batch_that_the_deadline_cuts_off_goes_on_one_by_one() {
    let sandbox = Sandbox::new("batch = 10").await;
    let nap = json!({ "nap_ms": 60_000, "stubborn": true });
    let ids = [sandbox.enqueue(nap.clone()).await, sandbox.enqueue(nap).await];
    assert_eq!(sandbox.invoke_within(5 * SECOND, &[]).await, [0, 1]);
    assert_eq!(ids.map(|id| (sandbox.row(id).attempt, sandbox.row(id).alone)), [(0, true), (0, true)]);
}

#[tokio::test]
async fn a_task_over_its_own_limit_is_timed_out_before_the_deadline() {
    let sandbox = Sandbox::new("timeout = \"1s\"").await;
    let id = sandbox.enqueue(json!({ "nap_ms": 60_000, "stubborn": true })).await;
    assert_eq!(sandbox.invoke_within(11 * SECOND, &[]).await, [0]);
    assert_eq!(sandbox.detail(id).await.attempts[0].failure.clone().unwrap().kind, "timeout");
}

#[tokio::test]
async fn an_invocation_without_time_begins_nothing() {
    let sandbox = Sandbox::new("").await;
    let id = sandbox.enqueue(json!({})).await;
    assert_eq!(sandbox.invoke_within(SECOND, &[]).await, [0]);
    assert_eq!((sandbox.row(id).state, sandbox.row(id).interruptions), (State::Queued, 0));
    assert_eq!(sandbox.receive().await.len(), 1);
}

#[tokio::test]
async fn behind_a_failure_the_rest_of_its_group_is_returned_untouched() {
    let sandbox = Sandbox::new("batch = 10\nfifo = true").await;
    let ledger = sandbox.dir.path().join("ledger");
    let note = |line: &str| json!({ "note": [ledger, line] });
    let mut failing = note("a1");
    failing["fail_after_ms"] = 60_000.into();
    for script in [failing, note("b1"), note("a2"), note("b2"), note("a3")] {
        sandbox.enqueue(script).await;
    }
    assert_eq!(sandbox.invoke_within(common::LONG, &["a", "b", "a", "b", "a"]).await, [0, 2, 4]);
    let ran = |ledger: &std::path::Path| -> Vec<String> {
        std::fs::read_to_string(ledger).unwrap().lines().map(str::to_owned).collect()
    };
    assert_eq!(ran(&ledger), ["a1", "b1", "b2"]);
    sandbox.pass(59 * SECOND);
    assert!(sandbox.receive().await.is_empty(), "they come back together with the first");
    sandbox.pass(SECOND);
    let back: Vec<String> = sandbox.receive().await.into_iter().map(|delivery| delivery.body).collect();
    assert_eq!(back.len(), 3);
    assert!(back.iter().zip(["\"a1\"", "\"a2\"", "\"a3\""]).all(|(body, note)| body.contains(note)), "{back:?}");
}

#[tokio::test]
async fn a_body_that_nobody_can_read_is_buried_and_done() {
    let sandbox = Sandbox::new("batch = 10").await;
    sandbox.send("not JSON").await;
    let good = sandbox.enqueue(json!({})).await;
    let poison = sandbox.receive().await.remove(0).message;
    sandbox.pass(common::VISIBILITY);
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    let buried = sandbox.row(rhubarb_core::ids::TaskId::of_message(&poison));
    assert_eq!((buried.state, sandbox.row(good).state), (State::Failed, State::Succeeded));
}

#[tokio::test]
async fn a_task_that_another_holds_comes_back_after_that_lease() {
    let sandbox = Sandbox::new("lease = \"30s\"").await;
    let id = sandbox.enqueue(json!({})).await;
    take_elsewhere(&sandbox).await;
    sandbox.pass(5 * SECOND);
    sandbox.send(&envelope_of(&sandbox, id).await).await;
    assert_eq!(sandbox.invoke().await, [0]);
    assert_eq!(sandbox.row(id).state, State::Running);
    sandbox.pass(25 * SECOND);
    assert!(sandbox.receive().await.is_empty());
    sandbox.pass(SECOND);
    assert!(!sandbox.receive().await.is_empty());
}

/// Claims as another worker would, whose message stays hidden for long.
async fn take_elsewhere(sandbox: &Sandbox) {
    let policy =
        ClaimPolicy { lease: 30 * SECOND, keep: (SECOND, SECOND), ..ClaimPolicy::new(queue(), AckMode::Message) };
    let worker = "elsewhere".parse().unwrap();
    let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::ZERO };
    let won = sandbox.backend.take(take).await.unwrap().won;
    let receipt = won[0].receipt.clone().unwrap();
    sandbox.backend.extend(&queue(), &[(receipt, 600 * SECOND)]).await;
}

async fn envelope_of(sandbox: &Sandbox, id: rhubarb_core::ids::TaskId) -> String {
    sandbox.detail(id).await.spec.unwrap().encode()
}

#[tokio::test]
async fn a_task_that_is_early_comes_back_when_it_is_due() {
    let sandbox = Sandbox::new("").await;
    let mut early = envelope(&json!({}));
    early.not_before = Some(sandbox.backend.now().epoch.after(90 * SECOND));
    sandbox.send(&early.encode()).await;
    assert_eq!(sandbox.invoke().await, [0]);
    assert_eq!(sandbox.row(early.id).state, State::Scheduled);
    sandbox.pass(89 * SECOND);
    assert!(sandbox.receive().await.is_empty());
    sandbox.pass(SECOND);
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!(sandbox.row(early.id).state, State::Succeeded);
}

#[tokio::test]
async fn a_settled_task_is_not_run_again() {
    let sandbox = Sandbox::new("").await;
    let ledger = sandbox.dir.path().join("ledger");
    let id = sandbox.enqueue(json!({ "note": [ledger, "ran"] })).await;
    sandbox.invoke().await;
    sandbox.send(&envelope_of(&sandbox, id).await).await;
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!(std::fs::read_to_string(ledger).unwrap(), "ran\n");
}

#[tokio::test]
async fn the_next_invocation_finds_the_same_process() {
    let sandbox = Sandbox::new("").await;
    let mut processes = Vec::new();
    for _ in 0..2 {
        let id = sandbox.enqueue(json!({})).await;
        sandbox.invoke().await;
        processes.push(sandbox.output(id).await["process"].clone());
    }
    assert!(processes[0].is_u64() && processes[0] == processes[1], "{processes:?}");
}

#[tokio::test]
async fn a_function_has_lambdas_environment_and_not_the_hosts_settings() {
    let sandbox = Sandbox::new("").await;
    let id = sandbox.enqueue(json!({})).await;
    sandbox.invoke().await;
    let variables = sandbox.output(id).await["variables"].to_string();
    assert!(variables.contains("MODEL_STORE") && variables.contains("AWS_LAMBDA_LOG_STREAM_NAME"), "{variables}");
    assert!(!variables.contains("RHUBARB_"), "{variables}");
}

#[tokio::test]
async fn while_the_store_is_out_of_reach_messages_go_back_and_nothing_is_lost() {
    let down = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&down);
    let refuse = move |verb| match verb {
        Verb::Claim if switch.load(Relaxed) => Fault::Refuse,
        _ => Fault::None,
    };
    let sandbox = Sandbox::with("lease = \"30s\"", Some(Arc::new(refuse))).await;
    let id = sandbox.enqueue(json!({})).await;
    down.store(true, Relaxed);
    assert_eq!(sandbox.invoke().await, [0]);
    down.store(false, Relaxed);
    sandbox.pass(29 * SECOND);
    assert!(sandbox.receive().await.is_empty());
    sandbox.pass(SECOND);
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!(sandbox.row(id).state, State::Succeeded);
}

#[tokio::test]
async fn a_store_that_never_answers_does_not_keep_an_invocation_beyond_its_deadline() {
    for silent in [Verb::Queues, Verb::Claim, Verb::Settle] {
        let down = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&down);
        let hang = move |verb| if verb == silent && switch.load(Relaxed) { Fault::CrashBefore } else { Fault::None };
        let sandbox = Sandbox::with("", Some(Arc::new(hang))).await;
        sandbox.enqueue(json!({})).await;
        down.store(true, Relaxed);
        let began = Instant::now();
        assert_eq!(sandbox.invoke_within(5 * SECOND, &[]).await, [0], "{silent:?}");
        assert!(began.elapsed() < 5 * SECOND, "{silent:?}");
    }
}

#[tokio::test]
async fn the_messages_of_a_paused_queue_go_back_unread() {
    let sandbox = Sandbox::new("").await;
    let id = sandbox.enqueue(json!({})).await;
    sandbox.backend.pause(&queue(), true).await.unwrap();
    assert_eq!(sandbox.invoke().await, [0]);
    assert_eq!(sandbox.row(id).fence.0, 0, "nobody has claimed it");
    sandbox.backend.pause(&queue(), false).await.unwrap();
    sandbox.pass(300 * SECOND);
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!(sandbox.row(id).state, State::Succeeded);
}

#[tokio::test]
async fn what_a_purge_took_is_cancelled_and_not_run() {
    let sandbox = Sandbox::new("").await;
    let id = sandbox.enqueue(json!({})).await;
    sandbox.backend.mark_purged(&queue()).await.unwrap();
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!(sandbox.row(id).state, State::Cancelled);
}

#[tokio::test]
async fn a_cancelled_task_is_done_without_running_however_often_it_is_delivered() {
    let sandbox = Sandbox::new("").await;
    let ledger = sandbox.dir.path().join("ledger");
    let id = sandbox.enqueue(json!({ "note": [ledger, "ran"] })).await;
    sandbox.backend.cancel(&[id]).await.remove(0).unwrap();
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    sandbox.send(&envelope_of(&sandbox, id).await).await;
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!((sandbox.row(id).state, sandbox.row(id).fence.0), (State::Cancelled, 0));
    assert!(!ledger.exists());
}

#[tokio::test]
async fn a_task_past_its_time_is_expired_and_done_without_running() {
    let sandbox = Sandbox::new("").await;
    let ledger = sandbox.dir.path().join("ledger");
    let mut late = envelope(&json!({ "note": [ledger, "ran"] }));
    late.expires = Some(sandbox.backend.now().epoch.after(60 * SECOND));
    let id = sandbox.submit(&late).await;
    sandbox.pass(60 * SECOND);
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    sandbox.send(&late.encode()).await;
    assert_eq!(sandbox.invoke().await, [0_usize; 0]);
    assert_eq!((sandbox.row(id).state, sandbox.row(id).attempt), (State::Expired, 0));
    assert!(!ledger.exists());
}

#[tokio::test]
async fn an_order_to_sweep_rings_what_is_due() {
    let sandbox = Sandbox::new("").await;
    let mut later = envelope(&json!({}));
    later.not_before = Some(sandbox.backend.now().epoch.after(3600 * SECOND));
    sandbox.submit(&later).await;
    assert!(sandbox.receive().await.is_empty());
    sandbox.pass(3600 * SECOND);
    let answer = sandbox.feeder.invoke(json!({ "rhubarb": "sweep" }), SystemTime::now() + common::LONG).await;
    let Ok(Answer::Swept(swept)) = answer else { panic!("an answer to a sweep: {answer:?}") };
    assert_eq!(swept.rung, 1);
}

#[tokio::test]
async fn an_event_of_another_queue_is_refused_and_left_alone() {
    let sandbox = Sandbox::new("").await;
    let id = sandbox.enqueue(json!({})).await;
    let event = common::event(&sandbox.receive().await, &[], "tests-dev-other");
    let refused = sandbox.feeder.invoke(event, SystemTime::now() + common::LONG).await;
    assert!(matches!(refused, Err(InvocationError::Event(_))), "{refused:?}");
    assert_eq!(sandbox.row(id).state, State::Queued);
}
