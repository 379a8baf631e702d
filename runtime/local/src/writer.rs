//! Who writes, and how calls share a commit.
//!
//! A verb is a closure in the queue of a process. One at a time leads: it takes the writer lock, begins,
//! runs every verb that is there or comes in meanwhile, commits, and only then answers. A small call that
//! finds nobody leading leads itself, where it is, which spares two switches between threads; whoever
//! finds a leader leaves its verb to it. The writer thread leads where the call is large, where another
//! process writes and must be waited for, and always where each commit waits for the disk.
//!
//! A verb refuses by its value; an error of SQLite (disk full, damaged file) fails the whole group,
//! whose transaction is rolled back: nothing of it was promised to anybody. A crash before the commit
//! leaves nothing of the group.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
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
    lock_watch::LockWatch,
    names::{Names, Naming},
    recent::Recent,
    transaction::{Ground, Told, Transaction},
    wall::Wall,
};

/// Verbs of one commit.
const GROUP_MAX: usize = 256;
/// A commit takes no further verbs when it has worked so long: the take that a slot waits for should not
/// wait for the settlements that came in after it.
const GROUP_TIME: Duration = Duration::from_micros(500);
/// The same where each commit waits for the disk, which takes longer.
const GROUP_TIME_TO_DISK: Duration = Duration::from_millis(5);
/// Items of a call that may lead where it is: with more, what the caller does next is done beside the commit.
const SMALL: usize = 4;
/// Commits that such a call leads: its own, and those of what comes in meanwhile.
const COMMITS_HERE_MAX: usize = 3;

/// What a leader needs.
pub(crate) struct Parts {
    pub(crate) connection: Connection,
    pub(crate) lock: WriterLock,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) names: Arc<Names>,
    pub(crate) ground: Arc<Ground>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) gauge: Arc<WalGauge>,
    /// Each commit waits for the disk.
    pub(crate) waits_for_disk: bool,
}

/// Runs verbs. The thread ends when this is dropped, after what was queued before.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    watch: Arc<LockWatch>,
    waits_for_disk: bool,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// Told when the thread has something to do.
    called: Condvar,
    lead: Mutex<Lead>,
}

#[derive(Default)]
struct Inbox {
    jobs: VecDeque<Box<dyn Job>>,
    /// Somebody has the duty, or the thread was called to it: what is queued will be done.
    led: bool,
    /// The thread is to lead.
    called: bool,
    /// No verb will come any more.
    closed: bool,
}

/// The duty to do what is queued; one at a time has it. What is left when it ends is left to the thread.
struct Duty<'s>(&'s Shared);

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        let mut inbox = self.0.inbox();
        if inbox.jobs.is_empty() {
            inbox.led = false;
        } else {
            inbox.called = true;
            self.0.called.notify_one();
        }
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a verb; returns the duty to do it where nobody has it.
    fn queue(&self, job: Box<dyn Job>) -> Option<Duty<'_>> {
        let mut inbox = self.inbox();
        inbox.jobs.push_back(job);
        (!std::mem::replace(&mut inbox.led, true)).then(|| Duty(self))
    }

    fn lead(&self) -> MutexGuard<'_, Lead> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leads some commits where we are, while no other process writes. For who has the duty.
    fn lead_here(&self) {
        let mut lead = self.lead();
        for _ in 0..COMMITS_HERE_MAX {
            if !matches!(lead.parts.lock.try_acquire(), Ok(true)) {
                return;
            }
            lead.commit_and_answer(self, true);
            lead.parts.lock.rest();
            if self.inbox().jobs.is_empty() {
                break;
            }
        }
    }
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(parts: Parts) -> std::io::Result<Self> {
        let waits_for_disk = parts.waits_for_disk;
        let watch = parts.lock.watch();
        let ringer = Ringer::new(Arc::clone(&parts.bells));
        let lead = Mutex::new(Lead { parts, ringer, recent: RefCell::default(), wall: Wall::default() });
        let shared = Arc::new(Shared { inbox: Mutex::default(), called: Condvar::new(), lead });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("rhubarb-writer".into()).spawn(move || run_thread(&of_thread))?;
        Ok(Self { shared, watch, waits_for_disk, thread: Some(thread) })
    }

    /// Runs a verb over so many items in a transaction; `what` says what it does, as an infinitive. While a stopped
    /// process holds the store, the answer is an error that names it.
    pub(crate) async fn call<T, F>(&self, what: &'static str, items: usize, verb: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Fallible<T> + Send + 'static,
    {
        let gone = || StoreError::unreachable(what, Text("the store's writer has ended: restart this process".into()));
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(gone());
        }
        let held = |why: &Option<String>| StoreError::unreachable(what, Text(why.clone().unwrap_or_default()));
        let mut stuck = self.watch.stuck();
        if stuck.borrow().is_some() {
            return Err(held(&stuck.borrow()));
        }
        let (reply, answer) = oneshot::channel();
        let duty = self.shared.queue(Box::new(Call { what, verb: Some(verb), value: None, reply }));
        if duty.is_some() && items <= SMALL && !self.waits_for_disk {
            self.shared.lead_here();
        }
        drop(duty);
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| gone())?,
            // Nobody waits for the verb from here on, so that it is not begun when the lock comes.
            Ok(why) = stuck.wait_for(Option::is_some) => Err(held(&why)),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.inbox().closed = true;
        self.shared.called.notify_one();
        // One that waits for a stopped process would keep this one from ending; what it was to do was refused.
        if let Some(thread) = self.thread.take().filter(|_| self.watch.why_stuck().is_none()) {
            let _ = thread.join();
        }
    }
}

fn run_thread(shared: &Shared) {
    loop {
        {
            let mut inbox = shared.inbox();
            while !inbox.called && !inbox.closed {
                inbox = shared.called.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            }
            if !inbox.called {
                return;
            }
            inbox.called = false;
        }
        let _duty = Duty(shared);
        let mut lead = shared.lead();
        while !shared.inbox().jobs.is_empty() {
            lead.commit_and_answer(shared, false);
        }
        lead.parts.lock.rest();
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
        let answer = match (fault, self.value) {
            (Some(fault), _) => Err(fault.told(self.what)),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(Fault::Lock("the verb was abandoned".into()).told(self.what)),
        };
        // Nobody waits any more: what was done stands, and its traces (leases, rows) speak for it.
        let _ = self.reply.send(answer);
    }
}

/// The right to write, in this process.
struct Lead {
    parts: Parts,
    ringer: Ringer,
    recent: RefCell<Recent>,
    wall: Wall,
}

impl Lead {
    /// One commit of what is queued, and its answers.
    fn commit_and_answer(&mut self, shared: &Shared, locked: bool) {
        let mut group = Vec::new();
        let outcome = self.commit(shared, &mut group, locked);
        if let Ok(told) = &outcome {
            self.ringer.tell(told);
        }
        for job in group {
            job.answer(outcome.as_ref().err());
        }
        self.parts.gauge.after_commit();
    }

    fn commit(&mut self, shared: &Shared, group: &mut Vec<Box<dyn Job>>, locked: bool) -> Fallible<Told> {
        let acquired = if locked { Ok(()) } else { self.parts.lock.acquire() };
        group.extend(shared.inbox().jobs.pop_front());
        acquired.map_err(|error| Fault::Lock(error.to_string()))?;
        let outcome = self.run_group(shared, group);
        if outcome.is_err() {
            self.recent.get_mut().clear();
        }
        if !self.parts.connection.is_autocommit() {
            // What cannot even be rolled back is rolled back by the next opening of the file.
            let _ = self.parts.connection.execute_batch("rollback");
        }
        self.parts.gauge.before_release(&self.parts.connection);
        self.parts.lock.release().map_err(|error| Fault::Lock(error.to_string()))?;
        outcome
    }

    fn run_group(&mut self, shared: &Shared, group: &mut Vec<Box<dyn Job>>) -> Fallible<Told> {
        let Parts { connection, clock, names, ground, .. } = &self.parts;
        if group.is_empty() {
            return Ok(Told::default());
        }
        let time = if self.parts.waits_for_disk { GROUP_TIME_TO_DISK } else { GROUP_TIME };
        let began = Instant::now();
        connection.prepare_cached("begin immediate")?.execute([])?;
        let reading = clock.read();
        let mut transaction =
            Transaction::new(connection, reading.now, &reading.boot, Naming::new(names), ground, &self.recent)?;
        let has_followed = !self.wall.may_have_stepped(reading.now) || transaction.follow_wall()?;
        let mut done = 0;
        loop {
            while let Some(job) = group.get_mut(done) {
                if !job.is_abandoned() {
                    job.run(&mut transaction)?;
                }
                done += 1;
            }
            if done >= GROUP_MAX || began.elapsed() >= time {
                break;
            }
            match shared.inbox().jobs.pop_front() {
                Some(job) => group.push(job),
                None => break,
            }
        }
        let (added, told) = transaction.end()?;
        connection.prepare_cached("commit")?.execute([])?;
        added.commit();
        if has_followed {
            self.wall.note(reading.now);
        }
        Ok(told)
    }
}
