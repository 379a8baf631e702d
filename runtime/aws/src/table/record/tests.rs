use aws_sdk_dynamodb::types::AttributeValue;
use proptest::prelude::*;
use rhubarb_core::{
    limits::Limits,
    outcome::Outcome,
    row::{AckMode, Claim, ClaimTerms, Renewed},
    table::{BY_QUEUE, BY_ROOT, BY_STATE, DUE, PARTITION, SORT, TTL},
    time::LeaseTime,
};

use super::*;
use crate::table::attributes::{number, text};

const NOW: Now = at(1_800_000_000_000);
const LEASE: Duration = Duration::from_secs(30);

const fn at(ms: i64) -> Now {
    Now { epoch: Timestamp(ms), lease: LeaseTime(ms) }
}

fn record() -> Record {
    let (task, queue) = (TaskName::new("train_model").unwrap(), QueueName::new("training").unwrap());
    let mut record =
        Record::of(TaskId::mint(), task, queue, Row::submitted(Some(3), None, None, NOW.epoch, &Limits::AWS));
    record.spec = Spec::Inline("{}".into());
    record
}

fn claim(record: &mut Record, worker: &WorkerId) {
    let terms = ClaimTerms {
        worker,
        lease: LEASE,
        ack: AckMode::Lease,
        max_attempts: 3,
        purged_before: None,
        limits: rhubarb_core::permit::QueueLimits::NONE,
    };
    assert_eq!(record.row.claim(&terms, NOW), Claim::Won);
    record.begin(worker, NOW.epoch);
}

fn claimed() -> Record {
    let mut record = record();
    let worker = WorkerId::new("training-1").unwrap();
    claim(&mut record, &worker);
    record
}

fn due(record: &Record) -> Option<(String, i64)> {
    let item = record.encode().unwrap();
    text(&item, DUE.partition).map(str::to_owned).zip(number(&item, DUE.sort))
}

#[track_caller]
fn assert_same_when_read(record: &Record) {
    let item = record.encode().unwrap();
    let read = Record::decode(item.clone(), NOW.epoch).unwrap().unwrap();
    assert_eq!(read.row, record.row);
    assert_eq!(read.encode().unwrap(), item);
}

#[test]
fn a_row_is_read_as_it_was_written_at_every_station() {
    let mut record = record();
    assert_same_when_read(&record);
    record = claimed();
    record.progress = Some(Progress { done: 1, total: u64::MAX, message: Some("ä".into()) });
    record.checkpoint = Some(BlobRef { key: "tasks/c".into(), sha256: "0".repeat(64), size: 1 });
    assert_same_when_read(&record);
    let outcome = Outcome::Failed { failure: Failure::new("kind", "why"), retry_in: Some(LEASE) };
    record.row.settle(FencingToken(1), &outcome, NOW, &Limits::AWS).unwrap();
    record.end_attempt("failed", NOW.epoch);
    record.fail(Failure::new("kind", "why"));
    record.keep_log(&Log { text: "printed".into(), dropped: 2, ..Log::default() });
    assert_same_when_read(&record);
    record.row.cancel().unwrap();
    record.output = Some(Output::Inline(serde_json::value::to_raw_value(&1.5).unwrap()));
    record.close(NOW.epoch, KEEP);
    assert_same_when_read(&record);
    record.strip(true);
    assert_same_when_read(&record);
}

#[test]
fn a_row_stands_at_one_place_of_what_is_due() {
    let mut record = record();
    assert_eq!(due(&record), None, "its doorbell is out");
    record.row.ring_at = Some(Timestamp(7));
    assert!(due(&record).is_some_and(|(shard, at)| shard.starts_with("ring#") && at == 7));
    record = claimed();
    let until = NOW.epoch.after(LEASE).as_millis();
    assert!(due(&record).is_some_and(|(shard, at)| shard.starts_with("lease#") && at == until));
    record.row.settle(FencingToken(1), &Outcome::Succeeded(None), NOW, &Limits::AWS).unwrap();
    record.close(NOW.epoch, KEEP);
    let forget_at = NOW.epoch.after(KEEP.0).as_millis();
    assert!(due(&record).is_some_and(|(shard, at)| shard.starts_with("keep#") && at == forget_at));
    record.strip(false);
    assert!(due(&record).is_some(), "items beside it are still to be deleted");
    record.strip(true);
    assert_eq!(due(&record), None);
    let item = record.encode().unwrap();
    assert!(text(&item, BY_STATE.partition).is_none() && text(&item, BY_QUEUE.partition).is_none());
    assert!(text(&item, BY_ROOT.partition).is_none());
    assert!(number(&item, TTL).is_some());
}

#[test]
fn every_second_heartbeat_leaves_the_index_of_leases_alone() {
    let mut record = claimed();
    let mut places = vec![due(&record).unwrap().1];
    for heartbeat in 1..=20 {
        let now = at(NOW.lease.0 + heartbeat * 10_000);
        if heartbeat > 10 {
            record = Record::decode(record.encode().unwrap(), now.epoch).unwrap().unwrap();
        }
        assert!(matches!(record.row.renew(FencingToken(1), now), Renewed::Kept { .. }));
        record.renewed(now);
        let place = due(&record).unwrap().1;
        assert!(place > now.lease.0, "a healthy holder is never looked at");
        assert!(place <= record.row.hold.as_ref().unwrap().until.0, "a silent one is found in time");
        places.push(place);
    }
    let moved = places.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(moved, 10);
}

#[test]
fn a_tombstone_past_its_time_is_not_there() {
    let mut record = claimed();
    record.row.settle(FencingToken(1), &Outcome::Succeeded(None), NOW, &Limits::AWS).unwrap();
    record.close(NOW.epoch, KEEP);
    record.strip(true);
    let item = record.encode().unwrap();
    let end = NOW.epoch.after(TOMBSTONE_AGE);
    assert!(Record::decode(item.clone(), end).unwrap().is_some());
    assert!(Record::decode(item, end.after(Duration::from_secs(2))).unwrap().is_none());
}

#[test]
fn a_long_failure_is_cut_in_the_row_of_the_next_attempt() {
    let mut record = claimed();
    let failure = Failure::new("kind", "x".repeat(8000));
    let outcome = Outcome::Failed { failure: failure.clone(), retry_in: Some(Duration::ZERO) };
    record.row.settle(FencingToken(1), &outcome, NOW, &Limits::AWS).unwrap();
    record.end_attempt("failed", NOW.epoch);
    record.fail(failure.clone());
    assert_eq!(record.last_attempt().unwrap().failure, Some(failure));
    let worker = WorkerId::new("training-2").unwrap();
    claim(&mut record, &worker);
    assert_eq!(record.failure_of, Some(FencingToken(1)));
    assert!(size(&record.encode().unwrap()) < ROW_BYTES_MAX);
}

#[test]
fn an_envelope_stays_in_the_row_only_while_a_held_row_stays_small() {
    let mut record = record();
    assert!(record.hold_spec(&"x".repeat(200)).unwrap());
    assert!(!record.hold_spec(&"x".repeat(2000)).unwrap());
    assert_eq!(record.spec, Spec::Gone);
    let mut record = claimed();
    record.spec = Spec::Inline("x".repeat(300));
    assert!(record.spec_in_the_way().unwrap().is_none());
    record.progress = Some(Progress { done: 1, total: 2, message: Some("m".repeat(400)) });
    assert!(record.spec_in_the_way().unwrap().is_some());
}

fn any_attribute() -> impl Strategy<Value = AttributeValue> {
    let numbers = ["-1", "0", "4294967296", "9223372036854775807", "-9223372036854775808", "1e400", "", "0.5"];
    let texts = ["", "null", "{", "[]", "running", "\u{0}", "0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4b"];
    let leaf = prop_oneof![
        proptest::sample::select(numbers.to_vec()).prop_map(|digits| AttributeValue::N(digits.to_owned())),
        any::<i64>().prop_map(|number| AttributeValue::N(number.to_string())),
        proptest::sample::select(texts.to_vec()).prop_map(|text| AttributeValue::S(text.to_owned())),
        ".{0,40}".prop_map(AttributeValue::S),
        (1..20_000_usize).prop_map(|count| AttributeValue::S("[".repeat(count))),
        any::<bool>().prop_map(AttributeValue::Bool),
        Just(AttributeValue::Null(true)),
        Just(AttributeValue::Ss(vec!["a".to_owned()])),
        Just(AttributeValue::B(vec![0, 255].into())),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(AttributeValue::L),
            proptest::collection::hash_map("[a-z_]{1,8}", inner, 0..4).prop_map(AttributeValue::M),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// What another program, or a newer build, may have put into the table.
    #[test]
    fn an_item_with_anything_in_it_is_read_or_named(
        is_claimed in any::<bool>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any_attribute()), 1..5),
    ) {
        let record = if is_claimed { claimed() } else { record() };
        let mut item = record.encode().unwrap();
        let mut names: Vec<String> = item.keys().filter(|name| ![PARTITION, SORT].contains(&name.as_str())).cloned().collect();
        names.extend(["output", "failure", "log", "progress", "checkpoint", "permit", "not_before", "ttl"].map(str::to_owned));
        names.sort();
        for (index, value) in changes {
            item.insert(index.get(&names).clone(), value);
        }
        match Record::decode(item, NOW.epoch) {
            Ok(Some(read)) => {
                // What is read can be shown, and written again.
                prop_assert_eq!(read.id, record.id);
                prop_assert!(read.encode().is_ok());
            }
            Ok(None) => {}
            Err(error) => {
                let told = error.to_string();
                prop_assert!(told.contains(&record.id.to_string()), "{}", told);
                prop_assert!(told.len() < 30_000, "{} bytes of an error", told.len());
            }
        }
    }
}
