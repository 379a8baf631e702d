//! Waiting until one of some tasks is settled.

use std::time::Duration;

use rhubarb_core::{backend::Result, ids::TaskId, row::State};
use tokio::time::Instant;

use crate::{bell::Kind, broker::wait_for_bell, open::LocalBackend};

/// Others' tasks are settled all the time on a busy store: bells in vain are answered ever later,
/// up to this.
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// Bells in vain that are answered at once.
const VAIN_FREE: u32 = 8;
/// So few rows are read where we are.
const FEW: usize = 4;

impl LocalBackend {
    /// Each task's state once one of them is settled, or after `wait`.
    pub(crate) async fn wait_for_settled(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Option<State>>> {
        let deadline = self.deadline(wait);
        let _listening = self.inner.bells.listen(Kind::Settled);
        let mut vain = 0_u32;
        loop {
            let settled = self.inner.bells.next_settled();
            let moved = self.inner.clock.moved();
            let states = self.states(ids).await?;
            if self.is_over(&deadline) || ids.is_empty() || states.iter().flatten().any(|state| state.is_settled()) {
                return Ok(states);
            }
            wait_for_bell(vec![settled], moved, self.wake_at(None, &deadline)).await;
            vain += 1;
            if vain > VAIN_FREE {
                let pause = Duration::from_millis(u64::from(vain - VAIN_FREE)).min(PAUSE_MAX);
                tokio::time::sleep_until(deadline.real.min(Instant::now() + pause)).await;
            }
        }
    }

    async fn states(&self, ids: &[TaskId]) -> Result<Vec<Option<State>>> {
        const WHAT: &str = "read tasks";
        if ids.len() <= FEW {
            return self.inner.reads.read_here(WHAT, |snapshot| snapshot.states(ids));
        }
        let ids = ids.to_vec();
        self.inner.reads.read(WHAT, move |snapshot| snapshot.states(&ids)).await
    }
}
