//! From what a function said, or how it ended, to an outcome. Pure.

use std::{borrow::Cow, time::Duration};

use rhubarb_core::{
    contract::Said,
    gpu,
    limits::UNKNOWN_TASK_PATIENCE,
    outcome::{Failure, Outcome, Output},
};

use crate::attempt::{Attempt, Stop};

/// Turns what a function said about one record, and printed meanwhile, into the attempt's outcome. `chance` is drawn
/// evenly from 0 to 1.
#[must_use]
pub fn said(attempt: &Attempt, said: Said, printed: &str, chance: f64) -> Outcome {
    match said {
        Said::Succeeded(Some(Output::Blob(blob))) if !attempt.posted(&blob) => {
            let message = format!("the answer names the output `{}`, which this attempt never posted", blob.key);
            failed(attempt, Failure::new(Failure::BAD_ANSWER, message), None, chance)
        }
        Said::Succeeded(output) => Outcome::Succeeded(output),
        Said::Failed { failure, fatal: true, .. } => {
            let failure = out_of_gpu_memory(attempt, &failure, printed).unwrap_or(failure);
            Outcome::Failed { failure, retry_in: None }
        }
        Said::Failed { failure, delay, fatal: false } => failed_with(attempt, failure, delay, printed, chance),
        Said::Snoozed(delay) => Outcome::Snoozed(delay),
        Said::Interrupted => interrupted("the function was told of the shutdown and gave the task back"),
        Said::Cancelled => stopped(attempt, chance),
        Said::UnknownTask => unknown_task(attempt),
        Said::Poisoned(failure) => Outcome::Poisoned(failure),
    }
}

/// A failure that is tried again while attempts are left, and where its kind is one to be tried again.
#[must_use]
pub fn failed(attempt: &Attempt, failure: Failure, delay: Option<Duration>, chance: f64) -> Outcome {
    failed_with(attempt, failure, delay, "", chance)
}

/// As [`failed`], for an attempt that printed this.
#[must_use]
pub fn failed_with(
    attempt: &Attempt,
    failure: Failure,
    delay: Option<Duration>,
    printed: &str,
    chance: f64,
) -> Outcome {
    let number = attempt.won.row.attempt;
    let retry = &attempt.policy.retry;
    let named = out_of_gpu_memory(attempt, &failure, printed);
    // A rule may know it by the function's own word too.
    let other = named.as_ref().map_or(failure.kind.as_str(), |named| &named.kind);
    let again = number < attempt.max_attempts() && retry.on.allows_both(&failure.kind, other);
    let retry_in = again.then(|| delay.unwrap_or_else(|| retry.delay(number, chance)));
    Outcome::Failed { failure: named.unwrap_or(failure), retry_in }
}

fn out_of_gpu_memory(attempt: &Attempt, failure: &Failure, printed: &str) -> Option<Failure> {
    if attempt.queue.gpus == 0 {
        return None;
    }
    gpu::out_of_memory(&attempt.queue, failure, printed)
}

/// Cut off by us; spends no attempt.
#[must_use]
pub fn interrupted(why: &'static str) -> Outcome {
    Outcome::Interrupted { alone: false, why: Cow::Borrowed(why) }
}

/// The outcome of an attempt that stopped, or was stopped, before it was done.
#[must_use]
pub fn stopped(attempt: &Attempt, chance: f64) -> Outcome {
    match attempt.stopped() {
        Some(Stop::Timeout) => timed_out(attempt, chance),
        Some(Stop::Shutdown) => interrupted("cut off by the shutdown of its worker"),
        // Settling a lost attempt is refused, and noted in the history.
        Some(Stop::Requested | Stop::Lost) | None => Outcome::Cancelled,
    }
}

/// The attempt passed its time limit.
#[must_use]
pub fn timed_out(attempt: &Attempt, chance: f64) -> Outcome {
    let message = format!("the attempt passed its time limit of {:?}", attempt.policy.timeout);
    failed(attempt, Failure::new(Failure::TIMEOUT, message), None, chance)
}

/// A task that no function of its queue runs: a newer worker may be on its way, so it is put back with
/// a growing delay (a quarter of its age so far) and buried after an hour.
#[must_use]
pub fn unknown_task(attempt: &Attempt) -> Outcome {
    let (row, task, queue) = (&attempt.won.row, &attempt.won.task, &attempt.queue.name);
    let age = row.started.since(row.submitted.max(attempt.envelope.not_before.unwrap_or_default()));
    if age < UNKNOWN_TASK_PATIENCE {
        return Outcome::Snoozed((age / 4).clamp(Duration::from_secs(1), Duration::from_secs(300)));
    }
    let message = format!("no function of queue {queue} runs `{task}`: check the name, or [queues.{queue}] functions");
    Outcome::Failed { failure: Failure::new(Failure::UNKNOWN_TASK, message), retry_in: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::tests::attempt_on;

    fn judged(keys: &str, kind: &str, message: &str, printed: &str) -> (Failure, bool) {
        match failed_with(&attempt_on(keys), Failure::new(kind, message), None, printed, 0.5) {
            Outcome::Failed { failure, retry_in } => (failure, retry_in.is_some()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_device_without_memory_left_is_named_where_the_queue_has_devices() {
        let torch = ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB");
        let (failure, again) = judged("gpus = 1", torch.0, torch.1, "");
        assert!(failure.kind == Failure::GPU_OUT_OF_MEMORY && again, "{failure}");
        assert_eq!(judged("", torch.0, torch.1, "").0.kind, torch.0);
        let (failure, _) = judged("gpus = 1", Failure::CRASHED, "it exited with code 134", "CUDA_ERROR_OUT_OF_MEMORY");
        assert!(failure.message.contains("gpu_memory") && failure.message.contains("code 134"), "{failure}");
    }

    #[test]
    fn a_rule_knows_it_by_either_name() {
        for (rule, again) in [
            ("retry_on = [\"OutOfMemoryError\"]", true),
            ("retry_on = [\"gpu_out_of_memory\"]", true),
            ("retry_on = [\"ValueError\"]", false),
            ("never_retry_on = [\"OutOfMemoryError\"]", false),
            ("never_retry_on = [\"gpu_out_of_memory\"]", false),
            ("never_retry_on = [\"ValueError\"]", true),
        ] {
            let told = judged(&format!("gpus = 1\n{rule}"), "torch.OutOfMemoryError", "CUDA out of memory", "");
            assert_eq!(told.1, again, "{rule}");
        }
    }
}
