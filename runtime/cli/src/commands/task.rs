//! `rhubarb task`: everything that is known about one task.

use clap::Args;
use rhubarb::client::WaitReason;
use rhubarb_core::{
    backend::{AttemptRecord, TaskDetail},
    gpu::GpuUsage,
    ids::TaskId,
    outcome::Output,
    row::State,
    time::Timestamp,
};
use serde::Serialize;

use crate::{
    exit::Result,
    screen::{clean, plain_json, table},
    session::Session,
    values::{now, show_ago, show_time},
    watch::show_progress,
};

/// Show everything about one task: its state, its attempts, why it waits
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb task 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b
  rhubarb task 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b --json | jq .attempts")]
pub(crate) struct Task {
    /// The task
    id: TaskId,
}

/// Arguments and outputs longer than this are cut on a terminal; `--json` and `rhubarb result` show all.
const SHOWN_CHARS_MAX: usize = 500;

/// Of so many attempts the end of the output is shown, and so many lines of each.
const TAILS_MAX: usize = 3;
const TAIL_LINES_MAX: usize = 5;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    detail: TaskDetail,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<String>,
}

impl Task {
    /// To show this task.
    pub(super) const fn of(id: TaskId) -> Self {
        Self { id }
    }

    /// Shows it.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        let detail = client.task(self.id).await?;
        let waits = client.why_waiting(self.id).await?;
        if session.screen.json() {
            return session.screen.document(&Shown { detail, waits: waits.map(|reason| reason.to_string()) });
        }
        session.screen.line(describe(&detail, waits.as_ref(), now()))
    }
}

fn describe(detail: &TaskDetail, waits: Option<&WaitReason>, now: Timestamp) -> String {
    let record = &detail.record;
    let at = |time: Timestamp| format!("{time} ({})", show_ago(time, now));
    let attempts = match record.max_attempts {
        Some(max) => format!("{} of {max}", record.attempt),
        None => record.attempt.to_string(),
    };
    let state = match waits {
        Some(reason) if record.state == State::Waiting => format!("{} {reason}", record.state),
        Some(reason) => format!("{}, waiting: {reason}", record.state),
        None if record.cancel_asked && !record.state.is_settled() => format!("{}, asked to stop", record.state),
        None => record.state.to_string(),
    };
    let spec = detail.spec.as_ref();
    let arguments = spec.map(|spec| match &spec.blob {
        Some(blob) => format!("{} bytes in blob {}", blob.size, blob.key),
        None => cut(&plain_json(spec.args.get())),
    });
    let output = record.output.as_ref().map(|output| match output {
        Output::Inline(json) => cut(&plain_json(json.get())),
        Output::Blob(blob) => format!("{} bytes in blob {}", blob.size, blob.key),
    });
    let count = |count: u32| (count > 0).then(|| count.to_string());
    let lines = [
        ("task", Some(format!("{} {}", record.task, record.id))),
        ("queue", Some(record.queue.to_string())),
        ("state", Some(state)),
        ("progress", record.progress.as_ref().map(show_progress)),
        ("attempts", Some(attempts)),
        ("accepted", Some(at(record.submitted))),
        ("not before", record.not_before.map(at)),
        ("expires", record.expires.map(at)),
        ("started", record.started.map(at)),
        ("settled", record.settled.map(at)),
        ("worker", record.worker.as_ref().map(ToString::to_string)),
        ("parent", spec.and_then(|spec| spec.parent).map(|parent| parent.to_string())),
        ("redriven", count(record.redriven)),
        ("interrupted", count(record.interruptions)),
        ("snoozed", count(record.snoozes)),
        ("checkpoint", record.checkpoint.as_ref().map(|blob| format!("{} bytes in blob {}", blob.size, blob.key))),
        (
            "failure",
            record
                .failure
                .as_ref()
                .map(|failure| clean(&failure.to_string()).trim_end().replace('\n', "\n             ")),
        ),
        ("arguments", arguments),
        ("output", output),
    ];
    let mut text: String =
        lines.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name:<11}  {value}\n"))).collect();
    if !detail.attempts.is_empty() {
        let header = ["attempt", "outcome", "began", "ran", "worker", "failure", "printed"];
        text.push('\n');
        text.push_str(&table(&header, detail.attempts.iter().map(|attempt| attempt_row(attempt, now))));
        detail.attempts.iter().flat_map(ran_on).for_each(|line| text.push_str(&format!("\n{line}")));
        let printed: Vec<&AttemptRecord> = detail.attempts.iter().filter(|attempt| !attempt.log.is_silent()).collect();
        let newest = &printed[printed.len().saturating_sub(TAILS_MAX)..];
        newest.iter().for_each(|attempt| text.push_str(&tail(attempt)));
    }
    text.trim_end().to_owned()
}

/// What an attempt of a queue with GPUs ran on: a line for each device, or one for the CPU.
fn ran_on(attempt: &AttemptRecord) -> Vec<String> {
    let number = attempt.attempt;
    if attempt.ran_on_cpu() {
        return vec![format!("attempt {number} ran on the CPU")];
    }
    attempt.gpus().iter().map(|usage| format!("attempt {number} ran on {}", show_usage(usage))).collect()
}

/// Such as `GPU-1b2c: memory 1.5 GiB (mean 1.2 GiB), utilisation 98 % (mean 71 %)`.
fn show_usage(usage: &GpuUsage) -> String {
    let uuid = clean(&usage.uuid);
    if usage.readings == 0 {
        return format!("{uuid}, which was never read meanwhile");
    }
    let memory = Some((show_bytes(usage.memory_peak), show_bytes(usage.memory_mean)));
    let pair = |peak: Option<u32>, mean: Option<u32>, unit: &str| {
        Some((format!("{} {unit}", peak?), mean.map_or_else(|| "unknown".to_owned(), |mean| format!("{mean} {unit}"))))
    };
    let watts = |milliwatts: Option<u32>| milliwatts.map(|milliwatts| milliwatts / 1000);
    let figures = [
        ("memory", memory),
        ("utilisation", pair(usage.utilisation_peak, usage.utilisation_mean, "%")),
        ("power", pair(watts(usage.power_peak), watts(usage.power_mean), "W")),
        ("temperature", pair(usage.temperature_peak, usage.temperature_mean, "°C")),
    ];
    let told = figures.into_iter().filter_map(|(name, pair)| {
        let (peak, mean) = pair?;
        Some(format!("{name} {peak} (mean {mean})"))
    });
    format!("{uuid}: {}", told.collect::<Vec<_>>().join(", "))
}

/// Bytes of a device's memory, such as `1.5 GiB`.
fn show_bytes(bytes: u64) -> String {
    match bytes >> 30 {
        0 => format!("{} MiB", bytes >> 20),
        _ => {
            let tenths = bytes.saturating_mul(10) >> 30;
            format!("{}.{} GiB", tenths / 10, tenths % 10)
        }
    }
}

/// The end of what an attempt printed; `rhubarb logs` shows all.
fn tail(attempt: &AttemptRecord) -> String {
    let printed = clean(&attempt.log.text);
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES_MAX)..];
    let head = format!("\n\nattempt {} printed (the last {} of {} lines)", attempt.attempt, shown.len(), lines.len());
    shown.iter().fold(head, |text, line| text + "\n  " + &cut(line))
}

fn attempt_row(attempt: &AttemptRecord, now: Timestamp) -> Vec<String> {
    let ran = attempt.ended.unwrap_or(now).since(attempt.started);
    let bytes = attempt.log.text.len() as u64 + attempt.log.dropped;
    vec![
        attempt.attempt.to_string(),
        attempt.outcome.clone().unwrap_or_else(|| "running".into()),
        attempt.started.to_string(),
        show_time(ran),
        attempt.worker.to_string(),
        attempt.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
        if bytes == 0 { String::new() } else { format!("{bytes} bytes") },
    ]
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}… (cut; --json shows all)", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_is_shown_with_its_attempts_and_nothing_reaches_the_terminal_raw() {
        let detail: TaskDetail = serde_json::from_value(json!({
            "id": "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b", "task": "hello", "queue": "default", "state": "failed",
            "attempt": 1, "max_attempts": 3, "submitted": 0, "queued_at": 0, "cancel_asked": false, "redriven": 0,
            "interruptions": 0, "snoozes": 0, "failure": {"kind": "error", "message": "bad\u{1b}[2J news"},
            "attempts": [{"attempt": 1, "fence": 1, "worker": "w-1@host", "started": 0, "ended": 1500, "outcome": "failed",
                          "log": {"text": "1\n2\n3\n4\n5\n6 of \u{1b}[31mred\u{1b}[0m\n", "dropped": 0}}],
        }))
        .unwrap();
        let text = describe(&detail, None, Timestamp(60_000));
        assert!(text.contains("attempts     1 of 3\n") && text.contains("failure      error: bad news\n"), "{text}");
        assert!(
            text.contains(
                "\nATTEMPT  OUTCOME  BEGAN                 RAN   WORKER    FAILURE  PRINTED\n1        failed"
            ),
            "{text}"
        );
        assert!(text.ends_with("attempt 1 printed (the last 5 of 6 lines)\n  2\n  3\n  4\n  5\n  6 of red"), "{text}");
    }

    #[test]
    fn what_an_attempt_ran_on_is_shown_with_what_its_devices_did() {
        let usage = json!({
            "uuid": "GPU-1", "readings": 9, "memory_peak": 1_610_612_736_u64, "memory_mean": 734_003_200,
            "utilisation_peak": 98, "utilisation_mean": 71, "power_peak": 310_500, "power_mean": 250_000,
        });
        let attempts = [json!({"gpus": [usage]}), json!({"gpus": [{"uuid": "GPU-2"}]}), json!("cpu")].map(|ran_on| {
            let attempt: AttemptRecord = serde_json::from_value(json!({
                "attempt": 1, "fence": 1, "worker": "w", "started": 0, "log": {"text": "", "dropped": 0, "ran_on": ran_on},
            }))
            .unwrap();
            crate::commands::task::ran_on(&attempt).join("\n")
        });
        let did = "memory 1.5 GiB (mean 700 MiB), utilisation 98 % (mean 71 %), power 310 W (mean 250 W)";
        assert_eq!(attempts[0], format!("attempt 1 ran on GPU-1: {did}"));
        assert_eq!(attempts[1], "attempt 1 ran on GPU-2, which was never read meanwhile");
        assert_eq!(attempts[2], "attempt 1 ran on the CPU");
    }

    #[test]
    fn a_waiting_task_says_why() {
        let detail: TaskDetail = serde_json::from_value(json!({
            "id": "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b", "task": "hello", "queue": "high", "state": "queued",
            "attempt": 0, "submitted": 0, "queued_at": 0, "cancel_asked": false, "redriven": 0, "interruptions": 0,
            "snoozes": 0, "attempts": [],
        }))
        .unwrap();
        let reason = WaitReason::NoWorker(detail.record.queue.clone());
        let text = describe(&detail, Some(&reason), Timestamp(1000));
        assert!(text.contains("state        queued, waiting: no worker serves queue high\n"), "{text}");
    }
}
