//! Captures what a function process prints, and to which invocation it belongs.
//!
//! Standard output and standard error share one pipe, so that lines keep their order. What is read
//! belongs to every invocation in flight at that moment; between invocations it belongs to none. The
//! pipe is read all the time, so a function that prints never blocks for long, and what is over the
//! cap is counted and dropped. It is also read at the moment an answer arrives: everything printed
//! before the answer was sent is then in the pipe, and goes to the invocation that it belongs to.
//!
//! Output is lost with the host; it is written nowhere.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe;

use super::lines::{Lines, OnLine};
use super::{CAPTURES_KEPT_MAX, OUTPUT_TAIL_BYTES};
use crate::runtime_api::Watcher;

/// The size of a pipe on Linux: one read can empty it.
const READ_BYTES: usize = 64 * 1024;
/// The largest size that an unprivileged process can give a pipe. No more than this can have been
/// written before an answer, so no more is read on its behalf.
const PIPE_BYTES_MAX: usize = 1024 * 1024;

/// What one invocation printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapturedOutput {
    /// The output as it was written, invalid UTF-8 replaced; where bytes were dropped, a line in the
    /// middle says so. Untrusted: see [`sanitize`](super::sanitize).
    pub text: String,
    /// How many bytes over the cap were dropped from the middle.
    pub dropped_bytes: u64,
}

/// The output of one function process.
#[derive(Debug)]
pub(super) struct Output {
    pipe: pipe::Receiver,
    captures: Mutex<Captures>,
}

#[derive(Debug)]
struct Captures {
    bytes_max: usize,
    /// The latest output, whomever it belongs to.
    recent: Clipped,
    in_flight: Vec<(String, Clipped)>,
    ended: VecDeque<(String, Clipped)>,
    buffer: Box<[u8]>,
    /// Who is told while it is read.
    lines: Option<Lines>,
}

/// What a read of the pipe has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Bytes(usize),
    Nothing,
    End,
}

impl Output {
    /// Opens a pipe and returns its two write ends, for standard output and standard error. Must be
    /// called within a tokio runtime.
    pub(super) fn open(bytes_max: usize, on_line: Option<OnLine>) -> io::Result<(Self, Stdio, Stdio)> {
        let (reader, writer) = io::pipe()?;
        let errors = writer.try_clone()?;
        let output = Self {
            pipe: pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?,
            captures: Mutex::new(Captures {
                lines: on_line.map(|tell| Lines::new(bytes_max, tell)),
                ..Captures::new(bytes_max)
            }),
        };
        Ok((output, writer.into(), errors.into()))
    }

    /// Reads until the last writer is gone.
    pub(super) async fn follow(&self) {
        while self.pipe.readable().await.is_ok() {
            let found = self.captures().read(|buffer| self.pipe.try_read(buffer));
            if found == Found::End {
                self.captures().flush_lines();
                return;
            }
        }
    }

    /// What an invocation has printed so far, and leaves it there.
    pub(super) fn peek(&self, request_id: &str) -> CapturedOutput {
        let mut captures = self.captures();
        captures.drain(&self.pipe);
        captures.find(request_id).map(|clipped| clipped.captured()).unwrap_or_default()
    }

    /// What an invocation has printed since it began or since this was last called.
    pub(super) fn take(&self, request_id: &str) -> CapturedOutput {
        let mut captures = self.captures();
        captures.drain(&self.pipe);
        captures.take(request_id).map(|clipped| clipped.captured()).unwrap_or_default()
    }

    /// The last of what the process printed.
    pub(super) fn tail(&self) -> String {
        let mut captures = self.captures();
        captures.drain(&self.pipe);
        captures.recent.tail()
    }

    fn captures(&self) -> MutexGuard<'_, Captures> {
        // A capture is only ever appended to, so a poisoned one is still sound.
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Output {
    fn handed_over(&self, request_id: &str) {
        let mut captures = self.captures();
        captures.drain(&self.pipe);
        captures.begin(request_id);
    }

    fn answered(&self, request_id: &str) {
        let mut captures = self.captures();
        captures.drain(&self.pipe);
        captures.flush_lines();
        captures.end(request_id);
    }
}

impl Captures {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            recent: Clipped::tail_only(OUTPUT_TAIL_BYTES),
            in_flight: Vec::new(),
            ended: VecDeque::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            lines: None,
        }
    }

    /// Reads what is in the pipe now. The system is asked directly: the readiness that tokio has
    /// noted may lag behind an answer that came by another connection.
    fn drain(&mut self, pipe: &pipe::Receiver) {
        let mut seen = 0;
        while seen < PIPE_BYTES_MAX {
            let found = self.read(|buffer| Ok(rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut *buffer))?));
            match found {
                Found::Bytes(count) => seen += count,
                Found::Nothing | Found::End => return,
            }
        }
    }

    /// Takes in what one call of `read` finds.
    fn read(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Found {
        let count = match read(&mut self.buffer) {
            Ok(0) => return Found::End,
            Ok(count) => count,
            Err(error) if is_passing(&error) => return Found::Nothing,
            Err(error) => {
                tracing::warn!(%error, "cannot read the output of a function process");
                return Found::End;
            }
        };
        let bytes = &self.buffer[..count];
        self.recent.append(bytes);
        for (_, clipped) in &mut self.in_flight {
            clipped.append(bytes);
        }
        if let Some(lines) = &mut self.lines {
            lines.read(bytes);
        }
        Found::Bytes(count)
    }

    fn flush_lines(&mut self) {
        if let Some(lines) = &mut self.lines {
            lines.flush();
        }
    }

    fn begin(&mut self, request_id: &str) {
        if self.in_flight.iter().all(|(id, _)| id != request_id) {
            let clipped = Clipped::head_and_tail(self.bytes_max);
            self.in_flight.push((request_id.to_owned(), clipped));
            if let Some(lines) = &mut self.lines {
                lines.begin();
            }
        }
    }

    fn end(&mut self, request_id: &str) {
        let Some(index) = self.in_flight.iter().position(|(id, _)| id == request_id) else {
            return;
        };
        let capture = self.in_flight.swap_remove(index);
        if capture.1.is_empty() {
            return;
        }
        if self.ended.len() == CAPTURES_KEPT_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(capture);
    }

    fn find(&self, request_id: &str) -> Option<&Clipped> {
        let mut all = self.in_flight.iter().chain(&self.ended);
        all.find(|(id, _)| id == request_id).map(|(_, clipped)| clipped)
    }

    fn take(&mut self, request_id: &str) -> Option<Clipped> {
        let running = self.in_flight.iter_mut().find(|(id, _)| id == request_id);
        if let Some((_, clipped)) = running {
            let fresh = Clipped::head_and_tail(self.bytes_max);
            return Some(std::mem::replace(clipped, fresh));
        }
        let index = self.ended.iter().position(|(id, _)| id == request_id)?;
        self.ended.remove(index).map(|(_, clipped)| clipped)
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The first and the last bytes of a stream, and how many there were between.
#[derive(Debug)]
struct Clipped {
    head_max: usize,
    tail_max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Clipped {
    fn head_and_tail(bytes_max: usize) -> Self {
        let tail_max = bytes_max / 2;
        Self { head_max: bytes_max - tail_max, tail_max, ..Self::tail_only(0) }
    }

    fn tail_only(tail_max: usize) -> Self {
        Self { head_max: 0, tail_max, head: Vec::new(), tail: VecDeque::new(), dropped: 0 }
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = self.head_max - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        let skipped = rest.len().saturating_sub(self.tail_max);
        let rest = &rest[skipped..];
        let pushed_out = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.tail.drain(..pushed_out);
        self.tail.extend(rest);
        self.dropped += (skipped + pushed_out) as u64;
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty() && self.dropped == 0
    }

    fn captured(&self) -> CapturedOutput {
        let dropped_bytes = self.dropped;
        if dropped_bytes == 0 {
            // Nothing is missing between the two, so a character that they share is whole.
            let mut whole = self.head.clone();
            whole.extend(&self.tail);
            let text = String::from_utf8_lossy(&whole).into_owned();
            return CapturedOutput { text, dropped_bytes };
        }
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        text.push_str(&format!("\n[{dropped_bytes} bytes of output were dropped here]\n"));
        text.push_str(&self.tail());
        CapturedOutput { text, dropped_bytes }
    }

    fn tail(&self) -> String {
        let (front, back) = self.tail.as_slices();
        let tail = [front, back].concat();
        // A cut may have gone through a character: its remains are not shown.
        let whole = tail.iter().position(|byte| byte & 0xc0 != 0x80).unwrap_or(tail.len());
        let start = if self.dropped > 0 { whole.min(3) } else { 0 };
        String::from_utf8_lossy(&tail[start..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeWriter, Write};

    /// An output whose writing side the test holds.
    fn output(bytes_max: usize) -> (Output, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).unwrap();
        let captures = Mutex::new(Captures::new(bytes_max));
        (Output { pipe, captures }, writer)
    }

    fn clipped(bytes_max: usize, text: &str) -> CapturedOutput {
        let mut clipped = Clipped::head_and_tail(bytes_max);
        clipped.append(text.as_bytes());
        clipped.captured()
    }

    #[tokio::test]
    async fn output_belongs_to_the_invocation_in_flight() {
        let (output, mut function) = output(1000);
        function.write_all(b"starting\n").unwrap();
        output.handed_over("a");
        function.write_all(b"of a\n").unwrap();
        output.answered("a");
        function.write_all(b"between\n").unwrap();
        output.handed_over("b");
        function.write_all(b"of b\n").unwrap();
        assert_eq!(output.take("a").text, "of a\n");
        assert_eq!(output.take("b").text, "of b\n");
        assert_eq!(output.tail(), "starting\nof a\nbetween\nof b\n");
    }

    #[tokio::test]
    async fn output_belongs_to_all_of_several_invocations_in_flight() {
        let (output, mut function) = output(1000);
        output.handed_over("a");
        output.handed_over("b");
        function.write_all(b"whose?\n").unwrap();
        output.answered("a");
        function.write_all(b"of b\n").unwrap();
        assert_eq!(output.take("a").text, "whose?\n");
        assert_eq!(output.take("b").text, "whose?\nof b\n");
    }

    #[tokio::test]
    async fn a_running_invocation_can_be_looked_at_and_taken_in_parts() {
        let (output, mut function) = output(1000);
        output.handed_over("a");
        function.write_all(b"one\n").unwrap();
        assert_eq!(output.peek("a").text, "one\n");
        assert_eq!(output.take("a").text, "one\n");
        function.write_all(b"two\n").unwrap();
        output.answered("a");
        assert_eq!(output.take("a").text, "two\n");
        assert_eq!(output.take("a"), CapturedOutput::default());
    }

    #[tokio::test]
    async fn an_invocation_handed_over_twice_keeps_its_output() {
        let (output, mut function) = output(1000);
        output.handed_over("a");
        function.write_all(b"one\n").unwrap();
        output.handed_over("a");
        assert_eq!(output.take("a").text, "one\n");
    }

    #[tokio::test]
    async fn captures_that_nobody_takes_go_after_a_while() {
        let (output, mut function) = output(1000);
        for n in 0..=CAPTURES_KEPT_MAX {
            output.handed_over(&n.to_string());
            function.write_all(b"text").unwrap();
            output.answered(&n.to_string());
        }
        assert_eq!(output.take("0"), CapturedOutput::default());
        assert_eq!(output.take("1").text, "text");
    }

    #[tokio::test]
    async fn following_ends_with_the_last_writer() {
        let (output, mut function) = output(1000);
        output.handed_over("a");
        let writer = std::thread::spawn(move || {
            for _ in 0..100 {
                function.write_all(&[b'x'; 10_000]).unwrap();
            }
        });
        output.follow().await;
        writer.join().unwrap();
        let captured = output.take("a");
        assert_eq!(captured.dropped_bytes, 1_000_000 - 1000);
    }

    #[test]
    fn text_within_the_cap_is_whole() {
        assert_eq!(clipped(10, "0123456789").text, "0123456789");
        assert_eq!(clipped(9, "aaaaä").text, "aaaaä");
    }

    #[test]
    fn over_the_cap_head_and_tail_are_kept_and_the_rest_counted() {
        let captured = clipped(10, "0123456789abcdef");
        assert_eq!(captured.text, "01234\n[6 bytes of output were dropped here]\nbcdef");
        assert_eq!(captured.dropped_bytes, 6);
    }

    #[test]
    fn a_cap_of_nothing_keeps_nothing_and_counts_all() {
        assert_eq!(clipped(0, "text").dropped_bytes, 4);
    }

    #[test]
    fn pieces_come_to_the_same_as_the_whole() {
        let text: String = ('a'..='z').collect();
        for size in 1..=text.len() {
            let mut pieces = Clipped::head_and_tail(11);
            for piece in text.as_bytes().chunks(size) {
                pieces.append(piece);
            }
            assert_eq!(pieces.captured(), clipped(11, &text), "{size}");
        }
    }

    #[test]
    fn a_character_cut_by_the_cap_does_not_garble_the_tail() {
        let captured = clipped(6, "ääääää");
        assert!(captured.text.ends_with("]\nä"), "{}", captured.text);
    }
}
