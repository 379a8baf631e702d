//! The file's schedules in the store: put where they are new or changed, deleted where the file has none any
//! more. Those made at run time stay.
//!
//! Every agent does it at its start. The same file again writes nothing, so that agents that start at once, or
//! one that dies half-way, leave what one would.

use std::time::Duration;

use crate::{
    backend::{Result, ScheduleRecord, Schedules},
    config::{Config, Definition, ScheduleConfig, When},
    ids::ScheduleName,
    schedule::Rule,
    time::Timestamp,
};

/// What a reconciliation found worth telling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// New or changed ones that were put.
    pub put: Vec<ScheduleName>,
    /// Those that the file has no more.
    pub deleted: Vec<ScheduleName>,
    /// New ones that fire once, at a time that has passed: they never will.
    pub too_late: Vec<ScheduleName>,
}

/// Brings the store's schedules in line with the file's.
///
/// # Errors
///
/// The store cannot be reached; the rest is done by the next start.
pub async fn reconcile(schedules: &dyn Schedules, config: &Config, now: Timestamp) -> Result<Reconciled> {
    let known = schedules.list().await?;
    let mut done = Reconciled::default();
    let mut put = Vec::new();
    for schedule in config.schedules.values() {
        let found = known.iter().find(|known| known.name == schedule.name);
        let Some(record) = renewed(schedule, found, now) else { continue };
        if found.is_none() && matches!(schedule.when, When::At(_)) && is_over(schedule, &record, now) {
            done.too_late.push(schedule.name.clone());
        }
        done.put.push(schedule.name.clone());
        put.push(record);
    }
    let is_gone = |known: &&ScheduleRecord| known.from_file && !config.schedules.contains_key(&known.name);
    done.deleted = known.iter().filter(is_gone).map(|known| known.name.clone()).collect();
    for answer in schedules.put(&put).await.into_iter().chain(schedules.delete(&done.deleted).await) {
        answer?;
    }
    Ok(done)
}

/// The record of a schedule of the file where the store's is another.
#[must_use]
pub fn renewed(schedule: &ScheduleConfig, found: Option<&ScheduleRecord>, now: Timestamp) -> Option<ScheduleRecord> {
    let definition = Definition::from(schedule);
    let begun = begun(schedule.name.clone(), true, &definition, found, now);
    let is_same = found.is_some_and(|found| found.from_file && found.definition == begun.definition);
    (!is_same).then_some(begun)
}

/// The record of a definition that is put now: it begins now, unless it only says otherwise what the one before
/// it fires.
#[must_use]
pub fn begun(
    name: ScheduleName,
    from_file: bool,
    definition: &Definition,
    found: Option<&ScheduleRecord>,
    now: Timestamp,
) -> ScheduleRecord {
    let mut record = ScheduleRecord::new(name, from_file, definition.to_value(), whole_second(now));
    let before = found.and_then(|found| Some((found, Definition::of_value(&found.definition).ok()?)));
    if let Some((found, before)) = before.filter(|(_, before)| timing(before) == timing(definition)) {
        let is_kept = before.enabled != Some(false) || definition.enabled == Some(false);
        (record.since, record.passed) = (found.since, if is_kept { found.passed } else { record.passed });
    }
    record
}

fn timing(definition: &Definition) -> [&Option<String>; 6] {
    let Definition { rate, cron, at, timezone, start, end, .. } = definition;
    [rate, cron, at, timezone, start, end]
}

/// So that the ticks of a rate have plain times.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp(now.0.div_euclid(1000) * 1000).after(Duration::from_secs(u64::from(now.0.rem_euclid(1000) != 0)))
}

fn is_over(schedule: &ScheduleConfig, record: &ScheduleRecord, now: Timestamp) -> bool {
    let next = |rule: Rule| rule.next(now.min(record.passed));
    Rule::new(schedule, record.since).is_ok_and(|rule| next(rule).is_none())
}
