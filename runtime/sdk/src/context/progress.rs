//! Progress, thinned at its source: a loop that reports every step costs ten calls a second.
//!
//! What comes within the interval of the last report waits and is overwritten by what follows it; the
//! last one is sent by a timer, or when the handler returns, so that it is never lost.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Method;
use rhubarb_core::{backend::Progress, ids::TaskId};
use tokio::time::Instant;

use super::{
    ContextError,
    routes::{Call, Host},
};

/// Reports of one attempt are at least this far apart.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// The progress of one attempt.
#[derive(Default)]
pub(crate) struct Reporter {
    thinned: Mutex<Thinned>,
    /// Keeps reports in order: one is under way at a time.
    sending: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Thinned {
    sent: Option<Instant>,
    waiting: Option<Progress>,
    timer: bool,
    lost: bool,
}

impl Reporter {
    /// Sends the progress, or keeps it until the interval has passed.
    pub(super) async fn report(
        self: &Arc<Self>,
        host: &Host,
        task: TaskId,
        progress: Progress,
    ) -> Result<(), ContextError> {
        if !host.is_there() {
            return Ok(());
        }
        {
            let mut thinned = self.thinned();
            if thinned.lost {
                return Err(ContextError::LeaseLost);
            }
            thinned.waiting = Some(progress);
            let wait = thinned.sent.map_or(Duration::ZERO, |sent| INTERVAL.saturating_sub(sent.elapsed()));
            if !wait.is_zero() {
                if !mem::replace(&mut thinned.timer, true) {
                    self.send_later(host.clone(), task, wait);
                }
                return Ok(());
            }
        }
        self.flush(host, task).await
    }

    /// Sends what waits.
    pub(super) async fn flush(&self, host: &Host, task: TaskId) -> Result<(), ContextError> {
        let _turn = self.sending.lock().await;
        let Some(progress) = self.take() else { return Ok(()) };
        let body = serde_json::to_vec(&progress)
            .map_err(|error| ContextError::Host { what: "report progress", source: error.into() })?;
        let call = Call::new("report progress", Method::POST, format!("/tasks/{task}/progress"), body.into());
        let sent = host.call(call).await.map(drop);
        if matches!(sent, Err(ContextError::LeaseLost)) {
            self.thinned().lost = true;
        }
        sent
    }

    fn take(&self) -> Option<Progress> {
        let mut thinned = self.thinned();
        let progress = thinned.waiting.take()?;
        thinned.sent = Some(Instant::now());
        Some(progress)
    }

    fn send_later(self: &Arc<Self>, host: Host, task: TaskId, wait: Duration) {
        let reporter = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            reporter.thinned().timer = false;
            if let Err(error) = reporter.flush(&host, task).await {
                // A lost lease is told to the handler by its next report.
                tracing::debug!(task.id = %task, %error, "cannot report the progress of task {task}");
            }
        });
    }

    fn thinned(&self) -> MutexGuard<'_, Thinned> {
        self.thinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
