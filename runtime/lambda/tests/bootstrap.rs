//! The bootstrap as Lambda starts it: a process of its own that speaks the real Runtime API. The host serves
//! that API here too, to the bootstrap instead of a function; its backend is the embedded one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use rhubarb_core::{
    backend::{Backend, Broker as _, QueueSpec, Submission, TaskDetail, Tasks as _, Window},
    ids::TaskId,
    row::State,
    time::Timestamp,
};
use rhubarb_host::{
    process::{FunctionProcess, ProcessSpec, StartError},
    runtime_api::{Answer, Invocation, Routes},
};
use rhubarb_local::{LocalBackend, Options};
use rhubarb_telemetry::names;
use rhubarb_testkit::collector::{Collector, Span};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Lambda has no routes beside the Runtime API.
struct NoRoutes;

#[async_trait]
impl Routes for NoRoutes {
    async fn call(&self, _: Request<Bytes>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    }
}

/// A deployed function and its queue.
struct Deployed {
    dir: TempDir,
    backend: LocalBackend,
}

impl Deployed {
    async fn new() -> Self {
        let dir = common::folder("");
        let backend = LocalBackend::open(dir.path().join("store"), Options::default()).unwrap();
        let spec = QueueSpec { queue: common::queue(), max_receives: None, dead_letters: None };
        backend.declare(&[spec]).await.unwrap();
        Self { dir, backend }
    }

    async fn start(&self) -> Result<FunctionProcess, StartError> {
        self.start_with(&[]).await
    }

    async fn start_with(&self, more: &[(&str, &str)]) -> Result<FunctionProcess, StartError> {
        let mut spec = ProcessSpec::new("tests-dev-q", vec![common::example("lambda_local").into()]);
        spec.env = common::variables();
        let store = self.dir.path().join("store");
        spec.env.extend([
            ("RHUBARB_BACKEND".into(), "local".into()),
            ("RHUBARB_DIR".into(), store.into_os_string()),
            ("LAMBDA_TASK_ROOT".into(), self.dir.path().as_os_str().to_owned()),
        ]);
        spec.env.extend(more.iter().map(|(name, value)| (name.into(), value.into())));
        FunctionProcess::start(Arc::new(spec), Arc::new(NoRoutes)).await
    }

    async fn enqueue(&self, script: Value) -> TaskId {
        let envelope = common::envelope(&script);
        let submission = Submission::new(&envelope, common::queue(), Window::DEFAULT);
        for answer in Backend::submit(&self.backend, &[submission], Timestamp::from_system(SystemTime::now())).await {
            answer.unwrap();
        }
        envelope.id
    }

    /// The event of what the queue holds.
    async fn event(&self) -> Value {
        let received = self.backend.receive(&common::queue(), 10, common::VISIBILITY, Duration::ZERO).await.unwrap();
        common::event(&received, &[], "tests-dev-q")
    }

    async fn detail(&self, id: TaskId) -> TaskDetail {
        self.backend.read(&[id]).await.unwrap().pop().flatten().unwrap()
    }
}

async fn invoke(bootstrap: &FunctionProcess, request: &str, event: Value) -> Answer {
    let event = serde_json::to_vec(&event).unwrap();
    let arn = "arn:aws:lambda:eu-central-1:000000000000:function:tests-dev-q";
    bootstrap.invoke(Invocation::new(request, SystemTime::now() + common::LONG, event.into(), arn)).await.unwrap()
}

fn response(answer: Answer) -> Value {
    match answer {
        Answer::Response(body) => serde_json::from_slice(&body).unwrap(),
        Answer::Error(error) => panic!("{error:?}"),
    }
}

/// Why the bootstrap did not start, in the words of its init error.
async fn init_error(deployed: &Deployed) -> (String, String) {
    match deployed.start().await {
        Err(StartError::Init { error, .. }) => (error.error_type, error.message),
        other => panic!("an init error: {other:?}"),
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn a_batch_is_run_and_answered_by_the_runtime_api() {
    let deployed = Deployed::new().await;
    let bootstrap = deployed.start().await.unwrap();
    let good = deployed.enqueue(json!({})).await;
    assert_eq!(response(invoke(&bootstrap, "1", deployed.event().await).await), json!({ "batchItemFailures": [] }));
    assert_eq!(deployed.detail(good).await.record.state, State::Succeeded);

    let bad = deployed.enqueue(json!({ "fail_after_ms": 60_000 })).await;
    let event = deployed.event().await;
    let id = event["Records"][0]["messageId"].clone();
    let answer = response(invoke(&bootstrap, "2", event).await);
    assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": id }] }));
    assert_eq!(deployed.detail(bad).await.record.state, State::Retrying);
}

#[tokio::test]
async fn what_a_function_prints_is_kept_with_its_attempt_and_logged_with_its_task() {
    let deployed = Deployed::new().await;
    let bootstrap = deployed.start().await.unwrap();
    let id = deployed.enqueue(json!({ "say": "hello \u{1b}[31mred" })).await;
    invoke(&bootstrap, "1", deployed.event().await).await;
    assert_eq!(deployed.detail(id).await.attempts[0].log.text, "hello \u{1b}[31mred\n");
    let log = bootstrap.take_output("1").text;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let line = lines.iter().find(|line| line["target"] == "function").expect(&log);
    // The store keeps what was printed; a log ends in somebody's terminal.
    assert_eq!(line["message"], "hello red");
    assert_eq!((line["task.id"].as_str(), line["function.name"].as_str()), (Some(&*id.to_string()), Some("scripted")));
}

#[tokio::test]
async fn spans_are_with_the_collector_before_the_answer_and_the_first_invocation_is_marked_cold() {
    let (deployed, collector) = (Deployed::new().await, Collector::start().await);
    let endpoint = collector.endpoint();
    let bare = deployed.start().await.unwrap();
    let told = deployed.start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await.unwrap();
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..20 {
        for (place, bootstrap) in [&bare, &told].into_iter().enumerate() {
            let id = deployed.enqueue(json!({})).await.to_string();
            let event = deployed.event().await;
            let begun = Instant::now();
            invoke(bootstrap, &format!("{place}-{round}"), event).await;
            took[place].push(begun.elapsed());
            // After its answer a sandbox stands still: what has not arrived by now may never do.
            let spans = collector.spans();
            let of_task = |span: &&Span| span.attributes.get(names::TASK_ID) == Some(&id);
            let attempt = spans.iter().filter(of_task).find(|span| span.name == "process q");
            assert_eq!(attempt.is_some(), place == 1);
            if let Some(attempt) = attempt {
                assert_eq!(attempt.attributes[names::FAAS_COLDSTART], (round == 0).to_string());
                assert_eq!(attempt.attributes[names::FAAS_INVOCATION_ID], format!("{place}-{round}"));
                let settle = spans.iter().find(|span| span.parent.as_ref() == Some(&attempt.id));
                assert!(settle.is_some_and(|settle| settle.name == "settle q"), "{spans:#?}");
            }
        }
    }
    let [bare, told] = took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    });
    println!("an invocation took {bare:?} without a collector, {told:?} with one (medians)");
}

#[tokio::test]
async fn an_event_that_is_none_of_ours_is_an_error_and_the_next_one_is_served() {
    let deployed = Deployed::new().await;
    let bootstrap = deployed.start().await.unwrap();
    let Answer::Error(error) = invoke(&bootstrap, "1", json!({ "key1": "value1" })).await else { panic!("an error") };
    assert_eq!(error.error_type, "Rhubarb.Event");
    assert!(error.message.contains("neither a batch of an SQS queue nor"), "{}", error.message);
    let swept = response(invoke(&bootstrap, "2", json!({ "rhubarb": "sweep" })).await);
    assert_eq!(swept["reaped"], 0);
}

#[tokio::test]
async fn a_missing_function_is_an_init_error_that_says_what_to_do() {
    let deployed = Deployed::new().await;
    std::fs::remove_file(deployed.dir.path().join("scripted")).unwrap();
    let (kind, message) = init_error(&deployed).await;
    assert_eq!(kind, "Rhubarb.NoFunction");
    assert!(message.contains("rhubarb package"), "{message}");
}

#[tokio::test]
async fn mistakes_of_the_configuration_are_init_errors() {
    let deployed = Deployed::new().await;
    let toml = deployed.dir.path().join("rhubarb.toml");
    edit(&toml, "timeout = \"10s\"", "timeout = \"1h\"");
    let (kind, message) = init_error(&deployed).await;
    assert_eq!(kind, "Rhubarb.Configuration");
    assert!(message.contains("rhubarb.toml:7:1: queues.q.timeout"), "{message}");
    edit(&toml, "timeout = \"1h\"", "");
    edit(&toml, "class = \"lambda\"", "class = \"ecs\"");
    let (_, message) = init_error(&deployed).await;
    assert!(message.contains("queue q is of class ecs"), "{message}");
    edit(&toml, "[queues.q]", "[queues.other]");
    let (_, message) = init_error(&deployed).await;
    assert!(message.contains("RHUBARB_QUEUE is `q`, and there is no such queue"), "{message}");
    std::fs::remove_file(&toml).unwrap();
    let (_, message) = init_error(&deployed).await;
    assert!(message.contains("cannot read") && message.contains("rhubarb.toml"), "{message}");
}

#[test]
fn started_by_hand_it_says_what_it_is() {
    let output = Command::new(common::example("lambda_local")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("AWS_LAMBDA_RUNTIME_API is not set: this program is the bootstrap"), "{text}");
}
