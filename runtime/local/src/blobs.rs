//! Blobs as files of a folder. A blob is written beside its place and moved there whole, so that a
//! crash leaves the old content or the new.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, local::LocalFileSystem, path::Path as Key};
use rhubarb_core::{
    backend::{BlobInfo, BlobKey, Blobs, Result, StoreError},
    time::Timestamp,
};

/// The folder.
#[derive(Debug)]
pub(crate) struct FolderBlobs {
    store: LocalFileSystem,
}

impl FolderBlobs {
    /// Opens an existing folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| StoreError::unreachable("open the folder of blobs", error))?;
        Ok(Self { store: store.with_automatic_cleanup(true) })
    }
}

fn key_of(key: &BlobKey) -> Key {
    Key::from(key.as_str())
}

#[async_trait]
impl Blobs for FolderBlobs {
    async fn put(&self, key: &BlobKey, content: Bytes) -> Result<()> {
        let put = self.store.put(&key_of(key), content.into()).await;
        put.map(drop).map_err(|error| StoreError::unreachable(format!("write the blob `{key}`"), error))
    }

    async fn get(&self, key: &BlobKey) -> Result<Bytes> {
        let told = |error| match error {
            object_store::Error::NotFound { .. } => StoreError::NoBlob(key.clone()),
            error => StoreError::unreachable(format!("read the blob `{key}`"), error),
        };
        self.store.get(&key_of(key)).await.map_err(told)?.bytes().await.map_err(told)
    }

    async fn list(&self, prefix: Option<&BlobKey>) -> Result<Vec<BlobInfo>> {
        let found: Vec<object_store::ObjectMeta> = self
            .store
            .list(prefix.map(key_of).as_ref())
            .try_collect()
            .await
            .map_err(|error| StoreError::unreachable("list blobs", error))?;
        let info = |meta: object_store::ObjectMeta| {
            BlobKey::new(meta.location.as_ref()).ok().map(|key| BlobInfo {
                key,
                size: meta.size,
                modified: Timestamp::from_system(meta.last_modified.into()),
            })
        };
        let mut blobs: Vec<BlobInfo> = found.into_iter().filter_map(info).collect();
        blobs.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(blobs)
    }

    async fn delete(&self, keys: &[BlobKey]) -> Vec<Result<()>> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push(match self.store.delete(&key_of(key)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(StoreError::unreachable(format!("delete the blob `{key}`"), error)),
            });
        }
        answers
    }

    fn locate(&self, key: &BlobKey) -> String {
        match self.store.path_to_filesystem(&key_of(key)) {
            Ok(path) => path.display().to_string(),
            Err(_) => key.to_string(),
        }
    }
}
