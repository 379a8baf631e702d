//! Blobs in S3 over an emulator: the exercise, large blobs and long listings, and what goes wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod common;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use bytes::Bytes;
use common::{RealTime, connection, connection_to};
use rhubarb_aws::{Connection, S3Blobs};
use rhubarb_core::{
    backend::{BlobKey, Blobs as _, StoreError},
    ids::TaskId,
};
use rhubarb_testkit::{
    emulator::{Emulator, REGION, free_port},
    exercise,
};

/// A name that no other test's bucket has.
fn new_bucket() -> String {
    format!("rhubarb-{}", TaskId::mint())
}

fn key(text: &str) -> BlobKey {
    BlobKey::new(text).unwrap()
}

/// An emulator, and a bucket in it.
struct Place {
    connection: Connection,
    bucket: String,
    blobs: S3Blobs,
    _emulator: Emulator,
}

async fn place(prefix: &str) -> Place {
    let emulator = Emulator::start();
    let (connection, bucket) = (connection(&emulator), new_bucket());
    let blobs = S3Blobs::new(&connection, &bucket, prefix).unwrap();
    blobs.create().await.unwrap();
    blobs.verify().await.unwrap();
    Place { connection, bucket, blobs, _emulator: emulator }
}

/// Bytes of which no two parts are alike.
fn content(len: usize) -> Bytes {
    (0..len).map(|n| (n / 251 + n) as u8).collect()
}

#[tokio::test]
async fn s3_does_what_a_place_for_blobs_owes() {
    let place = place("shop/dev").await;
    exercise::blobs(&place.blobs, &RealTime).await;
}

#[tokio::test]
async fn a_bucket_of_our_own_needs_no_prefix() {
    let place = place("").await;
    exercise::blobs(&place.blobs, &RealTime).await;
    assert_eq!(place.blobs.locate(&key("a/b")), format!("s3://{}/a/b", place.bucket));
}

#[tokio::test]
async fn what_lies_beside_the_prefix_is_not_ours() {
    let place = place("shop/dev").await;
    let beside = S3Blobs::new(&place.connection, &place.bucket, "shop/develop/").unwrap();
    place.blobs.put(&key("a"), Bytes::from_static(b"ours")).await.unwrap();
    beside.put(&key("a"), Bytes::from_static(b"theirs")).await.unwrap();
    assert_eq!(place.blobs.get(&key("a")).await.unwrap(), "ours");
    assert_eq!(place.blobs.list(None).await.unwrap().len(), 1);
    assert_eq!(place.blobs.locate(&key("a")), format!("s3://{}/shop/dev/a", place.bucket));
    assert_eq!(beside.locate(&key("a")), format!("s3://{}/shop/develop/a", place.bucket));
}

#[tokio::test]
async fn a_large_blob_travels_in_parts_and_is_whole() {
    let place = place("p").await;
    let large = content(20 * 1024 * 1024 + 3);
    let reference = place.blobs.check_in(&key("large"), large.clone()).await.unwrap();
    assert!(place.blobs.check_out(&reference).await.unwrap() == large);
    assert_eq!(place.blobs.list(None).await.unwrap()[0].size, large.len() as u64);
    let requests = place.connection.requests();
    let count = |operation: &str| requests.get(&format!("S3.{operation}")).copied();
    assert_eq!((count("UploadPart"), count("CompleteMultipartUpload"), count("PutObject")), (Some(3), Some(1), None));
}

#[tokio::test]
async fn a_damaged_blob_is_told_apart_from_a_missing_one() {
    let place = place("p").await;
    let reference = place.blobs.check_in(&key("blob"), Bytes::from_static(b"what was meant")).await.unwrap();
    place.blobs.put(&key("blob"), Bytes::from_static(b"what came of it")).await.unwrap();
    let damaged = place.blobs.check_out(&reference).await.unwrap_err();
    assert!(matches!(&damaged, StoreError::DamagedBlob { key, .. } if key == "blob"), "{damaged:?}");
    assert!(place.blobs.delete(&[key("blob")]).await.remove(0).is_ok());
    let missing = place.blobs.check_out(&reference).await.unwrap_err();
    assert!(matches!(&missing, StoreError::NoBlob(named) if *named == key("blob")), "{missing:?}");
}

#[tokio::test]
async fn a_listing_goes_on_over_its_pages_and_a_delete_over_its_batches() {
    let place = place("p").await;
    let keys: Vec<BlobKey> = (0..1_005).map(|n| key(&format!("many/{n:04}"))).collect();
    let puts = keys.iter().map(|key| place.blobs.put(key, Bytes::new()));
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
    let listed: Vec<BlobKey> = place.blobs.list(None).await.unwrap().into_iter().map(|blob| blob.key).collect();
    assert!(listed == keys, "{} of them", listed.len());
    let deleted = place.blobs.delete(&keys).await;
    assert_eq!((deleted.len(), deleted.iter().filter(|deleted| deleted.is_err()).count()), (1_005, 0));
    assert!(place.blobs.list(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named_with_the_way_out() {
    let emulator = Emulator::start();
    let bucket = new_bucket();
    let blobs = S3Blobs::new(&connection(&emulator), &bucket, "p").unwrap();
    let some = Bytes::from_static(b"x");
    let told = [
        blobs.verify().await,
        blobs.put(&key("a"), some.clone()).await,
        blobs.put(&key("a"), content(9 * 1024 * 1024)).await,
        blobs.get(&key("a")).await.map(drop),
        blobs.list(None).await.map(drop),
        blobs.delete(&[key("a")]).await.remove(0),
    ];
    for (place, told) in told.into_iter().enumerate() {
        let Err(StoreError::Broken { what, fix }) = told else { panic!("{place}: {told:?}") };
        assert!(what.contains(&bucket) && fix.contains("there is no such bucket"), "{what}: {fix}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_there_already_is_made_without_an_error() {
    let place = place("p").await;
    place.blobs.put(&key("a"), Bytes::from_static(b"kept")).await.unwrap();
    place.blobs.create().await.unwrap();
    assert_eq!(place.blobs.get(&key("a")).await.unwrap(), "kept");
}

#[tokio::test]
async fn an_s3_that_is_out_of_reach_may_be_tried_again() {
    let connection = connection_to(&format!("http://127.0.0.1:{}", free_port()));
    let blobs = S3Blobs::new(&connection, "bucket", "p").unwrap();
    for told in [blobs.get(&key("a")).await.map(drop), blobs.put(&key("a"), Bytes::new()).await, blobs.verify().await] {
        assert!(told.as_ref().is_err_and(StoreError::is_transient), "{told:?}");
    }
}

#[test]
fn without_a_region_or_with_a_name_that_cannot_be_one_nothing_is_asked() {
    let nowhere = Connection::new(SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build());
    let told = S3Blobs::new(&nowhere, "bucket", "p").unwrap_err().to_string();
    assert!(told.contains("AWS_REGION"), "{told}");
    let config = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).region(Region::new(REGION)).build();
    let somewhere = Connection::new(config);
    assert!(S3Blobs::new(&somewhere, "Not A Bucket", "p").unwrap_err().to_string().contains("RHUBARB_BUCKET"));
    assert!(matches!(S3Blobs::new(&somewhere, "bucket", "../up"), Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn without_credentials_the_way_to_them_is_told() {
    let config = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).region(Region::new(REGION));
    let config = config.endpoint_url(format!("http://127.0.0.1:{}", free_port())).build();
    let blobs = S3Blobs::new(&Connection::new(config), "bucket", "p").unwrap();
    let told = blobs.get(&key("a")).await.unwrap_err();
    assert!(matches!(&told, StoreError::Broken { fix, .. } if fix.contains("AWS_PROFILE")), "{told:?}");
}
