//! The exercises of every seam, as every backend takes them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::{Store, store};
use rhubarb_core::{backend::Backend as _, time::Timestamp};
use rhubarb_local::{Clock as _, ManualClock};
use rhubarb_testkit::{Clockwork, exercise};

struct Moved(Arc<ManualClock>);

#[async_trait]
impl Clockwork for Moved {
    async fn advance(&self, by: Duration) {
        self.0.advance(by);
    }

    fn now(&self) -> Timestamp {
        self.0.read().now.epoch
    }

    fn step_wall(&self, by_ms: i64) -> bool {
        self.0.set_wall(Timestamp(self.now().0 + by_ms));
        true
    }
}

fn new() -> (Store, Moved) {
    let store = store();
    let time = Moved(Arc::clone(&store.clock));
    (store, time)
}

#[tokio::test]
async fn the_broker_is_as_brokers_are() {
    let (store, time) = new();
    exercise::broker(store.backend.broker(), &time).await;
}

#[tokio::test]
async fn the_rows_are_as_rows_are() {
    let (store, time) = new();
    exercise::tasks(store.backend.tasks(), &time).await;
}

#[tokio::test]
async fn the_joined_verbs_are_as_in_two_steps() {
    let (store, time) = new();
    exercise::backend(&store.backend, &time).await;
}

#[tokio::test]
async fn tasks_without_a_row_are_as_in_any_backend() {
    let (store, time) = new();
    exercise::rowless(&store.backend, &time).await;
}

#[tokio::test]
async fn the_limits_are_kept_as_they_are_elsewhere() {
    let (store, time) = new();
    exercise::limits(&store.backend, &time).await;
}

#[tokio::test]
async fn the_blobs_are_as_blobs_are() {
    // Files have the real clock's times.
    let (store, _) = new();
    exercise::blobs(store.backend.blobs(), &Real).await;
}

#[tokio::test]
async fn the_schedules_are_as_schedules_are() {
    let (store, time) = new();
    exercise::schedules(store.backend.schedules(), &time).await;
}

#[tokio::test]
async fn the_workers_are_as_workers_are() {
    let (store, time) = new();
    exercise::workers(store.backend.workers(), &time).await;
}

#[tokio::test]
async fn steps_of_the_wall_clock_lose_nothing_and_end_no_lease() {
    let (store, time) = new();
    exercise::clock_steps(&store.backend, &time).await;
    assert_eq!(common::broken_invariants(store.folder.path()), Vec::<String>::new());
}

/// The machine's clock, which no fact about blobs needs to move.
struct Real;

#[async_trait]
impl Clockwork for Real {
    async fn advance(&self, _by: Duration) {}

    fn now(&self) -> Timestamp {
        Timestamp::from_system(std::time::SystemTime::now())
    }
}
