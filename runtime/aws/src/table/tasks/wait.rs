//! Waiting until one of some tasks is settled: by looking, ever less often.

use std::time::Duration;

use rhubarb_core::{backend::Result, ids::TaskId, row::State};

use super::DynamoTasks;

/// The pause after the first look; each further one is half as long again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause: at most so late a caller is told.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl DynamoTasks {
    pub(super) async fn wait_for_settled(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Option<State>>> {
        let deadline = self.table.now().await?.lease.after(wait);
        let mut pause = PAUSE_MIN;
        loop {
            let now = self.table.now().await?;
            let rows = self.table.rows(ids, now.epoch).await?;
            let states: Vec<Option<State>> = ids.iter().map(|id| rows.get(id).map(|record| record.row.state)).collect();
            let one_is_settled = states.iter().flatten().any(|state| state.is_settled());
            if one_is_settled || ids.is_empty() || now.lease >= deadline {
                return Ok(states);
            }
            tokio::time::sleep(pause.min(deadline.since(now.lease))).await;
            pause = (pause * 3 / 2).min(PAUSE_MAX);
        }
    }
}
