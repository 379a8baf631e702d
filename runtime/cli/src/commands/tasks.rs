//! `rhubarb tasks`: lists tasks, the newest first.

use clap::Args;
use rhubarb_core::{
    backend::{Filter, TaskRecord},
    ids::{QueueName, TaskId, TaskName},
    row::State,
    time::Timestamp,
};

use crate::{
    exit::Result,
    session::Session,
    values::{Moment, now, show_ago, show_time},
    watch::show_progress,
};

/// List tasks, the newest first
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Tasks {
    /// In this state: scheduled, waiting, queued, running, retrying, succeeded, failed, cancelled, expired
    #[arg(long)]
    state: Option<State>,
    /// Of this queue
    #[arg(long)]
    queue: Option<QueueName>,
    /// Of this kind
    #[arg(long)]
    task: Option<TaskName>,
    /// Below this root: what it enqueued, what those did, and so on
    #[arg(long, value_name = "ID")]
    root: Option<TaskId>,
    /// Accepted since then: a time, or a duration back from now
    #[arg(long, value_name = "WHEN", value_parser = Moment::read)]
    since: Option<Moment>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

const EXAMPLES: &str = "\
Examples:
  rhubarb tasks --state failed --since 1h
  rhubarb tasks --queue training --limit 5
  rhubarb tasks --task train_model --json --limit 1000 | jq .id";

/// Records that one read brings.
const PAGE: usize = 500;

impl Tasks {
    /// Lists them, page by page.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        let now = now();
        let mut left = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut filter = Filter {
            queue: self.queue,
            state: self.state,
            task: self.task,
            root: self.root,
            since: self.since.map(|since| since.back(now)),
            limit: left.min(PAGE),
            cursor: None,
        };
        let mut listed: Vec<TaskRecord> = Vec::new();
        loop {
            let page = client.tasks(&filter).await?;
            left -= page.items.len().min(left);
            filter.limit = left.min(PAGE);
            filter.cursor = page.next;
            if session.screen.json() {
                // As they come: a long listing needs no memory.
                page.items.iter().try_for_each(|task| session.screen.document(task))?;
            } else {
                listed.extend(page.items);
            }
            if left == 0 || filter.cursor.is_none() {
                break;
            }
        }
        if session.screen.json() {
            return Ok(());
        }
        let header = ["id", "task", "queue", "state", "attempts", "accepted", "waited", "ran", "note"];
        session.screen.rows(&listed, &header, |task| row(task, now), "no such tasks")?;
        if filter.cursor.is_some() {
            session.screen.note(format!("the newest {}; --limit shows more", listed.len()));
        }
        Ok(())
    }
}

fn row(task: &TaskRecord, now: Timestamp) -> Vec<String> {
    vec![
        task.id.to_string(),
        task.task.to_string(),
        task.queue.to_string(),
        task.state.to_string(),
        task.attempt.to_string(),
        show_ago(task.submitted, now),
        waited(task),
        ran(task, now),
        note(task, now),
    ]
}

/// From when it could start to when its latest attempt began.
fn waited(task: &TaskRecord) -> String {
    let from = task.queued_at.max(task.not_before.unwrap_or(task.queued_at));
    let started = task.started.filter(|started| *started >= from);
    started.map_or_else(String::new, |started| show_time(started.since(from)))
}

/// From when its latest attempt began to its end.
fn ran(task: &TaskRecord, now: Timestamp) -> String {
    let end = task.settled.or_else(|| (task.state == State::Running).then_some(now));
    let time = task.started.zip(end).map(|(started, end)| show_time(end.since(started)));
    time.unwrap_or_default()
}

fn note(task: &TaskRecord, now: Timestamp) -> String {
    match (task.state, &task.failure, &task.progress) {
        (State::Running, _, _) if task.cancel_asked => "asked to stop".into(),
        (State::Running, _, Some(progress)) => show_progress(progress),
        (State::Failed, Some(failure), _) => failure.to_string(),
        (State::Retrying | State::Scheduled, failure, _) => {
            let at = task.not_before.map(|at| show_ago(at, now)).unwrap_or_default();
            let why = failure.as_ref().map(|failure| format!(" after {failure}")).unwrap_or_default();
            format!("{at}{why}").trim().to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(changes: &serde_json::Value) -> TaskRecord {
        let mut record = json!({
            "id": "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b", "task": "train_model", "queue": "training", "state": "queued",
            "attempt": 0, "submitted": 1000, "queued_at": 1000, "cancel_asked": false, "redriven": 0, "interruptions": 0,
            "snoozes": 0,
        });
        for (key, value) in changes.as_object().unwrap() {
            record[key] = value.clone();
        }
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn a_running_task_shows_its_times_and_its_progress() {
        let progress = json!({"done": 3, "total": 40, "message": "epoch 3"});
        let task = record(&json!({"state": "running", "attempt": 1, "started": 1500, "progress": progress}));
        let cells = row(&task, Timestamp(4500));
        assert_eq!(cells[3..], ["running", "1", "3s ago", "0.5s", "3.0s", "3/40 epoch 3"]);
    }

    #[test]
    fn a_waiting_task_has_no_times_yet_and_a_failed_one_says_why() {
        assert_eq!(row(&record(&json!({})), Timestamp(2000))[5..], ["1s ago", "", "", ""]);
        let failure = json!({"kind": "crashed", "message": "exit code 3"});
        let task = record(&json!({"state": "failed", "started": 1010, "settled": 1020, "failure": failure}));
        assert_eq!(row(&task, Timestamp(2000))[6..], ["10ms", "10ms", "crashed: exit code 3"]);
    }
}
