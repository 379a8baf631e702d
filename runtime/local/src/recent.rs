//! The rows that this process has claimed lately, so that a success need not read its row again.
//!
//! Only rows that are held and nothing more are remembered (no cancellation asked, no permit, no key), and what is
//! remembered decides nothing: the statement that writes a success asks for the fencing token, the state, the flags and
//! that no doorbell is out, and where the row stands otherwise by now, it changes nothing and the row is read. Lost by
//! a crash, and of no use then.

use std::collections::HashMap;

use rhubarb_core::ids::TaskId;

use crate::record::Record;

/// Rows that are remembered; beyond it all are forgotten. Attempts that last lose nothing by a read.
const RECENT_MAX: usize = 1_024;

/// Rows as this process's claims left them.
#[derive(Debug, Default)]
pub(crate) struct Recent(HashMap<TaskId, Record>);

impl Recent {
    /// Remembers a row that was just written.
    pub(crate) fn remember(&mut self, record: Record) {
        if self.0.len() >= RECENT_MAX {
            self.0.clear();
        }
        self.0.insert(record.id, record);
    }

    /// The row of a task as its claim left it; it is remembered no longer.
    pub(crate) fn recall(&mut self, id: TaskId) -> Option<Record> {
        self.0.remove(&id)
    }

    /// Forgets all: what was written has been rolled back.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
