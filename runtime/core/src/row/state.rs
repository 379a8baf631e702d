//! Where a task stands, and the one table of legal moves.

use serde::{Deserialize, Serialize};

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum State {
    /// To start later, at its own `not_before`.
    Scheduled = 0,
    /// Waits for others of its canvas, or for a permit.
    Waiting = 1,
    /// May be claimed now.
    Queued = 2,
    /// Held by a worker under a lease.
    Running = 3,
    /// Failed or snoozed; to be tried again at `not_before`.
    Retrying = 4,
    /// Settled: done.
    Succeeded = 5,
    /// Settled: buried with a reason. Only redrive leaves this state.
    Failed = 6,
    /// Settled: stopped because somebody asked for it.
    Cancelled = 7,
    /// Settled: not started before its `expires`.
    Expired = 8,
}

impl State {
    /// All states, in the order of a task's life.
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Waiting,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// True for the four states that a task does not leave by itself.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The state's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The state of a stored number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The table: where a move leads from here, or `None` where it is not legal.
    #[must_use]
    pub const fn after(self, step: Move) -> Option<Self> {
        use {Move as M, State as S};
        match (self, step) {
            (S::Scheduled | S::Waiting | S::Queued | S::Retrying, M::Claim) => Some(S::Running),
            // The lease has ended: a newer holder takes over, and the older one is refused ever after.
            (S::Running, M::TakeOver) => Some(S::Running),
            // Reaped but not claimed since (perhaps parked): the last holder may still go on, or settle, so
            // that an outage of the store does not cost a day of work.
            (S::Running | S::Queued | S::Waiting, M::Renew) => Some(S::Running),
            (S::Running | S::Queued | S::Waiting, M::Succeed) => Some(S::Succeeded),
            (S::Running | S::Queued | S::Waiting, M::Bury) => Some(S::Failed),
            (S::Running | S::Queued | S::Waiting, M::Retry) => Some(S::Retrying),
            (S::Running | S::Queued | S::Waiting, M::GiveBack) => Some(S::Queued),
            (S::Running | S::Queued | S::Waiting, M::Stop) => Some(S::Cancelled),
            (S::Scheduled | S::Waiting | S::Queued | S::Retrying, M::Park) => Some(S::Waiting),
            (S::Waiting, M::Call) => Some(S::Queued),
            (S::Running, M::Reap) => Some(S::Queued),
            (S::Running, M::Lose) => Some(S::Failed),
            (S::Scheduled | S::Waiting | S::Queued | S::Retrying, M::Cancel) => Some(S::Cancelled),
            // Asked for while it ran; the holder fell silent before it could obey.
            (S::Running, M::CancelLost) => Some(S::Cancelled),
            (S::Scheduled | S::Waiting | S::Queued | S::Retrying | S::Running, M::Expire) => Some(S::Expired),
            (S::Failed, M::Redrive) => Some(S::Queued),
            _ => None,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|state| state.as_str()).collect();
            format!("`{text}` is no state; the states are {}", words.join(", "))
        })
    }
}

/// A move between states. Guards (fencing token, lease, time) are the verbs' business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// A worker wins a task that nobody holds.
    Claim,
    /// A worker wins a task whose holder's lease has ended.
    TakeOver,
    /// The holder keeps its lease.
    Renew,
    /// The holder did the task.
    Succeed,
    /// The holder's failure is final.
    Bury,
    /// The holder's attempt is tried again later.
    Retry,
    /// The holder hands the task back, to be claimed at once.
    GiveBack,
    /// The holder stopped because somebody asked.
    Stop,
    /// The reaper brings back what fell silent.
    Reap,
    /// The reaper buries what fell silent on its last attempt.
    Lose,
    /// Somebody cancels what nobody holds.
    Cancel,
    /// The reaper honours a cancellation of what fell silent.
    CancelLost,
    /// Its time to start has passed.
    Expire,
    /// Somebody brings a buried task back.
    Redrive,
    /// No permit is free: it waits for one, without a doorbell.
    Park,
    /// A permit may be free: it is to ask again.
    Call,
}

impl Move {
    /// All moves.
    pub const ALL: [Self; 16] = [
        Self::Claim,
        Self::TakeOver,
        Self::Renew,
        Self::Succeed,
        Self::Bury,
        Self::Retry,
        Self::GiveBack,
        Self::Stop,
        Self::Reap,
        Self::Lose,
        Self::Cancel,
        Self::CancelLost,
        Self::Expire,
        Self::Redrive,
        Self::Park,
        Self::Call,
    ];
}
