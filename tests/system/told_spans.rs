//! `rhubarb trace` with a tracing system: real spans of a real agent, told as Tempo tells them.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rhubarb_testkit::collector::{Collector, Span};
use rhubarb_tests::{App, Ran, enqueue, settled, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use crate::traces::{PLATFORM, agent, arrived};

/// Answers every request with `answer` of its path, and ends with the test.
struct Tempo {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Tempo {
    async fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, answer) = (listener.local_addr().unwrap(), Arc::new(answer));
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let (status, body) = answer(head.split(' ').nth(1).unwrap());
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} .\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, server }
    }

    async fn trace(&self, app: &App, arguments: &[&str]) -> Ran {
        let mut command = app.command(&["trace"]);
        let output = command.args(arguments).env("RHUBARB_TRACES", format!("http://{}", self.address)).output();
        let output = output.await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Drop for Tempo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Ids are bytes, and bytes are base64 in Tempo's JSON.
fn id(hex: &str) -> String {
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    STANDARD.encode(bytes)
}

/// The spans of a trace as Tempo tells them: what is empty is left out, and 64-bit numbers are text.
fn told(spans: &[Span], trace: &str) -> String {
    let value = |text: &String| match text.parse::<i64>() {
        Ok(_) => json!({"intValue": text}),
        Err(_) => json!({"stringValue": text}),
    };
    let span = |span: &Span| {
        let attributes: Vec<Value> =
            span.attributes.iter().map(|(key, text)| json!({"key": key, "value": value(text)})).collect();
        let mut told = json!({
            "traceId": id(&span.trace), "spanId": id(&span.id), "name": span.name, "kind": span.kind.as_str_name(),
            "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000002000000",
            "attributes": attributes, "status": {},
        });
        if let Some(parent) = &span.parent {
            told["parentSpanId"] = id(parent).into();
        }
        told
    };
    let spans: Vec<Value> = spans.iter().filter(|span| span.trace == trace).map(span).collect();
    json!({"batches": [{"resource": {}, "scopeSpans": [{"scope": {"name": "rhubarb"}, "spans": spans}]}]}).to_string()
}

#[tokio::test]
async fn the_spans_of_each_attempt_hang_below_it() {
    let (app, collector) = (App::new(PLATFORM), Collector::start().await);
    let agent = agent(&app, &collector.endpoint(), &[]).await;
    // No producer gave it a trace: its id follows from the task.
    let client = app.client().await;
    let task = enqueue(&client, "family", json!({"children": 1}), "default").await;
    settled(&client, task).await;
    let _ = arrived(&collector, 2).await;
    agent.stop().await;
    let spans = collector.spans();
    let asked = task.to_string();

    let known = spans.clone();
    let tempo = Tempo::start(move |path| (200, told(&known, path.strip_prefix("/api/traces/").unwrap()))).await;
    let ran = tempo.trace(&app, &[&asked]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let lines: Vec<&str> = ran.stdout.lines().map(|line| line.trim_start_matches(['│', '├', '└', '─', ' '])).collect();
    let began = lines.iter().position(|line| line.contains("attempt 1 began")).unwrap();
    let ended = lines.iter().position(|line| line.contains("attempt 1 succeeded")).unwrap();
    let within = &lines[began + 1..ended];
    for operation in ["  send ", "  settle "] {
        let found = within.iter().any(|line| line.contains(operation) && line.ends_with("default, 2ms"));
        assert!(found, "{}", ran.stdout);
    }
    let ran = tempo.trace(&app, &[&asked, "--json"]).await;
    let story: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    let began = &story["events"][1];
    assert_eq!(began["event"], "began");
    let names: Vec<&str> = began["spans"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("settle ")), "{began}");
    assert_eq!(began["spans"][0]["duration_us"], 2000);
}

#[tokio::test]
async fn without_a_tracing_system_that_answers_the_store_tells_the_story() {
    let app = App::new(PLATFORM);
    let client = app.client().await;
    let task = enqueue(&client, "noop", json!({}), "default").await.to_string();
    let stranger = Tempo::start(|_| (404, "trace not found".to_owned())).await;
    let broken = Tempo::start(|_| (200, "<html>".to_owned())).await;
    let gone = Tempo::start(|_| (200, String::new())).await;
    gone.server.abort();
    until(async || tokio::net::TcpStream::connect(gone.address).await.is_err().then_some(())).await;
    for (tempo, said) in [(stranger, "does not know trace"), (broken, "no trace"), (gone, "does not tell them")] {
        let ran = tempo.trace(&app, &[&task]).await;
        assert!(ran.code == Some(0) && ran.stdout.contains("accepted"), "{ran:?}");
        assert!(ran.stderr.contains(said) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
}
