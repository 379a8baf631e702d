//! One invocation: hands the event to a process of the function and waits for the answer, within the limits.
//!
//! A process that does not end in time is killed; what an invocation came to is judged behind it.

use std::{
    borrow::Cow,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::Log,
    config::QueueConfig,
    gpu::RanOn,
    ids::FunctionName,
    outcome::{Failure, Outcome},
};
use tokio::sync::Notify;

use super::{
    Held, Host, Room,
    clock::{Clock, before},
    ended::{End, judge_all},
    event::event_of,
};
use crate::{
    attempt::{Attempt, Peek, Stop},
    functions::{Child, Hold, NoProcess},
    judge, measure,
    runtime_api::Invocation,
};

impl Host {
    pub(super) async fn invoke(
        &self,
        queue: &QueueConfig,
        function: &FunctionName,
        group: Vec<Held>,
        Room { cut, hold }: Room,
        bell: &Notify,
    ) {
        let tasks_max = self.shared.config.max_tasks_per_child(&self.worker, function, queue);
        let place = before(cut, self.functions.place(function, tasks_max, hold.as_ref())).await;
        let mut place = match place {
            Some(Ok(place)) => place,
            Some(Err(none)) => return self.settle_without_process(function, group, none, hold).await,
            None => return self.settle_unbegun(group).await,
        };
        place.ran(group.len());
        let child = Arc::clone(&place.child);
        let request_id = uuid::Uuid::now_v7().to_string();
        let grace = self.functions.spec(function).map_or(Duration::ZERO, |spec| spec.config.shutdown_grace);
        let clock = Clock::new(queue, &group, grace, cut);
        let mut invocation = Invocation::new(
            request_id.clone(),
            SystemTime::now() + clock.end().saturating_duration_since(Instant::now()),
            event_of(&group, &self.shared.queue_arn(&queue.name), hold.as_ref().map_or(&[], |hold| hold.uuids()))
                .into(),
            self.shared.function_arn(function),
        );
        if let [only] = group.as_slice() {
            invocation.trace_id =
                only.attempt.span.trace().and_then(|trace| trace.parent()).map(|parent| parent.xray());
        }
        group.iter().for_each(|held| measure::began(&held.attempt));
        let began = Instant::now();
        let end = self.converse(&child, &group, invocation, clock, Signals { bell, hold: hold.as_ref() }).await;
        let ran = began.elapsed();
        if let Some(hold) = &hold {
            hold.read().await;
        }
        let output = child.process.take_output(&request_id);
        let log = Log { text: output.text, dropped: output.dropped_bytes, ran_on: ran_on(queue, hold.as_ref()) };
        let inline_bytes_max = self.shared.backend.broker().limits().inline_bytes_max;
        // The slot is free from here: judging and settling go on behind it.
        drop(place);
        let shared = Arc::clone(&self.shared);
        self.judge_and_settle(async move {
            let mut outcomes = judge_all(&child, &group, end, &log.text, inline_bytes_max);
            if let Some(hold) = hold {
                excuse(&hold, child.reaped(), &mut outcomes).await;
            }
            group.iter().zip(&outcomes).for_each(|(held, outcome)| measure::ran(&shared, &held.attempt, outcome, ran));
            group.into_iter().zip(outcomes).map(|(held, outcome)| (held, outcome, log.clone())).collect()
        })
        .await;
    }

    /// Hands the event over and waits for the answer, within the limits.
    async fn converse(
        &self,
        child: &Arc<Child>,
        group: &[Held],
        invocation: Invocation,
        mut clock: Clock,
        Signals { bell, hold }: Signals<'_>,
    ) -> End {
        let attempts: Vec<Arc<Attempt>> = group.iter().map(|held| Arc::clone(&held.attempt)).collect();
        let _registered = child.routes.register(&attempts);
        let peek = peek(child, &invocation.request_id, hold);
        attempts.iter().for_each(|attempt| attempt.watch_output(Arc::clone(&peek)));
        if attempts.iter().any(|attempt| attempt.stopped().is_some()) {
            // An invocation before this one of the same batch may have heard that bell.
            bell.notify_one();
        }
        let answer = child.process.invoke(invocation);
        let lost = async {
            match hold {
                Some(hold) => hold.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(answer, lost);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_or_else(End::Died, End::Answered),
                () = tokio::time::sleep_until(clock.wake().into()) => {}
                () = bell.notified() => {}
                () = self.hurry.cancelled() => {
                    child.kill().await;
                    return End::Stopped;
                }
                () = &mut lost => {
                    attempts.iter().for_each(|attempt| attempt.stop(Stop::Shutdown));
                    child.kill().await;
                    return End::Stopped;
                }
            }
            if let Some(end) = clock.strike(&attempts, Instant::now()) {
                child.kill().await;
                return end;
            }
        }
    }

    /// Hands back what the time of the place left no room for. Who was to run alone still is.
    pub(super) async fn settle_unbegun(&self, group: Vec<Held>) {
        let settlements = group.into_iter().map(|held| {
            let why = Cow::Borrowed("the time of its invocation was up before it began");
            let outcome = Outcome::Interrupted { alone: held.attempt.won.row.alone, why };
            (held, outcome, Log::default())
        });
        self.settle(settlements.collect()).await;
    }

    async fn settle_without_process(
        &self,
        function: &FunctionName,
        group: Vec<Held>,
        none: NoProcess,
        hold: Option<Hold>,
    ) {
        let function = function.clone();
        self.judge_and_settle(async move {
            let outcome = |held: &Held| match &none {
                NoProcess::CannotStart(error) => {
                    let failure = Failure::new(Failure::INIT, format!("function `{function}` cannot start: {error}"));
                    judge::failed(&held.attempt, failure, None, fastrand::f64())
                }
                // Spends no attempt: this task is not to blame for the one before it.
                NoProcess::Pausing(left, _) => Outcome::Snoozed((*left).max(Duration::from_millis(100))),
                NoProcess::NoDevice(why) => Outcome::Interrupted { alone: false, why: Cow::Owned(why.clone()) },
            };
            let mut outcomes: Vec<Outcome> = group.iter().map(outcome).collect();
            if let Some(hold) = hold {
                excuse(&hold, std::future::ready(()), &mut outcomes).await;
            }
            group.into_iter().zip(outcomes).map(|(held, outcome)| (held, outcome, Log::default())).collect()
        })
        .await;
    }
}

/// What tells a running invocation to end.
struct Signals<'a> {
    /// Rung when one of its attempts is to stop.
    bell: &'a Notify,
    hold: Option<&'a Hold>,
}

/// What an attempt ran on, where its queue asks for GPUs.
fn ran_on(queue: &QueueConfig, hold: Option<&Hold>) -> Option<RanOn> {
    match hold {
        Some(hold) => Some(RanOn::Gpus(hold.usage())),
        None => (queue.gpus > 0).then_some(RanOn::Cpu),
    }
}

/// A failure on a sick device is not the task's: it counts as interrupted. Nothing of the process must be left when the
/// device is probed.
async fn excuse(hold: &Hold, reaped: impl Future<Output = ()>, outcomes: &mut [Outcome]) {
    if !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed { .. })) {
        return;
    }
    reaped.await;
    let Some(reason) = hold.sickness().await else { return };
    for outcome in outcomes {
        if let Outcome::Failed { failure, .. } = outcome {
            let why = format!("{reason}. The attempt had failed: {failure}");
            *outcome = Outcome::Interrupted { alone: false, why: Cow::Owned(why) };
        }
    }
}

/// Reads what an invocation has printed so far.
fn peek(child: &Arc<Child>, request_id: &str, hold: Option<&Hold>) -> Peek {
    // Weak, so that who looks keeps no device from the next task.
    let (child, id, hold) = (Arc::clone(child), request_id.to_owned(), hold.map(Arc::downgrade));
    Arc::new(move || {
        let output = child.process.peek_output(&id);
        let hold = hold.as_ref().and_then(Weak::upgrade);
        let ran_on = hold.map(|hold| RanOn::Gpus(hold.usage()));
        Log { text: output.text, dropped: output.dropped_bytes, ran_on }
    })
}
