//! `rhubarb purge`: cancels everything that waits on queues.

use clap::Args;
use rhubarb::Client;
use rhubarb_core::ids::QueueName;
use serde::Serialize;

use crate::{ask, exit::Result, project::know, session::Session};

/// Cancel every waiting task of queues; running ones are untouched
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb purge high
  rhubarb purge --all --yes")]
pub(crate) struct Purge {
    /// The queues
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    queues: Vec<QueueName>,
    /// Every queue of rhubarb.toml
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    queue: &'a QueueName,
    purged: u64,
    exact: bool,
}

impl Purge {
    /// Purges them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        know(client.config(), &self.queues)?;
        let mut queues = self.queues;
        if self.all {
            queues = client.config().queues.keys().cloned().collect();
        }
        queues.sort();
        queues.dedup();
        if !self.yes {
            ask(&client, &queues).await?;
        }
        let purged = client.purge(&queues).await?;
        if session.screen.json() {
            return purged.iter().try_for_each(|(queue, purged)| {
                session.screen.document(&Line { queue, purged: purged.count, exact: purged.exact })
            });
        }
        let count = purged.iter().map(|(_, purged)| purged.count).sum();
        let about = if purged.iter().all(|(_, purged)| purged.exact) { "" } else { "about " };
        session.screen.line(told(about, count, purged.len()))
    }
}

fn told(about: &str, messages: u64, queues: usize) -> String {
    let message = if messages == 1 { "message" } else { "messages" };
    let queue = if queues == 1 { "queue" } else { "queues" };
    format!("purged {about}{messages} {message} from {queues} {queue}")
}

async fn ask(client: &Client, queues: &[QueueName]) -> Result<()> {
    ask::somebody("a purge cannot be taken back")?;
    let statuses = client.queues().await?;
    let waiting: u64 =
        statuses.iter().filter(|status| queues.contains(&status.queue)).map(|s| s.waiting + s.delayed).sum();
    let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    ask::confirm(&format!("Cancel {waiting} waiting tasks of {}?", names.join(", ")), "nothing was purged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_purged_is_told_in_words() {
        assert_eq!(told("", 4, 1), "purged 4 messages from 1 queue");
        assert_eq!(told("about ", 1, 2), "purged about 1 message from 2 queues");
    }
}
