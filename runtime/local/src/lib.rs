//! The embedded backend: every seam of `rhubarb-core` on one SQLite file and one folder.
//!
//! One folder holds `store.db` (rows and messages), `blobs/` and `bells/` (see `bell`). Any number
//! of processes may open it at once. A verb is one transaction of the file, the joined verbs too, so
//! that a crash at any point leaves a verb done or not begun. A thread per process writes; calls that
//! come in together share a commit (`writer`).
//!
//! A doorbell (the message of a task that was submitted here) is three columns of the task's own row
//! and an entry in one sparse index; only what plain producers send is a message of its own.

mod bell;
mod blobs;
mod broker;
mod checkpoint;
mod clock;
mod error;
mod holder;
mod join;
mod lock;
mod lock_watch;
mod messages;
mod names;
mod open;
mod options;
mod permits;
mod reads;
mod recent;
mod record;
mod rows;
mod schedules;
mod schema;
mod tasks;
mod texts;
mod transaction;
mod wall;
mod workers;
mod writer;

pub use clock::{Clock, ManualClock, Reading, SystemClock};
pub use open::LocalBackend;
pub use options::{Durability, Options};
