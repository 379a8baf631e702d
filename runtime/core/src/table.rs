//! The one DynamoDB table, described once: the template of the deployment, the set-up of tests and the store
//! itself are made from this.
//!
//! An item is found by its partition and sort key. The indexes are sparse: an item is in one as long as it has
//! that index's two attributes. They project keys only, so that a change of anything else costs no write to
//! them, and they lag: what they name is read again before anything is decided.

/// The table's partition key, a string.
pub const PARTITION: &str = "pk";
/// The table's sort key, a string.
pub const SORT: &str = "sk";
/// When DynamoDB may delete an item: epoch seconds. Deletion comes hours late; readers compare.
pub const TTL: &str = "ttl";

/// A global secondary index: a string and a number as its keys, keys only as its projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// The attribute of its partition key, a string that ends in a shard's number.
    pub partition: &'static str,
    /// The attribute of its sort key, a number: epoch milliseconds.
    pub sort: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// What must be looked at, and when: ended leases, late tasks, doorbells that must ring.
pub const DUE: Index =
    Index { name: "due", partition: "due_shard", sort: "due_at", purpose: "what the sweep must look at, by time" };
/// Tasks of a queue in a state, by the time they were accepted.
pub const BY_STATE: Index = Index {
    name: "by_state",
    partition: "state_shard",
    sort: "submitted",
    purpose: "tasks of a queue in a state, by time",
};
/// Tasks of a queue in any state, by the time they were accepted.
pub const BY_QUEUE: Index = Index {
    name: "by_queue",
    partition: "queue_shard",
    sort: "submitted",
    purpose: "tasks of a queue in any state, by time",
};
/// Tasks below a root, by the time they were accepted. Only those that a task has enqueued stand in it.
pub const BY_ROOT: Index =
    Index { name: "by_root", partition: "root_shard", sort: "submitted", purpose: "tasks below a root, by time" };

/// Every index of the table.
pub const INDEXES: [Index; 4] = [DUE, BY_STATE, BY_QUEUE, BY_ROOT];

/// Into how many partitions each value of an index is spread, by a hash of the task's id.
///
/// DynamoDB writes up to 1,000 units a second to one partition, of an index as of a table. A task at track level
/// `full` writes each of its states' partitions twice (in and out), so that a shard carries about 500 tasks a
/// second of one queue, and, for what the sweep looks at, of the whole application: four carry 2,000. Reads ask
/// every shard, so it may be raised at any time (rows of lower numbers stay where they are) and never lowered.
pub const SHARDS: u8 = 4;
