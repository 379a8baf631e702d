//! Tries to break the row: the table of moves against one written out here, each guarantee that a
//! single row can keep or lose, and random walks whose ledger knows only what holders were told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop where it stands")]

use std::{borrow::Cow, time::Duration};

use proptest::prelude::*;
use rhubarb_core::{
    ids::{FencingToken, WorkerId},
    limits::{DOORBELL_AGE_MAX, DOORBELL_PATIENCE, INTERRUPTIONS_MAX, Limits, SNOOZES_MAX},
    outcome::{Failure, Outcome},
    row::{AckMode, Claim, ClaimTerms, Disposition, Move, Renewed, Row, State},
    time::{LeaseTime, Now, Timestamp},
};

const LEASE: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits::AWS;

/// A moment: both clocks, which start apart so that mixing them up shows.
fn at(seconds: i64) -> Now {
    Now { epoch: Timestamp(1_800_000_000_000 + seconds * 1000), lease: LeaseTime(7_000 + seconds * 1000) }
}

fn worker() -> WorkerId {
    WorkerId::new("worker-1").unwrap()
}

fn queued() -> Row {
    Row::submitted(None, None, None, at(0).epoch, &LIMITS)
}

fn claim(row: &mut Row, ack: AckMode, max_attempts: u32, now: Now) -> Claim {
    let worker = worker();
    row.claim(
        &ClaimTerms {
            worker: &worker,
            lease: LEASE,
            ack,
            max_attempts,
            purged_before: None,
            limits: rhubarb_core::permit::QueueLimits::NONE,
        },
        now,
    )
}

/// A row that runs since second 0 with three attempts in all.
fn running(ack: AckMode) -> Row {
    let mut row = queued();
    assert_eq!(claim(&mut row, ack, 3, at(0)), Claim::Won);
    row
}

/// A row that fell silent at second 0 and was reaped at second 31.
fn reaped(ack: AckMode) -> Row {
    let mut row = running(ack);
    let until = row.hold.as_ref().unwrap().until;
    row.reap(row.fence, until, at(31)).unwrap();
    row
}

fn failed(retry_in: Option<u64>) -> Outcome {
    Outcome::Failed { failure: Failure::new("test", "no luck"), retry_in: retry_in.map(Duration::from_secs) }
}

fn interrupted(alone: bool) -> Outcome {
    Outcome::Interrupted { alone, why: Cow::Borrowed("shutdown") }
}

/// One outcome of each kind.
fn outcomes() -> Vec<Outcome> {
    let snoozed = Outcome::Snoozed(Duration::from_secs(60));
    let poisoned = Outcome::Poisoned(Failure::new(Failure::POISON, "unreadable"));
    let others = [snoozed, poisoned, interrupted(false), interrupted(true), Outcome::Cancelled];
    [Outcome::Succeeded(None), failed(None), failed(Some(0)), failed(Some(5))].into_iter().chain(others).collect()
}

/// Only a damaged file holds such a row; who meets it must not end for it.
#[test]
fn counters_at_their_end_stay_there() {
    let end = FencingToken(u64::MAX);
    let mut row = Row { attempt: u32::MAX, redriven: u32::MAX, fence: end, ..queued() };
    assert_eq!(claim(&mut row, AckMode::Lease, 3, at(0)), Claim::Won);
    assert_eq!((row.attempt, row.fence), (u32::MAX, end));
    row.settle(end, &failed(None), at(1), &LIMITS).unwrap();
    row.redrive(at(2).epoch).unwrap();
    assert_eq!((row.state, row.redriven), (State::Queued, u32::MAX));
}

mod table {
    use super::*;

    /// Where each move leads from `scheduled`, `waiting`, `queued`, `running`, `retrying`,
    /// `succeeded`, `failed`, `cancelled`, `expired`: the state's first letters, or a dot where it is
    /// refused.
    const TABLE: [(Move, &str); 16] = [
        (Move::Claim, "run run run ... run ... ... ... ..."),
        (Move::TakeOver, "... ... ... run ... ... ... ... ..."),
        (Move::Renew, "... run run run ... ... ... ... ..."),
        (Move::Succeed, "... suc suc suc ... ... ... ... ..."),
        (Move::Bury, "... fai fai fai ... ... ... ... ..."),
        (Move::Retry, "... ret ret ret ... ... ... ... ..."),
        (Move::GiveBack, "... que que que ... ... ... ... ..."),
        (Move::Stop, "... can can can ... ... ... ... ..."),
        (Move::Reap, "... ... ... que ... ... ... ... ..."),
        (Move::Lose, "... ... ... fai ... ... ... ... ..."),
        (Move::Cancel, "can can can ... can ... ... ... ..."),
        (Move::CancelLost, "... ... ... can ... ... ... ... ..."),
        (Move::Expire, "exp exp exp exp exp ... ... ... ..."),
        (Move::Redrive, "... ... ... ... ... ... que ... ..."),
        (Move::Park, "wai wai wai ... wai ... ... ... ..."),
        (Move::Call, "... que ... ... ... ... ... ... ..."),
    ];

    #[test]
    fn every_pair_of_state_and_move_is_as_written_out() {
        assert_eq!(TABLE.map(|(step, _)| step), Move::ALL);
        for (step, line) in TABLE {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words.len(), State::ALL.len());
            for (state, word) in State::ALL.into_iter().zip(words) {
                let led = state.after(step).map_or("...", |to| &to.as_str()[..3]);
                assert_eq!(led, word, "{state} and {step:?}");
            }
        }
    }

    #[test]
    fn only_redrive_leaves_a_settled_state() {
        for state in State::ALL.into_iter().filter(|state| state.is_settled()) {
            for step in Move::ALL.into_iter().filter(|step| *step != Move::Redrive) {
                assert_eq!(state.after(step), None, "{state} and {step:?}");
            }
        }
    }

    #[test]
    fn every_unsettled_state_has_a_way_to_an_end_and_every_state_can_be_reached() {
        for state in State::ALL.into_iter().filter(|state| !state.is_settled()) {
            let ends = Move::ALL.into_iter().filter_map(|step| state.after(step)).any(State::is_settled);
            assert!(ends, "{state}");
        }
        let mut reached = vec![State::Scheduled, State::Waiting, State::Queued];
        while let Some(next) = Move::ALL
            .into_iter()
            .flat_map(|step| reached.iter().filter_map(move |state| state.after(step)))
            .find(|state| !reached.contains(state))
        {
            reached.push(next);
        }
        assert_eq!(reached.len(), State::ALL.len());
    }

    #[test]
    fn a_state_is_read_back_from_its_word_and_from_its_number() {
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(state as usize, number);
            assert_eq!(State::from_number(u8::try_from(number).unwrap()), Some(state));
        }
        assert_eq!(State::from_number(9), None);
        assert!("done".parse::<State>().unwrap_err().contains("succeeded"));
    }
}

mod claiming {
    use super::*;

    #[test]
    fn a_claim_raises_the_token_and_the_attempt_and_grants_a_lease_by_the_store_s_clock() {
        let row = running(AckMode::Lease);
        assert_eq!((row.state, row.fence, row.attempt), (State::Running, FencingToken(1), 1));
        let hold = row.hold.unwrap();
        assert_eq!((hold.until, hold.started), (at(30).lease, at(0).epoch));
    }

    #[test]
    fn the_envelope_and_the_queue_both_bound_the_attempts() {
        for (asked, policy, expected) in [(Some(2), 5, 2), (Some(9), 5, 5), (None, 5, 5), (Some(0), 0, 1)] {
            let mut row = Row::submitted(asked, None, None, at(0).epoch, &LIMITS);
            claim(&mut row, AckMode::Lease, policy, at(0));
            assert_eq!(row.max_attempts, expected, "{asked:?} {policy}");
        }
    }

    #[test]
    fn an_attempt_that_was_promised_runs_as_the_last_one_where_the_queue_allows_fewer_now() {
        let mut row = running(AckMode::Lease);
        row.settle(row.fence, &failed(Some(0)), at(1), &LIMITS).unwrap();
        assert_eq!(claim(&mut row, AckMode::Lease, 1, at(2)), Claim::Won);
        assert_eq!((row.attempt, row.max_attempts), (2, 2));
        assert_eq!(row.settle(row.fence, &failed(Some(0)), at(3), &LIMITS).unwrap().state, State::Failed);
    }

    #[test]
    fn a_held_task_is_not_claimed_until_its_lease_has_ended() {
        let mut row = running(AckMode::Lease);
        let left = Duration::from_millis(1);
        let just_before = Now { lease: LeaseTime(at(30).lease.0 - 1), ..at(30) };
        assert_eq!(claim(&mut row, AckMode::Lease, 3, just_before), Claim::Held { left, ack: AckMode::Lease });
        assert_eq!(claim(&mut row, AckMode::Lease, 3, at(30)), Claim::Won);
        assert_eq!((row.fence, row.attempt), (FencingToken(2), 2));
    }

    #[test]
    fn the_held_answer_tells_the_mode_of_the_row_and_not_of_the_queue() {
        let mut row = running(AckMode::Message);
        let answer = claim(&mut row, AckMode::Lease, 3, at(1));
        assert!(matches!(answer, Claim::Held { ack: AckMode::Message, .. }), "{answer:?}");
    }

    #[test]
    fn a_silent_task_with_no_attempt_left_stays_held_until_the_reaper_fails_it() {
        let mut row = queued();
        claim(&mut row, AckMode::Message, 1, at(0));
        let held = Claim::Held { left: LEASE, ack: AckMode::Message };
        for seconds in [30, 31, 10_000] {
            assert_eq!(claim(&mut row, AckMode::Message, 9, at(seconds)), held);
        }
        let until = row.hold.as_ref().unwrap().until;
        let lost = row.reap(row.fence, until, at(10_001)).unwrap();
        assert_eq!((lost.state, lost.again_in), (State::Failed, None));
        assert_eq!(lost.buried.unwrap().kind, Failure::WORKER_LOST);
    }

    #[test]
    fn a_late_task_is_answered_not_yet_to_the_millisecond() {
        let due = at(600).epoch;
        let mut row = Row::submitted(None, Some(due), None, at(0).epoch, &LIMITS);
        assert_eq!(row.state, State::Scheduled);
        let just_before = Now { epoch: Timestamp(due.0 - 1), ..at(600) };
        assert_eq!(claim(&mut row, AckMode::Lease, 3, just_before), Claim::NotYet(due));
        assert_eq!((row.state, row.attempt, row.fence), (State::Scheduled, 0, FencingToken(0)));
        assert_eq!(claim(&mut row, AckMode::Lease, 3, at(600)), Claim::Won);
    }

    #[test]
    fn a_not_before_that_has_passed_is_no_delay() {
        let row = Row::submitted(None, Some(at(0).epoch), None, at(0).epoch, &LIMITS);
        assert_eq!((row.state, row.not_before, row.ring_at), (State::Queued, None, None));
    }

    #[test]
    fn a_task_past_its_expiry_never_starts_whatever_it_waits_for() {
        let expires = Some(at(100).epoch);
        let scheduled = Row::submitted(None, Some(at(50).epoch), expires, at(0).epoch, &LIMITS);
        let mut retrying = Row::submitted(None, None, expires, at(0).epoch, &LIMITS);
        claim(&mut retrying, AckMode::Lease, 3, at(0));
        let mut silent = retrying.clone();
        silent.state = State::Running;
        retrying.settle(retrying.fence, &failed(Some(500)), at(1), &LIMITS).unwrap();
        for mut row in [Row::submitted(None, None, expires, at(0).epoch, &LIMITS), scheduled, retrying, silent] {
            let attempt = row.attempt;
            assert_eq!(claim(&mut row, AckMode::Lease, 3, at(100)), Claim::Settled);
            assert_eq!((row.state, row.attempt, row.ring_at), (State::Expired, attempt, None));
        }
    }

    #[test]
    fn an_expiry_does_not_touch_a_holder_whose_lease_lasts() {
        let mut row = Row::submitted(None, None, Some(at(10).epoch), at(0).epoch, &LIMITS);
        claim(&mut row, AckMode::Lease, 3, at(0));
        assert!(matches!(claim(&mut row, AckMode::Lease, 3, at(20)), Claim::Held { .. }));
        assert!(row.settle(row.fence, &Outcome::Succeeded(None), at(25), &LIMITS).is_ok());
    }

    #[test]
    fn a_settled_task_is_never_claimed() {
        for outcome in outcomes() {
            let mut row = running(AckMode::Lease);
            row.cancel().unwrap();
            row.settle(row.fence, &outcome, at(1), &LIMITS).unwrap();
            assert!(row.state.is_settled(), "{outcome:?}");
            let before = row.clone();
            assert_eq!(claim(&mut row, AckMode::Lease, 3, at(1_000_000)), Claim::Settled);
            assert_eq!(row, before);
        }
    }
}

mod deliveries {
    use super::*;

    const TWELVE_HOURS: Duration = Duration::from_secs(43_200);

    fn after(claim: Claim, ack: AckMode) -> Disposition {
        claim.disposition(ack, at(0).epoch, TWELVE_HOURS)
    }

    #[test]
    fn a_won_delivery_is_deleted_in_mode_lease_and_kept_in_mode_message() {
        assert_eq!(after(Claim::Won, AckMode::Lease), Disposition::Delete);
        assert_eq!(after(Claim::Won, AckMode::Message), Disposition::Keep);
    }

    #[test]
    fn a_settled_delivery_is_deleted_in_both_modes() {
        for ack in [AckMode::Lease, AckMode::Message] {
            assert_eq!(after(Claim::Settled, ack), Disposition::Delete);
        }
    }

    #[test]
    fn a_held_delivery_is_deleted_only_if_the_row_can_bring_the_task_back() {
        let left = Duration::from_secs(20);
        for queue in [AckMode::Lease, AckMode::Message] {
            assert_eq!(after(Claim::Held { left, ack: AckMode::Lease }, queue), Disposition::Delete);
            let hidden = Disposition::Hide(Duration::from_secs(21));
            assert_eq!(after(Claim::Held { left, ack: AckMode::Message }, queue), hidden);
        }
    }

    #[test]
    fn an_early_delivery_is_never_deleted_and_hidden_until_the_next_whole_second() {
        for ack in [AckMode::Lease, AckMode::Message] {
            let early = Claim::NotYet(Timestamp(at(90).epoch.0 + 1));
            assert_eq!(after(early, ack), Disposition::Hide(Duration::from_secs(91)));
            assert_eq!(after(Claim::NotYet(at(90).epoch), ack), Disposition::Hide(Duration::from_secs(90)));
        }
    }

    #[test]
    fn nothing_is_hidden_longer_than_the_broker_can() {
        let left = Duration::from_secs(1_000_000);
        let held = Claim::Held { left, ack: AckMode::Message };
        assert_eq!(after(held, AckMode::Message), Disposition::Hide(TWELVE_HOURS));
        assert_eq!(after(Claim::NotYet(at(1_000_000).epoch), AckMode::Lease), Disposition::Hide(TWELVE_HOURS));
    }
}

mod holding {
    use super::*;

    #[test]
    fn only_the_newest_token_renews_and_settles() {
        for outcome in outcomes() {
            let mut row = running(AckMode::Lease);
            let stale = row.fence;
            assert_eq!(claim(&mut row, AckMode::Lease, 3, at(30)), Claim::Won);
            let before = row.clone();
            assert_eq!(row.renew(stale, at(31)), Renewed::Lost);
            let refused = row.settle(stale, &outcome, at(31), &LIMITS).unwrap_err();
            assert_eq!((refused.state, refused.fence), (State::Running, before.fence));
            assert!(!row.is_held_by(stale) && row.is_held_by(before.fence));
            assert_eq!(row, before, "{outcome:?}");
            assert!(row.settle(row.fence, &outcome, at(32), &LIMITS).is_ok());
        }
    }

    #[test]
    fn a_token_that_was_never_given_is_refused() {
        let mut row = queued();
        assert_eq!(row.renew(row.fence, at(1)), Renewed::Lost);
        assert!(row.settle(row.fence, &Outcome::Succeeded(None), at(1), &LIMITS).is_err());
        let mut row = running(AckMode::Lease);
        assert!(row.settle(row.fence.next(), &Outcome::Succeeded(None), at(1), &LIMITS).is_err());
    }

    #[test]
    fn a_renewal_lasts_the_whole_lease_from_now_and_tells_of_a_cancellation() {
        let mut row = running(AckMode::Lease);
        assert_eq!(row.renew(row.fence, at(10)), Renewed::Kept { cancel_asked: false });
        assert_eq!(row.hold.as_ref().unwrap().until, at(40).lease);
        assert_eq!(row.cancel(), Ok(State::Running));
        assert_eq!(row.renew(row.fence, at(20)), Renewed::Kept { cancel_asked: true });
    }

    #[test]
    fn a_holder_that_nobody_replaced_renews_and_settles_long_after_its_lease() {
        let mut row = running(AckMode::Lease);
        assert_eq!(row.renew(row.fence, at(100_000)), Renewed::Kept { cancel_asked: false });
        let mut row = running(AckMode::Lease);
        assert!(row.settle(row.fence, &Outcome::Succeeded(None), at(100_000), &LIMITS).is_ok());
    }

    #[test]
    fn a_late_settle_after_the_reaper_and_before_a_new_claim_is_kept() {
        for ack in [AckMode::Lease, AckMode::Message] {
            for outcome in outcomes() {
                let mut row = reaped(ack);
                assert_eq!(row.state, State::Queued);
                assert!(row.settle(row.fence, &outcome, at(40), &LIMITS).is_ok(), "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_late_settle_after_a_new_claim_is_refused() {
        for outcome in outcomes() {
            let mut row = reaped(AckMode::Lease);
            let late = row.fence;
            assert_eq!(claim(&mut row, AckMode::Lease, 3, at(32)), Claim::Won);
            let before = row.clone();
            assert!(row.settle(late, &outcome, at(40), &LIMITS).is_err());
            assert_eq!(row, before, "{outcome:?}");
        }
    }

    #[test]
    fn a_late_settle_is_refused_where_the_reaper_or_somebody_settled_the_task() {
        let mut lost = queued();
        claim(&mut lost, AckMode::Lease, 1, at(0));
        lost.reap(lost.fence, at(30).lease, at(31)).unwrap();
        let mut cancelled = reaped(AckMode::Lease);
        cancelled.cancel().unwrap();
        let mut stopped = running(AckMode::Lease);
        stopped.cancel().unwrap();
        stopped.reap(stopped.fence, at(30).lease, at(31)).unwrap();
        let mut redriven = lost.clone();
        redriven.redrive(at(32).epoch).unwrap();
        for (mut row, late) in [lost, cancelled, stopped, redriven].map(|row| (row, FencingToken(1))) {
            let before = row.clone();
            assert!(row.settle(late, &Outcome::Succeeded(None), at(40), &LIMITS).is_err());
            assert_eq!(row.renew(late, at(40)), Renewed::Lost);
            assert_eq!(row, before);
        }
    }

    #[test]
    fn a_late_renewal_after_the_reaper_takes_the_task_back_and_silences_its_bell() {
        let mut row = reaped(AckMode::Lease);
        assert!(row.ring_at.is_some());
        assert_eq!(row.renew(row.fence, at(40)), Renewed::Kept { cancel_asked: false });
        assert_eq!((row.state, row.ring_at), (State::Running, None));
        assert!(matches!(claim(&mut row, AckMode::Lease, 3, at(69)), Claim::Held { .. }));
        assert!(row.reap(row.fence, at(30).lease, at(69)).is_err(), "the reaper saw an older lease");
    }

    #[test]
    fn nobody_settles_twice() {
        for first in outcomes() {
            for second in outcomes() {
                let mut row = running(AckMode::Lease);
                let fence = row.fence;
                row.settle(fence, &first, at(1), &LIMITS).unwrap();
                let before = row.clone();
                assert!(row.settle(fence, &second, at(2), &LIMITS).is_err(), "{first:?}, then {second:?}");
                assert_eq!(row, before);
            }
        }
    }
}

mod attempts {
    use super::*;

    #[test]
    fn a_failure_is_tried_again_until_the_attempts_are_spent() {
        let mut row = queued();
        for (attempt, state) in [(1, State::Retrying), (2, State::Retrying), (3, State::Failed)] {
            let now = at(i64::from(attempt) * 100);
            assert_eq!(claim(&mut row, AckMode::Lease, 3, now), Claim::Won);
            assert_eq!(row.attempt, attempt);
            assert_eq!(row.settle(row.fence, &failed(Some(5)), now, &LIMITS).unwrap().state, state);
        }
        assert!(row.ring_at.is_none() && row.not_before.is_none());
    }

    #[test]
    fn a_fatal_failure_and_a_poisoned_task_are_buried_at_once() {
        for outcome in [failed(None), Outcome::Poisoned(Failure::new(Failure::POISON, "x"))] {
            let mut row = running(AckMode::Lease);
            let settled = row.settle(row.fence, &outcome, at(1), &LIMITS).unwrap();
            assert_eq!((settled.state, settled.again_in), (State::Failed, None));
        }
    }

    #[test]
    fn an_interruption_and_a_snooze_spend_no_attempt() {
        for (outcome, delay) in [(interrupted(false), 0), (Outcome::Snoozed(Duration::from_secs(7)), 7)] {
            let mut row = running(AckMode::Lease);
            let settled = row.settle(row.fence, &outcome, at(1), &LIMITS).unwrap();
            assert_eq!(settled.again_in, Some(Duration::from_secs(delay)));
            assert_eq!((row.attempt, row.hold.is_none()), (0, true));
            assert_eq!(claim(&mut row, AckMode::Lease, 3, at(8)), Claim::Won);
            assert_eq!(row.attempt, 1);
        }
    }

    #[test]
    fn interruptions_and_snoozes_have_bounds_of_their_own() {
        let bounds = [
            (interrupted(false), INTERRUPTIONS_MAX, Failure::INTERRUPTED),
            (Outcome::Snoozed(Duration::ZERO), SNOOZES_MAX, Failure::SNOOZED),
        ];
        for (outcome, max, kind) in bounds {
            let mut row = queued();
            for _ in 0..max {
                assert_eq!(claim(&mut row, AckMode::Lease, 1, at(0)), Claim::Won);
                assert_eq!(row.attempt, 1);
                assert_eq!(row.settle(row.fence, &outcome, at(0), &LIMITS).unwrap().state, State::Queued);
            }
            assert_eq!(claim(&mut row, AckMode::Lease, 1, at(0)), Claim::Won);
            let last = row.settle(row.fence, &outcome, at(0), &LIMITS).unwrap();
            assert_eq!((last.state, last.buried.unwrap().kind.as_str()), (State::Failed, kind));
        }
    }

    #[test]
    fn a_record_of_a_batch_that_died_runs_alone_until_it_fails_by_itself() {
        let mut row = running(AckMode::Message);
        row.settle(row.fence, &interrupted(true), at(1), &LIMITS).unwrap();
        assert!(row.alone);
        assert_eq!(claim(&mut row, AckMode::Message, 3, at(2)), Claim::Won);
        assert!(row.alone);
        row.settle(row.fence, &failed(Some(0)), at(3), &LIMITS).unwrap();
        assert!(!row.alone);
    }

    #[test]
    fn a_reaped_attempt_is_spent() {
        let mut row = reaped(AckMode::Lease);
        assert_eq!(row.attempt, 1);
        assert_eq!(claim(&mut row, AckMode::Lease, 3, at(40)), Claim::Won);
        assert_eq!(row.attempt, 2);
    }
}

mod reaping {
    use super::*;

    #[test]
    fn the_reaper_is_refused_what_is_not_as_it_saw_it() {
        let row = running(AckMode::Lease);
        let until = row.hold.as_ref().unwrap().until;
        let refused = |mut row: Row, fence, until, now| row.reap(fence, until, now).is_err();
        assert!(refused(row.clone(), row.fence, until, at(29)), "the lease lasts");
        assert!(refused(row.clone(), row.fence.next(), until, at(31)), "another token");
        assert!(refused(row.clone(), row.fence, at(29).lease, at(31)), "another lease");
        let mut settled = row.clone();
        settled.settle(row.fence, &Outcome::Succeeded(None), at(1), &LIMITS).unwrap();
        assert!(refused(settled, row.fence, until, at(31)), "settled");
        let mut reaped = row.clone();
        reaped.reap(row.fence, until, at(31)).unwrap();
        assert!(refused(reaped, row.fence, until, at(32)), "reaped by another");
    }

    #[test]
    fn mode_lease_is_rung_at_once() {
        let mut row = running(AckMode::Lease);
        let settled = row.reap(row.fence, at(30).lease, at(31)).unwrap();
        assert_eq!((settled.state, settled.again_in), (State::Queued, Some(Duration::ZERO)));
        assert_eq!((row.ring_at, row.queued_at), (Some(at(31).epoch), at(31).epoch));
    }

    #[test]
    fn mode_message_waits_for_its_message_and_one_lease_more() {
        let mut row = running(AckMode::Message);
        let settled = row.reap(row.fence, at(30).lease, at(31)).unwrap();
        assert_eq!((settled.state, settled.again_in), (State::Queued, None));
        assert_eq!(row.ring_at, Some(at(31 + 60).epoch));
    }

    #[test]
    fn a_lease_of_another_boot_reads_as_ended_and_can_be_reaped() {
        let mut row = running(AckMode::Lease);
        row.hold.as_mut().unwrap().until = LeaseTime::ENDED;
        assert_eq!(row.reap(row.fence, LeaseTime::ENDED, at(-1)).unwrap().state, State::Queued);
    }

    #[test]
    fn the_reaper_honours_a_cancellation_before_it_counts_attempts() {
        for attempts in [1, 3] {
            let mut row = queued();
            claim(&mut row, AckMode::Lease, attempts, at(0));
            row.cancel().unwrap();
            assert_eq!(row.reap(row.fence, at(30).lease, at(31)).unwrap().state, State::Cancelled);
        }
    }
}

mod ringing {
    use super::*;

    #[test]
    fn a_delay_that_the_queue_holds_counts_as_rung_and_a_longer_one_is_rung_ahead_of_time() {
        let row = |delay| Row::submitted(None, Some(at(delay).epoch), None, at(0).epoch, &LIMITS);
        assert_eq!(row(900).ring_at, None);
        assert_eq!(row(901).ring_at, Some(at(1).epoch));
        assert_eq!(row(100_000).ring_at, Some(at(99_100).epoch));
    }

    #[test]
    fn what_is_put_back_is_unrung_until_somebody_says_it_was_rung() {
        for (delay, ring_at) in [(0, 10), (5, 10), (900, 10), (901, 11), (90_000, 89_110)] {
            let mut row = running(AckMode::Lease);
            let held = row.fence;
            let settled = row.settle(held, &failed(Some(delay)), at(10), &LIMITS).unwrap();
            assert_eq!(row.ring_at, Some(at(ring_at).epoch), "{delay}");
            assert_eq!((settled.rings, row.rings), (2, 2), "the first went out with the row");
            row.rung(held, 2);
            assert!(row.ring_at.is_some(), "an older holder's bell");
            row.rung(settled.fence, 1);
            assert!(row.ring_at.is_some(), "an older bell");
            row.rung(settled.fence, 2);
            assert_eq!(row.ring_at, None);
        }
    }

    #[test]
    fn a_late_note_of_the_bell_of_an_earlier_reap_silences_no_newer_one() {
        let mut row = running(AckMode::Lease);
        let first = row.reap(row.fence, at(30).lease, at(31)).unwrap();
        assert!(matches!(row.renew(row.fence, at(32)), Renewed::Kept { .. }));
        let second = row.reap(row.fence, at(62).lease, at(63)).unwrap();
        assert_eq!((first.fence, first.rings + 1), (second.fence, second.rings));
        row.rung(first.fence, first.rings);
        assert!(row.ring_at.is_some());
        row.rung(second.fence, second.rings);
        assert_eq!(row.ring_at, None);
    }

    #[test]
    fn whatever_leaves_a_row_to_be_rung_takes_the_next_number() {
        let mut row = queued();
        assert!(row.doorbell_lost(at(100).epoch));
        assert_eq!(row.rings, 2);
        row.rung(row.fence, 2);
        assert!(row.doorbell_lost(at(200).epoch));
        assert_eq!(row.rings, 3);
        claim(&mut row, AckMode::Message, 1, at(200));
        assert_eq!((row.rings, row.ring_at), (3, None));
        row.settle(row.fence, &failed(None), at(201), &LIMITS).unwrap();
        assert_eq!(row.rings, 3);
        assert_eq!(row.redrive(at(202).epoch).unwrap().rings, 4);
    }

    fn age(seconds: i64) -> Timestamp {
        at(seconds + i64::try_from(DOORBELL_AGE_MAX.as_secs()).unwrap()).epoch
    }

    #[test]
    fn a_doorbell_rings_again_before_its_queue_forgets_it() {
        let mut row = queued();
        assert!(!row.doorbell_aged(age(-1)));
        assert!(row.doorbell_aged(age(0)));
        assert_eq!((row.ring_at, row.rings), (Some(age(0)), 2));
        assert!(!row.doorbell_aged(age(1)), "it is due already");
        row.rung(row.fence, 2);
        assert!(!row.doorbell_aged(age(1)), "the new one is young");
    }

    #[test]
    fn a_doorbell_ages_from_when_it_was_sent() {
        let mut late = Row::submitted(None, Some(at(90_000).epoch), None, at(0).epoch, &LIMITS);
        late.rung(late.fence, 1);
        assert!(!late.doorbell_aged(age(89_099)) && late.doorbell_aged(age(89_100)));
        let retried = |ack| {
            let mut row = running(ack);
            row.settle(row.fence, &failed(Some(50)), at(20), &LIMITS).unwrap();
            row.rung(row.fence, row.rings);
            row
        };
        assert!(!retried(AckMode::Lease).doorbell_aged(age(19)) && retried(AckMode::Lease).doorbell_aged(age(20)));
        assert!(retried(AckMode::Message).doorbell_aged(age(0)), "the old message came back, as old as it is");
    }

    #[test]
    fn what_runs_or_is_settled_has_no_doorbell_to_age() {
        let mut cancelled = queued();
        cancelled.cancel().unwrap();
        for mut row in [running(AckMode::Lease), running(AckMode::Message), cancelled] {
            assert!(!row.doorbell_aged(age(1_000_000)));
        }
    }

    #[test]
    fn a_rung_row_is_rung_again_only_when_it_has_waited_longer_than_the_patience() {
        let patience = i64::try_from(DOORBELL_PATIENCE.as_secs()).unwrap();
        let mut row = queued();
        assert!(!row.doorbell_lost(at(patience - 1).epoch));
        assert!(row.doorbell_lost(at(patience).epoch));
        assert_eq!(row.ring_at, Some(at(patience).epoch));
        assert!(!row.doorbell_lost(at(patience + 1).epoch), "it is due already");
        let mut late = Row::submitted(None, Some(at(500).epoch), None, at(0).epoch, &LIMITS);
        assert!(!late.doorbell_lost(at(500 + patience - 1).epoch));
        assert!(late.doorbell_lost(at(500 + patience).epoch));
    }

    #[test]
    fn what_runs_or_is_settled_has_no_doorbell_to_lose() {
        let mut settled = running(AckMode::Lease);
        settled.settle(settled.fence, &Outcome::Succeeded(None), at(1), &LIMITS).unwrap();
        for mut row in [running(AckMode::Lease), settled] {
            assert!(!row.doorbell_lost(at(1_000_000).epoch));
        }
    }
}

mod asking {
    use super::*;

    #[test]
    fn what_nobody_holds_is_cancelled_at_once_and_never_runs_again() {
        let scheduled = Row::submitted(None, Some(at(600).epoch), None, at(0).epoch, &LIMITS);
        let mut retrying = running(AckMode::Lease);
        retrying.settle(retrying.fence, &failed(Some(5)), at(1), &LIMITS).unwrap();
        for mut row in [queued(), scheduled, retrying, reaped(AckMode::Lease)] {
            assert_eq!(row.cancel(), Ok(State::Cancelled));
            assert_eq!(claim(&mut row, AckMode::Lease, 3, at(700)), Claim::Settled);
            assert!(row.cancel().is_err());
        }
    }

    #[test]
    fn the_holder_of_a_cancelled_task_may_still_finish_it_but_does_not_put_it_back() {
        for outcome in outcomes() {
            let mut row = running(AckMode::Lease);
            row.cancel().unwrap();
            let settled = row.settle(row.fence, &outcome, at(1), &LIMITS).unwrap();
            let expected = match outcome {
                Outcome::Succeeded(_) => State::Succeeded,
                Outcome::Poisoned(_) | Outcome::Failed { retry_in: None, .. } => State::Failed,
                _ => State::Cancelled,
            };
            assert_eq!((settled.state, settled.again_in), (expected, None), "{outcome:?}");
        }
    }

    #[test]
    fn a_silent_task_that_was_to_be_stopped_is_cancelled_by_the_next_claim() {
        let mut row = running(AckMode::Lease);
        row.cancel().unwrap();
        assert!(matches!(claim(&mut row, AckMode::Lease, 3, at(29)), Claim::Held { .. }));
        assert_eq!(claim(&mut row, AckMode::Lease, 3, at(30)), Claim::Settled);
        assert_eq!(row.state, State::Cancelled);
    }

    #[test]
    fn a_purge_cancels_what_waited_then_and_leaves_what_ran_or_came_later() {
        let worker = worker();
        let purged = |row: &mut Row, purge: Now| {
            let purged_before = Some(purge.epoch);
            row.claim(
                &ClaimTerms {
                    worker: &worker,
                    lease: LEASE,
                    ack: AckMode::Lease,
                    max_attempts: 3,
                    purged_before,
                    limits: rhubarb_core::permit::QueueLimits::NONE,
                },
                at(1000),
            )
        };
        assert_eq!(purged(&mut queued(), at(0)), Claim::Settled);
        assert_eq!(purged(&mut queued(), at(-1)), Claim::Won);
        let mut ran = running(AckMode::Lease);
        assert!(!ran.purge(at(10).epoch));
        ran.settle(ran.fence, &interrupted(false), at(20), &LIMITS).unwrap();
        assert_eq!(purged(&mut ran, at(10)), Claim::Won);
        let mut silent = running(AckMode::Lease);
        assert_eq!(purged(&mut silent, at(10)), Claim::Won, "it ran when the queue was purged");
        let mut waiting = queued();
        assert!(waiting.purge(at(0).epoch) && waiting.state == State::Cancelled);
        assert!(!waiting.purge(at(0).epoch));
    }

    #[test]
    fn redrive_brings_a_buried_task_back_with_all_its_attempts() {
        let mut row = Row::submitted(None, None, Some(at(50).epoch), at(0).epoch, &LIMITS);
        claim(&mut row, AckMode::Lease, 1, at(0));
        row.settle(row.fence, &failed(Some(1)), at(1), &LIMITS).unwrap();
        let fence = row.fence;
        let settled = row.redrive(at(100).epoch).unwrap();
        assert_eq!((settled.state, settled.again_in), (State::Queued, Some(Duration::ZERO)));
        assert_eq!((row.fence, row.attempt, row.redriven), (fence.next(), 0, 1));
        assert_eq!((row.queued_at, row.ring_at), (at(100).epoch, Some(at(100).epoch)));
        assert_eq!(claim(&mut row, AckMode::Lease, 3, at(101)), Claim::Won, "its expiry is forgotten");
    }

    #[test]
    fn only_a_failed_task_is_redriven() {
        let mut succeeded = running(AckMode::Lease);
        succeeded.settle(succeeded.fence, &Outcome::Succeeded(None), at(1), &LIMITS).unwrap();
        let mut cancelled = queued();
        cancelled.cancel().unwrap();
        for mut row in [queued(), running(AckMode::Lease), succeeded, cancelled] {
            let before = row.clone();
            assert!(row.redrive(at(2).epoch).is_err());
            assert_eq!(row, before);
        }
    }
}

/// What may happen to a row, from any side, at any time.
#[derive(Clone, Debug)]
enum Event {
    Wait(u16),
    Claim { ack: AckMode, max_attempts: u32, purge_ago: Option<u16> },
    Renew(u8),
    Settle(u8, usize),
    Reap { as_seen: bool },
    Rung(u8, u8),
    DoorbellLost,
    DoorbellAged,
    Cancel,
    Purge,
    Redrive,
}

fn event() -> impl Strategy<Value = Event> {
    let ack = prop_oneof![Just(AckMode::Lease), Just(AckMode::Message)];
    prop_oneof![
        4 => (0_u16..70).prop_map(Event::Wait),
        4 => (ack, 0_u32..5, proptest::option::weighted(0.1, 0_u16..100))
            .prop_map(|(ack, max_attempts, purge_ago)| Event::Claim { ack, max_attempts, purge_ago }),
        2 => (0_u8..3).prop_map(Event::Renew),
        4 => (0_u8..3, 0_usize..9).prop_map(|(age, outcome)| Event::Settle(age, outcome)),
        2 => any::<bool>().prop_map(|as_seen| Event::Reap { as_seen }),
        1 => (0_u8..3, 0_u8..3).prop_map(|(age, rings)| Event::Rung(age, rings)),
        1 => Just(Event::DoorbellLost),
        1 => Just(Event::DoorbellAged),
        1 => Just(Event::Cancel),
        1 => Just(Event::Purge),
        1 => Just(Event::Redrive),
    ]
}

/// What an onlooker knows who only reads the answers.
#[derive(Default)]
struct Ledger {
    begun: u32,
    given_back: u32,
    newest: Option<FencingToken>,
    settled_by: Option<FencingToken>,
    lease_ends: LeaseTime,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_promise(
        asked in proptest::option::of(0_u32..5),
        late in proptest::option::of(0_i64..2000),
        expires in proptest::option::of(0_i64..2000),
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut clock = 0;
        let time = |seconds: Option<i64>| seconds.map(|seconds| at(seconds).epoch);
        let mut row = Row::submitted(asked, time(late), time(expires), at(0).epoch, &LIMITS);
        let mut ledger = Ledger::default();
        for event in events {
            let (before, now) = (row.clone(), at(clock));
            let token = |age: u8| FencingToken(before.fence.0.saturating_sub(u64::from(age)));
            match event {
                Event::Wait(seconds) => clock += i64::from(seconds),
                Event::Claim { ack, max_attempts, purge_ago } => {
                    let purged_before = purge_ago.map(|ago| at(clock - i64::from(ago)).epoch);
                    let worker = worker();
                    let terms = ClaimTerms { worker: &worker, lease: LEASE, ack, max_attempts, purged_before, limits: rhubarb_core::permit::QueueLimits::NONE };
                    match row.claim(&terms, now) {
                        Claim::Won => {
                            prop_assert!(!before.state.is_settled(), "a settled task was claimed");
                            prop_assert!(row.fence > before.fence, "two holders share a token");
                            prop_assert!(before.state != State::Running || ledger.lease_ends <= now.lease, "a lease was cut short");
                            prop_assert!(before.not_before.is_none_or(|at| at <= now.epoch), "it started early");
                            prop_assert!(before.expires.is_none_or(|at| at > now.epoch), "it started after its expiry");
                            prop_assert!(row.attempt <= row.max_attempts, "attempt {} of {}", row.attempt, row.max_attempts);
                            ledger.begun += 1;
                            ledger.newest = Some(row.fence);
                            ledger.lease_ends = now.lease.after(LEASE);
                        }
                        Claim::Held { left, .. } => {
                            prop_assert!(left > Duration::ZERO && left <= LEASE);
                            prop_assert_eq!(&row, &before);
                        }
                        Claim::NotYet(at) => {
                            prop_assert!(at > now.epoch);
                            prop_assert_eq!(&row, &before);
                        }
                        Claim::Settled => prop_assert!(row.state.is_settled()),
                        Claim::Parked => prop_assert!(false, "parked without limits"),
                    }
                }
                Event::Renew(age) => match row.renew(token(age), now) {
                    Renewed::Kept { .. } => {
                        prop_assert_eq!(Some(token(age)), ledger.newest, "a stale holder renewed");
                        ledger.lease_ends = now.lease.after(LEASE);
                    }
                    Renewed::Lost => prop_assert_eq!(&row, &before),
                },
                Event::Settle(age, index) => {
                    let outcome = &outcomes()[index];
                    match row.settle(token(age), outcome, now, &LIMITS) {
                        Ok(settled) => {
                            prop_assert_eq!(Some(token(age)), ledger.newest, "a stale holder settled");
                            prop_assert!(ledger.settled_by != ledger.newest, "one holder settled twice");
                            prop_assert_eq!(settled.again_in.is_some(), !row.state.is_settled());
                            prop_assert_eq!((settled.state, settled.fence), (row.state, row.fence));
                            ledger.settled_by = ledger.newest;
                            if row.attempt < before.attempt {
                                ledger.given_back += 1;
                            }
                        }
                        Err(_) => prop_assert_eq!(&row, &before),
                    }
                }
                Event::Reap { as_seen } => {
                    let until = before.hold.as_ref().map_or(LeaseTime(0), |hold| hold.until);
                    let until = if as_seen { until } else { LeaseTime(until.0 - 1) };
                    if row.reap(before.fence, until, now).is_ok() {
                        prop_assert!(as_seen && ledger.lease_ends <= now.lease, "a lease was cut short");
                        prop_assert!(before.attempt < before.max_attempts || row.state.is_settled());
                    } else {
                        prop_assert_eq!(&row, &before);
                    }
                }
                Event::Rung(age, rings) => {
                    let bell = (token(age), before.rings.saturating_sub(rings.into()));
                    row.rung(bell.0, bell.1);
                    prop_assert!(row == before || bell == (before.fence, before.rings), "an older bell was noted");
                }
                Event::DoorbellLost => {
                    row.doorbell_lost(now.epoch);
                }
                Event::DoorbellAged => {
                    row.doorbell_aged(now.epoch);
                }
                Event::Cancel => {
                    let answer = row.cancel();
                    prop_assert_eq!(answer.is_err(), before.state.is_settled());
                    prop_assert!(row.cancel_asked || row.state.is_settled());
                }
                Event::Purge => {
                    row.purge(now.epoch);
                    prop_assert!(before.state != State::Running || row == before);
                }
                Event::Redrive => {
                    let redriven = row.redrive(now.epoch).is_ok();
                    prop_assert_eq!(redriven, before.state == State::Failed);
                    if redriven {
                        (ledger.begun, ledger.given_back) = (0, 0);
                    }
                }
            }
            let left = before.state.is_settled() && row.state != before.state;
            prop_assert!(!left || row.redriven > before.redriven, "{} became {}", before.state, row.state);
            prop_assert!(row.fence >= before.fence, "the token fell");
            let is_unrung_anew = row.ring_at.is_some() && row.ring_at != before.ring_at;
            let taken = row.rings - before.rings;
            prop_assert!(taken == 1 || (taken == 0 && !is_unrung_anew), "bell {} after {}", row.rings, before.rings);
            prop_assert!(!row.state.is_settled() || row.ring_at.is_none(), "a settled task would be rung");
            prop_assert!(row.state != State::Running || row.hold.is_some());
            prop_assert_eq!(row.attempt, ledger.begun - ledger.given_back, "attempts are begun less given back");
            let waits = matches!(row.state, State::Retrying | State::Scheduled);
            prop_assert!(row.not_before.is_none() || waits, "{} waits", row.state);
            let is_claimable = waits || row.state == State::Queued;
            prop_assert!(!is_claimable || row.attempt < row.max_attempts.max(1), "no attempt is left to claim");
        }
    }
}
