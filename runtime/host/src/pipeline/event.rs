//! The event that a function is given for a group of attempts.

use std::{borrow::Cow, time::Duration};

use rhubarb_core::{
    contract::{self, AttemptInfo, Record},
    envelope::Trace,
};

use super::Held;
use crate::attempt::Attempt;

pub(super) fn event_of(group: &[Held], arn: &str, gpus: &[String]) -> String {
    let infos: Vec<AttemptInfo<'_>> = group.iter().map(|held| info(&held.attempt, gpus)).collect();
    let traces: Vec<Trace> = group.iter().map(|held| held.attempt.span.trace().unwrap_or_default()).collect();
    let records: Vec<Record<'_>> = group
        .iter()
        .zip(&infos)
        .zip(&traces)
        .map(|((held, info), trace)| {
            let won = &held.attempt.won;
            Record {
                message: &won.message,
                body: held.body(),
                // What counts for a function is how often the task was tried, whichever message it came by.
                receive_count: won.receive_count.max(won.row.attempt),
                sent: won.sent,
                first_received: won.first_received,
                arn,
                info,
                // The attempt's own, not the producer's: what the function does hangs under the attempt.
                traceparent: trace.traceparent.as_deref(),
                tracestate: trace.tracestate.as_deref(),
            }
        })
        .collect();
    contract::event(&records)
}

fn info<'a>(attempt: &'a Attempt, gpus: &'a [String]) -> AttemptInfo<'a> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    AttemptInfo {
        v: contract::VERSION,
        id: attempt.won.id,
        attempt: attempt.won.row.attempt,
        max_attempts: attempt.max_attempts(),
        fence: attempt.won.row.fence.0,
        timeout_ms: millis(attempt.policy.timeout),
        soft_timeout_ms: millis(attempt.policy.soft_timeout),
        gpus: Cow::Borrowed(gpus),
        checkpoint: attempt.won.row.checkpoint.is_some(),
    }
}
