//! `rhubarb trace`: a task's story as a tree with times, from the store alone; with spans where a Tempo has them.
//!
//! What the store keeps of a task is its last wait, each attempt and how it ended; that is enough to say
//! where the time went without any tracing system. Where a producer or a tracing system gave the task a
//! trace, its id is told too. With `traces` in `[app]` the spans of each attempt hang below it.

mod spans;

use std::fmt::Write as _;

use clap::Args;
use rhubarb::client::{Tree, TreeTask};
use rhubarb_core::{
    backend::{AttemptRecord, TaskDetail},
    ids::TaskId,
    row::State,
    time::Timestamp,
};
use serde::Serialize;

use self::spans::{Span, Spans};
use crate::{
    exit::Result,
    screen::one_line,
    session::Session,
    values::{now, show_ago, show_time},
};

/// Show a task's story as a tree with times: accepted, waited, attempts, retries, children, outcome
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb trace 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b
  rhubarb trace 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b --json | jq 'select(.state == \"failed\") | .id'")]
pub(crate) struct Trace {
    /// The task
    id: TaskId,
    /// At most so many tasks
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

impl Trace {
    /// Shows it.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        let tree = client.tree(self.id, usize::try_from(self.limit).unwrap_or(usize::MAX)).await?;
        let mut spans = match &client.config().app.traces {
            Some(url) => Spans::of(url, &tree).await,
            None => Spans::default(),
        };
        if session.screen.json() {
            tree.tasks.iter().try_for_each(|task| session.screen.document(&Story::of(task, &mut spans)))?;
        } else {
            session.screen.line(describe(&tree, &mut spans, now()))?;
        }
        spans.notes.iter().for_each(|note| session.screen.note(one_line(note)));
        if tree.cut {
            session.screen.note(format!("the newest {} of them; --limit shows more", self.limit));
        }
        Ok(())
    }
}

/// Something that happened to a task.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Event {
    at: Timestamp,
    event: Happened,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    /// Began: how long it had waited. Ended: how long it had run.
    #[serde(skip_serializing_if = "Option::is_none")]
    after_ms: Option<u64>,
    /// An outcome's word, or a state.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// Began: what was done within the attempt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Happened {
    Accepted,
    Began,
    Ended,
    /// Settled by nobody's attempt: cancelled, expired, buried.
    Settled,
    /// It waits, since or until then.
    Waits,
}

impl Event {
    const fn new(at: Timestamp, event: Happened) -> Self {
        Self { at, event, attempt: None, worker: None, after_ms: None, outcome: None, failure: None, spans: Vec::new() }
    }
}

/// A line of `--json`.
#[derive(Serialize)]
struct Story<'t> {
    depth: usize,
    id: TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<TaskId>,
    task: &'t str,
    queue: &'t str,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<&'t str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<&'t str>,
    redriven: u32,
    events: Vec<Event>,
}

impl<'t> Story<'t> {
    fn of(TreeTask { depth, task }: &'t TreeTask, spans: &mut Spans) -> Self {
        let (record, spec) = (&task.record, task.spec.as_ref());
        Self {
            depth: *depth,
            id: record.id,
            parent: spec.and_then(|spec| spec.parent),
            task: record.task.as_str(),
            queue: record.queue.as_str(),
            state: record.state,
            trace: trace_id(task),
            schedule: spec.and_then(|spec| spec.schedule.as_ref()).map(AsRef::as_ref),
            redriven: record.redriven,
            events: events(task, spans),
        }
    }
}

/// The id in `00-<trace id>-<span id>-<flags>`.
fn trace_id(task: &TaskDetail) -> Option<&str> {
    let traceparent = task.spec.as_ref()?.trace.as_ref()?.traceparent.as_deref()?;
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn events(task: &TaskDetail, spans: &mut Spans) -> Vec<Event> {
    let record = &task.record;
    let mut events = vec![Event::new(record.submitted, Happened::Accepted)];
    // An envelope's own time is the first wait's end; the row's is the latest one's.
    let not_before = task.spec.as_ref().and_then(|spec| spec.not_before);
    let mut waits_from = not_before.map_or(record.submitted, |at| at.max(record.submitted));
    for attempt in &task.attempts {
        events.push(Event {
            attempt: Some(attempt.attempt),
            worker: Some(attempt.worker.to_string()),
            after_ms: Some(ms(waits_from, attempt.started)),
            spans: spans.take(record.id, attempt.fence.0),
            ..Event::new(attempt.started, Happened::Began)
        });
        if let Some(ended) = attempt.ended {
            events.push(ended_event(attempt, ended));
            waits_from = ended;
        }
    }
    let last_end = task.attempts.last().and_then(|attempt| attempt.ended);
    match record.settled {
        Some(settled) if last_end != Some(settled) || record.state != by_outcome(task) => events.push(Event {
            outcome: Some(record.state.to_string()),
            failure: record.failure.as_ref().filter(|_| task.attempts.is_empty()).map(ToString::to_string),
            ..Event::new(settled, Happened::Settled)
        }),
        None if record.state != State::Running => events.push(Event {
            outcome: Some(record.state.to_string()),
            ..Event::new(record.not_before.unwrap_or(record.queued_at).max(record.queued_at), Happened::Waits)
        }),
        Some(_) | None => {}
    }
    events
}

fn ended_event(attempt: &AttemptRecord, ended: Timestamp) -> Event {
    Event {
        attempt: Some(attempt.attempt),
        after_ms: Some(ms(attempt.started, ended)),
        outcome: attempt.outcome.clone(),
        failure: attempt.failure.as_ref().map(ToString::to_string),
        ..Event::new(ended, Happened::Ended)
    }
}

/// The state that the last attempt's outcome alone would explain.
fn by_outcome(task: &TaskDetail) -> State {
    match task.attempts.last().and_then(|attempt| attempt.outcome.as_deref()) {
        Some("succeeded") => State::Succeeded,
        Some("cancelled") => State::Cancelled,
        _ => State::Failed,
    }
}

fn ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

fn describe(tree: &Tree, spans: &mut Spans, now: Timestamp) -> String {
    let mut text = String::new();
    let Some(first) = tree.tasks.first() else { return text };
    let zero = first.task.record.submitted;
    if let Some(spec) = &first.task.spec {
        if let Some(parent) = spec.parent {
            let _ = writeln!(text, "enqueued by {parent}, root {}", spec.root.unwrap_or(parent));
        }
        if let Some(schedule) = &spec.schedule {
            let _ = writeln!(text, "enqueued by schedule {schedule}");
        }
    }
    if let Some(trace) = trace_id(&first.task) {
        let _ = writeln!(text, "trace {trace}");
    }
    let _ = writeln!(text, "+0 is {zero} ({})\n", show_ago(zero, now));
    for (index, TreeTask { depth, task }) in tree.tasks.iter().enumerate() {
        let bars = bars(&tree.tasks, index);
        let branch = match depth {
            0 => String::new(),
            _ if continues(&tree.tasks, index, *depth) => format!("{}├─ ", bars_up_to(&bars, depth - 1)),
            _ => format!("{}└─ ", bars_up_to(&bars, depth - 1)),
        };
        let record = &task.record;
        let took = took(task, now);
        let _ = writeln!(text, "{branch}{} {}  {} on {}{took}", record.task, record.id, record.state, record.queue);
        let has_children = tree.tasks.get(index + 1).is_some_and(|next| next.depth > *depth);
        let own = format!("{}{}", bars_up_to(&bars, *depth), if has_children { "│  " } else { "   " });
        for event in events(task, spans) {
            let _ = writeln!(text, "{own}{:>9}  {}", offset(zero, event.at), say(&event, now));
            say_spans(&mut text, &event.spans, &|at| format!("{own}{:>9}  ", offset(zero, at)), 1);
        }
        if record.redriven > 0 {
            let _ = writeln!(text, "{own}{:>9}  redriven: {} times", "", record.redriven);
        }
    }
    text.trim_end().to_owned()
}

/// For each level, whether a later task hangs there: the lines that pass by.
fn bars(tasks: &[TreeTask], index: usize) -> Vec<bool> {
    (1..=tasks[index].depth).map(|level| continues(tasks, index, level)).collect()
}

/// True if another task of this level comes before one that is higher up.
fn continues(tasks: &[TreeTask], index: usize, level: usize) -> bool {
    tasks[index + 1..].iter().map(|task| task.depth).find(|depth| *depth <= level) == Some(level)
}

fn bars_up_to(bars: &[bool], levels: usize) -> String {
    bars[..levels].iter().map(|continues| if *continues { "│  " } else { "   " }).collect()
}

fn took(task: &TaskDetail, now: Timestamp) -> String {
    let record = &task.record;
    match record.settled {
        Some(settled) => format!(" after {}", show_time(settled.since(record.submitted))),
        None => format!(" for {}", show_time(now.since(record.submitted))),
    }
}

fn offset(zero: Timestamp, at: Timestamp) -> String {
    if at < zero { format!("-{}", show_time(zero.since(at))) } else { format!("+{}", show_time(at.since(zero))) }
}

fn say(event: &Event, now: Timestamp) -> String {
    let time = show_time(std::time::Duration::from_millis(event.after_ms.unwrap_or(0)));
    let attempt = event.attempt.unwrap_or(0);
    let outcome = event.outcome.as_deref().unwrap_or("ended");
    let failure = event.failure.as_deref().map(|failure| format!(": {}", one_line(failure))).unwrap_or_default();
    match event.event {
        Happened::Accepted => "accepted".into(),
        Happened::Began => {
            let worker = event.worker.as_deref().unwrap_or("?");
            format!("attempt {attempt} began on {worker}, waited {time}")
        }
        Happened::Ended => format!("attempt {attempt} {outcome}, ran {time}{failure}"),
        Happened::Settled => format!("{outcome}{failure}"),
        Happened::Waits if event.at > now => format!("{outcome}, due {}", show_ago(event.at, now)),
        Happened::Waits => format!("{outcome}, waits"),
    }
}

/// A line for each span, those below another one further in.
fn say_spans(text: &mut String, spans: &[Span], begin: &dyn Fn(Timestamp) -> String, depth: usize) {
    for span in spans {
        let time = show_time(std::time::Duration::from_micros(span.duration_us));
        let error = span.error.as_deref().map(|error| format!(": {}", one_line(error))).unwrap_or_default();
        let indent = "  ".repeat(depth);
        let _ = writeln!(text, "{}{indent}{}, {time}{error}", begin(span.at), one_line(&span.name));
        say_spans(text, &span.spans, begin, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const IDS: [&str; 4] = [
        "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a01",
        "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a02",
        "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a03",
        "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a04",
    ];

    fn task(depth: usize, index: usize, changes: &Value) -> TreeTask {
        let mut task = json!({
            "id": IDS[index], "task": "work", "queue": "default", "state": "succeeded", "attempt": 1, "submitted": 1000,
            "queued_at": 1000, "cancel_asked": false, "redriven": 0, "interruptions": 0, "snoozes": 0, "settled": 3000,
            "attempts": [{"attempt": 1, "fence": 1, "worker": "w", "started": 1500, "ended": 3000, "outcome": "succeeded"}],
        });
        for (key, value) in changes.as_object().unwrap() {
            task[key] = value.clone();
        }
        TreeTask { depth, task: serde_json::from_value(task).unwrap() }
    }

    #[test]
    fn a_story_is_a_tree_with_times() {
        let retried = json!({"settled": null, "state": "retrying", "not_before": 9000, "queued_at": 4000, "attempts": [
            {"attempt": 1, "fence": 1, "worker": "w", "started": 2000, "ended": 4000, "outcome": "failed",
             "failure": {"kind": "error", "message": "no\u{1b}[2J data"}}]});
        let expired = json!({"state": "expired", "settled": 60_000, "attempts": []});
        let tasks = vec![task(0, 0, &json!({})), task(1, 1, &retried), task(2, 2, &expired), task(1, 3, &json!({}))];
        let text = describe(&Tree { tasks, cut: false }, &mut Spans::default(), Timestamp(5000));
        let expected = "\
+0 is 1970-01-01T00:00:01Z (4s ago)

work 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a01  succeeded on default after 2.0s
│       +0ms  accepted
│      +0.5s  attempt 1 began on w, waited 0.5s
│      +2.0s  attempt 1 succeeded, ran 1.5s
├─ work 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a02  retrying on default for 4.0s
│  │       +0ms  accepted
│  │      +1.0s  attempt 1 began on w, waited 1.0s
│  │      +3.0s  attempt 1 failed, ran 2.0s: error: no data
│  │      +8.0s  retrying, due in 4s
│  └─ work 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a03  expired on default after 59.0s
│             +0ms  accepted
│           +59.0s  expired
└─ work 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a04  succeeded on default after 2.0s
           +0ms  accepted
          +0.5s  attempt 1 began on w, waited 0.5s
          +2.0s  attempt 1 succeeded, ran 1.5s";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_an_attempt_did_not_settle_is_told_apart() {
        let cancelled = json!({"state": "cancelled", "settled": 7000, "attempts": [
            {"attempt": 1, "fence": 1, "worker": "w", "started": 2000, "ended": 4000, "outcome": "interrupted"}]});
        let events = events(&task(0, 0, &cancelled).task, &mut Spans::default());
        let told: Vec<(Happened, Option<&str>)> = events.iter().map(|e| (e.event, e.outcome.as_deref())).collect();
        let expected = [
            (Happened::Accepted, None),
            (Happened::Began, None),
            (Happened::Ended, Some("interrupted")),
            (Happened::Settled, Some("cancelled")),
        ];
        assert_eq!(told, expected);
    }
}
