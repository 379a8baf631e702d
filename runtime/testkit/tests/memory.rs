//! The in-memory backend owes what every backend owes, with indexes that lag as well.

use std::{sync::Arc, time::Duration};

use rhubarb_core::{backend::Backend as _, limits::Limits};
use rhubarb_testkit::{Clock, Clockwork, ManualClock, MemoryBackend, MemoryOptions, PausedTime, exercise};

fn on_paused_time(lag: Duration) -> (MemoryBackend, PausedTime) {
    let clock = Clock::tokio();
    let options = MemoryOptions { clock: clock.clone(), index_lag: lag, ..MemoryOptions::default() };
    (MemoryBackend::new(options), PausedTime { clock, lag })
}

#[tokio::test(start_paused = true)]
async fn the_broker_does_its_exercise() {
    let (memory, time) = on_paused_time(Duration::ZERO);
    exercise::broker(memory.broker(), &time).await;
}

#[tokio::test(start_paused = true)]
async fn the_rows_do_their_exercise() {
    let (memory, time) = on_paused_time(Duration::ZERO);
    exercise::tasks(memory.tasks(), &time).await;
}

#[tokio::test(start_paused = true)]
async fn the_blobs_do_their_exercise() {
    let (memory, time) = on_paused_time(Duration::ZERO);
    exercise::blobs(memory.blobs(), &time).await;
}

#[tokio::test(start_paused = true)]
async fn the_schedules_do_their_exercise() {
    let (memory, time) = on_paused_time(Duration::ZERO);
    exercise::schedules(memory.schedules(), &time).await;
}

#[tokio::test(start_paused = true)]
async fn the_workers_do_their_exercise() {
    let (memory, time) = on_paused_time(Duration::ZERO);
    exercise::workers(memory.workers(), &time).await;
}

#[tokio::test(start_paused = true)]
async fn the_joined_verbs_do_their_exercise() {
    let (memory, time) = on_paused_time(Duration::ZERO);
    exercise::backend(&memory, &time).await;
    exercise::hosted_ticks(&memory, &time).await;
}

#[tokio::test(start_paused = true)]
async fn tasks_without_a_row_do_their_exercise() {
    let (memory, time) = on_paused_time(Duration::ZERO);
    exercise::rowless(&memory, &time).await;
}

#[tokio::test(start_paused = true)]
async fn tasks_without_a_row_that_come_late_do_their_exercise() {
    let clock = Clock::tokio();
    let limits = Limits { delay_max: Duration::from_secs(4), ..Limits::AWS };
    let memory = MemoryBackend::new(MemoryOptions { clock: clock.clone(), limits, ..MemoryOptions::default() });
    exercise::later(&memory, &PausedTime { clock, lag: Duration::ZERO }).await;
}

#[tokio::test(start_paused = true)]
async fn the_limits_do_their_exercise() {
    for lag in [Duration::ZERO, Duration::from_secs(1)] {
        let (memory, time) = on_paused_time(lag);
        exercise::limits(&memory, &time).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_exercises_hold_for_indexes_that_lag() {
    let (memory, time) = on_paused_time(Duration::from_secs(1));
    exercise::tasks(memory.tasks(), &time).await;
    exercise::backend(&memory, &time).await;
}

#[tokio::test]
async fn the_exercises_hold_on_a_clock_that_is_moved_by_hand() {
    let clock = ManualClock::new();
    let options = MemoryOptions { clock: Clock::Manual(Arc::clone(&clock)), ..MemoryOptions::default() };
    let memory = MemoryBackend::new(options);
    let time: &dyn Clockwork = &*clock;
    exercise::broker(memory.broker(), time).await;
    exercise::tasks(memory.tasks(), time).await;
    exercise::backend(&memory, time).await;
}

#[tokio::test]
async fn steps_of_the_wall_clock_lose_nothing_and_end_no_lease() {
    let clock = ManualClock::new();
    let options = MemoryOptions { clock: Clock::Manual(Arc::clone(&clock)), ..MemoryOptions::default() };
    exercise::clock_steps(&MemoryBackend::new(options), &*clock).await;
}
