//! Whether an agent is well, and whether it takes work: what `/healthz` and `/readyz` say.
//!
//! Well means that its loops turn: the heartbeat's, and the receive loop's wherever that is not waiting for a slot.
//! One that stands still is to be restarted. An agent out of reach of its backend is well and not ready: a
//! restart would not help it, and what runs goes on.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rhubarb_core::{
    backend::WorkerState,
    ids::{FunctionName, WorkerId},
};

use crate::beat::SILENT_AFTER;

/// A loop that has not come round for so long stands still. A receive waits up to 20 s, and the clients of
/// AWS give up a request, with its repetitions, well within this.
const STALLED_AFTER: Duration = Duration::from_secs(90);

/// Where the receive loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// There is nothing to receive yet, or any more.
    Not,
    /// It waits for a slot, for as long as that takes.
    ForRoom,
    /// It looks for work since then.
    Since(Instant),
}

#[derive(Debug)]
struct Notes {
    beat_ended: Instant,
    beat_written: Option<Instant>,
    receiving: Receiving,
    state: WorkerState,
    functions: Vec<(FunctionName, Option<String>)>,
}

/// An agent's health. Clones look at the same.
#[derive(Clone, Debug)]
pub struct Health {
    id: WorkerId,
    notes: Arc<Mutex<Notes>>,
}

/// What is wrong with an agent, in words; nothing where all is well.
pub type Wrong = Vec<String>;

impl Health {
    pub(crate) fn new(id: WorkerId) -> Self {
        let notes = Notes {
            beat_ended: Instant::now(),
            beat_written: None,
            receiving: Receiving::Not,
            state: WorkerState::Starting,
            functions: Vec::new(),
        };
        Self { id, notes: Arc::new(Mutex::new(notes)) }
    }

    /// A heartbeat is over: written, or not.
    pub(crate) fn beat(&self, written: bool, state: WorkerState, functions: &[(FunctionName, Option<String>)]) {
        let mut notes = self.notes();
        let now = Instant::now();
        (notes.beat_ended, notes.state) = (now, state);
        functions.clone_into(&mut notes.functions);
        if written {
            notes.beat_written = Some(now);
        }
    }

    /// The receive loop waits for room.
    pub(crate) fn waits_for_room(&self) {
        self.notes().receiving = Receiving::ForRoom;
    }

    /// The receive loop has room and looks for work.
    pub(crate) fn receives(&self) {
        self.notes().receiving = Receiving::Since(Instant::now());
    }

    /// The receive loop has ended.
    pub(crate) fn receives_no_more(&self) {
        self.notes().receiving = Receiving::Not;
    }

    /// What stands still.
    #[must_use]
    pub fn stalled(&self) -> Wrong {
        self.stalled_at(Instant::now())
    }

    /// Why it takes no work now.
    #[must_use]
    pub fn not_ready(&self) -> Wrong {
        self.not_ready_at(Instant::now())
    }

    fn stalled_at(&self, now: Instant) -> Wrong {
        let notes = self.notes();
        let mut wrong = Vec::new();
        let mut check = |what: &str, since: Instant| {
            let stands = now.saturating_duration_since(since);
            if stands > STALLED_AFTER {
                wrong.push(format!("worker {}: the {what} has stood still for {} s", self.id, stands.as_secs()));
            }
        };
        check("heartbeat", notes.beat_ended);
        if let Receiving::Since(since) = notes.receiving {
            check("receive loop", since);
        }
        wrong
    }

    fn not_ready_at(&self, now: Instant) -> Wrong {
        let notes = self.notes();
        let id = &self.id;
        let mut wrong = Vec::new();
        match notes.state {
            WorkerState::Running => {}
            WorkerState::Starting => wrong.push(format!("worker {id} is starting")),
            WorkerState::Draining => wrong.push(format!("worker {id} is draining")),
        }
        match notes.beat_written {
            Some(at) if now.saturating_duration_since(at) <= SILENT_AFTER => {}
            Some(at) => {
                let silent = now.saturating_duration_since(at).as_secs();
                wrong.push(format!("worker {id}: the backend has taken no heartbeat for {silent} s"));
            }
            None => wrong.push(format!("worker {id}: the backend has taken no heartbeat yet")),
        }
        for (function, error) in &notes.functions {
            if let Some(error) = error {
                let line = error.lines().next().unwrap_or_default();
                wrong.push(format!("worker {id}: function {function} cannot start: {line}"));
            }
        }
        wrong
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Nothing panics while it holds the lock; if something did, the notes are still whole.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer for several agents of one process: whether all is well, and a line for each thing that is not.
pub(crate) fn told(wrong: &[Wrong]) -> (bool, String) {
    let lines: Vec<&String> = wrong.iter().flatten().collect();
    if lines.is_empty() {
        return (true, "ok\n".to_owned());
    }
    let text = lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    });
    (false, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(WorkerId::new("w").unwrap())
    }

    fn later(by: Duration) -> Instant {
        Instant::now() + by
    }

    #[test]
    fn a_heartbeat_that_stands_still_is_told_and_one_that_fails_is_not() {
        let health = health();
        health.beat(false, WorkerState::Running, &[]);
        assert!(health.stalled().is_empty());
        let wrong = health.stalled_at(later(STALLED_AFTER * 2));
        assert!(matches!(&wrong[..], [only] if only.contains("heartbeat")), "{wrong:?}");
        assert!(health.not_ready()[0].contains("no heartbeat yet"));
    }

    #[test]
    fn a_receive_loop_may_wait_for_room_for_as_long_as_it_takes() {
        let health = health();
        let wrong = |health: &Health| health.stalled_at(later(STALLED_AFTER * 2)).len();
        health.waits_for_room();
        assert_eq!(wrong(&health), 1, "the heartbeat alone");
        health.receives();
        assert_eq!(wrong(&health), 2);
        health.receives_no_more();
        assert_eq!(wrong(&health), 1);
    }

    #[test]
    fn it_is_ready_while_it_runs_is_heard_and_its_functions_start() {
        let health = health();
        assert!(!health.not_ready().is_empty());
        let function = |error: Option<&str>| vec![("f".parse().unwrap(), error.map(str::to_owned))];
        health.beat(true, WorkerState::Running, &function(None));
        assert_eq!(health.not_ready(), Wrong::new());
        assert!(health.not_ready_at(later(SILENT_AFTER * 2))[0].contains("no heartbeat for"));
        health.beat(true, WorkerState::Running, &function(Some("no such file\nmore")));
        assert_eq!(health.not_ready(), ["worker w: function f cannot start: no such file"]);
        health.beat(true, WorkerState::Draining, &function(None));
        assert_eq!(health.not_ready(), ["worker w is draining"]);
    }
}
