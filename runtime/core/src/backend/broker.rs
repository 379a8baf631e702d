//! Queues with the semantics of SQS: a received message is hidden, not gone.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    backend::{Result, StoreError},
    config::QueueConfig,
    ids::{MessageId, QueueName, ReceiptHandle},
    limits::Limits,
    time::Timestamp,
};

/// A message to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// The body, UTF-8.
    pub body: String,
    /// Hidden this long first.
    pub delay: Duration,
    /// Message attributes (strings): `traceparent`, `tracestate`, `task`, `v`.
    pub attributes: BTreeMap<String, String>,
    /// The group of a FIFO queue, or of a fair one.
    pub group: Option<String>,
    /// A FIFO queue's deduplication id.
    pub deduplication: Option<String>,
}

/// One receipt of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message, the same at each delivery.
    pub message: MessageId,
    /// This delivery.
    pub receipt: ReceiptHandle,
    /// The body as sent.
    pub body: String,
    /// How often it has been received, this time included.
    pub receive_count: u32,
    /// When it was sent.
    pub sent: Timestamp,
    /// When it was received for the first time.
    pub first_received: Timestamp,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

/// How many messages a queue holds, about: a broker may lag behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// To be received now.
    pub visible: u64,
    /// Received, neither deleted nor visible again.
    pub in_flight: u64,
    /// Sent with a delay that has not passed.
    pub delayed: u64,
}

impl Counts {
    /// True if the queue holds nothing at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.visible == 0 && self.in_flight == 0 && self.delayed == 0
    }
}

/// What a queue must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name.
    pub queue: QueueName,
    /// Received more often than this, a message moves to `dead_letters`.
    pub max_receives: Option<u32>,
    /// Where such messages go.
    pub dead_letters: Option<QueueName>,
}

impl QueueSpec {
    /// What a queue of the configuration must be like.
    #[must_use]
    pub fn of(queue: &QueueConfig) -> Self {
        let dead_letters = queue.dead_letters();
        let max_receives = dead_letters.is_some().then_some(queue.max_receives);
        Self { queue: queue.name.clone(), max_receives, dead_letters }
    }
}

/// Queues.
#[async_trait]
pub trait Broker: Send + Sync {
    /// What this broker may be asked for.
    fn limits(&self) -> &Limits;

    /// True if the queue keeps the order of each group and drops repeated deduplication ids: whoever knows
    /// the queues knows this too. A broker without such queues says no.
    fn is_fifo(&self, queue: &QueueName) -> bool {
        let _ = queue;
        false
    }

    /// Makes sure that the queues exist and are as described. Idempotent.
    ///
    /// # Errors
    ///
    /// One exists and contradicts its description.
    async fn declare(&self, queues: &[QueueSpec]) -> Result<()>;

    /// Sends messages. Returns after the broker has them.
    ///
    /// # Errors
    ///
    /// Per item; a message over a limit is `Invalid`, and the others are sent all the same.
    async fn send(&self, queue: &QueueName, messages: &[OutgoingMessage]) -> Vec<Result<MessageId>>;

    /// Receives up to `max` messages, each hidden for `visibility`. Waits up to `wait` for the first.
    /// Order is about that of sending.
    ///
    /// # Errors
    ///
    /// The broker cannot be reached, or `max` or a duration is over the limit.
    async fn receive(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>>;

    /// Hides messages for so long from now, and no longer than the limit counted from their receive.
    /// Zero makes them visible at once.
    ///
    /// # Errors
    ///
    /// Per item: `ReceiptExpired` where a newer delivery exists or the message is gone.
    async fn extend(&self, queue: &QueueName, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<()>>;

    /// Puts messages back, to be delivered after a delay. On SQS the same call as extend.
    ///
    /// # Errors
    ///
    /// As [`Self::extend`].
    async fn release(&self, queue: &QueueName, receipts: &[(ReceiptHandle, Duration)]) -> Vec<Result<()>> {
        self.extend(queue, receipts).await
    }

    /// Deletes messages. Deleting one that is gone is no error.
    ///
    /// # Errors
    ///
    /// Per item: `ReceiptExpired` where a newer delivery exists.
    async fn delete(&self, queue: &QueueName, receipts: &[ReceiptHandle]) -> Vec<Result<()>>;

    /// Counts a queue's messages, about.
    ///
    /// # Errors
    ///
    /// The broker cannot be reached.
    async fn counts(&self, queue: &QueueName) -> Result<Counts>;

    /// A queue's URL, for producers that know the broker and not Rhubarb. None where the broker has no such thing.
    ///
    /// # Errors
    ///
    /// `NoQueue`, or the broker cannot be reached.
    async fn locate(&self, queue: &QueueName) -> Result<Option<String>> {
        let _ = queue;
        Ok(None)
    }

    /// Deletes every message of a queue. Returns how many, about.
    ///
    /// # Errors
    ///
    /// The broker cannot be reached.
    async fn purge(&self, queue: &QueueName) -> Result<u64>;
}

impl Limits {
    /// Checks messages against the limits: one result each. Brokers call it before they send, since
    /// emulators accept what AWS refuses.
    ///
    /// # Errors
    ///
    /// Names the limit and the way out.
    pub fn check(&self, message: &OutgoingMessage) -> Result<()> {
        let attributes: usize =
            message.attributes.iter().map(|(name, value)| name.len() + value.len() + "String".len()).sum();
        let bytes = message.body.len() + attributes;
        if bytes > self.message_bytes_max {
            return Err(self.too_long(bytes));
        }
        if message.attributes.len() > self.attributes_max {
            let count = message.attributes.len();
            return Err(StoreError::Invalid(format!(
                "the message has {count} attributes, the limit is {}",
                self.attributes_max
            )));
        }
        if message.delay > self.delay_max {
            let (delay, max) = (message.delay, self.delay_max);
            return Err(StoreError::Invalid(format!(
                "the delay of {delay:?} is over the queue's limit of {max:?}: use `not_before`"
            )));
        }
        let keys = [("group", &message.group), ("deduplication id", &message.deduplication)];
        for (name, key) in keys.into_iter().filter_map(|(name, key)| key.as_ref().map(|key| (name, key))) {
            let count = key.chars().count();
            if count == 0 || count > self.key_chars_max {
                return Err(StoreError::Invalid(format!(
                    "the {name} has {count} characters: 1 to {} are allowed",
                    self.key_chars_max
                )));
            }
        }
        self.check_body(&message.body)
    }

    /// Checks a body alone, as [`Self::check`] does.
    ///
    /// # Errors
    ///
    /// Names the limit and the way out.
    pub fn check_body(&self, body: &str) -> Result<()> {
        if body.len() > self.message_bytes_max {
            return Err(self.too_long(body.len()));
        }
        if body.is_empty() {
            return Err(StoreError::Invalid("the message body is empty: SQS refuses it".into()));
        }
        // Nearly every body is accepted by its bytes alone: no control character, nothing near U+FFFE.
        if body.bytes().all(|byte| byte >= 0x20 && byte != 0xEF) {
            return Ok(());
        }
        match body.chars().find(|c| !sqs_accepts(*c)) {
            Some(c) => {
                Err(StoreError::Invalid(format!("the message body holds U+{:04X}, which SQS refuses", u32::from(c))))
            }
            None => Ok(()),
        }
    }

    fn too_long(&self, bytes: usize) -> StoreError {
        StoreError::Invalid(format!(
            "the message has {bytes} bytes, the limit is {}: pass large arguments by a blob (the client does so over {} bytes)",
            self.message_bytes_max, self.inline_bytes_max,
        ))
    }

    /// Checks a receive's numbers.
    ///
    /// # Errors
    ///
    /// Names the number and the limit.
    pub fn check_receive(&self, max: usize, visibility: Duration, wait: Duration) -> Result<()> {
        if max == 0 {
            return Err(StoreError::Invalid("a receive asks for at least one message".into()));
        }
        if visibility > self.visibility_max || wait > self.wait_max {
            return Err(StoreError::Invalid(format!(
                "a receive may hide for {:?} and wait for {:?} at most; asked: {visibility:?}, {wait:?}",
                self.visibility_max, self.wait_max,
            )));
        }
        Ok(())
    }
}

/// The characters of SQS's SendMessage: `#x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF`.
pub(super) const fn sqs_accepts(c: char) -> bool {
    matches!(c, '\u{9}' | '\u{A}' | '\u{D}' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}')
}
