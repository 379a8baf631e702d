//! The verdict: what the functions say they ran, against what the rows say was committed.

use std::{collections::BTreeMap, time::Duration};

use rhubarb_core::row::State;
use serde::Serialize;

use super::{
    faults::{Counts, Disturbed},
    journal::Runs,
    look::{READ_MAX, Settled, Watch},
    stage::Stage,
};
use crate::{
    exit::{CliError, Result},
    session::Session,
};

/// Tasks that are named where something is wrong with them.
const NAMED_MAX: usize = 10;

/// What became of all tasks.
#[derive(Debug, Default, Serialize)]
pub(super) struct Verdict {
    tasks: u64,
    /// Accepted, and not settled at the end; or committed as succeeded by a run that the functions know nothing of.
    lost: u64,
    /// Settled, and later settled otherwise; or more than one attempt that succeeded.
    committed_twice: u64,
    /// Settled as something else than succeeded: no task does that by itself.
    failed: u64,
    /// How often tasks were begun in all.
    runs: u64,
    /// How many tasks were begun so often.
    runs_per_task: BTreeMap<u32, u64>,
    /// Tasks that were seen settled during the run, and were looked at again at the end.
    looked_at_twice: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<String>,
}

impl Verdict {
    /// Reads the journal and all rows.
    pub(super) async fn reach(stage: &Stage, tasks: u64, watch: &Watch) -> Result<Self> {
        let runs = Runs::read(&stage.folder, tasks).map_err(|error| CliError::io("read the journal", &error))?;
        let mut verdict = Self::of(&runs);
        let numbers: Vec<u64> = (0..tasks).collect();
        for some in numbers.chunks(READ_MAX) {
            let ids: Vec<_> = some.iter().map(|number| stage.id(*number)).collect();
            let found = stage.eyes.tasks().read(&ids).await?;
            for ((number, id), detail) in some.iter().zip(ids).zip(found) {
                let last = detail.as_ref().and_then(Settled::of);
                if let Some(what) = verdict.judge(*number, watch.settled(*number), last, &runs)
                    && verdict.wrong.len() < NAMED_MAX
                {
                    verdict.wrong.push(format!("task {id}: {what}"));
                }
            }
        }
        Ok(verdict)
    }

    fn of(runs: &Runs) -> Self {
        let mut verdict = Self { tasks: runs.begun().len() as u64, ..Self::default() };
        for begun in runs.begun() {
            verdict.runs += u64::from(*begun);
            *verdict.runs_per_task.entry(*begun).or_default() += 1;
        }
        verdict
    }

    /// Judges one task: how it was first seen settled, and how it is at the end. Says what is wrong.
    fn judge(&mut self, number: u64, first: Option<Settled>, last: Option<Settled>, runs: &Runs) -> Option<String> {
        let Some(last) = last else {
            self.lost += 1;
            return Some("it is not settled".to_owned());
        };
        if let Some(first) = first {
            self.looked_at_twice += 1;
            if first != last {
                self.committed_twice += 1;
                return Some(format!("it was settled as {first:?} and is {last:?} now"));
            }
        }
        if last.commits > 1 {
            self.committed_twice += 1;
            return Some(format!("{} attempts succeeded", last.commits));
        }
        if last.state != State::Succeeded {
            self.failed += 1;
            return Some(format!("it is {}", last.state));
        }
        if !last.run.is_some_and(|run| runs.has_ended(number, run)) {
            self.lost += 1;
            return Some("it is succeeded by a run that no function has ended".to_owned());
        }
        None
    }

    fn is_good(&self) -> bool {
        self.lost + self.committed_twice + self.failed == 0
    }
}

/// What is told at the end.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    place: &'static str,
    seconds: f64,
    faults: Counts,
    requests_disturbed: u64,
    #[serde(flatten)]
    verdict: Verdict,
}

impl Report {
    pub(super) fn new(stage: &Stage, took: Duration, disturbed: &Disturbed, verdict: Verdict) -> Self {
        Self {
            seed: stage.seed,
            place: stage.place(),
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
            faults: disturbed.counts(),
            requests_disturbed: stage.wronged(),
            verdict,
        }
    }

    pub(super) fn show(&self, session: &Session) -> Result<()> {
        if session.screen.json() {
            return session.screen.document(self);
        }
        let Verdict { tasks, runs, runs_per_task, lost, committed_twice, failed, looked_at_twice, wrong } =
            &self.verdict;
        let once = runs_per_task.get(&1).copied().unwrap_or(0);
        let twice = runs_per_task.get(&2).copied().unwrap_or(0);
        let more: u64 = runs_per_task.range(3..).map(|(_, tasks)| tasks).sum();
        let most = runs_per_task.keys().next_back().copied().unwrap_or(0);
        let mut lines = vec![
            format!("tasks            {tasks} over {} in {} s, seed {}", self.place, self.seconds, self.seed),
            format!("went wrong       {}", self.faults),
        ];
        if self.requests_disturbed > 0 {
            lines.push(format!(
                "                 {} requests lost, repeated, delayed or refused",
                self.requests_disturbed
            ));
        }
        lines.extend([
            format!(
                "runs             {runs}, by the functions' own journal: {once} tasks once, {twice} twice, {more} more often (at most {most} times)"
            ),
            format!("lost             {lost}"),
            format!("committed twice  {committed_twice} ({looked_at_twice} tasks were looked at again after they had settled)"),
        ]);
        if *failed > 0 {
            lines.push(format!("failed           {failed}"));
        }
        lines.extend(wrong.iter().cloned());
        session.screen.line(lines.join("\n"))
    }

    pub(super) fn verdict(&self) -> Result<()> {
        let Verdict { lost, committed_twice, failed, .. } = self.verdict;
        if self.verdict.is_good() {
            return Ok(());
        }
        Err(CliError::Task(format!(
            "{lost} tasks lost, {committed_twice} committed twice, {failed} failed (seed {})",
            self.seed
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Settled = Settled { state: State::Succeeded, run: Some(0xa), commits: 1 };

    fn judged(first: Option<Settled>, last: Option<Settled>) -> (u64, u64, u64) {
        let runs = Runs::of("begin 0 a\nend 0 a\nbegin 0 b\nend 0 b\nbegin 0 c\n".as_bytes(), 1).unwrap();
        let mut verdict = Verdict::of(&runs);
        let wrong = verdict.judge(0, first, last, &runs);
        assert_eq!(wrong.is_none(), verdict.is_good());
        assert_eq!((verdict.runs, verdict.runs_per_task), (3, BTreeMap::from([(3, 1)])));
        (verdict.lost, verdict.committed_twice, verdict.failed)
    }

    #[test]
    fn a_task_that_ran_often_and_was_committed_once_is_well() {
        assert_eq!(judged(None, Some(DONE)), (0, 0, 0));
        assert_eq!(judged(Some(DONE), Some(DONE)), (0, 0, 0));
    }

    #[test]
    fn a_task_that_is_gone_or_open_is_lost() {
        assert_eq!(judged(None, None), (1, 0, 0));
    }

    #[test]
    fn a_commit_of_a_run_that_never_ended_is_no_commit() {
        assert_eq!(judged(None, Some(Settled { run: Some(0xc), ..DONE })), (1, 0, 0));
        assert_eq!(judged(None, Some(Settled { run: None, ..DONE })), (1, 0, 0));
    }

    #[test]
    fn another_run_s_output_in_place_of_the_first_is_a_second_commit() {
        assert_eq!(judged(Some(DONE), Some(Settled { run: Some(0xb), ..DONE })), (0, 1, 0));
        assert_eq!(judged(None, Some(Settled { commits: 2, ..DONE })), (0, 1, 0));
    }

    #[test]
    fn a_task_that_failed_did_not_do_so_by_itself() {
        assert_eq!(judged(None, Some(Settled { state: State::Failed, run: None, commits: 0 })), (0, 0, 1));
    }
}
