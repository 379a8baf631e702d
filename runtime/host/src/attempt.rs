//! One attempt in flight: what its function may ask about it, and how it is told to stop.
//!
//! It lives from the claim to the settlement. A crash loses it; the lease then ends and the reaper
//! brings the task back.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rhubarb_core::{
    backend::{Log, Progress, Report, Won},
    config::{QueueConfig, TaskPolicy},
    envelope::{BlobRef, Envelope},
    limits::PROGRESS_INTERVAL,
};
use rhubarb_telemetry::spans;
use tokio::sync::Notify;

/// Why a function is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Its soft time limit has passed.
    Timeout,
    /// The agent shuts down.
    Shutdown,
    /// Somebody cancelled the task.
    Requested,
    /// A newer holder exists, or the task was settled: nothing of this attempt counts any more.
    Lost,
}

impl Stop {
    /// The word of the cancellation route.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Shutdown => "shutdown",
            Self::Requested => "requested",
            Self::Lost => "lease_lost",
        }
    }
}

/// Gives what a function has printed so far.
pub type Peek = Arc<dyn Fn() -> Log + Send + Sync>;

/// One attempt in flight.
pub struct Attempt {
    /// The task as it was won.
    pub won: Won,
    /// Its envelope.
    pub envelope: Envelope,
    /// Its queue.
    pub queue: Arc<QueueConfig>,
    /// What holds for it: the queue's policy, lowered by task and envelope.
    pub policy: TaskPolicy,
    /// Its span, and the trace it belongs to.
    pub span: spans::Attempt,
    /// Rung when a reason to stop comes, for the function that asks whether there is one.
    told: Notify,
    /// Rung too, for whoever waits on the whole invocation: all attempts of a batch share it.
    bell: Arc<Notify>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    stop: Option<Stop>,
    progress: Option<Progress>,
    /// It is newer than what the store has.
    unwritten: bool,
    written_at: Option<Instant>,
    checkpoint: Option<BlobRef>,
    output: Option<BlobRef>,
    settling: bool,
    unknown: bool,
    peek: Option<Peek>,
    log_bytes: usize,
}

impl Attempt {
    /// An attempt that has just been won. `bell` is rung when a reason to stop it comes.
    #[must_use]
    pub fn new(won: Won, envelope: Envelope, queue: Arc<QueueConfig>, policy: TaskPolicy, bell: Arc<Notify>) -> Self {
        let checkpoint = won.row.checkpoint.clone();
        let notes = Mutex::new(Notes { checkpoint, ..Notes::default() });
        Self { won, envelope, queue, policy, span: spans::Attempt::default(), told: Notify::new(), bell, notes }
    }

    /// The same, with the span that has begun for it.
    #[must_use]
    pub fn traced(self, span: spans::Attempt) -> Self {
        Self { span, ..self }
    }

    /// Tells the function to stop. The gravest reason counts.
    pub fn stop(&self, why: Stop) {
        let graver = {
            let stop = &mut self.notes().stop;
            let graver = stop.is_none_or(|stop| stop < why);
            *stop = (*stop).max(Some(why));
            graver
        };
        if graver {
            self.told.notify_waiters();
            self.bell.notify_one();
        }
    }

    /// Why the function was told to stop, if it was.
    #[must_use]
    pub fn stopped(&self) -> Option<Stop> {
        self.notes().stop
    }

    /// Waits until the function is told to stop.
    pub async fn told(&self) {
        let told = self.told.notified();
        tokio::pin!(told);
        // Before the look: what comes between the look and the wait must be heard.
        told.as_mut().enable();
        if self.stopped().is_none() {
            told.await;
        }
    }

    /// Attempts in all: the least of what queue, task and envelope say.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.policy.retry.max_attempts.min(self.won.row.max_attempts)
    }

    /// Notes progress. Returns the report to write now, if the last one was written long enough ago;
    /// otherwise [`Self::due_report`] gives it later.
    pub fn note_progress(&self, progress: Progress, now: Instant) -> Option<Report> {
        let mut notes = self.notes();
        notes.progress = Some(progress);
        notes.unwritten = true;
        let due = notes.written_at.is_none_or(|at| now.duration_since(at) >= PROGRESS_INTERVAL);
        due.then(|| self.take_report(&mut notes, now)).flatten()
    }

    /// What has come since the last report, if anything has: progress and output.
    pub fn due_report(&self, now: Instant) -> Option<Report> {
        self.take_report(&mut self.notes(), now)
    }

    fn take_report(&self, notes: &mut Notes, now: Instant) -> Option<Report> {
        if self.won.is_rowless() {
            return None;
        }
        let log = notes.peek.as_ref().map(|peek| peek()).filter(|log| {
            let bytes = log.text.len() + usize::try_from(log.dropped).unwrap_or(usize::MAX / 2);
            bytes != std::mem::replace(&mut notes.log_bytes, bytes)
        });
        let progress = std::mem::take(&mut notes.unwritten).then(|| notes.progress.clone()).flatten();
        if progress.is_none() && log.is_none() {
            return None;
        }
        notes.written_at = Some(now);
        Some(Report { id: self.won.id, fence: self.won.row.fence, progress, checkpoint: None, log })
    }

    /// Progress that was never written, to be written before the settlement.
    pub fn last_progress(&self) -> Option<Report> {
        let mut notes = self.notes();
        notes.peek = None;
        self.take_report(&mut notes, Instant::now())
    }

    /// Notes how to read what the function prints, while it runs.
    pub fn watch_output(&self, peek: Peek) {
        self.notes().peek = Some(peek);
    }

    /// The checkpoint to resume from: this attempt's own newest, else the one an earlier attempt left.
    #[must_use]
    pub fn checkpoint(&self) -> Option<BlobRef> {
        self.notes().checkpoint.clone()
    }

    /// Notes a checkpoint that the store has.
    pub fn note_checkpoint(&self, checkpoint: BlobRef) {
        self.notes().checkpoint = Some(checkpoint);
    }

    /// Notes whether its outcome is being written just now: what the queue does with its message is then
    /// the settlement's affair.
    pub fn note_settling(&self, settling: bool) {
        self.notes().settling = settling;
    }

    /// True while its outcome is being written.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.notes().settling
    }

    /// Notes that no function here knows its task: it was not begun.
    pub fn note_unknown(&self) {
        self.notes().unknown = true;
    }

    /// True if no function here knows its task.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.notes().unknown
    }

    /// Notes an output that was posted.
    pub fn note_output(&self, output: BlobRef) {
        self.notes().output = Some(output);
    }

    /// True if this very reference was given for an output posted by this attempt.
    #[must_use]
    pub fn posted(&self, output: &BlobRef) -> bool {
        self.notes().output.as_ref() == Some(output)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Nothing panics while it holds the lock; if something did, the notes are still whole.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use rhubarb_core::{
        backend::WonRow,
        config::{Config, NoVars, Overrides, default_queue},
        envelope::null,
        ids::{FencingToken, MessageId, TaskId},
        time::Timestamp,
    };

    use super::*;

    fn attempt() -> Attempt {
        attempt_on("")
    }

    /// An attempt on a queue with these keys.
    pub(crate) fn attempt_on(keys: &str) -> Attempt {
        let text = format!(
            "[app]\nname = \"tests\"\n[queues.default]\nfunctions = [\"f\"]\n{keys}\n[functions.f]\npackage = \"f\"\n"
        );
        let config = Config::parse(&text, &NoVars, &Overrides::default()).unwrap();
        let queue = Arc::new(config.queue(&default_queue()).unwrap().clone());
        let envelope = Envelope::new(TaskId::mint(), "t".parse().unwrap(), null());
        let row = WonRow {
            fence: FencingToken(1),
            attempt: 1,
            max_attempts: 3,
            alone: false,
            submitted: Timestamp(0),
            queued_at: Timestamp(0),
            started: Timestamp(0),
            checkpoint: None,
        };
        let won = Won {
            id: envelope.id,
            task: envelope.task.clone(),
            spec: envelope.encode(),
            message: MessageId::new("m"),
            receipt: None,
            receive_count: 1,
            sent: Timestamp(0),
            first_received: Timestamp(0),
            row,
        };
        let policy = TaskPolicy::new(&queue, None);
        Attempt::new(won, envelope, queue, policy, Arc::default())
    }

    #[test]
    fn a_storm_of_progress_is_written_once_a_second_and_its_last_always() {
        let (attempt, begun) = (attempt(), Instant::now());
        let progress = |done| Progress { done, total: 1000, message: None };
        let storm =
            (0..1000_u64).filter_map(|n| attempt.note_progress(progress(n), begun + Duration::from_millis(n * 3)));
        assert_eq!(storm.count(), 3, "three seconds of it");
        assert_eq!(attempt.last_progress().unwrap().progress, Some(progress(999)));
        assert!(attempt.last_progress().is_none(), "what is written is not written again");
    }

    #[test]
    fn the_gravest_reason_to_stop_counts() {
        let attempt = attempt();
        attempt.stop(Stop::Shutdown);
        attempt.stop(Stop::Timeout);
        assert_eq!(attempt.stopped(), Some(Stop::Shutdown));
        attempt.stop(Stop::Lost);
        assert_eq!(attempt.stopped(), Some(Stop::Lost));
    }
}
