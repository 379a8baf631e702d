//! Watches one task until it is settled, and shows how it comes along: a bar on a terminal, plain lines
//! anywhere else. Watching changes nothing: whoever stops watching leaves the task as it is.

use std::time::Duration;

use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use rhubarb::{Client, client::Update};
use rhubarb_core::{backend::Progress, ids::TaskId, row::State};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    exit::Result,
    screen::{Screen, one_line},
};

/// How often is asked why a task does not start.
const ASK_WHY: Duration = Duration::from_secs(1);
/// Without a terminal, progress is told this often at most.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Watches a task until it is settled. Returns the state that it is settled in.
pub(crate) async fn follow(client: &Client, id: TaskId, screen: &Screen) -> Result<State> {
    let mut view = View::new(id, screen);
    let mut updates = std::pin::pin!(client.progress(id));
    let mut ticks = interval(ASK_WHY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now, when the task has only just been enqueued.
    ticks.tick().await;
    let mut state = State::Queued;
    loop {
        tokio::select! {
            update = updates.next() => match update {
                Some(update) => {
                    let update = update?;
                    state = update.state;
                    view.update(&update);
                }
                None => break,
            },
            _ = ticks.tick(), if state != State::Running => {
                if let Some(reason) = client.why_waiting(id).await? {
                    view.waits(&format!("waiting: {reason}"));
                }
            }
        }
    }
    view.end();
    Ok(state)
}

/// What is shown of one task.
struct View<'a> {
    id: TaskId,
    screen: &'a Screen,
    bar: Option<ProgressBar>,
    told: String,
    told_at: Option<Instant>,
    shown: Option<(State, u32)>,
}

impl<'a> View<'a> {
    fn new(id: TaskId, screen: &'a Screen) -> Self {
        let bar = screen.draws().then(|| {
            let bar = screen.bars().add(ProgressBar::no_length());
            bar.set_style(waiting_style());
            bar.set_prefix("task");
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { id, screen, bar, told: String::new(), told_at: None, shown: None }
    }

    fn update(&mut self, update: &Update) {
        let (state, attempt) = (update.state, update.attempt);
        let changed = self.shown.replace((state, attempt)) != Some((state, attempt));
        let words = if attempt > 1 { format!("{state}, attempt {attempt}") } else { state.to_string() };
        match &self.bar {
            Some(bar) => draw(bar, &words, update.progress.as_ref()),
            None if changed => self.tell(words),
            None => {}
        }
        if let (None, Some(progress)) = (&self.bar, &update.progress) {
            let is_last = progress.done >= progress.total;
            if is_last || self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                self.told_at = Some(Instant::now());
                self.tell(show_progress(progress));
            }
        }
    }

    fn waits(&mut self, reason: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(reason.to_owned()),
            None => self.tell(reason.to_owned()),
        }
    }

    fn tell(&mut self, words: String) {
        if words != self.told {
            self.screen.note(format!("{} {words}", self.id));
            self.told = words;
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, words: &str, progress: Option<&Progress>) {
    let Some(progress) = progress else {
        bar.set_style(waiting_style());
        return bar.set_message(words.to_owned());
    };
    bar.set_style(progress_style());
    bar.set_length(progress.total);
    bar.set_position(progress.done.min(progress.total));
    bar.set_message(progress.message.as_deref().map(one_line).unwrap_or_default());
}

/// A bar whose length is not known yet.
pub(crate) fn waiting_style() -> ProgressStyle {
    style("{prefix} {spinner} {msg}")
}

/// A bar of so many steps.
pub(crate) fn progress_style() -> ProgressStyle {
    style("{prefix} {bar:30} {pos}/{len} {msg}")
}

/// A template of this crate's own: one that is wrong shows the plain bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Progress in words: `12/40 loss 0.25`.
pub(crate) fn show_progress(progress: &Progress) -> String {
    let message = progress.message.as_deref().map(one_line).unwrap_or_default();
    format!("{}/{} {message}", progress.done, progress.total).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_one_clean_line() {
        let progress = Progress { done: 3, total: 40, message: Some("loss\n0.2\x1b[2J".into()) };
        assert_eq!(show_progress(&progress), "3/40 loss 0.2");
        assert_eq!(show_progress(&Progress { message: None, ..progress }), "3/40");
    }
}
