//! Keeps the platform tidy: removes old checkpoints, counts jobs, looks after failed ones.
//!
//! What to remove and what to redrive is decided by functions of values, so each rule is a test. Every
//! task may be cut off at any point and run again: what was done stays done, and the rest is found anew.

mod checkpoints;
mod failed;
mod metrics;

pub use checkpoints::{CleanedUp, CleanupCheckpoints, KeepsNothing, outdated};
pub use failed::{Decision, FailedGroup, InvalidLimit, ScanFailedJobs, ScannedJobs, decide};
pub use metrics::{JobMetrics, StateMetric, UpdateJobMetrics, job_metrics};
