//! A tick that no client submitted: EventBridge Scheduler wrote it straight to the queue.
//!
//! Its message carries the tick's time at the end of its key. An emulator may leave EventBridge's placeholder
//! there; then the tick is the last one that the schedule's rule names before the message was sent. A second
//! delivery of the same message comes to the same tick, and two messages of one tick to the same key, which the
//! claim resolves.

use std::{collections::BTreeMap, time::Duration};

use super::{Rule, SCHEDULED_TIME, key, key_of};
use crate::{
    backend::{Backend, Result, ScheduleRecord},
    config::Definition,
    envelope::Envelope,
    ids::ScheduleName,
    time::Timestamp,
};

/// Completes the ticks among these envelopes: each with the time when its message was sent.
///
/// # Errors
///
/// The schedule of a placeholder cannot be read; the message is tried again.
pub(crate) async fn arrive<B: Backend + ?Sized>(backend: &B, envelopes: Vec<(&mut Envelope, Timestamp)>) -> Result<()> {
    let mut unfilled = Vec::new();
    for (envelope, sent) in envelopes {
        match time_of(envelope) {
            Some(SCHEDULED_TIME) => unfilled.push((envelope, sent)),
            Some(text) => {
                if let Ok(at) = text.parse::<jiff::Timestamp>() {
                    complete(envelope, Timestamp(at.as_millisecond()));
                }
            }
            None => {}
        }
    }
    if unfilled.is_empty() {
        return Ok(());
    }
    let names: Vec<ScheduleName> = unfilled.iter().filter_map(|(envelope, _)| envelope.schedule.clone()).collect();
    let records = backend.schedules().read(&names).await?;
    let records: BTreeMap<ScheduleName, Option<ScheduleRecord>> = names.into_iter().zip(records).collect();
    for (envelope, sent) in unfilled {
        let record = envelope.schedule.as_ref().and_then(|name| records.get(name)?.as_ref());
        complete(envelope, tick_before(record, sent));
    }
    Ok(())
}

/// True for a tick whose time is still EventBridge's placeholder.
pub(crate) fn is_unfilled(envelope: &Envelope) -> bool {
    time_of(envelope) == Some(SCHEDULED_TIME)
}

/// The text of the time at the end of the key of a tick that has none yet.
fn time_of(envelope: &Envelope) -> Option<&str> {
    let schedule = envelope.schedule.as_ref().filter(|_| envelope.tick.is_none())?;
    envelope.idempotency_key.as_deref()?.strip_prefix(&key_of(schedule, ""))
}

fn complete(envelope: &mut Envelope, at: Timestamp) {
    envelope.idempotency_key = envelope.schedule.as_ref().map(|schedule| key(schedule, at));
    envelope.tick = Some(at);
}

/// The tick that a message is of which was sent then. Without a rule, or before its first tick, the minute: no
/// schedule of EventBridge's fires twice in one.
fn tick_before(record: Option<&ScheduleRecord>, sent: Timestamp) -> Timestamp {
    let rule = record.and_then(|record| {
        let schedule = Definition::of_value(&record.definition).ok()?.read(record.name.clone()).ok()?;
        Rule::new(&schedule, record.since).ok()
    });
    let minute = 60_000;
    let tick = rule.and_then(|rule| rule.last(sent.before(Duration::from_secs(LOOK_BACK_SECONDS)), sent));
    tick.unwrap_or(Timestamp(sent.0.div_euclid(minute) * minute))
}

/// No tick is longer ago than this when its message is sent: EventBridge tries for a day.
const LOOK_BACK_SECONDS: u64 = 2 * 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::null,
        ids::{TaskId, TaskName},
    };

    fn tick(key: &str) -> Envelope {
        let mut envelope = Envelope::new(TaskId::from_bytes([1; 16]), TaskName::new("t").unwrap(), null());
        envelope.schedule = Some(ScheduleName::new("nightly").unwrap());
        envelope.idempotency_key = Some(key.to_owned());
        envelope
    }

    #[test]
    fn the_time_is_what_stands_behind_the_schedules_name() {
        assert_eq!(time_of(&tick("schedule/nightly/2027-01-01T00:00:00Z")), Some("2027-01-01T00:00:00Z"));
        assert_eq!(time_of(&tick("schedule/weekly/2027-01-01T00:00:00Z")), None);
        let mut known = tick("schedule/nightly/2027-01-01T00:00:00Z");
        known.tick = Some(Timestamp(1));
        assert_eq!(time_of(&known), None);
    }

    #[test]
    fn a_tick_is_named_as_an_agent_names_it() {
        let mut envelope = tick("schedule/nightly/2027-01-01T00:00:00.000Z");
        complete(&mut envelope, Timestamp(1_798_761_600_000));
        assert_eq!(envelope.idempotency_key.as_deref(), Some("schedule/nightly/2027-01-01T00:00:00Z"));
        assert_eq!(envelope.tick, Some(Timestamp(1_798_761_600_000)));
    }

    #[test]
    fn a_message_belongs_to_the_last_tick_before_it_was_sent() {
        let name = ScheduleName::new("nightly").unwrap();
        let definition = serde_json::json!({"rate": "5 minutes", "task": "t"});
        let record = ScheduleRecord::new(name, true, definition, Timestamp(7_000));
        for (sent, at) in [(7_000, 7_000), (306_999, 7_000), (307_000, 307_000), (610_000, 607_000)] {
            assert_eq!(tick_before(Some(&record), Timestamp(sent)), Timestamp(at), "{sent}");
        }
        assert_eq!(tick_before(Some(&record), Timestamp(6_999)), Timestamp(0), "before its first tick");
        assert_eq!(tick_before(None, Timestamp(119_999)), Timestamp(60_000));
    }
}
