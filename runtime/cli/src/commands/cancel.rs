//! `rhubarb cancel`: stops tasks.

use clap::Args;
use rhubarb::ClientError;
use rhubarb_core::{backend::StoreError, ids::TaskId, row::State};
use serde::Serialize;

use crate::{
    exit::{CliError, Result},
    session::Session,
};

/// Cancel tasks; one that runs is asked to stop, and stopped if it does not
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb cancel 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b
  rhubarb tasks --state queued --json | jq -r .id | xargs rhubarb cancel")]
pub(crate) struct Cancel {
    /// The tasks
    #[arg(required = true)]
    ids: Vec<TaskId>,
}

/// Where one task stands after what was asked for.
#[derive(Serialize)]
struct Changed {
    id: TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Cancel {
    /// Cancels them.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let states = session.client().await?.cancel(&self.ids).await;
        let done = |state| match state {
            State::Running => "asked to stop",
            _ => "cancelled",
        };
        tell(session, &self.ids, states, done, "there is nothing to cancel")
    }
}

/// Prints what became of each task; `refused` says what a task's state did not allow. One that was refused makes the whole command an error, after all
/// the others have been told.
pub(super) fn tell(
    session: &Session,
    ids: &[TaskId],
    states: Vec<Result<State, ClientError>>,
    word: impl Fn(State) -> &'static str,
    refused: &str,
) -> Result<()> {
    let mut first = None;
    for (id, state) in ids.iter().zip(states) {
        let state = state.map_err(|error| match error {
            ClientError::Store(StoreError::Refused(refusal)) => {
                CliError::Usage(format!("task {id} is {}: {refused}", refusal.state))
            }
            other => other.into(),
        });
        let changed = Changed {
            id: *id,
            state: state.as_ref().ok().copied(),
            error: state.as_ref().err().and_then(CliError::text).map(ToOwned::to_owned),
        };
        match (session.screen.json(), &changed) {
            (true, changed) => session.screen.document(changed)?,
            (false, Changed { state: Some(state), .. }) => session.screen.line(format!("{id} {}", word(*state)))?,
            // The last one is told by the caller.
            (false, Changed { error: Some(error), .. }) if ids.len() > 1 => session.screen.note(error),
            (false, _) => {}
        }
        first = first.or(state.err());
    }
    match (first, ids.len()) {
        (None, _) => Ok(()),
        (Some(CliError::Usage(_)), 2..) => Err(CliError::Usage("not all of them could be changed".into())),
        (Some(error), _) => Err(error),
    }
}
