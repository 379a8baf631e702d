//! What is kept about queues: paused or not, and when they were purged.

use rhubarb_core::{backend::QueueRow, ids::QueueName, time::Timestamp};
use rusqlite::{OptionalExtension as _, params};

use crate::{error::Fallible, names::NameNo, reads::Snapshot, transaction::Transaction};

impl Transaction<'_> {
    /// Pauses or resumes a queue.
    pub(crate) fn pause(&mut self, queue: &QueueName, paused: bool) -> Fallible<()> {
        let queue = self.number(queue.as_str())?;
        self.prepare(
            "insert into queue(queue, paused) values(?1, ?2) on conflict(queue) do update set paused = excluded.paused",
        )?
        .execute(params![queue, paused])?;
        // Who waits looks again, and finds it paused or not.
        self.ring(queue);
        Ok(())
    }

    /// Notes that a queue is purged now.
    pub(crate) fn mark_purged(&mut self, queue: &QueueName) -> Fallible<Timestamp> {
        let (queue, now) = (self.number(queue.as_str())?, self.epoch());
        self.prepare(
            "insert into queue(queue, purged_before) values(?1, ?2) \
             on conflict(queue) do update set purged_before = excluded.purged_before",
        )?
        .execute(params![queue, now.as_millis()])?;
        Ok(now)
    }

    /// When a queue was purged last.
    pub(crate) fn purged_before(&self, queue: NameNo) -> Fallible<Option<Timestamp>> {
        let mut select = self.prepare("select purged_before from queue where queue = ?1")?;
        let found: Option<Option<i64>> = select.query_row([queue], |row| row.get(0)).optional()?;
        Ok(found.flatten().map(Timestamp))
    }
}

impl Snapshot<'_> {
    /// All that is kept about queues.
    pub(crate) fn queues(&self) -> Fallible<Vec<QueueRow>> {
        let mut select = self.prepare("select queue, paused, purged_before from queue order by queue")?;
        let mut rows = select.query([])?;
        let mut queues = Vec::new();
        while let Some(row) = rows.next()? {
            let queue = self.name(row.get(0)?)?.queue()?;
            let purged_before = row.get::<_, Option<i64>>(2)?.map(Timestamp);
            queues.push(QueueRow { queue, paused: row.get(1)?, purged_before });
        }
        Ok(queues)
    }
}
