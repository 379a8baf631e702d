//! What must hold for a schedule, of the file or made at run time.

use super::Entry;
use crate::{
    backend::StoreError,
    config::{
        Backend, Config, QueueClass, ScheduleConfig, Track, When,
        mistake::{Problem, suggest},
        sheet::Sheet,
    },
    ids::QueueName,
    limits::Limits,
    schedule::{Rule, Unfit, needs_agent, prepare},
    time::Timestamp,
};

pub(super) fn check(config: &Config, schedule: &ScheduleConfig, sheet: &Sheet) {
    let entry = Entry::new(sheet, "schedules", &schedule.name);
    for (key, Problem { what, fix }) in problems(config, schedule) {
        entry.mistake(key, what, fix);
    }
}

/// Every problem of a schedule, each with its key.
pub(in crate::config) fn problems(config: &Config, schedule: &ScheduleConfig) -> Vec<(&'static str, Problem)> {
    let queue = schedule.queue.as_ref().filter(|queue| !config.queues.contains_key(*queue)).map(|queue| {
        let fix = suggest(queue.as_str(), config.queues.keys().map(QueueName::as_str));
        ("queue", Problem::new(format!("there is no queue `{queue}`"), fix))
    });
    let ends = matches!((schedule.start, schedule.end), (Some(start), Some(end)) if start >= end);
    let end = ends.then(|| ("end", Problem::new("it ends before it starts", "write a time after start")));
    let rule = check_rule(schedule).filter(|_| end.is_none());
    let rest = [end, rule, check_track(config, schedule), check_runner(config, schedule), check_aws(config, schedule)];
    let input = check_input(config, schedule).filter(|_| queue.is_none());
    queue.into_iter().chain(rest.into_iter().flatten()).chain(input).collect()
}

/// Refuses what would never fire from now on.
pub(in crate::config) fn check_future(schedule: &ScheduleConfig, now: Timestamp) -> Result<(), Unfit> {
    if Rule::new(schedule, now)?.next(now.before(std::time::Duration::from_millis(1))).is_some() {
        return Ok(());
    }
    let (key, what) = match &schedule.when {
        When::At(at) => ("at", format!("{at} in {} has passed", schedule.timezone)),
        When::Cron(_) | When::Rate(_) if schedule.end.is_some() => ("end", "it has passed".to_owned()),
        When::Cron(text) => ("cron", format!("`{text}` names no time that is to come")),
        When::Rate(_) => ("rate", "it names no time that is to come".to_owned()),
    };
    Err(Unfit::new(key, what, "write a time that is to come"))
}

/// An expression, a zone or a time that fits by itself and not together.
fn check_rule(schedule: &ScheduleConfig) -> Option<(&'static str, Problem)> {
    match Rule::new(schedule, Timestamp::default()) {
        Err(Unfit { key, what, fix }) => Some((key, Problem::new(what, fix))),
        Ok(rule) if rule.next(Timestamp(i64::MIN)).is_none() => {
            let key = if matches!(schedule.when, When::At(_)) { "at" } else { "end" };
            Some((key, Problem::new("it never fires between start and end", "write times between which it fires")))
        }
        Ok(_) => None,
    }
}

/// A tick fires once because its key stands in a row.
fn check_track(config: &Config, schedule: &ScheduleConfig) -> Option<(&'static str, Problem)> {
    let of_task = config.tasks.get(&schedule.task).and_then(|task| task.queue.as_ref());
    let queue = schedule.queue.as_ref().or(of_task).and_then(|queue| config.queues.get(queue));
    let queue = queue.filter(|queue| queue.track != Track::Full)?;
    let what = format!(
        "its task goes to queue `{}` with track = \"{}\", where no row makes a tick fire once",
        queue.name, queue.track,
    );
    Some(("queue", Problem::new(what, "name a queue with track = \"full\"")))
}

/// A queue that no function works.
fn check_runner(config: &Config, schedule: &ScheduleConfig) -> Option<(&'static str, Problem)> {
    let queue = config.route(&schedule.task, schedule.queue.as_ref(), None).ok()?;
    let is_worked = config.queue(&queue).is_none_or(|queue| !queue.functions.is_empty() || queue.raw_task.is_some());
    // In a file without functions nothing is run here: functions and their queues come with another file.
    let problem = || {
        let what = format!("no function runs `{}`: its queue `{queue}` has none", schedule.task);
        Problem::new(what, format!("add functions to [queues.{queue}], or name another queue"))
    };
    (!is_worked && !config.functions.is_empty()).then(|| ("task", problem()))
}

/// What EventBridge cannot fire an agent does, and one must be there.
fn check_aws(config: &Config, schedule: &ScheduleConfig) -> Option<(&'static str, Problem)> {
    let is_aws = config.app.backend == Backend::Aws;
    without_agent(config, schedule).filter(|_| is_aws).map(|(key, what, fix)| (key, Problem::new(what, fix)))
}

/// Why nobody would fire this schedule on AWS, and what to do: EventBridge cannot, and there is no agent.
pub(in crate::config) fn without_agent(
    config: &Config,
    schedule: &ScheduleConfig,
) -> Option<(&'static str, String, &'static str)> {
    let (key, why) = needs_agent(schedule, config)?;
    let is_ecs = |queue: &QueueName| config.queues.get(queue).is_some_and(|queue| queue.class == QueueClass::Ecs);
    let has_agent = config.workers.values().any(|worker| worker.queues.iter().any(is_ecs));
    let fix = match key {
        "rate" => r#"write whole minutes, e.g. "1 minute", or add [workers.NAME] with a queue of class = "ecs""#,
        "at" => r#"write whole seconds, or add [workers.NAME] with a queue of class = "ecs""#,
        "queue" => r#"name a queue without `fifo`, or add [workers.NAME] with a queue of class = "ecs""#,
        _ => r#"leave `expires` out, or add [workers.NAME] with a queue of class = "ecs""#,
    };
    (!has_agent).then(|| (key, format!("{why}, and there is no worker of an `ecs` queue to fire it"), fix))
}

/// What EventBridge is given is the whole envelope.
fn check_input(config: &Config, schedule: &ScheduleConfig) -> Option<(&'static str, Problem)> {
    match prepare(schedule, Some(Timestamp::default()), config, &Limits::AWS, Timestamp::default()) {
        Ok(prepared) => {
            let (bytes, most) = (prepared.envelope.encode().len(), Limits::AWS.schedule_input_bytes_max);
            let problem =
                || Problem::new(format!("the input has {bytes} bytes"), format!("at most {most} are allowed"));
            (bytes > most).then(|| ("args", problem()))
        }
        // Said already: such a queue takes no key.
        Err(StoreError::Invalid(_)) if check_track(config, schedule).is_some() => None,
        Err(StoreError::Invalid(what)) => Some(("task", Problem::new(what, "see what its queue allows"))),
        Err(_) => None,
    }
}
