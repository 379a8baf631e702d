//! Conditions and changes as DynamoDB takes them: names and values by placeholder, so that no attribute's name
//! meets a reserved word and no value meets the grammar.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use rhubarb_core::{
    table::{PARTITION, SORT, TTL},
    time::Timestamp,
};

use super::attributes::{Item, n};

/// What to change, and under which conditions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expression {
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
    sets: Vec<String>,
    removes: Vec<String>,
    adds: Vec<String>,
    conditions: Vec<String>,
}

impl Expression {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What makes one item of another.
    pub(crate) fn difference(old: &Item, new: &Item) -> Self {
        let is_key = |name: &str| name == PARTITION || name == SORT;
        let set = new.iter().filter(|(name, value)| !is_key(name) && old.get(*name) != Some(value));
        let changed = set.fold(Self::new(), |expression, (name, value)| expression.set(name, value.clone()));
        let gone = old.keys().filter(|name| !is_key(name) && !new.contains_key(*name));
        gone.fold(changed, |expression, name| expression.remove(name))
    }

    /// Changes an attribute.
    pub(crate) fn set(mut self, name: &str, value: AttributeValue) -> Self {
        let set = format!("{} = {}", self.name(name), self.value(value));
        self.sets.push(set);
        self
    }

    /// Removes an attribute.
    pub(crate) fn remove(mut self, name: &str) -> Self {
        let name = self.name(name);
        self.removes.push(name);
        self
    }

    /// Adds to a number, which is 0 where it is absent.
    pub(crate) fn add(mut self, name: &str, number: i64) -> Self {
        let add = format!("{} {}", self.name(name), self.value(n(number)));
        self.adds.push(add);
        self
    }

    /// Only if an attribute has this value.
    pub(crate) fn is(self, name: &str, value: AttributeValue) -> Self {
        self.only_if(|e| format!("{} = {}", e.name(name), e.value(value)))
    }

    /// Only if an attribute is as in this item: the same value, or absent from both.
    pub(crate) fn same_as_in(self, item: &Item, name: &str) -> Self {
        match item.get(name) {
            Some(value) => self.is(name, value.clone()),
            None => self.only_if(|e| format!("attribute_not_exists({})", e.name(name))),
        }
    }

    /// Only if there is no such item, or one whose time has passed.
    pub(crate) fn only_new(self, now: Timestamp) -> Self {
        let seconds = n(now.as_millis().div_euclid(1000));
        self.only_if(|e| {
            format!("attribute_not_exists({}) OR {} <= {}", e.name(PARTITION), e.name(TTL), e.value(seconds))
        })
    }

    /// Only under this condition, and all others.
    pub(crate) fn only_if(mut self, condition: impl FnOnce(&mut Self) -> String) -> Self {
        let condition = condition(&mut self);
        self.conditions.push(format!("({condition})"));
        self
    }

    /// A placeholder for an attribute's name.
    pub(crate) fn name(&mut self, name: &str) -> String {
        if let Some((placeholder, _)) = self.names.iter().find(|(_, known)| *known == name) {
            return placeholder.clone();
        }
        let placeholder = format!("#n{}", self.names.len());
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    /// A placeholder for a value.
    pub(crate) fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    /// The change; none where nothing is changed.
    pub(crate) fn change(&self) -> Option<String> {
        let part = |word: &str, parts: &[String]| (!parts.is_empty()).then(|| format!("{word} {}", parts.join(", ")));
        let parts = [part("SET", &self.sets), part("REMOVE", &self.removes), part("ADD", &self.adds)];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }

    /// The condition; none where it is to be done in any case.
    pub(crate) fn condition(&self) -> Option<String> {
        (!self.conditions.is_empty()).then(|| self.conditions.join(" AND "))
    }

    /// The names; none where there are none, as DynamoDB demands.
    pub(crate) fn names(&self) -> Option<HashMap<String, String>> {
        (!self.names.is_empty()).then(|| self.names.clone())
    }

    /// The values; none where there are none, as DynamoDB demands.
    pub(crate) fn values(&self) -> Option<HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::attributes::s;

    fn item<const N: usize>(fields: [(&str, &str); N]) -> Item {
        fields.into_iter().map(|(name, value)| (name.to_owned(), s(value))).collect()
    }

    #[test]
    fn only_what_has_changed_is_written() {
        let old = item([(PARTITION, "p"), ("same", "1"), ("other", "1"), ("gone", "1")]);
        let new = item([(PARTITION, "p"), ("same", "1"), ("other", "2")]);
        let expression = Expression::difference(&old, &new);
        assert_eq!(expression.change().unwrap(), "SET #n0 = :v0 REMOVE #n1");
        assert_eq!(expression.names().unwrap()["#n0"], "other");
        assert_eq!(expression.names().unwrap()["#n1"], "gone");
        assert!(expression.condition().is_none());
        assert!(Expression::difference(&new, &new).change().is_none());
    }

    #[test]
    fn a_change_names_each_kind_of_it() {
        let expression = Expression::new().add("count", 1).remove("gone").set("other", n(2));
        assert_eq!(expression.change().unwrap(), "SET #n2 = :v1 REMOVE #n1 ADD #n0 :v0");
    }

    #[test]
    fn conditions_hold_together() {
        let expression = Expression::new().is("fence", n(1)).same_as_in(&Item::new(), "not_before");
        assert_eq!(expression.condition().unwrap(), "(#n0 = :v0) AND (attribute_not_exists(#n1))");
    }
}
