//! Sends: checked by us, packed by number and by bytes.

use async_trait::async_trait;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, MessageAttributeValue, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
    SendMessageBatchRequestEntry,
};
use aws_smithy_types::error::operation::BuildError;
use rhubarb_core::{
    backend::{OutgoingMessage, Result, StoreError},
    ids::{MessageId, QueueName},
    limits::Limits,
};

use super::{
    SqsBroker,
    batch::{self, Answered, BatchCall, ENTRIES_MAX},
    seconds,
};

/// The attribute that travels as a system attribute: AWS's own tracing reads it, and it counts to no limit.
pub(crate) const TRACE_HEADER: &str = "AWSTraceHeader";
/// The type of our attributes.
const STRING: &str = "String";

impl SqsBroker {
    pub(super) async fn send_all(&self, queue: &QueueName, messages: &[OutgoingMessage]) -> Vec<Result<MessageId>> {
        let fifo = self.inner.names.is_fifo(queue);
        let mut answers: Vec<Result<MessageId>> = Vec::with_capacity(messages.len());
        let mut sendable = Vec::with_capacity(messages.len());
        for (item, message) in messages.iter().enumerate() {
            let checked = check(&self.inner.limits, queue, message, fifo);
            if checked.is_ok() {
                sendable.push((item, size_of(message)));
            }
            answers.push(checked.map(|()| MessageId::new("")));
        }
        if sendable.is_empty() {
            return answers;
        }
        let batches = pack(&sendable, &self.inner.limits);
        let given = match self.url(queue).await {
            // A FIFO queue's batches go one after the other: they hold an order.
            Ok(url) => batch::run(&Send { broker: self, queue, url: &url, messages, fifo }, batches, fifo).await,
            Err(error) => sendable.iter().map(|(item, _)| (*item, Err(error.clone()))).collect(),
        };
        for (item, answer) in given {
            answers[item] = answer;
        }
        answers
    }
}

/// Splits messages, given with their bytes, by number and by bytes.
fn pack(messages: &[(usize, usize)], limits: &Limits) -> Vec<Vec<usize>> {
    let most = limits.batch_max.clamp(1, ENTRIES_MAX);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (item, size) in messages {
        match batches.last_mut() {
            Some(batch) if batch.len() < most && *size <= room => {
                batch.push(*item);
                room -= size;
            }
            _ => {
                batches.push(vec![*item]);
                room = limits.batch_bytes_max.saturating_sub(*size);
            }
        }
    }
    batches
}

/// Attributes that count, without the one that is a system attribute.
fn attributes(message: &OutgoingMessage) -> impl Iterator<Item = (&String, &String)> {
    message.attributes.iter().filter(|(name, _)| *name != TRACE_HEADER)
}

fn size_of(message: &OutgoingMessage) -> usize {
    let attributes: usize = attributes(message).map(|(name, value)| name.len() + value.len() + STRING.len()).sum();
    message.body.len() + attributes
}

fn check(limits: &Limits, queue: &QueueName, message: &OutgoingMessage, fifo: bool) -> Result<()> {
    if message.attributes.contains_key(TRACE_HEADER) {
        let counted = attributes(message).map(|(name, value)| (name.clone(), value.clone())).collect();
        limits.check(&OutgoingMessage { attributes: counted, ..message.clone() })?;
    } else {
        limits.check(message)?;
    }
    for (name, value) in attributes(message) {
        if value.is_empty() {
            return Err(StoreError::Invalid(format!(
                "the message attribute `{name}` is empty, which SQS refuses: leave it out"
            )));
        }
        let reserved = ["aws.", "amazon."].iter().any(|prefix| name.to_ascii_lowercase().starts_with(prefix));
        let allowed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if name.is_empty() || name.len() > 256 || reserved || !allowed {
            return Err(StoreError::Invalid(format!(
                "the message attribute `{}` has a name that SQS refuses: use letters, digits and `-_.`",
                name.escape_default()
            )));
        }
    }
    if fifo && !message.delay.is_zero() {
        return Err(StoreError::Invalid(format!(
            "queue `{queue}` is a FIFO queue, and SQS delays no message of one: leave the delay out"
        )));
    }
    if fifo && message.group.is_none() {
        return Err(StoreError::Invalid(format!(
            "queue `{queue}` is a FIFO queue: its messages need a group (`ordering_key`)"
        )));
    }
    Ok(())
}

/// The call: items are places in `messages`.
struct Send<'a> {
    broker: &'a SqsBroker,
    queue: &'a QueueName,
    url: &'a str,
    messages: &'a [OutgoingMessage],
    fifo: bool,
}

#[async_trait]
impl BatchCall for Send<'_> {
    type Given = MessageId;

    fn what(&self) -> String {
        format!("send to queue `{}`", self.queue)
    }

    async fn call(&self, items: &[usize]) -> Result<Answered<MessageId>> {
        let entries: std::result::Result<Vec<_>, BuildError> =
            items.iter().map(|item| entry(*item, &self.messages[*item], self.fifo)).collect();
        let entries = entries.map_err(|error| StoreError::Invalid(error.to_string()))?;
        let request = self.broker.inner.client.send_message_batch().queue_url(self.url).set_entries(Some(entries));
        let answer = request.send().await.map_err(|error| self.broker.failed("send to", self.queue, &error))?;
        let done = answer
            .successful
            .into_iter()
            .filter_map(|sent| Some((sent.id.parse().ok()?, MessageId::new(sent.message_id))))
            .collect();
        Ok(Answered { done, failed: answer.failed })
    }

    fn refused(&self, entry: &BatchResultErrorEntry) -> Result<MessageId> {
        let message = entry.message.as_deref().unwrap_or("no reason given");
        let (queue, code) = (self.queue, &entry.code);
        Err(StoreError::Invalid(format!("SQS refused a message to queue `{queue}` ({code}): {message}")))
    }
}

fn entry(
    item: usize,
    message: &OutgoingMessage,
    fifo: bool,
) -> std::result::Result<SendMessageBatchRequestEntry, BuildError> {
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(item.to_string())
        .message_body(&message.body)
        .set_message_group_id(message.group.clone())
        // A standard queue knows none and refuses the message.
        .set_message_deduplication_id(message.deduplication.clone().filter(|_| fifo));
    if !message.delay.is_zero() {
        entry = entry.delay_seconds(seconds(message.delay));
    }
    for (name, value) in attributes(message) {
        let value = MessageAttributeValue::builder().data_type(STRING).string_value(value).build()?;
        entry = entry.message_attributes(name, value);
    }
    if let Some(header) = message.attributes.get(TRACE_HEADER) {
        let value = MessageSystemAttributeValue::builder().data_type(STRING).string_value(header).build()?;
        entry = entry.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, value);
    }
    entry.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_is_split_by_number_and_by_bytes() {
        let limits = Limits { batch_max: 3, batch_bytes_max: 100, message_bytes_max: 100, ..Limits::AWS };
        let sizes = [10, 10, 10, 10, 95, 5, 1, 100, 60, 60];
        let messages: Vec<(usize, usize)> = sizes.into_iter().enumerate().collect();
        let batches = pack(&messages, &limits);
        assert_eq!(batches, [vec![0, 1, 2], vec![3], vec![4, 5], vec![6], vec![7], vec![8], vec![9]]);
        for batch in &batches {
            assert!(batch.iter().map(|item| sizes[*item]).sum::<usize>() <= 100);
        }
    }

    #[test]
    fn attributes_count_to_the_bytes_but_not_the_trace_header() {
        let mut message = OutgoingMessage { body: "x".repeat(10), ..OutgoingMessage::default() };
        message.attributes.insert("task".into(), "t".into());
        message.attributes.insert(TRACE_HEADER.into(), "Root=1-2-3".into());
        assert_eq!(size_of(&message), 10 + 4 + 1 + 6);
        let limits = Limits { message_bytes_max: 21, attributes_max: 1, ..Limits::AWS };
        let queue = QueueName::new("q").unwrap();
        check(&limits, &queue, &message, false).unwrap();
        message.body.push('x');
        check(&limits, &queue, &message, false).unwrap_err();
    }

    #[test]
    fn what_a_queue_s_kind_refuses_is_refused_before_it_is_sent() {
        let queue = QueueName::new("orders").unwrap();
        let message = OutgoingMessage { body: "x".into(), ..OutgoingMessage::default() };
        let refusal = check(&Limits::AWS, &queue, &message, true).unwrap_err();
        assert!(refusal.to_string().contains("ordering_key"), "{refusal}");
        let grouped = OutgoingMessage { group: Some("g".into()), ..message.clone() };
        check(&Limits::AWS, &queue, &grouped, true).unwrap();
        let late = OutgoingMessage { delay: std::time::Duration::from_secs(1), ..grouped };
        let refusal = check(&Limits::AWS, &queue, &late, true).unwrap_err();
        assert!(refusal.to_string().contains("leave the delay out"), "{refusal}");
        for (name, value) in [("task", ""), ("a b", "x"), ("AWS.x", "x")] {
            let attributes = [(name.to_owned(), value.to_owned())].into();
            check(&Limits::AWS, &queue, &OutgoingMessage { attributes, ..message.clone() }, false).unwrap_err();
        }
    }
}
