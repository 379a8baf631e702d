//! An application in a folder of its own, as a function's zip would hold it, and a queue in memory.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, Broker as _, Delivery, OutgoingMessage, QueueSpec, Submission, TaskDetail, Tasks as _, Window},
    config::Overrides,
    envelope::Envelope,
    ids::{QueueName, TaskId},
    outcome::Output,
    row::Row,
};
use rhubarb_lambda::{Feeder, Plan, feeder::Answer};
use rhubarb_testkit::{Clock, Faults, ManualClock, MemoryBackend, MemoryOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long Lambda hides a message that it hands over, and what an invocation has, where a test says nothing.
pub(crate) const VISIBILITY: Duration = Duration::from_secs(660);
pub(crate) const LONG: Duration = Duration::from_secs(110);

/// The folder of a function's zip: the configuration, and the function `scripted` beside it.
pub(crate) fn folder(queue: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let queue = if queue.contains("timeout") { queue.to_owned() } else { format!("timeout = \"10s\"\n{queue}") };
    let text = format!(
        "[app]\nname = \"tests\"\nbackend = \"aws\"\n\n[queues.q]\nclass = \"lambda\"\n{queue}\n\n\
         [functions.scripted]\npackage = \"scripted\"\nshutdown_grace = \"200ms\"\n"
    );
    std::fs::write(dir.path().join("rhubarb.toml"), text).unwrap();
    std::os::unix::fs::symlink(example("lambda_scripted"), dir.path().join("scripted")).unwrap();
    dir
}

/// The path of an example of this crate, built with the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().join("examples").join(name)
}

/// What Lambda would set, and what the deployment does.
pub(crate) fn variables() -> Vec<(OsString, OsString)> {
    [
        ("PATH", "/usr/bin:/bin"),
        ("RHUBARB_QUEUE", "q"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/22/[$LATEST]0123456789abcdef"),
        ("MODEL_STORE", "models/"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

pub(crate) fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

/// The envelope of a task that does what `script` says.
pub(crate) fn envelope(script: &Value) -> Envelope {
    let args = serde_json::value::to_raw_value(script).unwrap();
    Envelope::new(TaskId::mint(), "script".parse().unwrap(), args)
}

/// The event that Lambda makes of deliveries; `groups` are those of a FIFO queue.
pub(crate) fn event(deliveries: &[Delivery], groups: &[&str], queue: &str) -> Value {
    let record = |(index, delivery): (usize, &Delivery)| {
        let mut attributes = json!({
            "ApproximateReceiveCount": delivery.receive_count.to_string(),
            "SentTimestamp": delivery.sent.0.to_string(),
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": delivery.first_received.0.to_string(),
        });
        if let Some(group) = groups.get(index) {
            attributes["MessageGroupId"] = (*group).into();
        }
        json!({
            "messageId": delivery.message,
            "receiptHandle": delivery.receipt,
            "body": delivery.body,
            "attributes": attributes,
            "messageAttributes": {},
            "md5OfBody": "",
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:eu-central-1:000000000000:{queue}"),
            "awsRegion": "eu-central-1",
        })
    };
    json!({ "Records": deliveries.iter().enumerate().map(record).collect::<Vec<_>>() })
}

/// A sandbox over a queue in memory, and what stands for Lambda's poller.
pub(crate) struct Sandbox {
    pub(crate) dir: TempDir,
    pub(crate) backend: MemoryBackend,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) feeder: Feeder,
    pub(crate) queue: &'static str,
}

impl Sandbox {
    pub(crate) async fn new(queue: &str) -> Self {
        Self::with(queue, None).await
    }

    pub(crate) async fn with(queue: &str, faults: Option<Arc<dyn Faults>>) -> Self {
        let dir = folder(queue);
        let clock = ManualClock::new();
        let options = MemoryOptions { clock: Clock::Manual(Arc::clone(&clock)), faults, ..MemoryOptions::default() };
        let backend = MemoryBackend::new(options);
        let spec = QueueSpec { queue: self::queue(), max_receives: None, dead_letters: None };
        backend.declare(&[spec]).await.unwrap();
        let plan = Plan::read(dir.path(), &variables(), &Overrides::default()).unwrap();
        let queue = if plan.queue.fifo { "tests-dev-q.fifo" } else { "tests-dev-q" };
        let feeder = Feeder::start(plan, Arc::new(backend.clone())).await.unwrap();
        Self { dir, backend, clock, feeder, queue }
    }

    /// Accepts a task that does what `script` says.
    pub(crate) async fn enqueue(&self, script: Value) -> TaskId {
        self.submit(&envelope(&script)).await
    }

    pub(crate) async fn submit(&self, envelope: &Envelope) -> TaskId {
        let submission = Submission::new(envelope, queue(), Window::DEFAULT);
        for answer in Backend::submit(&self.backend, &[submission], self.backend.now().epoch).await {
            answer.unwrap();
        }
        envelope.id
    }

    /// Sends a body as any producer may.
    pub(crate) async fn send(&self, body: &str) {
        let message = OutgoingMessage { body: body.into(), ..OutgoingMessage::default() };
        for sent in self.backend.send(&queue(), &[message]).await {
            sent.unwrap();
        }
    }

    /// What Lambda would hand over now.
    pub(crate) async fn receive(&self) -> Vec<Delivery> {
        self.backend.receive(&queue(), 10, VISIBILITY, Duration::ZERO).await.unwrap()
    }

    /// Hands over what is there, and does with the answer what Lambda does. Returns the messages that were
    /// named as failures, by their place in the batch.
    pub(crate) async fn invoke(&self) -> Vec<usize> {
        self.invoke_within(LONG, &[]).await
    }

    pub(crate) async fn invoke_within(&self, time: Duration, groups: &[&str]) -> Vec<usize> {
        let deliveries = self.receive().await;
        assert!(!deliveries.is_empty(), "there is something to hand over");
        let event = event(&deliveries, groups, self.queue);
        let answer = self.feeder.invoke(event, SystemTime::now() + time).await.unwrap();
        let Answer::Batch(answer) = answer else { panic!("an answer to a batch") };
        let failed: Vec<_> = answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect();
        assert!(failed.iter().all(|id| deliveries.iter().any(|delivery| delivery.message == *id)), "{failed:?}");
        for delivery in deliveries.iter().filter(|delivery| !failed.contains(&delivery.message)) {
            for deleted in self.backend.delete(&queue(), std::slice::from_ref(&delivery.receipt)).await {
                deleted.unwrap();
            }
        }
        let is_failed = |(place, delivery): (usize, &Delivery)| failed.contains(&delivery.message).then_some(place);
        deliveries.iter().enumerate().filter_map(is_failed).collect()
    }

    pub(crate) fn row(&self, id: TaskId) -> Row {
        self.backend.row(id).unwrap()
    }

    pub(crate) async fn detail(&self, id: TaskId) -> TaskDetail {
        self.backend.read(&[id]).await.unwrap().pop().flatten().unwrap()
    }

    /// What a task gave.
    pub(crate) async fn output(&self, id: TaskId) -> Value {
        let Some(Output::Inline(output)) = self.detail(id).await.record.output else { panic!("an output in the row") };
        serde_json::from_str(output.get()).unwrap()
    }

    /// Lets time pass for the queue and the rows.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}
