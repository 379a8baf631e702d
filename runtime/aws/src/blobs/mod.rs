//! Blobs in S3, below one prefix of one bucket.
//!
//! What is written is there whole or not at all: a small blob is one request, a large one is sent in parts
//! that become an object with the last request. A crash before it leaves parts behind that nobody sees and
//! that the bucket's lifecycle rule removes.

mod answer;
mod credentials;
mod service;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{
    MultipartUpload as _, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential},
    client::{CredentialProvider, HttpRequest, HttpRequestBody, HttpService as _},
    list::{PaginatedListOptions, PaginatedListStore as _},
    path::Path,
};
use rhubarb_core::{
    backend::{BlobInfo, BlobKey, Blobs, Result, StoreError},
    time::Timestamp,
};

use self::{credentials::Chain, service::Service};
use crate::connect::{Connection, RETRY_TIME_MAX, TRIES};

/// A blob over this size is sent in parts of it, so that none of them takes longer than a request may.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts on their way at the same time.
const PARTS_AT_ONCE: usize = 4;
/// Keys of one delete (`DeleteObjects`).
const DELETE_MAX: usize = 1_000;

/// Blobs in S3.
#[derive(Clone)]
pub struct S3Blobs {
    store: AmazonS3,
    service: Service,
    credentials: Arc<Chain>,
    bucket: String,
    /// Without a slash at its end; empty where the bucket is ours alone.
    prefix: String,
    region: String,
    /// Where requests for the bucket itself go.
    url: String,
}

impl fmt::Debug for S3Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Blobs(s3://{}/{})", self.bucket, self.prefix)
    }
}

impl S3Blobs {
    /// Blobs below `prefix` of a bucket; an empty prefix is the whole bucket. Connects to nothing yet. Where the
    /// connection has an endpoint of its own, the bucket is part of the path, as emulators want it.
    ///
    /// # Errors
    ///
    /// No region is configured, or bucket or prefix cannot be one.
    pub fn new(connection: &Connection, bucket: &str, prefix: &str) -> Result<Self> {
        check_bucket(bucket)?;
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            BlobKey::new(prefix)?;
        }
        let Some(region) = connection.region().map(ToString::to_string) else {
            let fix = "no AWS region is configured: set AWS_REGION, or `region` in the profile".to_owned();
            return Err(StoreError::Broken { what: format!("reach the bucket `{bucket}`"), fix });
        };
        let credentials = Arc::new(Chain::new(connection.config.credentials_provider()));
        let service = Service::new(connection);
        let retries = usize::try_from(TRIES - 1).unwrap_or(0);
        let retry = RetryConfig { max_retries: retries, retry_timeout: RETRY_TIME_MAX, ..RetryConfig::default() };
        let endpoint = connection.config.endpoint_url();
        // A dot in the name would not match S3's certificate.
        let virtual_hosted = endpoint.is_none() && !bucket.contains('.');
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&region)
            .with_credentials(credentials.clone())
            .with_http_connector(service.clone())
            .with_virtual_hosted_style_request(virtual_hosted)
            .with_retry(retry);
        let url = match endpoint {
            Some(endpoint) => {
                builder = builder.with_endpoint(endpoint).with_allow_http(true);
                format!("{}/{bucket}", endpoint.trim_end_matches('/'))
            }
            None => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        };
        let store = builder.build().map_err(|error| answer::told(format!("reach the bucket `{bucket}`"), &error))?;
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(Self { store, service, credentials, bucket, prefix, region, url })
    }

    /// Makes sure that the bucket is there and may be listed.
    ///
    /// # Errors
    ///
    /// `Broken` with the way out, or the store cannot be reached.
    pub async fn verify(&self) -> Result<()> {
        let options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        let prefix = (!self.prefix.is_empty()).then_some(self.prefix.as_str());
        match self.store.list_paginated(prefix, options).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.told("list", &error)),
        }
    }

    /// Makes the bucket where it is not there. For emulators and tests: the template makes a deployment's.
    ///
    /// # Errors
    ///
    /// As [`Self::verify`]; another account's bucket has this name.
    pub async fn create(&self) -> Result<()> {
        let what = || format!("make the bucket `{}`", self.bucket);
        let told = |error: &object_store::Error| answer::told(what(), error);
        let credential = self.credentials.get_credential().await.map_err(|error| told(&error))?;
        let request = self.create_request(&credential).map_err(|error| told(&error))?;
        match self.service.call(request).await {
            Ok(_) => Ok(()),
            Err(error) if answer::code_of(&error) == Some("BucketAlreadyOwnedByYou") => Ok(()),
            Err(error) => Err(answer::told(what(), &error)),
        }
    }

    fn create_request(&self, credential: &AwsCredential) -> object_store::Result<HttpRequest> {
        // S3 takes no constraint for its first region.
        let body = if self.region == "us-east-1" {
            String::new()
        } else {
            format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>",
                self.region
            )
        };
        let request = http::Request::put(&self.url).body(HttpRequestBody::from(body));
        let mut request =
            request.map_err(|source| object_store::Error::Generic { store: "S3", source: Box::new(source) })?;
        AwsAuthorizer::new(credential, "s3", &self.region).try_authorize(&mut request, None)?;
        Ok(request)
    }

    fn path(&self, key: &BlobKey) -> Path {
        Path::from(self.full(key.as_str()))
    }

    fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) }
    }

    /// What a listing shows of an object; none of what is not ours.
    fn info(&self, meta: &ObjectMeta) -> Option<BlobInfo> {
        let location: &str = meta.location.as_ref();
        let key = match self.prefix.as_str() {
            "" => location,
            prefix => location.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        let modified = Timestamp::from_system(meta.last_modified.into());
        Some(BlobInfo { key: BlobKey::new(key).ok()?, size: meta.size, modified })
    }

    fn told(&self, verb: &str, error: &object_store::Error) -> StoreError {
        answer::told(format!("{verb} the bucket `{}`", self.bucket), error)
    }

    fn told_of(&self, verb: &str, key: &BlobKey, error: &object_store::Error) -> StoreError {
        answer::told(format!("{verb} the blob `{key}` in the bucket `{}`", self.bucket), error)
    }

    /// Sends a large blob in parts; none of it is seen before the last request.
    async fn put_in_parts(&self, path: &Path, content: Bytes) -> object_store::Result<()> {
        let mut upload = self.store.put_multipart(path).await?;
        let parts = (0..content.len()).step_by(PART_BYTES).map(|from| {
            let part = content.slice(from..content.len().min(from + PART_BYTES));
            upload.put_part(part.into())
        });
        // Each has its number already, so any order of arrival is right.
        let parts: Vec<_> = parts.collect();
        let sent: object_store::Result<Vec<()>> =
            futures::stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).try_collect().await;
        let done = match sent {
            Ok(_) => upload.complete().await.map(drop),
            Err(error) => Err(error),
        };
        if done.is_err() {
            // What stays if this fails too is removed by the bucket's lifecycle rule.
            let _ = upload.abort().await;
        }
        done
    }

    /// Deletes what one request can.
    async fn delete_some(&self, keys: &[BlobKey]) -> Vec<Result<()>> {
        let paths: Vec<object_store::Result<Path>> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let answers: Vec<object_store::Result<Path>> =
            self.store.delete_stream(futures::stream::iter(paths).boxed()).collect().await;
        let told = |key: &BlobKey, answer: &object_store::Result<Path>| match answer {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.told_of("delete", key, error)),
        };
        if answers.len() == keys.len() {
            return keys.iter().zip(&answers).map(|(key, answer)| told(key, answer)).collect();
        }
        // The request as a whole failed, which is every key's failure.
        let nothing = Err(StoreError::unreachable("delete blobs", std::io::Error::other("S3 did not answer for each")));
        keys.iter().map(|key| answers.first().map_or_else(|| nothing.clone(), |answer| told(key, answer))).collect()
    }
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn put(&self, key: &BlobKey, content: Bytes) -> Result<()> {
        let path = self.path(key);
        let put = if content.len() > PART_BYTES {
            self.put_in_parts(&path, content).await
        } else {
            self.store.put(&path, content.into()).await.map(drop)
        };
        put.map_err(|error| self.told_of("write", key, &error))
    }

    async fn get(&self, key: &BlobKey) -> Result<Bytes> {
        let told = |error: object_store::Error| match answer::code_of(&error) {
            Some("NoSuchKey") => StoreError::NoBlob(key.clone()),
            _ => self.told_of("read", key, &error),
        };
        self.store.get(&self.path(key)).await.map_err(told)?.bytes().await.map_err(told)
    }

    async fn list(&self, prefix: Option<&BlobKey>) -> Result<Vec<BlobInfo>> {
        let below = match prefix {
            Some(key) => Some(self.path(key)),
            None if self.prefix.is_empty() => None,
            None => Some(Path::from(self.prefix.as_str())),
        };
        let found: Vec<ObjectMeta> =
            self.store.list(below.as_ref()).try_collect().await.map_err(|error| self.told("list", &error))?;
        let mut blobs: Vec<BlobInfo> = found.iter().filter_map(|meta| self.info(meta)).collect();
        blobs.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(blobs)
    }

    async fn delete(&self, keys: &[BlobKey]) -> Vec<Result<()>> {
        let mut answers = Vec::with_capacity(keys.len());
        for some in keys.chunks(DELETE_MAX) {
            answers.extend(self.delete_some(some).await);
        }
        answers
    }

    fn locate(&self, key: &BlobKey) -> String {
        format!("s3://{}/{}", self.bucket, self.full(key.as_str()))
    }
}

/// The rules of S3 for general purpose buckets, those that a mistake in a configuration breaks.
fn check_bucket(bucket: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = bucket.as_bytes();
    if (3..=63).contains(&bytes.len()) && bytes.iter().all(|b| allowed(*b)) && ends(bytes.first()) && ends(bytes.last())
    {
        return Ok(());
    }
    let shown: String = bucket.chars().take(80).flat_map(char::escape_default).collect();
    Err(StoreError::Invalid(format!(
        "`{shown}` is no name of a bucket: `bucket` in [app] or RHUBARB_BUCKET has 3 to 63 lower-case letters, digits, hyphens and dots"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_s3_refuses_is_refused_before() {
        for bucket in ["ab", "Shop", "shop_dev", "-shop", "shop-", "s3://shop", "shop/x", &"b".repeat(64)] {
            assert!(check_bucket(bucket).unwrap_err().to_string().contains("RHUBARB_BUCKET"), "{bucket}");
        }
        for bucket in ["shop-dev-123456789012", "a.b", "000"] {
            check_bucket(bucket).unwrap();
        }
    }
}
