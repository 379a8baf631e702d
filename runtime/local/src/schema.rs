//! The tables, and the steps from one version of them to the next.
//!
//! Everything a verb decides by is a column of `task`; few b-trees are touched per task, since that is
//! what a verb costs. Four sparse indexes hold only rows that wait for something: a doorbell to be
//! received, a lease to end, a doorbell to be rung, a record to be forgotten. A task that succeeds at
//! first writes no other table: its last attempt lies in its own row, and moves to `attempt` only
//! when another begins.
//!
//! A migration is one transaction: a crash in it leaves the older version.

use rhubarb_core::backend::StoreError;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::Fallible;

/// `bell_at` of a waiting row whose doorbell is not out: it is received at no time.
pub(crate) const NEVER: i64 = i64::MAX;

/// Marks the file as ours (`application_id`): "RHUB".
const APPLICATION: i32 = 0x5248_5542;

/// The steps, oldest first; version n is what the first n steps make.
const MIGRATIONS: &[&str] = &[V1, V2, V3, V4, V5];

const V1: &str = "
create table store(only integer primary key check (only = 1), id blob not null);

create table name(id integer primary key, text text not null unique);

create table task(
    seq integer primary key,
    id blob not null unique,
    task integer not null,
    queue integer not null,
    submitted integer not null,
    state integer not null,
    fence integer not null default 0,
    attempt integer not null default 0,
    max_attempts integer not null,
    flags integer not null default 0,
    queued_at integer not null,
    not_before integer,
    expires integer,
    ring_at integer,
    interruptions integer not null default 0,
    snoozes integer not null default 0,
    redriven integer not null default 0,
    lease_boot integer,
    lease_until integer,
    lease_ms integer,
    bell_at integer,
    bell_sent integer not null default 0,
    bell_receives integer not null default 0,
    bell_received integer,
    bell_first_received integer,
    last_fence integer,
    last_attempt integer,
    last_worker integer,
    last_started integer,
    last_ended integer,
    last_outcome integer,
    settled_at integer,
    forget_at integer,
    checkpoint text,
    progress text,
    failure text,
    why text,
    output text,
    spec text
);
create index task_bell on task(queue, bell_at) where bell_at is not null;
create index task_lease on task(lease_boot, lease_until) where state = 3;
create index task_ring on task(ring_at) where ring_at is not null;
create index task_forget on task(forget_at) where forget_at is not null;
create index task_queue on task(queue);
create index task_rare on task(queue, state) where state <> 2 and state <> 3 and state <> 5;

create table payload(key integer primary key, body text not null);

create table attempt(
    seq integer not null,
    fence integer not null,
    attempt integer not null,
    worker integer not null,
    started integer not null,
    ended integer,
    outcome integer,
    failure text,
    log text,
    primary key (seq, fence)
) without rowid;

create table stray_blob(id integer primary key, reference text not null);

create table key(
    task integer not null,
    key text not null,
    id blob not null,
    args blob not null,
    until integer,
    primary key (task, key)
) without rowid;
create index key_until on key(until) where until is not null;
create index key_id on key(id);

create table message(
    seq integer primary key autoincrement,
    queue integer not null,
    visible_at integer not null,
    sent integer not null,
    receives integer not null default 0,
    received integer,
    first_received integer,
    attributes text,
    body text not null
);
create index message_visible on message(queue, visible_at);

create table count(queue integer not null, state integer not null, n integer not null, primary key (queue, state)) without rowid;

create table queue(
    queue integer primary key,
    declared integer not null default 0,
    paused integer not null default 0,
    purged_before integer,
    max_receives integer,
    dead_letters integer
);

create table worker(
    id text primary key,
    instance text not null,
    record text not null,
    heard integer not null,
    boot integer not null,
    lease integer not null
) without rowid;

create table role(
    name text primary key,
    worker text not null,
    instance text not null,
    boot integer not null,
    until integer not null
) without rowid;

create table schedule(name text primary key, record text not null) without rowid;
";

/// A doorbell has a number, and one that is a message has an age. Without a time of its own it is as old as
/// its row says by the time it became available.
const V2: &str = "
alter table task add column rings integer not null default 1;
alter table task add column rung_at integer;
";

/// Whoever fires schedules must see that some have changed without reading them all.
const V3: &str = "
create table schedule_revision(only integer primary key check (only = 1), n integer not null);
insert into schedule_revision(only, n) values(1, 0);
";

/// A task that another has enqueued is found by the root of their tree.
const V4: &str = "
alter table task add column root blob;
create index task_root on task(root) where root is not null;

create table permit(
    seq integer primary key,
    queue integer not null,
    permit text not null,
    line text,
    since integer not null
);
create index permit_line on permit(queue, line, since, seq) where line is not null;

create table meter(
    queue integer not null,
    line text not null,
    meter text not null,
    look_at integer,
    primary key (queue, line)
) without rowid;
create index meter_look on meter(look_at) where look_at is not null;
";

/// How far the wall clock is ahead of the boot-time clock: who sees another distance mends what a step has moved.
const V5: &str = "
create table wall(only integer primary key check (only = 1), boot integer not null, ahead_ms integer not null);
";

/// What the file says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing yet, or an older version.
    Older(usize),
    /// This build's version.
    Current,
    /// A newer build's version.
    Newer(u32),
    /// Another program's database.
    Foreign,
}

/// Looks at a file's version.
pub(crate) fn inspect(connection: &Connection) -> Fallible<Found> {
    let application: i32 = connection.query_row("pragma application_id", [], |row| row.get(0))?;
    let version: u32 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len();
    let version_index = usize::try_from(version).unwrap_or(usize::MAX);
    if application == APPLICATION {
        return Ok(match version_index.cmp(&known) {
            std::cmp::Ordering::Less => Found::Older(version_index),
            std::cmp::Ordering::Equal => Found::Current,
            std::cmp::Ordering::Greater => Found::Newer(version),
        });
    }
    let tables: i64 = connection.query_row("select count(*) from sqlite_schema", [], |row| row.get(0))?;
    Ok(if tables == 0 && version == 0 { Found::Older(0) } else { Found::Foreign })
}

/// Brings a file to this build's version. The caller holds the writer lock.
pub(crate) fn migrate(connection: &mut Connection, new_store_id: [u8; 8]) -> Result<(), StoreError> {
    const WHAT: &str = "open the store";
    let found = inspect(connection).map_err(|fault| fault.told(WHAT))?;
    let from = match found {
        Found::Current => return Ok(()),
        Found::Older(version) => version,
        Found::Newer(found) => {
            let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
            return Err(StoreError::NewerSchema { found, known });
        }
        Found::Foreign => {
            let fix = "store.db belongs to another program: name another folder".to_owned();
            return Err(StoreError::Broken { what: WHAT.to_owned(), fix });
        }
    };
    upgrade(connection, from, new_store_id).map_err(|fault| fault.told(WHAT))
}

fn upgrade(connection: &mut Connection, from: usize, new_store_id: [u8; 8]) -> Fallible<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for step in &MIGRATIONS[from..] {
        transaction.execute_batch(step)?;
    }
    transaction.execute("insert or ignore into store(only, id) values(1, ?1)", params![&new_store_id[..]])?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    transaction.commit()?;
    Ok(())
}

/// The store's own id, which message ids are made from.
pub(crate) fn store_id(connection: &Connection) -> Fallible<[u8; 8]> {
    let id: Option<[u8; 8]> =
        connection.query_row("select id from store where only = 1", [], |row| row.get(0)).optional()?;
    id.ok_or_else(|| crate::error::Fault::Damaged("no id of its own".into()))
}
