//! Our cron against Python's croniter, where the dialects agree: five fields of which one names no day, in UTC.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use rhubarb_core::{
    schedule::{Cron, Zone},
    time::Timestamp,
};

const EXPRESSIONS: usize = 1_000;

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn field(&mut self, least: u64, most: u64) -> String {
        let (first, second) = (self.part(least, most), self.part(least, most));
        if self.below(4) == 0 { format!("{first},{second}") } else { first }
    }

    fn part(&mut self, least: u64, most: u64) -> String {
        let (a, b) = (least + self.below(most - least + 1), least + self.below(most - least + 1));
        let (a, b, step) = (a.min(b), a.max(b), 1 + self.below(most - least));
        match self.below(6) {
            0 => "*".to_owned(),
            1 => format!("*/{step}"),
            2 if a < b => format!("{a}-{b}"),
            3 if a < b => format!("{a}-{b}/{step}"),
            _ => a.to_string(),
        }
    }

    fn expression(&mut self) -> String {
        let (minutes, hours, month) = (self.field(0, 59), self.field(0, 23), self.field(1, 12));
        let (day, weekday) = match self.below(3) {
            0 => ("*".to_owned(), self.field(0, 6)),
            1 => (self.field(1, 31), "*".to_owned()),
            _ => ("*".to_owned(), "*".to_owned()),
        };
        format!("{minutes} {hours} {day} {month} {weekday}")
    }
}

fn ticks(expression: &str, start: i64) -> Option<Vec<i64>> {
    let cron = Cron::parse(expression).ok()?;
    let utc = Zone::named("UTC").unwrap();
    let mut local = utc.local(Timestamp(start * 1000));
    let next = || {
        local = cron.next(local)?;
        Some(utc.instant(local)?.as_millis() / 1000)
    };
    Some(std::iter::from_fn(next).take(5).collect())
}

#[test]
fn a_thousand_expressions_fire_when_croniter_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = folder.join("../../.venv/bin/python");
    if !python.exists() {
        println!("skipped: there is no .venv with croniter; tests/run makes it");
        return;
    }
    let mut random = Random(42);
    // Starts within thirty years, leap days among them.
    let mut asked: Vec<(String, i64)> = Vec::with_capacity(EXPRESSIONS);
    while asked.len() < EXPRESSIONS {
        let expression = random.expression();
        let start = 1_600_000_000 + i64::try_from(random.below(946_080_000)).unwrap();
        asked.push((expression, start));
    }
    let mut child = Command::new(python)
        .arg(folder.join("tests/cron_peer.py"))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(&asked).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let expected: Vec<Option<Vec<i64>>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(expected.len(), EXPRESSIONS);
    let named = expected.iter().flatten().count();
    assert!(named > EXPRESSIONS * 9 / 10, "most name days that come: {named}");
    for ((expression, start), expected) in asked.iter().zip(expected) {
        assert_eq!(ticks(expression, *start), expected, "{expression} from {start}");
    }
}
