//! How many permits are taken and how many tasks wait for one, for whoever watches.

use super::{Meter, QueueLimits, Scope};

/// Keys, and parked tasks, of which a store counts about so many at most where it must look at each.
pub const COUNTED_MAX: usize = 1000;

/// What is counted of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeCounts {
    /// Tasks that hold a permit. None where the store cannot tell without looking at every key.
    pub taken: Option<u64>,
    /// Tasks that are parked for one.
    pub parked: u64,
}

/// What is counted of a queue; of what it does not limit nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PermitCounts {
    /// Of the queue's own limits.
    pub queue: Option<ScopeCounts>,
    /// Of those of its keys, all keys together: a key may come with any message, so none is told by its name.
    pub key: Option<ScopeCounts>,
}

impl PermitCounts {
    /// Adds up the meters of a queue and of its keys.
    #[must_use]
    pub fn of<'m>(limits: &QueueLimits, meters: impl IntoIterator<Item = (Scope, &'m Meter)>) -> Self {
        let none = ScopeCounts { taken: Some(0), parked: 0 };
        let mut counts =
            Self { queue: (!limits.queue.is_none()).then_some(none), key: (!limits.key.is_none()).then_some(none) };
        for (scope, meter) in meters {
            let of_scope = match scope {
                Scope::Queue => &mut counts.queue,
                Scope::Key => &mut counts.key,
            };
            if let Some(of_scope) = of_scope {
                of_scope.taken = of_scope.taken.map(|taken| taken + u64::from(meter.running));
                of_scope.parked += u64::from(meter.parked);
            }
        }
        counts
    }
}
