//! Moves what was written from the log (`store.db-wal`) into the file, beside the writer.
//!
//! Commits only append to the log. A thread copies it into the file without stopping the writer; the
//! flush of the disk that belongs to it takes milliseconds, which no caller should wait for. A log
//! begins anew only when all of it has been copied while nobody wrote, so under steady load the
//! writer itself copies the little that is left once the log has grown to [`FULL_PAGES`]. A crash
//! loses nothing: the next opening reads the log.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use rusqlite::Connection;

use crate::lock_watch::LockWatch;

/// The thread begins to copy at this size of the log.
const COPY_PAGES: usize = 2_000;
/// The writer copies the rest at this size.
const FULL_PAGES: usize = 16_000;

/// Watches the size of the log.
#[derive(Debug)]
pub(crate) struct WalGauge {
    pages: Arc<AtomicUsize>,
    copied_at: AtomicUsize,
    full_at: AtomicUsize,
    wake: mpsc::SyncSender<()>,
}

impl WalGauge {
    /// Copies what is left of a log that has grown large, under the writer lock: nobody writes, so that
    /// the log can begin anew. A reader that is slow can keep it from that; then it may grow further.
    pub(crate) fn before_release(&self, connection: &Connection) {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages >= self.full_at.load(Ordering::Relaxed) {
            copy(connection);
            self.full_at.store(pages + FULL_PAGES / 4, Ordering::Relaxed);
        }
    }

    /// Wakes the thread where the log has grown.
    pub(crate) fn after_commit(&self) {
        let pages = self.pages.load(Ordering::Relaxed);
        let copied_at = self.copied_at.load(Ordering::Relaxed);
        if pages < copied_at {
            // The log began anew.
            self.copied_at.store(0, Ordering::Relaxed);
            self.full_at.store(FULL_PAGES, Ordering::Relaxed);
        } else if pages >= copied_at + COPY_PAGES {
            self.copied_at.store(pages, Ordering::Relaxed);
            // Full means that the thread has yet to begin the last one, which will copy this too.
            let _ = self.wake.try_send(());
        }
    }
}

/// The thread; it ends when the gauge is dropped.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    thread: Option<JoinHandle<()>>,
    watch: Arc<LockWatch>,
}

impl Checkpointer {
    /// Starts the thread, and watches the writer's connection from now on.
    pub(crate) fn start(
        path: &Path,
        writer: &mut Connection,
        watch: Arc<LockWatch>,
    ) -> crate::error::Fallible<(Self, Arc<WalGauge>)> {
        let pages = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&pages);
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count: std::ffi::c_int| {
            seen.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let (wake, woken) = mpsc::sync_channel(1);
        let path = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("rhubarb-checkpoint".into())
            .spawn(move || copy_when_woken(&path, &woken))
            .map_err(|error| crate::error::Fault::Lock(error.to_string()))?;
        let gauge = WalGauge { pages, copied_at: AtomicUsize::new(0), full_at: AtomicUsize::new(FULL_PAGES), wake };
        Ok((Self { thread: Some(thread), watch }, Arc::new(gauge)))
    }
}

/// The thread opens its connection when it is first needed: most processes write little.
fn copy_when_woken(path: &Path, woken: &mpsc::Receiver<()>) {
    let mut connection = None;
    while woken.recv().is_ok() {
        if connection.is_none() {
            connection = crate::open::connect(path, crate::options::Durability::Normal)
                .inspect_err(|error| tracing::warn!(error = %error, "cannot open the store to copy its log"))
                .ok();
        }
        if let Some(connection) = &connection {
            copy(connection);
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        // The gauge lives as long as the writer, which was left waiting for a stopped process in that case.
        if let Some(thread) = self.thread.take().filter(|_| self.watch.why_stuck().is_none()) {
            let _ = thread.join();
        }
    }
}

/// Copies what can be copied without waiting for anybody.
fn copy(connection: &Connection) {
    if let Err(error) = connection.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(())) {
        // The log goes on growing; a full disk is told to every writer by its own commit.
        tracing::warn!(error = %error, "cannot copy the store's log into its file");
    }
}
