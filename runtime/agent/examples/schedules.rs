//! Measures schedules over the embedded backend: how late 1,000 ticks are, and what 100,000 schedules cost.
//!
//! `cargo run --release -p rhubarb-agent --example schedules` prints one line a figure; it takes half a minute.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot go on ends")]

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rhubarb_agent::{Agent, AgentOptions, scheduler::Scheduler};
use rhubarb_core::{
    backend::{Backend, Filter, ScheduleRecord},
    config::{Config, Definition, NoVars, Overrides},
    ids::{ScheduleName, WorkerId},
    time::Timestamp,
};
use rhubarb_local::{LocalBackend, Options};

const TICKS: usize = 1_000;
const SCHEDULES: usize = 100_000;
const TOML: &str = "[app]\nname = \"bench\"\n[functions.f]\npackage = \"f\"\n[queues.default]\nfunctions = [\"f\"]\n\
                    [workers.w]\nqueues = [\"default\"]\n";

#[tokio::main]
async fn main() {
    lateness().await;
    many().await;
}

fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

fn record(name: &str, definition: &Definition) -> ScheduleRecord {
    // Whole seconds: what is late is the scheduler, not the clock.
    let since = Timestamp((now().as_millis() / 1000 + 1) * 1000);
    ScheduleRecord::new(ScheduleName::new(name).unwrap(), false, definition.to_value(), since)
}

async fn put(backend: &dyn Backend, records: &[ScheduleRecord]) {
    for put in backend.schedules().put(records).await {
        put.unwrap();
    }
}

/// 50 schedules of a second each, fired by an agent that does nothing else.
async fn lateness() {
    let dir = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(LocalBackend::open(dir.path(), Options::default()).unwrap());
    let config = Arc::new(Config::parse(TOML, &NoVars, &Overrides::default()).unwrap());
    let worker = config.workers.values().next().unwrap().clone();
    let options = AgentOptions {
        id: WorkerId::new("bench").unwrap(),
        worker,
        config,
        backend: Arc::clone(&backend),
        root: dir.path().to_owned(),
        vars: Vec::new(),
        purge: false,
        scheduler_only: true,
        feed_lambda: false,
        gpus: None,
        spot_notices: None,
    };
    let agent = Agent::start(options).await.unwrap();
    let stopper = agent.stopper();
    let running = tokio::spawn(agent.run());
    // The agent has the role before the first tick is due.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let definition = Definition { rate: Some("1s".into()), task: "t".into(), ..Definition::default() };
    let later = |index: usize| {
        let mut record = record(&format!("s{index}"), &definition);
        (record.since, record.passed) =
            (record.since.after(Duration::from_secs(2)), record.passed.after(Duration::from_secs(2)));
        record
    };
    put(&*backend, &(0..50).map(later).collect::<Vec<_>>()).await;
    let filter = Filter { limit: 10_000, ..Filter::default() };
    let tasks = loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let tasks = backend.tasks().list(&filter).await.unwrap().items;
        if tasks.len() >= TICKS {
            break tasks;
        }
    };
    stopper.drain();
    running.await.unwrap();
    let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
    let details = backend.tasks().read(&ids).await.unwrap();
    let late = |detail: rhubarb_core::backend::TaskDetail| Some(detail.record.submitted.since(detail.spec?.tick?));
    let mut late: Vec<Duration> = details.into_iter().flatten().filter_map(late).collect();
    late.sort_unstable();
    let at = |percent: usize| late[(late.len() - 1) * percent / 100];
    println!("lateness of {} ticks: p50 {:?}, p99 {:?}, most {:?}", late.len(), at(50), at(99), at(100));
}

/// Each at another minute of the day.
async fn many() {
    let dir = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(LocalBackend::open(dir.path(), Options::default()).unwrap());
    let config = Arc::new(Config::parse(TOML, &NoVars, &Overrides::default()).unwrap());
    let daily = |index: usize| {
        let cron = format!("{} {} * * ? *", index % 60, index / 60 % 24);
        let zone = Some("Europe/Berlin".into());
        let definition = Definition { cron: Some(cron), timezone: zone, task: "t".into(), ..Definition::default() };
        record(&format!("s{index}"), &definition)
    };
    let all: Vec<usize> = (0..SCHEDULES).collect();
    for part in all.chunks(1000) {
        put(&*backend, &part.iter().copied().map(daily).collect::<Vec<_>>()).await;
    }
    let mut scheduler = Scheduler::new(Arc::clone(&backend), config);
    scheduler.refresh().await.unwrap();
    scheduler.forget();
    let (memory, began) = (resident(), Instant::now());
    scheduler.refresh().await.unwrap();
    println!(
        "{SCHEDULES} schedules read: {:?}, {} KiB more memory",
        began.elapsed(),
        resident().saturating_sub(memory)
    );
    let began = Instant::now();
    scheduler.refresh().await.unwrap();
    println!("nothing changed: {:?}", began.elapsed());
    let began = Instant::now();
    let next = scheduler.fire(now()).await.unwrap().next;
    println!("the next due one, {} away: {:?}", next.map_or(0, |next| next.since(now()).as_secs()), began.elapsed());
    let minute = next.unwrap();
    let began = Instant::now();
    let fired = scheduler.fire(minute).await.unwrap();
    println!("{} ticks of one minute: {:?}", fired.ticks, began.elapsed());
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
