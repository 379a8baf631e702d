//! `rhubarb enqueue`: puts a task on its queue, and waits for it where that is asked for.

use std::time::Duration;

use clap::Args;
use rhubarb::Client;
use rhubarb_core::{
    backend::{AttemptRecord, Window},
    config::{Config, QueueConfig, Track},
    ids::{QueueName, TaskId, TaskName},
    row::State,
    time::Timestamp,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    exit::{CliError, Result},
    project::know,
    screen::plain_json,
    session::Session,
    signals::StopSignals,
    values::{self, Moment},
    watch,
};

/// Enqueue a task and print its id
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Enqueue {
    /// The kind of task
    task: TaskName,
    /// Its arguments: JSON, @FILE, or - for standard input
    #[arg(long, default_value = "{}", value_name = "JSON", allow_hyphen_values = true)]
    args: String,
    /// Its queue, whatever rhubarb.toml says
    #[arg(long)]
    queue: Option<QueueName>,
    /// Start this much later, e.g. 10s
    #[arg(long, value_name = "DURATION", value_parser = values::duration, conflicts_with = "eta")]
    delay: Option<Duration>,
    /// Start at this time: RFC 3339 or a Unix time
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    eta: Option<Timestamp>,
    /// Give it up if it has not started by then: a time, or a duration from when it may start
    #[arg(long, value_name = "WHEN", value_parser = Moment::read)]
    expires: Option<Moment>,
    /// The longest an attempt may take: at most what its queue allows
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Attempts in all: at most what its queue allows
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// GPUs: at most what its queue gives; 0 runs it on the CPU
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,
    /// Its id, a UUID; an error if a task has it
    #[arg(long)]
    id: Option<TaskId>,
    /// A second task of this name with this key is the first one
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// For how long the key is remembered: a duration, or until-settled [default: 1d]
    #[arg(long, value_name = "WINDOW", value_parser = window, requires = "idempotency_key")]
    window: Option<Window>,
    /// Tasks with the same key run in order (FIFO queues)
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Tasks with the same key share a fair part of the queue
    #[arg(long, value_name = "KEY")]
    fairness_key: Option<String>,
    /// Tasks with the same key share a limit
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Show its progress, wait until it is settled and print its result; ctrl-c leaves it running
    #[arg(long)]
    wait: bool,
    /// Wait this long at most
    #[arg(long, value_name = "DURATION", value_parser = values::duration, requires = "wait")]
    wait_timeout: Option<Duration>,
}

const EXAMPLES: &str = "\
Examples:
  rhubarb enqueue train_model --args '{\"dataset\":\"digits\",\"epochs\":30}' --wait
  rhubarb enqueue train_model --args @training.json --queue training --max-attempts 1
  echo '{\"redrive_max\":1}' | rhubarb enqueue scan_failed_jobs --args - --delay 10s
  rhubarb enqueue update_job_metrics --idempotency-key today --expires 1h

With --wait the exit code is 0 if the task succeeded and 1 if not.";

#[derive(Serialize)]
struct Accepted {
    id: TaskId,
    existing: bool,
}

#[derive(Serialize)]
struct Waited {
    id: TaskId,
    state: State,
    output: Option<Box<RawValue>>,
}

fn window(text: &str) -> Result<Window, String> {
    if text == "until-settled" {
        return Ok(Window::UntilSettled);
    }
    values::duration(text).map(Window::For).map_err(|error| format!("{error}, or until-settled"))
}

impl Enqueue {
    /// Enqueues the task.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let args = values::arguments(&self.args)?;
        let client = session.client().await?;
        know(client.config(), self.queue.as_slice())?;
        let (wait, wait_timeout) = (self.wait, self.wait_timeout);
        if wait {
            self.can_be_waited_for(client.config())?;
        }
        let accepted = self.enqueue(&client, args).await?;
        if !wait {
            return match session.screen.json() {
                true => session.screen.document(&accepted),
                false => session.screen.line(accepted.id.to_string()),
            };
        }
        let before = if accepted.existing { " was there before" } else { "" };
        session.screen.note(format!("task {}{before}", accepted.id));
        wait_for(session, &client, accepted.id, wait_timeout).await
    }

    /// Refuses before anything is sent: nobody could tell when the task is done.
    fn can_be_waited_for(&self, config: &Config) -> Result<()> {
        let queue = config.route(&self.task, self.queue.as_ref(), None).ok().and_then(|queue| config.queue(&queue));
        match queue {
            Some(QueueConfig { name, track: track @ (Track::Failures | Track::None), .. }) => {
                Err(CliError::Usage(format!(
                    "`--wait`: queue {name} has track = \"{track}\" and keeps no row to wait for: leave it out, or write track = \"full\" in [queues.{name}]"
                )))
            }
            _ => Ok(()),
        }
    }

    async fn enqueue(self, client: &Client, args: Box<RawValue>) -> Result<Accepted> {
        let mut task = client.enqueue_named(self.task, args);
        if let Some(queue) = &self.queue {
            task = task.queue(queue);
        }
        if let Some(delay) = self.delay {
            task = task.delay(delay);
        }
        if let Some(eta) = self.eta {
            task = task.not_before(eta);
        }
        if let Some(expires) = self.expires {
            // Counted from the time it may start, so that a delayed task has the same chance.
            let from = self.eta.unwrap_or_else(|| values::now().after(self.delay.unwrap_or_default()));
            task = task.expires(expires.ahead(from));
        }
        if let Some(window) = self.window {
            task = task.window(window);
        }
        if let Some(timeout) = self.timeout {
            task = task.timeout(timeout);
        }
        if let Some(attempts) = self.max_attempts {
            task = task.max_attempts(attempts);
        }
        if let Some(count) = self.gpus {
            task = task.gpus(count);
        }
        if let Some(id) = self.id {
            task = task.id(id);
        }
        if let Some(key) = self.idempotency_key {
            task = task.idempotency_key(key);
        }
        if let Some(key) = self.ordering_key {
            task = task.ordering_key(key);
        }
        if let Some(key) = self.fairness_key {
            task = task.fairness_key(key);
        }
        if let Some(key) = self.concurrency_key {
            task = task.concurrency_key(key);
        }
        let handle = task.await?;
        Ok(Accepted { id: handle.id(), existing: handle.existing() })
    }
}

/// Waits for a task and prints what it gave. Ctrl-c, or the end of the time, leaves it running.
async fn wait_for(session: &Session, client: &Client, id: TaskId, at_most: Option<Duration>) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let state = tokio::select! {
        state = watch::follow(client, id, &session.screen) => state?,
        _ = signals.next() => {
            session.screen.note(format!("task {id} goes on without being watched; see `rhubarb task {id}`"));
            session.screen.line(id.to_string())?;
            return Err(CliError::Interrupted);
        }
        () = tokio::time::sleep(at_most.unwrap_or(Duration::MAX)) => {
            return Err(CliError::Task(format!("task {id} is not settled yet, and goes on; see `rhubarb task {id}`")));
        }
    };
    if client.task(id).await?.attempts.last().is_some_and(AttemptRecord::ran_on_cpu) {
        session.screen.note(format!("task {id} ran on the CPU"));
    }
    let output: Result<Box<RawValue>, _> = client.output(id).await;
    if session.screen.json() {
        let waited = Waited { id, state, output: output.as_ref().ok().cloned() };
        session.screen.document(&waited)?;
        return output.map(drop).map_err(Into::into);
    }
    session.screen.line(plain_json(output?.get()))
}
