//! `rhubarb workers`: who is there, and what each does.

use clap::Args;
use rhubarb_core::{
    backend::{Heard, WorkerGpu, WorkerGpuState, WorkerState},
    time::Timestamp,
};

use crate::{
    exit::Result,
    session::Session,
    values::{now, show_ago},
};

/// Show the workers: where they run, what they serve and hold, and what they cannot start
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb workers
  rhubarb workers --json | jq 'select(.alive) | .id'
  rhubarb workers --json | jq '.gpus[] | {uuid, state}'")]
pub(crate) struct Workers {}

impl Workers {
    /// Shows them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let workers = session.client().await?.workers().await?;
        let now = now();
        let header =
            ["worker", "state", "host", "pid", "slots", "tasks", "reserved", "gpus", "heard", "queues", "cannot start"];
        session.screen.rows(&workers, &header, |worker| row(worker, now), "no workers; start some with `rhubarb dev`")
    }
}

fn row(heard: &Heard, now: Timestamp) -> Vec<String> {
    let worker = &heard.worker;
    let state = match (heard.alive, worker.state) {
        (false, _) => "gone",
        (true, WorkerState::Starting) => "starting",
        (true, WorkerState::Running) => "running",
        (true, WorkerState::Draining) => "draining",
    };
    let holds = u32::try_from(worker.holds.len()).unwrap_or(u32::MAX);
    let busy = holds.min(worker.concurrency);
    let reserved = if worker.prefetch > 0 { (holds - busy).to_string() } else { String::new() };
    let queues: Vec<&str> = worker.queues.iter().map(|queue| queue.as_str()).collect();
    let broken = worker.functions.iter().filter_map(|(name, reason)| {
        let reason = reason.as_deref()?;
        Some(format!("{name}: {reason}"))
    });
    vec![
        worker.id.to_string(),
        state.to_owned(),
        worker.host.clone(),
        worker.pid.to_string(),
        format!("{busy}/{}", worker.concurrency),
        holds.to_string(),
        reserved,
        gpus(&worker.gpus),
        show_ago(heard.heard, now),
        if queues.is_empty() { "none".to_owned() } else { queues.join(",") },
        broken.collect::<Vec<_>>().join("; "),
    ]
}

/// How many are how, such as `2 held, 1 free`.
fn gpus(gpus: &[WorkerGpu]) -> String {
    let count = |of: fn(&WorkerGpuState) -> bool| gpus.iter().filter(|gpu| of(&gpu.state)).count();
    let counts = [
        (count(|state| matches!(state, WorkerGpuState::Held { .. })), "held"),
        (count(|state| matches!(state, WorkerGpuState::Free)), "free"),
        (count(|state| matches!(state, WorkerGpuState::Checking)), "checked"),
        (count(|state| matches!(state, WorkerGpuState::Quarantined { .. })), "quarantined"),
    ];
    let some: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    some.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_worker_is_shown_with_what_it_holds_and_what_it_cannot_start() {
        let heard: Heard = serde_json::from_value(json!({
            "id": "short-7@host", "instance": "i", "host": "host", "pid": 7, "started": 0, "version": "0.1.0",
            "state": "running", "queues": ["default", "high"], "concurrency": 2, "prefetch": 1,
            "functions": [["good", null], ["bad", "exited with code 3"]], "gpus": [
                {"uuid": "GPU-0", "index": 0, "name": "NVIDIA L4", "memory": 1, "compute": [8, 9], "driver": "580.0",
                 "state": "held", "tasks": []},
                {"uuid": "GPU-1", "index": 1, "name": "NVIDIA L4", "memory": 1, "compute": [8, 9], "driver": "580.0",
                 "state": "quarantined", "reason": "Xid 79"},
            ],
            "holds": ["0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b"], "silent_after": {"secs": 15, "nanos": 0},
            "heard": 1000, "alive": true,
        }))
        .unwrap();
        let cells = row(&heard, Timestamp(3000));
        assert_eq!(cells[1..7], ["running", "host", "7", "1/2", "1", "0"]);
        assert_eq!(cells[7..9], ["1 held, 1 quarantined", "2s ago"]);
        assert_eq!(cells[9..], ["default,high", "bad: exited with code 3"]);
        let gone = Heard { alive: false, ..heard };
        assert_eq!(row(&gone, Timestamp(3000))[1], "gone");
    }
}
