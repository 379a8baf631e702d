//! Rows, and the items beside them: read, put where none is, saved if still as seen.

use rhubarb_core::{
    backend::{AttemptRecord, Log, Result},
    ids::{FencingToken, TaskId},
    table::SORT,
    time::Timestamp,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    Expression, Table,
    access::{Query, Range, Written},
    attributes::{Item, from_item, number, s, text, to_item},
    in_order, keys,
    record::{Parts, Record, Spec},
};

/// Bytes of one part of an envelope: an item holds 400 KB (DynamoDB's KB are KiB), its key included.
const PART_BYTES_MAX: usize = 380 * 1024;
/// Bytes of a log that are kept; the end of it counts.
const LOG_BYTES_MAX: usize = 256 * 1024;
/// Marks of writes are below this: exact in any reader of JSON.
const MARKS: u64 = 1 << 53;

const REV: &str = "rev";
const FENCE: &str = "fence";

/// What became of a save.
pub(crate) enum Saved {
    /// The row is as the record says.
    Done,
    /// It had changed; the row as it is, if there is one.
    Differs(Option<Box<Record>>),
}

/// What of an attempt's item the row does not know.
#[derive(Deserialize)]
struct Printed {
    #[serde(default)]
    log: Log,
}

/// Everything that is kept about one task.
pub(crate) struct Whole {
    pub(crate) record: Record,
    /// The envelope.
    pub(crate) spec: Option<String>,
    /// Oldest first.
    pub(crate) attempts: Vec<AttemptRecord>,
    /// The keys of the items beside the row.
    pub(crate) beside: Vec<Item>,
}

impl Table {
    /// Reads a task's row as it is now.
    pub(crate) async fn find(&self, id: TaskId, now: Timestamp) -> Result<Option<Record>> {
        match self.get("read a task", keys::of(keys::task(id), keys::ROW)).await? {
            Some(item) => Record::decode(item, now),
            None => Ok(None),
        }
    }

    /// Puts the row of a new task; the one that is there comes back instead.
    pub(crate) async fn put_row(&self, record: &mut Record, now: Timestamp) -> Result<Saved> {
        let item = record.encode()?;
        match self.put("put a task", item.clone(), &Expression::new().only_new(now)).await? {
            Written::Done => {
                record.stored = item;
                Ok(Saved::Done)
            }
            Written::Differs(found) => self.compare(record, found, now).await,
        }
    }

    /// Writes what has changed of a row, if it is still as it was seen: the same write, by the same holder.
    pub(crate) async fn save(&self, record: &mut Record, now: Timestamp) -> Result<Saved> {
        if record.encode()? == record.stored {
            return Ok(Saved::Done);
        }
        if let Some(spec) = record.spec_in_the_way()? {
            // Under a name of its own: nobody who puts the same task again will take it for his, and delete it.
            let name = format!("{:016x}", fastrand::u64(..));
            record.spec = Spec::Parts(self.put_parts(record.id, name, spec).await?);
        }
        if record.was_permit != record.row.permit || record.gate.is_some() {
            return self.save_with_meters(record, now).await;
        }
        record.mark = new_mark();
        let item = record.encode()?;
        let change = Expression::difference(&record.stored, &item)
            .same_as_in(&record.stored, REV)
            .same_as_in(&record.stored, FENCE);
        match self.update("change a task", keys::key_of(&item), &change).await? {
            Written::Done => {
                record.stored = item;
                Ok(Saved::Done)
            }
            Written::Differs(found) => self.compare(record, found, now).await,
        }
    }

    /// A write that failed although the row carries its own mark was done by an earlier try of the same call,
    /// whose answer was lost.
    pub(super) async fn compare(&self, record: &mut Record, found: Option<Item>, now: Timestamp) -> Result<Saved> {
        let found = match found {
            Some(found) => Some(found),
            // Not every store of this kind says what it found.
            None => self.get("read a task", keys::of(keys::task(record.id), keys::ROW)).await?,
        };
        let Some(found) = found else { return Ok(Saved::Differs(None)) };
        let mine = number(&found, REV).and_then(|mark| u64::try_from(mark).ok()) == Some(record.mark);
        if mine && record.mark != 0 {
            record.was_permit.clone_from(&record.row.permit);
            record.stored = found;
            return Ok(Saved::Done);
        }
        Ok(Saved::Differs(Record::decode(found, now)?.map(Box::new)))
    }

    /// Deletes a row that is still as it was seen.
    pub(crate) async fn delete_row(&self, record: &Record) -> Result<Written> {
        let only = Expression::new().same_as_in(&record.stored, REV).same_as_in(&record.stored, FENCE);
        self.delete("delete a task", keys::key_of(&record.stored), &only).await
    }

    /// Finds a place for the envelope of a new row: in it, or beside it. What is beside is written before the row,
    /// and counts only through it.
    pub(crate) async fn place_spec(&self, record: &mut Record, spec: &str) -> Result<()> {
        if !spec.is_empty() && !record.hold_spec(spec)? {
            let hash = Sha256::digest(spec.as_bytes());
            let name = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            record.spec = Spec::Parts(self.put_parts(record.id, name, spec).await?);
        }
        Ok(())
    }

    async fn put_parts(&self, id: TaskId, name: String, spec: &str) -> Result<Parts> {
        let always = Expression::new();
        let items: Vec<Item> = split(spec)
            .enumerate()
            .map(|(number, part)| {
                let mut item = keys::of(keys::task(id), format!("{}{number:03}", keys::parts(&name)));
                item.insert("text".to_owned(), s(part));
                item
            })
            .collect();
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let puts: Vec<_> = items.into_iter().map(|item| self.put("put an envelope", item, &always)).collect();
        for put in in_order(puts).await {
            put?;
        }
        Ok(Parts { name, count })
    }

    /// Deletes the envelope of a row that was not put, unless the row that is there has the same one.
    pub(crate) async fn discard_parts(&self, record: &Record, there: Option<&Record>) -> Result<()> {
        let Spec::Parts(parts) = &record.spec else { return Ok(()) };
        if there.is_some_and(|there| there.spec == record.spec) {
            return Ok(());
        }
        let key = |number| keys::of(keys::task(record.id), format!("{}{number:03}", keys::parts(&parts.name)));
        let keys: Vec<Item> = (0..parts.count).map(key).collect();
        self.delete_many("delete an envelope", &keys).await
    }

    /// Reads the envelope of a row.
    pub(crate) async fn spec(&self, record: &Record) -> Result<Option<String>> {
        match &record.spec {
            Spec::Inline(spec) => Ok(Some(spec.clone())),
            Spec::Gone => Ok(None),
            Spec::Parts(parts) => {
                let mut query = Query::partition("read an envelope", keys::task(record.id));
                query.range = Range::Begins(keys::parts(&parts.name));
                Ok(joined(&self.items(&query, usize::MAX).await?, parts))
            }
        }
    }

    /// Writes how an attempt ended to the history. The same again changes nothing.
    pub(crate) async fn archive(&self, id: TaskId, attempt: &AttemptRecord) -> Result<()> {
        let item = to_item(attempt)?;
        let change = Expression::difference(&Item::new(), &item);
        self.update("write the history", keys::of(keys::task(id), keys::attempt(attempt.fence)), &change).await?;
        Ok(())
    }

    /// Writes what an attempt has printed, over what was known of it. `only` says in which case.
    pub(crate) async fn put_log(
        &self,
        id: TaskId,
        fence: FencingToken,
        log: &Log,
        only: Expression,
    ) -> Result<Written> {
        let key = keys::of(keys::task(id), keys::attempt(fence));
        let log = to_item(&bounded(log))?;
        self.update("write a log", key, &only.set("log", aws_sdk_dynamodb::types::AttributeValue::M(log))).await
    }

    /// Reads everything about a task.
    pub(crate) async fn whole(&self, id: TaskId, now: Timestamp) -> Result<Option<Whole>> {
        let items = self.items(&Query::partition("read a task", keys::task(id)), usize::MAX).await?;
        let (rows, beside): (Vec<Item>, Vec<Item>) =
            items.into_iter().partition(|item| text(item, SORT) == Some(keys::ROW));
        let Some(record) = rows.into_iter().next().map(|row| Record::decode(row, now)).transpose()?.flatten() else {
            return Ok(None);
        };
        let spec = match &record.spec {
            Spec::Inline(spec) => Some(spec.clone()),
            Spec::Parts(parts) => joined(&of_kind(&beside, &keys::parts(&parts.name)), parts),
            Spec::Gone => None,
        };
        let attempts = attempts(&record, &of_kind(&beside, keys::ATTEMPT))?;
        let beside = beside.iter().map(keys::key_of).collect();
        Ok(Some(Whole { record, spec, attempts, beside }))
    }
}

/// A mark that no other write has.
pub(crate) fn new_mark() -> u64 {
    fastrand::u64(1..MARKS)
}

fn of_kind(items: &[Item], begins: &str) -> Vec<Item> {
    let sort = |item: &Item| text(item, SORT).is_some_and(|sort| sort.starts_with(begins));
    items.iter().filter(|item| sort(item)).cloned().collect()
}

/// The parts of an envelope in their order; none where one is missing.
fn joined(parts: &[Item], expected: &Parts) -> Option<String> {
    let complete = u32::try_from(parts.len()).ok() == Some(expected.count);
    complete.then(|| parts.iter().filter_map(|part| text(part, "text")).collect())
}

/// The history, with the attempt that stands in the row.
fn attempts(record: &Record, items: &[Item]) -> Result<Vec<AttemptRecord>> {
    let last = record.last_attempt();
    let of_last = last.as_ref().map(|last| keys::attempt(last.fence));
    let mut attempts = Vec::with_capacity(items.len() + 1);
    let mut printed = Log::default();
    for item in items {
        if text(item, SORT) == of_last.as_deref() {
            printed = from_item::<Printed>(item)?.log;
        } else if number(item, FENCE).is_some() {
            // One without its token holds but a log, of an attempt that was lost before it could be closed.
            attempts.push(from_item::<AttemptRecord>(item)?);
        }
    }
    if let Some(mut last) = last {
        if last.log.is_empty() {
            last.log = printed;
        }
        attempts.push(last);
    }
    Ok(attempts)
}

/// The end of a log that is too long.
fn bounded(log: &Log) -> Log {
    let over = log.text.len().saturating_sub(LOG_BYTES_MAX);
    let from = (over..=log.text.len()).find(|at| log.text.is_char_boundary(*at)).unwrap_or(0);
    Log { text: log.text[from..].to_owned(), dropped: log.dropped + from as u64, ran_on: log.ran_on.clone() }
}

/// A text in parts, none cut within a character.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, left) = rest.split_at(rest.floor_char_boundary(PART_BYTES_MAX));
        rest = left;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_split_between_characters_and_joined_again() {
        let text = "ä\u{1f980}b".repeat(200_000);
        let parts: Vec<&str> = split(&text).collect();
        assert!(parts.len() == 4 && parts.iter().all(|part| part.len() <= PART_BYTES_MAX));
        assert_eq!(parts.concat(), text);
    }

    #[test]
    fn of_a_long_log_the_end_is_kept_and_the_rest_counted() {
        let log = Log { text: "ä".repeat(LOG_BYTES_MAX), dropped: 5, ..Log::default() };
        let kept = bounded(&log);
        assert!(kept.text.len() <= LOG_BYTES_MAX && kept.text.ends_with('ä'));
        assert_eq!(kept.dropped as usize, 5 + log.text.len() - kept.text.len());
        let short = Log { text: "short".into(), dropped: 0, ..Log::default() };
        assert_eq!(bounded(&short), short);
    }
}
