//! What one task asks for of its queue's GPUs: fewer, never more.
//!
//! A worker leases devices before it takes a message, so it leases what the queue asks for. A task that asks for fewer
//! gets the first of them; the others are given back before its function runs.

use crate::config::{Config, QueueConfig};

/// Says why a task cannot have `asked` GPUs on this queue, and where it could; none where it can.
#[must_use]
pub fn too_many_gpus(config: &Config, queue: &QueueConfig, asked: u32) -> Option<String> {
    if asked <= queue.gpus {
        return None;
    }
    let fitting = config.queues.values().filter(|other| other.gpus >= asked);
    // Rather one that can run the task, and of those the one that takes the fewest devices.
    let runs_alike = |other: &QueueConfig| other.functions.iter().any(|function| queue.functions.contains(function));
    let best = fitting.min_by_key(|other| (!runs_alike(other), other.gpus));
    let way_out = match best {
        Some(other) => format!("queue {} has {}", other.name, other.gpus),
        None => format!("no queue has as many: write gpus = {asked} in [queues.NAME] of one"),
    };
    let (name, has) = (&queue.name, queue.gpus);
    Some(format!(
        "`gpus` of {asked} is over the {has} of queue {name}: a task may ask for fewer, never for more; {way_out}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{NoVars, Overrides},
        ids::QueueName,
    };

    fn refusal(asked: u32) -> Option<String> {
        let text = "[app]\nname = \"a\"\n[queues.one]\ngpus = 1\nfunctions = [\"f\"]\n\
                    [queues.four]\ngpus = 4\nfunctions = [\"f\"]\n[queues.other]\ngpus = 2\nfunctions = [\"g\"]\n\
                    [functions.f]\npackage = \"f\"\n[functions.g]\npackage = \"g\"\n";
        let config = Config::parse(text, &NoVars, &Overrides::default()).unwrap();
        let one = config.queue(&QueueName::new("one").unwrap()).unwrap();
        too_many_gpus(&config, one, asked)
    }

    #[test]
    fn as_many_as_the_queue_has_or_fewer_are_fine() {
        assert_eq!((refusal(0), refusal(1)), (None, None));
    }

    #[test]
    fn more_are_refused_with_a_queue_that_fits_and_runs_the_same_function() {
        let told = "`gpus` of 2 is over the 1 of queue one: a task may ask for fewer, never for more; queue four has 4";
        assert_eq!(refusal(2).unwrap(), told);
        assert!(refusal(5).unwrap().ends_with("no queue has as many: write gpus = 5 in [queues.NAME] of one"));
    }
}
