//! A state of the search: rows, messages, workers and the sweep as values.

use rhubarb_core::row::State;

use super::small::{Small, later};

pub(super) const TASKS: usize = 2;
pub(super) const WORKERS: usize = 2;
/// Messages at most: one of each task, and what faults and late bells add.
const MESSAGES_MAX: usize = 8;

/// How far a producer is with its task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Producer {
    #[default]
    NotYet,
    /// The row is there, the message not known to be.
    Put,
    Accepted,
}

/// What the reaper has seen of a row: an ended lease, for a whole lease or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Seen {
    pub(super) fence: u8,
    pub(super) until: i8,
    pub(super) is_ripe: bool,
}

/// A doorbell that is out and not noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Bell {
    pub(super) fence: u8,
    pub(super) rings: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Task {
    pub(super) producer: Producer,
    pub(super) row: Option<Small>,
    pub(super) seen: Option<Seen>,
    /// The sweep has rung it and not noted so.
    pub(super) bell: Option<Bell>,
    /// A fault has lost a message of it: its queue must first stand empty. Or it was redriven while the holder of
    /// before may still delete its message: then the reaper rings.
    pub(super) lost: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Worker {
    #[default]
    Idle,
    /// Has received a message and not claimed its task.
    Got {
        task: u8,
    },
    /// Mode `lease`: has claimed, and not deleted the message.
    Won {
        task: u8,
        fence: u8,
    },
    Works {
        task: u8,
        fence: u8,
    },
    /// Has deleted the message and not settled: only where that rule is taken away.
    Deleted {
        task: u8,
        fence: u8,
    },
    /// Has settled, and not put the queue in order.
    Settled {
        task: u8,
        again: Option<(i8, Bell)>,
    },
    /// Has sent or released the message, and not noted so.
    Sent {
        task: u8,
        bell: Bell,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Message {
    pub(super) task: u8,
    /// Hidden for so long; zero: visible.
    pub(super) hidden: i8,
    /// Whose receipt is the newest, while it has it.
    pub(super) receipt: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct World {
    pub(super) tasks: [Task; TASKS],
    pub(super) workers: [Worker; WORKERS],
    queue: [Option<Message>; MESSAGES_MAX],
    pub(super) faults: u8,
}

impl Worker {
    fn rename(self, task: impl Fn(u8) -> u8, bell: impl Fn(u8, Bell) -> Bell) -> Self {
        // A token without its doorbell is renamed as one.
        let fence = |of, fence| bell(of, Bell { fence, rings: u8::MAX }).fence;
        match self {
            Self::Idle => Self::Idle,
            Self::Got { task: of } => Self::Got { task: task(of) },
            Self::Won { task: of, fence: token } => Self::Won { task: task(of), fence: fence(of, token) },
            Self::Works { task: of, fence: token } => Self::Works { task: task(of), fence: fence(of, token) },
            Self::Deleted { task: of, fence: token } => Self::Deleted { task: task(of), fence: fence(of, token) },
            Self::Settled { task: of, again } => {
                Self::Settled { task: task(of), again: again.map(|(delay, known)| (delay, bell(of, known))) }
            }
            Self::Sent { task: of, bell: known } => Self::Sent { task: task(of), bell: bell(of, known) },
        }
    }
}

impl World {
    /// Before anything has happened; of a case of one task, the other is done.
    pub(super) fn begin(tasks: usize) -> Self {
        let mut world = Self::default();
        for task in world.tasks.iter_mut().skip(tasks) {
            *task = Task { producer: Producer::Accepted, row: Some(Small::ended()), ..Task::default() };
        }
        world
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = (usize, Message)> {
        self.queue.iter().enumerate().filter_map(|(place, message)| message.map(|message| (place, message)))
    }

    pub(super) fn message_mut(&mut self, place: usize) -> &mut Option<Message> {
        &mut self.queue[place]
    }

    /// Puts a message on the queue; false where it has no room.
    pub(super) fn send(&mut self, task: u8, hidden: i8) -> bool {
        let place = self.queue.iter_mut().find(|place| place.is_none());
        let message = Message { task, hidden: hidden.max(0), receipt: None };
        place.is_some_and(|place| place.replace(message).is_none())
    }

    /// The message whose newest receipt a worker has.
    pub(super) fn held_by(&mut self, worker: usize) -> Option<&mut Option<Message>> {
        let held = |place: &&mut Option<Message>| place.is_some_and(|message| message.receipt == Some(worker as u8));
        self.queue.iter_mut().find(held)
    }

    /// The worker has nothing in hand any more, and forgets its receipt.
    pub(super) fn rest(&mut self, worker: usize) {
        if let Some(Some(message)) = self.held_by(worker) {
            message.receipt = None;
        }
        self.workers[worker] = Worker::Idle;
    }

    pub(super) fn delete_held_by(&mut self, worker: usize) {
        if let Some(place) = self.held_by(worker) {
            *place = None;
        }
    }

    /// Hides the message whose newest receipt a worker has; false where it has none.
    pub(super) fn hide_held_by(&mut self, worker: usize, steps: i8) -> bool {
        match self.held_by(worker) {
            Some(Some(message)) => {
                message.hidden = steps.max(0);
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages().next().is_none()
    }

    /// A step of time later.
    pub(super) fn later(mut self) -> Self {
        for task in &mut self.tasks {
            task.row = task.row.map(Small::later);
            task.seen = task.seen.map(|seen| Seen { until: later(seen.until), is_ripe: true, ..seen });
        }
        for message in self.queue.iter_mut().flatten() {
            message.hidden = later(message.hidden);
        }
        self
    }

    /// The one that stands for all that differ in names alone: of workers, of tasks, of tokens and doorbells.
    ///
    /// Where faults are left, a failed task may be redriven and keeps all; what is settled for good is one end like
    /// the other, and of its messages one is as good as many.
    pub(super) fn canonical(mut self, has_faults: bool) -> Self {
        for of in 0..TASKS {
            self.forget_past(of, has_faults);
        }
        self.count_anew();
        self.merge_messages();
        let mut least = None;
        for swap_tasks in [false, true] {
            for swap_workers in [false, true] {
                let world = self.renamed(swap_tasks, swap_workers);
                least = Some(least.map_or(world, |least: Self| least.min(world)));
            }
        }
        least.unwrap_or(self)
    }

    fn renamed(&self, swap_tasks: bool, swap_workers: bool) -> Self {
        let mut world = *self;
        if swap_tasks {
            world.tasks.swap(0, 1);
            world.workers = world.workers.map(|worker| worker.rename(|task| 1 - task, |_, bell| bell));
            world.queue.iter_mut().flatten().for_each(|message| message.task = 1 - message.task);
        }
        if swap_workers {
            world.workers.swap(0, 1);
            let of = |message: &mut Message| message.receipt = message.receipt.map(|worker| 1 - worker);
            world.queue.iter_mut().flatten().for_each(of);
        }
        world.queue.sort_unstable();
        world
    }

    fn forget_past(&mut self, of: usize, has_faults: bool) {
        let task = &mut self.tasks[of];
        let Some(row) = task.row else { return };
        // What the reaper has seen otherwise it will see anew.
        task.seen = task
            .seen
            .filter(|seen| row.state == State::Running && row.fence == seen.fence && row.until == Some(seen.until));
        if !row.state.is_settled() || (row.state == State::Failed && has_faults) || task.producer != Producer::Accepted
        {
            return;
        }
        *task = Task { producer: Producer::Accepted, row: Some(Small::ended()), ..Task::default() };
        let held: Vec<usize> =
            self.messages().filter(|(_, message)| usize::from(message.task) == of).map(|(place, _)| place).collect();
        for (number, place) in held.iter().enumerate() {
            let receipt = self.queue[*place].and_then(|message| message.receipt);
            self.queue[*place] = (number == 0).then_some(Message { task: of as u8, hidden: 0, receipt });
        }
        for worker in 0..WORKERS {
            let of_it = match self.workers[worker] {
                Worker::Idle | Worker::Got { .. } => false,
                Worker::Won { task, .. }
                | Worker::Works { task, .. }
                | Worker::Deleted { task, .. }
                | Worker::Settled { task, .. }
                | Worker::Sent { task, .. } => usize::from(task) == of,
            };
            if of_it {
                // All it can do is to learn that it is too late, or to delete a message that goes anyway.
                self.rest(worker);
            }
        }
    }

    /// Tells the newest token and doorbell of a task from all older ones, and forgets notes that come too late.
    fn count_anew(&mut self) {
        for of in 0..TASKS {
            let task = &mut self.tasks[of];
            let Some(row) = task.row else { continue };
            let anew = |bell: Bell| Bell {
                fence: u8::from(bell.fence == row.fence),
                rings: u8::from(bell.rings == row.rings),
            };
            let counts = |bell: Bell| row.ring_at.is_some() && (bell.fence, bell.rings) == (row.fence, row.rings);
            task.row = Some(Small { fence: 1, rings: 1, ..row });
            task.bell = task.bell.filter(|bell| counts(*bell)).map(anew);
            task.seen = task.seen.map(|seen| Seen { fence: 1, ..seen });
            for number in 0..WORKERS {
                let worker = self.workers[number];
                match worker {
                    Worker::Sent { task, bell } if usize::from(task) == of && !counts(bell) => self.rest(number),
                    _ => {
                        let rename = |named, bell| if usize::from(named) == of { anew(bell) } else { bell };
                        self.workers[number] = worker.rename(|task| task, rename);
                    }
                }
            }
        }
    }

    /// Of messages that are alike one counts: that the others are lost must do no harm.
    fn merge_messages(&mut self) {
        self.queue.sort_unstable();
        for place in 1..MESSAGES_MAX {
            if self.queue[place].is_some_and(|message| message.receipt.is_none())
                && self.queue[place] == self.queue[place - 1]
            {
                self.queue[place - 1] = None;
            }
        }
    }
}
