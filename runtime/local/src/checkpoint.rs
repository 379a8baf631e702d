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

/// The thread begins to copy at this size of the log.
const COPY_PAGES: usize = 2_000;
/// The writer copies the rest at this size.
const FULL_PAGES: usize = 16_000;

/// Watches the size of the log.
#[derive(Debug)]
pub(crate) struct WalGauge {
    pages: Arc<AtomicUsize>,
    copied_at: AtomicUsize,
    wake: mpsc::SyncSender<()>,
}

impl WalGauge {
    /// Copies what is left of a log that has grown large, under the writer lock: nobody writes, so that
    /// the log can begin anew.
    pub(crate) fn before_release(&self, connection: &Connection) {
        if self.pages.load(Ordering::Relaxed) >= FULL_PAGES {
            copy(connection);
            self.copied_at.store(0, Ordering::Relaxed);
            self.pages.store(0, Ordering::Relaxed);
        }
    }

    /// Wakes the thread where the log has grown.
    pub(crate) fn after_commit(&self) {
        let pages = self.pages.load(Ordering::Relaxed);
        let copied_at = self.copied_at.load(Ordering::Relaxed);
        if pages < copied_at {
            // The log began anew.
            self.copied_at.store(0, Ordering::Relaxed);
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
}

impl Checkpointer {
    /// Starts the thread, and watches the writer's connection from now on.
    pub(crate) fn start(path: &Path, writer: &mut Connection) -> crate::error::Fallible<(Self, Arc<WalGauge>)> {
        let pages = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&pages);
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count: std::ffi::c_int| {
            seen.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let connection = crate::open::connect(path, crate::options::Durability::Normal)?;
        let (wake, woken) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("rhubarb-checkpoint".into())
            .spawn(move || {
                while woken.recv().is_ok() {
                    copy(&connection);
                }
            })
            .map_err(|error| crate::error::Fault::Lock(error.to_string()))?;
        Ok((Self { thread: Some(thread) }, Arc::new(WalGauge { pages, copied_at: AtomicUsize::new(0), wake })))
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
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
