//! The names that users give to data sets and models.
//!
//! A name becomes part of a blob's key, so it is checked where it enters: once a value of this type
//! exists, no later step has to ask whether it is `../x`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a data set or a model: 1 to 64 of `a-z`, `0-9`, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactName(String);

/// A text that cannot name an artifact.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` cannot name an artifact: use 1 to 64 of a-z, 0-9, `-` and `_`")]
pub struct InvalidName(String);

const LENGTH_MAX: usize = 64;

impl ArtifactName {
    /// The key of the data set of this name.
    pub fn dataset_key(&self) -> String {
        format!("datasets/{self}")
    }

    /// The key of the model of this name.
    pub fn model_key(&self) -> String {
        format!("models/{self}")
    }
}

impl TryFrom<String> for ArtifactName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > LENGTH_MAX || !name.chars().all(allowed) {
            // A shown name is cut and escaped: it may be long, or made to upset a terminal.
            let shown: String = name.chars().take(LENGTH_MAX).flat_map(char::escape_debug).collect();
            return Err(InvalidName(shown));
        }
        Ok(Self(name))
    }
}

impl TryFrom<&str> for ArtifactName {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, InvalidName> {
        Self::try_from(name.to_owned())
    }
}

impl From<ArtifactName> for String {
    fn from(name: ArtifactName) -> String {
        name.0
    }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_a_key() {
        let name = ArtifactName::try_from("digits-2").unwrap();
        assert_eq!(name.dataset_key(), "datasets/digits-2");
        assert_eq!(name.model_key(), "models/digits-2");
    }

    #[test]
    fn a_name_that_could_be_a_path_is_refused() {
        for name in ["", "../x", "/etc/passwd", "a/b", "a.b", "Ä", "a\u{1b}[2J", &"x".repeat(65)] {
            assert!(ArtifactName::try_from(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_refusal_shows_no_control_characters() {
        let refusal = ArtifactName::try_from("a\u{1b}[2J").unwrap_err().to_string();
        assert!(refusal.starts_with("`a\\u{1b}[2J` cannot name an artifact"), "{refusal}");
    }
}
