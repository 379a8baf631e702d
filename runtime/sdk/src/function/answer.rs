//! The answer: Lambda's partial batch response, and beside it what each record came to.

use rhubarb_core::contract::{VERSION, Word};
use rhubarb_core::{envelope::BlobRef, outcome::Failure};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};
use serde_json::value::RawValue;

use super::{
    event::Record,
    handlers::{Given, Verdict},
};

/// What an invocation answers, one verdict a record.
pub(super) struct Answer<'a> {
    pub(super) records: &'a [Record<'a>],
    pub(super) verdicts: &'a [Verdict],
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answer = serializer.serialize_struct("Answer", 2)?;
        answer.serialize_field("batchItemFailures", &Failures(self))?;
        answer.serialize_field("rhubarb", &Extended { v: VERSION, records: Records(self) })?;
        answer.end()
    }
}

struct Failures<'a>(&'a Answer<'a>);

impl Serialize for Failures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Item<'a> {
            #[serde(rename = "itemIdentifier")]
            id: &'a str,
        }
        let Answer { records, verdicts } = self.0;
        // Without a host only this list is read: what is not done must come back, or reach the
        // dead-letter queue.
        let undone = records
            .iter()
            .zip(*verdicts)
            .filter(|(_, verdict)| !matches!(verdict, Verdict::Succeeded(_) | Verdict::Cancelled));
        serializer.collect_seq(undone.map(|(record, _)| Item { id: &record.message_id }))
    }
}

#[derive(Serialize)]
struct Extended<'a> {
    v: u64,
    records: Records<'a>,
}

struct Records<'a>(&'a Answer<'a>);

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Answer { records, verdicts } = self.0;
        let mut map = serializer.serialize_map(Some(records.len()))?;
        for (record, verdict) in records.iter().zip(*verdicts) {
            map.serialize_entry(&record.message_id, &RecordAnswer::of(verdict))?;
        }
        map.end()
    }
}

/// The borrowed twin of [`rhubarb_core::contract::RecordAnswer`].
#[derive(Serialize)]
struct RecordAnswer<'a> {
    outcome: Word,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_blob: Option<&'a BlobRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

impl<'a> RecordAnswer<'a> {
    fn of(verdict: &'a Verdict) -> Self {
        let empty = Self { outcome: verdict.word(), output: None, output_blob: None, error: None, delay_ms: None };
        match verdict {
            Verdict::Succeeded(Some(Given::Inline(json))) => Self { output: Some(json), ..empty },
            Verdict::Succeeded(Some(Given::Posted(blob))) => Self { output_blob: Some(blob), ..empty },
            Verdict::Failed { failure, fatal: _, delay_ms } => {
                Self { error: Some(failure), delay_ms: *delay_ms, ..empty }
            }
            Verdict::Snoozed { delay_ms } => Self { delay_ms: Some(*delay_ms), ..empty },
            Verdict::Poisoned(failure) => Self { error: Some(failure), ..empty },
            Verdict::Succeeded(None) | Verdict::Cancelled | Verdict::Interrupted | Verdict::UnknownTask => empty,
        }
    }
}
