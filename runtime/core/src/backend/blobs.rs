//! Claim checks, results, checkpoints and artifacts: bytes under keys.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    backend::{Result, StoreError},
    envelope::BlobRef,
    ids::{FencingToken, TaskId},
    time::Timestamp,
};

/// A key below the application's own prefix: parts of letters, digits and `-_.` joined by `/`, no part
/// beginning with a dot, 512 bytes at most. It can leave neither a folder nor a bucket's prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobKey(String);

impl BlobKey {
    /// Checks a key.
    ///
    /// # Errors
    ///
    /// Names the rule.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text: String = text.into();
        let part = |part: &str| {
            let allowed = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            allowed && !part.is_empty() && !part.starts_with('.')
        };
        if text.len() <= 512 && text.split('/').all(part) {
            return Ok(Self(text));
        }
        let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
        Err(StoreError::Invalid(format!(
            "`{shown}` is no blob key: use letters, digits and `-_.` in parts joined by `/`, no part beginning with a dot, at most 512 bytes",
        )))
    }

    /// Where a task's checkpoint of one holder lies.
    #[must_use]
    pub fn checkpoint(id: TaskId, fence: FencingToken) -> Self {
        Self(format!("tasks/{id}/{fence}/checkpoint"))
    }

    /// Where a task's output over the inline limit lies.
    #[must_use]
    pub fn output(id: TaskId, fence: FencingToken) -> Self {
        Self(format!("tasks/{id}/{fence}/output"))
    }

    /// Where a task's arguments over the inline limit lie.
    #[must_use]
    pub fn arguments(id: TaskId) -> Self {
        Self(format!("tasks/{id}/0/arguments"))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BlobKey {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<BlobKey> for String {
    fn from(key: BlobKey) -> Self {
        key.0
    }
}

/// A blob of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Its key.
    pub key: BlobKey,
    /// Its bytes.
    pub size: u64,
    /// When it was written.
    pub modified: Timestamp,
}

/// Bytes under keys.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// Writes a blob whole: a reader sees the old content or the new, never a part.
    ///
    /// # Errors
    ///
    /// The store cannot be reached or is full.
    async fn put(&self, key: &BlobKey, content: Bytes) -> Result<()>;

    /// Reads a blob.
    ///
    /// # Errors
    ///
    /// `NoBlob`, or the store cannot be reached.
    async fn get(&self, key: &BlobKey) -> Result<Bytes>;

    /// Lists blobs whose key begins with `prefix` (whole parts), in order of their keys.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn list(&self, prefix: Option<&BlobKey>) -> Result<Vec<BlobInfo>>;

    /// Deletes blobs. Deleting one that is gone is no error.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn delete(&self, keys: &[BlobKey]) -> Vec<Result<()>>;

    /// Where people find the blob: a path or a URL.
    fn locate(&self, key: &BlobKey) -> String;

    /// Writes a blob and returns its reference.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    async fn check_in(&self, key: &BlobKey, content: Bytes) -> Result<BlobRef> {
        let reference = BlobRef { key: key.to_string(), sha256: sha256_hex(&content), size: content.len() as u64 };
        self.put(key, content).await?;
        Ok(reference)
    }

    /// Reads what a reference names, and verifies it.
    ///
    /// # Errors
    ///
    /// `NoBlob`, `DamagedBlob`, or the key is none of ours.
    async fn check_out(&self, reference: &BlobRef) -> Result<Bytes> {
        let content = self.get(&BlobKey::new(reference.key.as_str())?).await?;
        let found = sha256_hex(&content);
        if found != reference.sha256 {
            let (key, expected) = (reference.key.clone(), reference.sha256.clone());
            return Err(StoreError::DamagedBlob { key, expected, found });
        }
        Ok(content)
    }
}

/// The lower-case hexadecimal SHA-256 of some bytes.
#[must_use]
pub fn sha256_hex(content: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(content).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_prefix() {
        for key in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/.hidden",
            "a/b/",
            "a b",
            "a\\b",
            "a\0",
            &"k".repeat(10_000),
        ] {
            assert!(BlobKey::new(key).is_err(), "{key:?}");
        }
        assert!(BlobKey::new("models/digits-v1.2/model.bin").is_ok());
    }
}
