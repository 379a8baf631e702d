//! A real function process on a real socket: this test binary starts itself again as the function, and
//! plays the Runtime API to it.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    process::Stdio,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rhubarb::{
    Context, Function, Task, TaskError,
    core::{
        contract::{self, AttemptInfo, Said},
        ids::{MessageId, TaskId},
        outcome::Output,
        time::Timestamp,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::mpsc,
};

/// What the function process is to be; it is a process of this same program.
const ROLE: &str = "RHUBARB_TEST_ROLE";

#[derive(Serialize, Deserialize)]
struct Shout {
    text: String,
}

impl Task for Shout {
    const NAME: &'static str = "shout";
    type Output = String;
}

async fn shout(task: Shout, cx: Context) -> Result<String, TaskError> {
    cx.progress(1, 2).await?;
    let mark = cx.state::<&str>()?;
    Ok(format!("{}{mark}", task.text.to_uppercase()))
}

/// The function itself: does nothing as a test.
#[tokio::test]
async fn function_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let ready = async { Ok::<_, std::io::Error>("!") };
    let broken = async { Err::<u8, _>(std::io::Error::other("no licence")) };
    let function = match role.as_str() {
        "twice" => Function::new().on(shout).on(shout),
        "broken" => Function::new().on(shout).setup(broken),
        _ => Function::new().on(shout).setup(ready),
    };
    if let Err(error) = function.run().await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// What the process said, in order.
type Call = (String, Bytes);

struct Api {
    function: Child,
    said: mpsc::UnboundedReceiver<Call>,
}

impl Api {
    /// Starts the function in a role, on a Runtime API that has these events. Without `is_host` the API
    /// knows none of the host's routes.
    async fn start(role: &str, is_host: bool, events: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (say, said) = mpsc::unbounded_channel();
        let events = Arc::new(Mutex::new(VecDeque::from(events)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (say, events) = (say.clone(), Arc::clone(&events));
                let answer = service_fn(move |request| answer(request, say.clone(), Arc::clone(&events), is_host));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        let function = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "function_process", "--nocapture"])
            .env(ROLE, role)
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "shouting")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { function, said }
    }

    async fn next(&mut self) -> Call {
        self.said.recv().await.unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
    say: mpsc::UnboundedSender<Call>,
    events: Arc<Mutex<VecDeque<String>>>,
    is_host: bool,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let body = body.collect().await.unwrap().to_bytes();
    let _ = say.send((path.clone(), body));
    let mut response = Response::new(Full::default());
    if parts.method == Method::GET && path.ends_with("/invocation/next") {
        let event = events.lock().unwrap().pop_front();
        let Some(event) = event else { return std::future::pending().await };
        let headers = response.headers_mut();
        headers.insert("lambda-runtime-aws-request-id", "r1".parse().unwrap());
        headers.insert("lambda-runtime-deadline-ms", "4102444800000".parse().unwrap());
        headers.insert("lambda-runtime-invoked-function-arn", "arn".parse().unwrap());
        *response.body_mut() = Full::from(event);
    } else if path.starts_with("/rhubarb/") && !is_host {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(response)
}

fn event() -> String {
    let info = AttemptInfo {
        v: 1,
        id: TaskId::from_bytes([7; 16]),
        attempt: 1,
        max_attempts: 3,
        fence: 1,
        timeout_ms: 60_000,
        soft_timeout_ms: 54_000,
        gpus: [].as_slice().into(),
        checkpoint: false,
    };
    contract::event(&[contract::Record {
        message: &MessageId::new("m1"),
        body: r#"{"task":"shout","args":{"text":"hello"}}"#,
        receive_count: 1,
        sent: Timestamp(1),
        first_received: Timestamp(1),
        arn: "arn:aws:sqs:local:0:shouting",
        info: &info,
        traceparent: None,
        tracestate: None,
    }])
}

#[tokio::test]
async fn a_function_introduces_itself_then_takes_works_and_answers() {
    let mut api = Api::start("shout", true, vec![event()]).await;
    let (path, body) = api.next().await;
    assert_eq!(path, "/rhubarb/v1/function");
    let introduction: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&introduction["v"], &introduction["tasks"]), (&1.into(), &serde_json::json!(["shout"])));
    assert_eq!(api.next().await.0, "/2018-06-01/runtime/invocation/next");
    let id = TaskId::from_bytes([7; 16]);
    assert_eq!(api.next().await, (format!("/rhubarb/v1/tasks/{id}/progress"), r#"{"done":1,"total":2}"#.into()));
    let (path, answer) = api.next().await;
    assert_eq!(path, "/2018-06-01/runtime/invocation/r1/response");
    let said = contract::read_answer(&answer, &[&MessageId::new("m1")], 1000).unwrap();
    assert!(matches!(&said[0], Said::Succeeded(Some(Output::Inline(json))) if json.get() == r#""HELLO!""#));
    assert_eq!(api.next().await.0, "/2018-06-01/runtime/invocation/next");
}

#[tokio::test]
async fn a_function_works_on_plain_lambda() {
    let mut api = Api::start("shout", false, vec![event()]).await;
    assert_eq!(api.next().await.0, "/rhubarb/v1/function");
    assert_eq!(api.next().await.0, "/2018-06-01/runtime/invocation/next");
    let (path, answer) = api.next().await;
    assert_eq!(path, "/2018-06-01/runtime/invocation/r1/response");
    assert!(answer.starts_with(br#"{"batchItemFailures":[],"#), "{answer:?}");
}

#[tokio::test]
async fn an_event_of_no_queue_is_reported_as_the_invocations_error() {
    let mut api = Api::start("shout", true, vec![r#"{"source":"aws.s3"}"#.to_owned()]).await;
    for _ in ["function", "next"] {
        api.next().await;
    }
    let (path, error) = api.next().await;
    assert_eq!(path, "/2018-06-01/runtime/invocation/r1/error");
    assert!(String::from_utf8_lossy(&error).contains("no SQS event"), "{error:?}");
}

async fn init_error(role: &str) -> serde_json::Value {
    let mut api = Api::start(role, true, Vec::new()).await;
    let (path, error) = api.next().await;
    assert_eq!(path, "/2018-06-01/runtime/init/error");
    assert_eq!(api.function.wait().await.unwrap().code(), Some(1));
    serde_json::from_slice(&error).unwrap()
}

#[tokio::test]
async fn what_prevents_a_start_is_reported_as_an_init_error() {
    let error = init_error("broken").await;
    assert_eq!(error["errorType"], "Setup");
    assert_eq!(error["errorMessage"], "cannot set up the function: no licence");
    let error = init_error("twice").await;
    assert_eq!(error["errorMessage"], "two handlers are given for task `shout`: keep one");
}
