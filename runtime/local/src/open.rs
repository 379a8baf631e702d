//! Opens a store: its folder, its file at this build's version, and the threads that serve it.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use rhubarb_core::backend::{Result, StoreError};
use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::{
    bell::Bells,
    blobs::FolderBlobs,
    checkpoint::Checkpointer,
    clock::Clock,
    error::{Fallible, Told, path_error},
    lock::WriterLock,
    names::Names,
    options::{Durability, Options},
    reads::Reads,
    schema,
    transaction::Ground,
    writer::{Parts, Writer},
};

/// Who does not know our writer lock (SQLite's own shell, for one) may hold the file so long.
const FOREIGN_WRITER_PATIENCE: Duration = Duration::from_secs(30);
/// Pages that the writer keeps in memory, in KiB.
const WRITER_CACHE_KIB: i32 = 6 * 1024;
/// Pages that a reader keeps in memory, in KiB.
const READER_CACHE_KIB: i32 = 512;
/// How often an opening that waits looks whether it waits in vain.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const WHAT: &str = "open the store";
/// Statements that a connection keeps prepared.
const STATEMENTS_MAX: usize = 64;

/// The embedded backend: every seam on one folder. Cheap to clone; the threads end, and what was sent
/// to them is committed, when the last clone is dropped.
#[derive(Clone)]
pub struct LocalBackend {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // Dropped in this order: the writer first, so that its gauge ends the checkpoint thread.
    pub(crate) writer: Writer,
    _checkpointer: Checkpointer,
    pub(crate) reads: Arc<Reads>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) blobs: FolderBlobs,
    pub(crate) ground: Arc<Ground>,
    pub(crate) clock: Arc<dyn Clock>,
    folder: PathBuf,
}

impl std::fmt::Debug for LocalBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBackend").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

impl LocalBackend {
    /// Opens the store of a folder, and makes it where there is none. Any number of processes, and
    /// values in one process, may open the same folder.
    ///
    /// # Errors
    ///
    /// `Broken` says what is wrong with the folder, the disk or the file, and how to mend it;
    /// `NewerSchema` names the version of a file that a newer build wrote.
    pub fn open(folder: impl AsRef<Path>, options: Options) -> Result<Self> {
        let folder = folder.as_ref();
        make_private(folder)?;
        for part in ["blobs", "bells"] {
            make_private(&folder.join(part))?;
        }
        let lock = WriterLock::open(folder, options.patience).map_err(|error| path_error(&error, WHAT, folder))?;
        let path = folder.join("store.db");
        let (lock, (mut connection, store_id)) = match open_current(&path, options.durability)? {
            Some(opened) => (lock, opened),
            None => {
                let mut lock = acquire(lock, folder)?;
                let opened = open_or_make(&path, options.durability);
                lock.release().map_err(|error| path_error(&error, WHAT, folder))?;
                (lock, opened?)
            }
        };
        let (checkpointer, gauge) =
            Checkpointer::start(&path, &mut connection, lock.watch()).map_err(|fault| fault.told(WHAT))?;
        let Options { limits, clock, .. } = options;
        let ground = Arc::new(Ground { limits, store_id });
        let names = Arc::new(Names::default());
        let bells = Arc::new(Bells::new(folder.join("bells")));
        let reads = Reads::new(path, Arc::clone(&clock), Arc::clone(&names));
        let blobs = FolderBlobs::open(&folder.join("blobs"))?;
        let parts = Parts {
            connection,
            lock,
            clock: Arc::clone(&clock),
            names,
            ground: Arc::clone(&ground),
            bells: Arc::clone(&bells),
            gauge,
            waits_for_disk: options.durability == Durability::Full,
        };
        let writer = Writer::start(parts).map_err(|error| path_error(&error, WHAT, folder))?;
        let folder = folder.to_owned();
        let reads = Arc::new(reads);
        Ok(Self {
            inner: Arc::new(Inner { writer, _checkpointer: checkpointer, reads, bells, blobs, ground, clock, folder }),
        })
    }

    /// The folder it was opened with.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }
}

/// Opens a file of this build's version, for which nobody need be waited for. None where there is no such file.
fn open_current(path: &Path, durability: Durability) -> Result<Option<(Connection, [u8; 8])>> {
    if !path.exists() {
        return Ok(None);
    }
    let opened = connect(path, durability).and_then(|connection| {
        Ok(match schema::inspect(&connection)? {
            schema::Found::Current => Some((schema::store_id(&connection)?, connection)),
            _ => None,
        })
    });
    // Whoever makes it may have just begun; what is wrong with it is told under the lock.
    Ok(opened.ok().flatten().map(|(id, connection)| (connection, id)))
}

/// Opens a file of any version, or makes it. The caller holds the writer lock.
fn open_or_make(path: &Path, durability: Durability) -> Result<(Connection, [u8; 8])> {
    let mut connection = connect(path, durability).map_err(|fault| fault.told(WHAT))?;
    schema::migrate(&mut connection, random_id())?;
    let id = schema::store_id(&connection).map_err(|fault| fault.told(WHAT))?;
    Ok((connection, id))
}

/// Waits for the writer lock, but not for a process that is stopped.
fn acquire(mut lock: WriterLock, folder: &Path) -> Result<WriterLock> {
    let told = |error: std::io::Error| path_error(&error, WHAT, folder);
    if lock.try_acquire().map_err(told)? {
        return Ok(lock);
    }
    let watch = lock.watch();
    let (acquired, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let locked = lock.acquire().map(|()| lock);
        // Where nobody waits any more, the lock goes with its files.
        let _ = acquired.send(locked);
    });
    loop {
        match wait.recv_timeout(LOOK_EVERY) {
            Ok(locked) => return locked.map_err(told),
            Err(_) => {
                if let Some(why) = watch.why_stuck() {
                    return Err(StoreError::unreachable(WHAT, Told(why)));
                }
            }
        }
    }
}

/// Makes a folder that only this user may enter; an existing one stays as it is.
fn make_private(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| path_error(&error, "make the store's folder", folder))
}

fn random_id() -> [u8; 8] {
    // The last eight bytes of a v7 UUID are random but for two bits.
    let mut id = [0; 8];
    id.copy_from_slice(&uuid::Uuid::now_v7().as_bytes()[8..]);
    id
}

/// Opens a connection that writes.
pub(crate) fn connect(path: &Path, durability: Durability) -> Fallible<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(FOREIGN_WRITER_PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let synchronous = match durability {
        Durability::Normal => "normal",
        Durability::Full => "full",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A statement's plan may not depend on the values bound to it: else each execution could plan anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn connect_reader(path: &Path, durability: Durability) -> Fallible<Connection> {
    let connection = connect(path, durability)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

impl Inner {
    /// When the clock says it is.
    pub(crate) fn epoch(&self) -> rhubarb_core::time::Timestamp {
        self.clock.read().now.epoch
    }

    /// A failure that is no fault of the store.
    pub(crate) fn invalid(text: impl Into<String>) -> StoreError {
        StoreError::Invalid(text.into())
    }
}
