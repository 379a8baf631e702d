//! Whether the handler should stop: a long poll in the background, begun when somebody first asks.
//!
//! A handler that never asks costs nothing. A poll that fails is repeated after a pause: the host that
//! does not answer is going, or gone, and takes the process with it.

use std::{sync::OnceLock, time::Duration};

use rhubarb_core::ids::TaskId;
use serde::Deserialize;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    ContextError,
    routes::{Call, Host},
};

const POLL: Duration = Duration::from_secs(20);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Why a handler should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CancelReason {
    /// Somebody asked for the task to be cancelled.
    Requested,
    /// The soft time limit has passed; at the hard one the process is killed.
    Timeout,
    /// The worker shuts down; the task goes back and spends no attempt.
    Shutdown,
    /// The task has a newer holder or is settled: what this attempt comes to counts no more.
    LeaseLost,
}

#[derive(Deserialize)]
struct Said {
    cancelled: bool,
    reason: Option<CancelReason>,
}

/// The cancellation of one attempt; nothing is allocated before somebody asks.
#[derive(Default)]
pub(crate) struct Cancellation(OnceLock<Watch>);

struct Watch {
    said: watch::Sender<Option<CancelReason>>,
    polling: Option<AbortHandle>,
}

impl Cancellation {
    /// What is known now.
    pub(super) fn reason(&self) -> Option<CancelReason> {
        self.0.get().and_then(|watch| *watch.said.borrow())
    }

    /// Begins to poll, if nobody has asked before.
    pub(super) fn watch(&self, host: &Host, task: TaskId) {
        self.0.get_or_init(|| {
            let said = watch::Sender::new(None);
            let poll = || tokio::spawn(poll(said.clone(), host.clone(), task)).abort_handle();
            Watch { polling: host.is_there().then(poll), said }
        });
    }

    /// Waits for a reason to stop, once somebody watches; without a host there never is one.
    pub(super) async fn wait(&self) -> CancelReason {
        let reason = match self.0.get().map(|watch| watch.said.subscribe()) {
            Some(mut said) => said.wait_for(Option::is_some).await.ok().and_then(|reason| *reason),
            None => None,
        };
        match reason {
            Some(reason) => reason,
            // The sender lives as long as we.
            None => std::future::pending().await,
        }
    }

    /// Ends the poll: the attempt is over.
    pub(super) fn close(&self) {
        if let Some(polling) = self.0.get().and_then(|watch| watch.polling.as_ref()) {
            polling.abort();
        }
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        self.close();
    }
}

async fn poll(said: watch::Sender<Option<CancelReason>>, host: Host, task: TaskId) {
    loop {
        let path = format!("/tasks/{task}/cancellation?wait_ms={}", POLL.as_millis());
        match host.json::<Said>(Call::get("ask for a cancellation", path)).await {
            Ok(Said { cancelled: true, reason }) => {
                said.send_replace(Some(reason.unwrap_or(CancelReason::Requested)));
                return;
            }
            Ok(Said { cancelled: false, .. }) => {}
            Err(ContextError::LeaseLost) => {
                said.send_replace(Some(CancelReason::LeaseLost));
                return;
            }
            Err(error) => {
                tracing::debug!(task.id = %task, %error, "cannot ask whether task {task} is cancelled");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}
