//! A bounded set of words for attributes: what comes after [`WORDS_MAX`] is called `other`.
//!
//! Queue and function names come from the configuration. Task names come with messages, from any producer: were
//! each a series of its own, a producer could fill the memory of the worker and of whoever stores its series.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use opentelemetry::StringValue;

/// Words of one kind.
pub(super) const WORDS_MAX: usize = 200;
/// What stands for all others.
pub(super) const OTHER: &str = "other";

#[derive(Debug, Default)]
pub(super) struct Words(RwLock<HashMap<String, Arc<str>>>);

impl Words {
    /// The word as an attribute's value; no copy of it where it was seen before.
    pub(super) fn word(&self, text: &str) -> StringValue {
        // Nothing panics while it holds the lock; if something did, the map is still whole.
        if let Some(word) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Arc::clone(word).into();
        }
        let mut words = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if words.len() >= WORDS_MAX {
            return OTHER.into();
        }
        Arc::clone(words.entry(text.to_owned()).or_insert_with(|| text.into())).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_after_the_last_are_called_other() {
        let words = Words::default();
        for number in 0..WORDS_MAX {
            assert_eq!(words.word(&number.to_string()).as_str(), number.to_string());
        }
        assert_eq!(words.word("one more").as_str(), OTHER);
        assert_eq!(words.word("0").as_str(), "0");
    }
}
