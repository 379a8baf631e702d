//! What a backend owes a queue with limits: permits that are never too many and never lost.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use rhubarb_core::{
    backend::{
        Backend, ClaimPolicy, Finish, Log, QueueSpec, Reach, Renewal, Settlement, Submission, Take, Window, Won,
    },
    ids::{QueueName, TaskId, WorkerId},
    outcome::Outcome,
    permit::{PermitCounts, QueueLimits, Rate, ScopeLimits},
    row::{AckMode, Renewed, State},
    time::Timestamp,
};

use super::{DAY, KEEP, LEASE, SECOND, all, eventually, failed, new_envelope, new_queue, only};
use crate::clock::Clockwork;

const MANY: usize = 10_000;
/// Longer than any fact takes, so that only the holder that is to fall silent loses its lease.
const LONG_LEASE: Duration = Duration::from_secs(600);

/// Exercises limits.
///
/// # Panics
///
/// The backend does not do what it owes.
pub async fn limits(backend: &dyn Backend, time: &dyn Clockwork) {
    let cases = [AckMode::Lease, AckMode::Message].map(|ack| Case { backend, time, ack, lease: LONG_LEASE });
    let facts = cases.iter().flat_map(|case| -> Vec<LocalBoxFuture<'_, ()>> {
        vec![
            Box::pin(a_permit_that_comes_back_calls_whoever_was_parked_first(case)),
            Box::pin(a_key_is_limited_by_itself(case)),
            Box::pin(an_attempt_that_ends_gives_its_permit_back(case)),
            Box::pin(a_silent_holder_s_permit_goes_back_with_its_lease(case)),
            Box::pin(a_parked_task_can_be_cancelled_and_purged(case)),
            Box::pin(a_parked_task_that_is_too_late_expires_when_it_is_called(case)),
            Box::pin(a_limit_that_is_taken_away_holds_nobody_up(case)),
            Box::pin(no_more_start_in_a_period_than_may(case)),
            Box::pin(permits_are_counted_by_what_they_are_of(case)),
        ]
    });
    all(time, facts.collect()).await;
}

struct Case<'a> {
    backend: &'a dyn Backend,
    time: &'a dyn Clockwork,
    ack: AckMode,
    lease: Duration,
}

const fn at_once(max: u32) -> ScopeLimits {
    ScopeLimits { max_running: Some(max), rate: None }
}

const fn of_queue(queue: ScopeLimits) -> QueueLimits {
    QueueLimits { queue, ..QueueLimits::NONE }
}

async fn permits_are_counted_by_what_they_are_of(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, QueueLimits { queue: at_once(2), key: at_once(1) });
    case.submit(&queue, &[Some("a"), Some("a"), None, None]).await;
    let running = case.take_just(&queue, limits, 2).await;
    let asked = [(queue.clone(), limits)];
    let counted = async |queue: (u64, u64), key: (u64, u64)| {
        eventually(case.time, "permits are counted wrong", async || {
            let counts = case.backend.tasks().permits(&asked).await.unwrap();
            let [counts] = counts[..] else { panic!("one queue was asked for") };
            let PermitCounts { queue: Some(of_queue), key: Some(of_key) } = counts else { panic!("both are limited") };
            // A store that cannot tell how many of its keys' permits are taken says so.
            let taken = of_queue.taken == Some(queue.0) && of_key.taken.is_none_or(|taken| taken == key.0);
            (taken && (of_queue.parked, of_key.parked) == (queue.1, key.1)).then_some(())
        })
        .await;
    };
    counted((2, 1), (1, 1)).await;
    for won in &running {
        case.succeed(&queue, won).await;
    }
    case.sweep().await;
    counted((0, 0), (0, 0)).await;
}

impl Case<'_> {
    async fn queue(&self) -> QueueName {
        let queue = new_queue();
        let spec = QueueSpec { queue: queue.clone(), max_receives: None, dead_letters: None };
        self.backend.broker().declare(&[spec]).await.unwrap();
        queue
    }

    /// Accepts tasks one after the other, so that their order is told by their times.
    async fn submit(&self, queue: &QueueName, keys: &[Option<&str>]) -> Vec<TaskId> {
        let mut ids = Vec::new();
        for key in keys {
            ids.push(self.submit_one(queue, *key, None).await);
            self.time.advance(SECOND).await;
        }
        ids
    }

    async fn submit_one(&self, queue: &QueueName, key: Option<&str>, expires: Option<Timestamp>) -> TaskId {
        let mut envelope = new_envelope();
        envelope.concurrency_key = key.map(ToOwned::to_owned);
        envelope.expires = expires;
        let submission = Submission::new(&envelope, queue.clone(), Window::DEFAULT);
        only(self.backend.submit(std::slice::from_ref(&submission), self.time.now()).await).unwrap();
        envelope.id
    }

    async fn take(&self, queue: &QueueName, limits: QueueLimits) -> Vec<Won> {
        let policy = ClaimPolicy { lease: self.lease, keep: KEEP, limits, ..ClaimPolicy::new(queue.clone(), self.ack) };
        let worker = WorkerId::new("exercise-1").unwrap();
        let mut won = Vec::new();
        // As an agent does: what led to nothing is gone from the queue, and there may be more.
        loop {
            let take = Take { policy: &policy, worker: &worker, max: 10, wait: Duration::ZERO };
            let taken = self.backend.take(take).await.unwrap();
            let idle = taken.idle;
            won.extend(taken.won);
            if idle == 0 {
                return won;
            }
        }
    }

    /// Takes until so many are won, with the sweep's help; more is never won.
    async fn take_just(&self, queue: &QueueName, limits: QueueLimits, count: usize) -> Vec<Won> {
        let mut won: Vec<Won> = Vec::new();
        eventually(self.time, "too few tasks are taken", async || {
            // What one round starts may let the next one call.
            for _ in 0..2 {
                self.sweep().await;
                won.extend(self.take(queue, limits).await);
            }
            (won.len() >= count).then_some(())
        })
        .await;
        self.sweep().await;
        won.extend(self.take(queue, limits).await);
        assert_eq!(won.len(), count, "more were taken than may run");
        won
    }

    async fn sweep(&self) {
        self.backend.call_parked(Reach::Everywhere).await.unwrap();
    }

    async fn finish(&self, queue: &QueueName, won: &Won, outcome: Outcome) {
        let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log: Log::default(), keep: KEEP };
        let hideable = self.backend.broker().limits().visibility_max;
        let finish = Finish { queue: queue.clone(), settlement, receipt: won.receipt.clone(), hideable };
        only(self.backend.finish(&[finish]).await).unwrap();
    }

    async fn succeed(&self, queue: &QueueName, won: &Won) {
        self.finish(queue, won, Outcome::Succeeded(None)).await;
    }

    async fn state(&self, id: TaskId) -> State {
        only(self.backend.tasks().read(&[id]).await.unwrap()).unwrap().record.state
    }

    async fn why(&self, id: TaskId) -> String {
        let detail = only(self.backend.tasks().read(&[id]).await.unwrap()).unwrap();
        detail.refusal.map(|refusal| refusal.to_string()).unwrap_or_default()
    }

    async fn reap(&self, id: TaskId) {
        let lease = eventually(self.time, "the lease is not due", async || {
            self.backend.tasks().due_leases(MANY).await.unwrap().into_iter().find(|lease| lease.id == id)
        })
        .await;
        only(self.backend.tasks().reap(&[lease]).await).unwrap();
    }
}

fn ids(won: &[Won]) -> Vec<TaskId> {
    won.iter().map(|won| won.id).collect()
}

async fn a_permit_that_comes_back_calls_whoever_was_parked_first(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, of_queue(at_once(2)));
    let tasks = case.submit(&queue, &[None; 4]).await;
    let mut running = case.take_just(&queue, limits, 2).await;
    let parked: Vec<TaskId> = tasks.iter().copied().filter(|id| !ids(&running).contains(id)).collect();
    for id in &parked {
        assert_eq!(case.state(*id).await, State::Waiting);
        assert_eq!(case.why(*id).await, "for a permit: 2 of 2 of this queue are running");
    }
    for next in parked {
        case.succeed(&queue, &running.remove(0)).await;
        let came = case.take_just(&queue, limits, 1).await;
        assert_eq!(ids(&came), [next], "the first that was parked comes first");
        running.extend(came);
    }
    for won in running {
        case.succeed(&queue, &won).await;
    }
    assert!(case.take(&queue, limits).await.is_empty());
}

async fn a_key_is_limited_by_itself(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, QueueLimits { key: at_once(1), ..QueueLimits::NONE });
    let tasks = case.submit(&queue, &[Some("a"), Some("a"), Some("b"), None, None]).await;
    let running = case.take_just(&queue, limits, 4).await;
    let parked = *tasks.iter().find(|id| !ids(&running).contains(id)).unwrap();
    assert!(tasks[..2].contains(&parked));
    assert_eq!(case.why(parked).await, "for a permit: 1 of 1 of key a are running");
    let (of_a, others): (Vec<Won>, Vec<Won>) = running.into_iter().partition(|won| tasks[..2].contains(&won.id));
    for won in others {
        case.succeed(&queue, &won).await;
    }
    assert!(case.take(&queue, limits).await.is_empty(), "the key's own permit is taken still");
    case.succeed(&queue, &of_a[0]).await;
    let last = case.take_just(&queue, limits, 1).await;
    assert_eq!(ids(&last), [parked]);
    case.succeed(&queue, &last[0]).await;
}

async fn an_attempt_that_ends_gives_its_permit_back(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, of_queue(at_once(1)));
    let tasks = case.submit(&queue, &[None; 3]).await;
    let mut seen = Vec::new();
    for outcome in [failed(Some(DAY)), Outcome::Snoozed(DAY), Outcome::Succeeded(None)] {
        let won = case.take_just(&queue, limits, 1).await;
        seen.extend(ids(&won));
        case.finish(&queue, &won[0], outcome).await;
    }
    seen.sort_unstable();
    let mut tasks = tasks;
    tasks.sort_unstable();
    assert_eq!(seen, tasks);
}

async fn a_silent_holder_s_permit_goes_back_with_its_lease(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, of_queue(at_once(1)));
    case.submit(&queue, &[None; 2]).await;
    let short = Case { lease: LEASE, ..*case };
    let silent = short.take_just(&queue, limits, 1).await.remove(0);
    case.time.advance(LEASE + SECOND).await;
    case.reap(silent.id).await;
    // Both may be called or come by their own doorbell now: one of them runs.
    let next = case.take_just(&queue, limits, 1).await.remove(0);
    let renewal = Renewal { id: silent.id, fence: silent.row.fence };
    let renewed = only(case.backend.tasks().renew(&[renewal]).await).unwrap();
    assert_eq!(renewed, Renewed::Lost, "its permit is another's");
    case.succeed(&queue, &next).await;
}

async fn a_parked_task_can_be_cancelled_and_purged(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, of_queue(at_once(1)));
    let tasks = case.submit(&queue, &[None; 3]).await;
    let running = case.take_just(&queue, limits, 1).await;
    let parked: Vec<TaskId> = tasks.into_iter().filter(|id| *id != running[0].id).collect();
    assert_eq!(only(case.backend.tasks().cancel(&parked[..1]).await).unwrap(), State::Cancelled);
    case.time.advance(SECOND).await;
    case.backend.purge(&queue).await.unwrap();
    eventually(case.time, "the parked task is not purged", async || {
        case.backend.tasks().cancel_purged(&queue, MANY).await.unwrap();
        (case.state(parked[1]).await == State::Cancelled).then_some(())
    })
    .await;
    case.succeed(&queue, &running[0]).await;
    case.time.advance(SECOND).await;
    let after = case.submit(&queue, &[None]).await;
    assert_eq!(ids(&case.take_just(&queue, limits, 1).await), after, "nobody who is gone stands in the way");
}

async fn a_parked_task_that_is_too_late_expires_when_it_is_called(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, of_queue(at_once(1)));
    case.submit(&queue, &[None]).await;
    let running = case.take_just(&queue, limits, 1).await;
    let late = case.submit_one(&queue, None, Some(case.time.now().after(SECOND * 2))).await;
    assert!(case.take(&queue, limits).await.is_empty());
    assert_eq!(case.state(late).await, State::Waiting);
    case.time.advance(SECOND * 3).await;
    let next = case.submit(&queue, &[None]).await;
    assert!(case.take(&queue, limits).await.is_empty());
    case.succeed(&queue, &running[0]).await;
    assert_eq!(ids(&case.take_just(&queue, limits, 1).await), next);
    assert_eq!(case.state(late).await, State::Expired);
}

async fn a_limit_that_is_taken_away_holds_nobody_up(case: &Case<'_>) {
    let (queue, limits) = (case.queue().await, of_queue(at_once(1)));
    case.submit(&queue, &[None; 3]).await;
    let running = case.take_just(&queue, limits, 1).await;
    case.succeed(&queue, &running[0]).await;
    case.take_just(&queue, QueueLimits::NONE, 2).await;
}

async fn no_more_start_in_a_period_than_may(case: &Case<'_>) {
    let rate = Rate { count: 2, period: Duration::from_secs(4) };
    let (queue, limits) = (case.queue().await, of_queue(ScopeLimits { max_running: None, rate: Some(rate) }));
    case.submit(&queue, &[None; 5]).await;
    let mut started: Vec<Timestamp> = Vec::new();
    for _ in 0..60 {
        case.sweep().await;
        for won in case.take(&queue, limits).await {
            started.push(won.row.started);
            case.succeed(&queue, &won).await;
        }
        if started.len() == 5 {
            break;
        }
        case.time.advance(SECOND).await;
    }
    assert_eq!(started.len(), 5, "all start in time");
    started.sort_unstable();
    for three in started.windows(3) {
        assert!(three[2].since(three[0]) >= rate.period, "{started:?}");
    }
}
