//! Cron in the dialect of EventBridge Scheduler: which local minutes an expression names.
//!
//! The crates for cron speak other dialects: what they accept AWS would refuse at deployment, their clocks go
//! forward and back by other rules, and a pattern of theirs takes kilobytes where there may be a hundred
//! thousand. So an expression is read here, field by field with an error that names the field, into five sets of
//! bits and a rule for days. Pure: local times in, local times out; zones are [`super::Zone`]'s business.

mod crontab;
mod days;
mod field;

use std::fmt;

use jiff::civil::{Date, DateTime, Time};

use self::{
    days::{Days, bits_from},
    field::{Field, Set},
};
use super::Unfit;

/// The years that AWS's sixth field may name.
const YEARS: std::ops::RangeInclusive<u16> = 1970..=2199;

const MINUTE: Field = Field { name: "minutes", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hours", least: 0, most: 23, names: &[] };
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
const YEAR: Field = Field { name: "year", least: *YEARS.start(), most: *YEARS.end(), names: &[] };

/// A cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// Its six fields, as AWS writes them.
    text: String,
    minutes: u64,
    hours: u32,
    days: Days,
    months: u16,
    years: Set,
}

impl Cron {
    /// Reads AWS's six fields, or crontab's five, which are converted.
    ///
    /// The dialect is that of the EventBridge Scheduler User Guide, "Cron-based schedules": minutes, hours, day
    /// of month, month, day of week (1 to 7 from Sunday), year; `,` `-` `*` `/` everywhere but `/` in the day of
    /// week, `?` `L` `W` for the day of the month, `?` `L` `#` for the day of the week, and `?` in exactly one of
    /// the two.
    ///
    /// # Errors
    ///
    /// Names the field and the fix: no such dialect, out of bounds, meant differently by crontab and AWS, or no
    /// day that ever comes.
    pub fn parse(text: &str) -> Result<Self, Unfit> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        match *fields.as_slice() {
            [minutes, hours, day, month, weekday] => {
                let fields = crontab::to_aws([minutes, hours, day, month, weekday])?;
                Self::read(fields.each_ref().map(String::as_str))
            }
            [minutes, hours, day, month, weekday, year] => Self::read([minutes, hours, day, month, weekday, year]),
            _ => {
                let what = format!("{} is no cron expression", super::quoted(text));
                let fix = r#"write five fields as in crontab, or AWS's six, e.g. "0 3 * * ? *""#;
                Err(Unfit::new("cron", what, fix))
            }
        }
    }

    fn read(fields: [&str; 6]) -> Result<Self, Unfit> {
        let [minutes, hours, day, month, weekday, year] = fields;
        let cron = Self {
            text: fields.join(" "),
            minutes: MINUTE.set(minutes)?.bits64(),
            hours: HOUR.set(hours)?.bits32(),
            days: Days::read(day, weekday)?,
            months: MONTH.set(month)?.bits16(),
            years: YEAR.set(year)?,
        };
        if cron.next(DateTime::MIN).is_none() {
            let what = format!("{} names a day that never comes", super::quoted(&cron.text));
            return Err(Unfit::new("cron", what, "name a day that its months have"));
        }
        Ok(cron)
    }

    /// The six fields, as AWS writes them.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first local minute later than `after` that the expression names; none where there is no such minute
    /// any more.
    #[must_use]
    pub fn next(&self, after: DateTime) -> Option<DateTime> {
        let years = Date::new(i16::try_from(*YEARS.start()).ok()?, 1, 1).ok()?.at(0, 0, 0, 0);
        let after = after.max(years.saturating_sub(jiff::Span::new().minutes(1)));
        let first = after.checked_add(jiff::Span::new().minutes(1)).ok()?;
        let first = first.date().at(first.hour(), first.minute(), 0, 0);
        let today = first.date();
        let year = u16::try_from(today.year()).ok()?;
        for year in self.years.from(year) {
            let date = |month: u32| Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, 1).ok();
            let begins = if i32::from(year) == i32::from(today.year()) { today.month() } else { 1 };
            for month in bits_from(u64::from(self.months), u32::try_from(begins).ok()?) {
                let month = date(month)?;
                let is_this = month == today.first_of_month();
                let day_least = if is_this { u32::try_from(today.day()).ok()? } else { 1 };
                for day in bits_from(u64::from(self.days.of(month)), day_least) {
                    let date = Date::new(month.year(), month.month(), i8::try_from(day).ok()?).ok()?;
                    let least = if date == today { first.time() } else { Time::midnight() };
                    if let Some(time) = self.time_from(least) {
                        return Some(date.to_datetime(time));
                    }
                }
            }
        }
        None
    }

    /// The first time of a day that is named, at or after `least`.
    fn time_from(&self, least: Time) -> Option<Time> {
        let (hour, minute) = (u32::try_from(least.hour()).ok()?, u32::try_from(least.minute()).ok()?);
        for at in bits_from(u64::from(self.hours), hour) {
            let begins = if at == hour { minute } else { 0 };
            if let Some(minute) = bits_from(self.minutes, begins).next() {
                return Time::new(i8::try_from(at).ok()?, i8::try_from(minute).ok()?, 0, 0).ok();
            }
        }
        None
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
