//! Where things stand in the table: the one place that spells partition and sort keys.
//!
//! | partition | sort | what |
//! |---|---|---|
//! | `T#<id>` | `row` | the task's row, renewed with each heartbeat |
//! | | `a#<fence>` | an attempt: how it ended, and what it printed |
//! | | `s#<name>#<part>` | the envelope, where it does not fit the row, in parts |
//! | `K#<task>#<key>` | `key` | an idempotency key |
//! | `M#<queue>` | `meter` | how many tasks of the queue run, are parked and called |
//! | `M#<queue>#<key>` | `meter` | the same of one concurrency key |
//! | `QUEUES` | the queue | paused or not, and when it was purged |
//! | `WORKERS` | the worker | its last heartbeat |
//! | `ROLES` | the role | who has it |
//! | `SCHEDULES` | the schedule | its definition |
//! | `REVISIONS` | `schedules` | how often people have changed them |
//! | `STRAYS` | the blob's key | a checkpoint that a newer one replaced |

use aws_sdk_dynamodb::types::AttributeValue;
use rhubarb_core::{
    ids::{FencingToken, QueueName, TaskId, TaskName},
    row::State,
    table::{PARTITION, SHARDS, SORT},
};

use super::{
    attributes::{Item, s, text},
    permits::MeterName,
};

/// The sort key of a task's row.
pub(crate) const ROW: &str = "row";
/// What the sort keys of attempts begin with.
pub(crate) const ATTEMPT: &str = "a#";
/// The sort key of a meter.
const METER: &str = "meter";
/// The sort key of an idempotency key.
pub(crate) const KEY: &str = "key";
/// The partition of what is kept about queues.
pub(crate) const QUEUES: &str = "QUEUES";
/// The partition of the workers.
pub(crate) const WORKERS: &str = "WORKERS";
/// The partition of the roles.
pub(crate) const ROLES: &str = "ROLES";
/// The partition of the schedules.
pub(crate) const SCHEDULES: &str = "SCHEDULES";
/// The partition of what counts changes.
pub(crate) const REVISIONS: &str = "REVISIONS";
/// The partition of blobs that nothing names any more.
pub(crate) const STRAYS: &str = "STRAYS";

/// Why a row stands in the index of what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Its lease may have ended.
    Lease,
    /// Its doorbell must ring.
    Ring,
    /// Its record's time to be kept has passed.
    Keep,
    /// A parked task may be called: a meter, not a task.
    Meter,
}

impl Due {
    /// The index's partition for a shard.
    pub(crate) fn shard(self, shard: u8) -> String {
        let word = match self {
            Self::Lease => "lease",
            Self::Ring => "ring",
            Self::Keep => "keep",
            Self::Meter => "meter",
        };
        format!("{word}#{shard}")
    }
}

/// The key of a meter.
pub(crate) fn meter(name: &MeterName) -> Item {
    of(meter_partition(name), METER)
}

fn meter_partition((queue, key): &MeterName) -> String {
    match key {
        Some(key) => format!("M#{queue}#{key}"),
        None => format!("M#{queue}"),
    }
}

/// The meter of a partition. The name of a queue has no `#`.
pub(crate) fn meter_name(partition: &str) -> Option<MeterName> {
    let name = partition.strip_prefix("M#")?;
    match name.split_once('#') {
        Some((queue, key)) => Some((QueueName::new(queue).ok()?, Some(key.to_owned()))),
        None => Some((QueueName::new(name).ok()?, None)),
    }
}

/// The shard of a meter.
pub(crate) fn meter_shard(name: &MeterName) -> u8 {
    spread(meter_partition(name).as_bytes())
}

/// Where the parked tasks of a queue or key stand in the index of what is due.
pub(crate) fn line(name: &MeterName) -> String {
    format!("parked#{}", meter_partition(name))
}

/// The partition of a task.
pub(crate) fn task(id: TaskId) -> String {
    format!("T#{id}")
}

/// The task of a row's key.
pub(crate) fn id_of(item: &Item) -> Option<TaskId> {
    if text(item, SORT)? != ROW {
        return None;
    }
    text(item, PARTITION)?.strip_prefix("T#")?.parse().ok()
}

/// The sort key of an attempt: in the order of their tokens.
pub(crate) fn attempt(fence: FencingToken) -> String {
    format!("{ATTEMPT}{:020}", fence.0)
}

/// What the sort keys of an envelope's parts begin with. The name, a hash of the envelope, keeps another one under
/// the same id from overwriting the one that counts.
pub(crate) fn parts(name: &str) -> String {
    format!("s#{name}#")
}

/// The partition of an idempotency key.
pub(crate) fn key(task: &TaskName, key: &str) -> String {
    format!("K#{task}#{key}")
}

/// The key of an item.
pub(crate) fn of(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    Item::from([(PARTITION.to_owned(), s(partition)), (SORT.to_owned(), s(sort))])
}

/// The key of an item that was read.
pub(crate) fn key_of(item: &Item) -> Item {
    let attribute =
        |name: &str| -> Option<(String, AttributeValue)> { Some((name.to_owned(), item.get(name)?.clone())) };
    [PARTITION, SORT].into_iter().filter_map(attribute).collect()
}

/// The shard of a task: FNV-1a over its id, so that ids of any kind spread evenly.
pub(crate) fn shard(id: TaskId) -> u8 {
    spread(id.as_bytes())
}

fn spread(bytes: &[u8]) -> u8 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of this hash are its weakest.
    u8::try_from((hash >> 32) % u64::from(SHARDS)).unwrap_or(0)
}

/// The partition of tasks of a queue in a state.
pub(crate) fn state_shard(queue: &QueueName, state: State, shard: u8) -> String {
    format!("{queue}#{state}#{shard}")
}

/// The partition of tasks of a queue.
pub(crate) fn queue_shard(queue: &QueueName, shard: u8) -> String {
    format!("{queue}#{shard}")
}

/// The partition of the tasks below a root.
pub(crate) fn root_shard(root: TaskId, shard: u8) -> String {
    format!("{root}#{shard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_spread_over_all_shards_evenly() {
        let mut counts = [0_u32; SHARDS as usize];
        for _ in 0..4000 {
            counts[usize::from(shard(TaskId::mint()))] += 1;
        }
        let even = 4000 / u32::from(SHARDS);
        assert!(counts.iter().all(|count| count.abs_diff(even) < even / 4), "{counts:?}");
    }

    #[test]
    fn attempts_sort_by_their_tokens() {
        assert!(attempt(FencingToken(9)) < attempt(FencingToken(10)));
        assert!(attempt(FencingToken(u64::MAX)) > attempt(FencingToken(1)));
    }

    #[test]
    fn only_a_row_names_its_task() {
        let id = TaskId::mint();
        assert_eq!(id_of(&of(task(id), ROW)), Some(id));
        assert_eq!(id_of(&of(task(id), attempt(FencingToken(1)))), None);
        assert_eq!(id_of(&of(QUEUES, ROW)), None);
    }
}
