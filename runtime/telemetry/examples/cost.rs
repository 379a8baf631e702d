//! What the spans of one task cost its processes, in CPU time: `cargo run --release -p rhubarb-telemetry
//! --features export --example cost [TASKS]`.
//!
//! One task is a send, a receive, an attempt and a settlement. Measured with no provider, with all traces, and
//! with one in a hundred; the collector is one that is down, so that what is sent costs what it costs to try.
//! CPU time of the whole process counts, the exporter's threads too.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use rhubarb_core::{
    backend::{Won, WonRow},
    config::{Config, NoVars, Overrides, default_queue},
    enqueue::NewTask,
    envelope::null,
    ids::{FencingToken, MessageId, TaskId, WorkerId},
    limits::Limits,
    outcome::Outcome,
    time::Timestamp,
};
use rhubarb_telemetry::{
    Telemetry,
    queues::Queues,
    resource,
    settings::Settings,
    spans::{self, Context},
};

const CONFIG: &str = "[app]\nname = \"cost\"\n[functions.f]\npackage = \"f\"\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tasks = std::env::args().nth(1).map_or(Ok(200_000), |text| text.parse::<u32>())?;
    let config = Config::parse(CONFIG, &NoVars, &Overrides::default())?;
    let queues = Queues::of(&config);
    let worker = WorkerId::new("worker")?;
    let run = || {
        let begun = cpu();
        for _ in 0..tasks {
            if let Err(error) = one(&config, &queues, &worker) {
                eprintln!("{error}");
            }
        }
        (cpu() - begun) / tasks
    };
    let bare = {
        let begun = cpu();
        for _ in 0..tasks {
            std::hint::black_box(prepare(&config)?);
        }
        (cpu() - begun) / tasks
    };
    println!("making the task itself, without any span: {bare:?} of CPU time a task");
    println!("spans, no exporter: {:?} more", run().saturating_sub(bare));
    for (ratio, what) in [("0.01", "one trace in a hundred"), ("1", "every trace")] {
        let vars: HashMap<String, String> = [
            ("OTEL_TRACES_EXPORTER", "otlp"),
            // Nobody listens there.
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", ratio),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let settings = Settings::read(&vars)?;
        let telemetry = Telemetry::start(&settings, resource::describe(&settings, &vars, "cost"))?;
        println!("spans, {what}: {:?} more; {:?}", run().saturating_sub(bare), telemetry.spans());
    }
    Ok(())
}

fn prepare(config: &Config) -> Result<rhubarb_core::enqueue::Prepared, Box<dyn std::error::Error>> {
    let task = NewTask::new("noop".parse()?, null());
    Ok(task.prepare(config, &Limits::AWS, Timestamp::from_system(SystemTime::now()), TaskId::mint())?)
}

fn one(config: &Config, queues: &Queues, worker: &WorkerId) -> Result<(), Box<dyn std::error::Error>> {
    let mut prepared = prepare(config)?;
    let send = spans::Send::begin(queues, &mut prepared, &Context::new());
    send.end(&Ok(()));
    let row = WonRow {
        fence: FencingToken(1),
        attempt: 1,
        max_attempts: 3,
        alone: false,
        submitted: Timestamp(0),
        queued_at: Timestamp(0),
        started: Timestamp(0),
        checkpoint: None,
    };
    let won = Won {
        id: prepared.envelope.id,
        task: prepared.envelope.task.clone(),
        spec: String::from("{}"),
        message: MessageId::new("message"),
        receipt: None,
        receive_count: 1,
        sent: Timestamp(0),
        first_received: Timestamp(0),
        row,
    };
    let (queue, began) = (default_queue(), SystemTime::now());
    spans::received(queues, &queue, began, std::slice::from_ref(&won));
    let attempt = spans::Attempt::begin(queues, &queue, worker, &won, &prepared.envelope);
    std::hint::black_box(attempt.trace());
    attempt.end(&Outcome::Succeeded(None));
    spans::Settle::begin(queues, &queue, std::iter::once(&attempt)).end(None);
    Ok(())
}

/// CPU time of this process so far, all its threads.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
