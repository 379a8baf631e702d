//! Many worlds, each from its seed; and worlds with a rule taken away, which must be noticed.
//!
//! `RHUBARB_SIM_RUNS=1000000` tries more of them, `RHUBARB_SIM_FROM=500000` others, `RHUBARB_SIM_SEED=7` one again with
//! its trace.

#![allow(clippy::panic, reason = "a test may stop where it stands")]

use std::{env, thread};

use rhubarb_testkit::simulation::{Sabotage, Tally, simulate};

/// Enough to meet every rule many times; about half a minute on two cores that have nothing else to do.
const RUNS: u64 = 100_000;
/// Each sabotage shows itself long before.
const RUNS_UNTIL_NOTICED: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: `{text}`")))
}

fn run(seeds: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        match simulate(seed, None) {
            Ok(run) => tally += run,
            Err(broken) => panic!("{broken}"),
        }
    }
    tally
}

#[test]
fn no_interleaving_breaks_a_rule() {
    if let Some(seed) = number("RHUBARB_SIM_SEED") {
        run(std::iter::once(seed));
        return;
    }
    let runs = number("RHUBARB_SIM_RUNS").unwrap_or(RUNS);
    let first = number("RHUBARB_SIM_FROM").unwrap_or(0);
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| scope.spawn(move || run((first + part..first + runs).step_by(threads as usize))))
            .collect();
        for part in parts {
            match part.join() {
                Ok(run) => tally += run,
                Err(broken) => std::panic::resume_unwind(broken),
            }
        }
    });
    println!("{runs} interleavings: {tally:?}");
    // The worlds are worth something: all of it happened, and often.
    assert!(
        tally.crashes > runs
            && tally.reaped > runs / 4
            && tally.refused > runs / 10
            && tally.settled >= runs
            && tally.parked > runs / 5,
        "{tally:?}"
    );
}

/// What broke a rule once: 505931 let a second task of a key start beside a holder that came back late.
#[test]
fn what_broke_a_rule_once_breaks_none_any_more() {
    run([505_931].into_iter());
}

fn is_noticed(sabotage: Sabotage, by: &str) {
    let broken = (0..RUNS_UNTIL_NOTICED).find_map(|seed| simulate(seed, Some(sabotage)).err());
    let broken = broken.unwrap_or_else(|| panic!("{sabotage:?} was not noticed in {RUNS_UNTIL_NOTICED} runs"));
    assert!(broken.rule.contains(by), "{broken}");
    assert!(!broken.trace.is_empty());
    // The seed alone breaks it again, step by step.
    assert_eq!(simulate(broken.seed, Some(sabotage)), Err(broken));
}

#[test]
fn a_store_that_does_not_fence_is_noticed() {
    is_noticed(Sabotage::NoFencing, "is the newest");
}

#[test]
fn a_message_deleted_before_its_outcome_is_written_is_noticed() {
    is_noticed(Sabotage::DeleteBeforeSettle, "its message has gone");
}

#[test]
fn a_dropped_delivery_of_a_held_task_is_noticed() {
    is_noticed(Sabotage::DropHeldDeliveries, "its message has gone");
}

#[test]
fn a_doorbell_that_a_fifo_queue_has_seen_before_is_noticed() {
    is_noticed(Sabotage::SameBellAgain, "nothing will ring it");
}

#[test]
fn a_sweep_that_rings_nothing_is_noticed() {
    is_noticed(Sabotage::SilentSweep, "never settle");
}

#[test]
fn a_claim_that_ignores_the_limits_is_noticed() {
    is_noticed(Sabotage::ClaimPastLimits, "permits of the");
}

#[test]
fn a_permit_that_is_given_back_twice_is_noticed() {
    is_noticed(Sabotage::PermitGivenBackTwice, "permits of the");
}

#[test]
fn parked_tasks_that_nobody_calls_are_noticed() {
    is_noticed(Sabotage::ParkedNeverCalled, "never settle");
}

#[test]
fn a_reaper_that_goes_by_a_worker_s_clock_is_noticed() {
    is_noticed(Sabotage::ReapByWorkerClock, "before its lease ended");
}
