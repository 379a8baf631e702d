//! Standard output and standard error: tables and JSON on the one, logs and progress on the other.
//!
//! What goes to standard error goes by a thread of its own ([`Sink`]): an agent whose log nobody reads works on. Standard
//! output is what a command was asked for, and waits for its reader.
//!
//! Text that a function or a message brought along passes through [`clean`] before it reaches a
//! terminal. A line that is printed while progress bars are drawn is drawn above them.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::MultiProgress;
use rhubarb_host::process::sanitize;
use rhubarb_telemetry::sink::Sink;
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::{CliError, Result};

/// What is said stands before what is printed next, unless nobody reads it for so long.
const SAID_WITHIN: Duration = Duration::from_secs(1);
/// What the last lines have before the process ends.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Where a command's output goes, and in which form.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    json: bool,
    bars: MultiProgress,
    errors: Sink,
}

impl Screen {
    /// A screen of this process; `json` replaces tables by JSON.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn new(json: bool) -> io::Result<Self> {
        let bars = MultiProgress::new();
        let errors = Sink::start(Errors(draws(json).then(|| bars.clone())))?;
        Ok(Self { json, bars, errors })
    }

    /// True if the command was asked for JSON.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// True if progress can be drawn, rather than printed line by line.
    pub(crate) fn draws(&self) -> bool {
        draws(self.json)
    }

    /// The progress bars, on standard error.
    pub(crate) const fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Prints one line on standard output. The text is trusted or cleaned.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<()> {
        let write = || {
            let mut out = io::stdout().lock();
            let written = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
            written.map_err(|_| CliError::Closed)
        };
        if self.draws() { self.bars.suspend(write) } else { write() }
    }

    /// Prints a value as one line of JSON on standard output.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_string(value).map_err(|error| CliError::Usage(format!("cannot write JSON: {error}")))?;
        self.line(plain_json(&text))
    }

    /// Prints rows: a table for people, or one JSON document a line. `empty` is said where there is none.
    pub(crate) fn rows<T: Serialize>(
        &self,
        items: &[T],
        header: &[&str],
        row: impl Fn(&T) -> Vec<String>,
        empty: &str,
    ) -> Result<()> {
        if self.json {
            return items.iter().try_for_each(|item| self.document(item));
        }
        if items.is_empty() {
            self.note(empty);
            return Ok(());
        }
        self.line(table(header, items.iter().map(row)))
    }

    /// Tells people something on standard error.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.errors.put(format!("{}\n", text.as_ref()).as_bytes());
        // Nobody may listen any more, and that is no reason to stop.
        if !self.errors.is_stuck() {
            self.errors.flush(SAID_WITHIN);
        }
    }

    /// Writes what was said and logged last, before the process ends.
    pub(crate) fn end(&self) {
        self.errors.flush(END_WITHIN);
    }
}

/// A table whose first row is the header. Cells are cleaned.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|title| title.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2)).set_cell_alignment(CellAlignment::Left);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Text without terminal control sequences.
pub(crate) fn clean(text: &str) -> String {
    sanitize(text)
}

/// Text without control sequences, in one line of bearable length.
pub(crate) fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    let clean = sanitize(text);
    let mut line: String = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(CHARS_MAX) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// JSON with everything escaped that could reach a terminal as a command: JSON itself escapes only the
/// first 32 characters.
pub(crate) fn plain_json(json: &str) -> String {
    use std::fmt::Write as _;
    json.chars().fold(String::with_capacity(json.len()), |mut plain, c| {
        let hidden = matches!(c, '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        match hidden {
            true => drop(write!(plain, "\\u{:04x}", u32::from(c))),
            false => plain.push(c),
        }
        plain
    })
}

fn draws(json: bool) -> bool {
    !json && io::stderr().is_terminal()
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogWriter<'a>;

    fn make_writer(&'a self) -> LogWriter<'a> {
        LogWriter(&self.errors)
    }
}

/// Takes log records: each is written to it in one piece.
pub(crate) struct LogWriter<'a>(&'a Sink);

impl io::Write for LogWriter<'_> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.put(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, above the progress bars where there are any.
struct Errors(Option<MultiProgress>);

impl io::Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().lock().write(bytes);
        match &self.0 {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_header_and_no_trailing_spaces() {
        let text = table(&["queue", "waiting"], [vec!["high".into(), "3".into()], vec!["default".into(), "12".into()]]);
        assert_eq!(text, "QUEUE    WAITING\nhigh     3\ndefault  12");
    }

    #[test]
    fn what_a_function_printed_cannot_move_the_cursor_or_break_the_table() {
        let text = table(&["error"], [vec!["bad\x1b[2J\nnews\x07".into()]]);
        assert_eq!(text, "ERROR\nbad news");
    }

    #[test]
    fn json_reaches_a_terminal_escaped_and_means_the_same() {
        let json = serde_json::to_string("a\u{9b}31m\u{202e}b\x1b[2J").unwrap();
        let plain = plain_json(&json);
        assert_eq!(plain, r#""a\u009b31m\u202eb\u001b[2J""#);
        assert_eq!(serde_json::from_str::<String>(&plain).unwrap(), "a\u{9b}31m\u{202e}b\x1b[2J");
    }

    #[test]
    fn a_long_cell_is_cut() {
        assert_eq!(one_line(&"é".repeat(500)).chars().count(), 101);
    }
}
