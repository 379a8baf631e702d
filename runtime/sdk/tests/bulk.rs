//! A bulk enqueue that fails half-way: repeated with the same ids, every task is there once.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use rhubarb::{
    Client, NewTask, TaskId,
    core::{
        backend::{Backend, ClaimPolicy, QueueSpec, Take},
        config::{Config, NoVars, Overrides},
        envelope::null,
        ids::{QueueName, WorkerId},
        row::AckMode,
    },
};
use rhubarb_testkit::{Fault, MemoryBackend, MemoryOptions, Verb};

const TASKS: usize = 4_000;
const CONFIG: &str = "[app]\nname = \"shop\"\n[functions.f]\npackage = \"f\"\n[queues.q]\nmax_attempts = 1\n";

/// How often each of these verbs has come, and from which time on it meets this fault.
struct Plan {
    verb: Verb,
    fault: Fault,
    from: usize,
    to: usize,
    seen: Arc<AtomicUsize>,
}

async fn enqueue_twice(plan: Plan) {
    let seen = Arc::clone(&plan.seen);
    let faults = move |verb| {
        let hit = verb == plan.verb && (plan.from..plan.to).contains(&plan.seen.fetch_add(1, Ordering::SeqCst));
        if hit { plan.fault } else { Fault::None }
    };
    let backend = MemoryBackend::new(MemoryOptions { faults: Some(Arc::new(faults)), ..MemoryOptions::default() });
    let queue = QueueName::new("q").unwrap();
    let spec = QueueSpec { queue: queue.clone(), max_receives: None, dead_letters: None };
    backend.broker().declare(&[spec]).await.unwrap();
    let config = Config::parse(CONFIG, &NoVars, &Overrides::default()).unwrap();
    let client = Client::new(Arc::new(backend.clone()), Arc::new(config));
    let ids: Vec<TaskId> = (0..TASKS).map(|_| TaskId::mint()).collect();
    let enqueue = async || {
        let tasks = stream::iter(ids.clone()).map(|id| NewTask::named("t".parse().unwrap(), null()).queue("q").id(id));
        client.enqueue_all(tasks).collect::<Vec<_>>().await
    };

    let first = enqueue().await;
    let failed = first.iter().filter(|result| result.is_err()).count();
    assert!(
        failed > 0 && failed < TASKS,
        "it fails half-way: {failed} of {TASKS} (calls: {})",
        seen.load(Ordering::SeqCst)
    );
    let second = enqueue().await;
    assert!(second.iter().all(Result::is_ok), "the repetition brings in the rest");
    for (before, after) in first.iter().zip(&second) {
        if before.is_ok() {
            assert!(after.as_ref().is_ok_and(|enqueued| enqueued.existing), "what was there is said to be there");
        }
    }

    let policy = ClaimPolicy {
        max_attempts: 1,
        keep: (Duration::from_secs(60), Duration::from_secs(60)),
        ..ClaimPolicy::new(queue, AckMode::Lease)
    };
    let worker = WorkerId::new("w").unwrap();
    let mut taken = BTreeSet::new();
    loop {
        let take = Take { policy: &policy, worker: &worker, max: 10, wait: Duration::ZERO };
        let found = backend.take(take).await.unwrap();
        if found.won.is_empty() && found.idle == 0 {
            break;
        }
        for won in found.won {
            assert!(taken.insert(won.id), "task {} is claimed once", won.id);
        }
    }
    assert_eq!(taken, ids.into_iter().collect(), "each has a row and a doorbell");
}

/// The store goes away in the middle, for good as far as this call is concerned.
#[tokio::test]
async fn an_enqueue_that_fails_half_way_is_completed_by_the_same_ids() {
    enqueue_twice(Plan { verb: Verb::Submit, fault: Fault::Refuse, from: 2, to: 4, seen: Arc::default() }).await;
}

/// The rows are in and the caller never heard: the doorbells were not sent.
#[tokio::test]
async fn an_enqueue_whose_answers_were_lost_is_completed_by_the_same_ids() {
    enqueue_twice(Plan { verb: Verb::Submit, fault: Fault::LoseAnswer, from: 2, to: 4, seen: Arc::default() }).await;
}
