//! The writer lock between processes: a queue of sleepers instead of SQLite's polling.
//!
//! SQLite lets a second writer fail or poll with back-off; here it sleeps in the kernel and is woken.
//! The kernel's lock alone is unfair: who unlocks and locks again at once wins over who must first wake
//! up. So who has to wait holds a second lock, the turn, meanwhile; and a writer that has gone on for
//! [`STINT`] passes through the turn, where it meets whoever waits. A process that dies loses its locks
//! with its files; one that is stopped keeps them, and is named by the [`LockWatch`] of whoever waits.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::lock_watch::LockWatch;

/// How long a writer goes on before it looks whether another waits.
const STINT: Duration = Duration::from_millis(2);

/// The two lock files of a store.
#[derive(Debug)]
pub(crate) struct WriterLock {
    write: File,
    turn: File,
    stint_began: Option<Instant>,
    watch: Arc<LockWatch>,
}

impl WriterLock {
    /// Opens the lock files in a folder; who waits for so long is told of in the log.
    pub(crate) fn open(folder: &Path, patience: Duration) -> io::Result<Self> {
        let open = |name: &str| File::options().create(true).truncate(false).write(true).open(folder.join(name));
        let (write, turn) = (open("write.lock")?, open("turn.lock")?);
        let watch = Arc::new(LockWatch::new([write.try_clone()?, turn.try_clone()?], patience));
        Ok(Self { write, turn, stint_began: None, watch })
    }

    /// Who looks after those that wait.
    pub(crate) fn watch(&self) -> Arc<LockWatch> {
        Arc::clone(&self.watch)
    }

    /// Takes the lock if no other process has it and this one has not gone on for too long.
    pub(crate) fn try_acquire(&mut self) -> io::Result<bool> {
        let began = *self.stint_began.get_or_insert_with(Instant::now);
        Ok(began.elapsed() < STINT && try_lock(&self.write)?)
    }

    /// Waits until this process alone may write.
    pub(crate) fn acquire(&mut self) -> io::Result<()> {
        if self.try_acquire()? {
            return Ok(());
        }
        self.watch.begin();
        let locked = self.wait_in_turn();
        self.watch.end();
        self.stint_began = Some(Instant::now());
        locked
    }

    fn wait_in_turn(&self) -> io::Result<()> {
        lock(&self.turn)?;
        let locked = lock(&self.write);
        unlock(&self.turn)?;
        locked
    }

    /// Lets others write.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        unlock(&self.write)
    }

    /// Notes that nothing is left to write: the next stint begins with the next write.
    pub(crate) fn rest(&mut self) {
        self.stint_began = None;
    }
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn lock(file: &File) -> io::Result<()> {
    loop {
        match flock(file.as_fd(), FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}

fn unlock(file: &File) -> io::Result<()> {
    flock(file.as_fd(), FlockOperation::Unlock).map_err(io::Error::from)
}
