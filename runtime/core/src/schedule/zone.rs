//! Time zones: from local times to instants and back.
//!
//! Zones come from the data that is compiled in, never from the machine: two agents of one build agree on every
//! tick, also in a container without zone files. New rules of a government need a new build.

use std::sync::LazyLock;

use jiff::{
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use super::{Unfit, quoted};
use crate::time::Timestamp;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone of an IANA name, such as `Europe/Berlin`.
    ///
    /// # Errors
    ///
    /// There is no such zone; the nearest name is suggested.
    pub fn named(name: &str) -> Result<Self, Unfit> {
        // Names are compared as they are written: AWS takes no other.
        if let Ok(zone) = ZONES.get(name)
            && zone.iana_name() == Some(name)
        {
            return Ok(Self(zone));
        }
        let names: Vec<String> = ZONES.available().map(|name| name.to_string()).collect();
        let fix = match crate::config::nearest(name, names.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => r#"write e.g. "UTC" or "Europe/Berlin""#.to_owned(),
        };
        Err(Unfit::new("timezone", format!("there is no time zone {}", quoted(name)), fix))
    }

    /// The local time of an instant.
    #[must_use]
    pub fn local(&self, at: Timestamp) -> DateTime {
        let at = jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or(jiff::Timestamp::MAX);
        self.0.to_datetime(at)
    }

    /// The instant of a local time: the first of the two where clocks go back over it, none where they go
    /// forward over it.
    #[must_use]
    pub fn instant(&self, local: DateTime) -> Option<Timestamp> {
        let ambiguous = self.0.to_ambiguous_timestamp(local);
        if matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }) {
            return None;
        }
        ambiguous.earlier().ok().map(|at| Timestamp(at.as_millisecond()))
    }

    /// The instant of a local time; the same time after the change where clocks go forward over it.
    #[must_use]
    pub fn instant_or_later(&self, local: DateTime) -> Timestamp {
        let compatible = self.0.to_ambiguous_timestamp(local).compatible();
        compatible.map_or(Timestamp(i64::MAX), |at| Timestamp(at.as_millisecond()))
    }
}
