//! Whether the handler should stop: a long poll in the background, begun when somebody first asks.
//!
//! A handler that never asks costs nothing. A poll that fails is repeated after a pause: the host that
//! does not answer is going, or gone, and takes the process with it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rhubarb_core::ids::TaskId;
use serde::Deserialize;
use tokio::{sync::watch, task::JoinHandle};

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

/// The cancellation of one attempt.
pub(crate) struct Cancellation {
    said: watch::Sender<Option<CancelReason>>,
    polling: Mutex<Option<JoinHandle<()>>>,
}

impl Default for Cancellation {
    fn default() -> Self {
        Self { said: watch::Sender::new(None), polling: Mutex::default() }
    }
}

impl Cancellation {
    /// What is known now.
    pub(super) fn reason(&self) -> Option<CancelReason> {
        *self.said.borrow()
    }

    /// Begins to poll, if nobody has asked before.
    pub(super) fn watch(&self, host: &Host, task: TaskId) {
        if !host.is_there() {
            return;
        }
        self.polling
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| tokio::spawn(poll(self.said.clone(), host.clone(), task)));
    }

    /// Waits for a reason to stop; without a host there never is one.
    pub(super) async fn wait(&self) -> CancelReason {
        let mut said = self.said.subscribe();
        match said.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or(CancelReason::Requested),
            // The sender lives as long as we.
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends the poll: the attempt is over.
    pub(super) fn close(&self) {
        if let Some(polling) = self.polling.lock().unwrap_or_else(PoisonError::into_inner).take() {
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
