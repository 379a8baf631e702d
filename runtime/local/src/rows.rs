//! Finding, putting and saving rows: the few statements that every verb goes through.
//!
//! An update opens each index that one of its columns stands in, so a claim and a settlement, which
//! every task goes through, write only what they change.

use std::sync::LazyLock;

use rhubarb_core::{backend::Submission, ids::TaskId, outcome::Output, row::Row, time::Timestamp};
use rusqlite::params;

use crate::{
    error::Fallible,
    names::NameNo,
    permits::permit_of,
    record::{HELD, KEYED, NUMBERS, Reading, Record, columns, ms},
    schema::NEVER,
    texts::{IN_ROW_BYTES_MAX, Payload, stands_in_row, to_json},
    transaction::{Transaction, Usual},
};

/// What an update writes: the fewer columns, the fewer indexes it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What a settlement changes.
    Settlement,
    /// What a claim changes, or the receipt of a doorbell.
    Claim,
    /// Every column.
    All,
}

/// Each column with its place in [`Record::numbers`].
const SETTLEMENT: &str = "update task set state = ?2, flags = ?6, last_ended = ?26, last_outcome = ?27, \
    settled_at = ?28, forget_at = ?29 where seq = ?1";
const SETTLEMENT_WITH_OUTPUT: &str = "update task set state = ?2, flags = ?6, last_ended = ?26, last_outcome = ?27, \
    settled_at = ?28, forget_at = ?29, output = ?32 where seq = ?1";
/// The same for a row that was not read again: only where it is as it was claimed. One that fell silent was rung for
/// before its holder came back, and its doorbell goes too.
const SUCCESS: &str = "update task set state = ?2, flags = ?6, last_ended = ?26, last_outcome = ?27, \
    settled_at = ?28, forget_at = ?29, output = ?32 where seq = ?1 and id = ?33 and state = 3 and fence = ?3 \
    and flags = ?34 and bell_at is null";
const CLAIM: &str = "update task set state = ?2, fence = ?3, attempt = ?4, max_attempts = ?5, flags = ?6, \
    lease_boot = ?14, lease_until = ?15, lease_ms = ?16, bell_at = ?17, bell_receives = ?19, bell_received = ?20, \
    bell_first_received = ?21, last_fence = ?22, last_attempt = ?23, last_worker = ?24, last_started = ?25, \
    last_ended = ?26, last_outcome = ?27 where seq = ?1";
const ALL: &str = "update task set state = ?2, fence = ?3, attempt = ?4, max_attempts = ?5, flags = ?6, \
    queued_at = ?7, not_before = ?8, expires = ?9, ring_at = ?10, interruptions = ?11, snoozes = ?12, redriven = ?13, \
    lease_boot = ?14, lease_until = ?15, lease_ms = ?16, bell_at = ?17, bell_sent = ?18, bell_receives = ?19, \
    bell_received = ?20, bell_first_received = ?21, last_fence = ?22, last_attempt = ?23, last_worker = ?24, \
    last_started = ?25, last_ended = ?26, last_outcome = ?27, settled_at = ?28, forget_at = ?29, rings = ?30, \
    rung_at = ?31 where seq = ?1";

impl Extent {
    const fn sql(self) -> &'static str {
        match self {
            Self::Settlement => SETTLEMENT,
            Self::Claim => CLAIM,
            Self::All => ALL,
        }
    }

    const fn usual(self) -> Option<Usual> {
        match self {
            Self::Settlement => Some(Usual::Settle),
            Self::Claim => Some(Usual::Claim),
            Self::All => None,
        }
    }

    /// The places of its columns.
    const fn places(self) -> &'static [usize] {
        match self {
            Self::Settlement => &[1, 2, 6, 26, 27, 28, 29],
            Self::Claim => &[1, 2, 3, 4, 5, 6, 14, 15, 16, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27],
            Self::All => &[
                1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
                29, 30, 31,
            ],
        }
    }
}

const INSERT: &str = "insert into task(id, task, queue, submitted, state, max_attempts, flags, queued_at, not_before, \
    expires, ring_at, bell_at, bell_sent, spec, root) \
    values(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
    on conflict(id) do nothing";

/// Rows of one [`Transaction::insert_many`].
pub(crate) const MANY: usize = 32;
/// Values of one of them.
const NEW_COLUMNS: usize = 10;

static INSERT_MANY: LazyLock<String> = LazyLock::new(|| {
    let row = |index: usize| {
        let place = |column: usize| format!("?{}", 1 + index * NEW_COLUMNS + column);
        let [id, task, queue, state, max_attempts] = [1, 2, 3, 4, 5].map(place);
        let [not_before, expires, ring_at, bell_at, spec] = [6, 7, 8, 9, 10].map(place);
        format!(
            "({id}, {task}, {queue}, ?1, {state}, {max_attempts}, ?1, {not_before}, {expires}, {ring_at}, {bell_at}, ?1, {spec})"
        )
    };
    let rows: Vec<String> = (0..MANY).map(row).collect();
    format!(
        "insert into task(id, task, queue, submitted, state, max_attempts, queued_at, not_before, expires, ring_at, \
         bell_at, bell_sent, spec) values {} on conflict(id) do nothing",
        rows.join(", ")
    )
});

/// A waiting task to be put, whose envelope stands in its row.
pub(crate) struct NewTask<'s> {
    pub(crate) submission: &'s Submission,
    pub(crate) task: NameNo,
    pub(crate) queue: NameNo,
    pub(crate) row: Row,
    pub(crate) bell_at: Option<Timestamp>,
}

impl Transaction<'_> {
    /// The row of a task.
    pub(crate) fn find(&self, id: TaskId) -> Fallible<Option<Record>> {
        let mut select = self.at_hand(Usual::Find, concat!("select ", columns!(), " from task where id = ?1"))?;
        let record = select.query([&id.as_bytes()[..]])?.next()?.map(|row| self.decode(row)).transpose()?;
        self.lay_back(Usual::Find, select);
        Ok(record)
    }

    /// The row of a number.
    pub(crate) fn find_seq(&self, seq: i64) -> Fallible<Option<Record>> {
        let mut select = self.prepare(concat!("select ", columns!(), " from task where seq = ?1"))?;
        let mut rows = select.query([seq])?;
        rows.next()?.map(|row| self.decode(row)).transpose()
    }

    /// Reads a row of a select that begins with [`columns!`].
    pub(crate) fn decode(&self, row: &rusqlite::Row<'_>) -> Fallible<Record> {
        Record::decode(
            row,
            &Reading {
                boot: Some(self.boot),
                name: &|number| self.name(number),
                permit: &|seq| permit_of(self.connection, seq),
            },
        )
    }

    /// Puts a row where none is, without an envelope if that is empty; returns whether it did. `bell_at` is when its doorbell may be received.
    pub(crate) fn insert(&mut self, submission: &Submission, row: &Row, bell_at: Option<Timestamp>) -> Fallible<bool> {
        let task = self.number(submission.task.as_str())?;
        let queue = self.number(submission.queue.as_str())?;
        let waiting = !row.state.is_settled();
        let bell = bell_at.map(Timestamp::as_millis).or(waiting.then_some(NEVER));
        let in_row = stands_in_row(&submission.spec);
        let put = self.prepare(INSERT)?.execute(params![
            &submission.id.as_bytes()[..],
            task,
            queue,
            self.epoch().as_millis(),
            row.state as u8,
            row.max_attempts,
            if submission.key.is_some() { KEYED } else { 0 },
            row.queued_at.as_millis(),
            ms(row.not_before),
            ms(row.expires),
            ms(row.ring_at),
            bell,
            row.queued_at.as_millis(),
            in_row.then_some(&submission.spec),
            submission.root.as_ref().map(|root| &root.as_bytes()[..]),
        ])?;
        if put == 0 {
            return Ok(false);
        }
        if !in_row && !submission.spec.is_empty() {
            self.put_payload(self.connection.last_insert_rowid(), Payload::Spec, &submission.spec)?;
        }
        self.count(queue, row.state, 1);
        if bell_at.is_some() {
            self.ring(queue);
        }
        Ok(true)
    }

    /// Puts [`MANY`] rows where none are, by one statement, whose cursors then stay where the next row
    /// goes. Returns the highest row number before, and whether all were put.
    pub(crate) fn insert_many(&mut self, tasks: &[NewTask<'_>; MANY]) -> Fallible<(i64, bool)> {
        let before: Option<i64> = self.prepare("select max(seq) from task")?.query_row([], |row| row.get(0))?;
        let mut insert = self.prepare(&INSERT_MANY)?;
        insert.raw_bind_parameter(1, self.epoch().as_millis())?;
        let mut place = 1;
        for NewTask { submission, task, queue, row, bell_at } in tasks {
            insert.raw_bind_parameter(place + 1, &submission.id.as_bytes()[..])?;
            let bell = ms(*bell_at).unwrap_or(NEVER);
            let numbers = [Some(*task), Some(*queue), Some(row.state as i64), Some(row.max_attempts.into())];
            let times = [ms(row.not_before), ms(row.expires), ms(row.ring_at), Some(bell)];
            for (offset, number) in (2..).zip(numbers.into_iter().chain(times)) {
                insert.raw_bind_parameter(place + offset, number)?;
            }
            insert.raw_bind_parameter(place + NEW_COLUMNS, &submission.spec)?;
            place += NEW_COLUMNS;
        }
        let put = insert.raw_execute()?;
        Ok((before.unwrap_or(0), put == MANY))
    }

    /// Writes a changed row.
    pub(crate) fn save(&mut self, record: &mut Record) -> Fallible<()> {
        record.tidy_bell();
        let extent = record.changed();
        let numbers = record.numbers(self.boot);
        let mut save = match extent.usual() {
            Some(usual) => self.at_hand(usual, extent.sql())?,
            None => self.prepare(extent.sql())?,
        };
        bind(&mut save, extent, &numbers)?;
        save.raw_execute()?;
        if let Some(usual) = extent.usual() {
            self.lay_back(usual, save);
        }
        self.note_change(record)
    }

    /// Writes a changed row, and what the task gave.
    pub(crate) fn save_with_output(&mut self, record: &mut Record, output: &Output) -> Fallible<()> {
        let text = to_json(output)?;
        if text.len() > IN_ROW_BYTES_MAX {
            self.put_payload(record.seq, Payload::Output, &text)?;
            return self.save(record);
        }
        record.tidy_bell();
        if record.changed() != Extent::Settlement {
            self.prepare("update task set output = ?2 where seq = ?1")?.execute(params![record.seq, text])?;
            return self.save(record);
        }
        let numbers = record.numbers(self.boot);
        let mut save = self.prepare(SETTLEMENT_WITH_OUTPUT)?;
        bind(&mut save, Extent::Settlement, &numbers)?;
        save.raw_bind_parameter(NUMBERS + 1, text)?;
        save.raw_execute()?;
        self.note_change(record)
    }

    /// Writes the success of a remembered row. Returns false, and has written nothing, where the row has
    /// changed since.
    pub(crate) fn save_success(&mut self, record: &mut Record, output: Option<&str>) -> Fallible<bool> {
        let numbers = record.numbers(self.boot);
        let mut save = self.at_hand(Usual::Succeed, SUCCESS)?;
        bind(&mut save, Extent::Settlement, &numbers)?;
        save.raw_bind_parameter(3, numbers[2])?;
        save.raw_bind_parameter(NUMBERS + 1, output)?;
        save.raw_bind_parameter(NUMBERS + 2, &record.id.as_bytes()[..])?;
        save.raw_bind_parameter(NUMBERS + 3, HELD)?;
        let written = save.raw_execute()? == 1;
        self.lay_back(Usual::Succeed, save);
        if written {
            self.note_change(record)?;
        }
        Ok(written)
    }

    fn note_change(&mut self, record: &mut Record) -> Fallible<()> {
        self.save_permit(record)?;
        let (state, now) = (record.was.row.state, record.row.state);
        if state != now {
            self.count(record.queue, state, -1);
            self.count(record.queue, now, 1);
            if now.is_settled() {
                self.note_settled();
            }
        }
        if record.bell.is_out() && record.bell.at != record.was.bell.at {
            self.ring(record.queue);
        }
        record.remember();
        Ok(())
    }
}

fn bind(save: &mut rusqlite::Statement<'_>, extent: Extent, numbers: &[Option<i64>; NUMBERS]) -> Fallible<()> {
    for place in extent.places() {
        save.raw_bind_parameter(*place, numbers[place - 1])?;
    }
    Ok(())
}
