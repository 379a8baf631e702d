//! What people write on the command line, and how times are shown to them.

use std::{
    fs,
    io::{self, Read as _},
    time::{Duration, SystemTime},
};

use jiff::{SpanRelativeTo, fmt::friendly::SpanParser};
use rhubarb_core::{config::ByteSize, time::Timestamp};
use serde_json::value::RawValue;

use crate::exit::{CliError, Result};

/// Arguments over this size are no arguments: put them into a blob and pass its key.
const ARGS_BYTES_MAX: u64 = 256 << 20;
/// A duration that makes sense is not longer than this.
const TEXT_BYTES_MAX: usize = 100;

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

/// Reads a duration such as `10s`, `1h 30m` or `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let example = r#"write e.g. "10s", "1h 30m" or "500ms""#;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("a duration needs its unit, e.g. \"{}s\"", &text[..text.len().min(20)]));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("this is no duration: {example}"));
    }
    let span = SpanParser::new().parse_span(text).map_err(|_| format!("this is no duration: {example}"))?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let signed = signed.map_err(|_| "months and years have no fixed length: write days".to_owned())?;
    Duration::try_from(signed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Reads a size such as `512MiB`.
pub(crate) fn size(text: &str) -> Result<ByteSize, String> {
    const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let wrong = || r#"write a whole number and its unit (B, KiB, MiB, GiB, TiB), e.g. "512MiB""#.to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let bytes = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, bytes)| *bytes).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(bytes).filter(|bytes| *bytes > 0).map(ByteSize::bytes).ok_or_else(wrong)
}

/// A point in time as it may be written: RFC 3339, or the Unix time in seconds (in milliseconds from
/// 12 digits on).
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(number) = text.parse::<i64>() {
        let is_millis = text.trim_start_matches(['-', '+']).len() >= 12;
        return number.checked_mul(if is_millis { 1 } else { 1000 }).map(Timestamp).ok_or_else(no_time);
    }
    let at: jiff::Timestamp = text.parse().map_err(|_| no_time())?;
    Ok(Timestamp(at.as_millisecond()))
}

fn no_time() -> String {
    r#"write e.g. "2027-01-31T18:00:00Z", "2027-01-31T18:00:00+01:00" or a Unix time in seconds"#.to_owned()
}

/// A time, or a duration that is counted from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// At this time.
    At(Timestamp),
    /// So long before or after now, as the option says.
    Span(Duration),
}

impl Moment {
    /// Reads `1h` or a time.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        if let Ok(at) = time(text) {
            return Ok(Self::At(at));
        }
        duration(text).map(Self::Span).map_err(|error| format!("{error}; or {}", no_time()))
    }

    /// The time that lies so long after now.
    pub(crate) fn ahead(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Span(span) => now.after(span),
        }
    }

    /// The time that lies so long before now.
    pub(crate) fn back(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Span(span) => now.before(span),
        }
    }
}

/// Reads a task's arguments: JSON, `@file` or `-` for standard input.
pub(crate) fn arguments(given: &str) -> Result<Box<RawValue>> {
    let (text, origin) = match given.strip_prefix('@') {
        Some(file) => {
            let what = format!("read the arguments from {file}");
            (read_all(fs::File::open(file).map_err(|error| usage(&what, &error))?, &what)?, format!(" in {file}"))
        }
        None if given == "-" => {
            let what = "read the arguments from standard input";
            (read_all(io::stdin().lock(), what)?, " on standard input".to_owned())
        }
        None => (given.to_owned(), String::new()),
    };
    let parsed: Result<&RawValue, _> = serde_json::from_str(text.trim());
    parsed.map(ToOwned::to_owned).map_err(|error| {
        CliError::Usage(format!(
            "`--args`{origin} is no JSON: {error}; write e.g. --args '{{\"dataset\":\"digits\"}}', --args @file.json, or --args - for standard input",
        ))
    })
}

fn read_all(from: impl io::Read, what: &str) -> Result<String> {
    let mut text = String::new();
    from.take(ARGS_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| usage(what, &error))?;
    if text.len() as u64 > ARGS_BYTES_MAX {
        let max = ByteSize::bytes(ARGS_BYTES_MAX);
        return Err(CliError::Usage(format!(
            "cannot {what}: they are over {max}; store them as a blob and pass its key"
        )));
    }
    Ok(text)
}

fn usage(what: &str, error: &io::Error) -> CliError {
    CliError::Usage(format!("cannot {what}: {error}"))
}

/// A measured time for people: `0.3s`, `37.2s`, `2m 05s`, `3h 10m`.
pub(crate) fn show_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time < Duration::from_millis(100) => format!("{}ms", time.as_millis()),
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How long ago a time is, or how far ahead.
pub(crate) fn show_ago(at: Timestamp, now: Timestamp) -> String {
    let rough = |time: Duration| match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    };
    if at > now { format!("in {}", rough(at.since(now))) } else { format!("{} ago", rough(now.since(at))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_or_a_unix_time() {
        assert_eq!(time("1970-01-01T00:00:01Z"), Ok(Timestamp(1000)));
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Ok(Timestamp(0)));
        assert_eq!(time("1800000000"), Ok(Timestamp(1_800_000_000_000)));
        assert_eq!(time("1800000000000"), Ok(Timestamp(1_800_000_000_000)));
        assert!(time("tomorrow").is_err() && time("2027-01-31T18:00:00").is_err());
        assert!(time("9999999999999999999999").is_err());
    }

    #[test]
    fn a_moment_is_a_time_or_a_duration() {
        let now = Timestamp(10_000);
        assert_eq!(Moment::read("5s").map(|m| (m.ahead(now), m.back(now))), Ok((Timestamp(15_000), Timestamp(5000))));
        assert_eq!(Moment::read("1970-01-01T00:00:07Z").map(|m| m.ahead(now)), Ok(Timestamp(7000)));
        assert!(Moment::read("soon").is_err());
    }

    #[test]
    fn a_bare_number_is_no_duration() {
        assert!(duration("10").unwrap_err().contains("\"10s\""));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1s").is_err() && duration("").is_err());
    }

    #[test]
    fn a_size_has_a_unit_and_something_in_it() {
        assert_eq!(size("512MiB"), Ok(ByteSize::mib(512)));
        for text in ["512", "MiB", "0MiB", "1.5GiB", "99999999999TiB", ""] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn arguments_that_are_no_json_are_refused_with_the_place() {
        let error = |given: &str| arguments(given).unwrap_err().text().unwrap().to_owned();
        let misquoted = error(r#"{"dataset": digits}"#);
        assert!(misquoted.contains("line 1 column 13"), "{misquoted}");
        assert_eq!(arguments(" [1, 2] ").unwrap().get(), "[1, 2]");
        assert!(error("").contains("--args"));
        assert!(error("@/does/not/exist").contains("/does/not/exist"));
    }

    #[test]
    fn measured_times_are_shown_as_people_say_them() {
        let shown = |millis| show_time(Duration::from_millis(millis));
        assert_eq!([shown(7), shown(340), shown(37_210), shown(125_000)], ["7ms", "0.3s", "37.2s", "2m 05s"]);
        assert_eq!([shown(11_400_000), shown(200_000_000)], ["3h 10m", "2d 07h"]);
        assert_eq!(show_ago(Timestamp(0), Timestamp(90_000)), "1m ago");
        assert_eq!(show_ago(Timestamp(5000), Timestamp(0)), "in 5s");
    }
}
