//! A function in another language, on AWS's own runtime client for it.

use std::path::{Path, PathBuf};

use rhubarb::core::row::State;
use rhubarb_tests::{App, enqueue, settled};
use serde_json::{Value, json};

const HANDLER: &str = r#"
import json, os, urllib.error, urllib.request

def handler(event, context):
    """Answers with what it was given, by AWS's rules and with our own part beside them."""
    failures, records = [], {}
    for record in event["Records"]:
        body = json.loads(record["body"])
        print("working on", body["task"])
        if body["args"].get("fail"):
            failures.append({"itemIdentifier": record["messageId"]})
            continue
        output = {
            "record": record,
            "left_ms": context.get_remaining_time_in_millis(),
            "request": context.aws_request_id,
            "arn": context.invoked_function_arn,
            "secret": os.environ.get("AGENT_SECRET"),
            "own": os.environ.get("OWN"),
        }
        records[record["messageId"]] = {"outcome": "succeeded", "output": output}
    return {"batchItemFailures": failures, "rhubarb": {"v": 1, "records": records}}

def routes(event, context):
    """Calls every route that the README shows, without our SDK."""
    api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/rhubarb/v1"
    info = json.loads(event["Records"][0]["messageAttributes"]["rhubarb"]["stringValue"])
    me = info["id"]

    def call(method, path, body=None, headers={}):
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(api + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    large = json.dumps("x" * 300_000).encode()
    output = json.loads(call("PUT", f"/tasks/{me}/output", large)[1])
    said = {
        "progress": call("POST", f"/tasks/{me}/progress", {"done": 3, "total": 10, "message": "epoch 3"}),
        "no checkpoint": call("GET", f"/tasks/{me}/checkpoint"),
        "checkpoint": call("PUT", f"/tasks/{me}/checkpoint", b"state"),
        "last checkpoint": call("GET", f"/tasks/{me}/checkpoint"),
        "cancellation": call("GET", f"/tasks/{me}/cancellation?wait_ms=1"),
        "enqueue": call("POST", "/enqueue", {"tasks": [{"task": "greet", "args": {}, "delay_ms": 3600000}]}, {"Rhubarb-Task": me}),
        "task": call("GET", f"/tasks/{me}"),
        "tasks": call("GET", "/tasks?state=running&limit=10"),
        "counts": call("GET", "/counts"),
        "put blob": call("PUT", "/blobs/models/a", b"content"),
        "get blob": call("GET", "/blobs/models/a"),
        "list blobs": call("GET", "/blobs?prefix=models"),
        "delete blob": call("DELETE", "/blobs/models/a"),
        "no blob": call("GET", "/blobs/models/a"),
        "wild blob": call("GET", "/blobs/../../etc/passwd"),
        "another's task": call("POST", "/tasks/0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b/progress", {"done": 1, "total": 1}),
        "sweep": call("POST", "/sweep"),
        "redrive": call("POST", f"/tasks/{me}/redrive"),
        "no route": call("GET", "/nothing"),
    }
    message = event["Records"][0]["messageId"]
    call("PUT", "/blobs/said", said)
    return {"batchItemFailures": [], "rhubarb": {"v": 1, "records": {message: {"outcome": "succeeded", "output_blob": output}}}}

def legacy(event, context):
    """A handler that knows nothing of us: any body, no answer."""
    for record in event["Records"]:
        with open("seen", "a") as file:
            file.write(record["body"] + "\n")
"#;

/// The interpreter that `tests/run` gave AWS's runtime client to.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    if python.exists() {
        return Some(python);
    }
    println!("skipped: there is no .venv with awslambdaric; tests/run makes it");
    None
}

fn app(python: &Path) -> App {
    let python = python.display();
    let app = App::new(&format!(
        r#"
[functions.python]
command = ['{python}', "-m", "awslambdaric", "app.handler"]
env = {{ OWN = "mine" }}
[functions.routes]
command = ['{python}', "-m", "awslambdaric", "app.routes"]
[queues.routes]
functions = ["routes"]
[functions.legacy]
command = ['{python}', "-m", "awslambdaric", "app.legacy"]
[queues.python]
functions = ["python"]
max_attempts = 1
timeout = "1m"
[queues.legacy]
functions = ["legacy"]
raw_task = "legacy"
[workers.all]
queues = ["python", "legacy", "routes"]
concurrency = 1
"#
    ));
    std::fs::write(app.path().join("app.py"), HANDLER).unwrap();
    app
}

#[tokio::test]
async fn a_python_handler_gets_the_event_that_aws_documents() {
    let Some(python) = python() else { return };
    let app = app(&python);
    let client = app.client().await;
    let mut command = app.command(&["agent", "all"]);
    command.env("AGENT_SECRET", "hunter2");
    let agent = rhubarb_tests::AgentProcess::start(command).await;
    let id = enqueue(&client, "greet", json!({"name": "you"}), "python").await;
    let failing = enqueue(&client, "greet", json!({"fail": true}), "python").await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
    assert!(detail.attempts[0].log.text.contains("working on greet"), "its output is kept");
    let output: Value = client.output(id).await.unwrap();
    // https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html, "Example standard queue message event"
    let record = output["record"].as_object().unwrap();
    let mut keys: Vec<&str> = record.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let documented = [
        "attributes",
        "awsRegion",
        "body",
        "eventSource",
        "eventSourceARN",
        "md5OfBody",
        "messageAttributes",
        "messageId",
        "receiptHandle",
    ];
    assert_eq!(keys, documented);
    for attribute in ["ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"] {
        assert!(record["attributes"][attribute].is_string(), "{attribute}");
    }
    assert_eq!(record["eventSource"], "aws:sqs");
    let left = output["left_ms"].as_i64().unwrap();
    assert!(left > 30_000 && left <= 60_000, "the deadline is an epoch time: {left} ms left");
    assert!(output["arn"].as_str().unwrap().starts_with("arn:aws:lambda:"));
    assert_eq!(output["secret"], Value::Null, "the agent's environment is not the function's");
    assert_eq!(output["own"], "mine");
    assert_eq!(settled(&client, failing).await.record.state, State::Failed);
    agent.stop().await;
}

#[tokio::test]
async fn an_existing_handler_runs_unchanged_on_bodies_that_are_no_envelopes() {
    let Some(python) = python() else { return };
    let app = app(&python);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let queue = "legacy".parse().unwrap();
    let message = rhubarb::core::backend::OutgoingMessage { body: "<order>7</order>".into(), ..Default::default() };
    let message = client.backend().broker().send(&queue, &[message]).await.pop().unwrap().unwrap();
    let id = rhubarb::core::ids::TaskId::of_message(&message);
    rhubarb_tests::until(async || client.task(id).await.ok()).await;
    assert_eq!(settled(&client, id).await.record.state, State::Succeeded);
    let seen = std::fs::read_to_string(app.path().join("seen")).unwrap();
    assert_eq!(seen, "<order>7</order>\n");
    agent.stop().await;
}

#[tokio::test]
async fn every_route_answers_a_function_that_has_no_sdk() {
    let Some(python) = python() else { return };
    let app = app(&python);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let id = enqueue(&client, "anything", json!({}), "routes").await;
    let detail = settled(&client, id).await;
    assert_eq!(detail.record.state, State::Succeeded, "{:?}", detail.record.failure);
    let output: String = client.output(id).await.unwrap();
    assert_eq!(output.len(), 300_000, "posted to the output route");
    let said = client.backend().blobs().get(&rhubarb::core::backend::BlobKey::new("said").unwrap()).await.unwrap();
    let said: Value = serde_json::from_slice(&said).unwrap();
    for (route, status, words) in [
        ("progress", 202, ""),
        ("no checkpoint", 404, "NoCheckpoint"),
        ("checkpoint", 204, ""),
        ("last checkpoint", 200, "state"),
        ("cancellation", 200, "false"),
        ("enqueue", 200, "id"),
        ("task", 200, "running"),
        ("tasks", 200, "items"),
        ("counts", 200, "running"),
        ("put blob", 200, "sha256"),
        ("get blob", 200, "content"),
        ("list blobs", 200, "models/a"),
        ("delete blob", 204, ""),
        ("no blob", 404, "NoBlob"),
        ("wild blob", 400, "InvalidRequest"),
        ("another's task", 403, "NotHeld"),
        ("sweep", 403, "NotAllowed"),
        ("redrive", 403, "NotAllowed"),
        ("no route", 404, "NoRoute"),
    ] {
        assert_eq!(said[route][0], status, "{route}: {}", said[route]);
        assert!(said[route][1].as_str().unwrap().contains(words), "{route}: {}", said[route]);
    }
    let progress = detail.record.progress.unwrap();
    assert_eq!((progress.done, progress.message.as_deref()), (3, Some("epoch 3")));
    agent.stop().await;
}
