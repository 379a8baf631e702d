//! Waiting for work without asking for it all the time.
//!
//! An agent takes from its queues in turn without waiting, and when all are empty waits until one has something.
//! As short polls that would be a storm: every look at an idle queue is a request that AWS bills. So:
//!
//! * [`Polls::wait_ready`] keeps one long poll (20 s, one message) in flight on each queue it waits for. The poll
//!   is a task of its own, owned by the backend and never dropped in flight: what it brings would stay hidden for
//!   a whole visibility timeout. While somebody waits, or did a moment ago, a poll that ends empty begins again:
//!   three requests a minute for an idle queue, however many agents of this process wait for it.
//! * What a poll brings is held here, one delivery a queue at most, and everybody who waits is woken. The next
//!   [`Polls::take`] of that queue has it, with a look for more where there is room for more.
//! * A take of a queue whose poll is in flight asks nothing: the poll stands for it. A queue whose last answer
//!   brought something has a backlog and is asked at full speed, until an answer is empty.
//! * A delivery that nobody takes at once (the room went to another queue) is given back, visible at once, after
//!   a second, or a quarter of its lease if that is less: no message is held without a slot for long. The poll
//!   does not begin again before somebody waits again, so a busy agent does not receive the same message over
//!   and over.
//!
//! Nobody who waits knows the lease of what will come, so a poll hides its message for the lease of the last take
//! of that queue, 30 s before the first. A take with another lease extends the message to its own.
//!
//! An agent that is killed leaves at most one delivery a queue, and those of polls in flight, to come back when
//! their visibility ends.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rhubarb_core::{
    backend::{Broker as _, Delivery, Result, StoreError},
    ids::QueueName,
    limits::LEASE_DEFAULT,
};
use tokio::{sync::Notify, time::Instant};

use crate::broker::SqsBroker;

/// How long a delivery waits for a take, at most.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// … and which part of its visibility, if that is less.
const HOLD_PART: u32 = 4;
/// A poll begins again for so long after the last who waited gave up: an agent looks at its queues and comes back.
const LINGER: Duration = Duration::from_secs(2);
/// A long poll that has just ended empty answers for a look that comes within this.
const QUIET: Duration = Duration::from_secs(1);

/// The long polls of a process.
#[derive(Debug)]
pub(crate) struct Polls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    broker: SqsBroker,
    lines: Mutex<HashMap<QueueName, Arc<Line>>>,
    /// Something has come, or a poll has failed.
    news: Notify,
    closed: AtomicBool,
}

/// One queue's poll.
#[derive(Debug)]
struct Line {
    queue: QueueName,
    state: Mutex<LineState>,
}

#[derive(Debug)]
struct LineState {
    /// What a poll hides its message for.
    visibility: Duration,
    /// Who waits for this queue now.
    waiting: usize,
    /// The poll begins again until then, also where nobody waits.
    linger: Instant,
    /// A long poll is in flight.
    polling: bool,
    /// A long poll has just ended empty.
    quiet: Instant,
    /// The last answer brought something.
    backlog: bool,
    /// What the poll brought.
    held: Option<Held>,
    /// Why the last poll failed, until somebody is told.
    failure: Option<StoreError>,
}

#[derive(Debug)]
struct Held {
    delivery: Delivery,
    /// What it was hidden for.
    visibility: Duration,
}

/// What a queue's line says to somebody who would wait.
enum News {
    Ready,
    Failed(StoreError),
    None,
}

impl Line {
    fn new(queue: QueueName) -> Self {
        let now = Instant::now();
        let state = LineState {
            visibility: LEASE_DEFAULT,
            waiting: 0,
            linger: now,
            polling: false,
            quiet: now,
            backlog: false,
            held: None,
            failure: None,
        };
        Self { queue, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        // Each change is whole: what a panic elsewhere left behind can be used.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Polls {
    pub(crate) fn new(broker: SqsBroker) -> Self {
        let shared = Shared { broker, lines: Mutex::default(), news: Notify::new(), closed: AtomicBool::new(false) };
        Self { shared: Arc::new(shared) }
    }

    /// Takes up to `max` messages, hidden for `visibility`: what a poll has brought first. Waits up to `wait` for
    /// the first. A future that is dropped leaves what it had to come back by itself.
    pub(crate) async fn take(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        self.shared.broker.limits().check_receive(max, visibility, wait)?;
        let line = self.shared.line(queue);
        let deliveries = self.look(&line, max, visibility).await?;
        if !deliveries.is_empty() || wait.is_zero() {
            return Ok(deliveries);
        }
        self.wait_ready(std::slice::from_ref(queue), wait).await?;
        self.look(&line, max, visibility).await
    }

    /// Takes what is there.
    async fn look(&self, line: &Line, max: usize, visibility: Duration) -> Result<Vec<Delivery>> {
        let broker = &self.shared.broker;
        let (held, asks) = {
            let mut state = line.state();
            state.visibility = visibility;
            let stands_for_it = !state.backlog && (state.polling || Instant::now() < state.quiet);
            (state.held.take(), !stands_for_it)
        };
        let mut deliveries = Vec::new();
        if let Some(held) = held {
            if held.visibility != visibility {
                // Refused only where it has come back already; its next delivery finds the row claimed.
                broker.extend(&line.queue, &[(held.delivery.receipt.clone(), visibility)]).await;
            }
            deliveries.push(held.delivery);
        }
        let room = max - deliveries.len();
        if room == 0 || (deliveries.is_empty() && !asks) {
            return Ok(deliveries);
        }
        match broker.receive(&line.queue, room, visibility, Duration::ZERO).await {
            Ok(more) => {
                line.state().backlog = !more.is_empty();
                deliveries.extend(more);
            }
            Err(error) if deliveries.is_empty() => return Err(error),
            Err(error) => {
                let queue = &line.queue;
                tracing::warn!(queue.name = %queue, error = %error, "cannot receive more from queue {queue}: {error}");
            }
        }
        Ok(deliveries)
    }

    /// Returns when one of the queues has something, or after `wait`.
    pub(crate) async fn wait_ready(&self, queues: &[QueueName], wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        let mut waiter = Waiter::new(queues.iter().map(|queue| self.shared.line(queue)).collect());
        loop {
            let mut news = pin!(self.shared.news.notified());
            // Before the look: what comes between the look and the wait must be heard.
            news.as_mut().enable();
            for line in &waiter.lines {
                match self.shared.ask(line) {
                    News::Ready => return Ok(()),
                    News::Failed(error) => return Err(error),
                    News::None => {}
                }
            }
            if tokio::time::timeout_at(deadline, news).await.is_err() {
                waiter.comes_back = true;
                return Ok(());
            }
        }
    }

    /// Begins no poll any more, and gives back what is held. Polls in flight are waited for up to `within`; what
    /// one brings later, while this process lives, is given back too.
    pub(crate) async fn close(&self, within: Duration) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let lines = self.shared.all();
        for line in &lines {
            self.shared.give_back(line, |_| true).await;
        }
        let ended = async {
            loop {
                let mut news = pin!(self.shared.news.notified());
                news.as_mut().enable();
                if !lines.iter().any(|line| line.state().polling) {
                    return;
                }
                news.await;
            }
        };
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::debug!("long polls are still in flight: what they bring comes back by itself");
        }
    }
}

impl Drop for Polls {
    fn drop(&mut self) {
        // Polls in flight end by themselves and give back what they bring.
        self.shared.closed.store(true, Ordering::SeqCst);
    }
}

/// Counts somebody who waits on some lines, as long as it lives.
struct Waiter {
    lines: Vec<Arc<Line>>,
    /// It gave up waiting only to wait again.
    comes_back: bool,
}

impl Waiter {
    fn new(lines: Vec<Arc<Line>>) -> Self {
        for line in &lines {
            line.state().waiting += 1;
        }
        Self { lines, comes_back: false }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        for line in &self.lines {
            let mut state = line.state();
            state.waiting -= 1;
            if self.comes_back {
                state.linger = Instant::now() + LINGER;
            }
        }
    }
}

impl Shared {
    fn line(&self, queue: &QueueName) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(queue.clone()).or_insert_with(|| Arc::new(Line::new(queue.clone()))))
    }

    fn all(&self) -> Vec<Arc<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// What a line has to say; begins its poll where none is in flight.
    fn ask(self: &Arc<Self>, line: &Arc<Line>) -> News {
        let mut state = line.state();
        if state.held.is_some() {
            return News::Ready;
        }
        if let Some(failure) = state.failure.take() {
            return News::Failed(failure);
        }
        if !state.polling && !self.is_closed() {
            state.polling = true;
            tokio::spawn(Arc::clone(self).poll(Arc::clone(line)));
        }
        News::None
    }

    /// Polls until something comes, it fails, or nobody waits any more.
    async fn poll(self: Arc<Self>, line: Arc<Line>) {
        loop {
            let visibility = line.state().visibility;
            let wait = self.broker.limits().wait_max;
            let answer = self.broker.receive(&line.queue, 1, visibility, wait).await;
            let Some(brought) = self.answered(&line, answer, visibility) else { continue };
            self.news.notify_waiters();
            if brought {
                let hold = if self.is_closed() { Duration::ZERO } else { HOLD_MAX.min(visibility / HOLD_PART) };
                let receipt = line.state().held.as_ref().map(|held| held.delivery.receipt.clone());
                tokio::time::sleep(hold).await;
                self.give_back(&line, |held| Some(&held.delivery.receipt) == receipt.as_ref()).await;
            }
            return;
        }
    }

    /// Notes what a poll came to. `None` if it begins again; otherwise whether it brought something.
    fn answered(&self, line: &Line, answer: Result<Vec<Delivery>>, visibility: Duration) -> Option<bool> {
        let mut state = line.state();
        match answer.map(|mut brought| brought.pop()) {
            Ok(Some(delivery)) => {
                state.held = Some(Held { delivery, visibility });
                state.backlog = true;
            }
            Ok(None) => {
                let now = Instant::now();
                state.backlog = false;
                state.quiet = now + QUIET;
                if !self.is_closed() && (state.waiting > 0 || now < state.linger) {
                    return None;
                }
            }
            Err(error) => state.failure = Some(error),
        }
        state.polling = false;
        Some(state.held.is_some())
    }

    /// Makes what is held visible again, if it is still there and the one that is meant.
    async fn give_back(&self, line: &Line, is_meant: impl FnOnce(&Held) -> bool) {
        let held = {
            let mut state = line.state();
            if state.held.as_ref().is_some_and(is_meant) { state.held.take() } else { None }
        };
        if let Some(held) = held {
            // Refused only where it has come back already.
            self.broker.release(&line.queue, &[(held.delivery.receipt, Duration::ZERO)]).await;
        }
    }
}
