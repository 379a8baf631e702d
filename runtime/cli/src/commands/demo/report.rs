//! What the demo has shown: a table, the overlay picture, the waiting times, and whether all promises
//! were kept. Everything is read from the tasks' own records.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rhubarb::Client;
use rhubarb_core::{
    backend::{BlobKey, TaskDetail},
    ids::TaskId,
    row::State,
};
use serde::Serialize;
use serde_json::Value;

use super::{
    play::{Play, Role, Step},
    short::{Figures, KINDS, Short, Waits, WaitsOf, times},
};
use crate::{
    exit::{CliError, Result},
    project::shown,
    screen::{Screen, table},
    values::show_time,
};

/// Both models are right about so many of the pictures that they have never seen.
const ACCURACY_MIN: f64 = 0.95;
/// No short task waits longer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The evaluation in the middle of a training starts within this.
const MIDDLE_WAIT_MAX: Duration = Duration::from_secs(1);

/// What the demo has shown.
pub(super) struct Report {
    lines: Vec<Line>,
    short: Vec<Short>,
    not_done: usize,
    accuracies: Vec<f64>,
}

/// One of the larger tasks.
#[derive(Serialize)]
struct Line {
    id: TaskId,
    task: String,
    queue: String,
    state: State,
    attempts: usize,
    waited_ms: u128,
    ran_ms: u128,
    result: String,
    #[serde(skip)]
    role: Role,
    #[serde(skip)]
    times: (Duration, Duration),
}

#[derive(Serialize)]
struct Document<'a> {
    ok: bool,
    tasks: &'a [Line],
    accuracies: &'a [f64],
    short_tasks_succeeded: usize,
    waits_while_training: Figures,
    waits_without_training: Figures,
}

impl Report {
    /// Reads what became of everything, and writes the overlay picture below `dir`.
    pub(super) async fn read(client: &Client, dir: &Path, play: &Play<'_>) -> Result<Self> {
        let mut report = Self {
            lines: Vec::new(),
            short: play.short.done(),
            not_done: play.short.unsettled().len(),
            accuracies: Vec::new(),
        };
        for step in play.steps() {
            let detail = client.task(step.id).await?;
            let output = match detail.record.state {
                State::Succeeded => client.output(step.id).await?,
                _ => Value::Null,
            };
            let result = match detail.record.state {
                State::Succeeded => describe(client, dir, step.role, &output).await?,
                _ => detail.record.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            if let (Role::Evaluation, Some(accuracy)) = (step.role, output.get("accuracy").and_then(Value::as_f64)) {
                report.accuracies.push(accuracy);
            }
            report.lines.push(Line::new(step, &detail, result));
        }
        Ok(report)
    }

    /// Prints it.
    pub(super) fn show(&self, screen: &Screen) -> Result<()> {
        let (busy, quiet) = (self.waits(WaitsOf::Training), self.waits(WaitsOf::Quiet));
        if screen.json() {
            return screen.document(&Document {
                ok: self.verdict().is_ok(),
                tasks: &self.lines,
                accuracies: &self.accuracies,
                short_tasks_succeeded: self.short.iter().filter(|short| short.state == State::Succeeded).count(),
                waits_while_training: busy.figures(),
                waits_without_training: quiet.figures(),
            });
        }
        let header = ["task", "queue", "state", "attempts", "waited", "ran", "result"];
        let rows = self.lines.iter().map(Line::row).chain(KINDS.iter().filter_map(|kind| self.kind_row(kind)));
        screen.line(table(&header, rows))?;
        if let Some(waited) = self.middle_wait() {
            let promise = if waited <= MIDDLE_WAIT_MAX { "" } else { ", which is longer than the second it should be" };
            screen.line(format!(
                "\nThe evaluation asked for in the middle of a training waited {}{promise}.",
                show_time(waited)
            ))?;
        }
        let header = ["short tasks waited", "p50", "p99", "longest", "tasks"];
        let row = |name: &str, waits: &Waits| {
            vec![name.to_owned(), waits.p50(), waits.p99(), show_time(waits.longest()), waits.count().to_string()]
        };
        screen
            .line(format!("\n{}", table(&header, [row("while training ran", &busy), row("with no training", &quiet)])))
    }

    /// Whether every promise was kept.
    pub(super) fn verdict(&self) -> Result<()> {
        let mut broken = Vec::new();
        let failed = self.lines.iter().filter(|line| line.state != State::Succeeded).count()
            + self.short.iter().filter(|short| short.state != State::Succeeded).count()
            + self.not_done;
        if failed > 0 {
            broken.push(format!("{failed} tasks did not succeed"));
        }
        let good = self.accuracies.iter().filter(|accuracy| **accuracy >= ACCURACY_MIN).count();
        if good < super::play::MODELS.len() {
            broken.push(format!("{good} of {} models reach an accuracy of {ACCURACY_MIN}", super::play::MODELS.len()));
        }
        let slow = self.short.iter().filter(|short| short.waited > WAIT_MAX).count();
        if slow > 0 {
            broken.push(format!("{slow} short tasks waited longer than {}", show_time(WAIT_MAX)));
        }
        if broken.is_empty() { Ok(()) } else { Err(CliError::Task(broken.join("; "))) }
    }

    fn waits(&self, during: WaitsOf) -> Waits {
        Waits::new(self.short.iter().filter(|short| short.during == during).map(|short| short.waited))
    }

    fn middle_wait(&self) -> Option<Duration> {
        self.lines.iter().find(|line| line.role == Role::EarlierEvaluation).map(|line| line.times.0)
    }

    /// All short tasks of a kind in one row.
    fn kind_row(&self, kind: &str) -> Option<Vec<String>> {
        let of_kind: Vec<&Short> = self.short.iter().filter(|short| short.kind == kind).collect();
        let succeeded = of_kind.iter().filter(|short| short.state == State::Succeeded).count();
        let most = of_kind.iter().map(|short| short.attempts).max()?;
        let p50 =
            |of: fn(&Short) -> Duration| format!("p50 {}", Waits::new(of_kind.iter().map(|short| of(short))).p50());
        Some(vec![
            format!("{kind} x {}", of_kind.len()),
            of_kind.first()?.queue.clone(),
            format!("{succeeded} succeeded"),
            if most == 1 { "1 each".to_owned() } else { format!("up to {most}") },
            p50(|short| short.waited),
            p50(|short| short.ran),
            String::new(),
        ])
    }
}

impl Line {
    fn new(step: Step, detail: &TaskDetail, result: String) -> Self {
        let (waited, ran) = times(detail);
        Self {
            id: step.id,
            task: step.title,
            queue: detail.record.queue.to_string(),
            state: detail.record.state,
            attempts: detail.attempts.len(),
            waited_ms: waited.as_millis(),
            ran_ms: ran.as_millis(),
            result,
            role: step.role,
            times: (waited, ran),
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.task.clone(),
            self.queue.clone(),
            self.state.to_string(),
            self.attempts.to_string(),
            show_time(self.times.0),
            show_time(self.times.1),
            self.result.clone(),
        ]
    }
}

/// What a task gave, in words.
async fn describe(client: &Client, dir: &Path, role: Role, output: &Value) -> Result<String> {
    let number = |key: &str| output.get(key).and_then(Value::as_f64).unwrap_or_default();
    Ok(match role {
        Role::Preprocessing => format!("{} pictures to learn from, {} held out", number("train"), number("held_out")),
        Role::EarlierTraining | Role::Training => {
            format!("{} epochs, {:.1} % of what it learnt from", number("epochs"), 100.0 * number("training_accuracy"))
        }
        Role::EarlierEvaluation | Role::Evaluation => {
            format!("accuracy {:.4} on {} held-out pictures", number("accuracy"), number("pictures"))
        }
        Role::Tissue => {
            let picture = output.get("images").and_then(|images| images.get(0));
            let stained = picture.and_then(|picture| picture.get("stained_percent")).and_then(Value::as_f64);
            let overlay = picture.and_then(|picture| picture.get("overlay")).and_then(Value::as_str);
            let stained = stained
                .map_or_else(|| "no tissue".to_owned(), |percent| format!("{percent:.1} % of the tissue is stained"));
            match overlay {
                Some(key) => format!("{stained}; {}", shown(&save(client, dir, key).await?)),
                None => stained,
            }
        }
    })
}

/// Writes the overlay picture where people can open it.
async fn save(client: &Client, dir: &Path, key: &str) -> Result<PathBuf> {
    let picture = client.backend().blobs().get(&BlobKey::new(key)?).await?;
    let folder = dir.join("demo");
    let path = folder.join("overlay.png");
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, &picture));
    written.map_err(|error| CliError::io(format_args!("write {}", shown(&path)), &error))?;
    Ok(path)
}
