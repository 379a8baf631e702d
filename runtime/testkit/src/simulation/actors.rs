//! Who acts: two producers, workers, sweepers, an operator. Each runs the protocol's own verbs, and
//! can be dropped between any two of them.

use std::time::Duration;

use rhubarb_core::{
    backend::{
        Backend, Broker as _, Finish, Log, OutgoingMessage, Reach, Renewal, Settlement, Submission, Submitted, Take,
        Tasks as _, Window, Won,
    },
    envelope::{Envelope, null},
    ids::{QueueName, TaskId, TaskName, WorkerId},
    limits::DOORBELL_PATIENCE,
    outcome::{Failure, Outcome},
    reaper::Reaper,
    row::Renewed,
};

use super::{
    Sabotage,
    oracle::Intent,
    world::{Act, LEASE, Stage},
};

pub(super) const PRODUCER: usize = 0;
pub(super) const PLAIN_PRODUCER: usize = 1;

const SECOND: Duration = Duration::from_secs(1);
/// No clock is wrong by more.
const SKEW_MS: usize = 5_000;
const MANY: usize = 100;

type Again = Box<dyn Fn() -> Act>;

pub(super) fn queue() -> QueueName {
    name("simulated")
}

#[expect(clippy::expect_used, reason = "every name here is written out and valid")]
fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a valid name")
}

/// Everybody who acts, in the order of their numbers.
pub(super) fn cast(stage: &Stage) -> Vec<(String, Again)> {
    fn again<F: Future<Output = ()> + Send + 'static>(act: impl Fn() -> F + 'static) -> Again {
        Box::new(move || Box::pin(act()))
    }
    let skew = || stage.draw(|random| random.below(2 * SKEW_MS) as i64 - SKEW_MS as i64);
    let (workers, sweepers) = stage.draw(|random| (2 + random.below(2), 1 + random.below(2)));
    let tasks = stage.draw(|random| 1 + random.below(4));
    let of = |stage: &Stage| stage.clone();
    let (skewed, on) = (skew(), of(stage));
    let mut cast: Vec<(String, Again)> = Vec::new();
    cast.push(("producer".into(), again(move || producer(on.clone(), tasks, skewed))));
    let on = of(stage);
    cast.push(("plain producer".into(), again(move || plain_producer(on.clone()))));
    for number in 0..workers {
        let (on, id) = (of(stage), name::<WorkerId>(&format!("worker-{number}")));
        cast.push((id.to_string(), again(move || worker(on.clone(), id.clone()))));
    }
    for number in 0..sweepers {
        let (skewed, on) = (skew(), of(stage));
        cast.push((format!("sweeper {number}"), again(move || sweeper(on.clone(), skewed))));
    }
    let on = of(stage);
    cast.push(("operator".into(), again(move || operator(on.clone()))));
    cast
}

/// Submits its tasks, each until it is told that it is in. A crashed one begins again: with the same
/// ids, as whoever repeats a call would, or with new ids and the same keys.
async fn producer(stage: Stage, tasks: usize, skew_ms: i64) {
    let incarnation = {
        let mut state = stage.state();
        state.producers += 1;
        state.producers
    };
    for number in 0..tasks {
        let submission = submission(&stage, number, incarnation);
        stage.state().oracle.watch(submission.id, has_tenant(number));
        loop {
            let called = stage.wall(skew_ms);
            let answers = Backend::submit(&stage.backend, std::slice::from_ref(&submission), called).await;
            // Whoever stands still in the middle of a call for longer than a queue can delay a message, or whose
            // clock is slow by as much, may leave a late task unrung: the sweep rings it when the queue stands empty.
            let is_late = stage.backend.now().epoch.since(called) >= stage.backend.limits().delay_max;
            if is_late {
                stage.state().oracle.excuse(submission.id);
            }
            match answers.into_iter().next() {
                Some(Ok(Submitted::New | Submitted::Exists(_))) => {
                    stage.state().oracle.accepted(submission.id);
                    break;
                }
                Some(Ok(Submitted::Keyed(first))) => {
                    if is_late {
                        stage.state().oracle.excuse(first);
                    }
                    stage.state().oracle.accepted(first);
                    break;
                }
                Some(Err(_)) | None => pause(&stage, SECOND, 5 * SECOND).await,
            }
        }
        stage.note(|| format!("task {} is accepted", submission.id));
        pause(&stage, Duration::ZERO, 5 * SECOND).await;
    }
}

/// Whether a producer's task has the concurrency key.
const fn has_tenant(number: usize) -> bool {
    number != 1
}

fn submission(stage: &Stage, number: usize, incarnation: usize) -> Submission {
    let has_key = number >= 2;
    let own = if has_key { incarnation } else { 0 };
    let id = TaskId::from_bytes((0xacce_u128 << 112 | (own as u128) << 32 | number as u128).to_be_bytes());
    let mut envelope = Envelope::new(id, name("simulated"), null());
    // Decided by the number: the same call again asks for the same.
    let late = [None, Some(3 * SECOND), Some(45 * SECOND), None][number % 4];
    envelope.not_before = late.map(|late| rhubarb_core::time::Timestamp(1_800_000_000_000).after(late));
    envelope.max_attempts = (number % 3 == 2).then_some(2);
    // The last two share a key: one of them is the other.
    envelope.concurrency_key = has_tenant(number).then(|| "tenant".to_owned());
    envelope.idempotency_key = has_key.then(|| "key".to_owned());
    Submission::new(&envelope, stage.queue.clone(), Window::DEFAULT)
}

/// Sends one message as any SQS client would: no id, no row.
async fn plain_producer(stage: Stage) {
    if stage.state().oracle.ids().iter().any(|id| id.as_bytes()[0] == 0x7e) || stage.draw(|random| random.percent(50)) {
        return;
    }
    let task: TaskName = name("plain");
    let body = format!(r#"{{"task":"{task}"}}"#);
    let message = OutgoingMessage { body, ..OutgoingMessage::default() };
    loop {
        let sent = stage.backend.send(&stage.queue, std::slice::from_ref(&message)).await;
        if let Some(Ok(id)) = sent.into_iter().next() {
            let id = TaskId::of_message(&id);
            stage.note(|| format!("task {id} is accepted"));
            stage.state().oracle.accepted(id);
            return;
        }
        pause(&stage, SECOND, 5 * SECOND).await;
    }
}

async fn pause(stage: &Stage, from: Duration, to: Duration) {
    let time = stage.draw(|random| random.between(from, to));
    stage.sleep(time).await;
}

/// Takes, keeps, settles; what it takes runs one after the other.
async fn worker(stage: Stage, id: WorkerId) {
    loop {
        let policy = stage.policy();
        let max = stage.draw(|random| 1 + random.below(2));
        let taken = stage.backend.take(Take { policy: &policy, worker: &id, max, wait: Duration::ZERO }).await;
        let won = taken.map(|taken| taken.won).unwrap_or_default();
        if won.is_empty() {
            pause(&stage, SECOND, 4 * SECOND).await;
        }
        for won in won {
            stage.note(|| format!("won task {} with token {}, attempt {}", won.id, won.row.fence, won.row.attempt));
            attempt(&stage, won).await;
        }
    }
}

async fn attempt(stage: &Stage, won: Won) {
    let beats = stage.draw(|random| random.below(5));
    let mut cancel = false;
    for _ in 0..beats {
        // A third of the lease, unless the worker is slow.
        let slow = !stage.is_calm() && stage.draw(|random| random.percent(15));
        stage.sleep(if slow { LEASE * 3 / 2 } else { LEASE / 3 }).await;
        let renewal = Renewal { id: won.id, fence: won.row.fence };
        match stage.backend.renew(&[renewal]).await.into_iter().next() {
            Some(Ok(Renewed::Kept { cancel_asked })) => cancel = cancel_asked,
            // A good worker stops here; one that is late settles all the same.
            Some(Ok(Renewed::Lost)) if stage.draw(|random| random.percent(70)) => return,
            Some(Ok(Renewed::Lost) | Err(_)) | None => {}
        }
        if let Some(receipt) = won.receipt.clone().filter(|_| stage.draw(|random| random.percent(80))) {
            // Refused where a newer delivery exists: work goes on.
            let _ = stage.backend.extend(&stage.queue, &[(receipt, LEASE)]).await;
        }
    }
    let outcome = if cancel { Outcome::Cancelled } else { outcome(stage) };
    stage.note(|| format!("settles task {} with token {} as {}", won.id, won.row.fence, outcome.word()));
    let tries = 1 + stage.draw(|random| random.below(3));
    let finishing = finish(stage.clone(), won, outcome, tries);
    if !stage.is_calm() && stage.draw(|random| random.percent(10)) {
        // Its answer is waited for in vain; the write arrives when it arrives.
        stage.detach("late write", Box::pin(finishing));
    } else {
        finishing.await;
    }
}

fn outcome(stage: &Stage) -> Outcome {
    let (chance, delay) =
        stage.draw(|random| (random.below(100), random.pick(&[Duration::ZERO, 4 * SECOND, 30 * SECOND])));
    let failure = Failure::new("simulated", "no luck");
    match chance {
        _ if stage.is_calm() => Outcome::Succeeded(None),
        0..40 => Outcome::Succeeded(None),
        40..65 => Outcome::Failed { failure, retry_in: Some(delay) },
        65..70 => Outcome::Failed { failure, retry_in: None },
        70..85 => Outcome::Snoozed(delay),
        _ => Outcome::Interrupted { alone: chance % 2 == 0, why: "shutdown".into() },
    }
}

async fn finish(stage: Stage, won: Won, outcome: Outcome, tries: usize) {
    let spends = !matches!(outcome, Outcome::Snoozed(_) | Outcome::Interrupted { .. });
    let intent = Intent { id: won.id, token: won.row.fence, spends };
    let settlement = Settlement {
        id: won.id,
        fence: won.row.fence,
        outcome,
        log: Log::default(),
        keep: (Duration::MAX, Duration::MAX),
    };
    let hideable = stage.backend.limits().visibility_max;
    let finish = Finish { queue: stage.queue.clone(), settlement, receipt: won.receipt, hideable };
    for _ in 0..tries {
        stage.intend(intent);
        if stage.sabotage == Some(Sabotage::DeleteBeforeSettle)
            && let Some(receipt) = &finish.receipt
        {
            let _ = stage.backend.delete(&stage.queue, std::slice::from_ref(receipt)).await;
        }
        let answer = stage.backend.finish(std::slice::from_ref(&finish)).await.into_iter().next();
        match answer {
            Some(Err(error)) if error.is_transient() => pause(&stage, SECOND, 3 * SECOND).await,
            _ => return,
        }
    }
}

/// Finds silent tasks, rings what is due, calls who is parked, and notices a queue that stands empty.
async fn sweeper(stage: Stage, skew_ms: i64) {
    let mut reaper = Reaper::new();
    let mut empty_since = None;
    loop {
        match stage.backend.due_leases(MANY).await {
            Ok(due) => {
                let mut ripe = reaper.observe(&due, stage.monotonic());
                if stage.sabotage == Some(Sabotage::ReapByWorkerClock) {
                    ripe = due;
                }
                stage.backend.reap(&ripe).await;
            }
            Err(_) => reaper.read_failed(),
        }
        if stage.sabotage != Some(Sabotage::SilentSweep)
            && let Ok(due) = stage.backend.due_rings(MANY).await
        {
            stage.backend.ring(&due, stage.wall(skew_ms)).await;
        }
        if !stage.limits().is_none() {
            // What is not called now is called the next time.
            let _ = Backend::call_parked(&stage.backend, Reach::Everywhere).await;
        }
        let now = stage.monotonic();
        match stage.backend.counts(&stage.queue).await {
            Ok(counts) if counts.is_empty() => {
                let since = *empty_since.get_or_insert(now);
                if now.saturating_sub(since) >= DOORBELL_PATIENCE {
                    let _ = stage.backend.doorbells_lost(&stage.queue, MANY).await;
                }
            }
            Ok(_) | Err(_) => empty_since = None,
        }
        pause(&stage, 2 * SECOND, 5 * SECOND).await;
    }
}

/// Cancels, redrives and purges now and then, until all is calm.
async fn operator(stage: Stage) {
    loop {
        pause(&stage, SECOND, 60 * SECOND).await;
        let ids = stage.state().oracle.ids();
        if stage.is_calm() || ids.is_empty() {
            return;
        }
        let id = stage.draw(|random| random.pick(&ids));
        match stage.draw(|random| random.below(10)) {
            0..3 => {
                stage.note(|| format!("cancels task {id}"));
                let _ = stage.backend.cancel(&[id]).await;
            }
            3 => {
                stage.note(|| "purges the queue".to_owned());
                let _ = Backend::purge(&stage.backend, &stage.queue).await;
            }
            _ => {
                let _ = Backend::redrive(&stage.backend, &[id]).await;
            }
        }
    }
}
