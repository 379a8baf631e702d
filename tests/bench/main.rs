//! The benchmark of the embedded backend: no-op tasks through a real function process, every guarantee on,
//! results kept. Not a test: it asserts nothing about time.
//!
//! `cargo build --release -p rhubarb-cli -p rhubarb-tests --bins`, then
//! `target/release/bench [--tasks N] [--rows N] [--only PART] [--peer celery-redis|celery-sqs]`
//!
//! Producer, agent and functions are processes of their own. Figures of one run on one machine can be
//! compared with each other, and with nothing else. `RHUBARB_PREFETCH` holds for its agents too.

mod figures;
mod peer;
mod process;
mod telemetry;

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use rhubarb::{Client, NewTask, core::row::State};
use rhubarb_tests::{AgentProcess, App};
use serde_json::value::RawValue;

use figures::{Figures, percentile};
use peer::Peer;

const APP: &str = r#"
[queues.one]
batch = 1
[queues.ten]
batch = 10
[queues.hundred]
batch = 100
[queues.fresh]
batch = 1
[queues.idle]
[workers.one]
queues = ["one"]
concurrency = 2
[workers.ten]
queues = ["ten"]
concurrency = 2
[workers.hundred]
queues = ["hundred"]
concurrency = 2
[workers.fresh]
queues = ["fresh"]
concurrency = 2
max_tasks_per_child = 1
"#;

const USAGE: &str = "usage: bench [--tasks N] [--rows N] [--only enqueue|1|10|100|latency|processes|telemetry] [--peer celery-redis|celery-sqs]";

/// What the command line asks for.
struct Options {
    tasks: u64,
    rows: u64,
    only: Option<String>,
    peer: Option<Peer>,
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == part)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let app = App::new(APP);
    let client = app.client().await;
    let mut figures = Figures::default();
    if options.rows > 0 {
        fill(&client, options.rows, &mut figures).await;
    }
    if options.wants("enqueue") {
        enqueue(&client, options.tasks, &mut figures).await;
    }
    for (queue, batch) in [("one", 1), ("ten", 10), ("hundred", 100)] {
        if options.wants(&batch.to_string()) {
            drain(&app, &client, queue, batch, options.tasks, &mut figures).await;
            end_to_end(&app, &client, queue, batch, options.tasks, &mut figures).await;
        }
    }
    if options.wants("latency") {
        latency(&app, client.clone(), &mut figures).await;
    }
    if options.wants("processes") {
        processes(&app, &client, &mut figures).await;
    }
    // Only where it is asked for: it drains forty times.
    if options.only.as_deref() == Some("telemetry") {
        telemetry::costs(&app, &client, "one", 1, options.tasks / 10, &mut figures).await;
        telemetry::costs(&app, &client, "ten", 10, options.tasks, &mut figures).await;
    }
    figures.print();
    if let Some(peer) = options.peer {
        peer.measure();
    }
}

fn options() -> Option<Options> {
    let mut options = Options { tasks: 100_000, rows: 0, only: None, peer: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--tasks" => options.tasks = arguments.next()?.parse().ok()?,
            "--rows" => options.rows = arguments.next()?.parse().ok()?,
            "--only" => options.only = Some(arguments.next()?),
            "--peer" => options.peer = Some(Peer::named(&arguments.next()?)?),
            _ => return None,
        }
    }
    Some(options)
}

fn noop(queue: &str) -> NewTask {
    let args = RawValue::from_string("{}".to_owned());
    #[expect(clippy::expect_used, reason = "both are constants")]
    let (name, args) = ("noop".parse().expect("a task name"), args.expect("JSON"));
    NewTask::named(name, args).queue(queue)
}

async fn enqueue_many(client: &Client, queue: &str, count: u64) {
    let tasks = futures::stream::iter((0..count).map(|_| noop(queue)));
    let mut accepted = client.enqueue_all(tasks);
    while let Some(answer) = accepted.next().await {
        if let Err(error) = answer {
            panic_with(&format!("cannot enqueue: {error}"));
        }
    }
}

/// A benchmark that cannot go on says why and ends.
fn panic_with(what: &str) -> ! {
    eprintln!("bench: {what}");
    std::process::exit(1)
}

/// Rows that are in the file and in nobody's way: a queue that no agent serves.
async fn fill(client: &Client, rows: u64, figures: &mut Figures) {
    let begun = Instant::now();
    enqueue_many(client, "idle", rows).await;
    figures.rate("fill: waiting tasks put into the file", rows, begun.elapsed());
}

async fn enqueue(client: &Client, tasks: u64, figures: &mut Figures) {
    let begun = Instant::now();
    enqueue_many(client, "idle", tasks).await;
    figures.rate("enqueue in bulk", tasks, begun.elapsed());
    let singly = tasks.min(5_000);
    let begun = Instant::now();
    for _ in 0..singly {
        one(client, "idle").await;
    }
    figures.rate("enqueue one by one", singly, begun.elapsed());
}

async fn one(client: &Client, queue: &str) -> rhubarb::core::ids::TaskId {
    #[expect(clippy::expect_used, reason = "both are constants")]
    let (name, args) = ("noop".parse().expect("a task name"), RawValue::from_string("{}".to_owned()).expect("JSON"));
    match client.enqueue_named(name, args).queue(queue).await {
        Ok(handle) => handle.id(),
        Err(error) => panic_with(&format!("cannot enqueue: {error}")),
    }
}

async fn succeeded(client: &Client, queue: &str) -> u64 {
    let counts = client.backend().tasks().count().await.unwrap_or_default();
    let of_queue = counts.iter().filter(|count| count.queue.as_str() == queue && count.state == State::Succeeded);
    of_queue.map(|count| count.count).sum()
}

async fn until_succeeded(client: &Client, queue: &str, count: u64) {
    // Seldom enough to cost the workers nothing.
    let mut look = tokio::time::interval(Duration::from_millis(10));
    while succeeded(client, queue).await < count {
        look.tick().await;
    }
}

/// All tasks are there before the agent starts.
async fn drain(app: &App, client: &Client, queue: &str, batch: u64, tasks: u64, figures: &mut Figures) {
    let before = succeeded(client, queue).await;
    enqueue_many(client, queue, tasks).await;
    let begun = Instant::now();
    let agent = app.agent(&[queue, "--log-level", "info"]).await;
    let start = begun.elapsed();
    until_succeeded(client, queue, before + tasks).await;
    figures.rate(&format!("drain, {batch} per invocation"), tasks, begun.elapsed());
    figures.add("  of which the agent's start took", start.as_secs_f64() * 1e3, "ms");
    let used = process::usage(agent.id());
    figures.add(
        &format!("  CPU per task, agent and functions, {batch} per invocation"),
        used.cpu.as_secs_f64() * 1e6 / tasks as f64,
        "us",
    );
    figures.add("  memory of the agent, highest", used.memory_peak as f64 / (1024.0 * 1024.0), "MiB");
    stop(agent).await;
}

/// Producer and agent at the same time, in two processes.
async fn end_to_end(app: &App, client: &Client, queue: &str, batch: u64, tasks: u64, figures: &mut Figures) {
    let before = succeeded(client, queue).await;
    let agent = app.agent(&[queue]).await;
    let begun = Instant::now();
    enqueue_many(client, queue, tasks).await;
    until_succeeded(client, queue, before + tasks).await;
    figures.rate(&format!("end to end, {batch} per invocation"), tasks, begun.elapsed());
    stop(agent).await;
}

/// From enqueue in this process to settled, seen in this process, one at a time.
async fn latency(app: &App, client: Client, figures: &mut Figures) {
    const ROUNDS: usize = 2_000;
    let agent = app.agent(&["one"]).await;
    // As a program that serves requests would wait: in a task, not in the runtime's main thread.
    let rounds = tokio::spawn(async move {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let id = one(&client, "one").await;
            if let Err(error) = client.wait(id, Duration::from_secs(30)).await {
                panic_with(&format!("task {id} was not settled: {error}"));
            }
            times.push(begun.elapsed());
        }
        times
    });
    let mut times = rounds.await.unwrap_or_else(|error| panic_with(&format!("the rounds ended early: {error}")));
    figures.add("latency, enqueue to settled, p50", percentile(&mut times, 0.5).as_secs_f64() * 1e3, "ms");
    figures.add("latency, enqueue to settled, p99", percentile(&mut times, 0.99).as_secs_f64() * 1e3, "ms");
    stop(agent).await;
}

/// One process per task.
async fn processes(app: &App, client: &Client, figures: &mut Figures) {
    const TASKS: u64 = 2_000;
    enqueue_many(client, "fresh", TASKS).await;
    let begun = Instant::now();
    let agent = app.agent(&["fresh"]).await;
    until_succeeded(client, "fresh", TASKS).await;
    figures.rate("one process per task", TASKS, begun.elapsed());
    stop(agent).await;
}

async fn stop(agent: AgentProcess) {
    let (status, log) = agent.stop().await;
    if !status.success() {
        panic_with(&format!("the agent ended with {status}:\n{log}"));
    }
}
