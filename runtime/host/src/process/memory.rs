//! Looks at the descendants of a function process: how much memory they hold, and which have left its
//! process group.
//!
//! Both follow the children that the kernel lists for each thread, which costs a few small reads per
//! process. Descendants whose parent has died are not seen. On systems without `/proc` nothing is.

use std::fs;

use rustix::process::{Pid, getpgid};

/// A function that forks in a loop is not followed further than this.
const DESCENDANTS_MAX: usize = 4096;

/// The resident memory of the process and its descendants, in bytes; pages that they share count once
/// for each. None where it cannot be read.
pub(super) fn resident(leader: u32) -> Option<u64> {
    let own = resident_of(leader)?;
    let others = descendants(leader).into_iter().filter_map(resident_of);
    Some(others.fold(own, u64::saturating_add))
}

/// Descendants that a signal to the process group of `leader` does not reach.
pub(super) fn outside_group(leader: u32) -> Vec<u32> {
    let group = pid(leader);
    let left = |id: &u32| match getpgid(pid(*id)) {
        Ok(of) => Some(of) != group,
        Err(_) => false,
    };
    descendants(leader).into_iter().filter(left).collect()
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

fn resident_of(id: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{id}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn descendants(leader: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut unseen = vec![leader];
    while let Some(parent) = unseen.pop() {
        let children = children(parent);
        unseen.extend(&children);
        found.extend(children);
        if found.len() > DESCENDANTS_MAX {
            break;
        }
    }
    found
}

fn children(parent: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    let lists =
        threads.filter_map(Result::ok).filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| ids(&list)).collect()
}

fn ids(list: &str) -> Vec<u32> {
    list.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect()
}
