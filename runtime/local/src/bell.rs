//! Wakes who waits: for something to take, or for a task to be settled.
//!
//! In this process a bell is a [`Notify`]. Between processes it is a named pipe in `bells/`: who waits
//! makes one and reads it; who has committed writes one byte to each, without waiting. The byte says
//! which queues, about. A bell can be lost (a full pipe, a crash), so who waits also looks again
//! every [`LOOK_AGAIN`]; a pipe that nobody reads any more is removed by who finds it so.
//!
//! The order makes sure that none is missed: who waits makes the pipe, then looks, then waits; who
//! commits looks for pipes only after the commit.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};
use tokio::{
    net::unix::pipe,
    sync::{Notify, futures::OwnedNotified},
    task::AbortHandle,
};

use crate::{names::NameNo, transaction::Told};

/// A lost bell costs no more than this.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A folder's time of change is too coarse to tell two changes within this apart.
const RACY: Duration = Duration::from_millis(50);
/// The byte that means every queue.
const ANY: u8 = 0;

/// What a bell tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A queue has something new.
    Sent,
    /// A task was settled.
    Settled,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Sent => "sent-",
            Self::Settled => "settled-",
        }
    }
}

/// The bells of one opened store.
#[derive(Debug)]
pub(crate) struct Bells {
    folder: PathBuf,
    queues: Mutex<HashMap<NameNo, Arc<Notify>>>,
    settled: Arc<Notify>,
    sent_ear: Mutex<Option<Ear>>,
    settled_ear: Mutex<Option<Ear>>,
    attention: Arc<Attention>,
    complained: AtomicBool,
}

/// Counts who waits: while nobody does, foreign bells are left unread.
#[derive(Debug, Default)]
struct Attention {
    waiting: AtomicUsize,
    came: Notify,
}

/// While it lives, foreign bells are read.
pub(crate) struct Listening(Arc<Attention>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One named pipe and the task that reads it.
#[derive(Debug)]
struct Ear {
    name: OsString,
    path: PathBuf,
    reader: AbortHandle,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.reader.abort();
        let _ = fs::remove_file(&self.path);
    }
}

impl Bells {
    /// The bells of a folder; nothing is made in it before somebody waits.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            queues: Mutex::default(),
            settled: Arc::default(),
            sent_ear: Mutex::default(),
            settled_ear: Mutex::default(),
            attention: Arc::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// Completes at the next bell of a queue, from its making on.
    pub(crate) fn next_sent(&self, queue: NameNo) -> OwnedNotified {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(queue).or_default()).notified_owned()
    }

    /// Completes at the next settled task, from its making on.
    pub(crate) fn next_settled(&self) -> OwnedNotified {
        Arc::clone(&self.settled).notified_owned()
    }

    /// Makes sure that other processes' bells are heard. To be called before the look at the store.
    pub(crate) fn listen(self: &Arc<Self>, kind: Kind) -> Listening {
        let slot = match kind {
            Kind::Sent => &self.sent_ear,
            Kind::Settled => &self.settled_ear,
        };
        let mut ear = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if ear.as_ref().is_none_or(|ear| ear.reader.is_finished()) {
            match self.open_ear(kind) {
                Ok(opened) => *ear = Some(opened),
                Err(error) => self.complain(&error),
            }
        }
        self.attention.waiting.fetch_add(1, Ordering::SeqCst);
        self.attention.came.notify_waiters();
        Listening(Arc::clone(&self.attention))
    }

    /// Says once that bells do not work: it would be the same each time.
    fn complain(&self, error: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            let folder = self.folder.display();
            tracing::warn!(error = %error, "no bells in {folder}: other processes' tasks are seen every {LOOK_AGAIN:?} only");
        }
    }

    fn open_ear(self: &Arc<Self>, kind: Kind) -> io::Result<Ear> {
        let name = OsString::from(format!("{}{}", kind.prefix(), uuid::Uuid::now_v7().simple()));
        let path = self.folder.join(&name);
        // Under its name only once it is read: a pipe without a reader is one whose maker has gone.
        let unread = self.folder.join(format!("new-{}", name.display()));
        rustix::fs::mknodat(CWD, &unread, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        // Read and write: the pipe does not end when the last writer leaves.
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&unread);
        match pipe.and_then(|pipe| fs::rename(&unread, &path).map(|()| pipe)) {
            Ok(pipe) => {
                let reader = tokio::spawn(read_bells(Arc::downgrade(self), kind, pipe)).abort_handle();
                Ok(Ear { name, path, reader })
            }
            Err(error) => {
                let _ = fs::remove_file(&unread);
                Err(error)
            }
        }
    }

    /// Wakes this process's waiters of some queues, and of settled tasks.
    fn tell_here(&self, told: &Told) {
        if !told.queues.is_empty() {
            let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            for notify in told.queues.iter().filter_map(|queue| queues.get(queue)) {
                notify.notify_waiters();
            }
        }
        if told.settled {
            self.settled.notify_waiters();
        }
    }

    fn heard(&self, kind: Kind, bytes: &[u8], all: bool) {
        if kind == Kind::Settled {
            self.settled.notify_waiters();
            return;
        }
        let any = all || bytes.contains(&ANY);
        let rung: HashSet<u8> = bytes.iter().copied().collect();
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, notify) in queues.iter().filter(|(queue, _)| any || rung.contains(&byte_of(**queue))) {
            notify.notify_waiters();
        }
    }

    fn is_own(&self, name: &OsString) -> bool {
        [&self.sent_ear, &self.settled_ear].into_iter().any(|slot| {
            slot.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|ear| ear.name == *name)
        })
    }
}

/// Queues share the 255 bytes; a bell for another one costs a look.
fn byte_of(queue: NameNo) -> u8 {
    u8::try_from(queue.rem_euclid(255) + 1).unwrap_or(ANY)
}

async fn read_bells(bells: std::sync::Weak<Bells>, kind: Kind, pipe: pipe::Receiver) {
    let mut buffer = [0_u8; 4096];
    loop {
        let Some(attention) = bells.upgrade().map(|bells| Arc::clone(&bells.attention)) else { return };
        let came = attention.came.notified();
        if attention.waiting.load(Ordering::SeqCst) == 0 {
            came.await;
        }
        if pipe.readable().await.is_err() {
            return;
        }
        match pipe.try_read(&mut buffer) {
            Ok(count) => {
                let Some(bells) = bells.upgrade() else { return };
                bells.heard(kind, &buffer[..count], count == buffer.len());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Rings other processes' bells; part of the writer thread.
#[derive(Debug)]
pub(crate) struct Ringer {
    bells: Arc<Bells>,
    listed: Option<SystemTime>,
    pipes: HashMap<OsString, File>,
}

impl Ringer {
    /// Knows no pipes yet.
    pub(crate) fn new(bells: Arc<Bells>) -> Self {
        Self { bells, listed: None, pipes: HashMap::new() }
    }

    /// Tells everybody what a commit has brought.
    pub(crate) fn tell(&mut self, told: &Told) {
        if told.queues.is_empty() && !told.settled {
            return;
        }
        self.tell_elsewhere(told);
        self.bells.tell_here(told);
    }

    fn tell_elsewhere(&mut self, told: &Told) {
        if let Err(error) = self.refresh() {
            self.bells.complain(&error);
        }
        let queues: Vec<u8> = told.queues.iter().map(|queue| byte_of(*queue)).collect();
        let mut gone = Vec::new();
        for (name, pipe) in &mut self.pipes {
            let bytes: &[u8] = match kind_of(name) {
                Some(Kind::Sent) => &queues,
                Some(Kind::Settled) if told.settled => &[ANY],
                _ => &[],
            };
            if !bytes.is_empty() && pipe.write(bytes).is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.pipes.remove(&name);
            let _ = fs::remove_file(self.bells.folder.join(name));
        }
    }

    /// Lists the folder again if it has changed.
    fn refresh(&mut self) -> io::Result<()> {
        let changed = fs::metadata(&self.bells.folder)?.modified()?;
        if self.listed == Some(changed) {
            return Ok(());
        }
        let mut names = HashSet::new();
        for entry in fs::read_dir(&self.bells.folder)? {
            let name = entry?.file_name();
            if kind_of(&name).is_some() && !self.bells.is_own(&name) {
                names.insert(name);
            }
        }
        self.pipes.retain(|name, _| names.contains(name));
        for name in names {
            if !self.pipes.contains_key(&name)
                && let Some(pipe) = open_pipe(&self.bells.folder.join(&name))
            {
                self.pipes.insert(name, pipe);
            }
        }
        let settled_down = SystemTime::now().duration_since(changed).is_ok_and(|age| age > RACY);
        self.listed = settled_down.then_some(changed);
        Ok(())
    }
}

fn kind_of(name: &OsString) -> Option<Kind> {
    let name = name.to_str()?;
    [Kind::Sent, Kind::Settled].into_iter().find(|kind| name.starts_with(kind.prefix()))
}

/// Opens a pipe to write, if somebody reads it.
fn open_pipe(path: &Path) -> Option<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).ok()?;
    match File::options().write(true).custom_flags(flags).open(path) {
        Ok(pipe) => Some(pipe),
        Err(error) => {
            if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) {
                let _ = fs::remove_file(path);
            }
            None
        }
    }
}
