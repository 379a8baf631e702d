//! What can happen next: one verb on a row or on the queue, a step of time, or a fault.

use std::{fmt, time::Duration};

use rhubarb_core::{
    ids::FencingToken,
    limits::Limits,
    outcome::{Failure, Outcome},
    row::{AckMode, Claim, ClaimTerms, Disposition, Renewed},
    time::Now,
};

use super::{
    Case, rules,
    small::{ATTEMPTS, NOW, STEP, Small, WORKER, lease_time, steps_of},
    world::{Bell, Producer, Seen, Task, Worker, World},
};
use crate::simulation::Sabotage;

/// One step and where it leads, or the rule that it breaks.
pub(super) struct Step {
    what: &'static str,
    worker: Option<usize>,
    task: Option<usize>,
    pub(super) is_fault: bool,
    pub(super) to: Result<World, String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(worker) = self.worker {
            write!(f, "worker {worker} ")?;
        }
        f.write_str(self.what)?;
        if let Some(task) = self.task {
            write!(f, " (task {task})")?;
        }
        Ok(())
    }
}

/// All that can happen in a world.
pub(super) fn all(world: &World, case: Case, found: &mut Vec<Step>) {
    let mut next = Next { world: *world, case, found, worker: None, task: None };
    next.step("time passes: one lease", world.later());
    for task in 0..world.tasks.len() {
        next.task = Some(task);
        next.producer(task);
        next.sweep(task);
        next.operator(task);
    }
    next.task = None;
    next.queue();
    for worker in 0..world.workers.len() {
        next.worker = Some(worker);
        next.act(worker);
    }
}

struct Next<'a> {
    world: World,
    case: Case,
    found: &'a mut Vec<Step>,
    worker: Option<usize>,
    task: Option<usize>,
}

impl Next<'_> {
    fn add(&mut self, what: &'static str, is_fault: bool, to: Result<World, String>) {
        self.found.push(Step { what, worker: self.worker, task: self.task, is_fault, to });
    }

    fn step(&mut self, what: &'static str, to: World) {
        self.add(what, false, Ok(to));
    }

    /// Something that goes wrong, as often as the case allows.
    fn fault(&mut self, what: &'static str, mut to: World) {
        if self.world.faults < self.case.faults {
            to.faults += 1;
            self.add(what, true, Ok(to));
        }
    }

    fn is_sabotaged(&self, sabotage: Sabotage) -> bool {
        self.case.sabotage == Some(sabotage)
    }

    /// A world with another row of a task.
    fn with_row(&self, task: usize, row: &rhubarb_core::row::Row) -> World {
        let mut world = self.world;
        world.tasks[task].row = Some(Small::of(row));
        world
    }

    fn producer(&mut self, number: usize) {
        let mut world = self.world;
        match world.tasks[number].producer {
            Producer::NotYet => {
                let row = world.tasks[number].row.unwrap_or_else(Small::submitted);
                world.tasks[number] = Task { producer: Producer::Put, row: Some(row), ..world.tasks[number] };
                self.step("the producer puts the row", world);
            }
            Producer::Put => {
                if world.send(number as u8, 0) {
                    self.fault("the producer sends, and the answer is lost", world);
                    world.tasks[number].producer = Producer::Accepted;
                    self.step("the producer sends: accepted", world);
                }
                let mut crashed = self.world;
                crashed.tasks[number].producer = Producer::NotYet;
                self.fault("the producer crashes before it sends", crashed);
            }
            Producer::Accepted => {}
        }
    }

    fn sweep(&mut self, number: usize) {
        let task = self.world.tasks[number];
        let Some(small) = task.row else { return };
        let row = small.row(self.case.ack);
        let hasty = self.is_sabotaged(Sabotage::ReapByWorkerClock);
        let now = if hasty { Now { lease: lease_time(1), ..NOW } } else { NOW };
        let is_running = row.state == rhubarb_core::row::State::Running;
        if let Some(until) = small.until.filter(|until| is_running && lease_time(*until) <= now.lease) {
            let seen = Seen { fence: small.fence, until, is_ripe: hasty };
            if task.seen.is_none_or(|known| (known.fence, known.until) != (seen.fence, seen.until)) {
                let mut world = self.world;
                world.tasks[number].seen = Some(seen);
                self.step("the reaper sees an ended lease", world);
            }
        }
        if let Some(seen) = task.seen.filter(|seen| seen.is_ripe) {
            let mut reaped = row.clone();
            let answer = reaped.reap(FencingToken(u64::from(seen.fence)), lease_time(seen.until), now);
            let mut world = self.with_row(number, &reaped);
            world.tasks[number].seen = None;
            let verdict = if answer.is_ok() { rules::lease_had_ended(&row) } else { Ok(()) };
            self.add("the reaper takes a silent task", false, verdict.map(|()| world));
        }
        self.ring(number, small);
    }

    fn ring(&mut self, number: usize, small: Small) {
        let task = self.world.tasks[number];
        if let Some(bell) = task.bell {
            let mut row = small.row(self.case.ack);
            row.rung(FencingToken(u64::from(bell.fence)), u32::from(bell.rings));
            let mut world = self.with_row(number, &row);
            world.tasks[number].bell = None;
            self.step("the sweep notes the doorbell", world);
            let mut crashed = self.world;
            crashed.tasks[number].bell = None;
            self.fault("the sweep crashes before it notes the doorbell", crashed);
        } else if small.ring_at.is_some_and(|at| at <= 0) && !self.is_sabotaged(Sabotage::SilentSweep) {
            let mut world = self.world;
            if world.send(number as u8, small.not_before.unwrap_or(0)) {
                world.tasks[number].bell = Some(Bell { fence: small.fence, rings: small.rings });
                self.step("the sweep rings", world);
            }
        }
        if self.world.is_empty() {
            let mut row = small.row(self.case.ack);
            if row.doorbell_lost(NOW.epoch) {
                let world = self.with_row(number, &row);
                self.step("the sweep takes the doorbell for lost", world);
            }
        }
    }

    fn operator(&mut self, number: usize) {
        let Some(small) = self.world.tasks[number].row else { return };
        let mut row = small.row(self.case.ack);
        if !row.cancel_asked && row.cancel().is_ok() {
            self.fault("somebody cancels", self.with_row(number, &row));
        }
        let mut row = small.row(self.case.ack);
        if row.redrive(NOW.epoch).is_ok() {
            let mut world = self.with_row(number, &row);
            world.tasks[number].lost = true;
            self.fault("somebody redrives", world);
        }
    }

    fn queue(&mut self) {
        let world = self.world;
        for (place, message) in world.messages() {
            self.task = Some(usize::from(message.task));
            let mut world = self.world;
            *world.message_mut(place) = None;
            world.tasks[usize::from(message.task)].lost = true;
            self.fault("a message is lost", world);
            let mut world = self.world;
            if world.send(message.task, message.hidden) {
                self.fault("a message is doubled", world);
            }
            if message.hidden > 0 {
                let mut world = self.world;
                *world.message_mut(place) = Some(super::world::Message { hidden: 0, ..message });
                self.fault("a hidden message shows itself", world);
            }
        }
    }

    fn act(&mut self, number: usize) {
        let worker = self.world.workers[number];
        if worker != Worker::Idle {
            let mut world = self.world;
            world.rest(number);
            self.fault("crashes", world);
        }
        match worker {
            Worker::Idle => self.receive(number),
            Worker::Got { task } => self.claim(number, usize::from(task)),
            Worker::Won { task, fence } => {
                let mut world = self.world;
                world.delete_held_by(number);
                world.workers[number] = Worker::Works { task, fence };
                self.step("deletes the message of what it won", world);
            }
            Worker::Works { task, fence } => self.work(number, usize::from(task), fence),
            Worker::Deleted { task, fence } => {
                self.settle(number, usize::from(task), fence, "succeeds", &Outcome::Succeeded(None));
            }
            Worker::Settled { task, again } => self.put_in_order(number, task, again),
            Worker::Sent { task, bell } => {
                let Some(small) = self.world.tasks[usize::from(task)].row else { return };
                let mut row = small.row(self.case.ack);
                row.rung(FencingToken(u64::from(bell.fence)), u32::from(bell.rings));
                let mut world = self.with_row(usize::from(task), &row);
                world.rest(number);
                self.step("notes the doorbell", world);
            }
        }
    }

    fn receive(&mut self, number: usize) {
        let visible: Vec<_> = self.world.messages().filter(|(_, message)| message.hidden == 0).collect();
        for (place, message) in visible {
            self.task = Some(usize::from(message.task));
            let mut world = self.world;
            let received = super::world::Message { hidden: 1, receipt: Some(number as u8), ..message };
            *world.message_mut(place) = Some(received);
            world.workers[number] = Worker::Got { task: message.task };
            self.step("receives", world);
        }
        self.task = None;
    }

    fn claim(&mut self, number: usize, task: usize) {
        let Some(small) = self.world.tasks[task].row else { return };
        let before = small.row(self.case.ack);
        let mut row = before.clone();
        let claim = row.claim(&terms(self.case.ack), NOW);
        let verdict =
            if claim == Claim::Won { rules::won(&before, &row) } else { rules::lease_had_ended_or_same(&before, &row) };
        let mut world = self.with_row(task, &row);
        let drops = self.is_sabotaged(Sabotage::DropHeldDeliveries) && matches!(claim, Claim::Held { .. });
        let disposition = claim.disposition(self.case.ack, NOW.epoch, Limits::AWS.visibility_max);
        let (of, fence) = (task as u8, Small::of(&row).fence);
        match (claim, disposition) {
            (Claim::Won, Disposition::Delete) => world.workers[number] = Worker::Won { task: of, fence },
            (Claim::Won, _) => world.workers[number] = Worker::Works { task: of, fence },
            (_, Disposition::Hide(time)) if !drops => {
                world.hide_held_by(number, steps_of(time));
                world.rest(number);
            }
            (_, Disposition::Keep) => world.rest(number),
            (_, Disposition::Delete | Disposition::Hide(_)) => {
                world.delete_held_by(number);
                world.rest(number);
            }
        }
        self.task = Some(task);
        self.add("claims", false, verdict.map(|()| world));
        self.task = None;
    }

    fn work(&mut self, number: usize, task: usize, fence: u8) {
        self.renew(number, task, fence);
        if self.is_sabotaged(Sabotage::DeleteBeforeSettle) && self.case.ack == AckMode::Message {
            let mut world = self.world;
            world.delete_held_by(number);
            world.workers[number] = Worker::Deleted { task: task as u8, fence };
            return self.step("deletes the message before it settles", world);
        }
        self.settle(number, task, fence, "succeeds", &Outcome::Succeeded(None));
        let failure = Failure { kind: String::new(), message: String::new() };
        self.settle(number, task, fence, "fails", &Outcome::Failed { failure, retry_in: Some(STEP) });
        let interrupted = Outcome::Interrupted { alone: false, why: "shutdown".into() };
        self.settle(number, task, fence, "is interrupted", &interrupted);
    }

    fn renew(&mut self, number: usize, task: usize, fence: u8) {
        let Some(small) = self.world.tasks[task].row else { return };
        let mut row = small.row(self.case.ack);
        match row.renew(FencingToken(u64::from(fence)), NOW) {
            Renewed::Lost => {
                let mut world = self.world;
                world.rest(number);
                self.step("learns that another holds its task, and stops", world);
            }
            Renewed::Kept { cancel_asked } => {
                let world = self.with_row(task, &row);
                self.step("renews its lease", world);
                let mut extended = world;
                if self.case.ack == AckMode::Message && extended.hide_held_by(number, 1) {
                    self.step("renews its lease and extends its message", extended);
                }
                if cancel_asked {
                    self.settle(number, task, fence, "stops as it was asked to", &Outcome::Cancelled);
                }
            }
        }
    }

    fn settle(&mut self, number: usize, task: usize, fence: u8, what: &'static str, outcome: &Outcome) {
        let Some(small) = self.world.tasks[task].row else { return };
        let before = small.row(self.case.ack);
        let mut row = before.clone();
        let token = if self.is_sabotaged(Sabotage::NoFencing) { row.fence } else { FencingToken(u64::from(fence)) };
        let Ok(settled) = row.settle(token, outcome, NOW, &Limits::AWS) else {
            let mut world = self.world;
            world.rest(number);
            return self.step("settles too late", world);
        };
        if let Err(rule) = rules::settled(&before, fence) {
            return self.add(what, false, Err(rule));
        }
        let mut world = self.with_row(task, &row);
        let answered_in_vain = world;
        let bell = Bell { fence: Small::of(&row).fence, rings: Small::of(&row).rings };
        let again = settled.again_in.map(|delay: Duration| (steps_of(delay), bell));
        world.workers[number] = Worker::Settled { task: task as u8, again };
        if matches!(outcome, Outcome::Interrupted { .. }) {
            return self.fault(what, world);
        }
        self.step(what, world);
        self.fault("settles, and the answer is lost", answered_in_vain);
    }

    fn put_in_order(&mut self, number: usize, task: u8, again: Option<(i8, Bell)>) {
        let mut world = self.world;
        match (self.case.ack, again) {
            (_, None) => {
                world.delete_held_by(number);
                world.rest(number);
                self.step("deletes the message of what it settled", world);
            }
            (AckMode::Message, Some((delay, bell))) => {
                if world.hide_held_by(number, delay) {
                    world.workers[number] = Worker::Sent { task, bell };
                } else {
                    world.rest(number);
                }
                self.step("gives the message back", world);
            }
            (AckMode::Lease, Some((delay, bell))) => {
                if world.send(task, delay) {
                    world.workers[number] = Worker::Sent { task, bell };
                    self.step("sends the message anew", world);
                }
            }
        }
    }
}

fn terms(ack: AckMode) -> ClaimTerms<'static> {
    ClaimTerms {
        worker: &WORKER,
        lease: STEP,
        ack,
        max_attempts: ATTEMPTS,
        purged_before: None,
        limits: rhubarb_core::permit::QueueLimits::NONE,
    }
}
