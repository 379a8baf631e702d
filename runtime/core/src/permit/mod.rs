//! Permits: at most so many tasks of a queue, or of one of its keys, at once or in a period.
//!
//! Each limited queue, and each concurrency key in it, has a [`Meter`]: how many tasks run, how many are parked
//! because none may start, how many of these have been called, and when the last ones started. The row of a task
//! says what it counts for ([`Permit`]); a store changes both in one write, so that they never differ and no
//! crash loses or doubles a permit.
//!
//! A permit has no end of its own: it is held as long as its row is `running`, and goes back by the write that
//! ends this, be it the holder's or the reaper's. So a heartbeat costs nothing more, and a dead holder's permit
//! returns with its lease: the reaper's write is that return. A holder that comes back after it works on only if
//! a permit is free; what it settles counts in any case.
//!
//! A task that finds no permit is parked: `waiting`, without a doorbell. Whoever gives a permit back calls the
//! one that became available first: it is `queued` again and its doorbell rings. No more are called than may
//! start. A newcomer that finds a permit free takes it; the called one then parks again, at its old place. A crash
//! between the return and the call leaves the meter due, and the sweep calls.

mod counts;
mod gate;
mod limits;
mod meter;
mod window;

use serde::{Deserialize, Serialize};

pub use self::{
    counts::{COUNTED_MAX, PermitCounts, ScopeCounts},
    gate::Gate,
    limits::{QueueLimits, Rate, ScopeLimits},
    meter::{Meter, Refusal},
    window::Window,
};
use crate::{backend::sha256_hex, envelope::Envelope, limits::Limits, time::Timestamp};

/// What a limit holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All tasks of the queue.
    Queue,
    /// Those of one concurrency key in the queue.
    Key,
}

impl Scope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Queue, Self::Key];
}

/// What a task's row has to do with the limits of its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// The task's concurrency key, where the queue limits keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a task stands with its permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It runs, and counts where these are true.
    Held {
        /// For the queue.
        queue: bool,
        /// For the key.
        key: bool,
    },
    /// The reaper has given it back; the holder may want it again.
    Returned {
        /// It counted for the queue.
        queue: bool,
        /// It counted for the key.
        key: bool,
    },
    /// It waits for a permit of this scope.
    Parked {
        /// The scope.
        scope: Scope,
    },
    /// It was parked, and its doorbell rings.
    Called {
        /// The scope it was parked for.
        scope: Scope,
        /// When it may start by its rate: reserved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<Timestamp>,
    },
}

/// What one row counts for in one meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub(crate) running: u32,
    pub(crate) parked: u32,
    pub(crate) called: u32,
    pub(crate) slot: Option<Timestamp>,
}

impl Permit {
    /// What a row with this permit, or none, counts for in a scope.
    #[must_use]
    pub fn share(permit: Option<&Self>, scope: Scope) -> Share {
        let none = Share::default();
        match permit.map(|permit| permit.stage) {
            Some(Stage::Held { queue: true, .. }) if scope == Scope::Queue => Share { running: 1, ..none },
            Some(Stage::Held { key: true, .. }) if scope == Scope::Key => Share { running: 1, ..none },
            Some(Stage::Parked { scope: of }) if of == scope => Share { parked: 1, ..none },
            Some(Stage::Called { scope: of, slot }) if of == scope => Share { called: 1, slot, ..none },
            Some(Stage::Held { .. } | Stage::Returned { .. } | Stage::Parked { .. } | Stage::Called { .. }) | None => {
                none
            }
        }
    }

    /// The scope it is parked for.
    #[must_use]
    pub const fn parked_for(&self) -> Option<Scope> {
        match self.stage {
            Stage::Parked { scope } => Some(scope),
            Stage::Held { .. } | Stage::Returned { .. } | Stage::Called { .. } => None,
        }
    }

    /// It comes back to its holder, who renews.
    pub(crate) const fn regain(&mut self) {
        self.stage = match self.stage {
            Stage::Returned { queue, key } => Stage::Held { queue, key },
            // What it counted for before it was parked is not known any more: it counts wherever it may have, since
            // one that counts too little lets others start beside it.
            Stage::Parked { .. } | Stage::Called { .. } => Stage::Held { queue: true, key: self.key.is_some() },
            held @ Stage::Held { .. } => held,
        };
    }

    /// It goes back because its holder fell silent.
    pub(crate) const fn give_back(&mut self) {
        if let Stage::Held { queue, key } = self.stage {
            self.stage = Stage::Returned { queue, key };
        }
    }
}

/// The concurrency key of an envelope as a meter knows it. An empty one is none, and one that is longer than keys
/// may be is known by its hash: a plain producer's message is checked by nobody else.
#[must_use]
pub fn concurrency_key(spec: &str) -> Option<String> {
    let key = Envelope::decode_full(spec).ok()?.concurrency_key.filter(|key| !key.is_empty())?;
    let fits = key.chars().count() <= Limits::AWS.key_chars_max;
    Some(if fits { key } else { sha256_hex(key.as_bytes()) })
}
