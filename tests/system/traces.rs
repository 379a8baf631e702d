//! Traces and log lines as a collector gets them: OTLP over HTTP, read with OpenTelemetry's own types.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
};

use rhubarb::core::row::State;
use rhubarb_telemetry::names;
use rhubarb_testkit::{
    collector::{Collector, Span},
    emulator::REGION,
};
use rhubarb_tests::{AgentProcess, App, PATIENCE, enqueue, over_aws, settled};
use serde_json::json;

pub(crate) const PLATFORM: &str = r#"
[queues.default]
timeout = "20s"
max_attempts = 3
backoff = { initial = "1ms", factor = 1 }
[workers.all]
queues = ["default"]
concurrency = 2
"#;

/// What the environment of a producer and of an agent says.
fn variables(endpoint: &str) -> [(&'static str, String); 3] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
        ("OTEL_METRICS_EXPORTER", "none".to_owned()),
        // Whatever waits is sent soon: no test waits for the usual five seconds.
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
    ]
}

pub(crate) async fn agent(app: &App, endpoint: &str, more: &[(&str, &str)]) -> AgentProcess {
    // Makes queues and table on an emulator.
    let _ = app.client().await;
    let mut command = app.command(&["agent", "all"]);
    command.envs(variables(endpoint)).envs(more.iter().copied());
    AgentProcess::start(command).await
}

/// Runs the command as a producer with a tracer of its own, to the end.
async fn produce(app: &App, endpoint: &str, task: &str, args: &str) {
    let mut command = app.command(&["enqueue", task, "--args", args, "--queue", "default", "--wait"]);
    let output = command.envs(variables(endpoint)).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The spans of one operation.
fn of<'a>(spans: &'a [Span], operation: &str) -> Vec<&'a Span> {
    spans
        .iter()
        .filter(|span| span.attributes.get(names::MESSAGING_OPERATION_NAME).is_some_and(|name| name == operation))
        .collect()
}

/// What arrived once so many attempts and settlements did.
pub(crate) async fn arrived(collector: &Collector, attempts: usize) -> Vec<Span> {
    let enough = |spans: &[Span]| of(spans, "process").len() >= attempts && of(spans, "settle").len() >= attempts;
    let spans = tokio::time::timeout(PATIENCE, collector.spans_until(enough)).await;
    assert!(spans.is_ok(), "only these arrived: {:#?}", collector.spans());
    assert_eq!(collector.wrong(), Vec::<String>::new());
    spans.unwrap_or_default()
}

/// Fails at a span whose parent or link never arrived, at a task whose spans lie in several traces, and at a trace
/// with several beginnings. Returns for each trace of a root task how many attempts it has.
pub(crate) fn connected(spans: &[Span]) -> Vec<usize> {
    let ids: BTreeSet<(&str, &str)> = spans.iter().map(|span| (span.trace.as_str(), span.id.as_str())).collect();
    let mut traces: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    let mut tasks: BTreeMap<&str, &str> = BTreeMap::new();
    for span in spans {
        if let Some(parent) = &span.parent {
            assert!(ids.contains(&(span.trace.as_str(), parent.as_str())), "an orphan: {span:#?}");
        }
        for (trace, id) in &span.links {
            assert!(ids.contains(&(trace.as_str(), id.as_str())), "a link to nothing: {span:#?}");
        }
        if let Some(task) = span.attributes.get(names::TASK_ID) {
            let trace = *tasks.entry(task.as_str()).or_insert(span.trace.as_str());
            assert_eq!(trace, span.trace, "one task in two traces: {span:#?}");
        }
        traces.entry(span.trace.as_str()).or_default().push(span);
    }
    let mut attempts = Vec::new();
    for of_trace in traces.values() {
        let roots: Vec<&&Span> = of_trace.iter().filter(|span| span.parent.is_none()).collect();
        assert_eq!(roots.len(), 1, "one beginning: {roots:#?}");
        let first = roots[0];
        let operation = |span: &Span| span.attributes.get(names::MESSAGING_OPERATION_NAME).cloned().unwrap_or_default();
        match operation(first).as_str() {
            "send" => attempts.push(of_trace.iter().filter(|span| operation(span) == "process").count()),
            // What several tasks share has no parent among them: it links to each.
            _ => assert!(of_trace.len() == 1 && first.links.len() > 1, "begins with no send: {of_trace:#?}"),
        }
    }
    attempts
}

#[tokio::test]
async fn a_task_and_its_children_are_one_connected_trace() {
    let (app, collector) = (App::new(PLATFORM), Collector::start().await);
    let agent = agent(&app, &collector.endpoint(), &[]).await;
    produce(&app, &collector.endpoint(), "family", r#"{"children": 2}"#).await;
    let _ = arrived(&collector, 3).await;
    agent.stop().await;
    let spans = collector.spans();

    connected(&spans);
    let root = of(&spans, "send").into_iter().find(|span| span.parent.is_none()).expect("the producer's send");
    let of_trace: Vec<&Span> = spans.iter().filter(|span| span.trace == root.trace).collect();
    let ids: BTreeMap<&str, &Span> = of_trace.iter().map(|span| (span.id.as_str(), *span)).collect();
    let parent = |span: &Span| ids[span.parent.as_deref().unwrap()];
    assert_eq!(of(&spans, "send").len(), 3, "the root's and its children's");
    assert_eq!(of(&spans, "process").len(), 3);
    for process in of(&spans, "process") {
        assert_eq!(parent(process).attributes[names::MESSAGING_OPERATION_NAME], "send");
        assert_eq!(parent(process).attributes[names::TASK_ID], process.attributes[names::TASK_ID]);
    }
    // What the function did itself hangs under its attempt, and the children under that.
    let own = of_trace.iter().find(|span| span.name == "raise children").expect("the function's own span");
    assert_eq!(own.resource[names::SERVICE_NAME], "scripted");
    assert_eq!(parent(own).attributes[names::TASK_NAME], "family");
    let children: Vec<&Span> = of(&spans, "send").into_iter().filter(|send| send.id != root.id).collect();
    assert!(children.iter().all(|child| parent(child).id == own.id), "{children:#?}");
}

/// The attributes of <https://opentelemetry.io/docs/specs/semconv/messaging/sqs/>: operation, kind, and what is
/// there beside the system, the operation, its type and the destination, which every span has.
#[tokio::test]
async fn spans_say_what_the_conventions_ask_for() {
    let (app, collector) = (App::new(PLATFORM), Collector::start().await);
    let agent = agent(&app, &collector.endpoint(), &[]).await;
    produce(&app, &collector.endpoint(), "fail", r#"{"times": 1}"#).await;
    let _ = arrived(&collector, 2).await;
    agent.stop().await;
    let spans = collector.spans();
    let destination = if over_aws() { format!("tests-t{}-default", std::process::id()) } else { "default".into() };
    for (operation, kind, more) in [
        ("send", "Producer", &[names::TASK_ID, names::TASK_NAME][..]),
        ("receive", "Client", &[names::MESSAGING_MESSAGE_ID]),
        (
            "process",
            "Consumer",
            &[
                names::MESSAGING_MESSAGE_ID,
                names::TASK_ATTEMPT,
                names::TASK_OUTCOME,
                names::LEASE_FENCE,
                names::WORKER_ID,
            ],
        ),
        ("settle", "Client", &[names::MESSAGING_BATCH_MESSAGE_COUNT]),
    ] {
        let found = of(&spans, operation);
        assert!(!found.is_empty(), "no span of {operation}");
        for span in found {
            assert_eq!(
                (span.name.as_str(), format!("{:?}", span.kind).as_str()),
                (format!("{operation} {destination}").as_str(), kind)
            );
            let system = if over_aws() { "aws_sqs" } else { "rhubarb" };
            assert_eq!(span.attributes[names::MESSAGING_SYSTEM], system);
            assert_eq!(span.attributes[names::MESSAGING_OPERATION_TYPE], operation);
            assert_eq!(span.attributes[names::MESSAGING_DESTINATION_NAME], destination);
            if over_aws() && operation != "send" {
                assert!(span.attributes[names::AWS_SQS_QUEUE_URL].ends_with(&destination), "{span:#?}");
            }
            for name in more {
                assert!(span.attributes.contains_key(*name), "{operation} without {name}: {span:#?}");
            }
        }
    }
    let attempts = of(&spans, "process");
    let outcome = |attempt: &str| {
        let span = attempts.iter().find(|span| span.attributes[names::TASK_ATTEMPT] == attempt).unwrap();
        (span.attributes[names::TASK_OUTCOME].as_str(), span.failed, span.attributes.contains_key(names::ERROR_TYPE))
    };
    assert_eq!((outcome("1"), outcome("2")), (("failed", true, true), ("succeeded", false, false)));
    assert_eq!(attempts[0].trace, attempts[1].trace, "a retry stays in the trace");
}

#[tokio::test]
async fn a_task_that_outlives_its_worker_stays_in_its_trace() {
    let toml = format!("{PLATFORM}\n").replace("timeout = \"20s\"", "timeout = \"20s\"\nlease = \"{lease}\"");
    let (app, collector) = (App::new(&toml), Collector::start().await);
    let client = app.client().await;
    let first = agent(&app, &collector.endpoint(), &[]).await;
    // No producer names a trace: the family's own is the same on every worker.
    let id = enqueue(&client, "steps", json!({"total": 1, "ms": 2000}), "default").await;
    rhubarb_tests::reached(&client, id, State::Running).await;
    let _ =
        tokio::time::timeout(PATIENCE, collector.spans_until(|spans| !of(spans, "receive").is_empty())).await.unwrap();
    first.kill().await;
    let second = agent(&app, &collector.endpoint(), &[]).await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    let _ = arrived(&collector, 1).await;
    second.stop().await;
    let spans = collector.spans();
    let process = of(&spans, "process")[0];
    assert_eq!((process.attributes[names::TASK_ATTEMPT].as_str(), process.parent.as_deref()), ("2", None));
    // The first half of such a trace is the first half of the task's id.
    let bare = id.to_string().replace('-', "");
    assert_eq!(process.trace[..16], bare[..16]);
}

#[tokio::test]
async fn a_collector_that_is_down_or_silent_stops_no_task() {
    let silent = Collector::start().await;
    silent.fall_silent();
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in [silent.endpoint(), format!("http://{down}")] {
        let app = App::new(PLATFORM);
        let client = app.client().await;
        let agent = agent(&app, &endpoint, &[("OTEL_BSP_MAX_QUEUE_SIZE", "10")]).await;
        let mut ids = Vec::new();
        for value in 0..40 {
            ids.push(enqueue(&client, "echo", json!({ "value": value }), "default").await);
        }
        for id in ids {
            assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
        }
        let (status, log) = agent.stop().await;
        assert!(status.success(), "{log}");
        assert!(log.contains("spans did not reach the collector"), "the loss is told: {log}");
    }
}

#[tokio::test]
async fn a_line_of_a_function_says_its_task_and_its_trace() {
    let (app, collector) = (App::new(PLATFORM), Collector::start().await);
    let more = [("OTEL_LOGS_EXPORTER", "otlp"), ("RHUBARB_LOG_FORMAT", "json")];
    let agent = agent(&app, &collector.endpoint(), &more).await;
    produce(&app, &collector.endpoint(), "say", r#"{"text": "here I am", "times": 1}"#).await;
    let spans = arrived(&collector, 1).await;
    let (_, log) = agent.stop().await;
    let process = of(&spans, "process")[0];
    let line = log.lines().find(|line| line.contains("here I am")).expect("the function's own line");
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["task.id"], process.attributes[names::TASK_ID].as_str());
    assert_eq!((&line["trace_id"], &line["span_id"]), (&process.trace.as_str().into(), &process.id.as_str().into()));
    let exported = collector.logs().into_iter().find(|line| line.body.contains("here I am")).expect("by OTLP too");
    assert_eq!(
        (exported.trace, &exported.attributes["task.id"]),
        (process.trace.clone(), &process.attributes[names::TASK_ID])
    );
}

#[tokio::test]
async fn a_trace_that_is_not_sampled_leaves_no_span_and_travels_on() {
    let (app, collector) = (App::new(PLATFORM), Collector::start().await);
    let agent = agent(&app, &collector.endpoint(), &[]).await;
    let mut command =
        app.command(&["enqueue", "family", "--args", r#"{"children": 1}"#, "--queue", "default", "--wait"]);
    let output = command.envs(variables(&collector.endpoint())).env("OTEL_TRACES_SAMPLER", "always_off").output();
    assert!(output.await.unwrap().status.success());
    produce(&app, &collector.endpoint(), "noop", "{}").await;
    let spans = arrived(&collector, 1).await;
    agent.stop().await;
    let names: Vec<&str> =
        of(&spans, "process").iter().map(|span| span.attributes[names::TASK_NAME].as_str()).collect();
    assert_eq!(names, ["noop"], "the child of a task that is not sampled is not sampled");
}

const PYTHON_PRODUCER: &str = r#"
import json, os
import boto3
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
BotocoreInstrumentor().instrument()
with trace.get_tracer("shop").start_as_current_span("order"):
    carrier = {}
    propagate.inject(carrier)
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in carrier.items()}
    body = json.dumps({"task": "greet", "args": {}})
    boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE_URL"], MessageBody=body, MessageAttributes=attributes)
"#;

const PYTHON_FUNCTION: &str = r#"
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider(resource=Resource.create({"service.name": "greeter"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

def handler(event, context):
    for record in event["Records"]:
        attributes = record["messageAttributes"]
        carrier = {name: attributes[name]["stringValue"] for name in ("traceparent", "tracestate") if name in attributes}
        with trace.get_tracer("greeter").start_as_current_span("greet", context=propagate.extract(carrier)):
            print("greeting")
"#;

#[tokio::test]
async fn a_python_producer_and_a_python_function_join_in() {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    if !python.exists() {
        println!("skipped: there is no .venv with OpenTelemetry; tests/run makes it");
        return;
    }
    let python = python.display().to_string();
    let function = format!("[functions.greeter]\ncommand = ['{python}', \"-m\", \"awslambdaric\", \"app.handler\"]\n");
    let toml = PLATFORM.replace("[queues.default]", "[queues.default]\nfunctions = [\"greeter\"]");
    let (app, collector) = (App::over(&format!("{toml}{function}"), true), Collector::start().await);
    std::fs::write(app.path().join("app.py"), PYTHON_FUNCTION).unwrap();
    let client = app.client().await;
    let url = client.backend().broker().locate(&"default".parse().unwrap()).await.unwrap().expect("SQS has URLs");
    let agent = agent(&app, &collector.endpoint(), &[]).await;
    let mut producer = tokio::process::Command::new(&python);
    producer.args(["-c", PYTHON_PRODUCER]).envs(app.variables()).envs(variables(&collector.endpoint()));
    // Of the regions' variables botocore reads this one.
    let produced = producer.env("QUEUE_URL", url).env("AWS_DEFAULT_REGION", REGION).output().await.unwrap();
    assert!(produced.status.success(), "{}", String::from_utf8_lossy(&produced.stderr));
    let _ = arrived(&collector, 1).await;
    agent.stop().await;
    let spans = collector.spans();
    let named =
        |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no `{name}`: {spans:#?}"));
    let (order, greet, process) = (named("order"), named("greet"), of(&spans, "process")[0]);
    assert_eq!((&process.trace, process.parent.as_ref()), (&order.trace, Some(&order.id)));
    assert_eq!((&greet.trace, greet.parent.as_ref()), (&order.trace, Some(&process.id)));
    let by_botocore = spans
        .iter()
        .any(|span| span.trace == order.trace && span.parent.as_ref() == Some(&order.id) && span.name.contains("SQS"));
    assert!(by_botocore, "botocore's own span of the send is there too: {spans:#?}");
}
