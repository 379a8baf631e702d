//! The onlooker: compares every row with the one before, and says which rule a step has broken.
//!
//! It trusts no answer, since answers get lost: what it knows is the rows themselves, which verb was
//! done, and with which token a holder meant to settle.

use std::collections::BTreeMap;

use rhubarb_core::{
    ids::{FencingToken, QueueName, TaskId},
    permit::{QueueLimits, Rate, ScopeLimits},
    row::{AckMode, Row, State},
    time::{Now, Timestamp, millis},
};

use super::Tally;
use crate::{faults::Verb, memory::MemoryBackend};

/// A broken rule in words, or nothing.
type Verdict = Result<(), String>;

#[derive(Default)]
pub(super) struct Oracle {
    /// Every worker claims in mode `message`. Where modes are mixed, a holder in mode `lease` that was
    /// overtaken may still delete the message of a later one: the reaper brings that one back too.
    keeps_messages: bool,
    tasks: BTreeMap<TaskId, Watched>,
    limits: QueueLimits,
    /// When attempts were begun, in order.
    starts: Vec<Timestamp>,
    pub(super) tally: Tally,
}

#[derive(Default)]
struct Watched {
    row: Option<Row>,
    accepted: bool,
    /// It has the one concurrency key that there is.
    has_key: bool,
    begun: u32,
    given_back: u32,
    /// What its first claim allowed: the configuration stays as it is.
    max_attempts: Option<u32>,
    settled_by: Option<FencingToken>,
    /// Its doorbell may be gone without anybody's fault: the queue must first stand empty.
    bell_excused: bool,
}

/// The verb that was just done, and what its actor meant to settle.
pub(super) struct Step<'a> {
    pub(super) verb: Verb,
    pub(super) settles: &'a [Intent],
}

/// With what a holder means to settle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intent {
    pub(super) id: TaskId,
    pub(super) token: FencingToken,
    /// The attempt counts: it was neither interrupted nor snoozed.
    pub(super) spends: bool,
}

impl Oracle {
    pub(super) fn new(modes: [AckMode; 2], limits: QueueLimits) -> Self {
        // Where tasks are parked, whoever parked one may delete its message after a doubled delivery of it has won:
        // the reaper brings that one back too.
        let keeps_messages = modes == [AckMode::Message; 2] && limits.is_none();
        Self { keeps_messages, limits, ..Self::default() }
    }

    pub(super) fn watch(&mut self, id: TaskId, has_key: bool) {
        self.tasks.entry(id).or_default().has_key = has_key;
    }

    pub(super) fn accepted(&mut self, id: TaskId) {
        self.tasks.entry(id).or_default().accepted = true;
    }

    /// A task whose doorbell may be missing without a broken rule.
    pub(super) fn excuse(&mut self, id: TaskId) {
        self.tasks.entry(id).or_default().bell_excused = true;
    }

    pub(super) fn ids(&self) -> Vec<TaskId> {
        self.tasks.keys().copied().collect()
    }

    /// Checks every row after a step; `now` is the store's own clock.
    pub(super) fn look(&mut self, backend: &MemoryBackend, queue: &QueueName, step: &Step<'_>, now: Now) -> Verdict {
        self.tally.steps += 1;
        let begun = self.tally.attempts;
        for (id, watched) in &mut self.tasks {
            let row = backend.row(*id);
            let changed = row != watched.row;
            if changed {
                let before = watched.row.clone();
                watched.compare(*id, before.as_ref(), row.as_ref(), step, now, &mut self.tally)?;
                watched.row.clone_from(&row);
            } else if step.verb == Verb::PurgeQueue {
                // What came after the purge's mark is rung again when the queue stands empty. A plain
                // message that nobody has seen is all there was of its task.
                watched.bell_excused = true;
                watched.accepted &= row.is_some();
            } else if step.verb == Verb::Settle && step.settles.iter().any(|intent| intent.id == *id) {
                self.tally.refused += 1;
            }
            let may_miss_its_bell = changed || matches!(step.verb, Verb::Delete | Verb::Send);
            if let Some(row) = row.filter(|row| may_miss_its_bell && !row.state.is_settled()) {
                let bells = backend.doorbells(queue, *id);
                watched.bell_excused |= backend.has_lost_a_doorbell(*id);
                watched.can_come_back(*id, &row, bells, self.keeps_messages)?;
            }
        }
        self.keeps_limits(self.tally.attempts - begun, now)
    }

    /// No more tasks hold a lease that has not ended, and no more have started in a period, than may. It goes by
    /// the rows' leases, and believes no meter.
    fn keeps_limits(&mut self, begun: u64, now: Now) -> Verdict {
        let QueueLimits { queue, key } = self.limits;
        let holds = |watched: &&Watched| {
            let row = watched.row.as_ref().filter(|row| row.state == State::Running);
            row.and_then(|row| row.hold.as_ref()).is_some_and(|hold| hold.until > now.lease)
        };
        let at_once = |limits: ScopeLimits, of: &str, count: usize| match limits.max_running {
            Some(max) if count > max as usize => Err(format!("{count} of {max} permits of the {of} are held")),
            _ => Ok(()),
        };
        if !self.limits.is_none() {
            at_once(queue, "queue", self.tasks.values().filter(holds).count())?;
            at_once(key, "key", self.tasks.values().filter(|watched| watched.has_key).filter(holds).count())?;
        }
        let Some(Rate { count, period }) = queue.rate else { return Ok(()) };
        self.starts.extend((0..begun).map(|_| now.epoch));
        match self.starts.len().checked_sub(count as usize + 1).map(|first| self.starts[first]) {
            Some(first) if begun > 0 && now.epoch.since(first) < period => {
                Err(format!("{} starts in {} ms", count + 1, millis(now.epoch.since(first))))
            }
            _ => Ok(()),
        }
    }

    /// The accepted tasks that have not settled.
    pub(super) fn unsettled(&self) -> Vec<TaskId> {
        let open =
            |watched: &Watched| watched.accepted && !watched.row.as_ref().is_some_and(|row| row.state.is_settled());
        self.tasks.iter().filter(|(_, watched)| open(watched)).map(|(id, _)| *id).collect()
    }

    pub(super) fn count_settled(&mut self) {
        self.tally.settled = self.tasks.values().filter(|watched| watched.accepted).count() as u64;
    }
}

impl Watched {
    fn compare(
        &mut self,
        id: TaskId,
        before: Option<&Row>,
        after: Option<&Row>,
        step: &Step<'_>,
        now: Now,
        tally: &mut Tally,
    ) -> Verdict {
        let Some(after) = after else { return broken(id, "its row has gone") };
        let new = Row::submitted(None, None, None, now.epoch, &rhubarb_core::limits::Limits::AWS);
        let before = before.unwrap_or(&new);
        if after.fence < before.fence {
            return broken(id, "its token fell");
        }
        if before.state.is_settled() && after.redriven == before.redriven {
            return broken(id, &format!("it was settled as {} and is {} now", before.state, after.state));
        }
        match step.verb {
            Verb::Settle => self.settled(id, before, after, step)?,
            Verb::Claim => self.claimed(id, before, after, now, tally)?,
            Verb::Reap => {
                tally.reaped += 1;
                lease_had_ended(id, before, now)?;
            }
            Verb::CancelPurged if before.state == State::Running => {
                return broken(id, "a purge touched what runs");
            }
            Verb::Redrive => (self.begun, self.given_back) = (0, 0),
            _ => {}
        }
        if after.attempt != self.begun - self.given_back {
            let (begun, back) = (self.begun, self.given_back);
            return broken(id, &format!("it counts {} attempts; {begun} were begun, {back} given back", after.attempt));
        }
        Ok(())
    }

    fn settled(&mut self, id: TaskId, before: &Row, after: &Row, step: &Step<'_>) -> Verdict {
        let Some(Intent { token, spends, .. }) = step.settles.iter().find(|intent| intent.id == id) else {
            return broken(id, "a settle of another task changed it");
        };
        if *token != before.fence {
            return broken(id, &format!("holder {token} settled it, and {} is the newest", before.fence));
        }
        if self.settled_by == Some(*token) {
            return broken(id, &format!("holder {token} settled it twice"));
        }
        self.settled_by = Some(*token);
        if !spends && !after.state.is_settled() {
            self.given_back += 1;
        }
        Ok(())
    }

    fn claimed(&mut self, id: TaskId, before: &Row, after: &Row, now: Now, tally: &mut Tally) -> Verdict {
        lease_had_ended(id, before, now)?;
        if after.state != State::Running {
            tally.parked += u64::from(after.state == State::Waiting && before.state != State::Waiting);
            return Ok(());
        }
        self.begun += 1;
        tally.attempts += 1;
        if after.fence == before.fence {
            return broken(id, "two holders share a token");
        }
        if before.not_before.is_some_and(|at| at > now.epoch) {
            return broken(id, "it started early");
        }
        let max = *self.max_attempts.get_or_insert(after.max_attempts);
        if after.attempt > max {
            return broken(id, &format!("attempt {} of {max}", after.attempt));
        }
        Ok(())
    }

    /// An unsettled task always has a way back: a message, a bell that is due, a permit, or a lease that ends. In
    /// mode `message` a message is there as long as the task is held.
    fn can_come_back(&self, id: TaskId, row: &Row, bells: usize, keeps_messages: bool) -> Verdict {
        if bells > 0 || self.bell_excused {
            return Ok(());
        }
        match (row.state, row.hold.as_ref().map(|hold| hold.ack)) {
            // Whoever was told that the task had settled, before it was redriven, may delete its message still: the
            // redrive rings, and the reaper would.
            (State::Running, Some(AckMode::Message)) if keeps_messages && row.redriven == 0 => {
                broken(id, "it is held in mode `message`, and its message has gone")
            }
            (State::Running, _) => Ok(()),
            _ if row.ring_at.is_some() || !self.accepted => Ok(()),
            // Whoever gives a permit back calls it. That somebody does is seen at the end.
            (State::Waiting, _) if row.permit.as_ref().is_some_and(|permit| permit.parked_for().is_some()) => Ok(()),
            (state, _) => broken(id, &format!("it is {state}, has no message, and nothing will ring it")),
        }
    }
}

/// A lease that the store has granted is nobody else's before it ends.
fn lease_had_ended(id: TaskId, before: &Row, now: Now) -> Verdict {
    let until = before.hold.as_ref().filter(|_| before.state == State::Running).map(|hold| hold.until);
    match until.filter(|until| *until > now.lease) {
        Some(until) => {
            broken(id, &format!("it was taken from its holder {:?} before its lease ended", until.since(now.lease)))
        }
        None => Ok(()),
    }
}

fn broken(id: TaskId, rule: &str) -> Verdict {
    Err(format!("task {id}: {rule}"))
}
