//! What is seen while the demo runs: a bar for each of the larger tasks on a terminal, plain lines
//! anywhere else.

use std::{sync::Mutex, time::Duration};

use indicatif::ProgressBar;
use rhubarb::client::Update;
use rhubarb_core::row::State;
use tokio::time::Instant;

use super::play::lock;
use crate::{
    screen::{Screen, one_line},
    watch::{progress_style, show_progress, waiting_style},
};

/// Without a terminal, one task is told about this often at most while it runs.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The width of the column of titles.
const TITLE_WIDTH: usize = 28;

/// The view of a whole demo.
pub(super) struct View<'a> {
    screen: &'a Screen,
    began: Instant,
    bars: Mutex<Vec<ProgressBar>>,
}

/// The view of one task, or of all short ones.
pub(super) struct Row {
    screen: Screen,
    title: String,
    began: Instant,
    bar: Option<ProgressBar>,
    told: Mutex<Told>,
}

/// What was told last, and when.
#[derive(Default)]
struct Told {
    state: Option<State>,
    text: String,
    at: Option<Instant>,
}

impl<'a> View<'a> {
    pub(super) fn new(screen: &'a Screen) -> Self {
        Self { screen, began: Instant::now(), bars: Mutex::default() }
    }

    /// Says what comes now.
    pub(super) fn say(&self, text: &str) {
        self.screen.note(line(self.began, text, ""));
    }

    /// A row of its own.
    pub(super) fn row(&self, title: &str) -> Row {
        let bar = self.screen.draws().then(|| {
            let bar = self.screen.bars().add(ProgressBar::no_length());
            bar.set_style(waiting_style());
            bar.set_prefix(format!("{title:TITLE_WIDTH$}"));
            bar.set_message("queued");
            bar.enable_steady_tick(Duration::from_millis(100));
            lock(&self.bars).push(bar.clone());
            bar
        });
        Row { screen: self.screen.clone(), title: title.to_owned(), began: self.began, bar, told: Mutex::default() }
    }

    /// Takes the bars away; what they showed is in the report.
    pub(super) fn close(&self) {
        lock(&self.bars).drain(..).for_each(|bar| bar.finish_and_clear());
    }
}

impl Row {
    /// Shows how a task comes along.
    pub(super) fn update(&self, update: &Update) {
        let words = update.progress.as_ref().filter(|_| !update.state.is_settled()).map(show_progress);
        let words = words.unwrap_or_else(|| update.state.to_string());
        let Some(bar) = &self.bar else {
            let mut told = lock(&self.told);
            let news = told.state.replace(update.state) != Some(update.state);
            return self.tell(&mut told, &words, news);
        };
        match &update.progress {
            Some(progress) if !update.state.is_settled() => {
                bar.set_style(progress_style());
                bar.set_length(progress.total);
                bar.set_position(progress.done.min(progress.total));
                bar.set_message(progress.message.as_deref().map(one_line).unwrap_or_default());
            }
            _ => {
                bar.set_style(waiting_style());
                bar.set_message(words);
            }
        }
        if update.state.is_settled() {
            bar.disable_steady_tick();
        }
    }

    /// Shows some words.
    pub(super) fn say(&self, words: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(words.to_owned()),
            None => self.tell(&mut lock(&self.told), words, false),
        }
    }

    fn tell(&self, told: &mut Told, words: &str, news: bool) {
        let due = told.at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if words != told.text && (news || due) {
            self.screen.note(line(self.began, &self.title, words));
            words.clone_into(&mut told.text);
            told.at = Some(Instant::now());
        }
    }
}

fn line(began: Instant, title: &str, words: &str) -> String {
    format!("{:6.1}s  {title:TITLE_WIDTH$} {words}", began.elapsed().as_secs_f64()).trim_end().to_owned()
}
