//! Reads a TOML document by hand, so that each value knows its line and one start names every
//! mistake.
//!
//! The [`Sheet`] remembers where each key stands and collects what is wrong; a [`Table`] reads one
//! table of it. A value that cannot be read is noted and left out: the reader goes on with the
//! default, and rules that look at that key again keep silent, so one mistake is told once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use toml::de::{DeTable, DeValue};

use super::{
    Mistake, Mistakes, Place,
    mistake::{Problem, quoted, suggest},
    reference,
};
use crate::ids::InvalidName;

/// Bytes of a configuration; a larger one is a file given by mistake.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Queues of a configuration, and workers, functions, tasks and schedules.
const NAMED_MAX: usize = 1000;

/// Where every key stands, and what is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    places: RefCell<BTreeMap<String, Place>>,
    wrong: RefCell<BTreeSet<String>>,
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
}

impl Sheet {
    /// Notes a problem at a key, unless one is already noted there.
    pub(super) fn mistake(&self, path: &str, problem: Problem) {
        if !self.is_wrong(path) {
            self.mistake_at(self.place(path), path, problem);
        }
    }

    /// Notes a problem of a value that came from `place`.
    pub(super) fn mistake_at(&self, place: Place, path: &str, problem: Problem) {
        let Problem { what, fix } = problem;
        self.wrong.borrow_mut().insert(path.to_owned());
        self.mistakes.borrow_mut().push(Mistake { place, key: path.to_owned(), what, fix });
    }

    /// Notes what does not stop a start, but is hardly meant.
    pub(super) fn warning(&self, path: &str, problem: Problem) {
        let Problem { what, fix } = problem;
        let place = self.place(path);
        self.warnings.borrow_mut().push(Mistake { place, key: path.to_owned(), what, fix });
    }

    /// Says whether the key was given, rightly or wrongly.
    pub(super) fn is_given(&self, path: &str) -> bool {
        self.places.borrow().contains_key(path)
    }

    /// Says that the value of a key came from elsewhere than the file.
    pub(super) fn came_from(&self, path: &str, place: Place) {
        self.places.borrow_mut().insert(path.to_owned(), place);
    }

    /// Ends the reading: what is wrong, or else the warnings.
    pub(super) fn finish(self) -> Result<Vec<Mistake>, Mistakes> {
        let mistakes = self.mistakes.into_inner();
        if !mistakes.is_empty() {
            return Err(Mistakes::new(mistakes));
        }
        let mut warnings = self.warnings.into_inner();
        warnings.sort();
        Ok(warnings)
    }

    fn is_wrong(&self, path: &str) -> bool {
        self.wrong.borrow().contains(path)
    }

    /// Where the key stands; for one that was not given, the nearest table around it.
    fn place(&self, path: &str) -> Place {
        let places = self.places.borrow();
        let mut path = path;
        loop {
            if let Some(place) = places.get(path) {
                return *place;
            }
            match path.rfind('.') {
                Some(dot) => path = &path[..dot],
                None => return Place::File { line: 1, column: 1 },
            }
        }
    }

    /// Remembers where each key of a table stands. The parser bounds the depth.
    fn survey(&self, lines: &Lines<'_>, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = join(path, key.get_ref());
            // A table made by `[a.b]` begins at its header, which is where people look.
            self.came_from(&path, lines.place(key.span().start));
            if let DeValue::Table(inner) = value.get_ref() {
                self.survey(lines, &path, inner);
            }
        }
    }
}

/// Parses the text and surveys it. A text that is no TOML gets only its syntax mistakes: anything
/// said about the rest of it would be a guess.
pub(super) fn open<'i>(sheet: &Sheet, text: &'i str) -> Result<DeTable<'i>, Mistakes> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Mistakes::new(vec![Mistake {
            place: Place::File { line: 1, column: 1 },
            key: String::new(),
            what: format!("the file has {} bytes", text.len()),
            fix: format!("at most {TEXT_BYTES_MAX} are read; is it the right file?"),
        }]));
    }
    let lines = Lines::of(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(Mistakes::new(errors.iter().map(|error| syntax_mistake(&lines, error)).collect()));
    }
    sheet.survey(&lines, "", document.get_ref());
    Ok(document.into_inner())
}

fn syntax_mistake(lines: &Lines<'_>, error: &toml::de::Error) -> Mistake {
    Mistake {
        place: lines.place(error.span().map_or(0, |span| span.start)),
        key: String::new(),
        what: format!("this is no TOML: {}", error.message()),
        fix: "mend the line; text values stand in quotes".to_owned(),
    }
}

/// Finds the line and column of a byte offset.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(after_newlines.map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or("");
        Place::File { line, column: before.chars().count() + 1 }
    }
}

/// Puts a key behind a path. A key that TOML would want quoted is quoted, so that no two paths meet.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let key = if is_bare && key.len() <= 128 { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// One table of the document and the section of the reference that lists its keys.
#[derive(Clone, Debug)]
pub(super) struct Table<'a, 'i> {
    sheet: &'a Sheet,
    path: String,
    /// None where the table was not written: every key is then absent.
    entries: Option<&'a DeTable<'i>>,
}

impl<'a, 'i> Table<'a, 'i> {
    /// The whole document.
    pub(super) fn root(sheet: &'a Sheet, document: &'a DeTable<'i>) -> Self {
        let table = Self { sheet, path: String::new(), entries: Some(document) };
        table.refuse_unknown(reference::tables());
        table
    }

    /// The table `[kind.name]` that nobody wrote: everything in it has its default.
    pub(super) fn unwritten(&self, kind: &str, name: &str) -> Table<'a, 'i> {
        Table { sheet: self.sheet, path: join(kind, name), entries: None }
    }

    /// Says whether the table stands in the file.
    pub(super) fn is_written(&self) -> bool {
        self.entries.is_some()
    }

    pub(super) fn sheet(&self) -> &'a Sheet {
        self.sheet
    }

    /// The full path of one of its keys.
    pub(super) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reads a key. None where it is absent, and where it is wrong: that is then noted.
    pub(super) fn read<T>(&self, key: &str, of: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>) -> Option<T> {
        let value = self.entries?.get(key)?;
        match of(value.get_ref()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.sheet.mistake(&self.path(key), problem);
                None
            }
        }
    }

    /// Opens a table that holds the keys of `section`. An absent one reads as empty.
    pub(super) fn table(&self, key: &str, section: &str) -> Table<'a, 'i> {
        let entries = self.entries_of(key);
        let table = Table { sheet: self.sheet, path: self.path(key), entries };
        table.refuse_unknown(reference::keys(section));
        table
    }

    /// Opens each table of `[kind.NAME]`, whose names are checked.
    pub(super) fn named<N: FromStr<Err = InvalidName>>(&self, kind: &str, section: &str) -> Vec<(N, Table<'a, 'i>)> {
        let group = Table { sheet: self.sheet, path: self.path(kind), entries: self.entries_of(kind) };
        let count = group.keys().count();
        if count > NAMED_MAX {
            let fix = format!("at most {NAMED_MAX} are read: divide the application");
            self.sheet.mistake(&group.path, Problem::new(format!("there are {count} of them"), fix));
            return Vec::new();
        }
        let mut found = Vec::new();
        for name in group.keys() {
            let table = group.table(name, section);
            match name.parse() {
                Ok(name) => found.push((name, table)),
                Err(error) => self.sheet.mistake(&group.path(name), invalid_name(&error)),
            }
        }
        found
    }

    /// Reads a table whose keys are free, such as `env`.
    pub(super) fn map<K: FromStr, V>(
        &self,
        key: &str,
        key_of: impl Fn(&str) -> Result<K, Problem>,
        value_of: impl Fn(&DeValue<'_>) -> Result<V, Problem>,
    ) -> Vec<(K, V)> {
        let map = Table { sheet: self.sheet, path: self.path(key), entries: self.entries_of(key) };
        let mut found = Vec::new();
        for name in map.keys() {
            let value = map.read(name, &value_of);
            match key_of(name) {
                Ok(name) => found.extend(value.map(|value| (name, value))),
                Err(problem) => self.sheet.mistake(&map.path(name), problem),
            }
        }
        found
    }

    /// Notes that a key which must be there is not.
    pub(super) fn missing(&self, key: &str, fix: &str) {
        let path = self.path(key);
        if !self.sheet.is_given(&path) {
            self.sheet.mistake(&path, Problem::new("it is missing", fix));
        }
    }

    fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.entries.into_iter().flatten().map(|(key, _)| key.get_ref().as_ref())
    }

    fn entries_of(&self, key: &str) -> Option<&'a DeTable<'i>> {
        match self.entries?.get(key)?.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                let what = format!("it is {}, not a table", kind(other));
                let fix = format!("write [{}] and its keys below", self.path(key));
                self.sheet.mistake(&self.path(key), Problem::new(what, fix));
                None
            }
        }
    }

    fn refuse_unknown(&self, known: Vec<&'static str>) {
        for (key, value) in self.entries.into_iter().flatten() {
            let key = key.get_ref().as_ref();
            if known.contains(&key) {
                continue;
            }
            let mut fix = suggest(key, known.iter().copied());
            if matches!(value.get_ref(), DeValue::Table(_)) && self.path.contains('.') {
                fix.push_str("; a name with a dot stands in quotes");
            }
            self.sheet.mistake(&self.path(key), Problem::new("there is no such key", fix));
        }
    }
}

/// A name that is none, as a problem of its key.
pub(super) fn invalid_name(error: &InvalidName) -> Problem {
    Problem::new(error.to_string(), "choose another name")
}

/// What a value is, in words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_offset_has_a_line_and_a_column_in_characters() {
        let lines = Lines::of("a = 1\nö = 2\n");
        assert_eq!(lines.place(0), Place::File { line: 1, column: 1 });
        assert_eq!(lines.place(8), Place::File { line: 2, column: 2 });
        assert_eq!(lines.place(10_000), Place::File { line: 3, column: 1 });
    }

    #[test]
    fn a_text_that_is_no_toml_names_each_wrong_line() {
        let mistakes = open(&Sheet::default(), "a = \nb = 1\nc = 25h\n").unwrap_err();
        let shown = mistakes.to_string();
        assert!(shown.contains("rhubarb.toml:1:") && shown.contains("rhubarb.toml:3:"), "{shown}");
        assert!(open(&Sheet::default(), "[a]\n[a]\n").is_err());
    }

    #[test]
    fn a_text_that_is_too_long_or_too_deep_is_refused() {
        assert!(open(&Sheet::default(), &"#".repeat(TEXT_BYTES_MAX + 1)).is_err());
        let deep = format!("a = {}", "[".repeat(100_000));
        assert!(open(&Sheet::default(), &deep).is_err());
        let dotted = format!("{}a = 1", "a.".repeat(100_000));
        assert!(open(&Sheet::default(), &dotted).is_err());
    }

    #[test]
    fn a_text_full_of_mistakes_is_told_in_good_time() {
        let config = |text: &str| crate::config::Config::parse(text, &crate::config::NoVars, &Default::default());
        let unknown: String = (0..50_000).map(|n| format!("key_{n} = 1\n")).collect();
        assert_eq!(config(&unknown).unwrap_err().iter().count(), 50_001, "each, and no app.name");
        let queues: String = (0..1001).map(|n| format!("[queues.q{n}]\n")).collect();
        let mistakes = config(&format!("[app]\nname = \"shop\"\n{queues}")).unwrap_err();
        assert!(mistakes.to_string().contains("queues: there are 1001 of them"), "{mistakes}");
    }

    #[test]
    fn two_keys_never_share_a_path() {
        assert_eq!(join("tasks", "a.b"), r#"tasks."a.b""#);
        assert_eq!(join(&join("tasks", "a"), "b"), "tasks.a.b");
    }
}
