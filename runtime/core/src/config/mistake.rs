//! What is wrong with a configuration, where, and how to mend it.
//!
//! A start that stops at the first mistake costs one start per mistake, so they are collected and
//! told together. Text from the file is shown short and escaped: it never reaches a terminal raw.

use std::fmt;

/// The file's name where nobody has said which file it is.
const FILE: &str = "rhubarb.toml";

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The configuration file; both numbers from 1.
    File {
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// An environment variable.
    Variable(&'static str),
    /// An option of the command line.
    Flag(&'static str),
}

/// One mistake: where it is, at which key, what is wrong, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where the value was written.
    pub place: Place,
    /// The path of the key, such as `queues.training.timeout`; empty where the text is no TOML.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub fix: String,
}

impl Mistake {
    /// Returns the mistake as one line that begins with `file`, as editors and terminals link it.
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        let at = match self.place {
            Place::File { line, column } => format!("{file}:{line}:{column}"),
            Place::Variable(name) => name.to_owned(),
            Place::Flag(flag) => flag.to_owned(),
        };
        let key = if self.key.is_empty() { String::new() } else { format!("{}: ", self.key) };
        format!("{at}: {key}{}; {}", self.what, self.fix)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_file(FILE))
    }
}

/// Every mistake of a configuration, in the order of the file; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    file: String,
    list: Vec<Mistake>,
}

impl Mistakes {
    pub(super) fn new(mut list: Vec<Mistake>) -> Self {
        list.sort();
        list.dedup();
        Self { file: FILE.to_owned(), list }
    }

    /// Names the file that was read, for the lines of the message.
    #[must_use]
    pub fn in_file(self, file: impl Into<String>) -> Self {
        Self { file: file.into(), ..self }
    }

    /// Returns the mistakes one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.list.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.list.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", mistake.in_file(&self.file))?;
        }
        Ok(())
    }
}

/// What is wrong with a value, by someone who does not know where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) fix: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

/// Shows text from outside in quotes: escaped, and only its beginning.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let mut beginning: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        beginning.push('…');
    }
    format!("{beginning:?}")
}

/// Returns the one of `candidates` that `word` was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const COMPARED_CHARS_MAX: usize = 200;
    if word.len() > COMPARED_CHARS_MAX {
        return None;
    }
    let word = word.to_lowercase();
    let length = word.chars().count();
    let tolerated = (length / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= tolerated && *distance < length)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Says which words would have been right, the likeliest first.
pub(super) fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    const LISTED_MAX: usize = 20;
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(meant) = nearest(word, candidates.iter().copied()) {
        return format!("did you mean {meant:?}?");
    }
    let listed: Vec<String> = candidates.iter().take(LISTED_MAX).map(|word| format!("{word:?}")).collect();
    match (listed.len(), candidates.len()) {
        (0, _) => "leave it out".to_owned(),
        (1, 1) => format!("write {}", listed.concat()),
        (shown, all) if shown < all => format!("write one of {}, …", listed.join(", ")),
        _ => format!("write one of {}", listed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        let keys = ["timeout", "soft_timeout", "track"];
        assert_eq!(nearest("timeuot", keys), Some("timeout"));
        assert_eq!(nearest("Track", keys), Some("track"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("q", ["r"]), None, "nothing of it is left");
        assert_eq!(nearest(&"t".repeat(100_000), keys), None);
        assert_eq!(suggest("colour", keys), r#"write one of "timeout", "soft_timeout", "track""#);
    }

    #[test]
    fn text_from_outside_is_shown_short_and_escaped() {
        let shown = quoted(&"\u{1b}[2J".repeat(10_000));
        assert!(!shown.contains('\u{1b}') && shown.len() < 1000, "{shown}");
    }

    #[test]
    fn mistakes_are_told_in_the_order_of_the_file_with_its_name() {
        let at = |line| Mistake {
            place: Place::File { line, column: 3 },
            key: "app.stage".into(),
            what: "wrong".into(),
            fix: "mend it".into(),
        };
        let mistakes = Mistakes::new(vec![at(12), at(2), at(12)]).in_file("conf/rhubarb.toml");
        assert_eq!(
            mistakes.to_string(),
            "conf/rhubarb.toml:2:3: app.stage: wrong; mend it\nconf/rhubarb.toml:12:3: app.stage: wrong; mend it"
        );
    }
}
