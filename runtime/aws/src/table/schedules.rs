//! Schedules, kept with how far each has come.
//!
//! A record is one item of JSON under a mark that each write draws anew: what changes it reads it, applies the
//! functions that every store shares, and writes on condition that the mark is the seen one. What people change
//! is written together with the revision that says so, in one transaction; what is noted of ticks is not.

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Current, Noted, Result, ScheduleRecord, Schedules, StoreError},
    ids::ScheduleName,
    table::PARTITION,
};

use super::{
    Expression, Table,
    access::{Query, Written},
    attributes::{Item, damaged, n, number, s, text},
    batch::pause,
    in_order, keys,
    rows::new_mark,
    tasks::{PAUSE, TRIES},
    transaction::{Transacted, Write},
};

/// A schedule's whole record as JSON text: its numbers come back as they were written.
const RECORD: &str = "record";
const REV: &str = "rev";
const REVISION: &str = "n";

/// The schedules of a table.
#[derive(Clone, Debug)]
pub struct DynamoSchedules {
    table: Table,
}

/// A schedule as it was read: the item, and what it says.
struct Seen {
    item: Item,
    record: ScheduleRecord,
}

impl DynamoSchedules {
    /// The schedules of this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    async fn find(&self, name: &ScheduleName) -> Result<Option<Seen>> {
        let item = self.table.get("read a schedule", keys::of(keys::SCHEDULES, name.as_str())).await?;
        item.map(|item| Ok(Seen { record: read(&item)?, item })).transpose()
    }

    /// Changes a schedule by `edit`, which says whether it did; again where another was first. Where there is none,
    /// `new` is put. Returns whether anything was written; nothing where there is none.
    async fn change(
        &self,
        name: &ScheduleName,
        new: Option<&ScheduleRecord>,
        by_people: bool,
        edit: impl Fn(&mut ScheduleRecord) -> bool + Send + Sync,
    ) -> Result<Option<bool>> {
        for tried in 0..TRIES {
            let (record, stored) = match (self.find(name).await?, new) {
                (Some(Seen { mut record, item }), _) => {
                    if !edit(&mut record) {
                        return Ok(Some(false));
                    }
                    (record, item)
                }
                (None, Some(new)) => (new.clone(), Item::new()),
                (None, None) => return Ok(None),
            };
            if self.write(&record, &stored, by_people).await? {
                return Ok(Some(true));
            }
            pause(PAUSE, tried).await;
        }
        let cause = std::io::Error::other(format!("others have changed it {TRIES} times meanwhile"));
        Err(StoreError::unreachable(self.table.what("change a schedule"), cause))
    }

    /// Writes a schedule if it is as it was seen, together with the revision where people change it. Returns
    /// whether it did.
    async fn write(&self, record: &ScheduleRecord, seen: &Item, by_people: bool) -> Result<bool> {
        const WHAT: &str = "keep a schedule";
        let text = serde_json::to_string(record).map_err(|error| damaged(&error))?;
        let mark = n(new_mark());
        let mut item = keys::of(keys::SCHEDULES, record.name.as_str());
        item.extend([(RECORD.to_owned(), s(text)), (REV.to_owned(), mark.clone())]);
        let only = Expression::new().same_as_in(seen, REV);
        if by_people {
            let writes = vec![Write::Put(item, only), revised()];
            return Ok(matches!(self.table.transact(WHAT, writes).await?, Transacted::Done));
        }
        Ok(match self.table.put(WHAT, item, &only).await? {
            Written::Done => true,
            // An earlier try of this very write, whose answer was lost.
            Written::Differs(found) => found.is_some_and(|found| found.get(REV) == Some(&mark)),
        })
    }

    async fn delete_one(&self, name: &ScheduleName) -> Result<()> {
        const WHAT: &str = "delete a schedule";
        for tried in 0..TRIES {
            let there = Expression::new().only_if(|e| format!("attribute_exists({})", e.name(PARTITION)));
            let writes = vec![Write::Delete(keys::of(keys::SCHEDULES, name.as_str()), there), revised()];
            match self.table.transact(WHAT, writes).await? {
                Transacted::Done | Transacted::Differs(_) => return Ok(()),
                Transacted::Busy => pause(PAUSE, tried).await,
            }
        }
        let cause = std::io::Error::other(format!("others were at it {TRIES} times meanwhile"));
        Err(StoreError::unreachable(self.table.what(WHAT), cause))
    }

    pub(crate) async fn put_one(&self, schedule: &ScheduleRecord) -> Result<()> {
        self.change(&schedule.name, Some(schedule), true, |record| record.replace(schedule)).await?;
        Ok(())
    }

    async fn note_one(&self, noted: &Noted) -> Result<()> {
        let note = |record: &mut ScheduleRecord| {
            let before = record.clone();
            record.note(noted);
            *record != before
        };
        self.change(&noted.name, None, false, note).await?;
        Ok(())
    }
}

#[async_trait]
impl Schedules for DynamoSchedules {
    async fn put(&self, schedules: &[ScheduleRecord]) -> Vec<Result<()>> {
        // One after the other: each raises the same revision.
        let mut answers = Vec::with_capacity(schedules.len());
        for schedule in schedules {
            answers.push(self.put_one(schedule).await);
        }
        answers
    }

    async fn delete(&self, names: &[ScheduleName]) -> Vec<Result<()>> {
        let mut answers = Vec::with_capacity(names.len());
        for name in names {
            answers.push(self.delete_one(name).await);
        }
        answers
    }

    async fn list(&self) -> Result<Vec<ScheduleRecord>> {
        let items = self.table.items(&Query::partition("list schedules", keys::SCHEDULES), usize::MAX).await?;
        items.iter().map(read).collect()
    }

    async fn read(&self, names: &[ScheduleName]) -> Result<Vec<Option<ScheduleRecord>>> {
        let found = in_order(names.iter().map(|name| self.find(name)).collect()).await;
        found.into_iter().map(|found| Ok(found?.map(|seen| seen.record))).collect()
    }

    async fn pause(&self, name: &ScheduleName, paused: bool) -> Result<bool> {
        let now = self.table.now().await?.epoch;
        Ok(self.change(name, None, true, |record| record.pause(paused, now)).await?.is_some())
    }

    async fn note(&self, noted: &[Noted]) -> Vec<Result<()>> {
        in_order(noted.iter().map(|noted| self.note_one(noted)).collect()).await
    }

    async fn enter(&self, name: &ScheduleName, expected: Option<Current>, next: Current) -> Result<bool> {
        let entered = self.change(name, None, false, |record| record.enter(expected, next)).await?;
        Ok(entered == Some(true))
    }

    async fn revision(&self) -> Result<u64> {
        let counted = self.table.get("look for changed schedules", revision_key()).await?;
        let revision = counted.and_then(|item| number(&item, REVISION)).unwrap_or(0);
        Ok(u64::try_from(revision).unwrap_or(0))
    }
}

fn revision_key() -> Item {
    keys::of(keys::REVISIONS, "schedules")
}

/// Counts a change by people.
fn revised() -> Write {
    Write::Update(revision_key(), Expression::new().add(REVISION, 1))
}

fn read(item: &Item) -> Result<ScheduleRecord> {
    serde_json::from_str(text(item, RECORD).unwrap_or_default()).map_err(|error| damaged(&error))
}
