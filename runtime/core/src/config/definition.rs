//! A schedule as it is kept and as programs give it: the keys of `[schedules.NAME]` as JSON.
//!
//! It is read by the very readers of the file, and checked by the file's rules, so that a schedule made at run
//! time is no other than one of the file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::de::DeValue;

use super::{
    Config, When,
    bounds::{JITTER, TIMEZONE_DEFAULT},
    mistake::Problem,
    rules,
    schedule::{self, CatchUp, Overlap, ScheduleConfig},
    units::show_duration,
    value::{Reading, duration, name, word},
};
use crate::{ids::ScheduleName, schedule::Unfit, time::Timestamp};

/// The keys of a schedule. What is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// Fires again and again: `5 minutes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Fires by AWS's six fields, or crontab's five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Fires once, at this local time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The zone of the local times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Not before this local time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Not after this local time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The flexible window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<String>,
    /// The task that it enqueues.
    pub task: String,
    /// The task's arguments.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub args: Map<String, Value>,
    /// The task's queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// What happens when the task of an earlier tick has not settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
    /// What happens to ticks that were missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<String>,
    /// Whether it fires at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl Definition {
    /// Reads the schedule of this name, as the file's are read.
    ///
    /// # Errors
    ///
    /// The first key that is not what it should be.
    pub fn read(&self, schedule: ScheduleName) -> Result<ScheduleConfig, Unfit> {
        Ok(ScheduleConfig {
            name: schedule,
            when: self.when()?,
            timezone: or_default(read("timezone", self.timezone.as_deref(), text(schedule::timezone))?, || {
                TIMEZONE_DEFAULT.to_owned()
            }),
            start: read("start", self.start.as_deref(), schedule::local_time)?,
            end: read("end", self.end.as_deref(), schedule::local_time)?,
            jitter: read("jitter", self.jitter.as_deref(), duration(JITTER))?.unwrap_or_default(),
            task: name(&self.task).map_err(|problem| unfit("task", problem))?,
            args: schedule::fitting(self.args.clone()).map_err(|problem| unfit("args", problem))?,
            queue: read("queue", self.queue.as_deref(), text(name))?,
            overlap: or_default(read("overlap", self.overlap.as_deref(), text(word))?, || Overlap::Allow),
            catch_up: or_default(read("catch_up", self.catch_up.as_deref(), text(word))?, || CatchUp::One),
            enabled: self.enabled.unwrap_or(true),
        })
    }

    fn when(&self) -> Result<When, Unfit> {
        let rate = || read("rate", self.rate.as_deref(), schedule::rate).map(|rate| rate.map(When::Rate));
        let cron = || read("cron", self.cron.as_deref(), text(schedule::cron)).map(|cron| cron.map(When::Cron));
        let at = || read("at", self.at.as_deref(), schedule::local_time).map(|at| at.map(When::At));
        let given = [self.rate.is_some(), self.cron.is_some(), self.at.is_some()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            return Err(Unfit::new("rate", "more than one of rate, cron and at is given", "keep one of them"));
        }
        let missing =
            || Unfit::new("rate", "it is missing", r#"say when it fires: rate = "5 minutes", or cron, or at"#);
        Ok(match (rate()?, cron()?, at()?) {
            (Some(when), ..) | (_, Some(when), _) | (.., Some(when)) => when,
            (None, None, None) => return Err(missing()),
        })
    }

    /// As a record keeps it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What a record keeps.
    ///
    /// # Errors
    ///
    /// It is no definition of a schedule.
    pub fn of_value(value: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(value)
    }
}

impl From<&ScheduleConfig> for Definition {
    fn from(schedule: &ScheduleConfig) -> Self {
        let mut definition = Self {
            timezone: Some(schedule.timezone.clone()).filter(|zone| zone != TIMEZONE_DEFAULT),
            start: schedule.start.map(|at| at.to_string()),
            end: schedule.end.map(|at| at.to_string()),
            jitter: Some(schedule.jitter).filter(|jitter| !jitter.is_zero()).map(show_duration),
            task: schedule.task.to_string(),
            args: schedule.args.clone(),
            queue: schedule.queue.as_ref().map(ToString::to_string),
            overlap: Some(schedule.overlap).filter(|overlap| *overlap != Overlap::Allow).map(|word| word.to_string()),
            catch_up: Some(schedule.catch_up).filter(|rule| *rule != CatchUp::One).map(|word| word.to_string()),
            enabled: Some(false).filter(|_| !schedule.enabled),
            ..Self::default()
        };
        match &schedule.when {
            When::Rate(every) => definition.rate = Some(show_duration(*every)),
            When::Cron(text) => definition.cron = Some(text.clone()),
            When::At(at) => definition.at = Some(at.to_string()),
        }
        definition
    }
}

impl ScheduleConfig {
    /// Checks what the file's rules check, for a schedule that is made at run time: `now` refuses what has passed.
    ///
    /// # Errors
    ///
    /// The first mistake.
    pub fn check(&self, config: &Config, now: Timestamp) -> Result<(), Unfit> {
        if let Some((key, problem)) = rules::schedules::problems(config, self).into_iter().next() {
            return Err(unfit(key, problem));
        }
        rules::schedules::check_future(self, now)
    }

    /// Refuses a schedule that nobody would fire on AWS, whatever backend the file names.
    ///
    /// # Errors
    ///
    /// EventBridge cannot fire it, and no worker of an `ecs` queue is there to do it.
    pub fn check_fired_on_aws(&self, config: &Config) -> Result<(), Unfit> {
        match rules::schedules::without_agent(config, self) {
            Some((key, what, fix)) => Err(Unfit::new(key, what, fix)),
            None => Ok(()),
        }
    }
}

fn read<T>(
    key: &'static str,
    value: Option<&str>,
    reader: impl Fn(&DeValue<'_>) -> Reading<T>,
) -> Result<Option<T>, Unfit> {
    let read = value.map(|text| reader(&DeValue::String(text.into())));
    read.transpose().map_err(|problem| unfit(key, problem))
}

fn text<T>(of: impl Fn(&str) -> Reading<T>) -> impl Fn(&DeValue<'_>) -> Reading<T> {
    super::value::text_as(of)
}

fn or_default<T>(value: Option<T>, default: impl FnOnce() -> T) -> T {
    value.unwrap_or_else(default)
}

fn unfit(key: &'static str, Problem { what, fix }: Problem) -> Unfit {
    Unfit::new(key, what, fix)
}
