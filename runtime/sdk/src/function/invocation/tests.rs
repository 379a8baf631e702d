//! Whole invocations: the event as the host writes it, the answer as the host reads it.

use std::borrow::Cow;

use rhubarb_core::{
    contract::{self, AttemptInfo, Said},
    ids::TaskId,
    outcome::Output,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

use super::*;
use crate::{CancelReason, ContextError, Task, TaskError, testing::fake};

#[derive(Serialize, Deserialize)]
struct Work {
    how: String,
}

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = String;
}

async fn work(task: Work, cx: Context) -> Result<String, TaskError> {
    match task.how.as_str() {
        "panic" => panic!("boom in task"),
        "retry" => Err("flaky".into()),
        "later" => Err(TaskError::retry_after("busy", Duration::from_millis(1500))),
        "fatal" => Err(TaskError::fatal("hopeless").kind("Hopeless")),
        "snooze" => Err(TaskError::snooze(Duration::from_secs(2))),
        "stop" => {
            cx.cancelled().await;
            Err(TaskError::cancelled())
        }
        "lost" => Err(ContextError::LeaseLost.into()),
        "large" => Ok("x".repeat(Limits::AWS.inline_bytes_max)),
        "half" => Ok("x".repeat(Limits::AWS.inline_bytes_max - 100)),
        "attempt" => Ok(format!("{} of {}, gpus {:?}", cx.attempt(), cx.max_attempts(), cx.gpus())),
        other => Ok(format!("did {other}")),
    }
}

/// A task whose arguments all have defaults.
#[derive(Serialize, Deserialize)]
struct Tidy {
    #[serde(default)]
    days: u32,
}

impl Task for Tidy {
    const NAME: &'static str = "tidy";
    type Output = String;
}

async fn tidy(task: Tidy, _: Context) -> Result<String, TaskError> {
    Ok(format!("{} days", task.days))
}

fn service(host: Host, parallel: usize) -> Service {
    let mut handlers = Handlers::default();
    assert!(handlers.add(work));
    assert!(handlers.add(tidy));
    Service { handlers, states: States::default(), host, parallel }
}

fn body(args: &str) -> String {
    format!(r#"{{"task":"work","args":{args}}}"#)
}

fn how(how: &str) -> String {
    body(&format!(r#"{{"how":"{how}"}}"#))
}

fn event(bodies: &[String]) -> (String, Vec<MessageId>) {
    let ids: Vec<MessageId> = (0..bodies.len()).map(|n| MessageId::new(format!("m{n}"))).collect();
    let info = AttemptInfo {
        v: 1,
        id: TaskId::from_bytes([7; 16]),
        attempt: 2,
        max_attempts: 5,
        fence: 9,
        timeout_ms: 60_000,
        soft_timeout_ms: 54_000,
        gpus: Cow::Owned(vec!["GPU-1".to_owned()]),
        checkpoint: false,
    };
    let record = |(message, body)| contract::Record {
        message,
        body,
        receive_count: 3,
        sent: Timestamp(1),
        first_received: Timestamp(2),
        arn: "arn:aws:sqs:eu-central-1:1:q",
        info: &info,
        traceparent: None,
        tracestate: None,
    };
    let records: Vec<_> = ids.iter().zip(bodies.iter().map(String::as_str)).map(record).collect();
    (contract::event(&records), ids)
}

async fn answered(service: &Service, bodies: &[String]) -> Vec<Said> {
    let (event, ids) = event(bodies);
    let answer = service.invoke(&event, Duration::from_secs(60)).await.unwrap();
    let ids: Vec<&MessageId> = ids.iter().collect();
    contract::read_answer(answer.get().as_bytes(), &ids, Limits::AWS.inline_bytes_max).unwrap()
}

async fn one(body: String) -> Said {
    let (host, _kept) = fake(TaskId::from_bytes([7; 16]));
    answered(&service(host, 1), &[body]).await.remove(0)
}

fn failure(said: Said) -> (String, String, bool) {
    match said {
        Said::Failed { failure, fatal, .. } => (failure.kind, failure.message, fatal),
        Said::Poisoned(failure) => (failure.kind, failure.message, true),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_record_has_its_own_outcome() {
    let (host, _kept) = fake(TaskId::from_bytes([7; 16]));
    let bodies = ["fine", "retry", "later", "fatal", "snooze", "panic", "lost", "last"].map(how);
    let said = answered(&service(host, 1), &bodies).await;
    assert!(matches!(&said[0], Said::Succeeded(Some(Output::Inline(json))) if json.get() == r#""did fine""#));
    assert_eq!(failure(said[1].clone()), ("error".into(), "flaky".into(), false));
    assert!(matches!(&said[2], Said::Failed { delay: Some(delay), .. } if delay.as_millis() == 1500));
    assert_eq!(failure(said[3].clone()), ("Hopeless".into(), "hopeless".into(), true));
    assert!(matches!(said[4], Said::Snoozed(delay) if delay.as_secs() == 2));
    assert_eq!(failure(said[5].clone()), ("panic".into(), "boom in task".into(), false));
    assert!(matches!(said[6], Said::Interrupted));
    assert!(matches!(&said[7], Said::Succeeded(Some(Output::Inline(json))) if json.get() == r#""did last""#));
}

#[tokio::test]
async fn the_attempt_is_what_the_host_says() {
    let Said::Succeeded(Some(Output::Inline(json))) = one(how("attempt")).await else { panic!() };
    assert_eq!(json.get(), r#""2 of 5, gpus [\"GPU-1\"]""#);
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_poison_and_name_the_field() {
    let (kind, message, _) = failure(one(body(r#"{"howw":1}"#)).await);
    assert_eq!(kind, Failure::POISON);
    assert!(message.contains("`work`") && message.contains("`how`"), "{message}");
}

#[tokio::test]
async fn a_message_without_arguments_runs_a_task_whose_arguments_all_have_defaults() {
    for body in [r#"{"task":"tidy"}"#, r#"{"task":"tidy","args":null}"#] {
        let Said::Succeeded(Some(Output::Inline(json))) = one(body.to_owned()).await else { panic!() };
        assert_eq!(json.get(), r#""0 days""#);
    }
    let (kind, message, _) = failure(one(r#"{"task":"work"}"#.to_owned()).await);
    assert_eq!(kind, Failure::POISON);
    assert!(message.contains("`work`") && message.contains("null"), "{message}");
}

#[tokio::test]
async fn a_body_that_is_no_envelope_is_poison() {
    let (kind, message, _) = failure(one("plain text".to_owned()).await);
    assert_eq!(kind, Failure::POISON);
    assert!(message.contains("no envelope"), "{message}");
}

#[tokio::test]
async fn a_task_of_another_function_is_said_to_be_unknown() {
    assert!(matches!(one(r#"{"task":"other","args":{}}"#.to_owned()).await, Said::UnknownTask));
}

#[tokio::test]
async fn a_stopped_handler_ends_as_the_reason_says() {
    let id = TaskId::from_bytes([7; 16]);
    let said = async |reason| {
        let (host, kept) = fake(id);
        kept.cancel(reason);
        answered(&service(host, 1), &[how("stop")]).await.remove(0)
    };
    assert!(matches!(said(CancelReason::Requested).await, Said::Cancelled));
    assert!(matches!(said(CancelReason::Shutdown).await, Said::Interrupted));
    assert_eq!(failure(said(CancelReason::Timeout).await).0, Failure::TIMEOUT);
}

#[tokio::test]
async fn an_output_over_the_inline_limit_is_posted_first() {
    let Said::Succeeded(Some(Output::Blob(blob))) = one(how("large")).await else { panic!() };
    assert_eq!(blob.size as usize, Limits::AWS.inline_bytes_max + 2);
}

#[tokio::test]
async fn outputs_that_would_not_fit_one_answer_together_are_posted() {
    let (host, _kept) = fake(TaskId::from_bytes([7; 16]));
    let bodies = vec![how("half"); 40];
    let (event, _) = event(&bodies);
    let answer = service(host, 1).invoke(&event, Duration::from_secs(60)).await.unwrap();
    assert!(answer.get().len() < Limits::AWS.event_bytes_max);
    assert!(answer.get().contains("output_blob"));
}

#[tokio::test]
async fn without_a_host_the_list_of_failures_is_awss() {
    let bodies = ["fine", "retry", "fatal", "snooze", "large"].map(how);
    let (event, _) = event(&bodies);
    let answer = service(Host::default(), 1).invoke(&event, Duration::from_secs(60)).await.unwrap();
    let answer: contract::Answer = serde_json::from_str(answer.get()).unwrap();
    let failed: Vec<String> = answer.failures.unwrap().into_iter().filter_map(|item| item.id).collect();
    assert_eq!(failed, ["m1", "m2", "m3"]);
}

#[tokio::test]
async fn without_a_host_sqs_says_which_attempt_it_is() {
    let event = format!(
        r#"{{"Records":[{{"messageId":"m","body":{:?},"attributes":{{"ApproximateReceiveCount":"4"}}}}]}}"#,
        how("attempt")
    );
    let answer = service(Host::default(), 1).invoke(&event, Duration::from_secs(60)).await.unwrap();
    assert!(answer.get().contains(&format!("4 of {}", u32::MAX)), "{}", answer.get());
}

#[tokio::test]
async fn an_event_of_no_queue_fails_the_invocation() {
    let error = service(Host::default(), 1).invoke(r#"{"source":"aws.s3"}"#, Duration::ZERO).await.unwrap_err();
    assert!(error.contains("no SQS event"), "{error}");
}

#[derive(Serialize, Deserialize)]
struct Meet;

impl Task for Meet {
    const NAME: &'static str = "meet";
    type Output = ();
}

#[tokio::test]
async fn records_run_at_the_same_time_where_that_is_asked_for() {
    async fn meet(_: Meet, cx: Context) -> Result<(), TaskError> {
        cx.state::<Barrier>()?.wait().await;
        Ok(())
    }
    let mut handlers = Handlers::default();
    assert!(handlers.add(meet));
    let mut states = States::default();
    states.insert(Arc::new(Barrier::new(2)));
    let service = Service { handlers, states, host: Host::default(), parallel: 2 };
    let bodies = vec![r#"{"task":"meet","args":null}"#.to_owned(); 4];
    let said = answered(&service, &bodies).await;
    assert!(said.iter().all(|said| matches!(said, Said::Succeeded(None))));
}

#[derive(Serialize, Deserialize)]
struct Text(String);

impl Task for Text {
    const NAME: &'static str = "text";
    type Output = String;
}

#[tokio::test]
async fn a_raw_body_is_the_argument_itself() {
    let mut handlers = Handlers::default();
    assert!(handlers.add(async |text: Text, _| Ok::<_, TaskError>(text.0)));
    let service = Service { handlers, states: States::default(), host: Host::default(), parallel: 1 };
    let body = r#"{"task":"text","args":null,"raw":"plain text"}"#.to_owned();
    let Said::Succeeded(Some(Output::Inline(json))) = answered(&service, &[body]).await.remove(0) else { panic!() };
    assert_eq!(json.get(), r#""plain text""#);
}
