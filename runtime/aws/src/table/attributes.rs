//! Items as values: one attribute per field, through serde, so that a type's fields stand in one place.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use rhubarb_core::{
    backend::{Result, StoreError},
    table::{PARTITION, SORT},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value};

/// An item as DynamoDB takes and gives it.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The attributes of a value that is a struct.
pub(crate) fn to_item(value: &impl Serialize) -> Result<Item> {
    let json = serde_json::to_value(value).map_err(|error| damaged(&error))?;
    match json {
        Value::Object(fields) => Ok(fields.into_iter().map(|(name, value)| (name, to_attribute(value))).collect()),
        _ => Err(damaged("not a struct")),
    }
}

/// A value from an item; attributes that it does not know are left alone.
pub(crate) fn from_item<T: DeserializeOwned>(item: &Item) -> Result<T> {
    let fields: Map<String, Value> = item.iter().map(|(name, value)| (name.clone(), to_json(value))).collect();
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| damaged(&format!("{error} in item {:?} of {:?}", text(item, SORT), text(item, PARTITION))))
}

/// A text attribute.
pub(crate) fn text<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// A whole number.
pub(crate) fn number(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// A text as an attribute.
pub(crate) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A whole number as an attribute.
pub(crate) fn n(number: impl std::fmt::Display) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// The size of an item as DynamoDB counts it: the names and the values in UTF-8; a number takes about half a byte
/// a digit and one more; a map three, and one for each entry.
pub(crate) fn size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + size_of_value(value)).sum()
}

fn size_of_value(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::M(fields) => 3 + fields.len() + size(fields),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + size_of_value(value)).sum::<usize>(),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        _ => 1,
    }
}

fn to_attribute(value: Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(truth) => AttributeValue::Bool(truth),
        Value::Number(number) => n(number),
        Value::String(text) => AttributeValue::S(text),
        Value::Array(values) => AttributeValue::L(values.into_iter().map(to_attribute).collect()),
        Value::Object(fields) => {
            AttributeValue::M(fields.into_iter().map(|(name, value)| (name, to_attribute(value))).collect())
        }
    }
}

fn to_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::N(digits) => digits.parse::<Number>().map_or(Value::Null, Value::Number),
        AttributeValue::Bool(truth) => Value::Bool(*truth),
        AttributeValue::L(values) => Value::Array(values.iter().map(to_json).collect()),
        AttributeValue::M(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect())
        }
        // Sets and bytes are never written here.
        _ => Value::Null,
    }
}

/// What the table holds cannot be read: somebody else wrote it.
pub(crate) fn damaged(what: &(impl std::fmt::Display + ?Sized)) -> StoreError {
    StoreError::Broken {
        what: "read what the table holds".to_owned(),
        fix: format!("{what}: nothing but rhubarb may write to this table"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        text: String,
        large: u64,
        below: i64,
        truth: bool,
        list: Vec<String>,
        inner: Option<Box<Sample>>,
    }

    fn sample() -> Sample {
        let inner = Sample {
            text: String::new(),
            large: u64::MAX,
            below: i64::MIN,
            truth: false,
            list: vec!["a".into(), "ä\u{1f980}".into()],
            inner: None,
        };
        Sample {
            text: "{\"quoted\": 1.0}".into(),
            large: 1,
            below: -1,
            truth: true,
            list: Vec::new(),
            inner: Some(Box::new(inner)),
        }
    }

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let item = to_item(&sample()).unwrap();
        assert_eq!(from_item::<Sample>(&item).unwrap(), sample());
        assert_eq!((text(&item, "text"), number(&item, "below")), (Some("{\"quoted\": 1.0}"), Some(-1)));
    }

    #[test]
    fn an_item_that_is_none_of_ours_is_named() {
        let item = Item::from([(PARTITION.to_owned(), s("T#1")), ("text".to_owned(), n(1))]);
        let error = from_item::<Sample>(&item).unwrap_err().to_string();
        assert!(error.contains("T#1") && error.contains("nothing but rhubarb"), "{error}");
    }

    #[test]
    fn sizes_are_counted_as_dynamodb_does() {
        let item = Item::from([("name".to_owned(), s("ä")), ("n".to_owned(), n(1_800_000_000_000_i64))]);
        assert_eq!(size(&item), 4 + 2 + 1 + 8);
    }
}
