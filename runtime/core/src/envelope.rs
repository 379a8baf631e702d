//! The message body: our versioned JSON envelope, and what else is accepted in its place.
//!
//! Four shapes come in: the full envelope (`v` and `id`), the least (`{"task": …, "args": …}` from any
//! SQS client), a body that is no envelope on a queue with `raw_task`, and, refused with its own
//! words for now, a Celery message. All become an [`Envelope`] and are stored and handed on as a full
//! one. Unknown fields of a known version are kept and passed on, so that an older worker in the
//! middle loses nothing that a newer producer wrote.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;

use crate::{
    config::Overlap,
    ids::{MessageId, QueueName, ScheduleName, TaskId, TaskName},
    time::Timestamp,
};

/// The version this build writes, and the highest it reads.
pub const VERSION: u64 = 1;

/// The JSON Schema (draft 2020-12) of what any producer may send. What it accepts, [`Envelope::decode`]
/// reads; the few bodies more that are read, such as an id without its hyphens, nobody should write.
pub const SCHEMA: &str = include_str!("envelope.schema.json");

/// Where a payload lies that is too large for a message or a row. The key is below the application's
/// own prefix of [`crate::backend::Blobs`]; it is never a bucket or a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// The key.
    pub key: String,
    /// Lower-case hexadecimal SHA-256 of the content, verified on read.
    pub sha256: String,
    /// Bytes of the content.
    pub size: u64,
}

/// The W3C trace context of the producer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// `tracestate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

macro_rules! envelope {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// One task as it travels. Times are milliseconds since the epoch.
        #[derive(Clone, Debug)]
        pub struct Envelope {
            /// The task's id, for life.
            pub id: TaskId,
            /// The kind of task.
            pub task: TaskName,
            /// The arguments, any JSON; `null` where they travel as a claim check.
            pub args: Box<RawValue>,
            $($(#[$doc])* pub $field: Option<$type>,)*
            /// Fields that this build does not know, kept and passed on.
            pub extra: Vec<(String, Box<RawValue>)>,
        }

        impl Envelope {
            /// The least envelope: a task and its arguments.
            #[must_use]
            pub fn new(id: TaskId, task: TaskName, args: Box<RawValue>) -> Self {
                Self { id, task, args, $($field: None,)* extra: Vec::new() }
            }
        }

        #[derive(Default)]
        struct Fields {
            v: Option<u64>,
            id: Option<TaskId>,
            task: Option<TaskName>,
            args: Option<Box<RawValue>>,
            /// A Celery protocol 2 message names its task here.
            headers: Option<IgnoredAny>,
            $($field: Option<$type>,)*
            extra: Vec<(String, Box<RawValue>)>,
        }

        impl Fields {
            fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
                match key {
                    "v" => self.v = Some(map.next_value().map_err(|e| named("v", e))?),
                    "id" => self.id = map.next_value().map_err(|e| named("id", e))?,
                    "task" => self.task = map.next_value().map_err(|e| named("task", e))?,
                    "args" => self.args = Some(map.next_value().map_err(|e| named("args", e))?),
                    "headers" => self.headers = Some(map.next_value()?),
                    $(stringify!($field) => {
                        self.$field = map.next_value().map_err(|e| named(stringify!($field), e))?;
                    })*
                    other => self.extra.push((other.to_owned(), map.next_value()?)),
                }
                Ok(())
            }

            fn into_envelope(self, id: TaskId, task: TaskName, args: Box<RawValue>) -> Envelope {
                Envelope { id, task, args, $($field: self.$field,)* extra: self.extra }
            }
        }

        impl Serialize for Envelope {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("v", &VERSION)?;
                map.serialize_entry("id", &self.id)?;
                map.serialize_entry("task", &self.task)?;
                map.serialize_entry("args", &self.args)?;
                $(if let Some(value) = &self.$field { map.serialize_entry(stringify!($field), value)?; })*
                for (key, value) in &self.extra {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }

        /// The envelope's fields beside `v`, `id`, `task` and `args`, for the JSON Schema's test.
        pub const OPTIONAL_FIELDS: &[&str] = &[$(stringify!($field)),*];
    };
}

envelope! {
    /// The arguments, where they travel as a claim check.
    blob: BlobRef,
    /// The whole body, where it was no envelope (a queue with `raw_task`).
    raw: String,
    /// The queue it was sent to.
    queue: QueueName,
    /// When the producer made it. Only shown; decisions use the store's own `queued_at`.
    created: Timestamp,
    /// Not started before this.
    not_before: Timestamp,
    /// Not started after this.
    expires: Timestamp,
    /// The longest an attempt may take. Lowers the queue's, never raises it.
    timeout_ms: u64,
    /// Attempts in all. Lowers the queue's, never raises it.
    max_attempts: u32,
    /// GPUs. Lowers what the queue gives, never raises it; 0 runs the task on the CPU.
    gpus: u32,
    /// The first task of this task's family.
    root: TaskId,
    /// The task that enqueued it.
    parent: TaskId,
    /// The canvas group it belongs to.
    group: String,
    /// The schedule that made it.
    schedule: ScheduleName,
    /// That schedule's tick.
    tick: Timestamp,
    /// What its claim does while the task of an earlier tick has not settled; absent: it runs beside it.
    overlap: Overlap,
    /// A second task with this key, name and application is the first one.
    idempotency_key: String,
    /// Tasks with the same key run in order (FIFO queues).
    ordering_key: String,
    /// Tasks with the same key share a fair part of the queue.
    fairness_key: String,
    /// Tasks with the same key share a limit.
    concurrency_key: String,
    /// How often it was redriven.
    redriven: u32,
    /// Who made it, for people.
    producer: String,
    /// The trace it belongs to.
    trace: Trace,
}

fn named<E: serde::de::Error>(field: &str, error: E) -> E {
    E::custom(format_args!("field `{field}`: {error}"))
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            fields.read(&key, &mut map)?;
        }
        Ok(fields)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A body that is no task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not JSON, not an object, or a field is not what it should be.
    #[error("the message is no envelope: {0}; send {{\"task\": \"name\", \"args\": {{…}}}}")]
    Malformed(String),
    /// Written by a newer producer; a newer worker may be on its way.
    #[error("the envelope has version {0}, this worker reads up to {VERSION}: update the worker")]
    Newer(u64),
    /// A Celery message.
    #[error("this is a Celery message, which is not read yet: send {{\"task\": \"name\", \"args\": {{…}}}}")]
    Celery,
}

impl Envelope {
    /// Reads a message body. `message` gives the id where the body has none; with `raw_task`, a body
    /// that is no envelope becomes a task of that name.
    ///
    /// # Errors
    ///
    /// The body is no task; [`DecodeError::Newer`] alone is worth another try.
    pub fn decode(body: &str, message: &MessageId, raw_task: Option<&TaskName>) -> Result<Self, DecodeError> {
        match Self::decode_envelope(body, message) {
            Err(DecodeError::Malformed(_)) if raw_task.is_some() => {
                let Some(task) = raw_task else { return Err(DecodeError::Celery) };
                let mut envelope = Self::new(TaskId::of_message(message), task.clone(), null());
                envelope.raw = Some(body.to_owned());
                Ok(envelope)
            }
            read => read,
        }
    }

    fn decode_envelope(body: &str, message: &MessageId) -> Result<Self, DecodeError> {
        /// Reads the version alone: the other fields of a higher one may mean anything.
        #[derive(Deserialize)]
        struct Version {
            v: Option<u64>,
        }
        let read = serde_json::from_str::<Fields>(body);
        let version = match &read {
            Ok(fields) => fields.v,
            Err(_) => serde_json::from_str::<Version>(body).ok().and_then(|version| version.v),
        };
        if let Some(v) = version.filter(|v| *v > VERSION) {
            return Err(DecodeError::Newer(v));
        }
        let mut fields = read.map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if version == Some(0) {
            return Err(DecodeError::Malformed("field `v`: the first version is 1".into()));
        }
        let Some(task) = fields.task.take() else {
            let celery = fields.headers.is_some();
            return Err(if celery {
                DecodeError::Celery
            } else {
                DecodeError::Malformed("field `task` is missing".into())
            });
        };
        let id = match (fields.id, version) {
            (Some(id), _) => id,
            (None, Some(_)) => {
                return Err(DecodeError::Malformed("field `id` is missing from an envelope with `v`".into()));
            }
            (None, None) => TaskId::of_message(message),
        };
        let args = fields.args.take().unwrap_or_else(null);
        Ok(fields.into_envelope(id, task, args))
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    pub fn decode_full(body: &str) -> Result<Self, DecodeError> {
        Self::decode_envelope(body, &MessageId::new(""))
    }

    /// The full envelope as JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        // Serialising cannot fail: every key is a string and every value serialises into memory.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The arguments as a type.
    ///
    /// # Errors
    ///
    /// They do not fit; the message names the field.
    pub fn args<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.args.get())
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <Box<RawValue>>::deserialize(deserializer)?;
        Self::decode_full(raw.get()).map_err(D::Error::custom)
    }
}

/// JSON's null.
#[must_use]
pub fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b";

    fn decode(body: &str) -> Result<Envelope, DecodeError> {
        Envelope::decode(body, &MessageId::new(ID), None)
    }

    #[test]
    fn the_least_message_takes_the_message_id() {
        let envelope = decode(r#"{"task":"train_model","args":{"dataset":"digits"}}"#).unwrap();
        assert_eq!(envelope.id.to_string(), ID);
        assert_eq!(envelope.args.get(), r#"{"dataset":"digits"}"#);
    }

    #[test]
    fn unknown_fields_of_a_known_version_are_kept() {
        let body = format!(r#"{{"v":1,"id":"{ID}","task":"t","args":null,"created":5,"colour":{{"a":[1,2]}}}}"#);
        assert_eq!(decode(&body).unwrap().encode(), body);
    }

    #[test]
    fn a_higher_version_is_told_apart_from_a_malformed_one() {
        assert_eq!(decode(r#"{"v":2,"id":7,"task":[]}"#).unwrap_err(), DecodeError::Newer(2));
        assert!(matches!(decode(r#"{"v":1,"task":"t"}"#).unwrap_err(), DecodeError::Malformed(_)));
        assert!(matches!(decode(r#"{"v":"1","id":"x"}"#).unwrap_err(), DecodeError::Malformed(_)));
    }

    #[test]
    fn a_malformed_field_is_named() {
        let error = decode(r#"{"task":"t","args":{},"expires":"soon"}"#).unwrap_err().to_string();
        assert!(error.contains("`expires`"), "{error}");
        let error = decode(r#"{"args":{}}"#).unwrap_err().to_string();
        assert!(error.contains("`task`"), "{error}");
    }

    #[test]
    fn what_is_no_envelope_becomes_the_raw_task_where_the_queue_has_one() {
        let task = TaskName::new("legacy").unwrap();
        for body in ["plain text", "[1,2]", r#"{"order": 7}"#, ""] {
            let envelope = Envelope::decode(body, &MessageId::new(ID), Some(&task)).unwrap();
            assert_eq!((envelope.task.as_str(), envelope.raw.as_deref()), ("legacy", Some(body)));
            assert!(decode(body).is_err());
        }
        let newer = Envelope::decode(r#"{"v":9}"#, &MessageId::new(ID), Some(&task));
        assert_eq!(newer.unwrap_err(), DecodeError::Newer(9));
    }

    #[test]
    fn a_celery_message_is_answered_in_its_own_words() {
        let body = r#"{"body":"W10=","headers":{"task":"add","id":"x"},"content-type":"application/json"}"#;
        assert_eq!(decode(body).unwrap_err(), DecodeError::Celery);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in ".*") {
            let _ = decode(&body);
        }

        #[test]
        fn no_object_panics(key in "v|id|task|args|trace|blob|not_before|[a-z]{0,4}", value in r#"null|-?[0-9]{1,22}|"[^"\\]{0,9}"|\[\]|\{\}|[0-9]e[0-9]{3}"#) {
            let _ = decode(&format!(r#"{{"task":"t","{key}":{value}}}"#));
        }

        #[test]
        fn what_is_encoded_is_read_back(not_before in any::<Option<i64>>(), attempts in any::<Option<u32>>(), key in proptest::option::of(".*"), args in r#"\{"a":"[a-z]{0,8}"\}|null|[1-9][0-9]{0,4}"#) {
            let mut envelope = Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), RawValue::from_string(args).unwrap());
            envelope.not_before = not_before.map(Timestamp);
            envelope.max_attempts = attempts;
            envelope.idempotency_key = key;
            let text = envelope.encode();
            prop_assert_eq!(Envelope::decode_full(&text).unwrap().encode(), text);
        }
    }
}
