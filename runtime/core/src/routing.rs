//! Which function of a queue runs a task.
//!
//! A function says which kinds of task it runs when it starts. Where a queue has one function, that
//! one gets everything (a function in another language need not say anything). Where it has several,
//! the configuration's word comes first, then what the functions said.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{FunctionName, TaskName};

/// The functions of one queue, and what is known about them.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    functions: Vec<FunctionName>,
    pinned: BTreeMap<TaskName, FunctionName>,
    said: BTreeMap<FunctionName, BTreeSet<TaskName>>,
}

impl Routes {
    /// The routes of a queue with these functions; `pinned` is what the configuration says.
    #[must_use]
    pub fn new(functions: Vec<FunctionName>, pinned: BTreeMap<TaskName, FunctionName>) -> Self {
        Self { functions, pinned, said: BTreeMap::new() }
    }

    /// Notes what a function says it runs.
    pub fn said(&mut self, function: &FunctionName, tasks: impl IntoIterator<Item = TaskName>) {
        self.said.insert(function.clone(), tasks.into_iter().collect());
    }

    /// The function that runs this task, or `None`: no function of the queue knows it.
    #[must_use]
    pub fn function_of(&self, task: &TaskName) -> Option<&FunctionName> {
        if let Some(pinned) = self.pinned.get(task) {
            return Some(pinned);
        }
        match self.functions.as_slice() {
            [only] => Some(only),
            several => {
                several.iter().find(|function| self.said.get(*function).is_some_and(|tasks| tasks.contains(task)))
            }
        }
    }

    /// The functions of the queue.
    #[must_use]
    pub fn functions(&self) -> &[FunctionName] {
        &self.functions
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn function(name: &str) -> FunctionName {
        FunctionName::new(name).unwrap()
    }

    fn task(name: &str) -> TaskName {
        TaskName::new(name).unwrap()
    }

    #[test]
    fn the_only_function_gets_everything() {
        let routes = Routes::new(vec![function("python")], BTreeMap::new());
        assert_eq!(routes.function_of(&task("anything")), Some(&function("python")));
    }

    #[test]
    fn several_functions_are_told_apart_by_what_they_said_and_the_configuration_comes_first() {
        let pinned = BTreeMap::from([(task("b"), function("one"))]);
        let mut routes = Routes::new(vec![function("one"), function("two")], pinned);
        assert_eq!(routes.function_of(&task("a")), None);
        routes.said(&function("two"), [task("a"), task("b")]);
        assert_eq!(routes.function_of(&task("a")), Some(&function("two")));
        assert_eq!(routes.function_of(&task("b")), Some(&function("one")));
    }

    proptest! {
        #[test]
        fn a_route_always_leads_to_a_function_of_the_queue(said in proptest::collection::vec((0_usize..4, 0_u8..6), 0..20), asked in 0_u8..8) {
            let functions: Vec<FunctionName> = (0..4).map(|n| function(&format!("f{n}"))).collect();
            let mut routes = Routes::new(functions.clone(), BTreeMap::new());
            for (index, name) in &said {
                routes.said(&functions[*index], [task(&format!("t{name}"))]);
            }
            if let Some(found) = routes.function_of(&task(&format!("t{asked}"))) {
                prop_assert!(functions.contains(found));
            }
        }
    }
}
