//! What a backend owes, one fact a function, for every backend alike.
//!
//! An exercise takes a seam and the time of the backend behind it, and stops at the first fact that is
//! not so. Each fact makes its own queue, tasks and names, so that the backend may be shared and need
//! not be empty. Times are whole seconds, and facts that need more time than can pass are left out, so
//! that the same facts hold for a service that is waited for. What may lag there (listings, counts) is
//! looked at again within [`Clockwork::lag`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "an exercise is a test: a fact that is not so stops it"
)]

mod backend;
mod blobs;
mod broker;
mod clock_steps;
mod later;
mod limits;
mod rowless;
mod schedules;
mod tasks;
mod workers;

use std::{pin::pin, time::Duration};

pub use self::{
    backend::{backend, hosted_ticks},
    blobs::blobs,
    broker::broker,
    clock_steps::clock_steps,
    later::later,
    limits::limits,
    rowless::rowless,
    schedules::schedules,
    tasks::tasks,
    workers::workers,
};
use futures::future::{LocalBoxFuture, join_all};
use rhubarb_core::{
    backend::Window,
    backend::{Result, StoreError, Submission},
    envelope::{Envelope, null},
    ids::{QueueName, TaskId, TaskName},
    outcome::{Failure, Outcome},
    row::{Refused, State},
};

use crate::clock::Clockwork;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long what a fact settles is kept.
const KEEP: (Duration, Duration) = (DAY, DAY);

/// Runs facts one after the other; at the same time where each would only wait for the clock.
async fn all(time: &dyn Clockwork, facts: Vec<LocalBoxFuture<'_, ()>>) {
    if time.passes_by_itself() {
        join_all(facts).await;
        return;
    }
    for fact in facts {
        fact.await;
    }
}

/// A name that nothing else has.
fn unique(word: &str) -> String {
    format!("{word}-{}", TaskId::mint())
}

fn new_queue() -> QueueName {
    QueueName::new(&unique("exercise")).unwrap()
}

fn new_envelope() -> Envelope {
    Envelope::new(TaskId::mint(), TaskName::new("exercise").unwrap(), null())
}

fn new_submission(queue: &QueueName) -> Submission {
    Submission::new(&new_envelope(), queue.clone(), Window::DEFAULT)
}

/// The answer to the only item.
#[track_caller]
fn only<T>(answers: Vec<T>) -> T {
    assert_eq!(answers.len(), 1, "one item has one answer");
    answers.into_iter().next().unwrap()
}

/// Looks until it finds something, for as long as the backend may lag.
async fn eventually<T>(time: &dyn Clockwork, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(waited < time.lag(), "{what}");
        let step = (time.lag() / 10).max(Duration::from_millis(100));
        time.advance(step).await;
        waited += step;
    }
}

/// Looks until it is so, for as long as the backend may lag.
async fn eventually_so(time: &dyn Clockwork, what: &str, mut look: impl AsyncFnMut() -> bool) {
    eventually(time, what, async || look().await.then_some(())).await;
}

/// Waits for something while time passes.
async fn while_time_passes<T>(time: &dyn Clockwork, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        tokio::select! {
            biased;
            done = &mut future => return done,
            () = async {
                tokio::task::yield_now().await;
                time.advance(SECOND).await;
            } => {}
        }
    }
    panic!("time passes, and nothing happens");
}

fn failed(retry_in: Option<Duration>) -> Outcome {
    Outcome::Failed { failure: Failure::new("exercise", "no luck"), retry_in }
}

fn interrupted(alone: bool) -> Outcome {
    Outcome::Interrupted { alone, why: "exercise".into() }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T>, in_state: State) {
    match answer {
        Err(StoreError::Refused(Refused { state, .. })) => assert_eq!(state, in_state),
        other => panic!("not refused in state {in_state}: {other:?}"),
    }
}

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(answer: &Result<T>) {
    assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
}
