//! Keeps the platform tidy: removes old checkpoints, counts tasks, looks after failed ones.
//!
//! What to remove and what to redrive is decided by functions of values, so each rule is a test. Every
//! task may be cut off at any point and run again: what was done stays done, and the rest is found anew.

mod checkpoints;
mod failed;
mod metrics;

pub use checkpoints::{CleanedUp, CleanupCheckpoints, KeepsNothing, cleanup_checkpoints, outdated};
pub use failed::{Decision, FailedGroup, InvalidLimit, ScanFailedJobs, ScannedJobs, decide, scan_failed_jobs};
pub use metrics::{JobMetrics, METRICS_KEY, StateMetric, UpdateJobMetrics, job_metrics, update_job_metrics};
