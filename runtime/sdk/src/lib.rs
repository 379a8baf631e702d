//! Rhubarb: write functions, enqueue tasks, read results.

#[cfg(feature = "client")]
pub mod client;
mod context;
mod error;
mod function;
mod new_task;
mod task;
mod task_error;

pub use rhubarb_core as core;

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
