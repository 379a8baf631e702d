//! A schedule: when a task is enqueued by itself, and with what.
//!
//! The rule is read here; when it fires is [`crate::schedule`]'s business.

use std::time::Duration;

use jiff::civil::DateTime;
use serde_json::{Map, Number, Value};
use toml::de::DeValue;

use super::{
    bounds::{JITTER, LINE_CHARS_MAX, RATE, TIMEZONE_DEFAULT},
    mistake::{Problem, quoted},
    sheet::{Table, kind},
    units::show_duration,
    value::{Reading, duration, flag, line, name, text_as, word, words},
};
use crate::{
    ids::{QueueName, ScheduleName, TaskName},
    limits::Limits,
    schedule::{Cron, Unfit, Zone},
};

/// A section `[schedules.NAME]` with every default filled in.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScheduleConfig {
    /// The schedule's name.
    pub name: ScheduleName,
    /// When it fires.
    pub when: When,
    /// The time zone of `cron`, `at`, `start` and `end`, such as `Europe/Berlin`.
    pub timezone: String,
    /// It does not fire before this local time.
    pub start: Option<DateTime>,
    /// It does not fire after this local time.
    pub end: Option<DateTime>,
    /// Each firing is spread over this window.
    pub jitter: Duration,
    /// The task that it enqueues.
    pub task: TaskName,
    /// The task's arguments: an object.
    pub args: Map<String, Value>,
    /// The queue, as an option of the call gives it.
    pub queue: Option<QueueName>,
    /// What happens when the task of an earlier tick has not settled.
    pub overlap: Overlap,
    /// What happens to ticks that were missed.
    pub catch_up: CatchUp,
    /// Whether it fires at all.
    pub enabled: bool,
}

/// When a schedule fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Again and again, whole seconds apart.
    Rate(Duration),
    /// By a cron expression of five or six fields.
    Cron(String),
    /// Once, at this local time.
    At(DateTime),
}

words! {
    /// What a tick does when the task of an earlier one has not settled.
    Overlap {
        /// Both run.
        Allow = "allow",
        /// The later one is left out.
        Skip = "skip",
        /// The earlier one is cancelled.
        CancelPrevious = "cancel-previous",
    }

    /// What happens to ticks that were missed while nothing could fire them.
    CatchUp {
        /// They are left out.
        None = "none",
        /// The last one is made up for.
        One = "one",
        /// Each is made up for.
        All = "all",
    }
}

/// Reads the schedule; none where its task or its rule is missing, which is then noted.
pub(super) fn read(schedule: ScheduleName, table: &Table<'_, '_>) -> Option<ScheduleConfig> {
    let when = read_when(table);
    let task = table.read("task", text_as(name));
    if task.is_none() {
        table.missing("task", "name the task that it enqueues");
    }
    let timezone = table.read("timezone", text_as(timezone));
    let start = table.read("start", local_time);
    let end = table.read("end", local_time);
    let jitter = table.read("jitter", duration(JITTER)).unwrap_or_default();
    let args = table.read("args", args).unwrap_or_default();
    let queue = table.read("queue", text_as(name));
    let overlap = table.read("overlap", text_as(word)).unwrap_or(Overlap::Allow);
    let catch_up = table.read("catch_up", text_as(word)).unwrap_or(CatchUp::One);
    let enabled = table.read("enabled", flag).unwrap_or(true);
    Some(ScheduleConfig {
        name: schedule,
        when: when?,
        timezone: timezone.unwrap_or_else(|| TIMEZONE_DEFAULT.to_owned()),
        start,
        end,
        jitter,
        task: task?,
        args,
        queue,
        overlap,
        catch_up,
        enabled,
    })
}

/// Reads the one of `rate`, `cron` and `at` that is there.
fn read_when(table: &Table<'_, '_>) -> Option<When> {
    let rate = table.read("rate", rate).map(When::Rate);
    let cron = table.read("cron", text_as(cron)).map(When::Cron);
    let at = table.read("at", local_time).map(When::At);
    let is_given = |key: &&str| table.sheet().is_given(&table.path(key));
    let given: Vec<&str> = ["rate", "cron", "at"].into_iter().filter(is_given).collect();
    match given.as_slice() {
        [] => table.missing("rate", r#"say when it fires: rate = "5 minutes", or cron, or at"#),
        [_] => {}
        [_, second, ..] => {
            let what = format!("the schedule has {}", given.join(" and "));
            let problem = Problem::new(what, "keep one of them");
            table.sheet().mistake(&table.path(second), problem);
        }
    }
    rate.or(cron).or(at)
}

pub(super) fn rate(value: &DeValue<'_>) -> Reading<Duration> {
    let rate = duration(RATE)(value)?;
    if rate.subsec_nanos() != 0 {
        let what = format!("{} is no number of whole seconds", show_duration(rate));
        return Err(Problem::new(what, r#"write e.g. "10 seconds""#));
    }
    Ok(rate)
}

/// An expression as AWS writes it.
pub(super) fn cron(text: &str) -> Reading<String> {
    let cron = Cron::parse(&line(LINE_CHARS_MAX)(text)?);
    cron.map(|cron| cron.to_string()).map_err(|Unfit { what, fix, .. }| Problem::new(what, fix))
}

pub(super) fn timezone(text: &str) -> Reading<String> {
    Zone::named(text).map(|_| text.to_owned()).map_err(|Unfit { what, fix, .. }| Problem::new(what, fix))
}

pub(super) fn local_time(value: &DeValue<'_>) -> Reading<DateTime> {
    let text = match value {
        DeValue::String(text) => text.clone().into_owned(),
        DeValue::Datetime(at) => at.to_string(),
        other => {
            let what = format!("it is {}, not a date and time", kind(other));
            return Err(Problem::new(what, r#"write e.g. "2027-01-01T00:00:00""#));
        }
    };
    let has_offset = text.get(11..).is_some_and(|time| time.contains(['Z', 'z', '+', '-', '[']));
    let fix = if has_offset {
        r#"write the local time, e.g. "2027-01-01T00:00:00", and the zone as timezone"#
    } else {
        r#"write e.g. "2027-01-01T00:00:00""#
    };
    let is_whole = (16..=40).contains(&text.len()) && !has_offset;
    let parsed = if is_whole { text.parse::<DateTime>().ok() } else { None };
    parsed.ok_or_else(|| Problem::new(format!("{} is no local date and time", quoted(&text)), fix))
}

fn args(value: &DeValue<'_>) -> Reading<Map<String, Value>> {
    let Value::Object(args) = json(value)? else {
        let what = format!("it is {}, not a table", kind(value));
        return Err(Problem::new(what, r#"write e.g. args = { dataset = "digits" }"#));
    };
    fitting(args)
}

/// Arguments that a schedule's input has room for.
pub(super) fn fitting(args: Map<String, Value>) -> Reading<Map<String, Value>> {
    let bytes = serde_json::to_vec(&args).map_or(usize::MAX, |text| text.len());
    let bytes_max = Limits::AWS.schedule_input_bytes_max;
    if bytes > bytes_max {
        let what = format!("it has {bytes} bytes as JSON");
        return Err(Problem::new(what, format!("at most {bytes_max} are allowed")));
    }
    Ok(args)
}

/// A TOML value as JSON; dates and times become text.
fn json(value: &DeValue<'_>) -> Reading<Value> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::from)
            .map_err(|_| unfit(&number.to_string()))?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .ok()
            .and_then(Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| unfit(number.as_str()))?,
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(at) => Value::String(at.to_string()),
        DeValue::Array(array) => array.iter().map(|element| json(element.get_ref())).collect::<Reading<_>>()?,
        DeValue::Table(table) => {
            let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Ok((key.clone().into_owned(), json(value.get_ref())?))
            };
            Value::Object(table.iter().map(entry).collect::<Reading<_>>()?)
        }
    })
}

fn unfit(number: &str) -> Problem {
    Problem::new(format!("{} does not fit JSON", quoted(number)), "write it as text")
}
