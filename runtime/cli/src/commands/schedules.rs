//! `rhubarb schedules`: the rules that enqueue, of the file and of the store.

use clap::{Args, Subcommand};
use rhubarb_core::config::{ScheduleConfig, When, show_duration};
use serde::Serialize;

use crate::{exit::Result, session::Session};

/// Look at schedules
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb schedules list
  rhubarb schedules list --json

Schedules are kept and listed. In this version nothing fires them yet.")]
pub(crate) struct Schedules {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the schedules of rhubarb.toml and those that the backend keeps
    List,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    from_file: bool,
    when: String,
    task: String,
    enabled: bool,
}

impl Schedules {
    /// Lists them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Verb::List = self.command;
        let client = session.client().await?;
        let mut schedules: Vec<Listed> = client.config().schedules.values().map(of_file).collect();
        for kept in client.backend().schedules().list().await? {
            if schedules.iter().any(|schedule| schedule.name == kept.name.as_str()) {
                continue;
            }
            let text = |key: &str| kept.definition.get(key).and_then(|value| value.as_str()).unwrap_or("").to_owned();
            let when = ["rate", "cron", "at"].map(text).into_iter().find(|rule| !rule.is_empty());
            let enabled = kept.definition.get("enabled").and_then(serde_json::Value::as_bool).unwrap_or(true);
            schedules.push(Listed {
                name: kept.name.to_string(),
                from_file: kept.from_file,
                when: when.unwrap_or_default(),
                task: text("task"),
                enabled,
            });
        }
        session.screen.note("schedules are kept and listed; in this version nothing fires them yet");
        let header = ["schedule", "when", "task", "from", "enabled"];
        session.screen.rows(&schedules, &header, row, "no schedules")
    }
}

fn of_file(schedule: &ScheduleConfig) -> Listed {
    let when = match &schedule.when {
        When::Rate(every) => format!("every {}", show_duration(*every)),
        When::Cron(rule) => format!("cron {rule} {}", schedule.timezone),
        When::At(at) => format!("at {at} {}", schedule.timezone),
    };
    Listed {
        name: schedule.name.to_string(),
        from_file: true,
        when,
        task: schedule.task.to_string(),
        enabled: schedule.enabled,
    }
}

fn row(schedule: &Listed) -> Vec<String> {
    let from = if schedule.from_file { "rhubarb.toml" } else { "backend" };
    let enabled = if schedule.enabled { "yes" } else { "no" };
    vec![schedule.name.clone(), schedule.when.clone(), schedule.task.clone(), from.to_owned(), enabled.to_owned()]
}
