//! Random verbs in random order leave the file as it must be: its counts, its sparse indexes, its history.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::time::Duration;

use common::{Store, broken_invariants, finish, policy, queue, spec, store, worker};
use proptest::prelude::*;
use rhubarb_core::{
    backend::{Backend, Filter, IdempotencyKey, Log, Progress, Renewal, Report, Submission, Take, Window, Won},
    envelope::BlobRef,
    ids::TaskId,
    outcome::{Failure, Outcome, Output},
    row::{AckMode, State},
    time::Timestamp,
};

const QUEUES: [&str; 2] = ["one", "two"];

#[derive(Clone, Debug)]
enum Verb {
    Submit { queue: usize, delay: u64, keyed: bool, long: bool },
    Send { queue: usize, readable: bool },
    Take { queue: usize, ack: AckMode, max: usize },
    Finish { which: usize, outcome: u8 },
    Renew { which: usize },
    Report { which: usize },
    Cancel { which: usize },
    Redrive,
    Sweep,
    Purge { queue: usize },
    Forget,
    Advance { seconds: u64 },
}

fn verb() -> impl Strategy<Value = Verb> {
    let ack = prop_oneof![Just(AckMode::Lease), Just(AckMode::Message)];
    prop_oneof![
        6 => (0..2_usize, prop_oneof![Just(0), Just(5), Just(2_000)], any::<bool>(), any::<bool>())
            .prop_map(|(queue, delay, keyed, long)| Verb::Submit { queue, delay, keyed, long }),
        1 => (0..2_usize, any::<bool>()).prop_map(|(queue, readable)| Verb::Send { queue, readable }),
        6 => (0..2_usize, ack, 1..4_usize).prop_map(|(queue, ack, max)| Verb::Take { queue, ack, max }),
        6 => (0..8_usize, 0..8_u8).prop_map(|(which, outcome)| Verb::Finish { which, outcome }),
        1 => (0..8_usize).prop_map(|which| Verb::Renew { which }),
        1 => (0..8_usize).prop_map(|which| Verb::Report { which }),
        1 => (0..8_usize).prop_map(|which| Verb::Cancel { which }),
        1 => Just(Verb::Redrive),
        3 => Just(Verb::Sweep),
        1 => (0..2_usize).prop_map(|queue| Verb::Purge { queue }),
        1 => Just(Verb::Forget),
        3 => prop_oneof![Just(1), Just(31), Just(1_000), Just(10_000)].prop_map(|seconds| Verb::Advance { seconds }),
    ]
}

/// The store under test, and what its callers remember.
struct Run {
    store: Store,
    ids: Vec<TaskId>,
    held: Vec<(usize, Won)>,
}

impl Run {
    async fn play(&mut self, verb: &Verb) {
        let backend = self.store.backend.clone();
        match *verb {
            Verb::Submit { queue, delay, keyed, long } => self.submit(queue, delay, keyed, long).await,
            Verb::Send { queue: name, readable } => {
                let body = if readable { r#"{"task":"task","args":null}"# } else { "{\"not\"" };
                let message = rhubarb_core::backend::OutgoingMessage { body: body.into(), ..Default::default() };
                backend.broker().send(&queue(QUEUES[name]), &[message]).await.remove(0).unwrap();
            }
            Verb::Take { queue: name, ack, max } => {
                let (policy, worker) = (policy(QUEUES[name], ack), worker("w"));
                let take = Take { policy: &policy, worker: &worker, max, wait: Duration::ZERO };
                let won = backend.take(take).await.unwrap().won;
                self.ids.extend(won.iter().map(|won| won.id));
                self.held.extend(won.into_iter().map(|won| (name, won)));
            }
            Verb::Finish { which, outcome } if !self.held.is_empty() => {
                let (name, won) = self.held.remove(which % self.held.len());
                // A settlement may come too late: then it is refused, and nothing else.
                let _ = backend.finish(&[finish(&won, QUEUES[name], outcome_of(outcome))]).await.remove(0);
            }
            Verb::Renew { which } if !self.held.is_empty() => {
                let (_, won) = &self.held[which % self.held.len()];
                backend.tasks().renew(&[Renewal { id: won.id, fence: won.row.fence }]).await.remove(0).unwrap();
            }
            Verb::Report { which } if !self.held.is_empty() => {
                let (_, won) = &self.held[which % self.held.len()];
                let _ = backend.tasks().report(&[report(won)]).await.remove(0);
            }
            Verb::Cancel { which } if !self.ids.is_empty() => {
                let _ = backend.tasks().cancel(&[self.ids[which % self.ids.len()]]).await.remove(0);
            }
            Verb::Redrive => {
                let filter = Filter { state: Some(State::Failed), limit: 3, ..Filter::default() };
                let failed = backend.tasks().list(&filter).await.unwrap().items;
                let ids: Vec<TaskId> = failed.into_iter().map(|record| record.id).collect();
                // A poison message's row cannot be brought back.
                let _ = backend.redrive(&ids).await;
            }
            Verb::Sweep => self.sweep().await,
            Verb::Purge { queue: name } => {
                backend.purge(&queue(QUEUES[name])).await.unwrap();
            }
            Verb::Forget => {
                backend.tasks().forget(5).await.unwrap();
            }
            Verb::Advance { seconds } => self.store.clock.advance(Duration::from_secs(seconds)),
            Verb::Finish { .. } | Verb::Renew { .. } | Verb::Report { .. } | Verb::Cancel { .. } => {}
        }
    }

    async fn submit(&mut self, name: usize, delay: u64, keyed: bool, long: bool) {
        let args = if long { format!("\"{}\"", "x".repeat(3_000)) } else { "null".into() };
        let plain = spec(QUEUES[name], &args);
        let now = rhubarb_local::Clock::read(&*self.store.clock).now.epoch;
        let submission = Submission {
            not_before: (delay > 0).then(|| now.after(Duration::from_secs(delay))),
            key: keyed.then(|| IdempotencyKey {
                key: "key".into(),
                args_sha256: [0; 32],
                window: if delay == 0 { Window::UntilSettled } else { Window::For(Duration::from_secs(60)) },
            }),
            ..plain
        };
        self.store.backend.submit(std::slice::from_ref(&submission), now).await.remove(0).unwrap();
        self.ids.push(submission.id);
    }

    async fn sweep(&self) {
        let tasks = self.store.backend.tasks();
        for answer in tasks.reap(&tasks.due_leases(10).await.unwrap()).await {
            answer.unwrap();
        }
        let rings = tasks.due_rings(10).await.unwrap();
        for answer in self.store.backend.ring(&rings, Timestamp(0)).await {
            answer.unwrap();
        }
        for name in QUEUES {
            tasks.doorbells_lost(&queue(name), 10).await.unwrap();
        }
    }

    /// Runs whatever is left until nothing is: no task is stuck.
    async fn drain(&mut self) {
        self.held.clear();
        for _ in 0..60 {
            self.store.clock.advance(Duration::from_secs(2_000));
            self.sweep().await;
            for (index, name) in QUEUES.iter().enumerate() {
                self.play(&Verb::Take { queue: index, ack: AckMode::Lease, max: 100 }).await;
                for (_, won) in self.held.drain(..) {
                    let done = finish(&won, name, Outcome::Succeeded(None));
                    self.store.backend.finish(&[done]).await.remove(0).unwrap();
                }
            }
            let counts = self.store.backend.tasks().count().await.unwrap();
            if counts.iter().all(|count| count.state.is_settled()) {
                return;
            }
        }
        panic!("tasks are stuck: {:?}", self.store.backend.tasks().count().await);
    }
}

fn outcome_of(number: u8) -> Outcome {
    let failure = Failure::new("oops", "no luck");
    let json = |text: String| Output::Inline(serde_json::value::RawValue::from_string(text).unwrap());
    match number {
        0 => Outcome::Succeeded(None),
        1 => Outcome::Succeeded(Some(json("[1]".into()))),
        2 => Outcome::Succeeded(Some(json(format!("\"{}\"", "y".repeat(5_000))))),
        3 => Outcome::Failed { failure, retry_in: None },
        4 => Outcome::Failed { failure, retry_in: Some(Duration::from_secs(3)) },
        5 => Outcome::Failed { failure, retry_in: Some(Duration::from_secs(5_000)) },
        6 => Outcome::Interrupted { alone: true, why: "test".into() },
        _ => Outcome::Snoozed(Duration::from_secs(7)),
    }
}

fn report(won: &Won) -> Report {
    Report {
        id: won.id,
        fence: won.row.fence,
        progress: Some(Progress { done: 1, total: 2, message: None }),
        checkpoint: Some(BlobRef {
            key: format!("tasks/{}/{}", won.id, won.row.fence),
            sha256: "0".repeat(64),
            size: 1,
        }),
        log: Some(Log { text: "line\n".into(), dropped: 0, ..Log::default() }),
    }
}

async fn play(verbs: &[Verb]) -> Vec<String> {
    let mut run = Run { store: store(), ids: Vec::new(), held: Vec::new() };
    let specs = QUEUES.map(|name| rhubarb_core::backend::QueueSpec {
        queue: queue(name),
        max_receives: None,
        dead_letters: None,
    });
    run.store.backend.broker().declare(&specs).await.unwrap();
    for verb in verbs {
        run.play(verb).await;
        let broken = broken_invariants(run.store.folder.path());
        if !broken.is_empty() {
            return broken;
        }
    }
    run.drain().await;
    run.store.clock.advance(Duration::from_secs(31 * 24 * 3_600));
    while run.store.backend.tasks().forget(7).await.unwrap().0 > 0 {}
    let mut broken = broken_invariants(run.store.folder.path());
    let left = run.store.backend.tasks().count().await.unwrap();
    if !left.is_empty() {
        broken.push(format!("never forgotten: {left:?}"));
    }
    broken
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_verbs_keep_the_file_whole_and_leave_no_task_stuck(verbs in prop::collection::vec(verb(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert_eq!(runtime.block_on(play(&verbs)), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_holder_that_comes_back_after_its_task_was_rung_for_leaves_no_doorbell_behind() {
    let submit = Verb::Submit { queue: 0, delay: 0, keyed: false, long: false };
    let take = Verb::Take { queue: 0, ack: AckMode::Lease, max: 1 };
    let falls_silent = [submit, take, Verb::Advance { seconds: 31 }, Verb::Sweep];
    let comes_back = [Verb::Renew { which: 0 }, Verb::Finish { which: 0, outcome: 0 }];
    assert_eq!(play(&[&falls_silent[..], &comes_back].concat()).await, Vec::<String>::new());
}
