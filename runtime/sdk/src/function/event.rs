//! The SQS event as Lambda gives it, read without copying what need not be copied.
//!
//! The attribute `rhubarb` of a record tells about its attempt. Without it the function runs on plain
//! Lambda, and SQS's own attributes stand in.

use std::borrow::Cow;

use rhubarb_core::contract::AttemptInfo;
use serde::Deserialize;

/// An event.
#[derive(Debug, Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "Records", borrow)]
    pub(super) records: Vec<Record<'a>>,
}

/// One record of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    #[serde(borrow)]
    pub(super) message_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) body: Cow<'a, str>,
    #[serde(borrow, default)]
    attributes: Attributes<'a>,
    #[serde(borrow, default)]
    message_attributes: MessageAttributes<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Attributes<'a> {
    #[serde(rename = "ApproximateReceiveCount", borrow, default)]
    receive_count: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
struct MessageAttributes<'a> {
    #[serde(borrow)]
    rhubarb: Option<Attribute<'a>>,
    #[cfg(feature = "otel")]
    #[serde(borrow)]
    traceparent: Option<Attribute<'a>>,
    #[cfg(feature = "otel")]
    #[serde(borrow)]
    tracestate: Option<Attribute<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribute<'a> {
    #[serde(borrow)]
    string_value: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// Reads an event.
    ///
    /// # Errors
    ///
    /// It is no SQS event; the message names the field.
    pub(super) fn read(text: &'a str) -> Result<Self, String> {
        serde_json::from_str(text)
            .map_err(|error| format!("the event is no SQS event: {error}; put a queue before the function"))
    }
}

impl Record<'_> {
    /// What the host says about the attempt.
    ///
    /// # Errors
    ///
    /// The attribute is there but cannot be read.
    pub(super) fn info(&self) -> Result<Option<AttemptInfo<'static>>, String> {
        let attribute = self.message_attributes.rhubarb.as_ref();
        let Some(text) = attribute.and_then(|attribute| attribute.string_value.as_ref()) else { return Ok(None) };
        let info: AttemptInfo<'_> = serde_json::from_str(text)
            .map_err(|error| format!("the message attribute `rhubarb` cannot be read: {error}"))?;
        Ok(Some(AttemptInfo { gpus: Cow::Owned(info.gpus.into_owned()), ..info }))
    }

    /// Where in which trace the attempt stands: `traceparent` and `tracestate`.
    #[cfg(feature = "otel")]
    pub(super) fn trace(&self) -> (Option<&str>, Option<&str>) {
        let of = &self.message_attributes;
        (
            of.traceparent.as_ref().and_then(|attribute| attribute.string_value.as_deref()),
            of.tracestate.as_ref().and_then(|attribute| attribute.string_value.as_deref()),
        )
    }

    /// How often SQS has delivered the message, this time included.
    pub(super) fn receive_count(&self) -> u32 {
        self.attributes.receive_count.parse().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use rhubarb_core::{
        contract,
        ids::{MessageId, TaskId},
        time::Timestamp,
    };

    use super::*;

    #[test]
    fn the_event_that_the_host_writes_is_read_whole() {
        let info = AttemptInfo {
            v: 1,
            id: TaskId::from_bytes([7; 16]),
            attempt: 2,
            max_attempts: 5,
            fence: 9,
            timeout_ms: 60_000,
            soft_timeout_ms: 54_000,
            gpus: Cow::Owned(vec!["GPU-1".to_owned()]),
            checkpoint: true,
        };
        let message = MessageId::new("m\"1");
        let record = contract::Record {
            message: &message,
            body: "{\"task\":\"t\",\"args\":\"ä\\n\"}",
            receive_count: 3,
            sent: Timestamp(1),
            first_received: Timestamp(2),
            arn: "arn:aws:sqs:eu-central-1:1:q",
            info: &info,
            traceparent: Some("00-0-0-01"),
            tracestate: None,
        };
        let text = contract::event(&[record.clone(), record]);
        let event = Event::read(&text).unwrap();
        assert_eq!(event.records.len(), 2);
        assert_eq!(event.records[0].message_id, "m\"1");
        assert_eq!(event.records[0].body, "{\"task\":\"t\",\"args\":\"ä\\n\"}");
        assert_eq!(event.records[1].receive_count(), 3);
        assert_eq!(event.records[1].info().unwrap(), Some(info));
    }

    #[test]
    fn awss_own_example_is_read() {
        let text = r#"{"Records":[{"messageId":"059f36b4-87a3-44ab-83d2-661975830a7d","receiptHandle":"AQEB","body":"Test message.",
            "attributes":{"ApproximateReceiveCount":"1","SentTimestamp":"1545082649183","SenderId":"AID","ApproximateFirstReceiveTimestamp":"1545082649185"},
            "messageAttributes":{"myAttribute":{"stringValue":"myValue","stringListValues":[],"binaryListValues":[],"dataType":"String"}},
            "md5OfBody":"e4e68fb7bd0e697a0ae8f1bb342846b3","eventSource":"aws:sqs","eventSourceARN":"arn:aws:sqs:us-east-2:123456789012:my-queue","awsRegion":"us-east-2"}]}"#;
        let event = Event::read(text).unwrap();
        assert_eq!(event.records[0].info(), Ok(None));
        assert_eq!(event.records[0].receive_count(), 1);
    }

    #[test]
    fn what_is_no_sqs_event_is_answered_with_the_field() {
        assert!(Event::read(r#"{"detail":{}}"#).unwrap_err().contains("`Records`"));
        assert!(Event::read(r#"{"Records":[{"body":"x"}]}"#).unwrap_err().contains("`messageId`"));
    }
}
