//! The task's row: its states, the one table of legal moves, and the protocol's verbs on it.
//!
//! The row is the truth; a message is a doorbell, and any number of doorbells for one task is
//! harmless. Every verb is one conditional write: it looks at the row, decides, and changes it or
//! refuses. The embedded store runs these functions inside its transaction; a store that cannot
//! repeats their guards as write conditions. A crash before the write changes nothing; after it,
//! the row says what must happen next ([`Row::ring_at`], the lease's end), and the sweep does it.

mod state;
mod verbs;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use state::{Move, State};

use crate::{
    ids::{FencingToken, WorkerId},
    outcome::Failure,
    permit::{Permit, QueueLimits},
    time::{LeaseTime, Timestamp},
};

/// When the message of a running task is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// After the outcome is written; the message is extended while the attempt runs.
    Message,
    /// After the claim is written; from then on the row is the only copy.
    Lease,
}

impl AckMode {
    /// The mode's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Lease => "lease",
        }
    }
}

/// Who holds a task, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The worker.
    pub worker: WorkerId,
    /// When its lease ends, by the store's lease clock.
    pub until: LeaseTime,
    /// How long each renewal lasts.
    pub lease: Duration,
    /// When the message is deleted. This, not today's configuration, decides.
    pub ack: AckMode,
    /// When the attempt began.
    pub started: Timestamp,
}

/// What decides about a task. The store keeps id, name, queue, arguments and history beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where the task stands.
    pub state: State,
    /// The token of the last claim, or higher: a holder with a lower one is refused.
    pub fence: FencingToken,
    /// Attempts begun since the task was queued or redriven and not given back.
    pub attempt: u32,
    /// How many it may have. What the envelope asks for until the first claim lowers it to the queue's.
    pub max_attempts: u32,
    /// The holder; after a reap, the one who held it last and may still settle.
    pub hold: Option<Hold>,
    /// When it last became available, by the store's clock.
    pub queued_at: Timestamp,
    /// Not claimed before this.
    pub not_before: Option<Timestamp>,
    /// Not started after this.
    pub expires: Option<Timestamp>,
    /// When the sweep must ring its doorbell; `None` while a doorbell is known to be out.
    pub ring_at: Option<Timestamp>,
    /// The number of its newest doorbell, from 1: each write that leaves it to be rung takes the next. What
    /// is sent and what is noted carry it, so that a late note of an older bell silences no newer one, and a
    /// FIFO queue never takes a new bell for one it has seen.
    pub rings: u32,
    /// When the doorbell that is out was sent, or earlier.
    pub rung_at: Timestamp,
    /// Somebody asked the holder to stop.
    pub cancel_asked: bool,
    /// The next attempt runs in an invocation of its own.
    pub alone: bool,
    /// How often it was interrupted.
    pub interruptions: u32,
    /// How often it snoozed.
    pub snoozes: u32,
    /// How often it was redriven.
    pub redriven: u32,
    /// What it has to do with the limits of its queue; none where there are none.
    pub permit: Option<Box<Permit>>,
}

/// The store refuses a write: the holder is not the newest, or the move is not legal from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused in state {state}: the newest fencing token is {fence}")]
pub struct Refused {
    /// Where the task stands.
    pub state: State,
    /// The newest token.
    pub fence: FencingToken,
}

/// What a worker brings to a claim.
#[derive(Clone, Debug)]
pub struct ClaimTerms<'a> {
    /// Who claims.
    pub worker: &'a WorkerId,
    /// For how long, until the first renewal.
    pub lease: Duration,
    /// The queue's mode.
    pub ack: AckMode,
    /// The queue's attempts: an upper bound for the envelope's.
    pub max_attempts: u32,
    /// Tasks of this queue that became available at or before this and do not run are cancelled.
    pub purged_before: Option<Timestamp>,
    /// How many tasks of this queue may run.
    pub limits: QueueLimits,
}

/// What a claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The caller holds the task now.
    Won,
    /// Another holds it until then, or the reaper has yet to bury it.
    Held {
        /// How much of the lease is left.
        left: Duration,
        /// The mode of that holder: in mode `lease` the row can bring the task back by itself.
        ack: AckMode,
    },
    /// It is to start later.
    NotYet(Timestamp),
    /// It is settled (perhaps by this very claim: cancelled, expired).
    Settled,
    /// No permit is free: its row waits for one, and whoever gives one back rings.
    Parked,
}

/// What becomes of a delivery after the row has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The row is enough: delete the message.
    Delete,
    /// It goes back, hidden this long.
    Hide(Duration),
    /// Its holder keeps and extends it.
    Keep,
}

impl Claim {
    /// What becomes of the delivery that led to this answer, under queue mode `ack`. `left` is what
    /// remains of the longest time that the broker can hide it (12 h from receive on SQS).
    ///
    /// A delivery of a task that is held is deleted only if the row can bring the task back; one that
    /// came early never is: it may be the only doorbell.
    #[must_use]
    pub fn disposition(&self, ack: AckMode, now: Timestamp, left: Duration) -> Disposition {
        match *self {
            Self::Won if ack == AckMode::Lease => Disposition::Delete,
            Self::Won => Disposition::Keep,
            Self::Held { ack: AckMode::Lease, .. } | Self::Settled | Self::Parked => Disposition::Delete,
            Self::Held { left: lease_left, ack: AckMode::Message } => {
                Disposition::Hide((lease_left + crate::limits::HELD_MARGIN).min(left))
            }
            Self::NotYet(at) => {
                let seconds = at.since(now).as_millis().div_ceil(1000);
                Disposition::Hide(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)).min(left))
            }
        }
    }
}

/// What a renewal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The lease lasts for its full length again.
    Kept {
        /// Somebody asked for the task to be stopped.
        cancel_asked: bool,
    },
    /// A newer claim exists, or the task is settled: stop working.
    Lost,
}

/// What a settle came to, for the queue side of the verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Where the task stands now.
    pub state: State,
    /// The token now: raised where the holder handed the task back.
    pub fence: FencingToken,
    /// The number of its newest doorbell: of the one to be rung, where the task is to be delivered again.
    pub rings: u32,
    /// The task is to be delivered again, this much later.
    pub again_in: Option<Duration>,
    /// Why the task was buried, where the outcome alone does not say it.
    pub buried: Option<Failure>,
}
