//! What an emulator never answers: partial failures, purges too soon, receipts past their time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rhubarb_core::{
    backend::{Broker as _, OutgoingMessage, StoreError},
    config::{Config, NoVars, Overrides},
    ids::{QueueName, ReceiptHandle},
    limits::Limits,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::SqsBroker;
use crate::scripted::{self, Answer, refusal};

type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// A broker whose answers a test writes, and the requests it made. URLs are found.
fn broker(limits: Limits, answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> (SqsBroker, Seen) {
    let seen = Seen::default();
    let log = Arc::clone(&seen);
    let connection = scripted::connection(move |operation, body| {
        let answer = match operation.as_str() {
            "GetQueueUrl" => (200, json!({ "QueueUrl": "http://127.0.0.1:1/000000000000/q" })),
            _ => answer(&operation, &body),
        };
        log.lock().unwrap().push((operation, body));
        async { answer }
    });
    let config = Config::parse("[app]\nname = \"t\"\n[functions.f]\npackage = \"f\"", &NoVars, &Overrides::default());
    (SqsBroker::new(&connection, &config.unwrap(), limits, false), seen)
}

fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

fn message(body: impl Into<String>) -> OutgoingMessage {
    OutgoingMessage { body: body.into(), ..OutgoingMessage::default() }
}

fn requests(seen: &Seen, operation: &str) -> Vec<Value> {
    let seen = seen.lock().unwrap();
    seen.iter().filter(|(name, _)| name == operation).map(|(_, body)| body.clone()).collect()
}

fn bodies(request: &Value) -> Vec<String> {
    let entries = request["Entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["MessageBody"].as_str().unwrap().to_owned()).collect()
}

/// Every entry was sent.
fn all_sent(request: &Value) -> Answer {
    let entries = request["Entries"].as_array().unwrap();
    let sent: Vec<Value> = entries
        .iter()
        .map(|entry| json!({ "Id": entry["Id"], "MessageId": entry["MessageBody"], "MD5OfMessageBody": "-" }))
        .collect();
    (200, json!({ "Successful": sent, "Failed": [] }))
}

fn failed(entry: &Value, code: &str, message: &str, sender_fault: bool) -> Value {
    json!({ "Id": entry["Id"], "Code": code, "Message": message, "SenderFault": sender_fault })
}

#[tokio::test(start_paused = true)]
async fn entries_that_failed_by_no_fault_of_ours_are_sent_again_and_no_others() {
    let rounds = Mutex::new(0);
    let (broker, seen) = broker(Limits::AWS, move |_, request| {
        let mut rounds = rounds.lock().unwrap();
        *rounds += 1;
        if *rounds > 1 {
            return all_sent(request);
        }
        let (_, mut answer) = all_sent(request);
        answer["Successful"].as_array_mut().unwrap().truncate(1);
        let entries = request["Entries"].as_array().unwrap();
        answer["Failed"] = json!([
            failed(&entries[1], "InternalError", "later", false),
            failed(&entries[2], "InvalidMessageContents", "bad", true),
        ]);
        (200, answer)
    });
    let answers = broker.send(&queue(), &[message("a"), message("b"), message("c")]).await;
    assert_eq!(answers[0].as_ref().unwrap().as_str(), "a");
    assert_eq!(answers[1].as_ref().unwrap().as_str(), "b");
    assert!(matches!(&answers[2], Err(StoreError::Invalid(text)) if text.contains("bad")), "{:?}", answers[2]);
    let sent = requests(&seen, "SendMessageBatch");
    assert_eq!(sent.iter().map(bodies).collect::<Vec<_>>(), [vec!["a", "b", "c"], vec!["b"]]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_keeps_failing_is_given_up_and_may_be_tried_again_later() {
    let (broker, seen) = broker(Limits::AWS, |_, request| {
        (200, json!({ "Successful": [], "Failed": [failed(&request["Entries"][0], "InternalError", "no", false)] }))
    });
    let answers = broker.send(&queue(), &[message("a")]).await;
    assert!(answers[0].as_ref().is_err_and(StoreError::is_transient), "{answers:?}");
    assert_eq!(requests(&seen, "SendMessageBatch").len(), 3);
}

#[tokio::test]
async fn a_send_is_split_into_batches_that_aws_accepts() {
    let (broker, seen) = broker(Limits::AWS, |_, request| all_sent(request));
    let sizes = [600_000, 500_000, 400_000, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 1_048_576];
    let messages: Vec<_> = sizes.into_iter().map(|size| message("x".repeat(size))).collect();
    assert!(broker.send(&queue(), &messages).await.iter().all(Result::is_ok));
    let batches: Vec<Vec<String>> = requests(&seen, "SendMessageBatch").iter().map(bodies).collect();
    for batch in &batches {
        assert!(batch.len() <= 10 && batch.iter().map(String::len).sum::<usize>() <= 1_048_576);
    }
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), sizes.len());
    assert_eq!(batches.len(), 4);
}

#[tokio::test]
async fn a_trace_header_travels_as_a_system_attribute() {
    let (broker, seen) = broker(Limits::AWS, |operation, request| match operation {
        "SendMessageBatch" => all_sent(request),
        _ => {
            let system = json!({
                "AWSTraceHeader": "Root=1-2-3", "SentTimestamp": "1700000000000",
                "ApproximateFirstReceiveTimestamp": "1700000001000", "ApproximateReceiveCount": "2",
            });
            let task = json!({ "task": { "DataType": "String", "StringValue": "t" } });
            let received = json!({
                "MessageId": "m", "ReceiptHandle": "r", "Body": "{}", "Attributes": system, "MessageAttributes": task,
            });
            (200, json!({ "Messages": [received] }))
        }
    });
    let attributes: BTreeMap<String, String> =
        [("AWSTraceHeader", "Root=1-2-3"), ("task", "t")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let sent = OutgoingMessage { attributes: attributes.clone(), ..message("{}") };
    assert!(broker.send(&queue(), &[sent]).await[0].is_ok());
    let entry = &requests(&seen, "SendMessageBatch")[0]["Entries"][0];
    assert_eq!(entry["MessageSystemAttributes"]["AWSTraceHeader"]["StringValue"], "Root=1-2-3");
    assert_eq!(entry["MessageAttributes"].as_object().unwrap().len(), 1);
    let delivery = broker.receive(&queue(), 1, Duration::from_secs(1), Duration::ZERO).await.unwrap().remove(0);
    assert_eq!((delivery.attributes, delivery.receive_count), (attributes, 2));
    assert_eq!((delivery.sent.0, delivery.first_received.0), (1_700_000_000_000, 1_700_000_001_000));
}

fn received(count: usize) -> Answer {
    let messages: Vec<Value> = (0..count)
        .map(|n| json!({ "MessageId": n.to_string(), "ReceiptHandle": n.to_string(), "Body": "x" }))
        .collect();
    (200, json!({ "Messages": messages }))
}

#[tokio::test]
async fn more_than_a_batch_is_asked_for_only_where_a_batch_came() {
    for (there, asked, requested) in [(10, 25, vec![10, 10, 5]), (9, 25, vec![10]), (10, 10, vec![10]), (3, 3, vec![3])]
    {
        let (broker, seen) = broker(Limits::AWS, move |_, request| {
            received(there.min(usize::try_from(request["MaxNumberOfMessages"].as_u64().unwrap()).unwrap()))
        });
        let wait = Duration::from_secs(20);
        broker.receive(&queue(), asked, Duration::from_secs(1), wait).await.unwrap();
        let sent = requests(&seen, "ReceiveMessage");
        let mut counts: Vec<u64> =
            sent.iter().map(|request| request["MaxNumberOfMessages"].as_u64().unwrap()).collect();
        counts.sort_by_key(|count| std::cmp::Reverse(*count));
        assert_eq!(counts, requested, "{asked} of {there}");
        let waits: Vec<u64> =
            sent.iter().map(|request| request["WaitTimeSeconds"].as_u64().unwrap_or_default()).collect();
        assert!(waits[0] == 20 && waits[1..].iter().all(|wait| *wait == 0), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_extension_is_cut_to_what_is_left_since_the_receive() {
    let limits = Limits { visibility_max: Duration::from_secs(100), ..Limits::AWS };
    let (broker, seen) = broker(limits, |operation, request| match operation {
        "ReceiveMessage" => received(1),
        _ => (200, json!({ "Successful": [{ "Id": request["Entries"][0]["Id"] }], "Failed": [] })),
    });
    let delivery = broker.receive(&queue(), 1, Duration::from_secs(60), Duration::ZERO).await.unwrap().remove(0);
    let unknown = ReceiptHandle::new("of another process");
    for (after, asked, sent) in [(30, 60, 60), (30, 60, 40), (39, 60, 1)] {
        tokio::time::advance(Duration::from_secs(after)).await;
        let time = Duration::from_secs(asked);
        broker.extend(&queue(), &[(delivery.receipt.clone(), time)]).await.remove(0).unwrap();
        let entry = requests(&seen, "ChangeMessageVisibilityBatch").pop().unwrap()["Entries"][0].clone();
        assert_eq!(entry["VisibilityTimeout"], sent);
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    let before = requests(&seen, "ChangeMessageVisibilityBatch").len();
    let late = broker.extend(&queue(), &[(delivery.receipt, Duration::from_secs(9))]).await.remove(0);
    assert!(matches!(late, Err(StoreError::ReceiptExpired)), "{late:?}");
    assert_eq!(requests(&seen, "ChangeMessageVisibilityBatch").len(), before);
    broker.extend(&queue(), &[(unknown, Duration::from_secs(500))]).await.remove(0).unwrap();
    let entry = requests(&seen, "ChangeMessageVisibilityBatch").pop().unwrap()["Entries"][0].clone();
    assert_eq!(entry["VisibilityTimeout"], 100);
}

#[tokio::test]
async fn a_receipt_that_aws_does_not_take_any_more_has_expired() {
    let told = [
        ("MessageNotInflight", "The specified message isn't in flight."),
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        (
            "InvalidParameterValue",
            "Value r for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for \
             visibility timeout change.",
        ),
    ];
    // LocalStack takes the blame itself; asking again would not help there either.
    for ((code, text), our_fault) in told.into_iter().flat_map(|told| [(told, true), (told, false)]) {
        let (broker, seen) = broker(Limits::AWS, move |_, request| {
            (200, json!({ "Successful": [], "Failed": [failed(&request["Entries"][0], code, text, our_fault)] }))
        });
        let receipt = ReceiptHandle::new("r");
        let answer = broker.extend(&queue(), &[(receipt, Duration::from_secs(1))]).await.remove(0);
        assert!(matches!(answer, Err(StoreError::ReceiptExpired)), "{code}: {answer:?}");
        assert_eq!(requests(&seen, "ChangeMessageVisibilityBatch").len(), 1, "{code}");
    }
    let (broker, _) = broker(Limits::AWS, |_, request| {
        let entries = request["Entries"].as_array().unwrap();
        let gone = failed(&entries[0], "ReceiptHandleIsInvalid", "The input receipt handle is invalid.", true);
        let stale = failed(&entries[1], "InvalidParameterValue", "Reason: The receipt handle has expired.", true);
        (200, json!({ "Successful": [], "Failed": [gone, stale] }))
    });
    let answers = broker.delete(&queue(), &[ReceiptHandle::new("gone"), ReceiptHandle::new("stale")]).await;
    assert!(answers[0].is_ok() && matches!(answers[1], Err(StoreError::ReceiptExpired)), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_purge_within_a_minute_of_another_waits_for_it() {
    let begun = Instant::now();
    let (broker, seen) = broker(Limits::AWS, move |operation, _| match operation {
        "GetQueueAttributes" => (200, json!({ "Attributes": { "ApproximateNumberOfMessages": "7" } })),
        _ if begun.elapsed() < Duration::from_secs(58) => {
            refusal("PurgeQueueInProgress", "Only one PurgeQueue operation is allowed every 60 seconds.")
        }
        _ => (200, json!({})),
    });
    assert_eq!(broker.purge(&queue()).await.unwrap(), 7);
    assert!((58..=65).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(requests(&seen, "PurgeQueue").len(), 13);
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_is_refused_for_longer_says_so() {
    let begun = Instant::now();
    let (broker, _) = broker(Limits::AWS, |operation, _| match operation {
        "GetQueueAttributes" => (200, json!({ "Attributes": {} })),
        _ => refusal("PurgeQueueInProgress", "Only one PurgeQueue operation is allowed every 60 seconds."),
    });
    let error = broker.purge(&queue()).await.unwrap_err().to_string();
    assert!(error.contains("PurgeQueueInProgress") && begun.elapsed() < Duration::from_secs(70), "{error}");
}

#[tokio::test]
async fn a_url_is_asked_for_once_until_its_queue_has_gone() {
    let there = Arc::new(Mutex::new(true));
    let is_there = Arc::clone(&there);
    let (broker, seen) = broker(Limits::AWS, move |_, _| match *is_there.lock().unwrap() {
        true => (200, json!({ "Attributes": {} })),
        false => refusal("QueueDoesNotExist", "The specified queue does not exist."),
    });
    for _ in 0..3 {
        broker.counts(&queue()).await.unwrap();
    }
    assert_eq!(requests(&seen, "GetQueueUrl").len(), 1);
    *there.lock().unwrap() = false;
    let gone = broker.counts(&queue()).await;
    assert!(matches!(&gone, Err(StoreError::NoQueue(named)) if *named == queue()), "{gone:?}");
    broker.counts(&queue()).await.unwrap_err();
    assert_eq!(requests(&seen, "GetQueueUrl").len(), 2);
}
