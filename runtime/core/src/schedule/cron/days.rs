//! The two fields that name days, of which one always says `?`.

use jiff::civil::{Date, Weekday};

use super::field::Field;
use crate::schedule::Unfit;

pub(super) const DAY: Field = Field { name: "day of month", least: 1, most: 31, names: &[] };
pub(super) const WEEKDAY: Field =
    Field { name: "day of week", least: 1, most: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] };

/// Which days of a month are named. Weekdays are numbered from 1, Sunday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Days {
    /// These of the month: bit n is day n.
    OfMonth(u32),
    /// The month's last.
    Last,
    /// The weekday (Monday to Friday) nearest to this day, in the same month.
    Nearest(u8),
    /// These of the week: bit n is weekday n.
    OfWeek(u16),
    /// The month's last such weekday.
    LastOfWeek(u8),
    /// The month's first, second, … such weekday.
    Nth(u8, u8),
}

impl Days {
    /// Reads the day of the month and the day of the week.
    pub(super) fn read(day: &str, weekday: &str) -> Result<Self, Unfit> {
        match (day, weekday) {
            ("?", "?") => {
                let what = "day of month and day of week are both ?";
                Err(Unfit::new("cron", what, "write * in one of them for every day"))
            }
            (_, "?") => Self::of_month(day),
            ("?", _) => Self::of_week(weekday),
            _ => {
                let what = "day of month and day of week are both given";
                Err(Unfit::new(
                    "cron",
                    what,
                    "write ? in one of the two (the order is minutes hours day month weekday year)",
                ))
            }
        }
    }

    fn of_month(text: &str) -> Result<Self, Unfit> {
        let text = &text.to_ascii_uppercase();
        if text == "L" {
            return Ok(Self::Last);
        }
        if let Some(day) = text.strip_suffix('W').filter(|day| !day.contains(['L', ','])) {
            return Ok(Self::Nearest(small(DAY.number(text, day)?)));
        }
        if text.contains(['L', 'W']) {
            return Err(DAY.unfit(text, "is not AWS's", "write L, or one day with W such as 15W, alone"));
        }
        Ok(Self::OfMonth(DAY.set(text)?.bits32()))
    }

    fn of_week(text: &str) -> Result<Self, Unfit> {
        let text = &text.to_ascii_uppercase();
        // The last day of the week.
        if text == "L" {
            return Ok(Self::OfWeek(1 << 7));
        }
        let alone = |text: &str| !text.contains([',', '-', '/', '#']);
        if let Some(weekday) = text.strip_suffix('L').filter(|weekday| alone(weekday)) {
            return Ok(Self::LastOfWeek(small(WEEKDAY.number(text, weekday)?)));
        }
        if let Some((weekday, nth)) = text.split_once('#') {
            let nth = nth.parse::<u8>().ok().filter(|nth| (1..=5).contains(nth) && alone(weekday));
            let nth =
                nth.ok_or_else(|| WEEKDAY.unfit(text, "is no nth weekday", "write one such as 2#1, the first Monday"))?;
            return Ok(Self::Nth(small(WEEKDAY.number(text, weekday)?), nth));
        }
        if text.contains('/') {
            return Err(WEEKDAY.unfit(text, "has a step, which AWS has not here", "list the days, e.g. 2,4,6"));
        }
        let is_zero = |part: &str| part.split('-').any(|number| number == "0");
        if text.split(',').any(is_zero) {
            let fix =
                "Sunday is 1 and Saturday 7 in AWS's six fields (in crontab's five it is 0): write names such as SUN";
            return Err(WEEKDAY.unfit(text, "is not within its bounds", fix));
        }
        Ok(Self::OfWeek(WEEKDAY.set(text)?.bits16()))
    }

    /// The days that are named of the month that begins on `first`: bit n is day n.
    pub(super) fn of(self, first: Date) -> u32 {
        let length = u32::try_from(first.days_in_month()).unwrap_or(31);
        let all = (2_u32 << length).wrapping_sub(2);
        match self {
            Self::OfMonth(days) => days & all,
            Self::Last => 1 << length,
            Self::Nearest(day) => nearest(first, u32::from(day), length),
            Self::OfWeek(weekdays) => {
                (1..=7).filter(|n| weekdays >> n & 1 == 1).map(|n| every(first, n)).fold(0, |a, b| a | b) & all
            }
            Self::LastOfWeek(weekday) => {
                let days = every(first, weekday) & all;
                1 << days.ilog2()
            }
            Self::Nth(weekday, nth) => {
                let day = every(first, weekday).trailing_zeros() + 7 * (u32::from(nth) - 1);
                if day <= length { 1 << day } else { 0 }
            }
        }
    }
}

/// Every seventh day from the month's first such weekday on.
fn every(first: Date, weekday: u8) -> u32 {
    let ahead = (i32::from(weekday) - 1 - i32::from(first.weekday().to_sunday_zero_offset())).rem_euclid(7);
    (0..5).map(|week| 1 + ahead + 7 * week).filter(|day| *day <= 31).fold(0, |days, day| days | 1 << day)
}

/// Saturday goes back to Friday and Sunday on to Monday, unless that leaves the month.
fn nearest(first: Date, day: u32, length: u32) -> u32 {
    if day > length {
        return 0;
    }
    let offset = i64::from(day) - 1;
    let weekday = first.checked_add(jiff::Span::new().days(offset)).map_or(Weekday::Monday, Date::weekday);
    let day = match weekday {
        Weekday::Saturday if day == 1 => 3,
        Weekday::Saturday => day - 1,
        Weekday::Sunday if day == length => day - 2,
        Weekday::Sunday => day + 1,
        _ => day,
    };
    1 << day
}

/// The places of the bits at or above `first`, in order.
pub(super) fn bits_from(bits: u64, first: u32) -> impl Iterator<Item = u32> {
    let mut rest = bits & u64::MAX.checked_shl(first).unwrap_or(0);
    std::iter::from_fn(move || {
        let place = rest.trailing_zeros();
        rest &= rest.checked_sub(1)?;
        Some(place)
    })
}

fn small(number: u16) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}
