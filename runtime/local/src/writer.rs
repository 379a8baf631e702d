//! The one thread of a process that writes, and the calls that share its commits.
//!
//! A verb is a closure sent to the thread. The thread takes the writer lock, begins, runs every verb
//! that is there or comes in meanwhile, commits, and only then answers. A verb refuses by its value;
//! an error of SQLite (disk full, damaged file) fails the whole group, whose transaction is rolled
//! back: nothing of it was promised to anybody. A crash before the commit leaves nothing of the group.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rhubarb_core::backend::{Result, StoreError};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{
    bell::{Bells, Ringer},
    checkpoint::WalGauge,
    clock::Clock,
    error::{Fallible, Fault, Told as Text},
    lock::WriterLock,
    names::{Names, Naming},
    transaction::{Ground, Told, Transaction},
};

/// Verbs of one commit.
const GROUP_MAX: usize = 256;
/// A commit takes no further verbs when it has worked so long.
const GROUP_TIME: Duration = Duration::from_millis(5);

/// What the thread needs.
pub(crate) struct Parts {
    pub(crate) connection: Connection,
    pub(crate) lock: WriterLock,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) names: Arc<Names>,
    pub(crate) ground: Arc<Ground>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) gauge: Arc<WalGauge>,
}

/// Sends verbs to the thread. The thread ends when this is dropped, after what was sent before.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(parts: Parts) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let ringer = Ringer::new(Arc::clone(&parts.bells));
        let thread = std::thread::Builder::new()
            .name("rhubarb-writer".into())
            .spawn(move || Work { parts, ringer, inbox }.run())?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs a verb in a transaction; `what` says what it does, as an infinitive.
    pub(crate) async fn call<T, F>(&self, what: &'static str, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Fallible<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Call { what, verb: Some(verb), value: None, reply };
        let gone = || StoreError::unreachable(what, Text("the store's writer has ended: restart this process".into()));
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Box::new(job)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // The last handle may be dropped by a verb's own answer, on the thread itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

trait Job: Send {
    /// True if nobody waits for the answer any more: then the verb is not begun.
    fn is_abandoned(&self) -> bool;
    fn run(&mut self, transaction: &mut Transaction<'_>) -> Fallible<()>;
    fn answer(self: Box<Self>, fault: Option<&Fault>);
}

struct Call<T, F> {
    what: &'static str,
    verb: Option<F>,
    value: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnOnce(&mut Transaction<'_>) -> Fallible<T> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, transaction: &mut Transaction<'_>) -> Fallible<()> {
        if let Some(verb) = self.verb.take() {
            self.value = Some(verb(transaction)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, fault: Option<&Fault>) {
        let rolled_back = || Fault::Damaged("a verb that was not run".into());
        let answer = match (fault, self.value) {
            (Some(fault), _) => Err(fault.told(self.what)),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(rolled_back().told(self.what)),
        };
        // Nobody waits any more: what was done stands, and its traces (leases, rows) speak for it.
        let _ = self.reply.send(answer);
    }
}

struct Work {
    parts: Parts,
    ringer: Ringer,
    inbox: mpsc::Receiver<Box<dyn Job>>,
}

impl Work {
    fn run(mut self) {
        loop {
            let next = match self.inbox.try_recv() {
                Ok(job) => Some(job),
                Err(_) => {
                    self.parts.lock.rest();
                    self.inbox.recv().ok()
                }
            };
            let Some(first) = next else { return };
            let mut group = vec![first];
            let outcome = self.commit(&mut group);
            if let Ok(told) = &outcome {
                self.ringer.tell(told);
            }
            for job in group {
                job.answer(outcome.as_ref().err());
            }
            self.parts.gauge.after_commit();
        }
    }

    fn commit(&mut self, group: &mut Vec<Box<dyn Job>>) -> Fallible<Told> {
        self.parts.lock.acquire().map_err(|error| Fault::Lock(error.to_string()))?;
        let outcome = self.run_group(group);
        if outcome.is_err() && !self.parts.connection.is_autocommit() {
            // What cannot even be rolled back is rolled back by the next opening of the file.
            let _ = self.parts.connection.execute_batch("rollback");
        }
        self.parts.gauge.before_release(&self.parts.connection);
        self.parts.lock.release().map_err(|error| Fault::Lock(error.to_string()))?;
        outcome
    }

    fn run_group(&self, group: &mut Vec<Box<dyn Job>>) -> Fallible<Told> {
        let Parts { connection, clock, names, ground, .. } = &self.parts;
        let began = Instant::now();
        connection.prepare_cached("begin immediate")?.execute([])?;
        let reading = clock.read();
        let mut transaction = Transaction::new(connection, reading.now, &reading.boot, Naming::new(names), ground)?;
        let mut done = 0;
        loop {
            while let Some(job) = group.get_mut(done) {
                if !job.is_abandoned() {
                    job.run(&mut transaction)?;
                }
                done += 1;
            }
            if done >= GROUP_MAX || began.elapsed() >= GROUP_TIME {
                break;
            }
            match self.inbox.try_recv() {
                Ok(job) => group.push(job),
                Err(_) => break,
            }
        }
        let (added, told) = transaction.end()?;
        connection.prepare_cached("commit")?.execute([])?;
        added.commit();
        Ok(told)
    }
}
