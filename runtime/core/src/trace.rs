//! The trace that a task belongs to, as it travels: W3C trace context, and AWS's header for X-Ray.
//!
//! A producer's context comes in the envelope (schedules carry no attributes), in the message's attributes
//! `traceparent` and `tracestate`, or in SQS's own attribute `AWSTraceHeader`; the first that can be read
//! counts, and the row keeps it, so that every attempt of a task joins the same trace. What cannot be read
//! is no trace: a task is worth more than its trace.

use std::collections::BTreeMap;

use crate::envelope::{Envelope, Trace};

/// The message system attribute that SQS and Lambda pass on for X-Ray
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>).
pub const AWS_TRACE_HEADER: &str = "AWSTraceHeader";
/// The attribute of W3C's trace context (<https://www.w3.org/TR/trace-context/>).
pub const TRACEPARENT: &str = "traceparent";
/// What tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace; never zero.
    pub trace_id: u128,
    /// The span that the next one hangs under; never zero.
    pub span_id: u64,
    /// Whether it is recorded.
    pub sampled: bool,
}

impl Parent {
    /// Reads a `traceparent`. A higher version than ours may say more behind its flags.
    #[must_use]
    pub fn read(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.trim().split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        let is_read = version != 0xff && (version != 0 || parts.next().is_none());
        Some(Self { trace_id, span_id, sampled: flags & 1 == 1 }).filter(|read| is_read && read.is_valid())
    }

    /// Reads X-Ray's header, `Root=1-67890123-0123456789abcdef01234567;Parent=0123456789abcdef;Sampled=1`. One
    /// without a parent or a decision is not a place in a trace yet.
    #[must_use]
    pub fn read_xray(header: &str) -> Option<Self> {
        let field =
            |name: &str| header.split(';').filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| *key == name);
        let (_, root) = field("Root")?;
        let (time, unique) = root.strip_prefix("1-")?.split_once('-')?;
        let trace_id = hex(time, 8)? << 96 | hex(unique, 24)?;
        let span_id = u64::try_from(hex(field("Parent")?.1, 16)?).ok()?;
        let sampled = match field("Sampled")?.1 {
            "1" => true,
            "0" => false,
            _ => return None,
        };
        Some(Self { trace_id, span_id, sampled }).filter(Self::is_valid)
    }

    /// As a `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }

    /// As X-Ray's header.
    #[must_use]
    pub fn xray(&self) -> String {
        let (time, unique) = (self.trace_id >> 96, self.trace_id & ((1 << 96) - 1));
        format!("Root=1-{time:08x}-{unique:024x};Parent={:016x};Sampled={}", self.span_id, u8::from(self.sampled))
    }

    const fn is_valid(&self) -> bool {
        self.trace_id != 0 && self.span_id != 0
    }
}

/// So many lower-case hexadecimal digits and nothing else.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl Trace {
    /// A place in a trace, with nothing added by tracing systems.
    #[must_use]
    pub fn of(parent: Parent) -> Self {
        Self { traceparent: Some(parent.traceparent()), tracestate: None }
    }

    /// What its `traceparent` says, if it can be read.
    #[must_use]
    pub fn parent(&self) -> Option<Parent> {
        Parent::read(self.traceparent.as_deref()?)
    }

    /// The trace of a message, by its attributes.
    #[must_use]
    pub fn of_attributes(attributes: &BTreeMap<String, String>) -> Option<Self> {
        if let Some(traceparent) = attributes.get(TRACEPARENT).filter(|text| Parent::read(text).is_some()) {
            let tracestate = attributes.get(TRACESTATE).cloned();
            return Some(Self { traceparent: Some(traceparent.clone()), tracestate });
        }
        attributes.get(AWS_TRACE_HEADER).and_then(|header| Parent::read_xray(header)).map(Self::of)
    }
}

impl Envelope {
    /// Joins the trace of the message it came in, where it names none itself that can be read.
    pub fn join_trace(&mut self, attributes: &BTreeMap<String, String>) {
        if self.trace.as_ref().and_then(Trace::parent).is_none() {
            self.trace = Trace::of_attributes(attributes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{envelope::null, ids::TaskId};

    const W3C: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const XRAY: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

    fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_examples_of_w3c_and_of_aws_are_read_and_written_back() {
        assert_eq!(Parent::read(W3C).unwrap().traceparent(), W3C);
        let xray = Parent::read_xray(XRAY).unwrap();
        assert_eq!(xray.xray(), XRAY);
        assert_eq!(xray.traceparent(), "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01");
        assert_eq!(Parent::read_xray(&format!("{XRAY};Lineage=a87bd80c:1")), Some(xray));
    }

    #[test]
    fn what_w3c_forbids_is_no_trace() {
        for text in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert_eq!(Parent::read(text), None, "{text}");
        }
        assert!(Parent::read("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").is_some());
        assert_eq!(Parent::read_xray("Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=?"), None);
    }

    #[test]
    fn the_envelopes_trace_counts_then_w3cs_attribute_then_awss() {
        let trace = |own: Option<&str>, pairs: &[(&str, &str)]| {
            let mut envelope = Envelope::new(TaskId::mint(), "t".parse().unwrap(), null());
            envelope.trace = own.map(|own| Trace { traceparent: Some(own.to_owned()), tracestate: None });
            envelope.join_trace(&attributes(pairs));
            envelope.trace.and_then(|trace| trace.traceparent)
        };
        let other = "00-11111111111111111111111111111111-b7ad6b7169203331-00";
        assert_eq!(trace(Some(other), &[("traceparent", W3C)]).as_deref(), Some(other));
        assert_eq!(trace(Some("nonsense"), &[("traceparent", W3C)]).as_deref(), Some(W3C));
        assert_eq!(trace(None, &[("traceparent", W3C), ("AWSTraceHeader", XRAY)]).as_deref(), Some(W3C));
        let of_xray = trace(None, &[("traceparent", "nonsense"), ("AWSTraceHeader", XRAY)]);
        assert_eq!(of_xray.as_deref(), Some("00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"));
        assert_eq!(trace(None, &[]), None);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_written_is_read(text in ".*", trace_id in 1..u128::MAX, span_id in 1..u64::MAX, sampled: bool) {
            let _ = (Parent::read(&text), Parent::read_xray(&text));
            let parent = Parent { trace_id, span_id, sampled };
            prop_assert_eq!(Parent::read(&parent.traceparent()), Some(parent));
            prop_assert_eq!(Parent::read_xray(&parent.xray()), Some(parent));
        }
    }
}
