//! The published JSON Schema against what is really written and read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use boon::{Compiler, SchemaIndex, Schemas};
use proptest::prelude::*;
use rhubarb_core::{
    envelope::{BlobRef, Envelope, OPTIONAL_FIELDS, SCHEMA, Trace},
    ids::{MessageId, TaskId, TaskName},
    time::Timestamp,
};
use serde_json::{Value, json, value::RawValue};

const ID: &str = "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b";

struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    fn new() -> Self {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource("urn:rhubarb:envelope:1", serde_json::from_str(SCHEMA).unwrap()).unwrap();
        let index = compiler.compile("urn:rhubarb:envelope:1", &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn accepts(&self, body: &str) -> bool {
        let Ok(value) = serde_json::from_str::<Value>(body) else { return false };
        self.schemas.validate(&value, self.index).is_ok()
    }
}

fn reads(body: &str) -> bool {
    Envelope::decode(body, &MessageId::new(ID), None).is_ok()
}

/// An envelope with every field.
fn full() -> Envelope {
    let id: TaskId = ID.parse().unwrap();
    let args = RawValue::from_string(r#"{"dataset":"digits"}"#.into()).unwrap();
    let mut envelope = Envelope::new(id, TaskName::new("train_model").unwrap(), args);
    let key = || Some("customer 7".to_owned());
    envelope.blob = Some(BlobRef { key: "tasks/x/0/arguments".into(), sha256: "0a".repeat(32), size: 262_144 });
    envelope.raw = Some("plain text".into());
    envelope.queue = "training".parse().ok();
    envelope.created = Some(Timestamp(1_794_000_000_000));
    envelope.not_before = Some(Timestamp(1_794_000_000_001));
    envelope.expires = Some(Timestamp(i64::MAX));
    envelope.timeout_ms = Some(u64::MAX);
    envelope.max_attempts = Some(3);
    envelope.root = Some(id);
    envelope.parent = Some(TaskId::mint());
    envelope.group = Some("g".into());
    envelope.schedule = "nightly.2".parse().ok();
    envelope.tick = Some(Timestamp(0));
    (envelope.idempotency_key, envelope.ordering_key, envelope.fairness_key, envelope.concurrency_key) =
        (key(), key(), key(), key());
    envelope.redriven = Some(1);
    envelope.producer = Some("web".into());
    envelope.trace = Some(Trace { traceparent: Some("00-1-2-01".into()), tracestate: None });
    envelope.extra = vec![("colour".into(), RawValue::from_string("[1]".into()).unwrap())];
    envelope
}

#[test]
fn the_schema_lists_the_envelopes_fields_and_no_others() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut listed: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut fields: Vec<&str> = ["v", "id", "task", "args"].iter().chain(OPTIONAL_FIELDS).copied().collect();
    listed.sort_unstable();
    fields.sort_unstable();
    assert_eq!(listed, fields);
}

#[test]
fn what_our_producers_encode_and_the_least_form_are_valid() {
    let schema = Schema::new();
    let bodies = [
        full().encode(),
        Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), rhubarb_core::envelope::null()).encode(),
        r#"{"task":"train_model","args":{"dataset":"digits"}}"#.to_owned(),
        r#"{"task":"train_model"}"#.to_owned(),
    ];
    for body in bodies {
        assert!(schema.accepts(&body) && reads(&body), "{body}");
    }
}

#[test]
fn the_examples_in_the_schema_are_valid() {
    let (schema, text) = (Schema::new(), serde_json::from_str::<Value>(SCHEMA).unwrap());
    let examples: Vec<&Value> =
        text["anyOf"].as_array().unwrap().iter().flat_map(|form| form["examples"].as_array().unwrap()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        assert!(schema.accepts(&example.to_string()) && reads(&example.to_string()), "{example}");
    }
}

#[test]
fn what_is_refused_is_not_valid() {
    let schema = Schema::new();
    for body in [
        "",
        "plain text",
        "[1]",
        "{}",
        r#"{"args":{}}"#,
        r#"{"v":1,"task":"t"}"#,
        r#"{"v":1,"id":null,"task":"t"}"#,
        r#"{"v":0,"id":"0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b","task":"t"}"#,
        r#"{"v":2,"id":"0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b","task":"t"}"#,
        r#"{"v":null,"task":"t"}"#,
        r#"{"task":"../t"}"#,
        r#"{"task":"t","queue":"a b"}"#,
        r#"{"task":"t","blob":{"key":"k"}}"#,
        r#"{"body":"W10=","headers":{"task":"add","id":"x"}}"#,
    ] {
        assert!(!reads(body) && !schema.accepts(body), "{body}");
    }
}

proptest! {
    #[test]
    fn what_is_valid_is_read(
        field in proptest::sample::select(["v", "id", "task", "args", "headers"].iter().chain(OPTIONAL_FIELDS).copied().collect::<Vec<_>>()),
        value in prop_oneof![
            Just(json!(null)), Just(json!(true)), Just(json!([])), Just(json!({})), Just(json!(ID)), Just(json!(1.5)),
            any::<i64>().prop_map(Value::from), any::<u64>().prop_map(Value::from), (-2_i64..4).prop_map(Value::from),
            ".{0,6}".prop_map(Value::from), "[a-z]{1,140}".prop_map(Value::from),
            ".{0,3}".prop_map(|text| json!({"traceparent": text, "key": text, "sha256": "ab".repeat(32), "size": 1})),
        ],
        with_version in any::<bool>(),
    ) {
        thread_local!(static SCHEMA: Schema = Schema::new());
        let mut body = if with_version { json!({"v": 1, "id": ID, "task": "t"}) } else { json!({"task": "t"}) };
        body[field] = value;
        let text = body.to_string();
        if SCHEMA.with(|schema| schema.accepts(&text)) {
            prop_assert!(reads(&text), "{}", text);
        }
    }
}
