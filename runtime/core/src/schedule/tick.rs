//! A tick and the task it makes.

use serde_json::value::RawValue;
use sha2::Digest as _;

use crate::{
    backend::StoreError,
    config::{Config, Overlap, ScheduleConfig},
    enqueue::{NewTask, Prepared},
    ids::{ScheduleName, TaskId},
    limits::Limits,
    time::Timestamp,
};

/// One firing of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick {
    /// The schedule.
    pub schedule: ScheduleName,
    /// The time that its rule names.
    pub at: Timestamp,
}

impl Tick {
    /// The id of the tick's task where we make it: the same for everybody.
    #[must_use]
    pub fn task(&self, app: &str) -> TaskId {
        let digest = sha2::Sha256::digest(format!("{app}/{}", key(&self.schedule, self.at)));
        let mut bytes = [0_u8; 16];
        bytes.copy_from_slice(&digest[..16]);
        TaskId::new(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// The idempotency key of a tick: `schedule/NAME/TIME`, with the time as EventBridge Scheduler writes it.
#[must_use]
pub fn key(schedule: &ScheduleName, at: Timestamp) -> String {
    key_of(schedule, &at.to_string())
}

/// The key with the time as this text.
pub(super) fn key_of(schedule: &ScheduleName, at: &str) -> String {
    format!("schedule/{schedule}/{at}")
}

/// The task of a tick; without a time the task of a schedule that somebody fires by hand, which has no key.
///
/// # Errors
///
/// `Invalid`, with the field and the fix; `NoQueue`.
pub fn prepare(
    schedule: &ScheduleConfig,
    at: Option<Timestamp>,
    config: &Config,
    limits: &Limits,
    now: Timestamp,
) -> Result<Prepared, StoreError> {
    let invalid = |error: serde_json::Error| StoreError::Invalid(format!("`args`: {error}"));
    let args = serde_json::to_string(&schedule.args).and_then(RawValue::from_string).map_err(invalid)?;
    let tick = at.map(|at| Tick { schedule: schedule.name.clone(), at });
    let mut task = NewTask::new(schedule.task.clone(), args);
    task.queue.clone_from(&schedule.queue);
    task.idempotency_key = at.map(|at| key(&schedule.name, at));
    task.producer = Some(format!("schedule {}", schedule.name));
    let id = tick.map_or_else(TaskId::mint, |tick| tick.task(config.app.name.as_ref()));
    let mut prepared = task.prepare(config, limits, now, id)?;
    prepared.envelope.schedule = Some(schedule.name.clone());
    prepared.envelope.tick = at;
    prepared.envelope.overlap = at.and(Some(schedule.overlap)).filter(|overlap| *overlap != Overlap::Allow);
    Ok(prepared)
}

/// What tells the windows of schedules apart.
pub(super) fn salt(name: &ScheduleName) -> u64 {
    let digest = sha2::Sha256::digest(name.as_str());
    digest.iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte))
}

/// Spreads numbers that lie close together (the finaliser of splitmix64).
pub(super) const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
