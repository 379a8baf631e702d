//! Which failures are tried again, as a queue or a task says it: `retry_on` or `never_retry_on`.

use super::{
    mistake::Problem,
    sheet::Table,
    value::{Reading, distinct, line, text_as},
};
use crate::{outcome::Failure, retry::RetryOn};

/// Characters of a failure's kind: what is kept of one.
const KIND_CHARS_MAX: usize = 128;

/// The two keys, of which a section may have one.
pub(super) const KEYS: [&str; 2] = ["retry_on", "never_retry_on"];

/// Reads what a section says; none where it says nothing, so that what lies below counts.
pub(super) fn read(table: &Table<'_, '_>) -> Option<RetryOn> {
    let only = table.read(KEYS[0], distinct(text_as(kind))).map(RetryOn::Only);
    let never = table.read(KEYS[1], distinct(text_as(kind))).map(RetryOn::Never);
    only.or(never)
}

fn kind(text: &str) -> Reading<String> {
    let kind = line(KIND_CHARS_MAX)(text)?;
    if kind == Failure::WORKER_LOST {
        let what = "a worker that fell silent reports no failure: its task is tried again while attempts are left";
        return Err(Problem::new(what, "leave it out; with max_attempts = 1 nothing is tried again"));
    }
    Ok(kind)
}
