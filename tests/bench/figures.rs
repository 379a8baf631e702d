//! What was measured, printed as one table.

use std::time::Duration;

/// Figures in the order in which they were taken.
#[derive(Default)]
pub(crate) struct Figures(Vec<(String, f64, &'static str)>);

impl Figures {
    /// Notes a figure with its unit, and says so at once: a long run shows where it is.
    pub(crate) fn add(&mut self, what: &str, value: f64, unit: &'static str) {
        eprintln!("{what}: {value:.2} {unit}");
        self.0.push((what.to_owned(), value, unit));
    }

    /// Notes so many things in so much time.
    pub(crate) fn rate(&mut self, what: &str, count: u64, time: Duration) {
        self.add(what, count as f64 / time.as_secs_f64(), "tasks/s");
    }

    /// Prints all as a table.
    pub(crate) fn print(&self) {
        println!("| what | figure | unit |\n|---|---|---|");
        for (what, value, unit) in &self.0 {
            println!("| {} | {value:.2} | {unit} |", what.trim());
        }
    }
}

/// The value below which this part of the times lies.
pub(crate) fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let index = ((times.len() as f64) * part) as usize;
    times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}
