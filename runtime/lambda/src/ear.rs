//! Hears what the host does: what became of each message, for the answer.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rhubarb_core::{
    backend::{Fate, Finish, StoreError},
    ids::ReceiptHandle,
    row::Settled,
};
use rhubarb_host::listener::Listener;

/// What was heard since the last round.
#[derive(Default)]
pub(crate) struct Ear {
    fates: Mutex<HashMap<ReceiptHandle, Fate>>,
}

impl Ear {
    /// Forgets everything: a new round begins.
    pub(crate) fn clear(&self) {
        self.fates().clear();
    }

    /// What became of a message whose task was won. Nothing heard means that its settlement is not written.
    pub(crate) fn fate(&self, receipt: &ReceiptHandle) -> Fate {
        self.fates().get(receipt).copied().unwrap_or(Fate::Unknown)
    }

    fn fates(&self) -> MutexGuard<'_, HashMap<ReceiptHandle, Fate>> {
        // Nothing panics while it holds the lock; if something did, the map is still whole.
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Ear {
    fn settled(&self, finish: &Finish, answer: &Result<Settled, StoreError>) {
        let Some(receipt) = &finish.receipt else { return };
        let fate = match answer {
            Ok(Settled { again_in: None, .. }) => Fate::Deleted,
            Ok(Settled { again_in: Some(delay), .. }) => Fate::Back((*delay).min(finish.hideable)),
            // A newer holder, or the reaper, was first: the message is theirs, and the next delivery tells.
            Err(_) => Fate::Unknown,
        };
        self.fates().insert(receipt.clone(), fate);
    }
}
