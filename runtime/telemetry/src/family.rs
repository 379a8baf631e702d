//! The trace of a family of tasks that no producer has given one.
//!
//! It follows from the family's first task, so that all attempts of a task join one trace also where nobody
//! could hand a context on: a tick that EventBridge Scheduler sent, a message from a shell. Only a provider
//! that asks here for its ids heeds it; with another one each such attempt begins a trace of its own.

use std::cell::Cell;

use rhubarb_core::envelope::Envelope;

thread_local! {
    static NEXT: Cell<Option<u128>> = const { Cell::new(None) };
}

/// Starts a span; if it begins a trace, that is the trace of this task's family.
pub(crate) fn in_trace_of<T>(envelope: &Envelope, start: impl FnOnce() -> T) -> T {
    NEXT.set(Some(of(envelope)));
    let started = start();
    NEXT.set(None);
    started
}

/// The id of the trace of a task's family.
pub(crate) fn of(envelope: &Envelope) -> u128 {
    let first = envelope.root.unwrap_or(envelope.id);
    trace_id(u128::from_be_bytes(*first.as_bytes()))
}

/// The id that the trace which begins now must have, if it is a family's.
#[cfg(feature = "export")]
pub(crate) fn next() -> Option<u128> {
    NEXT.take()
}

/// Samplers decide by the lower half, and a UUID's is not even: its variant stands there. So that half is mixed
/// (the finaliser of splitmix64).
fn trace_id(id: u128) -> u128 {
    let low = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
    let low = (low ^ (low >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let low = (low ^ (low >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (id >> 64) << 64 | u128::from(low ^ (low >> 31))
}

#[cfg(test)]
mod tests {
    use rhubarb_core::ids::TaskId;

    use super::*;

    #[test]
    fn a_sampler_of_one_in_four_takes_one_in_four_families() {
        let low_half = |id: u128| id as u64;
        let ids = (0..10_000).map(|_| trace_id(u128::from_be_bytes(*TaskId::mint().as_bytes())));
        let sampled = ids.filter(|id| low_half(*id) < u64::MAX / 4).count();
        assert!((2_200..2_800).contains(&sampled), "{sampled}");
    }
}
