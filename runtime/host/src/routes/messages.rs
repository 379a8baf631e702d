//! What the routes read and answer.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use rhubarb_core::{
    backend::{BlobKey, StoreError, Window},
    enqueue::NewTask,
    envelope::Trace,
    ids::{QueueName, TaskId, TaskName},
    time::Timestamp,
    trace::{TRACEPARENT, TRACESTATE},
};
use rhubarb_telemetry::spans;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::attempt::Attempt;

/// Why a request is refused.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequest", message)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let (status, kind) = match &error {
            StoreError::Refused(_) => (StatusCode::CONFLICT, "LeaseLost"),
            StoreError::NoTask(_) => (StatusCode::NOT_FOUND, "NoTask"),
            StoreError::NoBlob(_) => (StatusCode::NOT_FOUND, "NoBlob"),
            StoreError::NoQueue(_) => (StatusCode::NOT_FOUND, "NoQueue"),
            StoreError::KeyReused { .. } => (StatusCode::CONFLICT, "KeyReused"),
            StoreError::Invalid(_) => (StatusCode::BAD_REQUEST, "InvalidRequest"),
            StoreError::DamagedBlob { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "DamagedBlob"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "BackendUnavailable"),
        };
        Self::new(status, kind, error.to_string())
    }
}

pub(super) type Answer = Result<Response<Bytes>, Refusal>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Enqueue {
    pub(super) tasks: Vec<EnqueueOne>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnqueueOne {
    pub(super) task: TaskName,
    #[serde(default)]
    pub(super) args: Option<Box<RawValue>>,
    pub(super) queue: Option<QueueName>,
    /// What the task's type says, below the configuration.
    pub(super) type_queue: Option<QueueName>,
    pub(super) id: Option<TaskId>,
    pub(super) delay_ms: Option<u64>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires: Option<Timestamp>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) max_attempts: Option<u32>,
    pub(super) gpus: Option<u32>,
    pub(super) idempotency_key: Option<String>,
    pub(super) window_ms: Option<u64>,
    window: Option<WindowWord>,
    pub(super) ordering_key: Option<String>,
    pub(super) fairness_key: Option<String>,
    pub(super) concurrency_key: Option<String>,
}

/// A window that is no duration.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WindowWord {
    UntilSettled,
}

impl EnqueueOne {
    pub(super) fn into_new_task(self, parent: Option<&Attempt>) -> Result<NewTask, Refusal> {
        let window = match (self.window, self.window_ms) {
            (Some(_), Some(_)) => return Err(Refusal::bad("`window` and `window_ms` are both given: keep one")),
            (Some(WindowWord::UntilSettled), None) => Window::UntilSettled,
            (None, Some(ms)) => Window::For(Duration::from_millis(ms)),
            (None, None) => Window::DEFAULT,
        };
        let family = parent.map(|parent| (parent.won.id, parent.envelope.root.unwrap_or(parent.won.id)));
        Ok(NewTask {
            queue: self.queue,
            type_queue: self.type_queue,
            id: self.id,
            delay: self.delay_ms.map(Duration::from_millis),
            not_before: self.not_before,
            expires: self.expires,
            timeout: self.timeout_ms.map(Duration::from_millis),
            max_attempts: self.max_attempts,
            gpus: self.gpus,
            idempotency_key: self.idempotency_key,
            window,
            ordering_key: self.ordering_key,
            fairness_key: self.fairness_key,
            concurrency_key: self.concurrency_key,
            parent: family,
            ..NewTask::new(self.task, self.args.unwrap_or_else(rhubarb_core::envelope::null))
        })
    }
}

/// What a child task hangs under: the span that the function names by W3C's header, or else the attempt.
pub(super) fn parent_span(request: &Request<Bytes>, parent: Option<&Attempt>) -> spans::Context {
    let header = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
    let named = Trace { traceparent: header(TRACEPARENT), tracestate: header(TRACESTATE) };
    let of_attempt = || parent.map(|parent| parent.span.context().clone()).unwrap_or_default();
    spans::context_of(&named).unwrap_or_else(of_attempt)
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Enqueued {
    Accepted {
        id: TaskId,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        existing: bool,
    },
    Error {
        error: ErrorBody,
    },
}

#[derive(Serialize)]
pub(super) struct ErrorBody {
    #[serde(rename = "errorType")]
    pub(super) kind: &'static str,
    #[serde(rename = "errorMessage")]
    pub(super) message: String,
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

pub(super) fn respond(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(body).map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", format!("cannot write the answer: {error}"))
    })?;
    Ok(respond(status, text.into()))
}

pub(super) fn body<'a, T: Deserialize<'a>>(request: &'a Request<Bytes>) -> Result<T, Refusal> {
    serde_json::from_slice(request.body())
        .map_err(|error| Refusal::bad(format!("the body does not fit this route: {error}")))
}

pub(super) fn task_id(text: &str) -> Result<TaskId, Refusal> {
    text.parse().map_err(|error: rhubarb_core::ids::InvalidName| Refusal::bad(error.to_string()))
}

/// Refuses to keep what only a row could lead back to.
pub(super) fn refuse_rowless(attempt: &Attempt) -> Result<(), Refusal> {
    let (name, track) = (&attempt.queue.name, attempt.queue.track);
    if attempt.won.is_rowless() {
        return Err(Refusal::bad(format!(
            "queue {name} has track = \"{track}\" and keeps no rows, so nothing would lead the next attempt to a checkpoint: write track = \"full\" in [queues.{name}]"
        )));
    }
    Ok(())
}

pub(super) fn blob_key(segments: &[&str]) -> Result<BlobKey, Refusal> {
    Ok(BlobKey::new(segments.join("/"))?)
}

/// A value of the query string. Names, numbers and keys need no escapes beyond `%2F`-like ones.
pub(super) fn query(request: &Request<Bytes>, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| unescape(value))
}

fn unescape(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*byte),
        }
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}
