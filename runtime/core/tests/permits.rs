//! Permits: what a meter allows, and what rows make of it.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::time::Duration;

use proptest::prelude::*;
use rhubarb_core::{
    ids::{FencingToken, WorkerId},
    limits::Limits,
    outcome::Outcome,
    permit::{Gate, Meter, Permit, QueueLimits, Rate, Scope, ScopeLimits, Stage, concurrency_key},
    row::{AckMode, Claim, ClaimTerms, Renewed, Row, State},
    time::{LeaseTime, Now, Timestamp},
};

const LEASE: Duration = Duration::from_secs(30);

fn at(ms: i64) -> Now {
    Now { epoch: Timestamp(ms), lease: LeaseTime(ms) }
}

const fn at_once(max: u32) -> QueueLimits {
    QueueLimits { queue: ScopeLimits { max_running: Some(max), rate: None }, ..QueueLimits::NONE }
}

const fn rated(count: u32, period: Duration) -> QueueLimits {
    let rate = Some(Rate { count, period });
    QueueLimits { queue: ScopeLimits { max_running: None, rate }, ..QueueLimits::NONE }
}

/// A queue: its meter, and the rows that pass it.
struct Queue {
    meter: Meter,
    limits: QueueLimits,
    rows: Vec<Row>,
}

impl Queue {
    fn new(limits: QueueLimits, rows: usize) -> Self {
        let row = Row::submitted(None, None, None, Timestamp(0), &Limits::AWS);
        Self { meter: Meter::default(), limits, rows: vec![row; rows] }
    }

    fn gate(&self) -> Gate {
        Gate { key: None, queue: Some(self.meter.clone()), of_key: None }
    }

    fn claim(&mut self, index: usize, now: i64) -> Claim {
        let worker = WorkerId::new("w-1").unwrap();
        let terms = ClaimTerms {
            worker: &worker,
            lease: LEASE,
            ack: AckMode::Lease,
            max_attempts: 1_000,
            purged_before: None,
            limits: self.limits,
        };
        let mut gate = self.gate();
        let claim = self.rows[index].claim_within(&terms, &mut gate, at(now));
        self.meter = gate.queue.unwrap();
        claim
    }

    /// What a store does when a verb has changed a row.
    fn follow(&mut self, index: usize, change: impl FnOnce(&mut Row)) {
        let before = self.rows[index].permit.clone();
        change(&mut self.rows[index]);
        let mut gate = self.gate();
        gate.moved(before.as_deref(), self.rows[index].permit.as_deref());
        self.meter = gate.queue.unwrap();
    }

    fn settle(&mut self, index: usize, now: i64) {
        let fence = self.rows[index].fence;
        self.follow(index, |row| {
            // Refused where nobody holds it: then nothing changes.
            let _ = row.settle(fence, &Outcome::Succeeded(None), at(now), &Limits::AWS);
        });
    }

    fn reap(&mut self, index: usize, now: i64) {
        let seen = self.rows[index].hold.as_ref().map(|hold| hold.until);
        let fence = self.rows[index].fence;
        self.follow(index, |row| {
            if let Some(until) = seen {
                let _ = row.reap(fence, until, at(now));
            }
        });
    }

    fn call(&mut self, index: usize, now: i64) -> bool {
        let mut gate = self.gate();
        let called = self.rows[index].call(Scope::Queue, &mut gate, Timestamp(now));
        self.meter = gate.queue.unwrap();
        called
    }

    fn running(&self) -> usize {
        self.rows.iter().filter(|row| row.state == State::Running).count()
    }

    fn count(&self, of: impl Fn(&Stage) -> bool) -> u32 {
        let permits = self.rows.iter().filter_map(|row| row.permit.as_deref());
        u32::try_from(permits.filter(|permit| of(&permit.stage)).count()).unwrap()
    }

    fn assert_counted(&self) {
        assert_eq!(self.meter.running, self.count(|stage| matches!(stage, Stage::Held { .. })));
        assert_eq!(self.meter.parked, self.count(|stage| matches!(stage, Stage::Parked { .. })));
        assert_eq!(self.meter.called, self.count(|stage| matches!(stage, Stage::Called { .. })));
    }
}

#[test]
fn a_task_without_a_permit_is_parked_and_called_when_one_is_free() {
    let mut queue = Queue::new(at_once(1), 2);
    assert_eq!(queue.claim(0, 0), Claim::Won);
    assert_eq!(queue.claim(1, 0), Claim::Parked);
    assert_eq!((queue.rows[1].state, queue.rows[1].ring_at), (State::Waiting, None));
    assert!(!queue.call(1, 1), "no permit is free");
    queue.settle(0, 2);
    assert!(queue.call(1, 3));
    assert_eq!(
        (queue.rows[1].state, queue.rows[1].rings, queue.rows[1].ring_at),
        (State::Queued, 2, Some(Timestamp(3)))
    );
    assert!(!queue.call(1, 3), "it is parked no more");
    assert_eq!(queue.claim(1, 4), Claim::Won);
    queue.assert_counted();
}

#[test]
fn no_more_are_called_than_may_start() {
    let mut queue = Queue::new(at_once(2), 6);
    let claims: Vec<Claim> = (0..6).map(|index| queue.claim(index, 0)).collect();
    assert_eq!(claims.iter().filter(|claim| **claim == Claim::Won).count(), 2);
    queue.settle(0, 1);
    queue.settle(1, 1);
    assert_eq!((2..6).filter(|index| queue.call(*index, 2)).count(), 2);
    queue.assert_counted();
}

#[test]
fn a_called_task_that_finds_no_permit_is_parked_again() {
    let mut queue = Queue::new(at_once(1), 3);
    queue.claim(0, 0);
    queue.claim(1, 0);
    queue.settle(0, 1);
    assert!(queue.call(1, 1));
    assert_eq!(queue.claim(2, 2), Claim::Won, "a newcomer finds a permit free and takes it");
    assert_eq!(queue.claim(1, 3), Claim::Parked);
    queue.assert_counted();
    queue.settle(2, 4);
    assert!(queue.call(1, 4));
}

#[test]
fn a_holder_that_comes_back_late_makes_more_run_than_may_and_the_store_can_tell() {
    let mut queue = Queue::new(at_once(1), 2);
    queue.claim(0, 0);
    let fence = queue.rows[0].fence;
    let late = 31_000;
    queue.reap(0, late);
    assert_eq!(queue.meter.running, 0, "its permit has gone back");
    assert_eq!(queue.claim(1, late), Claim::Won);
    let (before, mut row) = (queue.rows[0].permit.clone(), queue.rows[0].clone());
    assert!(matches!(row.renew(fence, at(late)), Renewed::Kept { .. }));
    let mut gate = queue.gate();
    gate.moved(before.as_deref(), row.permit.as_deref());
    assert!(gate.is_over());
}

#[test]
fn what_a_late_holder_settles_counts_also_when_its_task_is_parked() {
    let mut queue = Queue::new(at_once(1), 2);
    queue.claim(0, 0);
    let late = 31_000;
    queue.reap(0, late);
    queue.claim(1, late);
    assert_eq!(queue.claim(0, late), Claim::Parked);
    queue.follow(0, |row| {
        row.settle(FencingToken(1), &Outcome::Succeeded(None), at(late), &Limits::AWS).unwrap();
    });
    assert_eq!(queue.rows[0].state, State::Succeeded);
    queue.assert_counted();
}

/// Where it is not known what it counted for, it counts for the queue and for its key: else another of the key starts
/// beside it.
#[test]
fn a_late_holder_whose_task_was_parked_meanwhile_counts_for_its_key_too() {
    for stage in [Stage::Parked { scope: Scope::Queue }, Stage::Called { scope: Scope::Queue, slot: None }] {
        let mut queue = Queue::new(at_once(1), 2);
        queue.claim(0, 0);
        queue.reap(0, 31_000);
        queue.claim(1, 31_000);
        assert_eq!(queue.claim(0, 31_000), Claim::Parked);
        let row = &mut queue.rows[0];
        row.permit = Some(Box::new(Permit { key: Some("a".into()), stage }));
        assert!(matches!(row.renew(FencingToken(1), at(31_000)), Renewed::Kept { .. }));
        let held = Permit { key: Some("a".into()), stage: Stage::Held { queue: true, key: true } };
        assert_eq!(row.permit.as_deref(), Some(&held));
    }
}

#[test]
fn an_expired_task_ends_when_it_is_called() {
    let mut queue = Queue::new(at_once(1), 2);
    queue.rows[1].expires = Some(Timestamp(10));
    queue.claim(0, 0);
    queue.claim(1, 0);
    queue.settle(0, 20);
    assert!(queue.call(1, 20));
    assert_eq!(queue.rows[1].state, State::Expired);
    queue.assert_counted();
}

#[test]
fn a_limit_that_is_raised_is_known_to_whoever_calls() {
    let mut queue = Queue::new(at_once(1), 4);
    for index in 0..3 {
        queue.claim(index, 0);
    }
    queue.limits = at_once(4);
    assert_eq!(queue.claim(3, 1), Claim::Won);
    assert!(queue.call(1, 1) && queue.call(2, 1));
}

#[test]
fn a_refused_takeover_is_left_to_the_reaper() {
    let mut queue = Queue::new(rated(1, Duration::from_secs(60)), 1);
    assert_eq!(queue.claim(0, 0), Claim::Won);
    let ended = LEASE.as_millis() as i64 + 1;
    assert!(matches!(queue.claim(0, ended), Claim::Held { .. }));
    assert_eq!((queue.rows[0].state, queue.meter.running), (State::Running, 1));
}

#[test]
fn a_promised_start_is_kept_free() {
    let mut queue = Queue::new(rated(1, Duration::from_secs(6)), 3);
    queue.claim(0, 0);
    assert_eq!(queue.claim(1, 0), Claim::Parked);
    assert!(queue.call(1, 1000), "within the horizon");
    let slot = queue.rows[1].not_before.unwrap();
    assert!(slot.0 > 6000 && slot.0 <= 6200, "{slot}");
    assert_eq!(queue.claim(2, slot.0), Claim::Parked, "the start is another's");
    assert_eq!(queue.claim(1, slot.0), Claim::Won);
}

#[test]
fn a_key_is_read_from_the_envelope() {
    let spec = |key: &str| {
        format!(
            r#"{{"v":1,"id":"0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b","task":"t","args":null,"concurrency_key":"{key}"}}"#
        )
    };
    assert_eq!(concurrency_key(&spec("tenant-7")).as_deref(), Some("tenant-7"));
    assert_eq!(concurrency_key(&spec("")), None);
    assert_eq!(concurrency_key(&spec(&"x".repeat(129))).map(|key| key.len()), Some(64));
    assert_eq!(concurrency_key("no envelope"), None);
}

#[test]
fn a_permit_counts_in_its_own_scope_only() {
    let parked = Permit { key: Some("a".into()), stage: Stage::Parked { scope: Scope::Key } };
    assert_ne!(Permit::share(Some(&parked), Scope::Key), Permit::share(None, Scope::Key));
    assert_eq!(Permit::share(Some(&parked), Scope::Queue), Permit::share(None, Scope::Queue));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Claim(usize),
    Settle(usize),
    Reap(usize),
    Call(usize),
    Cancel(usize),
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = 0..8_usize;
    let step = prop_oneof![
        4 => index.clone().prop_map(Step::Claim),
        2 => index.clone().prop_map(Step::Settle),
        1 => index.clone().prop_map(Step::Reap),
        3 => index.clone().prop_map(Step::Call),
        1 => index.prop_map(Step::Cancel),
        2 => (0..20_000_i64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..200)
}

fn run(mut queue: Queue, steps: Vec<Step>, mut check: impl FnMut(&Queue, Option<i64>)) {
    let mut now = 0;
    for step in steps {
        let mut started = None;
        match step {
            Step::Claim(index) => started = (queue.claim(index, now) == Claim::Won).then_some(now),
            Step::Settle(index) => queue.settle(index, now),
            Step::Reap(index) => queue.reap(index, now),
            Step::Call(index) => {
                queue.call(index, now);
            }
            Step::Cancel(index) => queue.follow(index, |row| {
                let _ = row.cancel();
            }),
            Step::Wait(ms) => now += ms,
        }
        check(&queue, started);
    }
}

proptest! {
    #[test]
    fn no_more_run_than_may_whatever_happens(max in 1..4_u32, steps in steps()) {
        run(Queue::new(at_once(max), 8), steps, |queue, _| {
            assert!(queue.running() <= max as usize);
            assert!(queue.meter.running <= max);
            queue.assert_counted();
        });
    }

    #[test]
    fn no_more_start_in_any_period_than_may(count in 1..4_u32, seconds in 1..60_u64, steps in steps()) {
        let period = Duration::from_secs(seconds);
        let mut starts: Vec<i64> = Vec::new();
        run(Queue::new(rated(count, period), 8), steps, |queue, started| {
            queue.assert_counted();
            starts.extend(started);
            for some in starts.windows(count as usize + 1) {
                let between = some[count as usize] - some[0];
                assert!(between >= period.as_millis() as i64, "{some:?}");
            }
        });
    }

    #[test]
    fn whoever_is_parked_can_start_once_the_others_are_done(max in 1..4_u32, steps in steps()) {
        let mut end = None;
        run(Queue::new(at_once(max), 8), steps, |queue, _| {
            end = Some(Queue { meter: queue.meter.clone(), limits: queue.limits, rows: queue.rows.clone() });
        });
        let Some(mut queue) = end else { return Ok(()) };
        let now = 10_000_000;
        // As workers and the sweep do until nothing is left.
        for _ in 0..50 {
            for index in 0..8 {
                queue.call(index, now);
                if queue.rows[index].state == State::Queued {
                    queue.claim(index, now);
                }
                queue.settle(index, now);
            }
        }
        prop_assert!(queue.rows.iter().all(|row| row.state.is_settled()));
        prop_assert_eq!((queue.meter.running, queue.meter.parked, queue.meter.called), (0, 0, 0));
    }
}
