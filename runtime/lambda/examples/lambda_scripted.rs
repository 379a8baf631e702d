//! The function of the tests: each task does one thing that a test needs, and notes that it ran.

use std::{io::Write as _, path::PathBuf, time::Duration};

use rhubarb::{Context, Function, Task, TaskError};
use serde::{Deserialize, Serialize};

/// What one task is told to do, in this order.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Script {
    /// Appends a line to this file.
    note: Option<(PathBuf, String)>,
    /// Prints a line.
    say: Option<String>,
    /// Ends the process.
    abort: bool,
    /// Sleeps so long, unless it is told to stop.
    nap_ms: u64,
    /// Does not listen when it is told to stop.
    stubborn: bool,
    /// Fails, to be tried again after so long.
    fail_after_ms: Option<u64>,
}

impl Task for Script {
    const NAME: &'static str = "script";
    type Output = Told;
}

/// What a task tells.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    process: u32,
    attempt: u32,
    variables: Vec<String>,
}

async fn script(task: Script, cx: Context) -> Result<Told, TaskError> {
    if let Some((path, line)) = &task.note {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())?;
    }
    if let Some(line) = &task.say {
        println!("{line}");
    }
    if task.abort {
        std::process::abort();
    }
    let nap = tokio::time::sleep(Duration::from_millis(task.nap_ms));
    if task.stubborn {
        nap.await;
    } else {
        tokio::select! {
            () = nap => {}
            _ = cx.cancelled() => return Err(TaskError::cancelled()),
        }
    }
    if let Some(ms) = task.fail_after_ms {
        return Err(TaskError::retry_after("told to fail", Duration::from_millis(ms)));
    }
    let variables = std::env::vars().map(|(name, _)| name).collect();
    Ok(Told { process: std::process::id(), attempt: cx.attempt(), variables })
}

fn main() -> Result<(), rhubarb::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    #[expect(clippy::expect_used, reason = "a test's function may die when it cannot even start a runtime")]
    let runtime = runtime.expect("a runtime");
    runtime.block_on(Function::new().on(script).run())
}
