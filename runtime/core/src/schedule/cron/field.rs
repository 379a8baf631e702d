//! One field of numbers: lists, ranges, steps and names.

use super::super::{Unfit, quoted};

/// What a field may hold.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) least: u16,
    pub(super) most: u16,
    /// Names of the numbers from `least` on.
    pub(super) names: &'static [&'static str],
}

/// A set of numbers, those of a year's field at most: 230 of them, counted from the field's least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    least: u16,
    bits: [u64; 4],
}

impl Set {
    fn insert(&mut self, number: u16) {
        let place = usize::from(number - self.least);
        self.bits[place / 64] |= 1 << (place % 64);
    }

    pub(super) const fn contains(&self, number: u16) -> bool {
        let place = (number - self.least) as usize;
        self.bits[place / 64] >> (place % 64) & 1 == 1
    }

    /// The numbers at or above `first`, in order.
    pub(super) fn from(self, first: u16) -> impl Iterator<Item = u16> {
        let first = first.max(self.least);
        (first..self.least + 256).filter(move |number| self.contains(*number))
    }

    /// Bit n stands for the number n.
    pub(super) const fn bits64(&self) -> u64 {
        self.bits[0] << self.least
    }

    #[expect(clippy::cast_possible_truncation, reason = "the numbers of an hour or a day are below 32")]
    pub(super) const fn bits32(&self) -> u32 {
        self.bits64() as u32
    }

    #[expect(clippy::cast_possible_truncation, reason = "the numbers of a month or a weekday are below 16")]
    pub(super) const fn bits16(&self) -> u16 {
        self.bits64() as u16
    }
}

impl Field {
    /// Reads a list of numbers, ranges and steps.
    pub(super) fn set(&self, text: &str) -> Result<Set, Unfit> {
        let mut set = Set { least: self.least, bits: [0; 4] };
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(self.step(part, step)?)),
                None => (part, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most),
                Some((first, last)) => (self.number(part, first)?, self.number(part, last)?),
                // With a step a single number begins a range to the end.
                None if step.is_some() => (self.number(part, range)?, self.most),
                None => {
                    let number = self.number(part, range)?;
                    (number, number)
                }
            };
            if first > last {
                let fix = format!("write the two parts as a list, e.g. {first}-{},{}-{last}", self.most, self.least);
                return Err(self.unfit(part, "runs backwards", &fix));
            }
            (first..=last).step_by(usize::from(step.unwrap_or(1))).for_each(|number| set.insert(number));
        }
        Ok(set)
    }

    /// Reads one number, or its name.
    pub(super) fn number(&self, part: &str, text: &str) -> Result<u16, Unfit> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = match named.and_then(|place| u16::try_from(place).ok()) {
            Some(place) => Some(place + self.least),
            None => digits.then(|| text.parse().ok()).flatten(),
        };
        number.filter(|number| (self.least..=self.most).contains(number)).ok_or_else(|| {
            let names = match (self.names.first(), self.names.last()) {
                (Some(first), Some(last)) => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            let fix = format!("write numbers from {} to {}{names}", self.least, self.most);
            self.unfit(part, "is not within its bounds", &fix)
        })
    }

    fn step(&self, part: &str, text: &str) -> Result<u16, Unfit> {
        let step = text.parse::<u16>().ok().filter(|step| *step > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
        step.ok_or_else(|| self.unfit(part, "has no step", "write a whole number from 1 after the slash"))
    }

    /// Complains about a part of this field.
    pub(super) fn unfit(&self, part: &str, what: &str, fix: &str) -> Unfit {
        Unfit::new("cron", format!("{} in its field {} {what}", quoted(part), self.name), fix)
    }
}
