//! Splits what a function process prints into lines, for whoever listens while it runs.

use std::fmt;

/// A longer line is told in pieces.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Is told each line that a process prints, without its end. Must not block: nothing is read meanwhile.
pub type OnLine = Box<dyn Fn(&str) + Send + Sync>;

/// The lines of one process.
pub(super) struct Lines {
    open: Vec<u8>,
    tell: OnLine,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

impl Lines {
    pub(super) fn new(tell: OnLine) -> Self {
        Self { open: Vec::new(), tell }
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
        if !line.is_empty() {
            (self.tell)(&String::from_utf8_lossy(line));
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
        let mut lines = Lines::new(Box::new(move |line| heard.lock().unwrap().push(line.to_owned())));
        pieces.iter().for_each(|piece| lines.read(piece));
        lines.flush();
        std::mem::take(&mut *told.lock().unwrap())
    }

    #[test]
    fn lines_are_told_whole_however_they_were_read() {
        assert_eq!(told(&[b"one\ntw", b"o\r\n", b"\n", b"three"]), ["one", "two", "three"]);
    }

    #[test]
    fn a_line_without_an_end_is_told_in_pieces() {
        let told = told(&[&[b'x'; LINE_BYTES_MAX], b"y\n"]);
        assert_eq!(told.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES_MAX, 1]);
    }
}
