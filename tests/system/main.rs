//! Whole-system tests: real agents, real function processes, a real store in a folder of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod asks;
mod aws;
mod batches;
mod chaos;
mod commands;
mod crashes;
mod dead;
mod demo;
mod deployed;
mod ecs;
mod ends;
mod eventbridge;
mod every_command;
mod foreign;
mod gpu_view;
mod gpus;
mod idempotency;
mod input;
mod limits;
mod load;
mod metrics;
mod permits;
mod producers;
mod readme;
mod retries;
mod rowless;
mod schedules;
mod sharing;
mod told_spans;
mod traces;
mod unread;
