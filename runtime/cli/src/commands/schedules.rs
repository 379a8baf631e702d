//! `rhubarb schedules`: the rules that enqueue, of the file and made at run time.

use clap::{Args, Subcommand};
use rhubarb::{Client, client::ScheduleStatus};
use rhubarb_core::{
    config::Definition,
    ids::{ScheduleName, TaskId},
    time::Timestamp,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    exit::{CliError, Result},
    session::Session,
    values,
};

/// Look at schedules, make, change, pause and run them
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb schedules list
  rhubarb schedules next nightly -n 5
  rhubarb schedules create nightly --cron '0 3 * * ? *' --timezone Europe/Berlin --task cleanup_checkpoints
  rhubarb schedules update nightly --overlap skip --catch-up none
  rhubarb schedules pause nightly

Those of rhubarb.toml are changed there; they can be paused, resumed and run here.")]
pub(crate) struct Schedules {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the schedules of rhubarb.toml and those made at run time
    List,
    /// Show all of one schedule
    Show {
        /// Its name
        name: ScheduleName,
    },
    /// Say when a schedule fires next
    Next {
        /// Its name
        name: ScheduleName,
        /// How many ticks
        #[arg(short = 'n', default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
        count: u16,
    },
    /// Enqueue a schedule's task now, and print its id
    Run {
        /// Its name
        name: ScheduleName,
    },
    /// Stop a schedule from firing
    Pause {
        /// Its name
        name: ScheduleName,
    },
    /// Let a schedule fire again; its catch_up says what becomes of the ticks in between
    Resume {
        /// Its name
        name: ScheduleName,
    },
    /// Make a schedule at run time
    Create {
        /// Its name: at most 64 characters
        name: ScheduleName,
        #[command(flatten)]
        keys: Keys,
    },
    /// Change what is given of a schedule made at run time
    Update {
        /// Its name
        name: ScheduleName,
        #[command(flatten)]
        keys: Keys,
    },
    /// Delete a schedule made at run time; the tasks that it has enqueued stay
    Delete {
        /// Its name
        name: ScheduleName,
    },
}

/// The keys of `[schedules.NAME]`.
#[derive(Args, Debug)]
struct Keys {
    /// Fire again and again, e.g. "5 minutes"
    #[arg(long, value_name = "DURATION", group = "when")]
    rate: Option<String>,
    /// Fire by AWS's six fields, e.g. "0 3 * * ? *", or by crontab's five
    #[arg(long, value_name = "FIELDS", group = "when")]
    cron: Option<String>,
    /// Fire once, at this local time, e.g. 2027-01-01T00:00:00
    #[arg(long, value_name = "TIME", group = "when")]
    at: Option<String>,
    /// The zone of the local times, e.g. Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Do not fire before this local time
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// Do not fire after this local time
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
    /// Spread each firing over this window
    #[arg(long, value_name = "DURATION")]
    jitter: Option<String>,
    /// The task that it enqueues
    #[arg(long)]
    task: Option<String>,
    /// The task's arguments: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    args: Option<String>,
    /// The task's queue
    #[arg(long)]
    queue: Option<String>,
    /// While the task of an earlier tick has not settled: allow, skip or cancel-previous [default: allow]
    #[arg(long, value_name = "RULE")]
    overlap: Option<String>,
    /// What becomes of ticks that were missed: none, one or all [default: one]
    #[arg(long, value_name = "RULE")]
    catch_up: Option<String>,
    /// Whether it fires at all: true or false [default: true]
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
}

#[derive(Serialize)]
struct Ran {
    id: TaskId,
}

#[derive(Serialize)]
struct TickAt {
    tick: Timestamp,
}

#[derive(Serialize)]
struct Done<'a> {
    name: &'a ScheduleName,
    done: &'static str,
}

impl Schedules {
    /// Does what was asked.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = session.client().await?;
        let (name, done) = match self.command {
            Verb::List => return list(session, client.schedules().await?),
            Verb::Show { name } => return show(session, &client.schedule(&name).await?),
            Verb::Next { name, count } => return next(session, &client, &name, count).await,
            Verb::Run { name } => return run(session, &client, &name).await,
            Verb::Pause { name } => {
                client.pause_schedule(&name).await?;
                (name, "paused")
            }
            Verb::Resume { name } => {
                client.resume_schedule(&name).await?;
                (name, "resumed")
            }
            Verb::Create { name, keys } => {
                client.create_schedule(&name, &keys.over(Definition::default())?).await?;
                (name, "created")
            }
            Verb::Update { name, keys } => {
                let known = client.schedule(&name).await?.definition;
                client.update_schedule(&name, &keys.over(known)?).await?;
                (name, "updated")
            }
            Verb::Delete { name } => {
                client.delete_schedule(&name).await?;
                (name, "deleted")
            }
        };
        if session.screen.json() {
            return session.screen.document(&Done { name: &name, done });
        }
        session.screen.note(format!("{done} schedule {name}"));
        Ok(())
    }
}

impl Keys {
    /// What is given, over what is there.
    fn over(self, known: Definition) -> Result<Definition> {
        let timed = self.rate.is_some() || self.cron.is_some() || self.at.is_some();
        let (rate, cron, at) = if timed { (self.rate, self.cron, self.at) } else { (known.rate, known.cron, known.at) };
        let args = self.args.as_deref().map(object).transpose()?;
        let task = match (self.task, known.task) {
            (Some(task), _) => task,
            (None, task) if !task.is_empty() => task,
            (None, _) => return Err(CliError::Usage("`--task` is missing: name the task that it enqueues".into())),
        };
        Ok(Definition {
            rate,
            cron,
            at,
            timezone: self.timezone.or(known.timezone),
            start: self.start.or(known.start),
            end: self.end.or(known.end),
            jitter: self.jitter.or(known.jitter),
            task,
            args: args.unwrap_or(known.args),
            queue: self.queue.or(known.queue),
            overlap: self.overlap.or(known.overlap),
            catch_up: self.catch_up.or(known.catch_up),
            enabled: self.enabled.or(known.enabled),
        })
    }
}

fn object(given: &str) -> Result<Map<String, Value>> {
    let args = values::arguments(given)?;
    serde_json::from_str(args.get())
        .map_err(|_| CliError::Usage(r#"`--args` is no JSON object: write e.g. --args '{"dataset":"digits"}'"#.into()))
}

fn list(session: &Session, schedules: Vec<ScheduleStatus>) -> Result<()> {
    let header = ["schedule", "when", "task", "from", "state", "last", "next"];
    session.screen.rows(&schedules, &header, row, "no schedules")
}

fn row(schedule: &ScheduleStatus) -> Vec<String> {
    vec![
        schedule.name.to_string(),
        when(&schedule.definition),
        schedule.definition.task.clone(),
        if schedule.from_file { "rhubarb.toml" } else { "run time" }.to_owned(),
        state(schedule).to_owned(),
        shown(schedule.last_tick),
        shown(schedule.next_tick),
    ]
}

fn show(session: &Session, schedule: &ScheduleStatus) -> Result<()> {
    if session.screen.json() {
        return session.screen.document(schedule);
    }
    let definition = &schedule.definition;
    let text = |key: &Option<String>, default: &str| key.clone().unwrap_or_else(|| default.to_owned());
    let args = Value::Object(definition.args.clone()).to_string();
    let rows = [
        ("schedule", schedule.name.to_string()),
        ("from", if schedule.from_file { "rhubarb.toml" } else { "run time" }.to_owned()),
        ("state", state(schedule).to_owned()),
        ("when", when(definition)),
        ("start", text(&definition.start, "at once")),
        ("end", text(&definition.end, "never")),
        ("jitter", text(&definition.jitter, "none")),
        ("task", definition.task.clone()),
        ("args", args),
        ("queue", text(&definition.queue, "the task's")),
        ("overlap", text(&definition.overlap, "allow")),
        ("catch_up", text(&definition.catch_up, "one")),
        ("last tick", shown(schedule.last_tick)),
        ("next tick", shown(schedule.next_tick)),
    ];
    rows.into_iter()
        .try_for_each(|(key, value)| session.screen.line(format!("{key:<10} {}", crate::screen::one_line(&value))))
}

async fn next(session: &Session, client: &Client, name: &ScheduleName, count: u16) -> Result<()> {
    let ticks = client.next_ticks(name, usize::from(count)).await?;
    if ticks.is_empty() && !session.screen.json() {
        session.screen.note(format!("schedule {name} never fires again"));
    }
    ticks.into_iter().try_for_each(|tick| {
        if session.screen.json() {
            session.screen.document(&TickAt { tick })
        } else {
            session.screen.line(tick.to_string())
        }
    })
}

async fn run(session: &Session, client: &Client, name: &ScheduleName) -> Result<()> {
    let id = client.run_schedule(name).await?;
    if session.screen.json() { session.screen.document(&Ran { id }) } else { session.screen.line(id.to_string()) }
}

fn when(definition: &Definition) -> String {
    let zone = definition.timezone.as_deref().unwrap_or("UTC");
    match definition {
        Definition { rate: Some(rate), .. } => format!("every {rate}"),
        Definition { cron: Some(cron), .. } => format!("cron {cron} {zone}"),
        Definition { at: Some(at), .. } => format!("at {at} {zone}"),
        _ => String::new(),
    }
}

fn state(schedule: &ScheduleStatus) -> &'static str {
    match (schedule.definition.enabled, schedule.paused, schedule.next_tick) {
        (Some(false), ..) => "disabled",
        (_, true, _) => "paused",
        (_, _, None) => "over",
        _ => "active",
    }
}

fn shown(tick: Option<Timestamp>) -> String {
    tick.as_ref().map(ToString::to_string).unwrap_or_default()
}
