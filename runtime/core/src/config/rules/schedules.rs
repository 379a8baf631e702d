//! What must hold for a schedule.

use super::Entry;
use crate::config::{Config, ScheduleConfig, Track, sheet::Sheet};

pub(super) fn check(config: &Config, schedule: &ScheduleConfig, sheet: &Sheet) {
    let entry = Entry::new(sheet, "schedules", &schedule.name);
    if let Some(queue) = &schedule.queue {
        entry.defined("queue", "queue", queue, &config.queues);
    }
    if let (Some(start), Some(end)) = (schedule.start, schedule.end)
        && start >= end
    {
        entry.mistake("end", "it ends before it starts", "write a time after start");
    }
    check_track(config, schedule, &entry);
}

/// A tick fires once because its key stands in a row.
fn check_track(config: &Config, schedule: &ScheduleConfig, entry: &Entry<'_>) {
    let of_task = config.tasks.get(&schedule.task).and_then(|task| task.queue.as_ref());
    let queue = schedule.queue.as_ref().or(of_task).and_then(|queue| config.queues.get(queue));
    if let Some(queue) = queue.filter(|queue| queue.track != Track::Full) {
        let what = format!(
            "its task goes to queue `{}` with track = \"{}\", where no row makes a tick fire once",
            queue.name, queue.track,
        );
        entry.mistake("queue", what, "name a queue with track = \"full\"");
    }
}
