//! Schedules as people look at them and change them: those of the file, and those made at run time.
//!
//! Everything is checked before anything is written, by the rules that the file is checked by. A schedule of
//! the file can be paused, resumed and run here; what it says is changed in the file.

use std::time::Duration;

use rhubarb_core::{
    backend::{Noted, ScheduleRecord},
    config::{Definition, ScheduleConfig, default_queue},
    ids::{FunctionName, ScheduleName, TaskId, TaskName},
    schedule::{LATE_MAX, Position, Rule, Unfit, begun, prepare, renewed},
    time::Timestamp,
};
use serde::Serialize;

use super::{Client, ClientError, enqueue};

/// Ticks that are computed at most.
const TICKS_MAX: usize = 10_000;
/// Missed ticks that are enqueued before they are noted.
const MADE_UP_MAX: usize = 100;

/// A schedule as people look at it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScheduleStatus {
    /// Its name.
    pub name: ScheduleName,
    /// It is one of `rhubarb.toml`.
    pub from_file: bool,
    /// What it says.
    #[serde(flatten)]
    pub definition: Definition,
    /// It does not fire until it is resumed.
    pub paused: bool,
    /// The last tick that was fired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_tick: Option<Timestamp>,
    /// The next tick; none where nothing is to come, or where it is paused or not enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_tick: Option<Timestamp>,
}

impl Client {
    /// Every schedule, by name: those of the configuration, and those made at run time.
    ///
    /// # Errors
    ///
    /// The backend is not reachable.
    pub async fn schedules(&self) -> Result<Vec<ScheduleStatus>, ClientError> {
        let now = self.now();
        let mut records = self.backend().schedules().list().await?;
        // What an agent has not taken over yet.
        records.retain(|record| !record.from_file || self.config().schedules.contains_key(&record.name));
        for schedule in self.config().schedules.values() {
            let place = records.binary_search_by(|record| record.name.cmp(&schedule.name));
            let Some(record) = renewed(schedule, place.ok().map(|place| &records[place]), now) else { continue };
            match place {
                Ok(place) => _ = records[place].replace(&record),
                Err(place) => records.insert(place, record),
            }
        }
        records.iter().map(|record| status(record, now)).collect()
    }

    /// One schedule.
    ///
    /// # Errors
    ///
    /// There is none of this name, or the backend is not reachable.
    pub async fn schedule(&self, name: &ScheduleName) -> Result<ScheduleStatus, ClientError> {
        status(&self.schedule_record(name).await?, self.now())
    }

    /// The next ticks of a schedule from now on, whether it is paused or not: at most 10,000.
    ///
    /// # Errors
    ///
    /// As [`Self::schedule`].
    pub async fn next_ticks(&self, name: &ScheduleName, count: usize) -> Result<Vec<Timestamp>, ClientError> {
        let record = self.schedule_record(name).await?;
        let (_, _, rule) = read(&record)?;
        let mut after = record.passed.max(self.now());
        let ticks = std::iter::from_fn(|| {
            after = rule.next(after)?;
            Some(after)
        });
        Ok(ticks.take(count.min(TICKS_MAX)).collect())
    }

    /// Makes a schedule.
    ///
    /// # Errors
    ///
    /// There is one of this name, the definition is not what it should be (then nothing is made), or the
    /// backend is not reachable.
    pub async fn create_schedule(&self, name: &ScheduleName, definition: &Definition) -> Result<(), ClientError> {
        if self.find_schedule(name).await?.is_some() {
            return invalid(format!("there is a schedule `{name}` already: update it, or give this one another name"));
        }
        self.put_schedule(name, definition, None).await
    }

    /// Changes what a schedule made at run time says. If it is to fire at other times, it begins anew.
    ///
    /// # Errors
    ///
    /// There is none of this name, it is one of the file's, or as [`Self::create_schedule`].
    pub async fn update_schedule(&self, name: &ScheduleName, definition: &Definition) -> Result<(), ClientError> {
        let found = self.schedule_record(name).await?;
        refuse_of_file(&found)?;
        self.put_schedule(name, definition, Some(&found)).await
    }

    /// Deletes a schedule made at run time. Tasks that it has enqueued stay.
    ///
    /// # Errors
    ///
    /// There is none of this name, it is one of the file's, or the backend is not reachable.
    pub async fn delete_schedule(&self, name: &ScheduleName) -> Result<(), ClientError> {
        refuse_of_file(&self.schedule_record(name).await?)?;
        let deleted = self.backend().schedules().delete(std::slice::from_ref(name)).await;
        Ok(deleted.into_iter().collect::<Result<(), _>>()?)
    }

    /// Stops a schedule from firing until it is resumed.
    ///
    /// # Errors
    ///
    /// There is none of this name, or the backend is not reachable.
    pub async fn pause_schedule(&self, name: &ScheduleName) -> Result<(), ClientError> {
        self.set_schedule_paused(name, true).await
    }

    /// Lets a schedule fire again; its `catch_up` says what becomes of the ticks in between.
    ///
    /// # Errors
    ///
    /// As [`Self::pause_schedule`].
    pub async fn resume_schedule(&self, name: &ScheduleName) -> Result<(), ClientError> {
        self.set_schedule_paused(name, false).await
    }

    /// Enqueues a schedule's task now, beside its ticks. Returns the task.
    ///
    /// # Errors
    ///
    /// There is none of this name, its task is refused, or the backend is not reachable.
    pub async fn run_schedule(&self, name: &ScheduleName) -> Result<TaskId, ClientError> {
        let (_, schedule, _) = read(&self.schedule_record(name).await?)?;
        let limits = self.backend().broker().limits();
        let prepared = prepare(&schedule, None, self.config(), limits, self.now())?;
        enqueue::submit_prepared(self, prepared).await
    }

    async fn set_schedule_paused(&self, name: &ScheduleName, paused: bool) -> Result<(), ClientError> {
        let record = self.schedule_record(name).await?;
        let schedules = self.backend().schedules();
        // One of the file may not be in the store yet; the same again changes nothing.
        for put in schedules.put(std::slice::from_ref(&record)).await {
            put?;
        }
        schedules.left_to_agents().await?;
        let kept = schedules.read(std::slice::from_ref(name)).await?.pop().flatten();
        if let Some(kept) = kept.filter(|kept| kept.paused != paused && schedules.fires(kept)) {
            // No scheduler of ours has followed it, so what is missed in a pause is found here.
            if paused { self.note_pause(name).await? } else { self.make_up(&kept).await? }
        }
        if schedules.pause(name, paused).await? { Ok(()) } else { Err(no_schedule(name)) }
    }

    /// Notes what the backend has fired of its own schedule so far. Its last tick may still be on its way: that one
    /// is made up for as if it were missed, to the same task.
    async fn note_pause(&self, name: &ScheduleName) -> Result<(), ClientError> {
        let noted = Noted { name: name.clone(), passed: self.now().before(LATE_MAX), last_tick: None };
        Ok(self.backend().schedules().note(&[noted]).await.into_iter().collect::<Result<(), _>>()?)
    }

    /// Enqueues what a pause of a schedule that the backend fires has missed, as far as its `catch_up` wants it.
    /// Again after a crash: the same ticks are the same tasks.
    async fn make_up(&self, record: &ScheduleRecord) -> Result<(), ClientError> {
        let (_, mut schedule, _) = read(record)?;
        if !schedule.enabled {
            return Ok(());
        }
        schedule.jitter = Duration::ZERO;
        let unreadable = |unfit: Unfit| ClientError::Invalid(unfit.to_string());
        let rule = Rule::new(&schedule, record.since).map_err(unreadable)?;
        let (limits, now) = (self.backend().broker().limits(), self.now());
        let mut position = Position { passed: record.passed, resumed: Some(now) };
        loop {
            let round = rule.round(position, schedule.catch_up, now, MADE_UP_MAX);
            for tick in &round.fire {
                let prepared = prepare(&schedule, Some(*tick), self.config(), limits, now)?;
                enqueue::submit_prepared(self, prepared).await?;
            }
            let Some(passed) = round.passed else { return Ok(()) };
            let noted = Noted { name: record.name.clone(), passed, last_tick: round.fire.last().copied() };
            self.backend().schedules().note(&[noted]).await.into_iter().collect::<Result<(), _>>()?;
            position.passed = passed;
        }
    }

    async fn put_schedule(
        &self,
        name: &ScheduleName,
        definition: &Definition,
        found: Option<&ScheduleRecord>,
    ) -> Result<(), ClientError> {
        let now = self.now();
        let schedule = definition.read(name.clone()).map_err(|unfit| ClientError::Invalid(unfit.to_string()))?;
        schedule.check(self.config(), now).map_err(|unfit| ClientError::Invalid(unfit.to_string()))?;
        self.check_runner(&schedule).await?;
        // As the file's are kept: every key in its plain form.
        let record = begun(name.clone(), false, &Definition::from(&schedule), found, now);
        Ok(self.backend().schedules().put(&[record]).await.into_iter().collect::<Result<(), _>>()?)
    }

    /// Refuses a task that no function runs, as far as the functions of living workers have said what they run.
    async fn check_runner(&self, schedule: &ScheduleConfig) -> Result<(), ClientError> {
        let queue =
            self.config().route(&schedule.task, schedule.queue.as_ref(), None).unwrap_or_else(|_| default_queue());
        let Some(routes) = self.config().routes(&queue) else { return Ok(()) };
        let workers = self.backend().workers().list().await?;
        let said = |function: &FunctionName| {
            let living = workers.iter().filter(|heard| heard.alive);
            living.filter_map(|heard| heard.worker.tasks.get(function)).next_back()
        };
        let Some(all) = routes.functions().iter().map(said).collect::<Option<Vec<&Vec<TaskName>>>>() else {
            return Ok(());
        };
        let known: Vec<&str> = all.into_iter().flatten().map(TaskName::as_str).collect();
        if known.is_empty() || known.contains(&schedule.task.as_str()) {
            return Ok(());
        }
        let (task, known) = (&schedule.task, known.join(", "));
        invalid(format!("`task`: no function of queue {queue} runs `{task}`; they run {known}"))
    }

    async fn schedule_record(&self, name: &ScheduleName) -> Result<ScheduleRecord, ClientError> {
        self.find_schedule(name).await?.ok_or_else(|| no_schedule(name))
    }

    /// The record as an agent would keep it: the file beats the store.
    async fn find_schedule(&self, name: &ScheduleName) -> Result<Option<ScheduleRecord>, ClientError> {
        let found = self.backend().schedules().read(std::slice::from_ref(name)).await?.pop().flatten();
        let Some(schedule) = self.config().schedules.get(name) else {
            return Ok(found.filter(|record| !record.from_file));
        };
        Ok(match (renewed(schedule, found.as_ref(), self.now()), found) {
            (Some(record), Some(mut found)) => {
                found.replace(&record);
                Some(found)
            }
            (record, found) => record.or(found),
        })
    }
}

fn read(record: &ScheduleRecord) -> Result<(Definition, ScheduleConfig, Rule), ClientError> {
    let name = &record.name;
    let unreadable = |what: String| ClientError::Invalid(format!("schedule `{name}` cannot be read: {what}"));
    let definition = Definition::of_value(&record.definition).map_err(|error| unreadable(error.to_string()))?;
    let schedule = definition.read(name.clone()).map_err(|unfit| unreadable(unfit.to_string()))?;
    let rule = Rule::new(&schedule, record.since).map_err(|unfit| unreadable(unfit.to_string()))?;
    Ok((definition, schedule, rule))
}

fn status(record: &ScheduleRecord, now: Timestamp) -> Result<ScheduleStatus, ClientError> {
    let (definition, schedule, rule) = read(record)?;
    let fires = schedule.enabled && !record.paused;
    let before = now.before(Duration::from_millis(1)).max(record.passed);
    Ok(ScheduleStatus {
        name: record.name.clone(),
        from_file: record.from_file,
        definition,
        paused: record.paused,
        // Where the backend fires, only claims of ticks that must not overlap are noted.
        last_tick: record.last_tick.max(record.current.map(|current| current.tick)),
        next_tick: rule.next(before).filter(|_| fires),
    })
}

fn refuse_of_file(record: &ScheduleRecord) -> Result<(), ClientError> {
    let name = &record.name;
    if record.from_file {
        return invalid(format!("schedule `{name}` is one of rhubarb.toml: change or remove [schedules.{name}] there"));
    }
    Ok(())
}

fn no_schedule(name: &ScheduleName) -> ClientError {
    ClientError::Invalid(format!("there is no schedule `{name}`: `rhubarb schedules list` shows them"))
}

fn invalid<T>(what: String) -> Result<T, ClientError> {
    Err(ClientError::Invalid(what))
}
