//! A task and everything below it: what it enqueued, what those did, and so on.
//!
//! The store finds a tree by its root in an index of its own, so that a tree costs what it has, however
//! many tasks there are. What was forgotten (`keep`) is missing; what it had enqueued then hangs below
//! the nearest that is left.

use std::collections::HashMap;

use rhubarb_core::{
    backend::{Filter, TaskDetail},
    ids::TaskId,
};

use super::{Client, ClientError};

/// Details that one read brings.
const READ: usize = 100;

/// A task of a tree.
#[derive(Clone, Debug)]
pub struct TreeTask {
    /// How far below the first.
    pub depth: usize,
    /// Everything that is known about it.
    pub task: TaskDetail,
}

/// A task and what is below it.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Parents before their children, children in the order in which they were accepted. Never empty.
    pub tasks: Vec<TreeTask>,
    /// There are more than were asked for: the oldest are missing.
    pub cut: bool,
}

impl Client {
    /// Reads a task and what is below it, at most `limit` tasks: of those that have the same root the newest.
    ///
    /// # Errors
    ///
    /// `NoTask`, or the backend is not reachable.
    pub async fn tree(&self, id: TaskId, limit: usize) -> Result<Tree, ClientError> {
        let top = self.task(id).await?;
        let root = top.spec.as_ref().and_then(|spec| spec.root).unwrap_or(id);
        let below = limit.saturating_sub(1);
        // By time nothing is left out: by its producer's clock a child may have been accepted before its parent.
        let mut filter = Filter { root: Some(root), limit: below.max(1), ..Filter::default() };
        let mut found: Vec<TaskId> = Vec::new();
        let cut = loop {
            let page = self.tasks(&filter).await?;
            found.extend(page.items.iter().map(|record| record.id).filter(|found| *found != id));
            filter.cursor = page.next;
            if found.len() > below || filter.cursor.is_none() {
                break found.len() > below;
            }
        };
        found.truncate(below);
        found.reverse();
        let mut details = Vec::with_capacity(found.len());
        for ids in found.chunks(READ) {
            details.extend(self.backend.tasks().read(ids).await?.into_iter().flatten());
        }
        Ok(Tree { tasks: in_order(top, root, details), cut })
    }
}

/// Sorts a tree from its top. Of those whose parent is not there, all belong below the top if that is the root
/// of them all; otherwise nobody can say, and they are left out.
fn in_order(top: TaskDetail, root: TaskId, below: Vec<TaskDetail>) -> Vec<TreeTask> {
    let first = top.record.id;
    let known: std::collections::HashSet<TaskId> = below.iter().map(|task| task.record.id).chain([first]).collect();
    let mut children: HashMap<TaskId, Vec<TaskDetail>> = HashMap::new();
    for task in below {
        let parent = task.spec.as_ref().and_then(|spec| spec.parent).filter(|parent| known.contains(parent));
        if let Some(parent) = parent.or((first == root).then_some(first)) {
            children.entry(parent).or_default().push(task);
        }
    }
    let mut ordered = Vec::new();
    let mut next = vec![TreeTask { depth: 0, task: top }];
    while let Some(task) = next.pop() {
        let depth = task.depth + 1;
        let own = children.remove(&task.task.record.id).unwrap_or_default();
        next.extend(own.into_iter().rev().map(|task| TreeTask { depth, task }));
        ordered.push(task);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use rhubarb_core::{
        backend::TaskDetail,
        envelope::{Envelope, null},
        ids::{TaskId, TaskName},
    };
    use serde_json::json;

    use super::*;

    fn task(id: TaskId, parent: Option<TaskId>) -> TaskDetail {
        let mut task: TaskDetail = serde_json::from_value(json!({
            "id": id, "task": "t", "queue": "q", "state": "queued", "attempt": 0, "submitted": 0, "queued_at": 0,
            "cancel_asked": false, "redriven": 0, "interruptions": 0, "snoozes": 0, "attempts": [],
        }))
        .unwrap();
        let envelope = Envelope::new(id, TaskName::new("t").unwrap(), null());
        task.spec = Some(Envelope { parent, ..envelope });
        task
    }

    fn places(tasks: &[TreeTask]) -> Vec<(usize, TaskId)> {
        tasks.iter().map(|task| (task.depth, task.task.record.id)).collect()
    }

    #[test]
    fn parents_come_before_their_children_and_siblings_in_order() {
        let [root, a, b, a1, a2] = [(); 5].map(|()| TaskId::mint());
        let below = vec![task(a, Some(root)), task(b, Some(root)), task(a1, Some(a)), task(a2, Some(a))];
        let ordered = in_order(task(root, None), root, below);
        assert_eq!(places(&ordered), [(0, root), (1, a), (2, a1), (2, a2), (1, b)]);
    }

    #[test]
    fn a_branch_shows_nothing_beside_it_and_a_root_adopts_whose_parent_is_gone() {
        let [root, a, b, a1, gone, orphan] = [(); 6].map(|()| TaskId::mint());
        let below = vec![task(b, Some(root)), task(a1, Some(a)), task(orphan, Some(gone))];
        assert_eq!(places(&in_order(task(a, Some(root)), root, below.clone())), [(0, a), (1, a1)]);
        let ordered = in_order(task(root, None), root, below);
        assert_eq!(places(&ordered), [(0, root), (1, b), (1, a1), (1, orphan)]);
    }
}
