//! What may go wrong with a verb, on request of a test.
//!
//! The in-memory backend asks before each verb what shall become of it. The answer may take its time
//! (a future), which is how a simulation runs one verb of one actor at a time.

use std::{future::Future, pin::Pin};

/// A verb of the backend, as faults see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the verb of its name")]
pub enum Verb {
    Declare,
    Send,
    Receive,
    Extend,
    Delete,
    Counts,
    PurgeQueue,
    Submit,
    Claim,
    Renew,
    Report,
    Settle,
    BuryPoison,
    Bury,
    Read,
    List,
    Count,
    WaitSettled,
    DueLeases,
    Reap,
    DueRings,
    CallParked,
    Rung,
    DoorbellsLost,
    DoorbellsAged,
    Cancel,
    Redrive,
    Discard,
    Queues,
    Pause,
    MarkPurged,
    CancelPurged,
    Forget,
    Blob,
    Schedule,
    Worker,
}

impl Verb {
    /// True if nobody who waits could find what it waits for after this verb.
    pub(crate) const fn only_reads(self) -> bool {
        matches!(
            self,
            Self::Receive
                | Self::Counts
                | Self::Read
                | Self::List
                | Self::Count
                | Self::WaitSettled
                | Self::DueLeases
                | Self::DueRings
                | Self::Queues
        )
    }
}

/// What becomes of a verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It is done and answered.
    #[default]
    None,
    /// It is not done, and the caller is told that the store is out of reach.
    Refuse,
    /// It is done, and the caller is told that the store is out of reach.
    LoseAnswer,
    /// It is not done, and the caller never hears again.
    CrashBefore,
    /// It is done, and the caller never hears again.
    CrashAfter,
    /// A send is accepted, and its messages are lost.
    Lose,
    /// A send puts each message twice; what a receive brings can be received again at once.
    Duplicate,
}

/// Decides what becomes of each verb.
pub trait Faults: Send + Sync {
    /// Asked before each verb.
    fn before(&self, verb: Verb) -> Pin<Box<dyn Future<Output = Fault> + Send + '_>>;
}

impl<F: Fn(Verb) -> Fault + Send + Sync> Faults for F {
    fn before(&self, verb: Verb) -> Pin<Box<dyn Future<Output = Fault> + Send + '_>> {
        Box::pin(std::future::ready(self(verb)))
    }
}
