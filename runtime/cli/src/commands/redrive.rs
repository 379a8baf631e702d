//! `rhubarb redrive`: brings failed tasks back.

use clap::Args;
use rhubarb_core::ids::TaskId;

use super::cancel::tell;
use crate::{exit::Result, session::Session};

/// Bring failed tasks back: same id, attempts from 1, both runs in the history
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb redrive 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b
  rhubarb tasks --state failed --task train_model --json | jq -r .id | xargs rhubarb redrive")]
pub(crate) struct Redrive {
    /// The tasks
    #[arg(required = true)]
    ids: Vec<TaskId>,
}

impl Redrive {
    /// Brings them back.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let states = session.client().await?.redrive(&self.ids).await;
        tell(session, &self.ids, states, |_| "queued again", "only a failed one can be redriven")
    }
}
