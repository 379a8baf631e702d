//! What the light path costs: `cargo run --release -p rhubarb-aws --example light_path [TASKS]`.
//!
//! On one emulator in one run, four roads for the same number of messages, ten a request: a bare `aws-sdk-sqs` loop
//! (send, receive, delete, nothing else); the same through Rhubarb's broker alone; whole tasks at track level `none`;
//! and at `full`, with rows, claims and results (submit, take, finish, both acknowledgement modes). Prints tasks a
//! second, and the requests of each kind that one task took. An emulator's speed is its own: compare the lines with each
//! other, and with nothing else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry};
use rhubarb_aws::{AwsBackend, AwsOptions, Connection};
use rhubarb_core::{
    backend::{
        Backend, Broker, ClaimPolicy, Finish, Log, OutgoingMessage, Settlement, Submission, Take, Window, Won,
        rowless::{self, Ended},
    },
    config::{Config, NoVars, Overrides, Track},
    envelope::Envelope,
    ids::{QueueName, ReceiptHandle, TaskId, TaskName, WorkerId},
    outcome::Outcome,
    row::AckMode,
    time::Timestamp,
};
use rhubarb_testkit::emulator::{Emulator, REGION};
use serde_json::value::RawValue;

type AnyError = Box<dyn std::error::Error>;
type Requests = BTreeMap<String, u64>;

const BATCH: usize = 10;
const LEASE: Duration = Duration::from_secs(60);
const KEEP: Duration = Duration::from_secs(60 * 60);
const CONFIG: &str = "[app]\nname = \"light\"\nbackend = \"aws\"\n[functions.f]\npackage = \"f\"\n[queues.bare]\n[queues.broker]\n[queues.none]\ntrack = \"none\"\n[queues.lease]\n[queues.message]\n";

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let tasks = std::env::args().nth(1).map_or(Ok(2_000), |count| count.parse())?;
    let emulator = Emulator::start();
    let connection = Connection::to_emulator(emulator.endpoint(), REGION);
    let config = Config::parse(CONFIG, &NoVars, &Overrides::default())?;
    let options = AwsOptions { create: true, ..AwsOptions::default() };
    let backend = AwsBackend::over(connection.clone(), &config, options).await?;
    let queue = |name: &str| QueueName::new(name);

    println!("{tasks} tasks, {BATCH} a request, one at a time");
    let began = Instant::now();
    bare(&connection, &backend.queue_url(&queue("bare")?).await?, tasks).await?;
    let loop_rate = told("a bare loop of aws-sdk-sqs", tasks, began, None, &Requests::new());
    let before = backend.requests();
    let began = Instant::now();
    broker(backend.broker(), &queue("broker")?, tasks).await?;
    told("the broker alone", tasks, began, Some(loop_rate), &since(&before, backend.requests()));
    for (name, track, ack) in [
        ("none", Track::None, AckMode::Message),
        ("lease", Track::Full, AckMode::Lease),
        ("message", Track::Full, AckMode::Message),
    ] {
        let before = backend.requests();
        let began = Instant::now();
        whole(&backend, &config, &queue(name)?, ack, tasks).await?;
        let requests = since(&before, backend.requests());
        let what = format!("whole tasks, track {track}, ack {}", ack.as_str());
        told(&what, tasks, began, Some(loop_rate), &requests);
    }
    backend.close().await;
    Ok(())
}

fn told(what: &str, tasks: usize, began: Instant, to: Option<f64>, requests: &Requests) -> f64 {
    let rate = tasks as f64 / began.elapsed().as_secs_f64();
    let share = to.map(|to| format!(", {:.2} of the loop", rate / to)).unwrap_or_default();
    println!("{what}: {rate:.0} tasks/s{share}");
    for (operation, count) in requests {
        println!("    {operation}: {:.3} a task", *count as f64 / tasks as f64);
    }
    rate
}

fn since(before: &Requests, after: Requests) -> Requests {
    let more = |(name, count): (String, u64)| {
        let more = count - before.get(&name).copied().unwrap_or(0);
        (more > 0).then_some((name, more))
    };
    after.into_iter().filter_map(more).collect()
}

async fn bare(connection: &Connection, url: &str, tasks: usize) -> Result<(), AnyError> {
    let client = aws_sdk_sqs::Client::new(connection.sdk());
    for _ in 0..tasks / BATCH {
        let entries = (0..BATCH).map(|index| {
            SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body("{\"task\":\"noop\"}").build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        client.send_message_batch().queue_url(url).set_entries(Some(entries)).send().await?;
    }
    let mut left = tasks / BATCH * BATCH;
    while left > 0 {
        let received = client.receive_message().queue_url(url).max_number_of_messages(10).send().await?;
        let entries = received.messages().iter().enumerate().map(|(index, message)| {
            let handle = message.receipt_handle().unwrap_or_default();
            DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(handle).build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        left -= entries.len();
        client.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await?;
    }
    Ok(())
}

async fn broker(broker: &dyn Broker, queue: &QueueName, tasks: usize) -> Result<(), AnyError> {
    let message = OutgoingMessage { body: "{\"task\":\"noop\"}".into(), ..OutgoingMessage::default() };
    for _ in 0..tasks / BATCH {
        for sent in broker.send(queue, &vec![message.clone(); BATCH]).await {
            sent?;
        }
    }
    let mut left = tasks / BATCH * BATCH;
    while left > 0 {
        let received = broker.receive(queue, BATCH, LEASE, Duration::ZERO).await?;
        left -= received.len();
        let receipts: Vec<ReceiptHandle> = received.into_iter().map(|delivery| delivery.receipt).collect();
        for deleted in broker.delete(queue, &receipts).await {
            deleted?;
        }
    }
    Ok(())
}

async fn whole(
    backend: &AwsBackend,
    config: &Config,
    queue: &QueueName,
    ack: AckMode,
    tasks: usize,
) -> Result<(), AnyError> {
    let track = config.queue(queue).map_or(Track::Full, |queue| queue.track);
    for _ in 0..tasks / BATCH {
        let batch = (0..BATCH).map(|_| submission(queue)).collect::<Result<Vec<_>, _>>()?;
        for answer in rowless::submit(backend, config, &batch, Timestamp::from_system(SystemTime::now())).await {
            answer?;
        }
    }
    let policy = ClaimPolicy {
        queue: queue.clone(),
        ack,
        lease: LEASE,
        max_attempts: 3,
        raw_task: None,
        purged_before: None,
        keep: (KEEP, KEEP),
        limits: rhubarb_core::permit::QueueLimits::NONE,
    };
    let worker = WorkerId::new("light")?;
    let mut left = tasks / BATCH * BATCH;
    while left > 0 {
        let take = Take { policy: &policy, worker: &worker, max: BATCH, wait: Duration::ZERO };
        let won = rowless::take(backend, track, take).await?.won;
        left -= won.len();
        let finishes: Vec<Finish> = won.iter().map(|won| finish(queue, won)).collect();
        let ended = |(won, finish)| Ended { won, finish, unknown: false };
        let settled = match track {
            Track::Full => backend.finish(&finishes).await,
            Track::Failures | Track::None => {
                let ended: Vec<Ended<'_>> = won.iter().zip(&finishes).map(ended).collect();
                rowless::finish(backend, track, queue, &worker, &ended).await
            }
        };
        for settled in settled {
            settled?;
        }
    }
    Ok(())
}

fn submission(queue: &QueueName) -> Result<Submission, AnyError> {
    let args = RawValue::from_string("{}".into())?;
    let envelope = Envelope::new(TaskId::mint(), TaskName::new("noop")?, args);
    Ok(Submission::new(&envelope, queue.clone(), Window::DEFAULT))
}

fn finish(queue: &QueueName, won: &Won) -> Finish {
    let (id, fence, outcome) = (won.id, won.row.fence, Outcome::Succeeded(None));
    let settlement = Settlement { id, fence, outcome, log: Log::default(), keep: (KEEP, KEEP) };
    Finish { queue: queue.clone(), settlement, receipt: won.receipt.clone(), hideable: LEASE }
}
