//! The spans of a tree's attempts, asked of a Tempo (<https://grafana.com/docs/tempo/latest/api_docs/#query>).
//!
//! Tempo answers in OpenTelemetry's JSON, save that `resourceSpans` is called `batches` there and that ids are in
//! base64; as OTLP has it is read too. The span of an attempt names the task and its fencing token. What hangs under
//! it is shown, as far as the attempts of other tasks. The story needs none of this: a Tempo that is down, or does
//! not know the trace, costs a line.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use rhubarb::client::Tree;
use rhubarb_agent::http::Endpoint;
use rhubarb_core::{ids::TaskId, time::Timestamp};
use rhubarb_telemetry::{names, spans::trace_id};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A tree has one trace, unless a producer has given its tasks others.
const TRACES_MAX: usize = 8;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is shown of one attempt.
const SPANS_MAX: usize = 100;
const DEPTH_MAX: usize = 20;

/// Something that was done within an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Span {
    pub(super) name: String,
    pub(super) at: Timestamp,
    /// Microseconds.
    pub(super) duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) spans: Vec<Self>,
}

/// What was found of a tree's attempts.
#[derive(Debug, Default)]
pub(super) struct Spans {
    by_attempt: HashMap<(TaskId, u64), Vec<Span>>,
    /// What is to be said about it.
    pub(super) notes: Vec<String>,
}

impl Spans {
    /// Asks the Tempo at `url` for the traces of a tree.
    pub(super) async fn of(url: &str, tree: &Tree) -> Self {
        let specs = tree.tasks.iter().filter_map(|task| task.task.spec.as_ref());
        let traces: BTreeSet<String> = specs.map(trace_id).collect();
        let mut spans = Self::default();
        for trace in traces.iter().take(TRACES_MAX) {
            match ask(url, trace).await {
                Ok(Some(answer)) => spans.add(answer),
                Ok(None) => spans.notes.push(format!("no spans: {url} does not know trace {trace}")),
                Err(error) => {
                    spans.notes.push(format!("no spans: {url} does not tell them: {error}"));
                    break;
                }
            }
        }
        spans
    }

    /// What was done within an attempt.
    pub(super) fn take(&mut self, task: TaskId, fence: u64) -> Vec<Span> {
        self.by_attempt.remove(&(task, fence)).unwrap_or_default()
    }

    fn add(&mut self, answer: Answer) {
        let batches = answer.batches.into_iter().flat_map(|batch| batch.scope_spans);
        let mut all: Vec<Told> = batches.flat_map(|scope| scope.spans).collect();
        all.sort_by_key(Told::start);
        let mut below: HashMap<&str, Vec<&Told>> = HashMap::new();
        for span in &all {
            below.entry(&span.parent_span_id).or_default().push(span);
        }
        let mut is_cut = false;
        for (span, attempt) in all.iter().filter_map(|span| Some((span, span.attempt()?))) {
            let mut room = SPANS_MAX;
            self.by_attempt.insert(attempt, tree(&below, span, DEPTH_MAX, &mut room));
            is_cut |= room == 0;
        }
        if is_cut {
            self.notes.push(format!("of each attempt {SPANS_MAX} spans are shown at most"));
        }
    }
}

/// The spans below one, as far as those of other attempts.
fn tree(below: &HashMap<&str, Vec<&Told>>, span: &Told, depth: usize, room: &mut usize) -> Vec<Span> {
    let mut spans = Vec::new();
    let children = below.get(span.span_id.as_str()).filter(|_| depth > 0 && !span.span_id.is_empty());
    for child in children.into_iter().flatten().filter(|child| child.attempt().is_none()) {
        if *room == 0 {
            break;
        }
        *room -= 1;
        spans.push(Span {
            name: child.name.clone(),
            at: Timestamp(i64::try_from(child.start() / 1_000_000).unwrap_or(i64::MAX)),
            duration_us: child.end().saturating_sub(child.start()) / 1000,
            error: child.error(),
            spans: tree(below, child, depth - 1, room),
        });
    }
    spans
}

/// Asks for a trace; none where it is not known.
async fn ask(url: &str, trace: &str) -> Result<Option<Answer>, String> {
    let endpoint = Endpoint::read(url)?.within(ANSWER_WITHIN, ANSWER_BYTES_MAX);
    let (status, body) = endpoint.get(&format!("/api/traces/{trace}"), &[("accept", "application/json")]).await?;
    match status.as_u16() {
        200 => serde_json::from_slice(&body).map(Some).map_err(|error| format!("its answer is no trace: {error}")),
        404 => Ok(None),
        _ => Err(format!("it answers {status}")),
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default, alias = "resourceSpans")]
    batches: Vec<Batch>,
}

#[derive(Debug, Deserialize)]
struct Batch {
    #[serde(default, rename = "scopeSpans")]
    scope_spans: Vec<Scope>,
}

#[derive(Debug, Deserialize)]
struct Scope {
    #[serde(default)]
    spans: Vec<Told>,
}

/// A span in protobuf's JSON, where 64-bit numbers are text and what is empty is left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Told {
    span_id: String,
    parent_span_id: String,
    name: String,
    start_time_unix_nano: Value,
    end_time_unix_nano: Value,
    attributes: Vec<Attribute>,
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Attribute {
    key: String,
    #[serde(default)]
    value: HashMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: Value,
    message: String,
}

impl Told {
    fn start(&self) -> u64 {
        number(&self.start_time_unix_nano)
    }

    fn end(&self) -> u64 {
        number(&self.end_time_unix_nano)
    }

    /// What went wrong, if anything did.
    fn error(&self) -> Option<String> {
        let failed = self.status.code == "STATUS_CODE_ERROR" || self.status.code == 2;
        let kind = || Some(self.attribute(names::ERROR_TYPE)?.as_str()?.to_owned());
        let said = Some(self.status.message.clone()).filter(|message| !message.is_empty());
        failed.then(|| said.or_else(kind).unwrap_or_else(|| "failed".to_owned()))
    }

    /// The attempt that it is the span of.
    fn attempt(&self) -> Option<(TaskId, u64)> {
        let fence = number(self.attribute(names::LEASE_FENCE)?);
        Some((self.attribute(names::TASK_ID)?.as_str()?.parse().ok()?, fence))
    }

    fn attribute(&self, key: &str) -> Option<&Value> {
        self.attributes.iter().find(|attribute| attribute.key == key)?.value.values().next()
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TASK: &str = "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a01";

    fn spans(key: &str, told: Value) -> Spans {
        let mut spans = Spans::default();
        spans.add(serde_json::from_value(json!({key: [{"scopeSpans": [{"spans": told}]}]})).unwrap());
        spans
    }

    fn attempt(id: &str, parent: &str, task: &str) -> Value {
        json!({"spanId": id, "parentSpanId": parent, "name": "process default", "attributes": [
            {"key": "task.id", "value": {"stringValue": task}}, {"key": "lease.fence", "value": {"intValue": "1"}}]})
    }

    #[test]
    fn what_was_done_hangs_below_its_attempt_as_far_as_the_next() {
        // As Tempo writes it: ids in base64, 64-bit numbers as text, words for what is counted.
        let told = json!([
            {"traceId": "O/OicLKnLzCpfdc2vPkAMA==", "spanId": "AAAAAAAAEjQ=", "name": "order"},
            attempt("AQIDBAUGBwg=", "AAAAAAAAEjQ=", TASK),
            {"spanId": "c2Vjb25kAAA=", "parentSpanId": "AQIDBAUGBwg=", "name": "send default", "kind": "SPAN_KIND_PRODUCER",
             "startTimeUnixNano": "1700000000020000000", "endTimeUnixNano": "1700000000021500000",
             "status": {"code": "STATUS_CODE_ERROR", "message": "unreachable"}},
            {"spanId": "Zmlyc3QAAAA=", "parentSpanId": "AQIDBAUGBwg=", "name": "load", "kind": "SPAN_KIND_INTERNAL",
             "startTimeUnixNano": "1700000000010000000", "endTimeUnixNano": "1700000000015000000", "status": {}},
            attempt("Y2hpbGQAAAA=", "c2Vjb25kAAA=", "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a02"),
            {"spanId": "b3RoZXIAAAA=", "parentSpanId": "Y2hpbGQAAAA=", "name": "the child's"},
        ]);
        let mut spans = spans("batches", told);
        let span = |name: &str, ms: i64, duration_us, error: Option<&str>| Span {
            name: name.to_owned(),
            at: Timestamp(1_700_000_000_000 + ms),
            duration_us,
            error: error.map(ToOwned::to_owned),
            spans: Vec::new(),
        };
        let expected = [span("load", 10, 5000, None), span("send default", 20, 1500, Some("unreachable"))];
        assert_eq!(spans.take(TASK.parse().unwrap(), 1), expected);
        assert_eq!(spans.take(TASK.parse().unwrap(), 2), []);
    }

    #[test]
    fn what_has_no_end_is_cut() {
        // A span above itself, and more of them than are shown; as OTLP has it.
        let many = (0..SPANS_MAX).map(|_| json!({"spanId": "b", "parentSpanId": "a", "name": "one of many"}));
        let mut told = vec![attempt("a", "", TASK), json!({"spanId": "b", "parentSpanId": "b", "status": {"code": 2}})];
        told.extend(many);
        let mut spans = spans("resourceSpans", told.into());
        let count = |spans: &[Span]| spans.len() + spans.iter().map(|span| span.spans.len()).sum::<usize>();
        assert!(count(&spans.take(TASK.parse().unwrap(), 1)) <= SPANS_MAX);
        assert_eq!(spans.notes.len(), 1);
    }
}
