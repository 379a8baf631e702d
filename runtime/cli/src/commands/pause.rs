//! `rhubarb pause` and `rhubarb resume`: what everybody needs in the first incident.

use clap::Args;
use rhubarb_core::ids::QueueName;
use serde::Serialize;

use crate::{exit::Result, project::know, session::Session};

/// Let no worker receive from queues; what runs goes on
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb pause training
  rhubarb pause default evaluation")]
pub(crate) struct Pause {
    /// The queues
    #[arg(required = true)]
    queues: Vec<QueueName>,
}

/// Let workers receive from paused queues again
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb resume training")]
pub(crate) struct Resume {
    /// The queues
    #[arg(required = true)]
    queues: Vec<QueueName>,
}

#[derive(Serialize)]
struct Changed<'a> {
    queue: &'a QueueName,
    paused: bool,
}

impl Pause {
    /// Pauses them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        know(client.config(), &self.queues)?;
        for queue in &self.queues {
            client.pause(queue).await?;
            tell(session, queue, true)?;
        }
        Ok(())
    }
}

impl Resume {
    /// Resumes them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        know(client.config(), &self.queues)?;
        for queue in &self.queues {
            client.resume(queue).await?;
            tell(session, queue, false)?;
        }
        Ok(())
    }
}

fn tell(session: &Session, queue: &QueueName, paused: bool) -> Result<()> {
    if session.screen.json() {
        return session.screen.document(&Changed { queue, paused });
    }
    let told = if paused { "is paused: workers heed it within a second" } else { "is open again" };
    session.screen.line(format!("queue {queue} {told}"))
}
