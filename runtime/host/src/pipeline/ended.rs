//! From how an invocation ended to the outcome of each of its attempts.

use std::borrow::Cow;

use rhubarb_core::{
    contract::{self, Said},
    ids::MessageId,
    outcome::{Failure, Outcome},
};

use super::Held;
use crate::{
    attempt::{Attempt, Stop},
    functions::Child,
    judge,
    runtime_api::{Answer, InvocationEnd},
};

/// What an invocation came to.
pub(super) enum End {
    Answered(Answer),
    Died(InvocationEnd),
    /// It passed its hard limit and was killed.
    TimedOut,
    /// It was told to stop, did not within its grace, and was killed.
    Stopped,
    /// It ran when the time of the place was up, and was killed.
    Cut,
}

pub(super) fn judge_all(
    child: &Child,
    group: &[Held],
    end: End,
    printed: &str,
    inline_bytes_max: usize,
) -> Vec<Outcome> {
    let each = |outcome: &dyn Fn(&Attempt) -> Outcome| group.iter().map(|held| outcome(&held.attempt)).collect();
    let fail_each = |failure: Failure| {
        each(&|attempt| judge::failed_with(attempt, failure.clone(), None, printed, fastrand::f64()))
    };
    let ids: Vec<&MessageId> = group.iter().map(|held| &held.attempt.won.message).collect();
    match end {
        End::Answered(Answer::Response(body)) => match contract::read_answer(&body, &ids, inline_bytes_max) {
            Ok(said) => {
                let unknown = |said: &Said| matches!(said, Said::UnknownTask);
                group
                    .iter()
                    .zip(&said)
                    .filter(|(_, said)| unknown(said))
                    .for_each(|(held, _)| held.attempt.note_unknown());
                let judge = |(held, said): (&Held, Said)| judge::said(&held.attempt, said, printed, fastrand::f64());
                group.iter().zip(said).map(judge).collect()
            }
            Err(bad) => fail_each(bad.failure()),
        },
        End::Answered(Answer::Error(error)) => {
            let stack = error.stack.iter().fold(String::new(), |text, line| text + "\n" + line);
            fail_each(Failure::new(error.error_type, error.message + &stack))
        }
        End::Died(InvocationEnd::ProcessDied { .. }) if child.was_killed() => {
            each(&|_| judge::interrupted("its process was stopped because of another invocation"))
        }
        End::Died(end @ InvocationEnd::ProcessDied { .. }) => {
            died(group, Failure::new(Failure::CRASHED, end.to_string()), printed)
        }
        End::Died(InvocationEnd::NotOffered { reason }) => {
            tracing::warn!(reason, "cannot hand an invocation over");
            each(&|_| judge::interrupted("its process could not take it"))
        }
        End::Died(end) => fail_each(Failure::new(Failure::BAD_ANSWER, end.to_string())),
        End::TimedOut => match group {
            [only] => vec![judge::timed_out(&only.attempt, fastrand::f64())],
            _ => alone(group, "the invocation it shared passed its time limit"),
        },
        End::Cut => cut_off(group),
        End::Stopped => each(&|attempt| match attempt.stopped() {
            Some(_) => judge::stopped(attempt, fastrand::f64()),
            None => Outcome::Interrupted { alone: true, why: "the invocation it shared was stopped".into() },
        }),
    }
}

/// Nobody knows which of several records killed the process: all go back without a spent attempt and
/// run next in an invocation of their own; only then does a death count.
fn died(group: &[Held], failure: Failure, printed: &str) -> Vec<Outcome> {
    match group {
        [only] => vec![judge::failed_with(&only.attempt, failure, None, printed, fastrand::f64())],
        _ => alone(group, "the process died in an invocation of several records"),
    }
}

/// The time of the place was up. What was to be stopped anyway is stopped; of several, each goes on alone,
/// under limits of its own.
fn cut_off(group: &[Held]) -> Vec<Outcome> {
    let outcome = |held: &Held| match held.attempt.stopped() {
        Some(Stop::Requested | Stop::Lost) => judge::stopped(&held.attempt, fastrand::f64()),
        Some(Stop::Timeout | Stop::Shutdown) | None => {
            Outcome::Interrupted { alone: group.len() > 1, why: Cow::Borrowed("the time of its invocation was up") }
        }
    };
    group.iter().map(outcome).collect()
}

fn alone(group: &[Held], why: &'static str) -> Vec<Outcome> {
    let outcome = |held: &Held| match held.attempt.stopped() {
        Some(_) => judge::stopped(&held.attempt, fastrand::f64()),
        None => Outcome::Interrupted { alone: true, why: Cow::Borrowed(why) },
    };
    group.iter().map(outcome).collect()
}
