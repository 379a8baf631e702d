//! How fast the embedded store is: `cargo run --release -p rhubarb-local --example speed [TASKS [ROWS]]`.
//!
//! Prints tasks a second for bulk submits and for take and finish at 1, 10 and 100 a call, with the
//! settled records kept, how long a task takes from submit to settled through another process that
//! waits for it, and what a short visit costs. With ROWS, so many waiting rows lie in the file before.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, ClaimPolicy, Filter, Finish, Log, Settlement, Submission, Take, Window, Won},
    envelope::Envelope,
    ids::{QueueName, TaskId, TaskName, WorkerId},
    outcome::{Outcome, Output},
    row::AckMode,
    time::Timestamp,
};
use rhubarb_local::{LocalBackend, Options};
use serde_json::value::RawValue;

type AnyError = Box<dyn std::error::Error>;

fn submissions(queue: &QueueName, count: usize) -> Result<Vec<Submission>, AnyError> {
    let task = TaskName::new("noop")?;
    (0..count)
        .map(|i| {
            let args = RawValue::from_string(format!("{{\"i\":{i}}}"))?;
            let envelope = Envelope::new(TaskId::mint(), task.clone(), args);
            Ok(Submission::new(&envelope, queue.clone(), Window::DEFAULT))
        })
        .collect()
}

fn policy(queue: &QueueName) -> ClaimPolicy {
    let keep = Duration::from_secs(7 * 24 * 60 * 60);
    ClaimPolicy { keep: (keep, keep), ..ClaimPolicy::new(queue.clone(), AckMode::Lease) }
}

fn finish(queue: &QueueName, won: &Won, keep: (Duration, Duration)) -> Result<Finish, AnyError> {
    let output = Output::Inline(RawValue::from_string("{}".into())?);
    let settlement = Settlement {
        id: won.id,
        fence: won.row.fence,
        outcome: Outcome::Succeeded(Some(output)),
        log: Log::default(),
        keep,
    };
    Ok(Finish { queue: queue.clone(), settlement, receipt: won.receipt.clone(), hideable: Duration::ZERO })
}

async fn fill(backend: &LocalBackend, queue: &QueueName, count: usize) -> Result<f64, AnyError> {
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let batch = submissions(queue, left.min(1_000))?;
        left -= batch.len();
        let began = Instant::now();
        for answer in backend.submit(&batch, Timestamp(0)).await {
            answer?;
        }
        spent += began.elapsed();
    }
    Ok(count as f64 / spent.as_secs_f64())
}

/// Takes and finishes everything: the finish of one call runs beside the take of the next.
async fn drain(backend: &LocalBackend, queue: &QueueName, batch: usize) -> Result<usize, AnyError> {
    let (policy, worker) = (policy(queue), WorkerId::new("speed")?);
    let mut done = 0;
    let mut finishing: Option<tokio::task::JoinHandle<Vec<_>>> = None;
    loop {
        let take = Take { policy: &policy, worker: &worker, max: batch, wait: Duration::ZERO };
        let won = backend.take(take).await?.won;
        if let Some(finishing) = finishing.take() {
            for answer in finishing.await? {
                let _: rhubarb_core::row::Settled = answer?;
                done += 1;
            }
        }
        if won.is_empty() {
            return Ok(done);
        }
        let finishes: Vec<Finish> =
            won.iter().map(|won| finish(queue, won, policy.keep)).collect::<Result<_, AnyError>>()?;
        let backend = backend.clone();
        finishing = Some(tokio::spawn(async move { backend.finish(&finishes).await }));
    }
}

fn micros() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros())
}

/// The other process: takes one at a time, settles it, until it is killed.
async fn taker(folder: &str) -> Result<(), AnyError> {
    let backend = LocalBackend::open(folder, Options::default())?;
    let queue = QueueName::new("latency")?;
    let (policy, worker) = (policy(&queue), WorkerId::new("taker")?);
    loop {
        let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::from_secs(20) };
        for won in backend.take(take).await?.won {
            let finish = finish(&queue, &won, policy.keep)?;
            backend.finish(&[finish]).await.remove(0)?;
        }
    }
}

async fn latency(backend: &LocalBackend, folder: &str) -> Result<(), AnyError> {
    let queue = QueueName::new("latency")?;
    let mut child = Command::new(std::env::current_exe()?).args(["taker", folder]).stdout(Stdio::null()).spawn()?;
    let mut micro_seconds = Vec::new();
    for round in 0..2_200 {
        let submission = submissions(&queue, 1)?;
        let began = micros();
        backend.submit(&submission, Timestamp(0)).await.remove(0)?;
        backend.tasks().wait_settled(&[submission[0].id], Duration::from_secs(20)).await?;
        if round >= 200 {
            micro_seconds.push(micros() - began);
        }
    }
    child.kill()?;
    child.wait()?;
    micro_seconds.sort_unstable();
    let at = |part: usize| micro_seconds[micro_seconds.len() * part / 100];
    println!("submit to settled, two processes: p50 {} us, p90 {} us, p99 {} us", at(50), at(90), at(99));
    Ok(())
}

/// Processor time of this process so far, in microseconds (user and system, in hundredths of a second).
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |index: usize| stat.split(' ').nth(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(13) + ticks(14)) * 10_000.0
}

/// A producer that comes and goes, as a command line does.
async fn visits(folder: &str) -> Result<(), AnyError> {
    let queue = QueueName::new("visits")?;
    let mut micro_seconds = Vec::new();
    for _ in 0..100 {
        let submission = submissions(&queue, 1)?;
        let began = Instant::now();
        let backend = LocalBackend::open(folder, Options::default())?;
        backend.submit(&submission, Timestamp(0)).await.remove(0)?;
        let filter = Filter { limit: 20, ..Filter::default() };
        backend.tasks().list(&filter).await?;
        drop(backend);
        micro_seconds.push(began.elapsed().as_micros());
    }
    micro_seconds.sort_unstable();
    println!("open, submit, list, close: p50 {} us, p99 {} us", micro_seconds[50], micro_seconds[99]);
    Ok(())
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    format!("{}, {}", line("VmHWM"), line("VmRSS"))
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "taker") {
        return taker(&args[2]).await;
    }
    let tasks: usize = args.get(1).map_or(Ok(200_000), |arg| arg.parse())?;
    let rows: usize = args.get(2).map_or(Ok(0), |arg| arg.parse())?;
    let folder = std::env::temp_dir().join(format!("rhubarb-speed-{}", std::process::id()));
    let backend = LocalBackend::open(&folder, Options::default())?;
    if rows > 0 {
        let queue = QueueName::new("earlier")?;
        println!("{rows} rows before: {:.0}/s", fill(&backend, &queue, rows).await?);
    }
    for batch in [1, 10, 100] {
        let queue = QueueName::new(&format!("drain-{batch}"))?;
        let count = if batch == 1 { tasks / 4 } else { tasks };
        let spent = cpu();
        let filled = fill(&backend, &queue, count).await?;
        let spent = (cpu() - spent) / count as f64;
        println!("submit, 1,000 a call: {filled:.0}/s, {spent:.1} us of processor each; {}", memory());
        let (began, spent) = (Instant::now(), cpu());
        let done = drain(&backend, &queue, batch).await?;
        let spent = (cpu() - spent) / count as f64;
        let speed = done as f64 / began.elapsed().as_secs_f64();
        println!("take and finish, {batch} a call: {speed:.0}/s, {spent:.1} us of processor each; {}", memory());
    }
    latency(&backend, &folder.to_string_lossy()).await?;
    visits(&folder.to_string_lossy()).await?;
    println!("{}", memory());
    drop(backend);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
