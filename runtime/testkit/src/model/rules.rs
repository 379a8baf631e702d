//! The rules that no step may break.

use rhubarb_core::row::{AckMode, Row, State};

use super::{
    small::{ATTEMPTS, NOW},
    world::{Producer, World},
};

/// A broken rule in words, or nothing.
pub(super) type Verdict = Result<(), String>;

/// A lease that the store has granted is nobody else's before it ends.
pub(super) fn lease_had_ended(before: &Row) -> Verdict {
    let hold = before.hold.as_ref().filter(|_| before.state == State::Running);
    match hold.filter(|hold| hold.until > NOW.lease) {
        Some(_) => Err("a task was taken from its holder before its lease ended".to_owned()),
        None => Ok(()),
    }
}

/// A claim that was won.
pub(super) fn won(before: &Row, after: &Row) -> Verdict {
    lease_had_ended(before)?;
    if before.state.is_settled() {
        return Err("a settled task was claimed".to_owned());
    }
    if after.fence <= before.fence {
        return Err("two holders share a token".to_owned());
    }
    if after.attempt > ATTEMPTS {
        return Err(format!("attempt {} of {ATTEMPTS}", after.attempt));
    }
    Ok(())
}

/// A settlement that the store has kept.
pub(super) fn settled(before: &Row, token: u8) -> Verdict {
    if before.state.is_settled() {
        return Err("a settled task was settled again".to_owned());
    }
    if before.fence.0 != u64::from(token) {
        return Err("a holder settled a task, and another is the newest".to_owned());
    }
    Ok(())
}

/// Every accepted task that is not settled has a way back: a message, a bell that is due, or a lease that ends. In
/// mode `message` a message is there as long as it is held.
pub(super) fn can_come_back(world: &World, ack: AckMode) -> Verdict {
    for (number, task) in world.tasks.iter().enumerate() {
        let (Some(row), Producer::Accepted, false) = (task.row, task.producer, task.lost) else { continue };
        let has_bell = || world.messages().any(|(_, message)| usize::from(message.task) == number);
        if row.state.is_settled() || has_bell() {
            continue;
        }
        match (row.state, ack) {
            (State::Running, AckMode::Message) => {
                return Err("a task is held in mode `message`, and its message has gone".to_owned());
            }
            (State::Running, AckMode::Lease) => {}
            _ if row.ring_at.is_some() => {}
            (state, _) => return Err(format!("a task is {state}, has no message, and nothing will ring it")),
        }
    }
    Ok(())
}

/// Everything is accepted and settled: what every state must be able to come to.
pub(super) fn is_done(world: &World) -> bool {
    let done = |row: Option<super::small::Small>| row.is_some_and(|row| row.state.is_settled());
    world.tasks.iter().all(|task| task.producer == Producer::Accepted && done(task.row))
}

/// A claim that was not won takes nothing from a holder either.
pub(super) fn lease_had_ended_or_same(before: &Row, after: &Row) -> Verdict {
    if before == after { Ok(()) } else { lease_had_ended(before) }
}
