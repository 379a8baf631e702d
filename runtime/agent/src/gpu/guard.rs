//! The two guards that keep agents off each other's devices: a locked file and a row in the store, one per device.
//!
//! The file is for agents of one machine whatever store they use, the row for agents of one store that share no folder
//! (containers). A device is taken with both; where one of them cannot be used the other holds alone, and a warning
//! says so once. The kernel unlocks the file of an agent that dies, and the row ends by itself.
//!
//! While a process has the device, the file says how it stood before. So after a crash the next agent finds what has to
//! be given back yet. A waiting agent locks a second file: whoever gives the device back then lets it go first.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rhubarb_core::{
    backend::{Backend, StoreError},
    gpu::GpuReading,
    ids::WorkerId,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How long a row holds without a renewal.
const ROW_HOLD: Duration = Duration::from_secs(15);
/// A row that could not be renewed for so long may soon be somebody else's.
const ROW_LOST_AFTER: Duration = Duration::from_secs(12);
/// How often what is held is renewed. Three renewals may be lost.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(3);
const _: () =
    assert!(ROW_LOST_AFTER.as_secs() < ROW_HOLD.as_secs() && RENEW_EVERY.as_secs() * 4 <= ROW_LOST_AFTER.as_secs());
/// A note that is longer is none of ours.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// Neither guard can be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "GPUs cannot be kept from other agents: the folder {} cannot be used ({folder_error}), and the store has no rows for \
     them ({store_error}). Name a folder that this user may write, by [workers.NAME] gpu_locks or RHUBARB_GPU_LOCKS",
    folder.display()
)]
pub struct NoGuard {
    /// The folder of the locks.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub folder_error: io::Error,
    /// What the store says.
    pub store_error: StoreError,
}

/// Who takes devices: in rows, one run of one worker.
pub(crate) struct Taker {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) worker: WorkerId,
    pub(crate) instance: String,
}

impl Taker {
    async fn hold(&self, uuid: &str, hold: Duration) -> Result<bool, StoreError> {
        self.backend.workers().hold_role(&format!("gpu/{uuid}"), &self.worker, &self.instance, hold).await
    }
}

/// What a lock file says while a process has its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The worker that leased it.
    pub(crate) worker: String,
    /// How it stood before.
    pub(crate) before: GpuReading,
}

/// Takes devices for one agent.
pub(crate) struct Guards {
    folder: Option<PathBuf>,
    taker: Arc<Taker>,
    warned: AtomicBool,
}

/// What came of taking a device.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours. The note is there if its last holder did not live to see it clean.
    Ours(Guard, Option<Note>),
    /// Another agent has it, or it cannot be said that none has.
    Elsewhere,
}

/// A device that is ours until this is given up or dropped. Dropped, its row ends by itself after a while.
pub(crate) struct Guard {
    uuid: String,
    file: Option<File>,
    taker: Arc<Taker>,
    row_kept: Option<Instant>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, row) = (self.file.is_some(), self.row_kept.is_some());
        f.debug_struct("Guard").field("uuid", &self.uuid).field("file", &file).field("row", &row).finish()
    }
}

impl Guards {
    /// Finds out which guards can be used.
    ///
    /// # Errors
    ///
    /// Neither can.
    pub(crate) async fn open(folder: &Path, taker: Taker) -> Result<Self, NoGuard> {
        let folder_error = prepare(folder).err();
        // Held for no time at all: only whether the store answers counts.
        let store_error = taker.hold("", Duration::ZERO).await.err();
        match (folder_error, store_error) {
            (Some(folder_error), Some(store_error)) => {
                Err(NoGuard { folder: folder.to_owned(), folder_error, store_error })
            }
            (Some(error), None) => {
                let shown = folder.display();
                tracing::warn!(
                    error = %error,
                    "cannot lock GPUs in {shown}: only agents of this store are kept off them; name a folder by gpu_locks or RHUBARB_GPU_LOCKS: {error}",
                );
                Ok(Self::new(None, taker))
            }
            (None, Some(error)) => {
                tracing::warn!(error = %error, "cannot hold GPUs in the store: only agents that share {} are kept off them: {error}", folder.display());
                Ok(Self::new(Some(folder.to_owned()), taker))
            }
            (None, None) => Ok(Self::new(Some(folder.to_owned()), taker)),
        }
    }

    fn new(folder: Option<PathBuf>, taker: Taker) -> Self {
        Self { folder, taker: Arc::new(taker), warned: AtomicBool::new(false) }
    }

    /// The folder of the locks, where it can be used.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Takes a device, if no other agent has it. Never waits for one that has.
    pub(crate) async fn take(&self, uuid: &str) -> Taken {
        let file = match self.folder.as_ref().map(|folder| lock(&path(folder, uuid, "lock"))) {
            Some(Ok(Some(file))) => Some(file),
            Some(Ok(None)) => return Taken::Elsewhere,
            Some(Err(error)) => {
                self.warn_once(&format!("cannot lock GPU {uuid}"), &error);
                None
            }
            None => None,
        };
        let row_kept = match self.taker.hold(uuid, ROW_HOLD).await {
            Ok(true) => Some(Instant::now()),
            Ok(false) => return Taken::Elsewhere,
            Err(error) => {
                self.warn_once(&format!("cannot hold GPU {uuid} in the store"), &error);
                None
            }
        };
        if file.is_none() && row_kept.is_none() {
            return Taken::Elsewhere;
        }
        let mut guard = Guard { uuid: uuid.to_owned(), file, taker: Arc::clone(&self.taker), row_kept };
        let note = guard.note();
        Taken::Ours(guard, note)
    }

    /// Renews the row of a device that is ours.
    pub(crate) async fn renew(&self, uuid: &str) -> Result<bool, StoreError> {
        self.taker.hold(uuid, ROW_HOLD).await
    }

    /// Waits in line for a device that another agent has, as long as the value lives. None where somebody waits
    /// already, or where there is no line.
    pub(crate) fn queue_up(&self, uuid: &str) -> Option<File> {
        lock(&path(self.folder.as_ref()?, uuid, "wait")).ok()?
    }

    /// True if another agent waits for a device.
    pub(crate) fn is_wanted(&self, uuid: &str) -> bool {
        let Some(folder) = &self.folder else { return false };
        let path = path(folder, uuid, "wait");
        path.exists() && matches!(lock(&path), Ok(None))
    }

    fn warn_once(&self, what: &str, error: &dyn std::fmt::Display) {
        if !self.warned.swap(true, Relaxed) {
            tracing::warn!(error = %error, "{what}; the other guard holds alone: {error}");
        }
    }
}

impl Guard {
    /// Notes what the store said to a renewal. Returns false if another agent may have the device now.
    pub(crate) fn note_renewal(&mut self, answer: &Result<bool, StoreError>) -> bool {
        match answer {
            Ok(true) => {
                self.row_kept = Some(Instant::now());
                true
            }
            Ok(false) => false,
            Err(_) => self.file.is_some() || self.row_kept.is_some_and(|at| at.elapsed() < ROW_LOST_AFTER),
        }
    }

    /// Notes that a process is about to have the device, and how it stands before.
    pub(crate) fn write_note(&mut self, before: &GpuReading) {
        let note = Note { worker: self.taker.worker.to_string(), before: before.clone() };
        let text = serde_json::to_vec(&note).unwrap_or_default();
        // Where another user made the file it may only be locked: then a crash of this agent leaves no trace.
        if let Some(file) = &mut self.file {
            let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
        }
    }

    /// Notes that the device is as it was.
    pub(crate) fn clear_note(&mut self) {
        if let Some(file) = &mut self.file {
            let _ = file.set_len(0);
        }
    }

    /// Lets others take the device.
    pub(crate) async fn give_up(mut self) {
        if self.row_kept.is_some() {
            // Best effort: the row ends by itself.
            let _ = self.taker.hold(&self.uuid, Duration::ZERO).await;
        }
        self.file = None;
    }

    fn note(&mut self) -> Option<Note> {
        read_note(self.file.as_mut()?)
    }
}

/// Where a device's file lies. The driver's names hold nothing that a file name must not, but for some of MIG's.
pub(crate) fn path(folder: &Path, uuid: &str, kind: &str) -> PathBuf {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = uuid.chars().take(100).map(harmless).collect();
    folder.join(format!("{name}.{kind}"))
}

/// Makes the folder, for every user as the system's own folder of locks is, and tries it.
fn prepare(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        std::fs::create_dir_all(folder)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o1777))?;
    }
    open(&folder.join("try")).map(drop)
}

/// Opens a file, or makes it. One that another user made can be opened for reading at least, and that is enough to lock
/// it. It is made only where it is missing: the kernel lets nobody "make" another user's file in a shared folder.
fn open(path: &Path) -> io::Result<File> {
    let existing = File::options().read(true).write(true).open(path);
    match existing {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    }
}

/// Locks a file, or none where another agent has.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read_note(file: &mut File) -> Option<Note> {
    let mut text = Vec::new();
    file.rewind().ok()?;
    file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
