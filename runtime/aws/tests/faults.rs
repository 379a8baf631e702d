//! The backend over an emulator with a proxy between them that lets things go wrong: nothing accepted is lost,
//! and one holder commits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod common;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::{config, connection, connection_to};
use futures::future::join_all;
use rhubarb_aws::{AwsBackend, AwsOptions};
use rhubarb_core::{
    backend::{
        Backend, BlobKey, ClaimPolicy, Finish, Log, Result, Settlement, StoreError, Submission, Submitted, Take,
        TaskDetail, Window, Won,
    },
    envelope::{Envelope, null},
    ids::{QueueName, TaskId, TaskName, WorkerId},
    outcome::Outcome,
    row::{AckMode, Settled, State},
    time::Timestamp,
};
use rhubarb_testkit::{
    emulator::Emulator,
    faultproxy::{FaultProxy, Rule, Wrong},
};
use tokio::sync::watch;

const LEASE: Duration = Duration::from_secs(2);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than anything here takes: a test that hangs says where.
const PATIENCE: Duration = Duration::from_secs(120);

/// A backend through the proxy, and what watches it from the other side.
struct Place {
    faulty: AwsBackend,
    sound: AwsBackend,
    proxy: FaultProxy,
    /// How often producers and workers were told of a failure.
    told: Told,
    _emulator: Emulator,
}

#[derive(Default)]
struct Told {
    producers: watch::Sender<usize>,
    workers: watch::Sender<usize>,
}

async fn place() -> Place {
    let emulator = Emulator::start();
    let config = config("[queues.work]\nfunctions = [\"f\"]\n");
    let create = AwsOptions { create: true, ..AwsOptions::default() };
    let sound = AwsBackend::over(connection(&emulator), &config, create).await.unwrap();
    let proxy = FaultProxy::start(emulator.endpoint()).await;
    let faulty = AwsBackend::over(connection_to(proxy.endpoint()), &config, AwsOptions::default()).await.unwrap();
    Place { faulty, sound, proxy, told: Told::default(), _emulator: emulator }
}

fn queue() -> QueueName {
    QueueName::new("work").unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

fn new_task() -> Submission {
    let envelope = Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), null());
    Submission::new(&envelope, queue(), Window::DEFAULT)
}

fn policy(ack: AckMode) -> ClaimPolicy {
    ClaimPolicy { lease: LEASE, max_attempts: 50, keep: (DAY, DAY), ..ClaimPolicy::new(queue(), ack) }
}

fn done(won: &Won) -> Finish {
    let settlement = Settlement {
        id: won.id,
        fence: won.row.fence,
        outcome: Outcome::Succeeded(None),
        log: Log::default(),
        keep: (DAY, DAY),
    };
    Finish { queue: queue(), settlement, receipt: won.receipt.clone(), hideable: 10 * LEASE }
}

impl Place {
    async fn submit(&self, task: &Submission) -> Result<Submitted> {
        self.faulty.submit(std::slice::from_ref(task), now()).await.remove(0)
    }

    /// Submits as a producer does that relies on the answer.
    async fn submit_until_accepted(&self, task: &Submission) {
        while let Err(error) = self.submit(task).await {
            note(&self.told.producers, &error);
        }
    }

    async fn take(&self, ack: AckMode, wait: Duration) -> Result<Vec<Won>> {
        let (policy, worker) = (policy(ack), WorkerId::new("worker").unwrap());
        Ok(self.faulty.take(Take { policy: &policy, worker: &worker, max: 10, wait }).await?.won)
    }

    async fn take_one(&self, ack: AckMode) -> Won {
        let mut won = self.take(ack, 5 * LEASE).await.unwrap();
        assert_eq!(won.len(), 1);
        won.remove(0)
    }

    async fn finish(&self, won: &Won) -> Result<Settled> {
        self.faulty.finish(&[done(won)]).await.remove(0)
    }

    /// Finishes as a worker does that wants to know.
    async fn finish_until_told(&self, won: &Won) {
        loop {
            match self.finish(won).await {
                // Refused: it took too long, and another was first.
                Ok(_) | Err(StoreError::Refused(_)) => return,
                Err(error) => note(&self.told.workers, &error),
            }
        }
    }

    /// Brings back what fell silent, as often as it is called.
    async fn sweep(&self) {
        let tasks = self.faulty.tasks();
        match tasks.due_leases(100).await {
            Ok(leases) => drop(tasks.reap(&leases).await),
            Err(error) => note(&self.told.workers, &error),
        }
        match tasks.due_rings(100).await {
            Ok(rings) => drop(self.faulty.ring(&rings, now()).await),
            Err(error) => note(&self.told.workers, &error),
        }
    }

    /// Takes and finishes until all of these have settled.
    async fn work_off(&self, ids: &[TaskId], ack: AckMode) {
        while !self.read(ids).await.iter().all(|task| task.as_ref().is_some_and(|t| t.record.state.is_settled())) {
            match self.take(ack, Duration::from_secs(1)).await {
                Ok(won) => drop(join_all(won.iter().map(|won| self.finish_until_told(won))).await),
                Err(error) => note(&self.told.workers, &error),
            }
            self.sweep().await;
        }
    }

    async fn read(&self, ids: &[TaskId]) -> Vec<Option<TaskDetail>> {
        self.sound.tasks().read(ids).await.unwrap()
    }

    /// Each has succeeded once, whatever its other attempts came to.
    async fn assert_each_succeeded_once(&self, ids: &[TaskId]) {
        for task in self.read(ids).await {
            let task = task.unwrap();
            assert_eq!(task.record.state, State::Succeeded);
            let words: Vec<&str> = task.attempts.iter().filter_map(|attempt| attempt.outcome.as_deref()).collect();
            assert_eq!(words.iter().filter(|word| **word == "succeeded").count(), 1, "{words:?}");
            assert_eq!(words.last(), Some(&"succeeded"), "{words:?}");
        }
    }

    /// Whatever messages are left lead to nothing and go.
    async fn assert_nothing_is_left(&self) {
        for _ in 0..20 {
            assert!(self.take(AckMode::Message, LEASE).await.unwrap().is_empty(), "a settled task ran again");
            if self.sound.broker().counts(&queue()).await.unwrap().is_empty() {
                return;
            }
        }
        panic!("messages of settled tasks stay");
    }
}

/// Notes a failure that somebody was told of; it must be one that may pass.
fn note(told: &watch::Sender<usize>, error: &StoreError) {
    assert!(error.is_transient(), "{error:?}");
    told.send_modify(|count| *count += 1);
}

/// Runs a test within its patience.
async fn in_time<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, test).await.unwrap_or_else(|_| panic!("it takes longer than {PATIENCE:?}"))
}

#[tokio::test]
async fn a_lost_answer_of_a_send_leaves_one_task_that_runs_once() {
    in_time(async {
        let place = place().await;
        place.proxy.add(Rule::first(1, "SendMessage", Wrong::DropAnswer));
        let task = new_task();
        assert!(matches!(place.submit(&task).await, Ok(Submitted::New)));
        assert_eq!(place.proxy.count("SendMessage"), 2, "it was sent again");
        place.work_off(&[task.id], AckMode::Message).await;
        place.assert_each_succeeded_once(&[task.id]).await;
        place.assert_nothing_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_submit_that_never_sent_is_mended_by_the_same_call() {
    in_time(async {
        let place = place().await;
        place.proxy.add(Rule::every("SendMessage", Wrong::DropRequest));
        let task = new_task();
        let told = place.submit(&task).await;
        assert!(told.as_ref().is_err_and(StoreError::is_transient), "{told:?}");
        place.proxy.clear();
        assert!(matches!(place.submit(&task).await, Ok(Submitted::Exists(State::Queued))));
        let won = place.take_one(AckMode::Lease).await;
        assert_eq!((won.id, won.row.attempt), (task.id, 1));
        place.finish(&won).await.unwrap();
        place.assert_nothing_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_of_a_claim_is_still_a_claim() {
    in_time(async {
        let place = place().await;
        for wrong in [Wrong::DropAnswer, Wrong::Twice] {
            let task = new_task();
            place.submit(&task).await.unwrap();
            place.proxy.add(Rule::first(1, "UpdateItem", wrong).with_body(&task.id.to_string()));
            let won = place.take_one(AckMode::Lease).await;
            assert_eq!((won.id, won.row.attempt), (task.id, 1), "{wrong:?}");
            place.finish(&won).await.unwrap();
            place.assert_each_succeeded_once(&[task.id]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_of_a_settlement_is_still_settled_once() {
    in_time(async {
        let place = place().await;
        for wrong in [Wrong::DropAnswer, Wrong::Twice] {
            let task = new_task();
            place.submit(&task).await.unwrap();
            let won = place.take_one(AckMode::Message).await;
            place.proxy.add(Rule::first(1, "UpdateItem", wrong).with_body(&task.id.to_string()));
            assert_eq!(place.finish(&won).await.unwrap().state, State::Succeeded, "{wrong:?}");
            place.assert_each_succeeded_once(&[task.id]).await;
            place.assert_nothing_is_left().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_whose_delivery_was_lost_comes_back() {
    in_time(async {
        let place = place().await;
        let task = new_task();
        place.submit(&task).await.unwrap();
        place.proxy.add(Rule::first(1, "ReceiveMessage", Wrong::DropAnswer));
        // The emulator has handed it out and hides it for a lease.
        let mut won = Vec::new();
        while won.is_empty() {
            won = place.take(AckMode::Message, LEASE).await.unwrap();
        }
        assert_eq!((won[0].id, won[0].row.attempt, won[0].receive_count), (task.id, 1, 2));
        place.finish(&won[0]).await.unwrap();
        place.assert_nothing_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_delete_leaves_a_message_that_leads_to_nothing() {
    in_time(async {
        let place = place().await;
        let task = new_task();
        place.submit(&task).await.unwrap();
        let won = place.take_one(AckMode::Message).await;
        place.proxy.add(Rule::every("DeleteMessage", Wrong::DropRequest));
        place.finish(&won).await.unwrap();
        place.proxy.clear();
        place.assert_each_succeeded_once(&[task.id]).await;
        place.assert_nothing_is_left().await;
    })
    .await;
}

/// Twelve tasks through thick and thin, in both modes.
async fn all_succeed_once(rules: impl Fn() -> Vec<Rule>) {
    join_all([AckMode::Message, AckMode::Lease].map(|ack| succeed_once(rules(), ack))).await;
}

async fn succeed_once(rules: Vec<Rule>, ack: AckMode) {
    let place = place().await;
    rules.into_iter().for_each(|rule| place.proxy.add(rule));
    let tasks: Vec<Submission> = (0..12).map(|_| new_task()).collect();
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    let produce = join_all(tasks.iter().map(|task| place.submit_until_accepted(task)));
    in_time(async { tokio::join!(produce, place.work_off(&ids, ack)) }).await;
    place.proxy.clear();
    in_time(place.assert_each_succeeded_once(&ids)).await;
    in_time(place.assert_nothing_is_left()).await;
}

#[tokio::test]
async fn a_throttled_table_slows_down_and_loses_nothing() {
    all_succeed_once(|| vec![Rule::share(40, 7, "DynamoDB", Wrong::THROUGHPUT)]).await;
}

#[tokio::test]
async fn failures_of_the_services_lose_nothing() {
    all_succeed_once(|| {
        vec![Rule::share(20, 1, "AmazonSQS", Wrong::FAILED), Rule::share(20, 2, "DynamoDB", Wrong::UNAVAILABLE)]
    })
    .await;
}

#[tokio::test]
async fn lost_and_doubled_requests_and_answers_lose_nothing() {
    all_succeed_once(|| {
        vec![
            Rule::share(10, 3, "", Wrong::DropRequest),
            Rule::share(10, 4, "", Wrong::DropAnswer),
            Rule::share(10, 5, "", Wrong::Twice),
        ]
    })
    .await;
}

#[tokio::test]
async fn an_outage_in_the_middle_of_all_loses_nothing() {
    join_all([AckMode::Message, AckMode::Lease].map(outlive_an_outage)).await;
}

async fn outlive_an_outage(ack: AckMode) {
    let place = place().await;
    let tasks: Vec<Submission> = (0..12).map(|_| new_task()).collect();
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    let produce = async {
        for task in &tasks {
            place.submit_until_accepted(task).await;
        }
    };
    let outage = async {
        // Some are done, some wait, and some are not there yet.
        place.proxy.wait_for("UpdateItem", 4).await;
        place.proxy.go_down();
        // It lasts until both sides have seen it through all their tries.
        for told in [&place.told.producers, &place.told.workers] {
            told.subscribe().wait_for(|count| *count > 0).await.unwrap();
        }
        place.proxy.come_back();
    };
    in_time(async { tokio::join!(produce, place.work_off(&ids, ack), outage) }).await;
    in_time(place.assert_each_succeeded_once(&ids)).await;
    in_time(place.assert_nothing_is_left()).await;
}

#[tokio::test]
async fn a_service_that_is_down_at_the_start_is_told_and_may_come_later() {
    in_time(async {
        let emulator = Emulator::start();
        let config = config("[queues.work]\nfunctions = [\"f\"]\n");
        let proxy = FaultProxy::start(emulator.endpoint()).await;
        let open = || {
            let options = AwsOptions { create: true, ..AwsOptions::default() };
            AwsBackend::over(connection_to(proxy.endpoint()), &config, options)
        };
        proxy.go_down();
        let told = open().await.unwrap_err();
        assert!(told.is_transient(), "{told:?}");
        proxy.come_back();
        open().await.unwrap().verify().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_busy_s3_is_asked_again_and_a_refusal_says_the_way_out() {
    in_time(async {
        let place = place().await;
        let (blobs, key) = (place.faulty.blobs(), BlobKey::new("a/blob").unwrap());
        place.proxy.add(Rule::first(2, "PUT", Wrong::Answer { status: 503, code: "SlowDown" }));
        blobs.put(&key, Bytes::from_static(b"content")).await.unwrap();
        place.proxy.add(Rule::first(1, "GET", Wrong::DropAnswer));
        assert_eq!(blobs.get(&key).await.unwrap(), "content");
        let refusals = [("AccessDenied", 403, "no permission"), ("ExpiredToken", 400, "have expired")];
        for (code, status, fix) in refusals {
            place.proxy.clear();
            place.proxy.add(Rule::every("GET", Wrong::Answer { status, code }));
            let told = blobs.get(&key).await.unwrap_err();
            assert!(matches!(&told, StoreError::Broken { .. }) && told.to_string().contains(fix), "{told:?}");
        }
        place.proxy.clear();
        place.proxy.add(Rule::every("GET", Wrong::FAILED));
        assert!(blobs.get(&key).await.unwrap_err().is_transient());
    })
    .await;
}
