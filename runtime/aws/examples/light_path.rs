//! What the light path costs: `cargo run --release -p rhubarb-aws --example light_path [TASKS]`.
//!
//! On one emulator in one run, several roads for the same number of messages, ten a request: a bare `aws-sdk-sqs` loop
//! (send, receive, delete, nothing else) with a least message, and with the very messages that tasks are; the latter
//! through Rhubarb's broker alone; whole tasks at track level `none`; and at `full`, with rows, claims and results
//! (submit, take, finish, both acknowledgement modes). Each road is taken once in every round, so that what else the
//! machine does falls on all of them; prints the medians of the rounds, tasks a second and their share of each loop, and
//! the requests of each kind that one task took. An emulator's speed is its own: compare the lines with each other,
//! and with nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, Instant, SystemTime},
};

use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageAttributeValue, SendMessageBatchRequestEntry};
use rhubarb_aws::{AwsBackend, AwsOptions, Connection};
use rhubarb_core::{
    backend::{
        Backend, Broker, ClaimPolicy, Doorbell, Finish, Log, OutgoingMessage, Settlement, Submission, Take, Window,
        Won,
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
    let tasks = std::env::args().nth(1).map_or(Ok(400), |count| count.parse())?;
    let emulator = Emulator::start();
    let connection = Connection::to_emulator(emulator.endpoint(), REGION);
    let config = Config::parse(CONFIG, &NoVars, &Overrides::default())?;
    let options = AwsOptions { create: true, ..AwsOptions::default() };
    let backend = AwsBackend::over(connection.clone(), &config, options).await?;
    let place = Place { client: aws_sdk_sqs::Client::new(connection.sdk()), backend, config };
    let mut taken: [Vec<f64>; ROADS.len()] = Default::default();
    let mut requests: [Requests; ROADS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (index, road) in ROADS.into_iter().enumerate() {
            let before = place.backend.requests();
            let began = Instant::now();
            place.take(road, tasks).await?;
            taken[index].push(tasks as f64 / began.elapsed().as_secs_f64());
            requests[index] = since(&before, place.backend.requests());
        }
    }
    println!("{tasks} tasks in each of {ROUNDS} rounds, {BATCH} a request, one at a time; medians");
    let share = |index: usize, of: usize| median(taken[index].iter().zip(&taken[of]).map(|(road, of)| road / of));
    for (index, road) in ROADS.into_iter().enumerate() {
        let rate = median(taken[index].iter().copied());
        println!(
            "{road}: {rate:.0} tasks/s, {:.2} of the loop, {:.2} of the same messages'",
            share(index, 0),
            share(index, 1)
        );
        for (operation, count) in &requests[index] {
            println!("    {operation}: {:.3} a task", *count as f64 / tasks as f64);
        }
    }
    place.backend.close().await;
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A way for messages from their send to their end.
#[derive(Clone, Copy)]
enum Road {
    /// Nothing but the SDK, with a least message.
    Loop,
    /// The same, with the messages that tasks are.
    SameMessages,
    Broker,
    Tasks(&'static str, Track, AckMode),
}

const ROUNDS: usize = 5;
/// The two loops come first: the others are compared with them.
const ROADS: [Road; 6] = [
    Road::Loop,
    Road::SameMessages,
    Road::Broker,
    Road::Tasks("none", Track::None, AckMode::Message),
    Road::Tasks("lease", Track::Full, AckMode::Lease),
    Road::Tasks("message", Track::Full, AckMode::Message),
];

impl fmt::Display for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop => f.write_str("a bare loop of aws-sdk-sqs"),
            Self::SameMessages => f.write_str("a bare loop with the same messages"),
            Self::Broker => f.write_str("the broker alone"),
            Self::Tasks(_, track, ack) => write!(f, "whole tasks, track {track}, ack {}", ack.as_str()),
        }
    }
}

struct Place {
    client: aws_sdk_sqs::Client,
    backend: AwsBackend,
    config: Config,
}

impl Place {
    async fn take(&self, road: Road, tasks: usize) -> Result<(), AnyError> {
        let (bare_queue, broker_queue) = (QueueName::new("bare")?, QueueName::new("broker")?);
        match road {
            Road::Loop => {
                let message = OutgoingMessage { body: "{\"task\":\"noop\"}".into(), ..OutgoingMessage::default() };
                bare(&self.client, &self.backend.queue_url(&bare_queue).await?, &message, tasks).await
            }
            Road::SameMessages => {
                let message = self.message(&bare_queue)?;
                bare(&self.client, &self.backend.queue_url(&bare_queue).await?, &message, tasks).await
            }
            Road::Broker => broker(self.backend.broker(), &broker_queue, &self.message(&broker_queue)?, tasks).await,
            Road::Tasks(queue, _, ack) => whole(&self.backend, &self.config, &QueueName::new(queue)?, ack, tasks).await,
        }
    }

    /// What a task is sent as.
    fn message(&self, queue: &QueueName) -> Result<OutgoingMessage, AnyError> {
        let spec = envelope()?.encode();
        let doorbell = Doorbell { id: TaskId::mint(), rings: Doorbell::FIRST, spec: &spec, delay: Duration::ZERO };
        Ok(doorbell.message(queue, self.backend.broker()))
    }
}

fn since(before: &Requests, after: Requests) -> Requests {
    let more = |(name, count): (String, u64)| {
        let more = count - before.get(&name).copied().unwrap_or(0);
        (more > 0).then_some((name, more))
    };
    after.into_iter().filter_map(more).collect()
}

async fn bare(
    client: &aws_sdk_sqs::Client,
    url: &str,
    message: &OutgoingMessage,
    tasks: usize,
) -> Result<(), AnyError> {
    let attribute = |(name, value): (&String, &String)| {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build()?;
        Ok::<_, AnyError>((name.clone(), value))
    };
    let attributes = message.attributes.iter().map(attribute).collect::<Result<HashMap<_, _>, _>>()?;
    let attributes = Some(attributes).filter(|attributes| !attributes.is_empty());
    for _ in 0..tasks / BATCH {
        let entries = (0..BATCH).map(|index| {
            let entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(&message.body);
            entry.set_message_attributes(attributes.clone()).build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        client.send_message_batch().queue_url(url).set_entries(Some(entries)).send().await?;
    }
    let mut left = tasks / BATCH * BATCH;
    while left > 0 {
        let receive = client.receive_message().queue_url(url).max_number_of_messages(10);
        let names = attributes.as_ref().map(|_| vec!["All".to_owned()]);
        let received = receive.set_message_attribute_names(names).send().await?;
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

async fn broker(
    broker: &dyn Broker,
    queue: &QueueName,
    message: &OutgoingMessage,
    tasks: usize,
) -> Result<(), AnyError> {
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
    let policy = ClaimPolicy { lease: LEASE, keep: (KEEP, KEEP), ..ClaimPolicy::new(queue.clone(), ack) };
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

fn envelope() -> Result<Envelope, AnyError> {
    Ok(Envelope::new(TaskId::mint(), TaskName::new("noop")?, RawValue::from_string("{}".into())?))
}

fn submission(queue: &QueueName) -> Result<Submission, AnyError> {
    Ok(Submission::new(&envelope()?, queue.clone(), Window::DEFAULT))
}

fn finish(queue: &QueueName, won: &Won) -> Finish {
    let (id, fence, outcome) = (won.id, won.row.fence, Outcome::Succeeded(None));
    let settlement = Settlement { id, fence, outcome, log: Log::default(), keep: (KEEP, KEEP) };
    Finish { queue: queue.clone(), settlement, receipt: won.receipt.clone(), hideable: LEASE }
}
