//! The contract between host and function, version 1: the event a function is given, and what it may
//! answer.
//!
//! The event is the one AWS Lambda gives for an SQS event source mapping, with one more message
//! attribute, `rhubarb`, that a function may read and need not. The answer is Lambda's partial batch
//! response; beside it may stand `rhubarb: {v, records: {messageId: {outcome, output | error,
//! delay_ms}}}`. Without that, AWS's rules apply
//! (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>): null, `{}`, an
//! empty list and a null list are success; an unknown or empty id, or a malformed answer, fails the
//! whole batch.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    envelope::BlobRef,
    ids::{MessageId, TaskId},
    outcome::{Failure, Output},
    time::Timestamp,
};

/// The version of the contract.
pub const VERSION: u64 = 1;
/// The message attribute of a record that tells the function about its attempt.
pub const ATTRIBUTE: &str = "rhubarb";
/// The routes beside the Runtime API lie below this path.
pub const ROUTES: &str = "/rhubarb/v1";

/// What a function may know about its attempt: the JSON of the attribute [`ATTRIBUTE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptInfo<'a> {
    /// The contract's version.
    pub v: u64,
    /// The task.
    pub id: TaskId,
    /// This attempt, from 1.
    pub attempt: u32,
    /// Attempts in all.
    pub max_attempts: u32,
    /// The holder's fencing token.
    pub fence: u64,
    /// The longest this attempt may take.
    pub timeout_ms: u64,
    /// When the function is told to stop, as part of `timeout_ms`.
    pub soft_timeout_ms: u64,
    /// The devices leased for it.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub gpus: Cow<'a, [String]>,
    /// An earlier attempt left a checkpoint.
    #[serde(default)]
    pub checkpoint: bool,
}

/// One record of an event.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// The message id, by which the answer names the record.
    pub message: &'a MessageId,
    /// The message body that the function is given.
    pub body: &'a str,
    /// How often the task was delivered.
    pub receive_count: u32,
    /// When the message was sent.
    pub sent: Timestamp,
    /// When it was first received.
    pub first_received: Timestamp,
    /// The queue's ARN.
    pub arn: &'a str,
    /// The attempt.
    pub info: &'a AttemptInfo<'a>,
    /// The W3C trace context.
    pub traceparent: Option<&'a str>,
    /// What tracing systems added to it.
    pub tracestate: Option<&'a str>,
}

/// The SQS event of some records, as Lambda writes it.
#[must_use]
pub fn event(records: &[Record<'_>]) -> String {
    let mut out = Vec::with_capacity(records.iter().map(|record| record.body.len() * 5 / 4 + 1024).sum());
    let mut info = Vec::new();
    out.extend(b"{\"Records\":[");
    for (index, record) in records.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push_record(&mut out, record, &mut info);
    }
    out.extend(b"]}");
    // What is written as JSON is UTF-8.
    String::from_utf8(out).unwrap_or_default()
}

/// Writes one record; `info` is a buffer that all records share.
fn push_record(out: &mut Vec<u8>, record: &Record<'_>, info: &mut Vec<u8>) {
    use std::io::Write as _;
    out.extend(b"{\"messageId\":");
    push_json(out, record.message.as_str());
    // The host owns the receipt: a function that deletes its own message would break the protocol.
    out.extend(b",\"receiptHandle\":\"held-by-the-host\",\"body\":");
    push_json(out, record.body);
    let _ = write!(
        out,
        ",\"attributes\":{{\"ApproximateReceiveCount\":\"{}\",\"SentTimestamp\":\"{}\",\"SenderId\":\"rhubarb\",\"ApproximateFirstReceiveTimestamp\":\"{}\"}},\"messageAttributes\":{{\"{ATTRIBUTE}\":",
        record.receive_count, record.sent.0, record.first_received.0,
    );
    info.clear();
    push_json(info, record.info);
    push_attribute(out, std::str::from_utf8(info).unwrap_or_default());
    if let Some(traceparent) = record.traceparent {
        out.extend(b",\"traceparent\":");
        push_attribute(out, traceparent);
    }
    if let Some(tracestate) = record.tracestate {
        out.extend(b",\"tracestate\":");
        push_attribute(out, tracestate);
    }
    out.extend(b"},\"md5OfBody\":\"\",\"eventSource\":\"aws:sqs\",\"eventSourceARN\":");
    push_json(out, record.arn);
    out.extend(b",\"awsRegion\":");
    push_json(out, record.arn.split(':').nth(3).unwrap_or_default());
    out.push(b'}');
}

fn push_attribute(out: &mut Vec<u8>, value: &str) {
    out.extend(b"{\"stringValue\":");
    push_json(out, value);
    out.extend(b",\"stringListValues\":[],\"binaryListValues\":[],\"dataType\":\"String\"}");
}

fn push_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing text and numbers into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// What a function said about one record.
#[derive(Clone, Debug)]
pub enum Said {
    /// Done, with what it gave.
    Succeeded(Option<Output>),
    /// Failed; to be tried again by the queue's policy, or after `delay` if given.
    Failed {
        /// What went wrong.
        failure: Failure,
        /// No further attempt will help.
        fatal: bool,
        /// The function's own wish for the delay.
        delay: Option<Duration>,
    },
    /// Come back later; spends no attempt.
    Snoozed(Duration),
    /// Stopped because it was told to.
    Cancelled,
    /// Cut off by a shutdown that it was told of; spends no attempt.
    Interrupted,
    /// The function does not run tasks of this name.
    UnknownTask,
    /// The arguments do not fit the task's type.
    Poisoned(Failure),
}

/// The extended answer's word for each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Done.
    Succeeded,
    /// Failed, worth another attempt.
    Failed,
    /// Failed for good.
    Fatal,
    /// Come back after `delay_ms`.
    Snoozed,
    /// Stopped on request.
    Cancelled,
    /// Stopped by shutdown.
    Interrupted,
    /// Not a task of this function.
    UnknownTask,
    /// The arguments do not fit.
    Poisoned,
}

/// What the extended answer says about one record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordAnswer {
    /// What it came to.
    pub outcome: Word,
    /// What a succeeded task gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Box<RawValue>>,
    /// Where it was posted, when it is over the inline limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_blob: Option<BlobRef>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// When to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

/// The extended part of an answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Extended {
    /// The contract's version.
    pub v: u64,
    /// By message id.
    pub records: HashMap<String, RecordAnswer>,
}

/// An answer as a function writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Lambda's partial batch response.
    #[serde(rename = "batchItemFailures", default)]
    pub failures: Option<Vec<ItemFailure>>,
    /// Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rhubarb: Option<Extended>,
}

/// One failed record of a partial batch response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ItemFailure {
    /// The record's message id.
    #[serde(rename = "itemIdentifier", default)]
    pub id: Option<String>,
}

/// An answer that breaks the contract: the whole batch counts as failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the function's answer breaks the contract: {0}")]
pub struct BadAnswer(String);

impl BadAnswer {
    /// The failure that each record of the batch gets.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(Failure::BAD_ANSWER, self.to_string())
    }
}

/// Reads an answer for the records with these message ids; one result per id, in order.
/// `inline_bytes_max` bounds an output that is not posted as a blob.
///
/// # Errors
///
/// The answer is malformed, names a record that was not in the event, or is of an unknown version.
pub fn read_answer(body: &[u8], ids: &[&MessageId], inline_bytes_max: usize) -> Result<Vec<Said>, BadAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| BadAnswer("it is not UTF-8".into()))?;
    if text.trim().is_empty() {
        return Ok(ids.iter().map(|_| Said::Succeeded(None)).collect());
    }
    // Lambda takes any JSON that is no partial batch response for success: a string, a list, a number.
    let answer = match text.trim_start().as_bytes().first() {
        Some(b'{') => serde_json::from_str::<Answer>(text).map_err(|error| BadAnswer(error.to_string()))?,
        _ => {
            serde_json::from_str::<&RawValue>(text).map_err(|error| BadAnswer(format!("it is not JSON: {error}")))?;
            Answer::default()
        }
    };
    let mut extended = answer.rhubarb.unwrap_or_default();
    if extended.v > VERSION {
        return Err(BadAnswer(format!("`rhubarb.v` is {}, this host reads up to {VERSION}", extended.v)));
    }
    let mut failed = vec![false; ids.len()];
    for item in answer.failures.unwrap_or_default() {
        let id = item.id.unwrap_or_default();
        let Some(index) = ids.iter().position(|known| known.as_str() == id) else {
            return Err(BadAnswer(format!("`batchItemFailures` names `{id:.80}`, which is no record of this event")));
        };
        failed[index] = true;
    }
    let said = ids
        .iter()
        .zip(failed)
        .map(|(id, failed)| match extended.records.remove(id.as_str()) {
            Some(record) => said(record, failed, inline_bytes_max),
            None if failed => {
                let failure =
                    Failure::new(Failure::REPORTED, "the function reported the record as failed and gave no reason");
                Ok(Said::Failed { failure, fatal: false, delay: None })
            }
            None => Ok(Said::Succeeded(None)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    match extended.records.keys().next() {
        Some(stranger) => {
            Err(BadAnswer(format!("`rhubarb.records` names `{stranger:.80}`, which is no record of this event")))
        }
        None => Ok(said),
    }
}

fn said(record: RecordAnswer, failed: bool, inline_bytes_max: usize) -> Result<Said, BadAnswer> {
    let delay = record.delay_ms.map(Duration::from_millis);
    let failure = || {
        let (kind, message) =
            record.error.as_ref().map_or((Failure::REPORTED, "no reason given"), |e| (&e.kind, &e.message));
        Failure::new(kind, message)
    };
    Ok(match record.outcome {
        Word::Succeeded if failed => {
            return Err(BadAnswer("a record is both in `batchItemFailures` and `succeeded`".into()));
        }
        Word::Succeeded => match (record.output_blob, record.output) {
            (Some(blob), _) => Said::Succeeded(Some(Output::Blob(blob))),
            (None, Some(output)) if output.get().len() > inline_bytes_max => {
                let (size, route) = (output.get().len(), "post it to the output route");
                return Err(BadAnswer(format!(
                    "an output of {size} bytes is over the {inline_bytes_max} that fit: {route}"
                )));
            }
            (None, output) => Said::Succeeded(output.map(Output::Inline)),
        },
        Word::Failed => Said::Failed { failure: failure(), fatal: false, delay },
        Word::Fatal => Said::Failed { failure: failure(), fatal: true, delay: None },
        Word::Snoozed => Said::Snoozed(delay.unwrap_or_default()),
        Word::Cancelled => Said::Cancelled,
        Word::Interrupted => Said::Interrupted,
        Word::UnknownTask => Said::UnknownTask,
        Word::Poisoned => Said::Poisoned(failure()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> Result<Vec<Said>, BadAnswer> {
        let (a, b) = (MessageId::new("a"), MessageId::new("b"));
        read_answer(answer.as_bytes(), &[&a, &b], 100)
    }

    fn words(answer: &str) -> Vec<&'static str> {
        let word = |said: &Said| match said {
            Said::Succeeded(_) => "succeeded",
            Said::Failed { fatal: true, .. } => "fatal",
            Said::Failed { .. } => "failed",
            Said::Snoozed(_) => "snoozed",
            Said::Cancelled => "cancelled",
            Said::Interrupted => "interrupted",
            Said::UnknownTask => "unknown",
            Said::Poisoned(_) => "poisoned",
        };
        read(answer).unwrap().iter().map(word).collect()
    }

    #[test]
    fn awss_rules_hold_without_our_part() {
        for success in
            ["null", "{}", "", r#"{"batchItemFailures":[]}"#, r#"{"batchItemFailures":null}"#, r#""ok""#, "[1]"]
        {
            assert_eq!(words(success), ["succeeded", "succeeded"], "{success}");
        }
        assert_eq!(words(r#"{"batchItemFailures":[{"itemIdentifier":"b"}]}"#), ["succeeded", "failed"]);
    }

    #[test]
    fn what_aws_calls_a_complete_failure_breaks_the_contract() {
        for bad in [
            r#"{"batchItemFailures":[{"itemIdentifier":"stranger"}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#,
            r#"{"batchItemFailures":[{"wrong":"a"}]}"#,
            r#"{"batchItemFailures":7}"#,
            "{",
            "garbage",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn our_part_says_more_about_each_record() {
        let answer = r#"{"batchItemFailures":[{"itemIdentifier":"b"}],"rhubarb":{"v":1,"records":{"a":{"outcome":"succeeded","output":{"x":1}},"b":{"outcome":"snoozed","delay_ms":1500}}}}"#;
        let said = read(answer).unwrap();
        assert!(matches!(&said[0], Said::Succeeded(Some(Output::Inline(json))) if json.get() == r#"{"x":1}"#));
        assert!(matches!(said[1], Said::Snoozed(delay) if delay.as_millis() == 1500));
        assert!(read(r#"{"rhubarb":{"v":1,"records":{"z":{"outcome":"succeeded"}}}}"#).is_err());
        assert!(read(r#"{"rhubarb":{"v":2,"records":{}}}"#).is_err());
        let contradiction = r#"{"batchItemFailures":[{"itemIdentifier":"a"}],"rhubarb":{"v":1,"records":{"a":{"outcome":"succeeded"}}}}"#;
        assert!(read(contradiction).is_err());
    }

    #[test]
    fn an_output_over_the_inline_limit_is_refused_with_the_way_out() {
        let answer = format!(
            r#"{{"rhubarb":{{"v":1,"records":{{"a":{{"outcome":"succeeded","output":"{}"}}}}}}}}"#,
            "x".repeat(200)
        );
        assert!(read(&answer).unwrap_err().to_string().contains("output route"));
    }

    #[test]
    fn the_event_is_what_lambda_writes() {
        let message = MessageId::new("m-1");
        let info = AttemptInfo {
            v: 1,
            id: TaskId::from_bytes([7; 16]),
            attempt: 2,
            max_attempts: 3,
            fence: 4,
            timeout_ms: 1000,
            soft_timeout_ms: 900,
            gpus: Cow::Borrowed(&[]),
            checkpoint: false,
        };
        let record = Record {
            message: &message,
            body: "a \"quoted\"\nbody",
            receive_count: 2,
            sent: Timestamp(5),
            first_received: Timestamp(6),
            arn: "arn:aws:sqs:us-east-1:000000000000:q",
            info: &info,
            traceparent: None,
            tracestate: None,
        };
        let event: serde_json::Value = serde_json::from_str(&event(&[record.clone(), record])).unwrap();
        let record = &event["Records"][1];
        assert_eq!(record["body"], "a \"quoted\"\nbody");
        assert_eq!(record["attributes"]["ApproximateReceiveCount"], "2");
        assert_eq!(record["eventSource"], "aws:sqs");
        let attribute = record["messageAttributes"][ATTRIBUTE]["stringValue"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<AttemptInfo<'_>>(attribute).unwrap(), info);
    }
}
