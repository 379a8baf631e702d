//! `rhubarb queues`: what waits where, and who serves it.

use clap::Args;
use rhubarb::client::QueueStatus;
use rhubarb_core::{config::QueueClass, ids::QueueName, time::Timestamp};
use serde::Serialize;

use crate::{
    exit::{CliError, Result},
    screen::clean,
    session::Session,
    values::{now, show_ago},
};

/// Show the queues: what waits, what runs, what failed, and who serves them
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb queues
  rhubarb queues --json | jq 'select(.waiting > 100) | .queue'
  rhubarb queues --urls --aws")]
pub(crate) struct Queues {
    /// Show where each is, for producers that speak to SQS themselves
    #[arg(long)]
    urls: bool,
}

/// Where a queue is.
#[derive(Serialize)]
struct Url<'a> {
    queue: &'a QueueName,
    url: &'a str,
}

impl<'a> Url<'a> {
    fn of(queue: &'a QueueStatus) -> Option<Self> {
        Some(Self { queue: &queue.queue, url: queue.url.as_deref()? })
    }
}

impl Queues {
    /// Shows them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let queues = session.client().await?.queues().await?;
        if self.urls {
            return show_urls(session, &queues);
        }
        let now = now();
        let header =
            ["queue", "class", "waiting", "delayed", "running", "in flight", "failed", "oldest waiting", "served by"];
        session.screen.rows(&queues, &header, |queue| row(queue, now), "no queues")?;
        if session.screen.json() {
            return Ok(());
        }
        queues.iter().filter_map(gpu_line).try_for_each(|line| session.screen.line(clean(&line)))
    }
}

fn show_urls(session: &Session, queues: &[QueueStatus]) -> Result<()> {
    let urls: Vec<Url<'_>> = queues.iter().filter_map(Url::of).collect();
    if urls.is_empty() {
        let text = "the queues of the embedded backend have no URLs: enqueue by `rhubarb enqueue`, or say --aws";
        return Err(CliError::Usage(text.into()));
    }
    if session.screen.json() {
        return urls.iter().try_for_each(|found| session.screen.document(found));
    }
    // Not a table: its cells are cut where a line would be hard to read, and a URL must be whole.
    let width = urls.iter().map(|found| found.queue.as_str().len()).max().unwrap_or_default();
    urls.iter()
        .try_for_each(|found| session.screen.line(clean(&format!("{:width$}  {}", found.queue.as_str(), found.url))))
}

fn row(queue: &QueueStatus, now: Timestamp) -> Vec<String> {
    vec![
        queue.queue.to_string(),
        queue.class.map_or("unknown", QueueClass::as_str).to_owned(),
        queue.waiting.to_string(),
        queue.delayed.to_string(),
        queue.running.to_string(),
        queue.messages.in_flight.to_string(),
        queue.dead.to_string(),
        queue.oldest_waiting.map(|at| show_ago(at, now)).unwrap_or_default(),
        served_by(queue),
    ]
}

/// Why nobody takes what waits there: too long for a cell.
fn gpu_line(queue: &QueueStatus) -> Option<String> {
    let wait = queue.gpu_wait.as_ref().filter(|_| queue.waiting > 0 || queue.served_by.is_empty())?;
    Some(format!("\nqueue {} waits: {wait}", queue.queue))
}

fn served_by(queue: &QueueStatus) -> String {
    let names: Vec<&str> = queue.served_by.iter().map(|worker| worker.as_str()).collect();
    let by_lambda = queue.class == Some(QueueClass::Lambda) && queue.url.is_some();
    let served = match names.as_slice() {
        [] if by_lambda => "AWS Lambda".to_owned(),
        [] if queue.gpu_wait.is_some() => "no worker with such GPUs".to_owned(),
        [] => "no live worker".to_owned(),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    if queue.paused { format!("PAUSED; {served}") } else { served }
}
