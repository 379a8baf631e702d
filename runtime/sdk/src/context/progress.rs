//! Progress, thinned at its source: a loop that reports every step costs ten calls a second.
//!
//! What comes within the interval of the last report waits and is overwritten by what follows it; the
//! last one is sent by a timer, or when the handler returns. One that cannot be sent waits likewise: an
//! outage of the store costs reports, never an attempt. Only a lost lease is the handler's business.

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
use crate::task_error::with_causes;

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
    ///
    /// # Errors
    ///
    /// `LeaseLost` alone.
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
        self.flush(host, task).await;
        if self.thinned().lost { Err(ContextError::LeaseLost) } else { Ok(()) }
    }

    /// Sends what waits. What cannot be sent waits on, unless something newer does.
    pub(super) async fn flush(&self, host: &Host, task: TaskId) {
        let _turn = self.sending.lock().await;
        let Some(progress) = self.take() else { return };
        let Err(error) = send(host, task, &progress).await else { return };
        tracing::debug!(
            task.id = %task, error = with_causes(&error),
            "cannot report the progress of task {task}",
        );
        let mut thinned = self.thinned();
        if matches!(error, ContextError::LeaseLost) {
            thinned.lost = true;
        } else {
            thinned.waiting.get_or_insert(progress);
        }
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
            // A lost lease is told to the handler by its next report.
            reporter.flush(&host, task).await;
        });
    }

    fn thinned(&self) -> MutexGuard<'_, Thinned> {
        self.thinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(host: &Host, task: TaskId, progress: &Progress) -> Result<(), ContextError> {
    let what = "report progress";
    let body = serde_json::to_vec(progress).map_err(|error| ContextError::Host { what, source: error.into() })?;
    host.call(Call::new(what, Method::POST, format!("/tasks/{task}/progress"), body.into())).await.map(drop)
}
