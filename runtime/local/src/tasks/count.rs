//! Counting tasks by the sums that the writers keep.

use rhubarb_core::{backend::StateCount, row::State, time::Timestamp};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::{Fallible, Fault},
    names::NameNo,
    reads::Snapshot,
};

impl Snapshot<'_> {
    /// How many tasks of each queue are in each state.
    pub(crate) fn count(&self) -> Fallible<Vec<StateCount>> {
        let mut select = self.prepare("select queue, state, n from count where n <> 0 order by queue, state")?;
        let mut rows = select.query([])?;
        let mut counts = Vec::new();
        while let Some(row) = rows.next()? {
            let queue: NameNo = row.get(0)?;
            let state: u8 = row.get(1)?;
            let state = State::from_number(state).ok_or_else(|| Fault::Damaged(format!("a count of state {state}")))?;
            let n: i64 = row.get(2)?;
            counts.push(StateCount {
                queue: self.name(queue)?.queue()?,
                state,
                count: u64::try_from(n).unwrap_or(0),
                oldest: self.oldest(queue, state)?,
            });
        }
        Ok(counts)
    }

    /// When the oldest task of a state was accepted, about: the first of the index that the state's rows
    /// stand in. Not known for succeeded ones, which stand in none.
    fn oldest(&self, queue: NameNo, state: State) -> Fallible<Option<Timestamp>> {
        let sql = match state {
            State::Queued => {
                "select submitted from task indexed by task_bell where queue = ?1 and bell_at is not null \
                 and state = ?2 order by bell_at, seq limit 1"
            }
            State::Running => {
                "select min(submitted) from task indexed by task_lease where state = 3 and queue = ?1 and ?2 = 3"
            }
            State::Succeeded => return Ok(None),
            State::Scheduled | State::Waiting | State::Retrying | State::Failed | State::Cancelled | State::Expired => {
                "select submitted from task indexed by task_rare where queue = ?1 and state = ?2 \
                 and state <> 2 and state <> 3 and state <> 5 order by seq limit 1"
            }
        };
        let mut select = self.prepare(sql)?;
        let oldest: Option<Option<i64>> = select.query_row(params![queue, state as u8], |row| row.get(0)).optional()?;
        Ok(oldest.flatten().map(Timestamp))
    }
}
