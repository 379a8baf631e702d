//! Whole-system tests: real agents, real function processes, a real store in a folder of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod aws;
mod batches;
mod chaos;
mod commands;
mod crashes;
mod deployed;
mod ends;
mod foreign;
mod input;
mod limits;
mod producers;
mod readme;
mod schedules;
mod sharing;
