//! Splits what a function process prints into lines, for whoever listens while it runs. An invocation that prints
//! without end is told up to a limit: a log that cannot be written as fast would hold up its function's host.

use std::fmt;

/// A longer line is told in pieces.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Is told each line that a process prints, without its end. Must not block: nothing is read meanwhile.
pub type OnLine = Box<dyn Fn(&str) + Send + Sync>;

/// The lines of one process.
pub(super) struct Lines {
    open: Vec<u8>,
    tell: OnLine,
    bytes_max: usize,
    /// Of `bytes_max`, since the last invocation began.
    left: usize,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

impl Lines {
    /// Tells up to `bytes_max` of what an invocation prints.
    pub(super) fn new(bytes_max: usize, tell: OnLine) -> Self {
        Self { open: Vec::new(), tell, bytes_max, left: bytes_max }
    }

    /// An invocation begins: it may print anew.
    pub(super) fn begin(&mut self) {
        self.left = self.bytes_max;
    }

    /// Takes in what was read, and tells what has become whole.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.open.len() >= LINE_BYTES_MAX {
                self.flush();
            }
        }
    }

    /// Tells what was printed without an end of line.
    pub(super) fn flush(&mut self) {
        let line = self.open.trim_ascii_end();
        if !line.is_empty() && self.left > 0 {
            (self.tell)(&String::from_utf8_lossy(line));
            self.left = self.left.saturating_sub(line.len());
            if self.left == 0 {
                (self.tell)("(more was printed: its end is kept with the attempt)");
            }
        }
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn told(pieces: &[&[u8]]) -> Vec<String> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let mut lines = Lines::new(100_000, Box::new(move |line| heard.lock().unwrap().push(line.to_owned())));
        pieces.iter().for_each(|piece| lines.read(piece));
        lines.flush();
        std::mem::take(&mut *told.lock().unwrap())
    }

    #[test]
    fn lines_are_told_whole_however_they_were_read() {
        assert_eq!(told(&[b"one\ntw", b"o\r\n", b"\n", b"three"]), ["one", "two", "three"]);
    }

    #[test]
    fn an_invocation_without_end_is_told_to_a_limit_and_the_next_one_again() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let mut lines = Lines::new(10, Box::new(move |line| heard.lock().unwrap().push(line.to_owned())));
        lines.read(b"12345\n67890\nnever\n");
        lines.begin();
        lines.read(b"again\n");
        let more = "(more was printed: its end is kept with the attempt)";
        assert_eq!(*told.lock().unwrap(), ["12345", "67890", more, "again"]);
    }

    #[test]
    fn a_line_without_an_end_is_told_in_pieces() {
        let told = told(&[&[b'x'; LINE_BYTES_MAX], b"y\n"]);
        assert_eq!(told.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES_MAX, 1]);
    }
}
