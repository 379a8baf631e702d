//! What tasks that wait for their time cost: `cargo run --release -p rhubarb-local --example late [TASKS]`.
//!
//! Enqueues so many tasks (a million unless said) that are due in an hour, and prints how fast that went, what a row
//! of them takes in the file, and how long a look takes with one of them and with all: the sweep's for rows whose
//! doorbell must ring, and a worker's for a task. Both go by an index and must not take longer with more rows.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, ClaimPolicy, Filter, Submission, Take, Window},
    envelope::Envelope,
    ids::{QueueName, TaskId, TaskName, WorkerId},
    row::{AckMode, State},
    time::Timestamp,
};
use rhubarb_local::{LocalBackend, Options};
use serde_json::value::RawValue;

type AnyError = Box<dyn std::error::Error>;

const HOUR: Duration = Duration::from_secs(60 * 60);
const BATCH: usize = 1_000;
const LOOKS: usize = 1_001;

/// Tasks that are due in an hour.
fn late(queue: &QueueName, from: usize, count: usize) -> Result<Vec<Submission>, AnyError> {
    let not_before = Some(Timestamp::from_system(SystemTime::now()).after(HOUR));
    let task = TaskName::new("late")?;
    (from..from + count)
        .map(|i| {
            let args = RawValue::from_string(format!("{{\"i\":{i}}}"))?;
            let envelope = Envelope { not_before, ..Envelope::new(TaskId::mint(), task.clone(), args) };
            Ok(Submission::new(&envelope, queue.clone(), Window::DEFAULT))
        })
        .collect()
}

async fn submit(backend: &LocalBackend, queue: &QueueName, from: usize, count: usize) -> Result<Duration, AnyError> {
    let batch = late(queue, from, count)?;
    let began = Instant::now();
    for answer in backend.submit(&batch, Timestamp::from_system(SystemTime::now())).await {
        answer?;
    }
    Ok(began.elapsed())
}

fn policy(queue: &QueueName) -> ClaimPolicy {
    ClaimPolicy { keep: (HOUR, HOUR), ..ClaimPolicy::new(queue.clone(), AckMode::Lease) }
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

/// Prints how long looks take that find nothing, and that this is what they find.
async fn looks(backend: &LocalBackend, queue: &QueueName, rows: usize) -> Result<(), AnyError> {
    let (policy, worker) = (policy(queue), WorkerId::new("late")?);
    let (mut sweeps, mut takes) = (Vec::with_capacity(LOOKS), Vec::with_capacity(LOOKS));
    for _ in 0..LOOKS {
        let began = Instant::now();
        let due = backend.tasks().due_rings(BATCH).await?;
        sweeps.push(began.elapsed());
        let began = Instant::now();
        let taken = backend.take(Take { policy: &policy, worker: &worker, max: 10, wait: Duration::ZERO }).await?;
        takes.push(began.elapsed());
        if !(due.is_empty() && taken.won.is_empty()) {
            return Err("a task is due an hour early".into());
        }
    }
    println!("{rows} late rows: the sweep's look {:?}, a worker's {:?} (medians)", median(sweeps), median(takes));
    Ok(())
}

fn bytes(folder: &Path) -> Result<u64, AnyError> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let metadata = entry?.metadata()?;
        sum += if metadata.is_file() { metadata.len() } else { 0 };
    }
    Ok(sum)
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let tasks: usize = std::env::args().nth(1).as_deref().unwrap_or("1000000").parse()?;
    let folder = tempfile::tempdir()?;
    let backend = LocalBackend::open(folder.path(), Options::default())?;
    let queue = QueueName::new("default")?;
    submit(&backend, &queue, 0, 1).await?;
    looks(&backend, &queue, 1).await?;
    let (before, mut spent, mut there) = (bytes(folder.path())?, Duration::ZERO, 1);
    while there < tasks {
        let count = BATCH.min(tasks - there);
        spent += submit(&backend, &queue, there, count).await?;
        there += count;
    }
    let (rate, grown) = ((tasks - 1) as f64 / spent.as_secs_f64(), bytes(folder.path())?.saturating_sub(before));
    println!(
        "{tasks} enqueued, {BATCH} a call: {rate:.0} a second; {} bytes a row in the folder",
        grown / tasks as u64
    );
    looks(&backend, &queue, tasks).await?;
    let filter = Filter { state: Some(State::Scheduled), limit: 100, ..Filter::default() };
    let began = Instant::now();
    let page = backend.tasks().list(&filter).await?;
    println!("a page of {} scheduled tasks: {:?}", page.items.len(), began.elapsed());
    Ok(())
}
