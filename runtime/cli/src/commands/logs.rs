//! `rhubarb logs`: what the function printed in each attempt.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use rhubarb_core::{
    backend::AttemptRecord,
    ids::{FencingToken, TaskId},
};
use serde::Serialize;

use crate::{
    exit::{CliError, Result},
    screen::{Screen, clean},
    session::Session,
};

/// Show what the function printed in each attempt of a task
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb logs 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b
  rhubarb logs 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b --attempt 2
  rhubarb logs 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b --follow")]
pub(crate) struct Logs {
    /// The task
    id: TaskId,
    /// Of this attempt alone
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Go on until the task is settled
    #[arg(long, short)]
    follow: bool,
}

/// How often a running attempt is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Piece<'a> {
    attempt: u32,
    fence: FencingToken,
    outcome: Option<&'a str>,
    text: &'a str,
    dropped: u64,
}

impl Logs {
    /// Shows them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        let mut printed = Printed::default();
        loop {
            let state =
                if self.follow { client.wait(self.id, LOOK_EVERY).await? } else { client.state(self.id).await? };
            let attempts = client.logs(self.id).await?;
            let wanted: Vec<&AttemptRecord> =
                attempts.iter().filter(|record| self.attempt.is_none_or(|wanted| record.attempt == wanted)).collect();
            let is_last = !self.follow || state.is_settled();
            if let (true, true, Some(attempt)) = (is_last, wanted.is_empty(), self.attempt) {
                return Err(CliError::Usage(format!("task {} has no attempt {attempt}; it is {state}", self.id)));
            }
            for record in wanted {
                printed.print(record, &session.screen)?;
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// What has been printed of each attempt.
#[derive(Default)]
struct Printed(BTreeMap<FencingToken, String>);

impl Printed {
    fn print(&mut self, record: &AttemptRecord, screen: &Screen) -> Result<()> {
        let is_new = !self.0.contains_key(&record.fence);
        let before = self.0.entry(record.fence).or_default();
        let text = &record.log.text;
        // Where the beginning has been dropped meanwhile, everything that is left is new.
        let new = text.strip_prefix(before.as_str()).unwrap_or(text);
        let piece = Piece {
            attempt: record.attempt,
            fence: record.fence,
            outcome: record.outcome.as_deref(),
            text: new,
            dropped: record.log.dropped,
        };
        if screen.json() {
            if is_new || !new.is_empty() {
                screen.document(&piece)?;
            }
        } else {
            if is_new {
                screen.note(header(&piece, record));
            }
            let shown = clean(new);
            if !shown.trim_end().is_empty() {
                screen.line(shown.trim_end_matches('\n'))?;
            }
        }
        before.clone_from(text);
        Ok(())
    }
}

fn header(piece: &Piece<'_>, record: &AttemptRecord) -> String {
    let outcome = piece.outcome.unwrap_or("running");
    let dropped = if piece.dropped > 0 { format!(", {} bytes left out", piece.dropped) } else { String::new() };
    format!("--- attempt {}: {outcome}, {} by {}{dropped}", piece.attempt, record.started, record.worker)
}
