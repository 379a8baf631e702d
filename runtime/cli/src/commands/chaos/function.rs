//! The function that the agents of `rhubarb chaos` run: this very program, so that nothing else is needed.

use std::{path::Path, time::Duration};

use rhubarb::{Context, Function, Task, TaskError};
use serde::{Deserialize, Serialize};

use super::journal::Journal;
use crate::exit::{CliError, Result, chain};

/// Its one kind of task: it takes its time, and notes begin and end in the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) number: u64,
    pub(super) ms: u64,
}

impl Task for Note {
    const NAME: &'static str = "note";
    /// The run that did it, in hexadecimal: what is committed names one line of the journal.
    type Output = String;
}

/// Runs the function until its host ends it.
pub(super) async fn run(folder: &Path) -> Result<()> {
    let journal = Journal::open(folder).map_err(|error| CliError::io("open the journal", &error))?;
    let ran = Function::new().state(journal).on(note).run().await;
    ran.map_err(|error| CliError::Task(chain(&error)))
}

async fn note(task: Note, cx: Context) -> Result<String, TaskError> {
    let journal = cx.state::<Journal>()?;
    let run = fastrand::u64(..);
    journal.begin(task.number, run)?;
    tokio::time::sleep(Duration::from_millis(task.ms)).await;
    journal.end(task.number, run)?;
    Ok(format!("{run:016x}"))
}
