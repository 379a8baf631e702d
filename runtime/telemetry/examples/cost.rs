//! What telemetry costs the processes of one task, in CPU time: `cargo run --release -p rhubarb-telemetry --features
//! export --example cost [TASKS]`.
//!
//! One task is a send, a receive, an attempt and a settlement, as producer and agent tell of them. Each way to be
//! configured is a process of its own, several times in turns, and the median counts: CPU time of all its threads,
//! up to the last export. The collector is this process, which throws away what it gets; once it is one that is down.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
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
    Telemetry, metrics,
    queues::Queues,
    resource,
    settings::Settings,
    spans::{self, Context},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const CONFIG: &str = "[app]\nname = \"cost\"\n[functions.f]\npackage = \"f\"\n";
const ROUNDS: usize = 7;
/// Nobody listens there.
const DOWN: &str = "http://127.0.0.1:9";

/// A way to be configured: what it is, the exporters of traces and metrics, and how much is sampled.
const WAYS: [(&str, &str, &str, &str); 6] = [
    ("the task itself, nothing told", "", "", ""),
    ("telemetry off", "none", "none", "1"),
    ("metrics only", "none", "otlp", "1"),
    ("traces at 1 %", "otlp", "none", "0.01"),
    ("traces at 100 %", "otlp", "none", "1"),
    ("traces at 100 %, collector down", "otlp", "none", "1"),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [way, tasks, endpoint] = arguments.as_slice() {
        return measure(way.parse()?, tasks.parse()?, endpoint);
    }
    let tasks = arguments.first().map_or("50000", String::as_str);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || collect(&listener));
    let mut measured = vec![Vec::new(); WAYS.len()];
    let mut lost = [""; WAYS.len()].map(str::to_owned);
    for _ in 0..ROUNDS {
        for (way, (name, ..)) in WAYS.iter().enumerate() {
            let endpoint = if name.ends_with("down") { DOWN } else { &endpoint };
            let child = Command::new(std::env::current_exe()?).args([&way.to_string(), tasks, endpoint]).output()?;
            let told = String::from_utf8(child.stdout)?;
            let (nanos, spans) = told.trim().split_once(' ').ok_or("a way was not measured")?;
            measured[way].push(nanos.parse::<u64>()?);
            lost[way] = spans.to_owned();
        }
    }
    let medians = measured.into_iter().map(|mut nanos| {
        nanos.sort_unstable();
        nanos[nanos.len() / 2] as f64 / 1000.0
    });
    let medians: Vec<f64> = medians.collect();
    for ((name, ..), (median, spans)) in WAYS.iter().zip(medians.iter().zip(lost)) {
        println!("{name:32} {median:7.2} us a task, {:+7.2}; {spans}", median - medians[0]);
    }
    Ok(())
}

/// Runs one way to its end, and prints nanoseconds a task and what became of the spans.
fn measure(way: usize, tasks: u32, endpoint: &str) -> Result<()> {
    let (_, traces, metrics, ratio) = *WAYS.get(way).ok_or("no such way")?;
    let vars: HashMap<String, String> = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_TRACES_EXPORTER", traces),
        ("OTEL_METRICS_EXPORTER", metrics),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", ratio),
        // Room for all that one collector cannot take as fast as a loop makes it.
        ("OTEL_BSP_MAX_QUEUE_SIZE", if endpoint == DOWN { "2048" } else { "1000000" }),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let config = Config::parse(CONFIG, &NoVars, &Overrides::default())?;
    let (queues, worker) = (Queues::of(&config), WorkerId::new("worker")?);
    let settings = Settings::read(&vars)?;
    let telemetry = match traces {
        "" => Telemetry::default(),
        _ => Telemetry::start(&settings, resource::describe(&settings, &vars, "cost"))?,
    };
    let begun = cpu();
    for _ in 0..tasks {
        if way == 0 {
            std::hint::black_box(won(&prepare(&config)?));
        } else {
            one(&config, &queues, &worker)?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(telemetry.flush(Duration::from_secs(60)));
    println!("{} {:?}", ((cpu() - begun) / tasks).as_nanos(), telemetry.spans());
    Ok(())
}

fn prepare(config: &Config) -> Result<rhubarb_core::enqueue::Prepared> {
    let task = NewTask::new("noop".parse()?, null());
    Ok(task.prepare(config, &Limits::AWS, Timestamp::from_system(SystemTime::now()), TaskId::mint())?)
}

fn won(prepared: &rhubarb_core::enqueue::Prepared) -> Won {
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
    Won {
        id: prepared.envelope.id,
        task: prepared.envelope.task.clone(),
        spec: String::from("{}"),
        message: MessageId::new("message"),
        receipt: None,
        receive_count: 1,
        sent: Timestamp(0),
        first_received: Timestamp(0),
        row,
    }
}

fn one(config: &Config, queues: &Queues, worker: &WorkerId) -> Result<()> {
    let mut prepared = prepare(config)?;
    let send = spans::Send::begin(queues, &mut prepared, &Context::new());
    send.end(&Ok(()));
    let won = won(&prepared);
    let (queue, began) = (default_queue(), SystemTime::now());
    spans::received(queues, &queue, began, std::slice::from_ref(&won));
    let attempt = spans::Attempt::begin(queues, &queue, worker, &won, &prepared.envelope);
    std::hint::black_box(attempt.trace());
    attempt.end(&Outcome::Succeeded(None));
    spans::Settle::begin(queues, &queue, std::iter::once(&attempt)).end(None);
    if let Some(metrics) = metrics::get() {
        metrics.waited(&queue, &won.task, Duration::from_millis(3));
        metrics.ran(queues, &queue, &won.task, Duration::from_millis(5), None);
        metrics.ended(&queue, &won.task, "succeeded", Some("succeeded"), false);
    }
    Ok(())
}

/// CPU time of this process so far, all its threads.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Takes every export and keeps nothing.
fn collect(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // An exporter that goes away in the middle is no trouble of ours.
            let _ = answer(&stream);
        });
    }
}

fn answer(stream: &TcpStream) -> std::io::Result<()> {
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line)? > 2 {
            if let Some((_, value)) =
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        if std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())? == 0 {
            return Ok(());
        }
        writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")?;
    }
}
