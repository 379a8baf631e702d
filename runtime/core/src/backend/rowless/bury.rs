//! Where a task goes that failed for good: into a row, or with its reason into the dead-letter queue.
//!
//! The message is deleted only after that: a crash in between brings it back, with no attempt left, and it is buried
//! once more. A row stands once; of dead letters there are then two.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    backend::{
        Backend, Buried, Doorbell, Log, OutgoingMessage, Result, StoreError, Submission, Window, broker::sqs_accepts,
    },
    config::Track,
    envelope::Envelope,
    ids::{MessageId, QueueName, TaskId, WorkerId},
    outcome::Failure,
    time::Timestamp,
};

/// The attributes of a dead letter that say why it is one.
const ERROR_KIND: &str = "error_kind";
const ERROR_MESSAGE: &str = "error_message";
/// What SQS counts for an attribute beside its name and value: the name of its type.
const TYPE_BYTES: usize = "String".len();

/// What failed for good.
pub(super) enum Dead {
    Task(Box<Fallen>),
    Unreadable { message: MessageId, body: String, attributes: BTreeMap<String, String>, failure: Failure },
}

/// A task that failed for good.
pub(super) struct Fallen {
    pub(super) envelope: Envelope,
    pub(super) submitted: Timestamp,
    pub(super) attempt: u32,
    pub(super) max_attempts: u32,
    pub(super) worker: WorkerId,
    pub(super) started: Timestamp,
    pub(super) failure: Failure,
    pub(super) log: Log,
    pub(super) keep: (Duration, Duration),
}

impl Fallen {
    /// As its row is to show it. Its envelope says from now on that there is one, and is not to expire: what it
    /// waits for is to be redriven.
    fn into_buried(self, queue: &QueueName) -> Buried {
        let Self { mut envelope, submitted, attempt, max_attempts, worker, started, failure, log, keep } = self;
        envelope.redriven = Some(envelope.redriven.unwrap_or(0).saturating_add(1));
        (envelope.expires, envelope.not_before) = (None, None);
        // A key was never kept: this row must not begin to.
        let submission = Submission { key: None, ..Submission::new(&envelope, queue.clone(), Window::DEFAULT) };
        Buried { submission, submitted, attempt, max_attempts, worker, started, failure, log, keep }
    }
}

/// The reason of a message that has no attempt left: none of them was settled.
pub(super) fn worn_out(attempts: u32) -> Failure {
    Failure::new(Failure::WORKER_LOST, format!("its worker fell silent during attempt {attempts}, the last"))
}

/// Keeps what failed for good where the level wants it.
pub(super) async fn bury<B: Backend + ?Sized>(
    backend: &B,
    track: Track,
    queue: &QueueName,
    dead: Vec<Dead>,
) -> Vec<Result<()>> {
    match track {
        Track::None => send_aside(backend, queue, dead).await,
        Track::Failures | Track::Full => put_rows(backend, queue, dead).await,
    }
}

async fn put_rows<B: Backend + ?Sized>(backend: &B, queue: &QueueName, dead: Vec<Dead>) -> Vec<Result<()>> {
    let (mut buried, mut poison, mut of_tasks) = (Vec::new(), Vec::new(), Vec::with_capacity(dead.len()));
    for one in dead {
        of_tasks.push(matches!(one, Dead::Task(_)));
        match one {
            Dead::Task(task) => buried.push(task.into_buried(queue)),
            Dead::Unreadable { message, failure, .. } => poison.push((TaskId::of_message(&message), failure)),
        }
    }
    let tasks = backend.tasks();
    let mut of_buried = if buried.is_empty() { Vec::new() } else { tasks.bury(&buried).await }.into_iter();
    let mut of_poison =
        if poison.is_empty() { Vec::new() } else { tasks.bury_poison(queue, &poison).await }.into_iter();
    let missing = || Err(StoreError::Invalid("the store did not answer for every task".into()));
    let answer = |is_task| if is_task { of_buried.next() } else { of_poison.next() }.unwrap_or_else(missing);
    of_tasks.into_iter().map(answer).collect()
}

async fn send_aside<B: Backend + ?Sized>(backend: &B, queue: &QueueName, dead: Vec<Dead>) -> Vec<Result<()>> {
    let Some(aside) = queue.dead_letters() else {
        let what = format!("queue {queue} has no dead-letter queue: its name is too long for one");
        return dead.iter().map(|_| Err(StoreError::Invalid(what.clone()))).collect();
    };
    let messages: Vec<OutgoingMessage> = dead.into_iter().map(|one| letter(backend, &aside, one)).collect();
    backend.broker().send(&aside, &messages).await.into_iter().map(|sent| sent.map(|_| ())).collect()
}

/// The dead letter: the full envelope, ready to be sent again, and why in attributes.
fn letter<B: Backend + ?Sized>(backend: &B, aside: &QueueName, dead: Dead) -> OutgoingMessage {
    let (mut letter, failure) = match dead {
        Dead::Task(task) => {
            let (id, spec) = (task.envelope.id, task.envelope.encode());
            let doorbell = Doorbell { id, rings: Doorbell::FIRST, spec: &spec, delay: Duration::ZERO };
            (doorbell.message(aside, backend.broker()), task.failure)
        }
        Dead::Unreadable { message, body, attributes, failure } => {
            let own = backend.broker().is_fifo(aside).then(|| message.to_string());
            let letter =
                OutgoingMessage { body, attributes, group: own.clone(), deduplication: own, ..Default::default() };
            (letter, failure)
        }
    };
    let limits = backend.broker().limits();
    let used = letter.attributes.iter().map(|(name, value)| name.len() + value.len() + TYPE_BYTES).sum::<usize>();
    let mut room = limits.message_bytes_max.saturating_sub(letter.body.len() + used);
    for (name, text) in [(ERROR_KIND, &failure.kind), (ERROR_MESSAGE, &failure.message)] {
        let text = fitting(text, room.saturating_sub(name.len() + TYPE_BYTES));
        // SQS refuses an empty value, and an eleventh attribute.
        if !text.is_empty() && letter.attributes.len() < limits.attributes_max {
            room -= name.len() + TYPE_BYTES + text.len();
            letter.attributes.insert(name.to_owned(), text);
        }
    }
    letter
}

/// As much of a text as SQS takes into so many bytes.
fn fitting(text: &str, bytes: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().map(|c| if sqs_accepts(c) { c } else { ' ' }) {
        if kept.len() + c.len_utf8() > bytes {
            break;
        }
        kept.push(c);
    }
    kept
}
