//! What a place for blobs owes.

use bytes::Bytes;
use rhubarb_core::{
    backend::{BlobKey, Blobs, StoreError},
    envelope::BlobRef,
};

use super::{eventually_so, unique};
use crate::clock::Clockwork;

/// Exercises a place for blobs.
///
/// # Panics
///
/// It does not do what it owes.
pub async fn blobs(blobs: &dyn Blobs, time: &dyn Clockwork) {
    a_blob_is_read_back_as_it_was_written(blobs).await;
    a_blob_is_replaced_whole(blobs).await;
    a_missing_blob_is_named(blobs).await;
    a_deleted_blob_is_gone_and_deleting_it_again_is_no_error(blobs).await;
    a_listing_shows_what_lies_below_a_key_in_order(blobs, time).await;
    a_reference_is_verified_when_it_is_read(blobs).await;
    a_reference_cannot_leave_the_prefix(blobs).await;
    people_are_told_where_a_blob_lies(blobs).await;
}

fn key(text: &str) -> BlobKey {
    BlobKey::new(text).unwrap()
}

fn new_key() -> BlobKey {
    key(&format!("exercise/{}/blob", unique("of")))
}

async fn a_blob_is_read_back_as_it_was_written(blobs: &dyn Blobs) {
    for content in [Bytes::new(), Bytes::from_static(b"\0\xff text"), Bytes::from(vec![7; 3 * 1024 * 1024])] {
        let key = new_key();
        blobs.put(&key, content.clone()).await.unwrap();
        assert!(blobs.get(&key).await.unwrap() == content, "{} bytes came back changed", content.len());
    }
}

async fn a_blob_is_replaced_whole(blobs: &dyn Blobs) {
    let key = new_key();
    for content in ["a long first content", "short"] {
        blobs.put(&key, Bytes::from_static(content.as_bytes())).await.unwrap();
        assert_eq!(blobs.get(&key).await.unwrap(), content);
    }
}

async fn a_missing_blob_is_named(blobs: &dyn Blobs) {
    let key = new_key();
    let found = blobs.get(&key).await;
    assert!(matches!(&found, Err(StoreError::NoBlob(named)) if *named == key), "{found:?}");
}

async fn a_deleted_blob_is_gone_and_deleting_it_again_is_no_error(blobs: &dyn Blobs) {
    let (key, other) = (new_key(), new_key());
    blobs.put(&key, Bytes::from_static(b"x")).await.unwrap();
    for _ in 0..2 {
        let deleted = blobs.delete(&[key.clone(), other.clone()]).await;
        assert!(deleted.len() == 2 && deleted.iter().all(Result::is_ok), "{deleted:?}");
    }
    assert!(matches!(blobs.get(&key).await, Err(StoreError::NoBlob(_))));
}

async fn a_listing_shows_what_lies_below_a_key_in_order(blobs: &dyn Blobs, time: &dyn Clockwork) {
    let folder = format!("exercise/{}", unique("folder"));
    for (name, content) in [("b/c", "333"), ("a", "1"), ("b/a", "22")] {
        blobs.put(&key(&format!("{folder}/{name}")), Bytes::from_static(content.as_bytes())).await.unwrap();
    }
    // Begins with the folder's name, and lies beside it.
    blobs.put(&key(&format!("{folder}-not/a")), Bytes::from_static(b"x")).await.unwrap();
    let expected = [("a", 1), ("b/a", 2), ("b/c", 3)].map(|(name, size)| (format!("{folder}/{name}"), size));
    eventually_so(time, "the listing is not what was written", async || {
        let listed = blobs.list(Some(&key(&folder))).await.unwrap();
        let listed: Vec<(String, u64)> = listed.iter().map(|blob| (blob.key.to_string(), blob.size)).collect();
        listed == expected
    })
    .await;
    let all = blobs.list(None).await.unwrap();
    assert!(expected.iter().all(|(name, _)| all.iter().any(|blob| blob.key.as_str() == name)));
    assert!(blobs.list(Some(&new_key())).await.unwrap().is_empty());
}

async fn a_reference_is_verified_when_it_is_read(blobs: &dyn Blobs) {
    let key = new_key();
    let reference = blobs.check_in(&key, Bytes::from_static(b"the content")).await.unwrap();
    assert_eq!((reference.key.as_str(), reference.size), (key.as_str(), 11));
    assert_eq!(blobs.check_out(&reference).await.unwrap(), "the content");
    blobs.put(&key, Bytes::from_static(b"other bytes")).await.unwrap();
    let damaged = blobs.check_out(&reference).await;
    assert!(matches!(damaged, Err(StoreError::DamagedBlob { .. })), "{damaged:?}");
}

async fn a_reference_cannot_leave_the_prefix(blobs: &dyn Blobs) {
    for key in ["../outside", "/etc/hostname", "s3://bucket/key", "a/../../b"] {
        let reference = BlobRef { key: key.into(), sha256: "0".repeat(64), size: 1 };
        let found = blobs.check_out(&reference).await;
        assert!(matches!(found, Err(StoreError::Invalid(_))), "{key}: {found:?}");
    }
}

async fn people_are_told_where_a_blob_lies(blobs: &dyn Blobs) {
    let key = new_key();
    assert!(blobs.locate(&key).contains(key.as_str().rsplit('/').next().unwrap()));
}
