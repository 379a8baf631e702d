//! Messages in the file: a queue is the doorbells of its rows and the messages of plain producers,
//! received together in the order of their time.

use std::{collections::BTreeMap, time::Duration};

use rhubarb_core::{
    backend::{Delivery, OutgoingMessage, StoreError},
    ids::{MessageId, ReceiptHandle},
    time::Timestamp,
};
use rusqlite::{OptionalExtension as _, params};

use crate::{
    error::Fallible,
    names::NameNo,
    record::{COLUMN_COUNT, Record, columns},
    schema::NEVER,
    texts::{Payload, from_json, to_json},
    transaction::Transaction,
};

/// What one delivery is named by: which message, and how often it had been received then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// A doorbell, by its row.
    Bell { seq: i64, receives: u32 },
    /// A plain producer's message.
    Message { seq: i64, receives: u32 },
}

impl Receipt {
    /// The handle that callers hold.
    pub(crate) fn handle(self) -> ReceiptHandle {
        ReceiptHandle::new(match self {
            Self::Bell { seq, receives } => format!("t{seq}.{receives}"),
            Self::Message { seq, receives } => format!("m{seq}.{receives}"),
        })
    }

    /// Reads a handle; one that was never ours has expired.
    pub(crate) fn read(handle: &ReceiptHandle) -> Result<Self, StoreError> {
        let parts = || {
            let (kind, rest) = handle.as_str().split_at_checked(1)?;
            let (seq, receives) = rest.split_once('.')?;
            let (seq, receives) = (seq.parse().ok()?, receives.parse().ok()?);
            match kind {
                "t" => Some(Self::Bell { seq, receives }),
                "m" => Some(Self::Message { seq, receives }),
                _ => None,
            }
        };
        parts().ok_or(StoreError::ReceiptExpired)
    }
}

/// A plain producer's message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) seq: i64,
    pub(crate) visible_at: i64,
    pub(crate) sent: Timestamp,
    pub(crate) receives: u32,
    pub(crate) first_received: Option<Timestamp>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// A doorbell that may be received.
#[derive(Clone, Debug)]
pub(crate) struct Doorbell {
    pub(crate) record: Record,
    pub(crate) checkpoint: Option<String>,
    pub(crate) spec: String,
}

/// What may be received now.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Bell(Box<Doorbell>),
    Message(Box<Message>),
}

impl Due {
    fn at(&self) -> i64 {
        match self {
            Self::Bell(bell) => bell.record.bell.at.unwrap_or(NEVER),
            Self::Message(message) => message.visible_at,
        }
    }
}

/// When a queue moves a message aside.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    max_receives: Option<u32>,
    dead_letters: Option<NameNo>,
}

impl Rules {
    fn dead_letters_after(&self, receives: u32) -> Option<NameNo> {
        self.dead_letters.filter(|_| self.max_receives.is_some_and(|max| receives >= max))
    }
}

impl Transaction<'_> {
    /// Puts a message on a queue.
    pub(crate) fn put_message(&mut self, queue: NameNo, message: &OutgoingMessage) -> Fallible<MessageId> {
        let attributes = if message.attributes.is_empty() { None } else { Some(to_json(&message.attributes)?) };
        let (now, at) = (self.epoch(), self.epoch().after(message.delay));
        self.prepare("insert into message(queue, visible_at, sent, attributes, body) values(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![queue, at.as_millis(), now.as_millis(), attributes, message.body])?;
        self.ring(queue);
        Ok(self.message_id(self.connection.last_insert_rowid()))
    }

    /// What may be received now, in order, up to `max`. What has been received too often moves to the
    /// dead letters on the way, so that fewer may come than there are.
    pub(crate) fn due(&mut self, queue: NameNo, max: usize) -> Fallible<Vec<Due>> {
        let mut due = self.due_bells(queue, max)?;
        let messages = self.due_messages(queue, max)?;
        if !messages.is_empty() {
            due.extend(messages);
            due.sort_by_key(Due::at);
            due.truncate(max);
        }
        let rules = self.rules(queue)?;
        if rules.max_receives.is_none() {
            return Ok(due);
        }
        let mut kept = Vec::with_capacity(due.len());
        for one in due {
            if !self.bury_dead_letter(&rules, &one)? {
                kept.push(one);
            }
        }
        Ok(kept)
    }

    fn due_bells(&self, queue: NameNo, max: usize) -> Fallible<Vec<Due>> {
        let mut select = self.prepare(concat!(
            "select ",
            columns!(),
            ", checkpoint, spec from task indexed by task_bell \
             where queue = ?1 and bell_at <= ?2 order by bell_at, seq limit ?3"
        ))?;
        let mut rows = select.query(params![queue, self.epoch().as_millis(), limit(max)])?;
        let mut due = Vec::new();
        while let Some(row) = rows.next()? {
            let record = self.decode(row)?;
            let spec = match row.get(COLUMN_COUNT + 1)? {
                Some(spec) => spec,
                None => self.payload(record.seq, Payload::Spec)?.unwrap_or_default(),
            };
            let checkpoint = row.get(COLUMN_COUNT)?;
            due.push(Due::Bell(Box::new(Doorbell { record, checkpoint, spec })));
        }
        Ok(due)
    }

    fn due_messages(&self, queue: NameNo, max: usize) -> Fallible<Vec<Due>> {
        let now = self.epoch();
        let mut select = self.prepare(
            "select seq, visible_at, sent, receives, first_received, attributes, body from message \
             indexed by message_visible where queue = ?1 and visible_at <= ?2 order by visible_at, seq limit ?3",
        )?;
        let mut rows = select.query(params![queue, now.as_millis(), limit(max)])?;
        let mut due = Vec::new();
        let mut expired = Vec::new();
        while let Some(row) = rows.next()? {
            let sent = Timestamp(row.get(2)?);
            if sent.after(self.limits().retention) <= now {
                expired.push(row.get(0)?);
                continue;
            }
            let attributes: Option<String> = row.get(5)?;
            due.push(Due::Message(Box::new(Message {
                seq: row.get(0)?,
                visible_at: row.get(1)?,
                sent,
                receives: row.get(3)?,
                first_received: row.get::<_, Option<i64>>(4)?.map(Timestamp),
                attributes: attributes.as_deref().map(from_json).transpose()?.unwrap_or_default(),
                body: row.get(6)?,
            })));
        }
        for seq in expired {
            self.delete_message(seq)?;
        }
        Ok(due)
    }

    fn rules(&self, queue: NameNo) -> Fallible<Rules> {
        let mut select = self.prepare("select max_receives, dead_letters from queue where queue = ?1")?;
        let rules = select.query_row([queue], |row| Ok(Rules { max_receives: row.get(0)?, dead_letters: row.get(1)? }));
        Ok(rules.optional()?.unwrap_or_default())
    }

    fn bury_dead_letter(&mut self, rules: &Rules, due: &Due) -> Fallible<bool> {
        match due {
            Due::Message(message) => {
                let Some(dead) = rules.dead_letters_after(message.receives) else { return Ok(false) };
                let now = self.epoch().as_millis();
                self.prepare(
                    "update message set queue = ?2, visible_at = ?3, receives = 0, received = null, \
                     first_received = null where seq = ?1",
                )?
                .execute(params![message.seq, dead, now])?;
                self.ring(dead);
            }
            // A row's own doorbell is received as often as its task snoozes, waits or is held: it means no harm.
            Due::Bell(_) => return Ok(false),
        }
        Ok(true)
    }

    /// The time of the first message that is or will be visible.
    pub(crate) fn next_visible(&self, queue: NameNo) -> Fallible<Option<i64>> {
        next_visible(self.connection, queue)
    }

    /// Hides a message that is being received, and returns its delivery.
    pub(crate) fn receive_message(&self, message: Message, visibility: Duration) -> Fallible<Delivery> {
        let now = self.epoch();
        let receives = message.receives.saturating_add(1);
        let first_received = message.first_received.unwrap_or(now);
        self.prepare(
            "update message set visible_at = ?2, receives = ?3, received = ?4, first_received = ?5 where seq = ?1",
        )?
        .execute(params![
            message.seq,
            now.after(visibility).as_millis(),
            receives,
            now.as_millis(),
            first_received.as_millis()
        ])?;
        Ok(Delivery {
            message: self.message_id(message.seq),
            receipt: Receipt::Message { seq: message.seq, receives }.handle(),
            body: message.body,
            receive_count: receives,
            sent: message.sent,
            first_received,
            attributes: message.attributes,
        })
    }

    /// Hides a doorbell that is being received, and returns its delivery.
    pub(crate) fn receive_bell(&mut self, bell: Doorbell, visibility: Duration) -> Fallible<Delivery> {
        let Doorbell { mut record, spec, .. } = bell;
        self.count_receipt(&mut record, visibility);
        self.save(&mut record)?;
        Ok(Delivery {
            message: self.doorbell_id(record.seq),
            receipt: Receipt::Bell { seq: record.seq, receives: record.bell.receives }.handle(),
            body: spec,
            receive_count: record.bell.receives,
            sent: record.bell.sent,
            first_received: record.bell.first_received.unwrap_or(self.epoch()),
            attributes: BTreeMap::new(),
        })
    }

    /// Notes one more receipt of a row's doorbell, which hides it.
    pub(crate) fn count_receipt(&self, record: &mut Record, visibility: Duration) {
        let now = self.epoch();
        record.bell.receives = record.bell.receives.saturating_add(1);
        record.bell.received = Some(now);
        record.bell.first_received.get_or_insert(now);
        record.bell.at = Some(now.after(visibility).as_millis());
    }

    /// Hides a delivered message for so long from now.
    pub(crate) fn extend(&mut self, receipt: Receipt, time: Duration) -> Fallible<Result<(), StoreError>> {
        let hidden_until = |received: Timestamp| {
            self.epoch().after(time).min(received.after(self.limits().visibility_max)).as_millis()
        };
        match receipt {
            Receipt::Message { seq, receives } => {
                let Some((queue, received)) = self.delivered_message(seq, receives)? else {
                    return Ok(Err(StoreError::ReceiptExpired));
                };
                let at = hidden_until(received);
                self.prepare("update message set visible_at = ?2 where seq = ?1")?.execute(params![seq, at])?;
                self.ring(queue);
            }
            Receipt::Bell { seq, receives } => {
                let Some(mut record) = self.delivered_bell(seq, receives)? else {
                    return Ok(Err(StoreError::ReceiptExpired));
                };
                record.bell.at = Some(hidden_until(record.bell.received.unwrap_or(self.epoch())));
                self.save(&mut record)?;
            }
        }
        Ok(Ok(()))
    }

    /// Deletes a delivered message.
    pub(crate) fn delete(&mut self, receipt: Receipt) -> Fallible<Result<(), StoreError>> {
        match receipt {
            Receipt::Message { seq, receives } => {
                if self.delivered_message(seq, receives)?.is_some() {
                    self.delete_message(seq)?;
                } else if self.has_message(seq)? {
                    return Ok(Err(StoreError::ReceiptExpired));
                }
            }
            Receipt::Bell { seq, receives } => match self.find_seq(seq)? {
                Some(mut record) if record.bell.is_out() && record.bell.receives == receives => {
                    record.bell.at = None;
                    self.save(&mut record)?;
                }
                Some(record) if record.bell.is_out() => return Ok(Err(StoreError::ReceiptExpired)),
                _ => {}
            },
        }
        Ok(Ok(()))
    }

    /// The row whose doorbell this receipt is the newest of.
    pub(crate) fn delivered_bell(&self, seq: i64, receives: u32) -> Fallible<Option<Record>> {
        Ok(self.find_seq(seq)?.filter(|record| record.bell.is_out() && record.bell.receives == receives))
    }

    fn delivered_message(&self, seq: i64, receives: u32) -> Fallible<Option<(NameNo, Timestamp)>> {
        let mut select = self.prepare("select queue, received from message where seq = ?1 and receives = ?2")?;
        let found = select.query_row(params![seq, receives], |row| {
            Ok((row.get(0)?, Timestamp(row.get::<_, Option<i64>>(1)?.unwrap_or(0))))
        });
        Ok(found.optional()?)
    }

    fn has_message(&self, seq: i64) -> Fallible<bool> {
        let mut select = self.prepare("select 1 from message where seq = ?1")?;
        Ok(select.query_row([seq], |_| Ok(())).optional()?.is_some())
    }

    /// Removes a message.
    pub(crate) fn delete_message(&self, seq: i64) -> Fallible<()> {
        self.prepare("delete from message where seq = ?1")?.execute([seq])?;
        Ok(())
    }
}

/// The time of the first message of a queue that is or will be visible.
pub(crate) fn next_visible(connection: &rusqlite::Connection, queue: NameNo) -> Fallible<Option<i64>> {
    let mut bell = connection.prepare_cached(
        "select bell_at from task indexed by task_bell where queue = ?1 and bell_at < ?2 order by bell_at limit 1",
    )?;
    let bell: Option<i64> = bell.query_row(params![queue, NEVER], |row| row.get(0)).optional()?;
    let mut message = connection.prepare_cached(
        "select visible_at from message indexed by message_visible where queue = ?1 order by visible_at limit 1",
    )?;
    let message: Option<i64> = message.query_row([queue], |row| row.get(0)).optional()?;
    Ok(bell.into_iter().chain(message).min())
}

fn limit(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}
