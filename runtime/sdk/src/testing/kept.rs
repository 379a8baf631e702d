//! The routes of a host in memory, as the real one answers them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, StatusCode};
use rhubarb_core::{
    backend::{BlobInfo, BlobKey, Cursor, Page, Progress, StateCount, TaskRecord, sha256_hex},
    envelope::BlobRef,
    ids::TaskId,
    row::State,
    time::Timestamp,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    BoxError, CancelReason,
    context::routes::{Call, Reply, Routes},
};

/// Items of a page where the query names none.
const PAGE: usize = 100;

/// What the host holds.
pub(crate) struct Kept {
    id: TaskId,
    things: Mutex<Things>,
    cancelled: watch::Sender<Option<CancelReason>>,
}

#[derive(Default)]
pub(super) struct Things {
    pub(super) progress: Vec<Progress>,
    pub(super) checkpoint: Option<Bytes>,
    pub(super) blobs: BTreeMap<BlobKey, Bytes>,
    pub(super) enqueued: Vec<Value>,
    pub(super) tasks: Vec<TaskRecord>,
    pub(super) counts: Vec<StateCount>,
    pub(super) redriven: Vec<TaskId>,
    pub(super) sweeps: usize,
    pub(super) lease_lost: bool,
    pub(super) store_is_down: bool,
}

impl Kept {
    pub(super) fn new(id: TaskId) -> Self {
        Self { id, things: Mutex::default(), cancelled: watch::Sender::new(None) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cancel(&self, reason: CancelReason) {
        self.cancelled.send_replace(Some(reason));
    }
}

impl Routes for Kept {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, BoxError>> {
        let own = format!("/tasks/{}/", self.id);
        if call.path.starts_with(&own) && self.lock().lease_lost {
            return answered(refused(StatusCode::CONFLICT, "LeaseLost", "the task has a newer holder"));
        }
        if self.lock().store_is_down {
            return answered(refused(StatusCode::SERVICE_UNAVAILABLE, "Unavailable", "the store cannot be reached"));
        }
        match call.path.strip_prefix(&own).and_then(|path| path.strip_prefix("cancellation?wait_ms=")) {
            Some(wait) => cancellation(self.cancelled.subscribe(), wait.parse().unwrap_or(0)),
            None => answered(self.lock().answer(&own, call)),
        }
    }
}

impl Things {
    fn answer(&mut self, own: &str, call: Call) -> Result<Reply, BoxError> {
        let (path, query) = call.path.split_once('?').unwrap_or((&call.path, ""));
        match (&call.method, path.strip_prefix(own).unwrap_or(path)) {
            (&Method::POST, "progress") => {
                self.progress.push(serde_json::from_slice(&call.body)?);
                done(StatusCode::ACCEPTED)
            }
            (&Method::PUT, "checkpoint") => {
                self.checkpoint = Some(call.body);
                done(StatusCode::NO_CONTENT)
            }
            (&Method::GET, "checkpoint") => match &self.checkpoint {
                Some(content) => Ok(Reply { status: StatusCode::OK, body: content.clone() }),
                None => refused(StatusCode::NOT_FOUND, "NoCheckpoint", "the task has no checkpoint"),
            },
            (&Method::PUT, "output") => written(&BlobKey::new("output")?, &call.body),
            (&Method::POST, "/enqueue") => self.enqueue(&call.body),
            (&Method::GET, "/tasks") => self.list(query),
            (&Method::GET, "/counts") => written_json(&self.counts),
            (&Method::POST, "/sweep") => {
                self.sweeps += 1;
                written_json(&json!({ "reaped": 0, "rung": 0, "forgotten": 0 }))
            }
            (&Method::GET, "/blobs") => self.list_blobs(query),
            (method, path) => match (path.strip_prefix("/blobs/"), path.strip_prefix("/tasks/")) {
                (Some(key), _) => self.blob(method, BlobKey::new(key)?, query, &call.body),
                (None, Some(path)) => self.task(method, path),
                (None, None) => refused(StatusCode::NOT_FOUND, "NotFound", "there is no such route"),
            },
        }
    }

    fn enqueue(&mut self, body: &[u8]) -> Result<Reply, BoxError> {
        let request: Value = serde_json::from_slice(body)?;
        let tasks = request["tasks"].as_array().cloned().unwrap_or_default();
        let id = |task: &Value| task["id"].as_str().map_or_else(|| TaskId::mint().to_string(), ToOwned::to_owned);
        let results: Vec<Value> = tasks.iter().map(|task| json!({ "id": id(task) })).collect();
        self.enqueued.extend(tasks);
        written_json(&json!({ "results": results }))
    }

    fn list(&self, query: &str) -> Result<Reply, BoxError> {
        let wants = |name, is: &str| value(query, name).is_none_or(|wanted| wanted == is);
        let since = value(query, "since").and_then(|since| since.parse().ok()).map(Timestamp);
        let start: usize = value(query, "cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let limit = value(query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE);
        let wanted = self.tasks.iter().filter(|task| {
            wants("queue", task.queue.as_str())
                && wants("state", task.state.as_str())
                && wants("task", task.task.as_str())
                // No task here has a root.
                && value(query, "root").is_none()
                && since.is_none_or(|since| task.submitted >= since)
        });
        let mut items: Vec<TaskRecord> = wanted.skip(start).take(limit + 1).cloned().collect();
        let more = items.len() > limit;
        items.truncate(limit);
        written_json(&Page { items, next: more.then(|| Cursor((start + limit).to_string())) })
    }

    fn task(&mut self, method: &Method, path: &str) -> Result<Reply, BoxError> {
        let (id, redrive) = path.strip_suffix("/redrive").map_or((path, false), |id| (id, true));
        let id: TaskId = id.parse()?;
        let Some(task) = self.tasks.iter_mut().find(|task| task.id == id) else {
            return refused(StatusCode::NOT_FOUND, "NoTask", &format!("there is no task {id}"));
        };
        match (method, redrive, task.state) {
            (&Method::GET, false, _) => {
                let mut detail = serde_json::to_value(&*task)?;
                detail["attempts"] = json!([]);
                written_json(&detail)
            }
            (&Method::POST, true, State::Failed) => {
                task.state = State::Queued;
                self.redriven.push(id);
                written_json(&json!({ "state": State::Queued }))
            }
            (&Method::POST, true, state) => {
                refused(StatusCode::CONFLICT, "Refused", &format!("task {id} is {state}, not failed"))
            }
            _ => refused(StatusCode::NOT_FOUND, "NotFound", "there is no such route"),
        }
    }

    fn list_blobs(&self, query: &str) -> Result<Reply, BoxError> {
        let prefix = value(query, "prefix").unwrap_or_default();
        let below = |key: &BlobKey| {
            let rest = key.as_str().strip_prefix(&prefix);
            prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let listed = self.blobs.iter().filter(|(key, _)| below(key)).map(|(key, content)| BlobInfo {
            key: key.clone(),
            size: content.len() as u64,
            modified: Timestamp::default(),
        });
        written_json(&listed.collect::<Vec<_>>())
    }

    fn blob(&mut self, method: &Method, key: BlobKey, query: &str, body: &Bytes) -> Result<Reply, BoxError> {
        match (method, self.blobs.get(&key)) {
            (&Method::PUT, _) => {
                let reply = written(&key, body);
                self.blobs.insert(key, body.clone());
                reply
            }
            (&Method::DELETE, _) => {
                self.blobs.remove(&key);
                done(StatusCode::NO_CONTENT)
            }
            (&Method::GET, _) if query == "locate=1" => written_json(&json!({ "location": format!("memory:{key}") })),
            (&Method::GET, Some(content)) => Ok(Reply { status: StatusCode::OK, body: content.clone() }),
            (_, _) => refused(StatusCode::NOT_FOUND, "NoBlob", &format!("there is no blob `{key}`")),
        }
    }
}

fn cancellation(
    mut cancelled: watch::Receiver<Option<CancelReason>>,
    wait_ms: u64,
) -> BoxFuture<'static, Result<Reply, BoxError>> {
    async move {
        let wait = Duration::from_millis(wait_ms);
        let reason = tokio::time::timeout(wait, cancelled.wait_for(Option::is_some)).await;
        let reason = reason.ok().and_then(Result::ok).and_then(|reason| *reason);
        let word = reason.map(|reason| match reason {
            CancelReason::Timeout => "timeout",
            CancelReason::Shutdown => "shutdown",
            CancelReason::Requested | CancelReason::LeaseLost => "requested",
        });
        written_json(&json!({ "cancelled": reason.is_some(), "reason": word }))
    }
    .boxed()
}

fn answered(reply: Result<Reply, BoxError>) -> BoxFuture<'static, Result<Reply, BoxError>> {
    futures::future::ready(reply).boxed()
}

const fn done(status: StatusCode) -> Result<Reply, BoxError> {
    Ok(Reply { status, body: Bytes::new() })
}

fn written_json(value: &impl Serialize) -> Result<Reply, BoxError> {
    Ok(Reply { status: StatusCode::OK, body: serde_json::to_vec(value)?.into() })
}

fn written(key: &BlobKey, content: &[u8]) -> Result<Reply, BoxError> {
    written_json(&BlobRef { key: key.to_string(), sha256: sha256_hex(content), size: content.len() as u64 })
}

fn refused(status: StatusCode, kind: &str, message: &str) -> Result<Reply, BoxError> {
    Ok(Reply { status, body: serde_json::to_vec(&json!({ "errorType": kind, "errorMessage": message }))?.into() })
}

/// A value of a query, as the client writes it.
fn value(query: &str, name: &str) -> Option<String> {
    let pair = query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
    pair.map(|(_, value)| unescaped(value))
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte =
            escaped.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        (rest, _) = (byte.map_or(after, |_| &after[2..]), bytes.push(byte.unwrap_or(*first)));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
