//! The way of log lines to standard error, by a thread of its own: nobody who logs waits for whoever reads.
//!
//! A pipe that nobody reads is full after 64 KiB, and then a write to it never returns. So a record is put into a
//! buffer, and one thread writes. Where the reader is slower than what is logged, the oldest records go: those that
//! came last tell why a process ended. What goes is counted, and told when the reader has caught up. A record is
//! written whole or dropped whole.
//!
//! The buffer is bounded in bytes, since lines of functions are long; that, and that the newest stay, is why it is
//! none of a crate's. A process that is killed loses what is in it; one that ends waits for it within a bound.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::metrics;

/// What waits to be written at most.
const BYTES_MAX: usize = 1024 * 1024;
/// Nobody needs to read more often that records were dropped.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A pipe that somebody has made non-blocking is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Takes records and never blocks. Clones lead to the same place; the thread ends with the last one.
#[derive(Clone, Debug)]
pub struct Sink(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread writes one that is not among those any more.
    is_writing: bool,
    /// A flush was given up, and nothing has been written since.
    is_stuck: bool,
    dropped: u64,
    told: u64,
    told_at: Option<Instant>,
    is_closed: bool,
}

impl Sink {
    /// Starts the thread that writes.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start(to: impl io::Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || write(&writing, to))?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Takes a record. The oldest that wait are dropped where there is no room for it.
    pub fn put(&self, record: &[u8]) {
        let mut state = self.0.0.state();
        state.bytes += record.len();
        state.waiting.push_back(record.to_vec());
        let mut dropped = 0;
        while state.bytes > BYTES_MAX {
            state.bytes -= state.waiting.pop_front().map_or(state.bytes, |oldest| oldest.len());
            dropped += 1;
        }
        state.dropped += dropped;
        drop(state);
        self.0.0.changed.notify_all();
        count(dropped);
    }

    /// Waits until everything is written, no longer than `within`. Returns whether everything is.
    pub fn flush(&self, within: Duration) -> bool {
        // What is told is put here too: the lock must be free by then.
        let dropped = self.0.0.state().untold(Duration::ZERO);
        dropped.into_iter().for_each(tell);
        let waited = self.0.0.changed.wait_timeout_while(self.0.0.state(), within, |state| !state.is_idle());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_stuck = !state.is_idle();
        !state.is_stuck
    }

    /// True where a flush was in vain and nothing has been written since.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.0.0.state().is_stuck
    }

    /// How many records were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.0.state().dropped
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if something did, what waits is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record to write next; none when there will be none.
    fn next(&self) -> Option<Vec<u8>> {
        let empty = |state: &mut State| state.waiting.is_empty() && !state.is_closed;
        let mut state = self.changed.wait_while(self.state(), empty).unwrap_or_else(PoisonError::into_inner);
        let record = state.waiting.pop_front()?;
        state.bytes -= record.len();
        state.is_writing = true;
        Some(record)
    }

    /// One was written, or could not be. Returns how many records were dropped, where it is time to tell.
    fn done(&self, is_written: bool) -> Option<u64> {
        let mut state = self.state();
        (state.is_writing, state.is_stuck) = (false, false);
        state.dropped += u64::from(!is_written);
        let dropped = if is_written && state.waiting.is_empty() { state.untold(TELL_EVERY) } else { None };
        drop(state);
        self.changed.notify_all();
        count(u64::from(!is_written));
        dropped
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_writing
    }

    /// How many were dropped since that was told last, unless that was a moment ago.
    fn untold(&mut self, every: Duration) -> Option<u64> {
        if self.dropped == self.told || self.told_at.is_some_and(|at| at.elapsed() < every) {
            return None;
        }
        let dropped = self.dropped - self.told;
        (self.told, self.told_at) = (self.dropped, Some(Instant::now()));
        Some(dropped)
    }
}

fn write(shared: &Shared, mut to: impl io::Write) {
    while let Some(record) = shared.next() {
        let written = write_all(&mut to, &record).and_then(|()| to.flush());
        if let Some(dropped) = shared.done(written.is_ok()) {
            tell(dropped);
        }
    }
}

/// Writes a record to its end, also into a pipe that is full for the moment and says so.
fn write_all(to: &mut impl io::Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(TRY_AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn count(dropped: u64) {
    if let Some(metrics) = metrics::get().filter(|_| dropped > 0) {
        metrics.log_dropped(dropped);
    }
}

fn tell(dropped: u64) {
    tracing::warn!(
        log.dropped = dropped,
        "{dropped} log records were dropped: standard error was not read as fast as they came",
    );
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, iter, sync::mpsc};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_put_is_written_in_order_and_a_flush_waits_for_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = Sink::start(writer).unwrap();
        ["one\n", "two\n"].iter().for_each(|record| sink.put(record.as_bytes()));
        assert!(sink.flush(PATIENCE));
        drop(sink);
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "one\ntwo\n");
    }

    struct Put(Sink);

    impl io::Write for Put {
        fn write(&mut self, record: &[u8]) -> io::Result<usize> {
            self.0.put(record);
            Ok(record.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes nothing before the other end of its gate is gone.
    struct Gated(mpsc::Receiver<()>, io::PipeWriter);

    impl io::Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn where_nobody_reads_the_oldest_records_go_and_the_rest_is_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (gate, closed) = mpsc::channel();
        let sink = Sink::start(Gated(closed, writer)).unwrap();
        let record = |n: u64| format!("{n:>999}\n");
        let puts = 5 * BYTES_MAX as u64 / 1000;
        (0..puts).for_each(|n| sink.put(record(n).as_bytes()));
        // What is told of them takes the same way.
        let own = sink.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || Put(own.clone()));
        let log = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(log, || assert!(!sink.flush(Duration::from_millis(1)) && sink.is_stuck()));
        let dropped = sink.dropped();
        assert!(dropped > 0);
        drop((gate, sink));
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        let (told, numbers): (Vec<&str>, Vec<&str>) = written.lines().partition(|line| line.contains("were dropped"));
        let numbers: Vec<u64> = numbers.iter().map(|line| line.trim().parse().unwrap()).collect();
        assert_eq!((told.len(), numbers.len() as u64), (1, puts - dropped));
        assert!(numbers.is_sorted() && numbers.last() == Some(&(puts - 1)), "the newest are there");
    }

    #[test]
    fn a_reader_that_goes_away_costs_its_records_alone() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let sink = Sink::start(writer).unwrap();
        iter::repeat_n("record\n", 3).for_each(|record| sink.put(record.as_bytes()));
        assert!(sink.flush(PATIENCE));
        assert_eq!(sink.dropped(), 3);
    }
}
