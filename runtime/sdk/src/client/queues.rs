//! Queues as people look at them: the configuration, what the broker holds, what the rows say, and who
//! serves them. Each figure is of its own moment.

use std::collections::{BTreeMap, BTreeSet};

use rhubarb_core::{
    backend::{Counts, Purged, WorkerRecord},
    config::QueueClass,
    gpu::GpuWait,
    ids::{QueueName, WorkerId},
    row::State,
    time::Timestamp,
};
use serde::{Serialize, Serializer};

use super::{Client, ClientError};

/// A queue as people look at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// Its name.
    pub queue: QueueName,
    /// Who feeds its functions; none where the configuration does not know the queue (any more).
    #[serde(serialize_with = "class_word", skip_serializing_if = "Option::is_none")]
    pub class: Option<QueueClass>,
    /// No agent receives from it.
    pub paused: bool,
    /// Tasks that an agent could take now.
    pub waiting: u64,
    /// Tasks that are to start or to be tried again later.
    pub delayed: u64,
    /// Tasks that are being attempted.
    pub running: u64,
    /// Tasks that failed and are still kept: redrive brings them back.
    pub dead: u64,
    /// Messages as the broker counts them, about.
    pub messages: Counts,
    /// Tasks by state, those that are still kept.
    pub tasks: BTreeMap<&'static str, u64>,
    /// When the oldest waiting task was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_waiting: Option<Timestamp>,
    /// Its URL, for producers that know SQS and not Rhubarb; none in the embedded backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Why its tasks wait for GPUs, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_wait: Option<GpuWait>,
    /// Live workers that serve it. None: its tasks wait, save those of class `lambda` on AWS.
    pub served_by: Vec<WorkerId>,
}

impl Client {
    /// Every queue: those of the configuration, and those that tasks or workers name.
    ///
    /// # Errors
    ///
    /// The backend is not reachable.
    pub async fn queues(&self) -> Result<Vec<QueueStatus>, ClientError> {
        let backend = self.backend();
        let rows = backend.tasks().queues().await?;
        let counts = backend.tasks().count().await?;
        let workers = backend.workers().list().await?;
        let live: Vec<&WorkerRecord> = workers.iter().filter(|heard| heard.alive).map(|heard| &heard.worker).collect();
        let of_tasks = counts.iter().map(|count| &count.queue);
        let of_workers = live.iter().flat_map(|worker| &worker.queues);
        let names: BTreeSet<&QueueName> = self.config().queues.keys().chain(of_tasks).chain(of_workers).collect();
        let mut queues = Vec::with_capacity(names.len());
        for queue in names {
            let config = self.config().queue(queue);
            let (messages, url) = match config {
                Some(_) => (backend.broker().counts(queue).await?, backend.broker().locate(queue).await?),
                None => (Counts::default(), None),
            };
            let mut status = QueueStatus::new(queue.clone(), config.map(|config| config.class), messages);
            status.url = url;
            status.paused = rows.iter().any(|row| row.queue == *queue && row.paused);
            for count in counts.iter().filter(|count| count.queue == *queue) {
                status.add(count.state, count.count, count.oldest);
            }
            let serving = live.iter().filter(|worker| worker.queues.contains(queue));
            status.served_by = serving.map(|worker| worker.id.clone()).collect();
            status.gpu_wait = GpuWait::of(queue, live.iter().copied());
            queues.push(status);
        }
        Ok(queues)
    }

    /// Stops all agents from receiving from a queue. What runs goes on.
    ///
    /// # Errors
    ///
    /// There is no such queue, or the backend is not reachable.
    pub async fn pause(&self, queue: &QueueName) -> Result<(), ClientError> {
        self.known(queue)?;
        Ok(self.backend().tasks().pause(queue, true).await?)
    }

    /// Lets agents receive from a queue again.
    ///
    /// # Errors
    ///
    /// As [`Self::pause`].
    pub async fn resume(&self, queue: &QueueName) -> Result<(), ClientError> {
        self.known(queue)?;
        Ok(self.backend().tasks().pause(queue, false).await?)
    }

    /// Cancels every waiting task of these queues. Running ones are untouched. Returns what each purge
    /// took.
    ///
    /// # Errors
    ///
    /// There is no such queue (then none is purged), or the backend is not reachable.
    pub async fn purge(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, Purged)>, ClientError> {
        let queues: BTreeSet<&QueueName> = queues.iter().collect();
        queues.iter().try_for_each(|queue| self.known(queue))?;
        let mut purged = Vec::with_capacity(queues.len());
        for queue in queues {
            purged.push((queue.clone(), self.backend().purge(queue).await?));
        }
        Ok(purged)
    }

    fn known(&self, queue: &QueueName) -> Result<(), ClientError> {
        if self.config().queue(queue).is_some() {
            return Ok(());
        }
        let known: Vec<&str> = self.config().queues.keys().map(QueueName::as_str).collect();
        Err(ClientError::Invalid(format!("there is no queue `{queue}`; the queues are {}", known.join(", "))))
    }
}

impl QueueStatus {
    const fn new(queue: QueueName, class: Option<QueueClass>, messages: Counts) -> Self {
        Self {
            queue,
            class,
            paused: false,
            waiting: 0,
            delayed: 0,
            running: 0,
            dead: 0,
            messages,
            tasks: BTreeMap::new(),
            oldest_waiting: None,
            url: None,
            gpu_wait: None,
            served_by: Vec::new(),
        }
    }

    fn add(&mut self, state: State, count: u64, oldest: Option<Timestamp>) {
        self.tasks.insert(state.as_str(), count);
        match state {
            State::Queued | State::Waiting => {
                self.waiting += count;
                self.oldest_waiting = self.oldest_waiting.into_iter().chain(oldest).min();
            }
            State::Scheduled | State::Retrying => self.delayed += count,
            State::Running => self.running += count,
            State::Failed => self.dead += count,
            State::Succeeded | State::Cancelled | State::Expired => {}
        }
    }
}

fn class_word<S: Serializer>(class: &Option<QueueClass>, serializer: S) -> Result<S::Ok, S::Error> {
    class.map(QueueClass::as_str).serialize(serializer)
}
