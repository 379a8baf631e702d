//! Read, decide, write; and again on what the write has found, where somebody else was first.

use std::time::Duration;

use rhubarb_core::{
    backend::{Result, StoreError},
    ids::TaskId,
    time::Now,
};

use super::DynamoTasks;
use crate::table::{batch::pause, record::Record, rows::Saved};

/// Decisions of one verb.
pub(crate) const TRIES: u32 = 10;
/// The first pause between two; each further one is twice as long.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

impl DynamoTasks {
    /// Changes a task's row as `decide` says, which is asked again where the row has changed meanwhile. `known` is
    /// the row as it was seen earlier, if it was: a refusal by it is looked at again.
    pub(super) async fn change<T: Send>(
        &self,
        id: TaskId,
        known: Option<Record>,
        decide: impl Fn(&mut Record, Now) -> Result<T> + Send + Sync,
    ) -> Result<(T, Record)> {
        let mut fresh = known.is_none();
        let mut seen = match known {
            Some(known) => Some(Box::new(known)),
            None => self.table.find(id, self.table.now().await?.epoch).await?.map(Box::new),
        };
        for tried in 0..TRIES {
            let now = self.table.now().await?;
            let mut record = *seen.ok_or(StoreError::NoTask(id))?;
            let answer = match decide(&mut record, now) {
                Ok(answer) => answer,
                Err(error) if fresh => return Err(error),
                Err(_) => {
                    seen = self.table.find(id, now.epoch).await?.map(Box::new);
                    fresh = true;
                    continue;
                }
            };
            match self.table.save(&mut record, now.epoch).await? {
                Saved::Done => return Ok((answer, record)),
                Saved::Differs(found) => seen = found,
            }
            // The first refusal mostly means that what was known was old.
            if fresh {
                pause(PAUSE, tried).await;
            }
            fresh = true;
        }
        Err(self.contended("change a task"))
    }

    /// Others were first, each time.
    pub(super) fn contended(&self, what: &str) -> StoreError {
        let cause = std::io::Error::other(format!("others have changed it {TRIES} times meanwhile"));
        StoreError::unreachable(self.table.what(what), cause)
    }
}
