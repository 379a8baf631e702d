//! Rhubarb: write functions, enqueue tasks, read results.
//!
//! A **task** is a type: its fields are the arguments. A **function** is an executable with handlers
//! for some kinds of task. The same binary runs on AWS Lambda, in a container with a GPU and on a
//! laptop; it links neither AWS nor a database.
//!
//! ```no_run
//! use rhubarb::{Context, Function, Task, TaskError};
//! use serde::{Deserialize, Serialize};
//!
//! # #[derive(Serialize, Deserialize)] pub struct TrainedModel;
//! /// Trains a classifier on a data set.
//! #[derive(Serialize, Deserialize)]
//! pub struct TrainModel { pub dataset: String, pub epochs: u32 }
//!
//! impl Task for TrainModel {
//!     const NAME: &'static str = "train_model";
//!     const QUEUE: &'static str = "training";
//!     type Output = TrainedModel;
//! }
//!
//! async fn train_model(task: TrainModel, cx: Context) -> Result<TrainedModel, TaskError> {
//!     # let model = TrainedModel;
//!     for epoch in 1..=task.epochs {
//!         // …
//!         cx.progress(epoch, task.epochs).await?;
//!     }
//!     Ok(model)
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), rhubarb::Error> {
//!     Function::new().on(train_model).run().await // on Lambda, under the agent, on a laptop
//! }
//! ```
//!
//! * An error that leaves a handler by `?` is tried again by the queue's policy; [`TaskError`] says
//!   everything else: fail for good, come back later, stopped on request. A panic is a failure with
//!   its message.
//! * Tasks run **at least once**: a crash, or a worker that is cut off from the store, leads to
//!   another attempt. Handlers that change the world outside should bear it.
//! * [`Context`] has what a handler needs of its host: progress, checkpoints, cancellation, blobs,
//!   other tasks. [`testing`] runs a handler without any host in three lines.
//!
//! The producer needs only the type (feature `client`, with `local` for the embedded backend and `aws` for AWS):
//! `client.enqueue(TrainModel { … }).await?.output().await?`.
//!
//! ```no_run
//! # #[cfg(feature = "local")]
//! # mod producer {
//! # use rhubarb::Task;
//! # #[derive(serde::Serialize, serde::Deserialize)] struct TrainModel { dataset: String, epochs: u32 }
//! # impl Task for TrainModel { const NAME: &'static str = "train_model"; type Output = f64; }
//! # async fn produce() -> Result<(), Box<dyn std::error::Error>> {
//! let client = rhubarb::Client::open("rhubarb.toml").await?;
//! let training = client.enqueue(TrainModel { dataset: "digits".into(), epochs: 30 }).max_attempts(2).await?;
//! println!("task {} gave {}", training.id(), training.output().await?);
//! # Ok(())
//! # }
//! # }
//! ```

#[cfg(feature = "client")]
pub mod client;
mod context;
mod error;
mod function;
mod new_task;
mod task;
mod task_error;
pub mod testing;

pub use rhubarb_core as core;
pub use rhubarb_core::ids::TaskId;

#[cfg(feature = "client")]
pub use self::client::{Client, ClientError, Handle, OutputError};
pub use self::{
    context::{Blobs, CancelReason, Context, ContextError, Enqueued, Swept, ToHost},
    error::Error,
    function::Function,
    new_task::{Enqueue, NewTask},
    task::Task,
    task_error::{BoxError, TaskError},
};
