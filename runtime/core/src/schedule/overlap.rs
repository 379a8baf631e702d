//! What the claim of a tick's task does while the task of an earlier tick has not settled.
//!
//! The schedule's record names the task that is in: the one whose claim was let through last. A claim looks at
//! that task's state and takes its place by one conditional write, so that two claims at once cannot both be in.
//! A crash between the look and the write changes nothing; the next claim of the same task looks again.

use crate::{
    backend::{Backend, Current, Result, StoreError},
    config::{Config, Overlap},
    envelope::Envelope,
    ids::TaskId,
    schedule::renewed,
};

/// Another claim took the place as often as this: somebody else is at it, and the task is tried later.
const TRIES: usize = 8;

/// Whether a claimed task may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Begin,
    /// It is left out: this task has not settled.
    LeftOut(TaskId),
    /// It may, and this earlier one was asked to stop.
    Replaces(TaskId),
}

/// Judges a claimed task by its envelope. One that no schedule with `overlap` made may always begin. A schedule of
/// the file that nobody has taken over yet, as where EventBridge fires and no agent runs, is taken over here.
///
/// # Errors
///
/// The backend cannot be reached, or too many claims came at once.
pub async fn judge(backend: &dyn Backend, envelope: &Envelope, config: &Config) -> Result<Verdict> {
    let (Some(schedule), Some(at), Some(overlap)) = (&envelope.schedule, envelope.tick, envelope.overlap) else {
        return Ok(Verdict::Begin);
    };
    let mine = Current { task: envelope.id, tick: at };
    for _ in 0..TRIES {
        let Some(record) = backend.schedules().read(std::slice::from_ref(schedule)).await?.pop().flatten() else {
            let of_file = config.schedules.get(schedule).and_then(|schedule| renewed(schedule, None, at));
            // Deleted since: its last ticks run as they are.
            let Some(record) = of_file else { return Ok(Verdict::Begin) };
            backend.schedules().put(&[record]).await.into_iter().collect::<Result<()>>()?;
            continue;
        };
        let verdict = match record.current.filter(|current| current.task != mine.task) {
            Some(current) if !is_settled(backend, current.task).await? => {
                if overlap == Overlap::Skip || current.tick > mine.tick {
                    return Ok(Verdict::LeftOut(current.task));
                }
                Verdict::Replaces(current.task)
            }
            _ => Verdict::Begin,
        };
        // First the cancellation: a crash after it leaves a claim that judges again.
        if let Verdict::Replaces(earlier) = verdict {
            cancel(backend, earlier).await?;
        }
        if record.current == Some(mine) || backend.schedules().enter(schedule, record.current, mine).await? {
            return Ok(verdict);
        }
    }
    let crowd = std::io::Error::other("other claims of its ticks came in between");
    Err(StoreError::unreachable(format!("judge the overlap of schedule {schedule}"), crowd))
}

async fn is_settled(backend: &dyn Backend, task: TaskId) -> Result<bool> {
    let found = backend.tasks().read(&[task]).await?.pop().flatten();
    Ok(found.is_none_or(|detail| detail.record.state.is_settled()))
}

async fn cancel(backend: &dyn Backend, task: TaskId) -> Result<()> {
    match backend.tasks().cancel(&[task]).await.pop() {
        // Settled meanwhile, or gone.
        Some(Err(StoreError::Refused(_) | StoreError::NoTask(_)) | Ok(_)) | None => Ok(()),
        Some(Err(error)) => Err(error),
    }
}
