//! A schedule as EventBridge Scheduler is told it: what it can fire by itself, and with which words.
//!
//! The template and the API say the same, so both are made from here. What EventBridge sends is an envelope
//! without an id, which takes its message's, and with a key that EventBridge completes with the tick's time
//! ([`super::arrive`]). Pure: nothing of it is lost or left half-way.

use std::{collections::BTreeMap, time::Duration};

use serde_json::value::RawValue;

use super::{Rule, Zone, key_of, prepare};
use crate::{
    backend::StoreError,
    config::{Config, ScheduleConfig, When},
    ids::QueueName,
    limits::Limits,
    time::Timestamp,
};

/// What EventBridge Scheduler replaces by the tick's time ("Context attributes" in its User Guide).
pub const SCHEDULED_TIME: &str = "<aws.scheduler.scheduled-time>";
/// Its finest rate, and the unit of its rates and windows.
const MINUTE: Duration = Duration::from_secs(60);

/// A schedule in EventBridge's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// The queue that its messages go to.
    pub queue: QueueName,
    /// `rate(5 minutes)`, `cron(0 3 * * ? *)` or `at(2027-01-01T00:00:00)`.
    pub expression: String,
    /// The zone of the expression.
    pub timezone: String,
    /// It fires nothing before this. Always to come: EventBridge refuses one that has passed.
    pub start: Option<Timestamp>,
    /// It fires nothing after this.
    pub end: Option<Timestamp>,
    /// Minutes of the flexible window; none fires on time.
    pub window: Option<u64>,
    /// The message's body.
    pub input: String,
    /// Whether it fires at all.
    pub enabled: bool,
}

/// Why EventBridge cannot fire a schedule, so that an agent does: the key that says so, and what it says.
#[must_use]
pub fn needs_agent(schedule: &ScheduleConfig, config: &Config) -> Option<(&'static str, &'static str)> {
    let queue = config.route(&schedule.task, schedule.queue.as_ref(), None).ok();
    let policy = queue.as_ref().and_then(|queue| config.policy(queue, &schedule.task));
    let is_fifo = queue.as_ref().and_then(|queue| config.queue(queue)).is_some_and(|queue| queue.fifo);
    match schedule.when {
        When::Rate(every) if !every.as_secs().is_multiple_of(MINUTE.as_secs()) => {
            Some(("rate", "EventBridge has no rate in seconds"))
        }
        When::At(at) if at.subsec_nanosecond() != 0 => Some(("at", "EventBridge has no fractions of a second")),
        _ if is_fifo => Some(("queue", "EventBridge gives messages to a FIFO queue no deduplication id")),
        _ if policy.is_some_and(|policy| policy.expires.is_some()) => {
            Some(("task", "EventBridge cannot say when its task expires"))
        }
        _ => None,
    }
}

/// The schedule in EventBridge's words; none where nothing of it is to come after `now`.
///
/// `since` is when it began, where that is known: then a rate goes on at the very times that its rule names.
///
/// # Errors
///
/// `Invalid`, with the field and the fix; `NoQueue`.
pub fn hosted(
    schedule: &ScheduleConfig,
    since: Option<Timestamp>,
    config: &Config,
    now: Timestamp,
) -> Result<Option<Hosted>, StoreError> {
    let unfit = |error: super::Unfit| StoreError::Invalid(error.to_string());
    let rule = Rule::new(schedule, since.unwrap_or(now)).map_err(unfit)?;
    let Some(next) = rule.next(now) else { return Ok(None) };
    let zone = Zone::named(&schedule.timezone).map_err(unfit)?;
    let start = schedule.start.map(|at| zone.instant_or_later(at)).filter(|start| *start > now);
    let is_rate = matches!(schedule.when, When::Rate(_));
    let (queue, input) = input(schedule, config)?;
    Ok(Some(Hosted {
        queue,
        expression: expression(&schedule.when),
        timezone: schedule.timezone.clone(),
        start: start.or_else(|| since.filter(|_| is_rate).map(|_| next)),
        end: schedule.end.map(|at| zone.instant_or_later(at)),
        window: Some(schedule.jitter).filter(|jitter| !jitter.is_zero()).map(minutes),
        input,
        enabled: schedule.enabled,
    }))
}

fn expression(when: &When) -> String {
    match when {
        When::Rate(every) if *every == MINUTE => "rate(1 minute)".to_owned(),
        When::Rate(every) => format!("rate({} minutes)", minutes(*every)),
        When::Cron(text) => format!("cron({text})"),
        When::At(at) => format!("at({})", at.strftime("%Y-%m-%dT%H:%M:%S")),
    }
}

/// Whole minutes, rounded up.
fn minutes(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(MINUTE.as_millis()).try_into().unwrap_or(u64::MAX)
}

/// The body of its messages: the same for every tick, and for everybody who computes it.
fn input(schedule: &ScheduleConfig, config: &Config) -> Result<(QueueName, String), StoreError> {
    let prepared = prepare(schedule, Some(Timestamp::default()), config, &Limits::AWS, Timestamp::default())?;
    let mut envelope = prepared.envelope;
    (envelope.created, envelope.tick) = (None, None);
    envelope.idempotency_key = Some(key_of(&schedule.name, SCHEDULED_TIME));
    let invalid = |error: serde_json::Error| StoreError::Invalid(format!("`args`: {error}"));
    // In an order of its own: what is deployed must not change with the features of a build.
    let mut body: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&envelope.encode()).map_err(invalid)?;
    // The least form: who has no id takes the first message's, and its key makes both deliveries of a tick one.
    body.retain(|field, _| field != "v" && field != "id");
    let input = serde_json::to_string(&body).map_err(invalid)?;
    let (bytes, most) = (input.len(), Limits::AWS.schedule_input_bytes_max);
    if bytes > most {
        return Err(StoreError::Invalid(format!("`args`: the input has {bytes} bytes, at most {most} are allowed")));
    }
    Ok((prepared.queue, input))
}
