//! What Lambda hands over: the batch of an SQS event source mapping, or an order given by hand.
//!
//! Only what is needed of the event is read
//! (<https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>); what it lacks is named, and nothing of the
//! batch is lost by that: Lambda leaves all its messages in the queue.

use std::collections::BTreeMap;

use rhubarb_core::{
    backend::Delivery,
    ids::{MessageId, ReceiptHandle},
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// Where an SQS event comes from, in its own words.
const SQS: &str = "aws:sqs";

/// An invocation's event.
#[derive(Debug)]
pub enum Event {
    /// A batch of messages, in the order of the queue.
    Batch(Vec<Message>),
    /// `{"rhubarb":"sweep"}`: to sweep once, for applications where no agent runs.
    Sweep,
}

/// Why an event is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// It is neither a batch nor an order.
    #[error(
        "the event is neither a batch of an SQS queue nor {{\"rhubarb\":\"sweep\"}}: to run a task, send a message to the \
         queue that this function serves"
    )]
    Unknown,
    /// An order that does not exist.
    #[error("`rhubarb` cannot be {0}: the one order is \"sweep\"")]
    UnknownOrder(Value),
    /// A record lacks something.
    #[error("a record of the event cannot be read: {0}")]
    Record(#[from] serde_json::Error),
    /// A record comes from elsewhere.
    #[error("a record comes from `{0}`: only event source mappings of SQS queues are served")]
    Source(String),
    /// A record comes from another queue.
    #[error(
        "a record comes from `{arn}`, but this function serves `{queue}`: check its event source mapping and RHUBARB_QUEUE"
    )]
    OtherQueue {
        /// The record's queue.
        arn: String,
        /// The name, on AWS, of the queue that is served.
        queue: String,
    },
}

/// One record of an SQS event.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    message_id: String,
    receipt_handle: String,
    body: String,
    attributes: Attributes,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attributes {
    #[serde(deserialize_with = "number")]
    approximate_receive_count: u32,
    #[serde(deserialize_with = "number")]
    sent_timestamp: i64,
    #[serde(deserialize_with = "number")]
    approximate_first_receive_timestamp: i64,
    #[serde(rename = "AWSTraceHeader")]
    aws_trace_header: Option<String>,
    message_group_id: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribute {
    string_value: Option<String>,
}

/// SQS writes its numbers as strings.
fn number<'de, D: Deserializer<'de>, N: std::str::FromStr>(deserializer: D) -> Result<N, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| de::Error::custom(format!("`{}` is no number", text.escape_debug())))
}

impl Event {
    /// Reads an event for the queue of this name on AWS.
    ///
    /// # Errors
    ///
    /// Names what it lacks, or where it comes from if that is not the queue.
    pub fn read(mut event: Value, queue: &str) -> Result<Self, EventError> {
        if let Some(order) = event.get_mut("rhubarb") {
            return match order.as_str() {
                Some("sweep") => Ok(Self::Sweep),
                _ => Err(EventError::UnknownOrder(order.take())),
            };
        }
        let Some(Value::Array(records)) = event.get_mut("Records").map(Value::take) else {
            return Err(EventError::Unknown);
        };
        records.into_iter().map(|record| Message::read(record, queue)).collect::<Result<_, _>>().map(Self::Batch)
    }
}

impl Message {
    fn read(record: Value, queue: &str) -> Result<Self, EventError> {
        // Before anything else of it: the records of other services look otherwise.
        let source = record.get("eventSource").or_else(|| record.get("EventSource")).and_then(Value::as_str);
        if source != Some(SQS) {
            return Err(EventError::Source(source.unwrap_or_default().to_owned()));
        }
        let message: Self = serde_json::from_value(record)?;
        if message.event_source_arn.rsplit(':').next() != Some(queue) {
            return Err(EventError::OtherQueue { arn: message.event_source_arn, queue: queue.to_owned() });
        }
        Ok(message)
    }

    /// The message's id, by which the answer names it.
    #[must_use]
    pub fn id(&self) -> MessageId {
        MessageId::new(self.message_id.clone())
    }

    /// The group of a FIFO queue.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.attributes.message_group_id.as_deref()
    }

    /// The message as its queue delivered it.
    #[must_use]
    pub fn into_delivery(self) -> Delivery {
        let trace = self.attributes.aws_trace_header.map(|value| ("AWSTraceHeader".to_owned(), value));
        let strings = self.message_attributes.into_iter().filter_map(|(name, value)| Some((name, value.string_value?)));
        Delivery {
            message: MessageId::new(self.message_id),
            receipt: ReceiptHandle::new(self.receipt_handle),
            body: self.body,
            receive_count: self.attributes.approximate_receive_count,
            sent: Timestamp(self.attributes.sent_timestamp),
            first_received: Timestamp(self.attributes.approximate_first_receive_timestamp),
            attributes: strings.chain(trace).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record() -> Value {
        json!({
            "messageId": "2e1424d4-f796-459a-8184-9c92662be6da",
            "receiptHandle": "AQEBzWwaftRI0KuVm4tP",
            "body": "{\"task\":\"t\"}",
            "attributes": {
                "ApproximateReceiveCount": "2",
                "SentTimestamp": "1545082650636",
                "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": "1545082650649",
                "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793"
            },
            "messageAttributes": {
                "traceparent": { "stringValue": "00-a", "stringListValues": [], "binaryListValues": [], "dataType": "String" },
                "picture": { "binaryValue": "AAEC", "dataType": "Binary" }
            },
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846d7",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:app-dev-q",
            "awsRegion": "us-east-2"
        })
    }

    fn read(event: Value) -> Result<Event, String> {
        Event::read(event, "app-dev-q").map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_event_becomes_a_delivery() {
        let Event::Batch(batch) = read(json!({ "Records": [record()] })).unwrap() else { panic!("a batch") };
        assert_eq!(batch[0].group(), None);
        let delivery = batch[0].clone().into_delivery();
        assert_eq!(delivery.message.as_str(), "2e1424d4-f796-459a-8184-9c92662be6da");
        assert_eq!(delivery.receipt.as_str(), "AQEBzWwaftRI0KuVm4tP");
        assert_eq!(
            (delivery.receive_count, delivery.sent.0, delivery.first_received.0),
            (2, 1_545_082_650_636, 1_545_082_650_649)
        );
        let names: Vec<&str> = delivery.attributes.keys().map(String::as_str).collect();
        assert_eq!(names, ["AWSTraceHeader", "traceparent"]);
    }

    #[test]
    fn what_a_record_lacks_is_named() {
        let error_of = |change: &dyn Fn(&mut Value)| {
            let mut record = record();
            change(&mut record);
            read(json!({ "Records": [record] })).unwrap_err()
        };
        let error = error_of(&|record| drop(record.as_object_mut().unwrap().remove("receiptHandle")));
        assert!(error.contains("receiptHandle"), "{error}");
        let error = error_of(&|record| drop(record["attributes"].as_object_mut().unwrap().remove("SentTimestamp")));
        assert!(error.contains("SentTimestamp"), "{error}");
        let error = error_of(&|record| record["attributes"]["ApproximateReceiveCount"] = "many".into());
        assert!(error.contains("`many` is no number"), "{error}");
    }

    #[test]
    fn events_from_elsewhere_are_refused() {
        for event in [json!({}), json!("hello"), json!(null), json!([1]), json!({ "Records": {} })] {
            assert!(read(event).unwrap_err().contains("rhubarb"));
        }
        let mut other = record();
        other["eventSourceARN"] = "arn:aws:sqs:us-east-2:123456789012:app-dev-other".into();
        assert!(read(json!({ "Records": [other] })).unwrap_err().contains("serves `app-dev-q`"));
        let sns = json!({ "Records": [{ "EventSource": "aws:sns", "Sns": {} }] });
        assert!(read(sns).unwrap_err().contains("aws:sns"));
    }

    #[test]
    fn the_one_order_is_to_sweep() {
        assert!(matches!(read(json!({ "rhubarb": "sweep" })), Ok(Event::Sweep)));
        assert!(read(json!({ "rhubarb": "dance" })).unwrap_err().contains("\"dance\""));
    }
}
