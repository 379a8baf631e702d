//! `rhubarb result`: what a task gave.

use clap::Args;
use rhubarb_core::ids::TaskId;
use serde_json::value::RawValue;

use crate::{exit::Result, screen::plain_json, session::Session};

/// Print what a task gave, as JSON
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb result 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b | jq .accuracy

The exit code is 0 if the task succeeded; 1 if it failed, was cancelled, expired or is not settled yet.")]
pub(crate) struct ResultOf {
    /// The task
    id: TaskId,
}

impl ResultOf {
    /// Prints it.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let output: Box<RawValue> = session.client().await?.output(self.id).await?;
        session.screen.line(plain_json(output.get()))
    }
}
