//! Whole-system tests: real agents, real function processes, a real store in a folder of its own.

mod batches;
mod commands;
mod crashes;
mod ends;
mod foreign;
mod input;
mod limits;
mod sharing;
