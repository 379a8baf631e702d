//! Listing tasks, the newest first, in pages that cost little however many rows there are.
//!
//! States that few rows are in have an index of their own; running rows are found by their leases, a tree's by
//! its root; for the rest the rows are walked from the newest, at most [`LOOKED_AT_MAX`] a page, so that a page may be
//! short, or empty, and still name where the next one begins.

use std::collections::BinaryHeap;

use rhubarb_core::{
    backend::{Cursor, Filter, Page, Result, TaskRecord},
    ids::TaskId,
    row::State,
};
use rusqlite::params;

use super::{read::shown_columns, sweep::row_limit};
use crate::{error::Fallible, names::NameNo, open::Inner, reads::Snapshot, record::Record};

/// Rows that one page looks at.
const LOOKED_AT_MAX: usize = 20_000;
/// Rows of a page.
const PAGE_MAX: usize = 1_000;

/// A filter by numbers.
struct Wanted {
    queue: Option<NameNo>,
    state: Option<State>,
    task: Option<NameNo>,
    root: Option<TaskId>,
    since: i64,
    limit: usize,
    /// Only rows with a lower number.
    below: i64,
}

impl Wanted {
    fn accepts(&self, record: &Record) -> bool {
        !record.tombstone
            && self.queue.is_none_or(|queue| queue == record.queue)
            && self.state.is_none_or(|state| state == record.row.state)
            && self.task.is_none_or(|task| task == record.task)
            && record.submitted.as_millis() >= self.since
    }
}

/// Collects a page from rows in falling order.
struct Collected {
    items: Vec<TaskRecord>,
    looked_at: usize,
    last: i64,
    more: bool,
}

impl Snapshot<'_> {
    /// One page.
    pub(crate) fn list(&self, filter: &Filter) -> Result<Page<TaskRecord>> {
        let below = match &filter.cursor {
            None => i64::MAX,
            Some(cursor) => cursor.0.parse().map_err(|_| {
                Inner::invalid("the cursor is not one of this store's: pass the `next` of a page as it came")
            })?,
        };
        self.page(filter, below).map_err(|fault| fault.told("list tasks"))
    }

    fn page(&self, filter: &Filter, below: i64) -> Fallible<Page<TaskRecord>> {
        let empty = Page { items: Vec::new(), next: None };
        let number = |text: Option<&str>| match text {
            None => Ok(Some(None)),
            Some(text) => self.find_number(text).map(|found| found.map(Some)),
        };
        let Some(queue) = number(filter.queue.as_ref().map(AsRef::as_ref))? else { return Ok(empty) };
        let Some(task) = number(filter.task.as_ref().map(AsRef::as_ref))? else { return Ok(empty) };
        let wanted = Wanted {
            queue,
            state: filter.state,
            task,
            root: filter.root,
            since: filter.since.map_or(i64::MIN, |since| since.as_millis()),
            limit: filter.limit.clamp(1, PAGE_MAX),
            below,
        };
        let collected = match wanted.state {
            _ if wanted.root.is_some() => self.walk(&wanted)?,
            Some(State::Running) => self.running(&wanted)?,
            Some(
                state @ (State::Scheduled
                | State::Waiting
                | State::Retrying
                | State::Failed
                | State::Cancelled
                | State::Expired),
            ) => self.rare(&wanted, state)?,
            Some(State::Queued | State::Succeeded) | None => self.walk(&wanted)?,
        };
        let next = collected.more.then(|| Cursor(collected.last.to_string()));
        Ok(Page { items: collected.items, next })
    }

    fn walk(&self, wanted: &Wanted) -> Fallible<Collected> {
        let mut collected = Collected { items: Vec::new(), looked_at: 0, last: wanted.below, more: false };
        let all = concat!("select ", shown_columns!(), " from task where seq < ?1 order by seq desc");
        let of_queue = concat!(
            "select ",
            shown_columns!(),
            " from task indexed by task_queue where queue = ?2 and seq < ?1 order by seq desc"
        );
        let below_root = concat!(
            "select ",
            shown_columns!(),
            " from task indexed by task_root where root = ?2 and seq < ?1 order by seq desc"
        );
        match (wanted.root, wanted.queue) {
            (Some(root), _) => {
                self.collect(&mut collected, wanted, below_root, &[&wanted.below, &&root.as_bytes()[..]])?;
            }
            (None, None) => self.collect(&mut collected, wanted, all, &[&wanted.below])?,
            (None, Some(queue)) => self.collect(&mut collected, wanted, of_queue, &[&wanted.below, &queue])?,
        }
        Ok(collected)
    }

    fn rare(&self, wanted: &Wanted, state: State) -> Fallible<Collected> {
        let queues = match wanted.queue {
            Some(queue) => vec![queue],
            None => self.queues_with(state)?,
        };
        let mut heads = BinaryHeap::new();
        for queue in queues {
            let mut select = self.prepare(
                "select seq from task indexed by task_rare where queue = ?1 and state = ?2 \
                 and state <> 2 and state <> 3 and state <> 5 and seq < ?3 order by seq desc limit ?4",
            )?;
            // One more than a page tells whether there is another.
            let found = select
                .query_map(params![queue, state as u8, wanted.below, row_limit(LOOKED_AT_MAX)], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()?;
            heads.extend(found);
        }
        self.collect_numbers(wanted, heads.into_sorted_vec().into_iter().rev())
    }

    fn running(&self, wanted: &Wanted) -> Fallible<Collected> {
        let mut select =
            self.prepare("select seq from task indexed by task_lease where state = 3 and seq < ?1 limit ?2")?;
        let mut numbers = select
            .query_map(params![wanted.below, row_limit(LOOKED_AT_MAX)], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        numbers.sort_unstable();
        self.collect_numbers(wanted, numbers.into_iter().rev())
    }

    fn queues_with(&self, state: State) -> Fallible<Vec<NameNo>> {
        let mut select = self.prepare("select queue from count where state = ?1 and n > 0")?;
        Ok(select.query_map([state as u8], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
    }

    fn collect_numbers(&self, wanted: &Wanted, numbers: impl Iterator<Item = i64>) -> Fallible<Collected> {
        let mut collected = Collected { items: Vec::new(), looked_at: 0, last: wanted.below, more: false };
        let sql = concat!("select ", shown_columns!(), " from task where seq = ?1");
        for number in numbers {
            if collected.more {
                break;
            }
            self.collect(&mut collected, wanted, sql, &[&number])?;
        }
        Ok(collected)
    }

    fn collect(
        &self,
        collected: &mut Collected,
        wanted: &Wanted,
        sql: &str,
        params: &[&dyn rusqlite::ToSql],
    ) -> Fallible<()> {
        let mut select = self.prepare(sql)?;
        let mut rows = select.query(params)?;
        while let Some(row) = rows.next()? {
            if collected.items.len() >= wanted.limit || collected.looked_at >= LOOKED_AT_MAX {
                collected.more = true;
                return Ok(());
            }
            let record = self.decode(row)?;
            collected.looked_at += 1;
            collected.last = record.seq;
            if wanted.accepts(&record) {
                collected.items.push(self.shown(row, &record)?);
            }
        }
        Ok(())
    }
}
