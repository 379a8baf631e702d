//! Looks after who waits for the writer lock: nobody waits in silence.
//!
//! A waiter sleeps in the kernel and cannot tell by itself how long. A thread that begins with the first wait looks
//! every so often: once somebody has waited for that long, it says in the log who holds the store. If that process
//! is stopped (SIGSTOP, a debugger), it will not give the lock back by itself: then every call is answered with an
//! error that names it, until the lock comes; what was called and not begun is not done. A holder that was killed
//! has lost its lock with its files, so that nobody waits for it.

use std::{
    fs::File,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::holder::Holder;

/// Who watches; the thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct LockWatch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The lock files, in the order in which they are waited for last to first.
    files: [File; 2],
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
    /// Why nobody can write, while that is so.
    stuck: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    waiting_since: Option<Instant>,
    /// This wait was told of in the log.
    is_told: bool,
    has_thread: bool,
    /// The thread sleeps until somebody waits.
    is_idle: bool,
    closed: bool,
}

impl Drop for LockWatch {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
    }
}

impl LockWatch {
    /// Nobody waits yet.
    pub(crate) fn new(files: [File; 2], patience: Duration) -> Self {
        let (state, changed, stuck) = (Mutex::default(), Condvar::new(), watch::Sender::new(None));
        Self { shared: Arc::new(Shared { files, patience, state, changed, stuck }) }
    }

    /// Notes that somebody is about to sleep for the lock.
    pub(crate) fn begin(&self) {
        let mut state = self.shared.state();
        state.waiting_since = Some(Instant::now());
        state.is_told = false;
        if !state.has_thread {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("rhubarb-lock".into()).spawn(move || shared.look_after());
            // Without it the wait goes on as silently as the kernel's.
            state.has_thread = thread.is_ok();
        } else if state.is_idle {
            self.shared.changed.notify_all();
        }
    }

    /// Notes that the lock has come.
    pub(crate) fn end(&self) {
        let mut state = self.shared.state();
        let waited = state.waiting_since.take().map(|since| since.elapsed()).unwrap_or_default();
        if state.is_told {
            tracing::info!("the store is free again after {:.0} s", waited.as_secs_f64());
        }
        drop(state);
        self.shared.stuck.send_if_modified(|stuck| stuck.take().is_some());
    }

    /// Tells whether nobody can write because a stopped process holds the store, and when that changes.
    pub(crate) fn stuck(&self) -> watch::Receiver<Option<String>> {
        self.shared.stuck.subscribe()
    }

    /// The same, now.
    pub(crate) fn why_stuck(&self) -> Option<String> {
        self.shared.stuck.borrow().clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn look_after(&self) {
        let mut state = self.state();
        while !state.closed {
            let Some(since) = state.waiting_since else {
                state.is_idle = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.is_idle = false;
                continue;
            };
            let left = self.patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                self.look(&mut state, since.elapsed());
            }
            let pause = if left.is_zero() { self.patience } else { left };
            // A wait that has ended meanwhile is noticed after the pause: who waits often wakes nobody.
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Somebody has waited for so long: says who holds the store.
    fn look(&self, state: &mut State, waited: Duration) {
        let holders = self.files.each_ref().map(Holder::of);
        let stopped = holders.iter().flatten().find(|holder| holder.is_stopped);
        let text = match (stopped, &holders[0]) {
            (Some(holder), _) => format!("{holder} holds the store and is stopped: {}", holder.way_out()),
            (None, Some(holder)) => format!("{holder} holds the store"),
            (None, None) => "another process holds the store".to_owned(),
        };
        if !std::mem::replace(&mut state.is_told, true) {
            tracing::warn!("has waited for {:.0} s to write: {text}", waited.as_secs_f64());
        }
        let why = stopped.map(|_| text);
        self.stuck.send_if_modified(|stuck| {
            let is_news = *stuck != why;
            *stuck = why;
            is_news
        });
    }
}
