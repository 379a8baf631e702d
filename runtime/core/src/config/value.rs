//! One reader per kind of value. Each says what it wanted, with an example, where it finds
//! something else; bounds are part of the reader, so no number goes unbounded.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use toml::de::DeValue;

use super::{
    mistake::{Problem, quoted, suggest},
    sheet::{invalid_name, kind},
    units::{self, ByteSize, show_duration},
};
use crate::ids::InvalidName;

/// What a reader returns.
pub(super) type Reading<T> = Result<T, Problem>;

/// Elements of a list; more are a mistake.
const LIST_LEN_MAX: usize = 1000;

/// A closed choice, each written as one word.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// Every choice, in the order of the documentation.
    const ALL: &'static [Self];

    /// The choice as it is written.
    fn word(self) -> &'static str;
}

/// Makes a closed choice with its words, written once.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* #[doc = concat!("\n\nWritten `", $word, "`.")] $variant,)*
        }

        impl $name {
            /// The word as it is written in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl $crate::config::value::Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                let word = $crate::config::value::word(&text);
                word.map_err(|problem| serde::de::Error::custom(format_args!("{}; {}", problem.what, problem.fix)))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    )*};
}
pub(super) use words;

impl Word for crate::row::AckMode {
    const ALL: &'static [Self] = &[Self::Message, Self::Lease];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// Reads text and hands it on.
pub(super) fn text_as<T>(of: impl Fn(&str) -> Reading<T>) -> impl Fn(&DeValue<'_>) -> Reading<T> {
    move |value| match value {
        DeValue::String(text) => of(text),
        other => Err(Problem::new(format!("it is {}, not text", kind(other)), "write text in quotes")),
    }
}

/// Text of one line, not empty, of at most `chars_max` characters.
pub(super) fn line(chars_max: usize) -> impl Fn(&str) -> Reading<String> {
    move |text| {
        if text.trim().is_empty() {
            Err(Problem::new("it is empty", "write its text or leave it out"))
        } else if text.chars().any(char::is_control) {
            let what = format!("{} holds a control character", quoted(text));
            Err(Problem::new(what, "write one line of plain text"))
        } else if text.chars().nth(chars_max).is_some() {
            let what = format!("{} has {} characters", quoted(text), text.chars().count());
            Err(Problem::new(what, format!("at most {chars_max} are allowed")))
        } else {
            Ok(text.to_owned())
        }
    }
}

/// `true` or `false`.
pub(super) fn flag(value: &DeValue<'_>) -> Reading<bool> {
    match value {
        DeValue::Boolean(flag) => Ok(*flag),
        other => {
            let what = format!("it is {}, not true or false", kind(other));
            Err(Problem::new(what, "write true or false, without quotes"))
        }
    }
}

/// A whole number.
pub(super) fn whole(bounds: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Reading<u32> {
    move |value| match value {
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            match parsed.ok().and_then(|number| u32::try_from(number).ok()) {
                Some(number) if bounds.contains(&number) => Ok(number),
                _ => Err(out_of(&quoted_number(&number.to_string()), &bounds, |bound| bound.to_string())),
            }
        }
        other => {
            let what = format!("it is {}, not a whole number", kind(other));
            Err(Problem::new(what, format!("write e.g. {}, without quotes", bounds.start())))
        }
    }
}

/// A number that may have a fraction.
pub(super) fn decimal(bounds: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Reading<f64> {
    move |value| {
        let text = match value {
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            other => {
                let what = format!("it is {}, not a number", kind(other));
                return Err(Problem::new(what, format!("write e.g. {}", bounds.start())));
            }
        };
        match text.parse::<f64>() {
            Ok(number) if bounds.contains(&number) => Ok(number),
            _ => Err(out_of(&quoted_number(&text), &bounds, |bound| bound.to_string())),
        }
    }
}

/// A duration within bounds.
pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Reading<Duration> {
    move |value| {
        let duration = units::duration(&text_with_unit(value, "a duration", "s", "24h")?)?;
        if bounds.contains(&duration) {
            Ok(duration)
        } else {
            Err(out_of(&show_duration(duration), &bounds, |bound| show_duration(*bound)))
        }
    }
}

/// A size within bounds.
pub(super) fn size(bounds: RangeInclusive<ByteSize>) -> impl Fn(&DeValue<'_>) -> Reading<ByteSize> {
    move |value| {
        let size = units::size(&text_with_unit(value, "a size", "MiB", "256MiB")?)?;
        if bounds.contains(&size) { Ok(size) } else { Err(out_of(&size.to_string(), &bounds, ToString::to_string)) }
    }
}

/// A checked name.
pub(super) fn name<N: FromStr<Err = InvalidName>>(text: &str) -> Reading<N> {
    text.parse().map_err(|error| invalid_name(&error))
}

/// One word of a closed choice.
pub(super) fn word<W: Word>(text: &str) -> Reading<W> {
    W::ALL.iter().copied().find(|choice| choice.word() == text).ok_or_else(|| {
        let words = W::ALL.iter().map(|choice| choice.word());
        Problem::new(format!("{} is no known word here", quoted(text)), suggest(text, words))
    })
}

/// A list, each element read by `of`.
pub(super) fn list<T>(of: impl Fn(&DeValue<'_>) -> Reading<T>) -> impl Fn(&DeValue<'_>) -> Reading<Vec<T>> {
    move |value| {
        let DeValue::Array(array) = value else {
            let what = format!("it is {}, not a list", kind(value));
            return Err(Problem::new(what, "write it in brackets: [\"…\", \"…\"]"));
        };
        if array.len() > LIST_LEN_MAX {
            let what = format!("it has {} elements", array.len());
            return Err(Problem::new(what, format!("at most {LIST_LEN_MAX} are allowed")));
        }
        let mut list = Vec::with_capacity(array.len());
        for (index, element) in array.iter().enumerate() {
            let in_element = |Problem { what, fix }| Problem::new(format!("element {}: {what}", index + 1), fix);
            list.push(of(element.get_ref()).map_err(in_element)?);
        }
        Ok(list)
    }
}

/// A list that holds something, and nothing twice.
pub(super) fn distinct<T: PartialEq>(
    of: impl Fn(&DeValue<'_>) -> Reading<T>,
) -> impl Fn(&DeValue<'_>) -> Reading<Vec<T>> {
    let list = list(of);
    move |value| {
        let list = list(value)?;
        if list.is_empty() {
            return Err(Problem::new("the list is empty", "name at least one, or leave the key out"));
        }
        for (index, element) in list.iter().enumerate() {
            if list[..index].contains(element) {
                let what = format!("element {} is there twice", index + 1);
                return Err(Problem::new(what, "leave the second one out"));
            }
        }
        Ok(list)
    }
}

/// Text with a unit; a bare number is told the unit it lacks.
fn text_with_unit(value: &DeValue<'_>, wanted: &str, unit: &str, example: &str) -> Reading<String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(_) | DeValue::Float(_) => {
            let number = match value {
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                _ => String::new(),
            };
            let number = quoted_number(&number);
            let what = format!("{number} has no unit");
            Err(Problem::new(what, format!("write {wanted} in quotes, e.g. \"{number}{unit}\"")))
        }
        other => {
            let what = format!("it is {}, not {wanted}", kind(other));
            Err(Problem::new(what, format!("write e.g. \"{example}\"")))
        }
    }
}

/// A number from outside without quotes, but short.
fn quoted_number(text: &str) -> String {
    quoted(text).trim_matches('"').to_owned()
}

fn out_of<T>(value: &str, bounds: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Problem {
    let (least, most) = (show(bounds.start()), show(bounds.end()));
    let fix = format!("write one from {least} to {most}");
    Problem::new(format!("{value} is out of bounds"), fix)
}

/// Says what a value must not be shorter or longer than, for rules that know the bound only later.
pub(super) fn too_much(value: impl Display, most: impl Display, because: &str) -> Problem {
    Problem::new(format!("{value} is over {most}, {because}"), format!("write at most {most}"))
}
