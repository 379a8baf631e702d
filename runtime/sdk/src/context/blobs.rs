//! Artifacts: bytes under keys, in the application's own store.

use bytes::Bytes;
use http::Method;
use rhubarb_core::{
    backend::{BlobInfo, BlobKey},
    envelope::BlobRef,
};
use serde::Deserialize;

use super::{
    ContextError,
    routes::{Call, Host, query_value},
};

/// The application's blobs. A key is parts of letters, digits and `-_.` joined by `/`.
#[derive(Clone)]
pub struct Blobs(Host);

#[derive(Deserialize)]
struct Located {
    location: String,
}

impl Blobs {
    pub(super) const fn new(host: Host) -> Self {
        Self(host)
    }

    /// Writes a blob whole: a reader sees the old content or the new, never a part.
    ///
    /// # Errors
    ///
    /// The key breaks the rule, the content is over the host's limit, or the store is not reachable.
    pub async fn put(&self, key: &str, content: impl Into<Bytes>) -> Result<BlobRef, ContextError> {
        let call = Call::new("write the blob", Method::PUT, path(key)?, content.into());
        self.0.json(call).await
    }

    /// Reads a blob.
    ///
    /// # Errors
    ///
    /// `NotFound`, or the store is not reachable.
    pub async fn get(&self, key: &str) -> Result<Bytes, ContextError> {
        self.0.call(Call::get("read the blob", path(key)?)).await
    }

    /// Lists the blobs whose key begins with `prefix` (whole parts); with `""`, all of them.
    ///
    /// # Errors
    ///
    /// The store is not reachable.
    pub async fn list(&self, prefix: &str) -> Result<Vec<BlobInfo>, ContextError> {
        let path = match prefix.trim_end_matches('/') {
            "" => "/blobs".to_owned(),
            prefix => format!("/blobs?prefix={}", query_value(checked(prefix)?.as_str())),
        };
        self.0.json(Call::get("list blobs", path)).await
    }

    /// Deletes a blob. Deleting one that is gone is no error.
    ///
    /// # Errors
    ///
    /// The store is not reachable.
    pub async fn delete(&self, key: &str) -> Result<(), ContextError> {
        self.0.call(Call::new("delete the blob", Method::DELETE, path(key)?, Bytes::new())).await.map(drop)
    }

    /// Says where people find the blob: a path or a URL.
    ///
    /// # Errors
    ///
    /// The key breaks the rule.
    pub async fn locate(&self, key: &str) -> Result<String, ContextError> {
        let call = Call::get("locate the blob", format!("{}?locate=1", path(key)?));
        self.0.json::<Located>(call).await.map(|located| located.location)
    }
}

fn checked(key: &str) -> Result<BlobKey, ContextError> {
    BlobKey::new(key).map_err(|error| ContextError::Invalid(error.to_string()))
}

fn path(key: &str) -> Result<String, ContextError> {
    // A valid key needs no escaping: that is what the rule is for.
    checked(key).map(|key| format!("/blobs/{key}"))
}
