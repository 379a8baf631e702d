//! Identifiers and names: one type per word, each with the rule it carries.
//!
//! A name that came in from outside is checked once, here, so that it can later stand in a path, a
//! URL, a queue name or a log line without a second thought.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Says why a text is no valid name or id: what it should have been, and the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is no valid {what}: {rule}")]
pub struct InvalidName {
    shown: String,
    what: &'static str,
    rule: &'static str,
}

impl InvalidName {
    fn new(text: &str, what: &'static str, rule: &'static str) -> Self {
        // A name can be 10 kB of control characters: show only its harmless beginning.
        let mut shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
        if text.chars().nth(40).is_some() {
            shown.push('…');
        }
        Self { shown, what, rule }
    }
}

/// Names one task for life. Any UUID; ours are v7, but nothing reads time or order from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(Uuid);

impl TaskId {
    /// Wraps a UUID.
    #[must_use]
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Mints a new id. The only place in this crate that looks outside: ids are minted by producers.
    #[must_use]
    pub fn mint() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns the id that a message without one gets: the message id if it is a UUID, otherwise a
    /// UUID made from its SHA-256, so that each delivery of that message finds the same row.
    #[must_use]
    pub fn of_message(message: &MessageId) -> Self {
        use sha2::Digest as _;
        if let Ok(uuid) = Uuid::try_parse(message.as_str()) {
            return Self(uuid);
        }
        let digest = sha2::Sha256::digest(message.as_str().as_bytes());
        let mut bytes = [0_u8; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The sixteen bytes, as stores keep them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id back from the sixteen bytes of [`Self::as_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Uuid::try_parse(text).map(Self).map_err(|_| {
            InvalidName::new(text, "task id", "a task id is a UUID, such as 0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b")
        })
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut buffer = Uuid::encode_buffer();
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut buffer))
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Orders the holders of one task: the store refuses a write that carries an older token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(pub u64);

impl FencingToken {
    /// That of nobody: lower than every claim's.
    pub const NONE: Self = Self(0);

    /// The token of the next holder.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $extra:literal, $rule:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Checks `text`. ", $rule, ".\n\n# Errors\n\nNames the rule that the text breaks.")]
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                let first_is_alphanumeric = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
                let all_allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || $extra.contains(&b));
                if first_is_alphanumeric && all_allowed && text.len() <= $max {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName::new(text, $what, $rule))
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

impl QueueName {
    /// The queue that the broker itself moves messages to which were received too often. None where its name would
    /// be too long for one.
    #[must_use]
    pub fn dead_letters(&self) -> Option<Self> {
        Self::new(&format!("{self}-dead")).ok()
    }
}

names! {
    /// Names a queue of the configuration (not its name on AWS, which is `<app>-<stage>-<queue>`).
    QueueName, "queue name", 64, b"-_", "letters, digits, `-` and `_`, first a letter or digit, at most 64";
    /// Names a kind of task, such as `train_model` or `reports.daily`.
    TaskName, "task name", 128, b"-_.:/", "letters, digits and `-_.:/`, first a letter or digit, at most 128";
    /// Names a function: the executable that runs some kinds of task.
    FunctionName, "function name", 64, b"-_", "letters, digits, `-` and `_`, first a letter or digit, at most 64";
    /// Names a worker entry of the configuration.
    WorkerName, "worker name", 64, b"-_", "letters, digits, `-` and `_`, first a letter or digit, at most 64";
    /// Names a schedule. EventBridge Scheduler allows 64 characters.
    ScheduleName, "schedule name", 64, b"-_.", "letters, digits and `-_.`, first a letter or digit, at most 64";
    /// Names one running agent. Two live workers never share one.
    WorkerId, "worker id", 128, b"-_.:@", "letters, digits and `-_.:@`, first a letter or digit, at most 128";
}

impl TaskName {
    /// What stands for the name in the row of a message that cannot be read.
    #[must_use]
    pub fn unreadable() -> Self {
        Self("unreadable".into())
    }
}

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps what the broker gave.
            #[must_use]
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text as the broker gave it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

opaque! {
    /// What the broker calls a message, given at send and the same at each delivery.
    MessageId;
    /// What one delivery is extended, released or deleted by. A newer delivery makes it stale.
    ReceiptHandle;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_folder_is_refused() {
        for text in ["", "../x", "/etc/passwd", "a b", "a\u{1b}[2J", ".hidden", "-flag"] {
            assert!(QueueName::new(text).is_err(), "{text:?}");
            assert!(FunctionName::new(text).is_err(), "{text:?}");
        }
        assert!(QueueName::new(&"q".repeat(65)).is_err());
        assert!(QueueName::new("high-priority_2").is_ok());
    }

    #[test]
    fn an_error_shows_a_long_or_wild_name_short_and_harmless() {
        let error = TaskName::new(&"\u{1b}[2J".repeat(10_000)).unwrap_err().to_string();
        assert!(!error.contains('\u{1b}') && error.len() < 600, "{error}");
    }

    #[test]
    fn a_message_id_that_is_a_uuid_becomes_the_task_id() {
        let id = "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b";
        assert_eq!(TaskId::of_message(&MessageId::new(id)).to_string(), id);
        let other = TaskId::of_message(&MessageId::new("not a uuid"));
        assert_eq!(other, TaskId::of_message(&MessageId::new("not a uuid")));
        assert_ne!(other, TaskId::of_message(&MessageId::new("another")));
    }
}
