//! What telemetry costs a whole agent with its functions: off, metrics alone, one trace in a hundred, every trace.
//!
//! The ways are measured in turns and the median of each is told, so that what else the machine does falls on all of
//! them alike. The collector takes everything and keeps nothing; its own time is not counted.

use std::time::Instant;

use rhubarb::Client;
use rhubarb_testkit::collector::Collector;
use rhubarb_tests::{AgentProcess, App};

use crate::{enqueue_many, figures::Figures, process, stop, succeeded, until_succeeded};

const ROUNDS: usize = 5;

/// A way: its name, whether it counts, and the share of traces that it sends, if it does.
const WAYS: [(&str, &str, Option<&str>); 4] = [
    ("telemetry off", "off", None),
    ("metrics alone", "127.0.0.1:0", None),
    ("metrics, 1 % of traces", "127.0.0.1:0", Some("0.01")),
    ("metrics, every trace", "127.0.0.1:0", Some("1")),
];

/// Drains so many tasks by each way, five times.
pub(crate) async fn costs(app: &App, client: &Client, queue: &str, batch: u64, tasks: u64, figures: &mut Figures) {
    let collector = Collector::start().await;
    collector.forget();
    let mut measured = vec![Vec::new(); WAYS.len()];
    for _ in 0..ROUNDS {
        for ((_, metrics, ratio), measured) in WAYS.iter().zip(&mut measured) {
            let before = succeeded(client, queue).await;
            enqueue_many(client, queue, tasks).await;
            let mut command = app.command(&["agent", queue, "--metrics", metrics]);
            if let Some(ratio) = ratio {
                command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/v1/traces", collector.endpoint()));
                command.env("OTEL_TRACES_SAMPLER", "traceidratio").env("OTEL_TRACES_SAMPLER_ARG", ratio);
            }
            let begun = Instant::now();
            let agent = AgentProcess::start(command).await;
            until_succeeded(client, queue, before + tasks).await;
            let drained = tasks as f64 / begun.elapsed().as_secs_f64();
            measured.push((process::usage(agent.id()).cpu.as_secs_f64() * 1e6 / tasks as f64, drained));
            stop(agent).await;
        }
    }
    for ((way, ..), measured) in WAYS.iter().zip(measured) {
        let (cpu, drained): (Vec<f64>, Vec<f64>) = measured.into_iter().unzip();
        figures.add(&format!("CPU per task, {batch} per invocation, {way}"), median(cpu), "us");
        figures.add(&format!("drain, {batch} per invocation, {way}"), median(drained), "tasks/s");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
