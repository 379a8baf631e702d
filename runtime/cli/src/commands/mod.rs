//! The commands, one a file: what each is called with, and what it does.

pub(crate) mod agent;
pub(crate) mod cancel;
pub(crate) mod chaos;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dead;
pub(crate) mod demo;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod enqueue;
pub(crate) mod gpus;
pub(crate) mod health;
pub(crate) mod logs;
pub(crate) mod new;
pub(crate) mod package;
pub(crate) mod pause;
pub(crate) mod purge;
pub(crate) mod queues;
pub(crate) mod result;
pub(crate) mod schedules;
pub(crate) mod schema;
pub(crate) mod task;
pub(crate) mod tasks;
pub(crate) mod trace;
pub(crate) mod workers;
