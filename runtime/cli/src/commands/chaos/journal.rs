//! What the functions themselves say they did: a file that they only append to.
//!
//! Each line is one write to a file opened for appending, so that lines of many processes do not mix and a process
//! that is killed has either written its line or not. A line is `begin TASK RUN` or `end TASK RUN`, where RUN is drawn
//! anew for each run.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Write as _},
    path::Path,
};

const RUNS: &str = "runs";

/// The journal as a function writes it.
#[derive(Debug)]
pub(super) struct Journal(File);

impl Journal {
    /// Opens the journal in this folder.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(folder.join(RUNS)).map(Self)
    }

    /// Notes that a run of a task begins.
    pub(super) fn begin(&self, task: u64, run: u64) -> io::Result<()> {
        self.note("begin", task, run)
    }

    /// Notes that a run of a task has come to its end.
    pub(super) fn end(&self, task: u64, run: u64) -> io::Result<()> {
        self.note("end", task, run)
    }

    fn note(&self, what: &str, task: u64, run: u64) -> io::Result<()> {
        (&self.0).write_all(format!("{what} {task} {run:016x}\n").as_bytes())
    }
}

/// What ran, by task.
#[derive(Debug, Default)]
pub(super) struct Runs {
    begun: Vec<u32>,
    ended: Vec<Vec<u64>>,
}

impl Runs {
    /// Reads the journal of so many tasks.
    pub(super) fn read(folder: &Path, tasks: u64) -> io::Result<Self> {
        match File::open(folder.join(RUNS)) {
            Ok(file) => Self::of(BufReader::new(file), tasks),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::of(io::empty(), tasks),
            Err(error) => Err(error),
        }
    }

    pub(super) fn of(text: impl io::BufRead, tasks: u64) -> io::Result<Self> {
        let tasks = usize::try_from(tasks).map_err(io::Error::other)?;
        let mut runs = Self { begun: vec![0; tasks], ended: vec![Vec::new(); tasks] };
        for line in text.lines() {
            let line = line?;
            let noted = runs.note(&line);
            noted.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("`{line}` is no line of it")))?;
        }
        Ok(runs)
    }

    fn note(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let (what, task, run) = (words.next()?, words.next()?, words.next()?);
        let (task, run) = (task.parse::<usize>().ok()?, u64::from_str_radix(run, 16).ok()?);
        match what {
            "begin" => *self.begun.get_mut(task)? += 1,
            "end" => self.ended.get_mut(task)?.push(run),
            _ => return None,
        }
        Some(())
    }

    /// How often each task was begun.
    pub(super) fn begun(&self) -> &[u32] {
        &self.begun
    }

    /// True if this run of this task came to its end.
    pub(super) fn has_ended(&self, task: u64, run: u64) -> bool {
        let ended = usize::try_from(task).ok().and_then(|task| self.ended.get(task));
        ended.is_some_and(|ended| ended.contains(&run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_function_writes_the_judge_reads() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.begin(1, u64::MAX).unwrap();
        Journal::open(folder.path()).unwrap().begin(1, 7).unwrap();
        journal.end(1, u64::MAX).unwrap();
        let runs = Runs::read(folder.path(), 2).unwrap();
        assert_eq!(runs.begun(), [0, 2]);
        assert!(runs.has_ended(1, u64::MAX) && !runs.has_ended(1, 7) && !runs.has_ended(0, 7));
    }

    #[test]
    fn a_journal_that_is_no_journal_is_no_evidence() {
        for line in ["begin 0", "begin x 1", "begin 9 1", "ended 0 1"] {
            assert!(Runs::of(line.as_bytes(), 2).is_err(), "{line}");
        }
        assert_eq!(Runs::of(io::empty(), 2).unwrap().begun(), [0, 0]);
    }
}
