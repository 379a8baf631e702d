//! Durations and sizes as people write them: `"24h"`, `"1h 30m"`, `"256MiB"`.
//!
//! A bare number has no unit and is refused: nobody can tell seconds from milliseconds, and the
//! guess would be found out in production.

use std::{fmt, time::Duration};

use jiff::{SpanRelativeTo, fmt::friendly::SpanParser};
use serde::{Deserialize, Serialize};

use super::mistake::{Problem, quoted};

/// No duration or size that makes sense is longer than this.
const TEXT_BYTES_MAX: usize = 100;

/// A number of bytes, written with a binary unit: `512B`, `64KiB`, `256MiB`, `32GiB`, `1TiB`. Rows hold the number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

/// The units of a size, largest first.
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// The size of `bytes` bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size of `mebibytes` times 1,048,576 bytes.
    #[must_use]
    pub const fn mib(mebibytes: u32) -> Self {
        Self((mebibytes as u64) << 20)
    }

    /// The size of `gibibytes` times 1,073,741,824 bytes.
    #[must_use]
    pub const fn gib(gibibytes: u32) -> Self {
        Self((gibibytes as u64) << 30)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// The size in whole mebibytes, rounded down: what Lambda and ECS are told.
    #[must_use]
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) = SIZE_UNITS
            .into_iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
            .unwrap_or(("B", 1));
        f.pad(&format!("{}{unit}", self.0 / bytes))
    }
}

/// Reads a size.
pub(super) fn size(text: &str) -> Result<ByteSize, Problem> {
    let no_size = |fix: &str| Problem::new(format!("{} is no size", quoted(text)), fix);
    let text_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(text_end.min(text.len()));
    let unit = unit.trim();
    if unit.is_empty() {
        return Err(no_size(r#"add its unit, e.g. "256MiB""#));
    }
    let Some((_, bytes)) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit) else {
        return Err(no_size(r#"write a whole number and B, KiB, MiB, GiB or TiB, e.g. "256MiB""#));
    };
    let number: u64 = number.parse().map_err(|_| no_size(r#"write e.g. "256MiB""#))?;
    number.checked_mul(bytes).map(ByteSize).ok_or_else(|| no_size("write a smaller one"))
}

/// Reads a duration of any length, also none. Days have 24 hours; months and years have no length.
pub(super) fn duration(text: &str) -> Result<Duration, Problem> {
    let no_duration = |fix: &str| Problem::new(format!("{} is no duration", quoted(text)), fix);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(no_duration(&format!(r#"add its unit, e.g. "{}s""#, &text[..text.len().min(20)])));
    }
    let example = r#"write e.g. "24h", "1h 30m" or "500ms""#;
    if text.len() > TEXT_BYTES_MAX {
        return Err(no_duration(example));
    }
    let span = SpanParser::new().parse_span(text).map_err(|_| no_duration(example))?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| no_duration("months and years have no fixed length: write days"))?;
    Duration::try_from(signed).map_err(|_| no_duration("it cannot be negative"))
}

/// Shows a duration as one would write it, so that reading it gives it back.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    // A day is shown as 24h, as in a timeout; two and more as days, as in a retention.
    let mut rest = duration.as_nanos();
    let skipped = usize::from(rest < 2 * UNITS[0].1);
    let mut parts = Vec::new();
    for (unit, nanos) in &UNITS[skipped..] {
        if rest >= *nanos {
            parts.push(format!("{}{unit}", rest / nanos));
            rest %= nanos;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("24h", 86_400),
            ("25 hours", 90_000),
            ("1h 30m", 5_400),
            ("1h30m", 5_400),
            ("7d", 604_800),
            ("2 weeks", 1_209_600),
            ("1 minute", 60),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn what_is_no_duration_says_what_to_write() {
        for (text, fix) in [
            ("25 hourz", r#"write e.g. "24h""#),
            ("24", r#"add its unit, e.g. "24s""#),
            ("", "write e.g."),
            ("-5s", "cannot be negative"),
            ("5 hours ago", "cannot be negative"),
            ("1 month", "write days"),
            ("PT24H", "write e.g."),
        ] {
            let problem = duration(text).unwrap_err();
            assert!(problem.fix.contains(fix), "{text:?}: {problem:?}");
        }
        assert!(duration(&"9".repeat(1_000_000)).is_err());
        assert!(duration("99999999999999999999h").is_err());
    }

    #[test]
    fn sizes_are_read_with_binary_units_only() {
        assert_eq!(size("32GiB"), Ok(ByteSize::gib(32)));
        assert_eq!(size("256 MiB"), Ok(ByteSize::mib(256)));
        assert_eq!(size("10B"), Ok(ByteSize::bytes(10)));
        for text in ["", "32", "32GB", "GiB", "-1GiB", "1.5GiB", "32gib", "99999999999TiB", "1é"] {
            assert!(size(text).is_err(), "{text:?}");
        }
        assert!(size("1024").unwrap_err().fix.contains("unit"));
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(millis in 0_u64..100_000_000_000) {
            let value = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(value)), Ok(value));
        }

        #[test]
        fn a_shown_size_reads_back(bytes in 0_u64..=u64::MAX) {
            let value = ByteSize::bytes(bytes);
            prop_assert_eq!(size(&value.to_string()), Ok(value));
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,120}") {
            let _ = (duration(&text), size(&text));
        }
    }
}
