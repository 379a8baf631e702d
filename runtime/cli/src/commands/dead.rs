//! `rhubarb dead`: tasks that failed for good, to be looked at, brought back or discarded.

use clap::{Args, Subcommand};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use rhubarb::{
    Client, ClientError,
    client::{Changed, DeadFilter},
};
use rhubarb_core::{
    backend::{StoreError, TaskRecord},
    ids::{QueueName, TaskId, TaskName},
    row::State,
};
use serde::Serialize;

use super::task::Task;
use crate::{
    ask,
    exit::{CliError, Result},
    session::Session,
    values::{Moment, now, show_ago},
};

/// Look at dead letters, tasks that failed for good; bring them back, or discard them
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Dead {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rhubarb dead list --queue training --since 1d
  rhubarb dead show 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b
  rhubarb dead redrive 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b
  rhubarb dead redrive --task train_model --reason timeout
  rhubarb dead discard --reason poison --yes

Nothing else brings a failed task back: a message that is moved in the AWS console from the dead-letter queue
to the queue is deleted, as every late message of a settled task is.";

/// Characters of a reason in a list.
const REASON_CHARS_MAX: usize = 160;

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, those accepted last first
    List(List),
    /// Show everything about one: its arguments, its attempts, why each failed
    Show {
        /// The task
        id: TaskId,
    },
    /// Bring dead letters back: same id, attempts from 1, both runs in the history
    Redrive(Chosen),
    /// Forget dead letters for good; a late message of one never runs it
    Discard(Chosen),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    wanted: Wanted,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// Which dead letters.
#[derive(Args, Debug)]
struct Wanted {
    /// Of this queue
    #[arg(long)]
    queue: Option<QueueName>,
    /// Of this kind
    #[arg(long)]
    task: Option<TaskName>,
    /// Failed since then: a time, or a duration back from now
    #[arg(long, value_name = "WHEN", value_parser = Moment::read)]
    since: Option<Moment>,
    /// For this reason: the failure's kind, or the end of its path
    #[arg(long, value_name = "KIND")]
    reason: Option<String>,
}

#[derive(Args, Debug)]
struct Chosen {
    /// The tasks
    #[arg(conflicts_with_all = ["queue", "task", "since", "reason", "all"])]
    ids: Vec<TaskId>,
    #[command(flatten)]
    wanted: Wanted,
    /// Every dead letter
    #[arg(long, conflicts_with_all = ["queue", "task", "since", "reason"])]
    all: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Wanted {
    fn filter(self) -> DeadFilter {
        let Self { queue, task, since, reason } = self;
        DeadFilter { queue, task, since: since.map(|since| since.back(now())), reason }
    }

    const fn is_empty(&self) -> bool {
        self.queue.is_none() && self.task.is_none() && self.since.is_none() && self.reason.is_none()
    }
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Done {
    Redriven,
    Discarded,
}

impl Done {
    const fn word(self) -> &'static str {
        match self {
            Self::Redriven => "queued again",
            Self::Discarded => "discarded",
        }
    }
}

#[derive(Serialize)]
struct Line {
    id: TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Done>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Dead {
    /// Does what was asked.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        match self.command {
            Command::List(list) => list.run(session).await,
            Command::Show { id } => show(id, session).await,
            Command::Redrive(chosen) => chosen.change(Done::Redriven, session).await,
            Command::Discard(chosen) => chosen.change(Done::Discarded, session).await,
        }
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<()> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut dead = session.client().await?.dead(&self.wanted.filter());
        if session.screen.json() {
            let mut dead = dead.take(limit);
            while let Some(record) = dead.try_next().await? {
                session.screen.document(&record)?;
            }
            return Ok(());
        }
        let listed: Vec<TaskRecord> = dead.by_ref().take(limit).try_collect().await?;
        let header = ["id", "task", "queue", "attempts", "failed", "redriven", "reason"];
        let now = now();
        let row = |task: &TaskRecord| {
            vec![
                task.id.to_string(),
                task.task.to_string(),
                task.queue.to_string(),
                task.attempt.to_string(),
                task.settled.map(|at| show_ago(at, now)).unwrap_or_default(),
                if task.redriven > 0 { task.redriven.to_string() } else { String::new() },
                task.failure.as_ref().map(|failure| brief(failure.to_string())).unwrap_or_default(),
            ]
        };
        session.screen.rows(&listed, &header, row, "no dead letters")?;
        if listed.len() == limit && dead.try_next().await?.is_some() {
            session.screen.note(format!("the newest {limit}; --limit shows more"));
        }
        Ok(())
    }
}

async fn show(id: TaskId, session: &Session) -> Result<()> {
    let state = session.client().await?.state(id).await?;
    if state != State::Failed {
        return Err(CliError::Usage(format!("task {id} is {state}, no dead letter: `rhubarb task {id}` shows it")));
    }
    Task::of(id).run(session).await
}

impl Chosen {
    async fn change(self, done: Done, session: &Session) -> Result<()> {
        let client = session.client().await?;
        if !self.ids.is_empty() {
            return tell(done, changed_by_id(&client, done, self.ids).await, session);
        }
        if self.wanted.is_empty() && !self.all {
            return Err(CliError::Usage(
                "name tasks, or say which by --queue, --task, --since or --reason, or --all".into(),
            ));
        }
        let (all, yes) = (self.all, self.yes);
        let filter = self.wanted.filter();
        if !yes && (all || done == Done::Discarded) {
            ask_for(&client, done, &filter).await?;
        }
        tell_each(done, changed_by_filter(&client, done, &filter), session).await
    }
}

async fn ask_for(client: &Client, done: Done, filter: &DeadFilter) -> Result<()> {
    let (what, question) = match done {
        Done::Redriven => ("every dead letter would be queued again", "Queue again"),
        Done::Discarded => ("what is discarded cannot be brought back", "Discard"),
    };
    ask::somebody(what)?;
    let count = client.dead(filter).try_fold(0_u64, |count, _| async move { Ok(count + 1) }).await?;
    let unit = if count == 1 { "dead letter" } else { "dead letters" };
    ask::confirm(&format!("{question} {count} {unit}?"), "nothing was changed")
}

async fn changed_by_id(client: &Client, done: Done, ids: Vec<TaskId>) -> Vec<Changed<()>> {
    let answers: Vec<std::result::Result<(), ClientError>> = match done {
        Done::Redriven => client.redrive(&ids).await.into_iter().map(|answer| answer.map(|_| ())).collect(),
        Done::Discarded => client.discard(&ids).await,
    };
    ids.into_iter().zip(answers).collect()
}

type Stream<T> = BoxStream<'static, std::result::Result<T, ClientError>>;

fn changed_by_filter(client: &Client, done: Done, filter: &DeadFilter) -> Stream<Changed<()>> {
    match done {
        Done::Redriven => client.redrive_dead(filter).map_ok(|(id, answer)| (id, answer.map(|_| ()))).boxed(),
        Done::Discarded => client.discard_dead(filter),
    }
}

/// Says what became of the tasks that were named. One that could not be changed makes the command an error.
fn tell(done: Done, changed: Vec<Changed<()>>, session: &Session) -> Result<()> {
    let several = changed.len() > 1;
    let mut first = None;
    for (id, answer) in changed {
        let answer = answer.map_err(|error| in_words(id, error));
        tell_one(done, id, answer.as_ref().err().and_then(CliError::text), several, session)?;
        first = first.or(answer.err());
    }
    match first {
        None => Ok(()),
        Some(CliError::Usage(_)) if several => Err(CliError::Usage("not all of them could be changed".into())),
        Some(error) => Err(error),
    }
}

/// Says what became of those that were found, as they come.
async fn tell_each(done: Done, mut changed: Stream<Changed<()>>, session: &Session) -> Result<()> {
    let (mut count, mut missed) = (0_u64, 0_u64);
    while let Some((id, answer)) = changed.try_next().await? {
        match answer {
            Ok(()) => {
                count += 1;
                if session.screen.json() {
                    tell_one(done, id, None, true, session)?;
                }
            }
            // Somebody else was faster.
            Err(ClientError::Store(StoreError::Refused(_) | StoreError::NoTask(_)) | ClientError::NoTask(_)) => {}
            Err(error) => {
                missed += 1;
                let error = in_words(id, error);
                tell_one(done, id, error.text(), true, session)?;
            }
        }
    }
    if !session.screen.json() {
        let unit = if count == 1 { "dead letter" } else { "dead letters" };
        session.screen.line(format!("{count} {unit} {}", done.word()))?;
    }
    if missed > 0 {
        return Err(CliError::Usage(format!("{missed} of them could not be changed")));
    }
    Ok(())
}

fn tell_one(done: Done, id: TaskId, error: Option<&str>, several: bool, session: &Session) -> Result<()> {
    if session.screen.json() {
        let line = Line { id, done: error.is_none().then_some(done), error: error.map(ToOwned::to_owned) };
        return session.screen.document(&line);
    }
    match error {
        None => session.screen.line(format!("{id} {}", done.word())),
        Some(error) if several => {
            session.screen.note(error);
            Ok(())
        }
        // Said by the end of the command.
        Some(_) => Ok(()),
    }
}

fn in_words(id: TaskId, error: ClientError) -> CliError {
    match error {
        ClientError::Store(StoreError::Refused(refusal)) => {
            CliError::Usage(format!("task {id} is {}: only a failed one is a dead letter", refusal.state))
        }
        other => other.into(),
    }
}

/// As much of a reason as a list has room for; `dead show` shows all of it.
fn brief(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}
