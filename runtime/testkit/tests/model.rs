//! Every state of small cases, and cases with a rule taken away, which must be noticed.
//!
//! `RHUBARB_MODEL_TASKS=2 RHUBARB_MODEL_FAULTS=3` searches larger ones.

#![allow(clippy::panic, reason = "a test may stop where it stands")]

use std::time::Instant;

use rhubarb_core::row::AckMode;
use rhubarb_testkit::{
    model::{Case, explore},
    simulation::Sabotage,
};

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: `{text}`")))
}

fn no_state_breaks_a_rule(ack: AckMode, tasks: usize, faults: u8) {
    let tasks = number("RHUBARB_MODEL_TASKS").unwrap_or(tasks);
    let faults = number("RHUBARB_MODEL_FAULTS").map_or(faults, |faults| u8::try_from(faults).unwrap_or(u8::MAX));
    let began = Instant::now();
    match explore(Case { ack, tasks, faults, sabotage: None }) {
        Ok(searched) => {
            let mode = ack.as_str();
            println!("mode {mode}, 2 workers, tasks {tasks}, faults {faults}: {searched:?} in {:?}", began.elapsed());
            assert!(searched.states > 1_000, "{searched:?}");
        }
        Err(broken) => panic!("{broken}"),
    }
}

#[test]
fn no_state_of_one_task_in_mode_lease_breaks_a_rule_and_none_is_a_dead_end() {
    no_state_breaks_a_rule(AckMode::Lease, 1, 3);
}

#[test]
fn no_state_of_one_task_in_mode_message_breaks_a_rule_and_none_is_a_dead_end() {
    no_state_breaks_a_rule(AckMode::Message, 1, 3);
}

#[test]
fn no_state_of_two_tasks_in_mode_lease_breaks_a_rule_and_none_is_a_dead_end() {
    no_state_breaks_a_rule(AckMode::Lease, 2, 0);
}

#[test]
fn no_state_of_two_tasks_in_mode_message_breaks_a_rule_and_none_is_a_dead_end() {
    no_state_breaks_a_rule(AckMode::Message, 2, 0);
}

fn is_noticed(sabotage: Sabotage, ack: AckMode, by: &str) {
    let broken = (0..=2).find_map(|faults| explore(Case { ack, tasks: 1, faults, sabotage: Some(sabotage) }).err());
    let broken = broken.unwrap_or_else(|| panic!("{sabotage:?} was not noticed in mode {}", ack.as_str()));
    assert!(broken.rule.contains(by), "{broken}");
    assert!(!broken.trace.is_empty(), "{broken}");
    println!("{sabotage:?} in mode {}:\n{broken}\n", ack.as_str());
}

#[test]
fn a_store_that_does_not_fence_is_noticed_in_both_modes() {
    is_noticed(Sabotage::NoFencing, AckMode::Lease, "another is the newest");
    is_noticed(Sabotage::NoFencing, AckMode::Message, "another is the newest");
}

#[test]
fn a_message_deleted_before_its_outcome_is_written_is_noticed() {
    is_noticed(Sabotage::DeleteBeforeSettle, AckMode::Message, "its message has gone");
}

#[test]
fn a_dropped_delivery_of_a_held_task_is_noticed() {
    is_noticed(Sabotage::DropHeldDeliveries, AckMode::Message, "its message has gone");
}

#[test]
fn a_reaper_that_goes_by_a_worker_s_clock_is_noticed_in_both_modes() {
    is_noticed(Sabotage::ReapByWorkerClock, AckMode::Lease, "before its lease ended");
    is_noticed(Sabotage::ReapByWorkerClock, AckMode::Message, "before its lease ended");
}

#[test]
fn a_sweep_that_rings_nothing_is_a_dead_end() {
    is_noticed(Sabotage::SilentSweep, AckMode::Lease, "can never settle");
}
