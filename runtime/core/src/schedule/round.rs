//! What a schedule owes at a moment: the ticks to fire, those that are left out, and when to look again.
//!
//! A tick that is at most [`LATE_MAX`] late is simply fired: an agent that took over from one that died loses
//! none. Later ones were missed, and so were those of a pause; the schedule's `catch_up` says what becomes of
//! them. A tick counts as dealt with once it is noted; whoever dies before that fires it again, to the same task.

use std::time::Duration;

use super::Rule;
use crate::{config::CatchUp, time::Timestamp};

/// A tick that is no later than this was not missed. It is also the precision of EventBridge Scheduler.
pub const LATE_MAX: Duration = Duration::from_secs(60);

/// How far a schedule has been dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Every tick up to this one has been fired or left out.
    pub passed: Timestamp,
    /// When the schedule was last resumed after a pause.
    pub resumed: Option<Timestamp>,
}

/// What a schedule owes now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The ticks to fire, in order.
    pub fire: Vec<Timestamp>,
    /// Once they are fired, every tick up to this one is dealt with.
    pub passed: Option<Timestamp>,
    /// Ticks were missed and left out.
    pub left_out: bool,
    /// When to look again; none if nothing ever comes.
    pub wake: Option<Timestamp>,
}

impl Rule {
    /// What is owed at `now`, at most `max` ticks (at least 1) of it.
    #[must_use]
    pub fn round(&self, position: Position, catch_up: CatchUp, now: Timestamp, max: usize) -> Round {
        let mut round = Round::default();
        let mut passed = position.passed;
        if let Some(until) = self.missed_until(position, now) {
            let kept = match catch_up {
                CatchUp::All => Some(passed),
                CatchUp::None => Some(until),
                CatchUp::One => self.last(passed, until).map(|last| Timestamp(last.0 - 1)),
            };
            if let Some(kept) = kept.filter(|kept| *kept > passed) {
                let next = self.next(passed);
                round.left_out = next.is_some_and(|tick| tick <= kept);
                passed = kept;
            }
        }
        while round.fire.len() < max.max(1) {
            let Some(tick) = self.next(passed).filter(|tick| self.due(*tick) <= now) else { break };
            round.fire.push(tick);
            passed = tick;
        }
        round.passed = Some(passed).filter(|passed| *passed != position.passed);
        round.wake = self.next(passed).map(|tick| self.due(tick));
        round
    }

    /// Ticks up to here were missed: while nobody fired for more than [`LATE_MAX`], or in a pause. Those whose
    /// flexible window is still open were not.
    fn missed_until(&self, position: Position, now: Timestamp) -> Option<Timestamp> {
        let first = self.next(position.passed)?;
        let closed = |at: Timestamp| at.before(self.jitter());
        if self.due(first).after(LATE_MAX) < now {
            return Some(closed(now)).filter(|until| *until >= first);
        }
        position.resumed.map(closed).filter(|until| *until >= first)
    }
}
