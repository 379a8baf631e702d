//! A task to be enqueued, with what the call says about it: the same words for producers and for
//! functions.
//!
//! A mistake (a queue name that is none, arguments that are no JSON) is kept and answered when the task
//! is enqueued, so that a call stays one expression.

use std::time::Duration;

use rhubarb_core::{
    backend::Window,
    enqueue,
    ids::{QueueName, TaskId, TaskName},
    time::Timestamp,
};
use serde_json::value::RawValue;

use crate::Task;

/// A task to be enqueued, with its options.
///
/// Any [`Task`] becomes one by `into()`; options are added by methods.
#[must_use = "a new task does nothing until it is enqueued"]
#[derive(Clone, Debug)]
pub struct NewTask(Result<enqueue::NewTask, String>);

impl NewTask {
    /// A task of a known type.
    pub fn new<T: Task>(task: &T) -> Self {
        Self(typed(task))
    }

    /// A task whose type this program does not know.
    pub const fn named(task: TaskName, args: Box<RawValue>) -> Self {
        Self(Ok(enqueue::NewTask::new(task, args)))
    }

    /// Says that another task made this one; `root` is the first of that task's family.
    pub fn parent(self, parent: TaskId, root: TaskId) -> Self {
        self.change(|task| task.parent = Some((parent, root)))
    }

    /// The id it has been given, if any.
    #[must_use]
    pub fn task_id(&self) -> Option<TaskId> {
        self.0.as_ref().ok().and_then(|task| task.id)
    }

    /// Bytes of its arguments.
    pub(crate) fn size(&self) -> usize {
        self.0.as_ref().map_or(0, |task| task.args.get().len())
    }

    /// What core calls it, or the mistake in it.
    pub(crate) fn into_inner(self) -> Result<enqueue::NewTask, String> {
        self.0
    }

    pub(crate) fn change(mut self, change: impl FnOnce(&mut enqueue::NewTask)) -> Self {
        if let Ok(task) = &mut self.0 {
            change(task);
        }
        self
    }

    fn with_queue(mut self, queue: &str) -> Self {
        match (QueueName::new(queue), &mut self.0) {
            (Ok(queue), Ok(task)) => task.queue = Some(queue),
            (Err(error), Ok(_)) => self.0 = Err(error.to_string()),
            (_, Err(_)) => {}
        }
        self
    }
}

impl<T: Task> From<T> for NewTask {
    fn from(task: T) -> Self {
        Self::new(&task)
    }
}

fn typed<T: Task>(task: &T) -> Result<enqueue::NewTask, String> {
    let name = TaskName::new(T::NAME).map_err(|error| error.to_string())?;
    let args = serde_json::value::to_raw_value(task)
        .map_err(|error| format!("the arguments of task `{name}` cannot be written as JSON: {error}"))?;
    let mut new = enqueue::NewTask::new(name, args);
    if !T::QUEUE.is_empty() {
        new.type_queue = Some(QueueName::new(T::QUEUE).map_err(|error| error.to_string())?);
    }
    Ok(new)
}

/// A task on its way: options are added by methods, and `.await` enqueues it. Nothing happens before.
#[must_use = "a task is enqueued when this is awaited"]
#[derive(Clone, Debug)]
pub struct Enqueue<To> {
    pub(crate) task: NewTask,
    pub(crate) to: To,
}

impl<To> Enqueue<To> {
    fn with_queue(self, queue: &str) -> Self {
        Self { task: self.task.with_queue(queue), to: self.to }
    }

    pub(crate) fn change(self, change: impl FnOnce(&mut enqueue::NewTask)) -> Self {
        Self { task: self.task.change(change), to: self.to }
    }
}

/// The options that a call may name, for a task and for one on its way.
macro_rules! options {
    ($type:ty, $($generic:ident)?) => {
        impl$(<$generic>)? $type {
            /// Its queue, whatever the configuration and its type say.
            pub fn queue(self, queue: impl AsRef<str>) -> Self {
                self.with_queue(queue.as_ref())
            }

            /// Its id. Enqueuing the same id again changes nothing.
            pub fn id(self, id: TaskId) -> Self {
                self.change(|task| task.id = Some(id))
            }

            /// Starts this much later.
            pub fn delay(self, delay: Duration) -> Self {
                self.change(|task| task.delay = Some(delay))
            }

            /// Does not start before this time.
            pub fn not_before(self, at: impl Into<Timestamp>) -> Self {
                self.change(|task| task.not_before = Some(at.into()))
            }

            /// Is given up if no attempt has begun before this time.
            pub fn expires(self, at: impl Into<Timestamp>) -> Self {
                self.change(|task| task.expires = Some(at.into()))
            }

            /// The longest an attempt may take: at most what its queue allows.
            pub fn timeout(self, timeout: Duration) -> Self {
                self.change(|task| task.timeout = Some(timeout))
            }

            /// Attempts in all: at most what its queue allows.
            pub fn max_attempts(self, attempts: u32) -> Self {
                self.change(|task| task.max_attempts = Some(attempts))
            }

            /// GPUs: at most what its queue gives. Its function sees no more of them; 0 runs it on the CPU.
            pub fn gpus(self, count: u32) -> Self {
                self.change(|task| task.gpus = Some(count))
            }

            /// A second task with this name and key is the first one.
            pub fn idempotency_key(self, key: impl Into<String>) -> Self {
                self.change(|task| task.idempotency_key = Some(key.into()))
            }

            /// For how long a second task with the same idempotency key is the first one; 24 hours
            /// otherwise.
            pub fn window(self, window: Window) -> Self {
                self.change(|task| task.window = window)
            }

            /// Tasks with the same key run in order (FIFO queues).
            pub fn ordering_key(self, key: impl Into<String>) -> Self {
                self.change(|task| task.ordering_key = Some(key.into()))
            }

            /// Tasks with the same key share a fair part of the queue.
            pub fn fairness_key(self, key: impl Into<String>) -> Self {
                self.change(|task| task.fairness_key = Some(key.into()))
            }

            /// Tasks with the same key share a limit.
            pub fn concurrency_key(self, key: impl Into<String>) -> Self {
                self.change(|task| task.concurrency_key = Some(key.into()))
            }
        }
    };
}

options!(NewTask,);
options!(Enqueue<To>, To);
