//! Idempotency keys: a second task with a key is the first one, for the key's window.
//!
//! The key's item and the task's row are put in one transaction, so that there is never one without the other. A
//! key that lasts until its task is settled has no end of its own: whether it still holds is read from that task.

use rhubarb_core::{
    backend::{IdempotencyKey, Result, StoreError, Window},
    ids::TaskId,
    table::TTL,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    DynamoTasks,
    change::{PAUSE, TRIES},
    submit::Accepted,
};
use crate::table::{
    attributes::{Item, damaged, from_item, n, s, to_item},
    batch::pause,
    expression::Expression,
    keys,
    record::Record,
    transaction::{Checked, Transacted, Write},
};

const FIRST: &str = "first";
const HELD_UNTIL: &str = "held_until";

/// Who has a key.
#[derive(Serialize, Deserialize)]
struct KeyRow {
    first: TaskId,
    /// SHA-256 of its arguments.
    args: String,
    /// None: until that task is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_until: Option<Timestamp>,
}

impl DynamoTasks {
    /// Checks a key before anything is done with it.
    pub(super) fn check_key(&self, key: &IdempotencyKey) -> Result<()> {
        let (chars, max) = (key.key.chars().count(), self.table.limits().key_chars_max);
        if (1..=max).contains(&chars) {
            return Ok(());
        }
        Err(StoreError::Invalid(format!("the idempotency key has {chars} characters: 1 to {max} are allowed")))
    }

    /// Puts a row and its key, unless either is there.
    pub(super) async fn put_with_key(&self, record: &mut Record, key: &IdempotencyKey) -> Result<Accepted> {
        let mut over = None;
        for tried in 0..TRIES {
            let now = self.table.now().await?.epoch;
            let place = keys::of(keys::key(&record.task, &key.key), keys::KEY);
            let writes = vec![
                Write::Put(key_item(record, key, &place, now)?, key_is_free(record, over, now)),
                Write::Put(record.encode()?, Expression::new().only_new(now)),
            ];
            let checked = match self.table.transact("put a task with an idempotency key", writes).await? {
                Transacted::Done => {
                    record.stored = record.encode()?;
                    return Ok(Accepted::New);
                }
                Transacted::Busy => {
                    pause(PAUSE, tried).await;
                    continue;
                }
                Transacted::Differs(checked) => checked,
            };
            let [of_key, of_row]: [Checked; 2] = checked.try_into().map_err(|_| damaged("a strange transaction"))?;
            if let Checked::Fails(found) = of_row {
                let found = match found {
                    Some(item) => Record::decode(item, now)?,
                    None => self.table.find(record.id, now).await?,
                };
                return Ok(Accepted::Exists(found.map(Box::new)));
            }
            let found = match of_key {
                Checked::Fails(Some(item)) => Some(item),
                Checked::Fails(None) | Checked::Holds => self.table.get("read an idempotency key", place).await?,
            };
            let Some(holder) = found.map(|item| from_item::<KeyRow>(&item)).transpose()? else { continue };
            if !self.holds(&holder, now).await? {
                over = Some(holder.first);
            } else if holder.args == hex(&key.args_sha256) {
                return Ok(Accepted::Keyed(holder.first));
            } else {
                return Err(StoreError::KeyReused { key: key.key.clone(), first: holder.first });
            }
        }
        Err(self.contended("put a task with an idempotency key"))
    }

    /// True if a key is its task's still.
    async fn holds(&self, key: &KeyRow, now: Timestamp) -> Result<bool> {
        if let Some(until) = key.held_until {
            return Ok(until > now);
        }
        let first = self.table.find(key.first, now).await?;
        Ok(first.is_some_and(|first| !first.row.state.is_settled()))
    }
}

/// The item of a key that a new task is to have.
fn key_item(record: &Record, key: &IdempotencyKey, place: &Item, now: Timestamp) -> Result<Item> {
    let held_until = match key.window {
        Window::For(window) => Some(now.after(window)),
        Window::UntilSettled => None,
    };
    let mut item = to_item(&KeyRow { first: record.id, args: hex(&key.args_sha256), held_until })?;
    item.extend(place.clone());
    if let Some(until) = held_until {
        item.insert(TTL.to_owned(), n(until.as_millis().div_euclid(1000) + 1));
    }
    Ok(item)
}

/// Only if nobody has the key, or nobody any more; `over` is a task whose key is void.
fn key_is_free(record: &Record, over: Option<TaskId>, now: Timestamp) -> Expression {
    Expression::new().only_if(|e| {
        let (first, mine) = (e.name(FIRST), e.value(s(record.id.to_string())));
        let (until, now) = (e.name(HELD_UNTIL), e.value(n(now.as_millis())));
        let void = over.map(|over| format!(" OR {first} = {}", e.value(s(over.to_string())))).unwrap_or_default();
        format!("attribute_not_exists({first}) OR {until} <= {now} OR {first} = {mine}{void}")
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
