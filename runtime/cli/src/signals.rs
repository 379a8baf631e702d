//! Requests to stop from outside: SIGINT (ctrl-c) and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{CliError, Result};

/// Both signals that ask a process to stop.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on these signals are received here, and no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| CliError::io("listen to signals", &error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one, and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            Some(()) = self.interrupt.recv() => "SIGINT",
            Some(()) = self.terminate.recv() => "SIGTERM",
            // Neither comes any more: the runtime is shutting down.
            else => std::future::pending().await,
        }
    }
}
