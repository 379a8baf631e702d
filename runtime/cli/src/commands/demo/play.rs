//! What happens in the demo, in which order.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use rhubarb::{Client, client::Update};
use rhubarb_core::{
    ids::{TaskId, TaskName},
    row::State,
};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Notify;

use super::{
    short::{ShortTasks, WaitsOf},
    view::{Row, View},
};
use crate::{
    exit::{CliError, Result},
    screen::Screen,
};

/// How long short tasks arrive alone, for the comparison.
const QUIET: Duration = Duration::from_secs(10);
/// The evaluation of the earlier model is asked for when so much of a training is done.
const MIDDLE_PERCENT: u64 = 40;
/// The whole demo takes minutes; something that takes so long will not come.
const PLAY_MAX: Duration = Duration::from_secs(60 * 60);

/// The models that are trained while short tasks arrive.
pub(super) const MODELS: [&str; 2] = ["demo-one", "demo-two"];
const EARLIER: &str = "demo-earlier";

/// One of the larger tasks.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// What it is, for people.
    pub(super) title: String,
    /// The task.
    pub(super) id: TaskId,
    /// What it is for.
    pub(super) role: Role,
}

/// What a larger task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Makes the data set.
    Preprocessing,
    /// Trains the small model that is there before.
    EarlierTraining,
    /// One of the long ones.
    Training,
    /// Judges the small model in the middle of a long training.
    EarlierEvaluation,
    /// Judges a model of a long training.
    Evaluation,
    /// Measures the picture.
    Tissue,
}

/// The demo's run.
pub(super) struct Play<'a> {
    client: &'a Client,
    epochs: u32,
    view: View<'a>,
    steps: Mutex<Vec<Step>>,
    settled: Mutex<Vec<TaskId>>,
    /// The short tasks.
    pub(super) short: ShortTasks<'a>,
}

impl<'a> Play<'a> {
    /// A run over this client.
    pub(super) fn new(client: &'a Client, screen: &'a Screen, epochs: u32) -> Self {
        let view = View::new(screen);
        Self {
            client,
            epochs,
            view,
            steps: Mutex::default(),
            settled: Mutex::default(),
            short: ShortTasks::new(client),
        }
    }

    /// Plays it to its end, or to the first task that fails.
    pub(super) async fn run(&self) -> Result<()> {
        let late = || CliError::Task("the demo did not come to an end within an hour".into());
        tokio::time::timeout(PLAY_MAX, self.acts()).await.map_err(|_| late())?
    }

    async fn acts(&self) -> Result<()> {
        self.step(Role::Preprocessing, "preprocess_dataset", &json!({"dataset": "digits"})).await?;
        let earlier = json!({"dataset": "digits", "epochs": 15, "hidden": [128], "distortions": 8, "model": EARLIER});
        self.step(Role::EarlierTraining, "train_model", &earlier).await?;

        self.view.say("short tasks alone, to compare with");
        let row = self.view.row("short tasks");
        let quiet = self.short.arrive(WaitsOf::Quiet, &row, tokio::time::sleep(QUIET)).await;
        quiet?;

        self.view.say("two trainings, one after the other; short tasks go on");
        let trained = Notify::new();
        let trainings = async {
            let trained_all = self.trainings().await;
            trained.notify_one();
            trained_all
        };
        let (trained, arrived) =
            tokio::join!(trainings, self.short.arrive(WaitsOf::Training, &row, trained.notified()));
        trained?;
        arrived?;
        self.short.finish(&row).await
    }

    async fn trainings(&self) -> Result<()> {
        let middle = Notify::new();
        let task = |index: usize| json!({"dataset": "digits", "epochs": self.epochs, "model": MODELS[index], "seed": index + 1});
        let first = self.enqueue(Role::Training, "train_model", &task(0)).await?;
        let second = self.enqueue(Role::Training, "train_model", &task(1)).await?;
        let tissue = self.enqueue(Role::Tissue, "quantify_tissue", &json!({"images": []})).await?;
        let first = async {
            let done = self.follow(&first, |update| {
                let halfway = update.progress.as_ref().is_some_and(|p| p.done * 100 >= p.total * MIDDLE_PERCENT);
                if halfway {
                    middle.notify_one();
                }
            });
            let done = done.await;
            middle.notify_one();
            done
        };
        let asked_in_the_middle = async {
            middle.notified().await;
            self.step(Role::EarlierEvaluation, "run_evaluation", &json!({"model": EARLIER})).await
        };
        let (second, tissue) = (self.follow(&second, |_| {}), self.follow(&tissue, |_| {}));
        tokio::try_join!(first, second, tissue, asked_in_the_middle)?;
        for model in MODELS {
            self.step(Role::Evaluation, "run_evaluation", &json!({"model": model})).await?;
        }
        Ok(())
    }

    /// Enqueues a task and waits for it.
    async fn step(&self, role: Role, task: &str, args: &Value) -> Result<()> {
        let (step, row) = self.enqueue(role, task, args).await?;
        self.follow(&(step, row), |_| {}).await
    }

    async fn enqueue(&self, role: Role, task: &str, args: &Value) -> Result<(Step, Row)> {
        let handle = enqueue(self.client, task, args).await?;
        let title = match args.get("model").and_then(Value::as_str) {
            Some(model) => format!("{task} {model}"),
            None => task.to_owned(),
        };
        let row = self.view.row(&title);
        let step = Step { title, id: handle, role };
        lock(&self.steps).push(step.clone());
        Ok((step, row))
    }

    async fn follow(&self, (step, row): &(Step, Row), mut seen: impl FnMut(&Update)) -> Result<()> {
        let mut updates = std::pin::pin!(self.client.progress(step.id));
        let mut state = State::Queued;
        while let Some(update) = updates.next().await {
            let update = update?;
            row.update(&update);
            seen(&update);
            state = update.state;
        }
        lock(&self.settled).push(step.id);
        match state {
            State::Succeeded => Ok(()),
            state => Err(CliError::Task(format!("{} {state}: see `rhubarb task {}`", step.title, step.id))),
        }
    }

    /// Takes the progress bars away.
    pub(super) fn close(&self) {
        self.view.close();
    }

    /// The larger tasks, in the order in which they were enqueued.
    pub(super) fn steps(&self) -> Vec<Step> {
        lock(&self.steps).clone()
    }

    /// What has been enqueued and is not known to be settled.
    pub(super) fn unsettled(&self) -> Vec<TaskId> {
        let settled = lock(&self.settled);
        let steps = lock(&self.steps);
        let open = steps.iter().map(|step| step.id).filter(|id| !settled.contains(id));
        open.chain(self.short.unsettled()).collect()
    }
}

/// Enqueues a task by its name.
pub(super) async fn enqueue(client: &Client, task: &str, args: &Value) -> Result<TaskId> {
    let name = TaskName::new(task).map_err(|error| CliError::Usage(error.to_string()))?;
    let args = RawValue::from_string(args.to_string()).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(client.enqueue_named(name, args).await?.id())
}

/// A list that only this process's tasks share: one that panicked leaves it as it is.
pub(super) fn lock<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
