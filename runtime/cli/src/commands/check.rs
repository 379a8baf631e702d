//! `rhubarb check`: reads `rhubarb.toml` as every other command does, and says what it found.

use clap::Args;
use rhubarb_core::config::{Config, Mistake, Mistakes};
use serde::Serialize;

use crate::{
    exit::{CliError, Result},
    project::{self, Project},
    session::{Session, here},
};

/// Validate rhubarb.toml and tell all its mistakes together
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb check
  rhubarb check --config deploy/rhubarb.toml --backend aws --json

The exit code is 0 if the file can be used, also with warnings, and 64 if not.")]
pub(crate) struct Check {}

#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    ok: bool,
    mistakes: Vec<Line<'a>>,
    warnings: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    place: String,
    key: &'a str,
    what: &'a str,
    fix: &'a str,
}

impl Check {
    /// Checks it.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let file = match &session.global.config {
            Some(file) => file.clone(),
            None => project::find(&here()?)?,
        };
        let shown = project::shown(&file);
        let overrides = session.global.overrides()?;
        if !session.screen.json() {
            let config = Project::read(&file, &session.vars, &overrides)?.config;
            for warning in &config.warnings {
                session.screen.note(format!("warning: {}", warning.in_file(&shown)));
            }
            return session.screen.line(format!("{shown} is fine: {}", counts(&config)));
        }
        let text = Project::text(&file)?;
        match Config::parse(&text, &session.vars, &overrides) {
            Ok(config) => {
                let warnings = lines(config.warnings.iter(), &shown);
                session.screen.document(&Report { file: &shown, ok: true, mistakes: Vec::new(), warnings })
            }
            Err(mistakes) => {
                session.screen.document(&Report {
                    file: &shown,
                    ok: false,
                    mistakes: of(&mistakes, &shown),
                    warnings: Vec::new(),
                })?;
                Err(CliError::Configuration(format!("{shown} cannot be used")))
            }
        }
    }
}

fn of<'a>(mistakes: &'a Mistakes, file: &str) -> Vec<Line<'a>> {
    lines(mistakes.iter(), file)
}

fn lines<'a>(mistakes: impl Iterator<Item = &'a Mistake>, file: &str) -> Vec<Line<'a>> {
    let line = |mistake: &'a Mistake| {
        let told = mistake.in_file(file);
        // A place is what stands before the key: `rhubarb.toml:3:7`, a variable or an option.
        let place = told.split(": ").next().unwrap_or(file).to_owned();
        Line { place, key: &mistake.key, what: &mistake.what, fix: &mistake.fix }
    };
    mistakes.map(line).collect()
}

fn counts(config: &Config) -> String {
    let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    [
        count(config.queues.len(), "queue"),
        count(config.workers.len(), "worker"),
        count(config.functions.len(), "function"),
        count(config.tasks.len(), "task"),
        count(config.schedules.len(), "schedule"),
    ]
    .join(", ")
}
