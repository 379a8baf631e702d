//! `rhubarb queues`: what waits where, and who serves it.

use clap::Args;
use rhubarb::client::QueueStatus;
use rhubarb_core::{config::QueueClass, time::Timestamp};

use crate::{
    exit::Result,
    session::Session,
    values::{now, show_ago},
};

/// Show the queues: what waits, what runs, what failed, and who serves them
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb queues
  rhubarb queues --json | jq 'select(.waiting > 100) | .queue'")]
pub(crate) struct Queues {}

impl Queues {
    /// Shows them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let queues = session.client().await?.queues().await?;
        let now = now();
        let header =
            ["queue", "class", "waiting", "delayed", "running", "in flight", "failed", "oldest waiting", "served by"];
        session.screen.rows(&queues, &header, |queue| row(queue, now), "no queues")
    }
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

fn served_by(queue: &QueueStatus) -> String {
    let names: Vec<&str> = queue.served_by.iter().map(|worker| worker.as_str()).collect();
    let served = match names.as_slice() {
        [] => "no live worker".to_owned(),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    if queue.paused { format!("PAUSED; {served}") } else { served }
}
