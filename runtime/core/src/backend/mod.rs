//! The seams: what a backend owes us, as small traits, and the verbs that join them.
//!
//! Verbs take slices and answer per item, in order. A failure of the whole call is every item's
//! failure. [`Backend`] is one value with all faces; its joined verbs have two-step bodies that hold
//! for any pair of broker and store (write the row first, then the queue: a crash in between is
//! mended by the next delivery or by the sweep), and a backend that keeps both in one place overrides
//! them by one transaction.

mod batches;
mod blobs;
mod broker;
mod claim;
mod doorbell;
mod error;
mod joined;
mod later;
pub mod rowless;
mod schedules;
mod tasks;
mod workers;

pub use blobs::{BlobInfo, BlobKey, Blobs, sha256_hex};
pub use broker::{Broker, Counts, Delivery, OutgoingMessage, QueueSpec};
pub use claim::{Claimed, Fate, claim_deliveries};
pub use doorbell::Doorbell;
pub use error::{Result, StoreError};
pub use joined::{Backend, ClaimPolicy, Finish, Purged, Take, Taken, Won, backoff_for_newer, poison_failure, too_late};
pub use later::{LateMessage, Later};
pub use schedules::{Current, Noted, ScheduleRecord, Schedules};
pub use tasks::{
    AttemptRecord, Buried, Called, ClaimAnswer, ClaimRequest, Cursor, DueLease, DueRing, Filter, Glance,
    IdempotencyKey, Log, Page, Progress, QueueRow, Reach, Renewal, Report, Rung, Settlement, StateCount, Submission,
    Submitted, TaskDetail, TaskRecord, Tasks, Window, WonRow,
};
pub use workers::{EcsTask, Heard, WorkerGpu, WorkerGpuState, WorkerRecord, WorkerState, Workers};
