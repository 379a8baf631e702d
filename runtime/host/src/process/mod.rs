//! One function process, from its start to its reaping.
//!
//! A [`FunctionProcess`] is a child in a process group of its own, the Runtime API served to it, and
//! what it prints. It is ready once it has polled its first `next`. Whatever ends it (its own exit, a
//! crash, [`stop`](FunctionProcess::stop), [`kill`](FunctionProcess::kill), or dropping the value)
//! ends its whole group, and every invocation it still owed an answer ends with it. If the host itself
//! is killed, a guard that runs beside it kills the groups.

mod error;
mod function;
mod group;
mod guard;
mod lines;
mod marked;
mod memory;
mod output;
mod spec;
mod status;
mod terminal;

pub use error::StartError;
pub use function::{ExitReport, FunctionProcess};
pub use lines::OnLine;
pub(crate) use marked::with_variable;
pub use output::CapturedOutput;
pub use spec::ProcessSpec;
pub use status::ExitStatus;
pub use terminal::sanitize;

use std::time::Duration;

/// What is kept of the latest output of a process, for the report of its end.
pub const OUTPUT_TAIL_BYTES: usize = 8 * 1024;
/// What is kept of one invocation's output where nothing else is said.
pub const OUTPUT_BYTES_DEFAULT: usize = 256 * 1024;
/// Captures of ended invocations that are kept until somebody takes them; the oldest goes first.
pub const CAPTURES_KEPT_MAX: usize = 16;
/// How long a function may take to ask for its first work, where nothing else is said.
pub const INIT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// How often the memory of a process with a memory limit is looked at.
pub const MEMORY_CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long a killed process is waited for. One that hangs in the kernel may take longer; it is then
/// reported as not reaped.
pub const KILL_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the members of an ended group are waited for.
pub const GROUP_WAIT_MAX: Duration = Duration::from_millis(250);
/// How long the last words of an ended process are waited for.
pub const LAST_WORDS_WAIT_MAX: Duration = Duration::from_millis(250);
