//! In which order the messages of a batch are taken.
//!
//! A FIFO queue keeps the order within a group only if whoever takes its messages stops at the first that
//! must come back. So its groups are lines: each round takes the first of every line, and a line whose first
//! must come back is closed. On other queues every message is a line of its own, and one round takes all.

use std::collections::{HashMap, VecDeque};

use crate::event::Message;

/// What is left of a batch.
pub(crate) struct Lines {
    lines: Vec<VecDeque<Message>>,
}

/// The first of each line, with the number of its line.
pub(crate) type Round = Vec<(usize, Message)>;

impl Lines {
    pub(crate) fn new(batch: Vec<Message>, fifo: bool) -> Self {
        if !fifo {
            return Self { lines: batch.into_iter().map(|message| VecDeque::from([message])).collect() };
        }
        let mut lines: Vec<VecDeque<Message>> = Vec::new();
        let mut of_group: HashMap<String, usize> = HashMap::new();
        for message in batch {
            // SQS gives every message of a FIFO queue a group; one without would be a line of its own.
            let group = message.group().map(str::to_owned);
            let line = group.as_ref().and_then(|group| of_group.get(group)).copied();
            match line {
                Some(line) => lines[line].push_back(message),
                None => {
                    of_group.extend(group.map(|group| (group, lines.len())));
                    lines.push(VecDeque::from([message]));
                }
            }
        }
        Self { lines }
    }

    /// Takes the first of each line; nothing when all lines are empty.
    pub(crate) fn next(&mut self) -> Round {
        let firsts = self.lines.iter_mut().enumerate();
        firsts.filter_map(|(number, line)| Some((number, line.pop_front()?))).collect()
    }

    /// Closes a line. Returns who still stood there.
    pub(crate) fn close(&mut self, line: usize) -> Vec<Message> {
        self.lines.get_mut(line).map(std::mem::take).unwrap_or_default().into()
    }
}
