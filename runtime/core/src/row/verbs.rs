//! The protocol's verbs on a row: each looks, decides, and changes it or refuses.

use std::time::Duration;

use super::{AckMode, Claim, ClaimTerms, Hold, Move, Refused, Renewed, Row, Settled, State};
use crate::{
    ids::FencingToken,
    limits::{DOORBELL_AGE_MAX, DOORBELL_PATIENCE, INTERRUPTIONS_MAX, Limits, SNOOZES_MAX},
    outcome::{Failure, Outcome},
    permit::{Gate, Permit, Scope, Stage},
    time::{LeaseTime, Now, Timestamp},
};

impl Row {
    /// The row of a task that has just been accepted.
    #[must_use]
    pub fn submitted(
        max_attempts: Option<u32>,
        not_before: Option<Timestamp>,
        expires: Option<Timestamp>,
        now: Timestamp,
        limits: &Limits,
    ) -> Self {
        let late = not_before.filter(|at| *at > now);
        // A delay that the queue can hold counts as rung: the message goes out with the row.
        let ring_at = late.filter(|at| at.since(now) > limits.delay_max).map(|at| at.before(limits.delay_max));
        Self {
            state: if late.is_some() { State::Scheduled } else { State::Queued },
            fence: FencingToken(0),
            attempt: 0,
            max_attempts: max_attempts.unwrap_or(u32::MAX),
            hold: None,
            queued_at: now,
            not_before: late,
            expires,
            ring_at,
            rings: 1,
            rung_at: ring_at.unwrap_or(now),
            cancel_asked: false,
            alone: false,
            interruptions: 0,
            snoozes: 0,
            redriven: 0,
            permit: None,
        }
    }

    /// The row of a poison message: failed from the start.
    #[must_use]
    pub fn poisoned(now: Timestamp) -> Self {
        Self { state: State::Failed, ..Self::submitted(None, None, None, now, &Limits::AWS) }
    }

    /// The row of a task that had none and has failed: as a holder would have left it.
    #[must_use]
    pub fn buried(attempt: u32, max_attempts: u32, now: Timestamp) -> Self {
        let fence = FencingToken::NONE.next();
        Self { fence, attempt, max_attempts: max_attempts.max(attempt), ..Self::poisoned(now) }
    }

    /// Tries to win the task for a worker.
    pub fn claim(&mut self, terms: &ClaimTerms<'_>, now: Now) -> Claim {
        if self.state.is_settled() {
            return Claim::Settled;
        }
        if self.state == State::Running {
            if let Some(hold) = self.hold.as_ref().filter(|hold| hold.until > now.lease) {
                return Claim::Held { left: hold.until.since(now.lease), ack: hold.ack };
            }
            if self.cancel_asked {
                return self.end_at_claim(Move::CancelLost);
            }
        } else {
            let purged = terms.purged_before.is_some_and(|purge| self.queued_at <= purge);
            if self.cancel_asked || purged {
                return self.end_at_claim(Move::Cancel);
            }
        }
        if self.expires.is_some_and(|at| at <= now.epoch) {
            return self.end_at_claim(Move::Expire);
        }
        if self.state == State::Running && self.attempt >= self.max_attempts {
            // The reaper buries it, one lease after it has seen it; until then it counts as held.
            let (lease, ack) = self.hold.as_ref().map_or((terms.lease, terms.ack), |hold| (hold.lease, hold.ack));
            return Claim::Held { left: lease, ack };
        }
        if let Some(at) = self.not_before.filter(|at| *at > now.epoch && self.state != State::Running) {
            return Claim::NotYet(at);
        }
        let step = if self.state == State::Running { Move::TakeOver } else { Move::Claim };
        let Some(state) = self.state.after(step) else { return Claim::Settled };
        self.state = state;
        self.fence = self.fence.next();
        self.attempt = self.attempt.saturating_add(1);
        // A queue that allows fewer attempts than before does not take back the one that begins now.
        self.max_attempts = self.max_attempts.min(terms.max_attempts).max(self.attempt);
        self.hold = Some(Hold {
            worker: terms.worker.clone(),
            until: now.lease.after(terms.lease),
            lease: terms.lease,
            ack: terms.ack,
            started: now.epoch,
        });
        self.not_before = None;
        self.ring_at = None;
        self.permit = None;
        Claim::Won
    }

    /// Tries to win the task where the queue is limited, or the row has a permit. `gate` holds the meters of
    /// [`Gate::scopes`] and changes with the row: the store writes both, or neither.
    pub fn claim_within(&mut self, terms: &ClaimTerms<'_>, gate: &mut Gate, now: Now) -> Claim {
        let before = self.clone();
        let claim = self.claim(terms, now);
        if claim != Claim::Won {
            gate.moved(before.permit.as_deref(), self.permit.as_deref());
            return claim;
        }
        match gate.admit(&terms.limits, before.permit.as_deref(), now.epoch) {
            Ok(permit) => {
                self.permit = permit.map(Box::new);
                Claim::Won
            }
            Err(scope) => {
                *self = before;
                self.park(scope, gate, terms)
            }
        }
    }

    /// Leaves the task to whoever gives a permit back. One whose holder fell silent is left to the reaper, which
    /// also gives back what it holds.
    fn park(&mut self, scope: Scope, gate: &mut Gate, terms: &ClaimTerms<'_>) -> Claim {
        let Some(state) = self.state.after(Move::Park) else {
            let (lease, ack) = self.hold.as_ref().map_or((terms.lease, terms.ack), |hold| (hold.lease, hold.ack));
            return Claim::Held { left: lease, ack };
        };
        let parked = Permit { key: gate.key.clone(), stage: Stage::Parked { scope } };
        gate.moved(self.permit.as_deref(), Some(&parked));
        self.permit = Some(Box::new(parked));
        self.state = state;
        self.not_before = None;
        self.ring_at = None;
        Claim::Parked
    }

    /// Calls a parked task, whose meter is in `gate`: it is queued and to be rung, or expired where it is too late
    /// for it. Returns whether it was called or ended; else it is not parked for this scope, or none may be called.
    pub fn call(&mut self, scope: Scope, gate: &mut Gate, now: Timestamp) -> bool {
        let parked = self.permit.as_deref().and_then(Permit::parked_for) == Some(scope);
        let at = gate.meter(scope).as_mut().and_then(|meter| {
            meter.prune(now);
            meter.call_for(now)
        });
        let (Some(at), Some(state), true) = (at, self.state.after(Move::Call), parked) else { return false };
        let before = self.permit.take();
        if self.expires.is_some_and(|expires| expires <= now) {
            self.end(State::Expired);
        } else {
            let limited = gate.meter(scope).as_ref().is_some_and(|meter| meter.limits.rate.is_some());
            let stage = Stage::Called { scope, slot: limited.then_some(at) };
            let key = before.as_ref().and_then(|permit| permit.key.clone());
            self.permit = Some(Box::new(Permit { key, stage }));
            self.state = state;
            self.not_before = (at > now).then_some(at);
            self.ring_anew(now);
        }
        gate.moved(before.as_deref(), self.permit.as_deref());
        true
    }

    fn end_at_claim(&mut self, step: Move) -> Claim {
        if let Some(state) = self.state.after(step) {
            self.end(state);
        }
        Claim::Settled
    }

    /// Keeps the lease of the holder with this token; also when the reaper has queued the task again
    /// but nobody has claimed it since. Where its permit has gone back meanwhile, the store keeps the lease
    /// only if one is free.
    pub fn renew(&mut self, fence: FencingToken, now: Now) -> Renewed {
        let Some(state) = self.state.after(Move::Renew).filter(|_| self.is_held_by(fence)) else {
            return Renewed::Lost;
        };
        let Some(hold) = self.hold.as_mut() else { return Renewed::Lost };
        hold.until = now.lease.after(hold.lease);
        self.state = state;
        self.ring_at = None;
        if let Some(permit) = &mut self.permit {
            permit.regain();
        }
        Renewed::Kept { cancel_asked: self.cancel_asked }
    }

    /// True if the holder with this token may still write: it is the newest, and nothing settled or
    /// handed back the task since.
    #[must_use]
    pub fn is_held_by(&self, fence: FencingToken) -> bool {
        self.fence == fence
            && self.hold.is_some()
            && matches!(self.state, State::Running | State::Queued | State::Waiting)
    }

    /// Records what the attempt of the holder with this token came to.
    ///
    /// # Errors
    ///
    /// A newer claim exists, the reaper settled the task, or the holder has settled before.
    pub fn settle(
        &mut self,
        fence: FencingToken,
        outcome: &Outcome,
        now: Now,
        limits: &Limits,
    ) -> Result<Settled, Refused> {
        if !self.is_held_by(fence) {
            return Err(self.refused());
        }
        match outcome {
            Outcome::Succeeded(_) => self.close(Move::Succeed, None),
            Outcome::Cancelled => self.close(Move::Stop, None),
            Outcome::Poisoned(_) | Outcome::Failed { retry_in: None, .. } => self.close(Move::Bury, None),
            Outcome::Failed { .. } | Outcome::Snoozed(_) | Outcome::Interrupted { .. } if self.cancel_asked => {
                self.close(Move::Stop, None)
            }
            Outcome::Failed { retry_in: Some(delay), .. } => {
                if self.attempt >= self.max_attempts {
                    return self.close(Move::Bury, None);
                }
                self.alone = false;
                self.put_back(*delay, now, limits)
            }
            Outcome::Snoozed(delay) => {
                if self.snoozes >= SNOOZES_MAX {
                    let failure = Failure::new(Failure::SNOOZED, format!("snoozed {SNOOZES_MAX} times"));
                    return self.close(Move::Bury, Some(failure));
                }
                self.snoozes += 1;
                self.attempt = self.attempt.saturating_sub(1);
                self.put_back(*delay, now, limits)
            }
            Outcome::Interrupted { alone, .. } => {
                if self.interruptions >= INTERRUPTIONS_MAX {
                    let failure = Failure::new(Failure::INTERRUPTED, format!("interrupted {INTERRUPTIONS_MAX} times"));
                    return self.close(Move::Bury, Some(failure));
                }
                self.interruptions += 1;
                self.attempt = self.attempt.saturating_sub(1);
                self.alone = *alone;
                self.put_back(Duration::ZERO, now, limits)
            }
        }
    }

    fn close(&mut self, step: Move, buried: Option<Failure>) -> Result<Settled, Refused> {
        let state = self.state.after(step).ok_or(self.refused())?;
        self.end(state);
        Ok(self.settled(None, buried))
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.not_before = None;
        self.ring_at = None;
        self.cancel_asked = false;
        self.alone = false;
        self.permit = None;
    }

    fn put_back(&mut self, delay: Duration, now: Now, limits: &Limits) -> Result<Settled, Refused> {
        let step = if delay.is_zero() { Move::GiveBack } else { Move::Retry };
        self.state = self.state.after(step).ok_or(self.refused())?;
        self.fence = self.fence.next();
        let held = self.hold.take();
        self.permit = None;
        self.queued_at = now.epoch;
        self.not_before = (!delay.is_zero()).then(|| now.epoch.after(delay));
        let ring_at = now.epoch.after(delay).before(limits.delay_max).max(now.epoch);
        self.unring(ring_at);
        // The message of mode `message` is made to come back, and does not get younger by it.
        if held.is_some_and(|hold| hold.ack == AckMode::Lease) {
            self.rung_at = ring_at;
        }
        Ok(self.settled(Some(delay), None))
    }

    /// Leaves the row to be rung, by a doorbell of the next number.
    fn unring(&mut self, at: Timestamp) {
        self.ring_at = Some(at);
        self.rings = self.rings.saturating_add(1);
    }

    /// Notes that the doorbell of this number has been rung (or is out in another way). A late note of an
    /// older one changes nothing.
    pub fn rung(&mut self, fence: FencingToken, rings: u32) {
        if self.fence == fence && self.rings == rings && !self.state.is_settled() {
            self.ring_at = None;
        }
    }

    /// Brings back, or buries, a task whose lease has ended. The reaper calls it for what it has
    /// itself seen unchanged for one whole lease (see [`crate::reaper`]).
    ///
    /// # Errors
    ///
    /// The row is not as the reaper has seen it.
    pub fn reap(&mut self, fence: FencingToken, until: LeaseTime, now: Now) -> Result<Settled, Refused> {
        let seen = self.hold.as_ref().filter(|hold| hold.until == until && hold.until <= now.lease);
        let (Some(hold), State::Running, true) = (seen, self.state, self.fence == fence) else {
            return Err(self.refused());
        };
        if self.cancel_asked {
            return self.close(Move::CancelLost, None);
        }
        if self.attempt >= self.max_attempts {
            let message = format!("worker {} fell silent during attempt {}, the last", hold.worker, self.attempt);
            return self.close(Move::Lose, Some(Failure::new(Failure::WORKER_LOST, message)));
        }
        // The message of mode `message` comes back by itself when its visibility ends; only if it has
        // not by then is it taken for lost.
        let wait = match hold.ack {
            AckMode::Lease => Duration::ZERO,
            AckMode::Message => hold.lease * 2,
        };
        self.state = self.state.after(Move::Reap).ok_or(self.refused())?;
        if let Some(permit) = &mut self.permit {
            permit.give_back();
        }
        self.queued_at = now.epoch;
        self.unring(now.epoch.after(wait));
        if wait.is_zero() {
            self.rung_at = now.epoch;
        }
        Ok(self.settled(wait.is_zero().then_some(wait), None))
    }

    /// Cancels a task that nobody holds; asks the holder of one that runs.
    ///
    /// # Errors
    ///
    /// The task is settled.
    pub fn cancel(&mut self) -> Result<State, Refused> {
        if self.state == State::Running {
            self.cancel_asked = true;
            return Ok(State::Running);
        }
        self.close(Move::Cancel, None).map(|settled| settled.state)
    }

    /// Cancels a task that became available at or before `purged_before` and does not run. Returns
    /// whether it did.
    pub fn purge(&mut self, purged_before: Timestamp) -> bool {
        let hit = self.queued_at <= purged_before && self.state.after(Move::Cancel).is_some();
        if hit {
            self.end(State::Cancelled);
        }
        hit
    }

    /// Brings a buried task back: attempts from 1, same id.
    ///
    /// # Errors
    ///
    /// The task is not `failed`.
    pub fn redrive(&mut self, now: Timestamp) -> Result<Settled, Refused> {
        self.state = self.state.after(Move::Redrive).ok_or(self.refused())?;
        self.fence = self.fence.next();
        self.hold = None;
        self.attempt = 0;
        self.redriven = self.redriven.saturating_add(1);
        self.interruptions = 0;
        self.snoozes = 0;
        self.queued_at = now;
        self.not_before = None;
        self.expires = None;
        self.ring_anew(now);
        Ok(self.settled(Some(Duration::ZERO), None))
    }

    /// Rings a rung row again whose doorbell is taken for lost: its queue has stood empty for
    /// [`DOORBELL_PATIENCE`], and it has been available for longer than that.
    pub fn doorbell_lost(&mut self, now: Timestamp) -> bool {
        let available = self.not_before.unwrap_or(self.queued_at).max(self.queued_at);
        let lost = self.is_rung() && available.after(DOORBELL_PATIENCE) <= now;
        if lost {
            self.ring_anew(now);
        }
        lost
    }

    /// Rings a rung row again whose doorbell is so old ([`DOORBELL_AGE_MAX`]) that the queue will soon forget
    /// it. Returns whether it did.
    pub fn doorbell_aged(&mut self, now: Timestamp) -> bool {
        let aged = self.is_rung() && self.rung_at.after(DOORBELL_AGE_MAX) <= now;
        if aged {
            self.ring_anew(now);
        }
        aged
    }

    /// Mends a row that waits, where the store's wall clock was set back since it became available: it is
    /// available by the new time as well. A retry waits for its delay anew; a task with a start time of its own
    /// waits until the clock says so. Returns whether it changed anything, so that it may be called as often as
    /// wanted.
    pub fn clock_set_back(&mut self, now: Timestamp, limits: &Limits) -> bool {
        let waits = matches!(self.state, State::Queued | State::Waiting | State::Retrying);
        if !waits || self.queued_at <= now {
            return false;
        }
        let delay = self.not_before.filter(|_| self.state == State::Retrying).map(|at| at.since(self.queued_at));
        self.not_before = delay.map(|delay| now.after(delay));
        self.queued_at = now;
        self.rung_at = self.rung_at.min(now);
        let latest = self.not_before.map_or(now, |at| at.before(limits.delay_max).max(now));
        self.ring_at = self.ring_at.map(|at| at.min(latest));
        true
    }

    /// True if it waits, and only a doorbell that is out brings it back.
    const fn is_rung(&self) -> bool {
        self.ring_at.is_none() && matches!(self.state, State::Queued | State::Retrying | State::Scheduled)
    }

    fn ring_anew(&mut self, now: Timestamp) {
        self.unring(now);
        self.rung_at = now;
    }

    const fn settled(&self, again_in: Option<Duration>, buried: Option<Failure>) -> Settled {
        Settled { state: self.state, fence: self.fence, rings: self.rings, again_in, buried }
    }

    const fn refused(&self) -> Refused {
        Refused { state: self.state, fence: self.fence }
    }
}
