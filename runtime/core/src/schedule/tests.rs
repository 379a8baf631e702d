//! Ticks by rules, zones and changes of clocks: by example, and against a search of every minute.

use std::time::Duration;

use jiff::civil::DateTime;
use proptest::prelude::*;

use super::*;
use crate::{
    config::{CatchUp, Definition, ScheduleConfig},
    ids::ScheduleName,
    time::Timestamp,
};

const HOUR: i64 = 60 * 60 * 1000;
const MINUTE: i64 = 60 * 1000;

fn schedule(change: impl FnOnce(&mut Definition)) -> ScheduleConfig {
    let mut definition = Definition { task: "t".into(), ..Definition::default() };
    change(&mut definition);
    definition.read(ScheduleName::new("nightly").unwrap()).unwrap()
}

fn rule(change: impl FnOnce(&mut Definition)) -> Rule {
    Rule::new(&schedule(change), Timestamp(0)).unwrap()
}

fn cron(text: &str, zone: &str) -> Rule {
    rule(|it| (it.cron, it.timezone) = (Some(text.into()), Some(zone.into())))
}

fn rate(text: &str) -> Rule {
    rule(|it| it.rate = Some(text.into()))
}

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

fn ticks(rule: &Rule, from: &str, count: usize) -> Vec<String> {
    let mut after = at(from);
    let next = || {
        after = rule.next(after)?;
        Some(after.to_string())
    };
    std::iter::from_fn(next).take(count).collect()
}

#[test]
fn a_rate_counts_from_where_the_schedule_began_or_from_its_start() {
    let began = Rule::new(&schedule(|it| it.rate = Some("90 seconds".into())), Timestamp(5_000)).unwrap();
    assert_eq!(began.next(Timestamp(0)), Some(Timestamp(5_000)), "at once");
    assert_eq!(began.next(Timestamp(5_000)), Some(Timestamp(95_000)));
    assert_eq!(began.next(Timestamp(94_999)), Some(Timestamp(95_000)));
    let started = rule(|it| {
        it.rate = Some("1 hour".into());
        it.start = Some("2027-01-01T00:30:00".into());
    });
    assert_eq!(ticks(&started, "2026-01-01T00:00:00Z", 2), ["2027-01-01T00:30:00Z", "2027-01-01T01:30:00Z"]);
}

#[test]
fn a_day_of_a_rate_has_24_hours_also_where_clocks_change() {
    let daily = rule(|it| {
        (it.rate, it.timezone) = (Some("24h".into()), Some("Europe/Berlin".into()));
        it.start = Some("2027-03-27T12:00:00".into());
    });
    assert_eq!(
        ticks(&daily, "2027-01-01T00:00:00Z", 3),
        ["2027-03-27T11:00:00Z", "2027-03-28T11:00:00Z", "2027-03-29T11:00:00Z"]
    );
}

#[test]
fn a_local_time_that_does_not_exist_is_left_out() {
    for (zone, text, from, expected) in [
        // Clocks go from 02:00 to 03:00 on 28 March 2027.
        ("Europe/Berlin", "30 2 * * ? *", "2027-03-27T00:00:00Z", ["2027-03-27T01:30:00Z", "2027-03-29T00:30:00Z"]),
        // From 02:00 to 03:00 on 14 March 2027.
        ("America/New_York", "0 2 * * ? *", "2027-03-13T00:00:00Z", ["2027-03-13T07:00:00Z", "2027-03-15T06:00:00Z"]),
        // From 02:00 to 02:30 on 3 October 2027: half an hour.
        (
            "Australia/Lord_Howe",
            "15 2 * * ? *",
            "2027-10-01T12:00:00Z",
            ["2027-10-01T15:45:00Z", "2027-10-03T15:15:00Z"],
        ),
    ] {
        assert_eq!(ticks(&cron(text, zone), from, 2), expected, "{zone}");
    }
    let every = ticks(&cron("*/30 * * * ? *", "Europe/Berlin"), "2027-03-28T00:29:00Z", 3);
    assert_eq!(every, ["2027-03-28T00:30:00Z", "2027-03-28T01:00:00Z", "2027-03-28T01:30:00Z"]);
}

#[test]
fn a_local_time_that_comes_twice_fires_once_at_the_first() {
    for (zone, text, from, expected) in [
        // Clocks go from 03:00 back to 02:00 on 31 October 2027.
        ("Europe/Berlin", "30 2 * * ? *", "2027-10-30T12:00:00Z", ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]),
        // From 02:00 back to 01:00 on 7 November 2027.
        ("America/New_York", "0 1 * * ? *", "2027-11-06T12:00:00Z", ["2027-11-07T05:00:00Z", "2027-11-08T06:00:00Z"]),
        // From 02:00 back to 01:30 on 4 April 2027: half an hour.
        (
            "Australia/Lord_Howe",
            "45 1 * * ? *",
            "2027-04-02T20:00:00Z",
            ["2027-04-03T14:45:00Z", "2027-04-04T15:15:00Z"],
        ),
    ] {
        assert_eq!(ticks(&cron(text, zone), from, 2), expected, "{zone}");
    }
    let every = ticks(&cron("0 * * * ? *", "Europe/Berlin"), "2027-10-30T23:30:00Z", 3);
    assert_eq!(every, ["2027-10-31T00:00:00Z", "2027-10-31T02:00:00Z", "2027-10-31T03:00:00Z"], "02:00 comes twice");
    let inside = cron("*/20 * * * ? *", "Europe/Berlin").next(at("2027-10-31T01:10:00Z"));
    assert_eq!(inside, Some(at("2027-10-31T02:00:00Z")), "asked in the second of the two hours");
}

#[test]
fn a_schedule_that_fires_once_has_one_tick_at_its_local_time() {
    let once = rule(|it| (it.at, it.timezone) = (Some("2027-10-31T02:30:00".into()), Some("Europe/Berlin".into())));
    assert_eq!(ticks(&once, "2027-01-01T00:00:00Z", 3), ["2027-10-31T00:30:00Z"]);
    let gap = schedule(|it| (it.at, it.timezone) = (Some("2027-03-28T02:30".into()), Some("Europe/Berlin".into())));
    let unfit = Rule::new(&gap, Timestamp(0)).unwrap_err();
    assert!(unfit.key == "at" && unfit.what.contains("clocks go forward"), "{unfit}");
}

#[test]
fn nothing_fires_before_start_or_after_end() {
    let bounded = rule(|it| {
        (it.cron, it.timezone) = (Some("0 12 * * ? *".into()), Some("Asia/Tokyo".into()));
        it.start = Some("2027-01-02T12:00:00".into());
        it.end = Some("2027-01-04T12:00:00".into());
    });
    let expected = ["2027-01-02T03:00:00Z", "2027-01-03T03:00:00Z", "2027-01-04T03:00:00Z"];
    assert_eq!(ticks(&bounded, "2026-01-01T00:00:00Z", 9), expected, "both count");
}

#[test]
fn the_window_is_kept_and_is_the_same_for_everybody() {
    let jitter = rule(|it| (it.rate, it.jitter) = (Some("1m".into()), Some("10m".into())));
    let same = rule(|it| (it.rate, it.jitter) = (Some("1m".into()), Some("10m".into())));
    let mut seen = std::collections::BTreeSet::new();
    for tick in (0..1000).map(|minute| Timestamp(minute * MINUTE)) {
        let late = jitter.due(tick).since(tick);
        assert!(late < Duration::from_secs(600) && jitter.due(tick) == same.due(tick));
        seen.insert(late.as_secs() / 60);
    }
    assert_eq!(seen.len(), 10, "every minute of the window is used");
    assert_eq!(rate("1m").due(Timestamp(MINUTE)), Timestamp(MINUTE));
}

#[test]
fn an_unknown_zone_gets_the_nearest_name() {
    for (name, fix) in
        [("Europe/Berlni", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("", "e.g."), ("../etc", "e.g.")]
    {
        let unfit = Zone::named(name).unwrap_err();
        assert!(unfit.key == "timezone" && unfit.fix.contains(fix), "{name:?}: {unfit}");
    }
    assert!(Zone::named("UTC").is_ok());
}

fn position(passed: i64) -> Position {
    Position { passed: Timestamp(passed), resumed: None }
}

fn fired(round: &Round) -> Vec<i64> {
    round.fire.iter().map(|tick| tick.0 / MINUTE).collect()
}

#[test]
fn a_tick_fires_when_it_is_due_and_the_next_is_waited_for() {
    let rule = rate("1m");
    let early = rule.round(position(0), CatchUp::One, Timestamp(MINUTE - 1), 9);
    assert_eq!((early.fire.len(), early.passed, early.wake), (0, None, Some(Timestamp(MINUTE))));
    let due = rule.round(position(0), CatchUp::None, Timestamp(MINUTE), 9);
    assert_eq!(fired(&due), [1]);
    assert_eq!((due.passed, due.wake), (Some(Timestamp(MINUTE)), Some(Timestamp(2 * MINUTE))));
}

#[test]
fn ticks_that_are_a_minute_late_are_all_fired_whatever_the_rule() {
    let rule = rate("10s");
    for catch_up in [CatchUp::None, CatchUp::One, CatchUp::All] {
        let round = rule.round(position(0), catch_up, Timestamp(65_000), 99);
        assert_eq!(round.fire.len(), 6, "{catch_up}");
        assert!(!round.left_out);
    }
}

#[test]
fn after_an_hour_without_anybody_the_rule_decides() {
    let rule = rate("1m");
    let now = Timestamp(HOUR + 30_000);
    for (catch_up, expected, left_out) in
        [(CatchUp::None, vec![], true), (CatchUp::One, vec![60], true), (CatchUp::All, (1..=60).collect(), false)]
    {
        let round = rule.round(position(0), catch_up, now, 99);
        assert_eq!((fired(&round), round.left_out), (expected, left_out), "{catch_up}");
        assert_eq!(round.wake, Some(Timestamp(61 * MINUTE)), "{catch_up}");
    }
}

#[test]
fn what_a_pause_held_back_was_missed_however_short_it_was() {
    let rule = rate("10s");
    let position = Position { passed: Timestamp(0), resumed: Some(Timestamp(35_000)) };
    for (catch_up, count) in [(CatchUp::None, 1), (CatchUp::One, 2), (CatchUp::All, 4)] {
        // The fourth was due after the pause.
        assert_eq!(rule.round(position, catch_up, Timestamp(40_000), 99).fire.len(), count, "{catch_up}");
    }
}

#[test]
fn many_missed_ticks_are_made_up_for_in_steps_that_lose_none() {
    let rule = rate("1s");
    let (now, mut position, mut all) = (Timestamp(HOUR), position(0), Vec::new());
    loop {
        let round = rule.round(position, CatchUp::All, now, 1000);
        assert!(round.fire.len() <= 1000);
        let Some(passed) = round.passed else { break };
        all.extend(round.fire);
        position.passed = passed;
    }
    assert_eq!(all, (1..=3600).map(|second| Timestamp(second * 1000)).collect::<Vec<_>>());
}

#[test]
fn a_tick_whose_window_is_open_was_not_missed() {
    let rule = rule(|it| (it.rate, it.jitter) = (Some("1h".into()), Some("30m".into())));
    let tick = Timestamp(HOUR);
    let due = rule.due(tick);
    let before = rule.round(position(0), CatchUp::None, Timestamp(due.0 - 1), 9);
    assert_eq!((before.fire.len(), before.wake), (0, Some(due)));
    assert_eq!(rule.round(position(0), CatchUp::None, due, 9).fire, [tick]);
}

#[test]
fn one_that_fires_once_is_made_up_for_by_its_rule() {
    let once = rule(|it| it.at = Some("2027-01-01T00:00:00".into()));
    let now = at("2027-01-02T00:00:00Z");
    assert_eq!(once.round(position(0), CatchUp::One, now, 9).fire, [at("2027-01-01T00:00:00Z")]);
    let none = once.round(position(0), CatchUp::None, now, 9);
    assert_eq!((none.fire.len(), none.left_out, none.wake), (0, true, None));
}

#[test]
fn a_tick_is_named_by_its_schedule_and_its_time() {
    let name = ScheduleName::new("nightly").unwrap();
    let tick = at("2027-01-01T00:00:00Z");
    assert_eq!(key(&name, tick), "schedule/nightly/2027-01-01T00:00:00Z");
    let named = Tick { schedule: name.clone(), at: tick };
    assert_eq!(named.task("shop"), named.clone().task("shop"));
    assert_ne!(named.task("shop"), named.task("other"));
    assert_ne!(named.task("shop"), Tick { schedule: name, at: Timestamp(0) }.task("shop"));
}

#[test]
fn a_definition_is_what_the_file_says_and_reads_back() {
    let full = Definition {
        cron: Some("0 3 ? * 2-6 *".into()),
        timezone: Some("Europe/Berlin".into()),
        start: Some("2027-01-01T00:00:00".into()),
        jitter: Some("5m".into()),
        task: "t".into(),
        queue: Some("q".into()),
        overlap: Some("skip".into()),
        catch_up: Some("all".into()),
        enabled: Some(false),
        args: serde_json::json!({"deep": [1, null]}).as_object().cloned().unwrap(),
        ..Definition::default()
    };
    let name = ScheduleName::new("s").unwrap();
    let read = full.read(name.clone()).unwrap();
    assert_eq!(Definition::from(&read), full);
    assert_eq!(Definition::of_value(&full.to_value()).unwrap(), full);
    for (change, key) in [
        ((|it| it.cron = None) as fn(&mut Definition), "rate"),
        (|it| it.rate = Some("1m".into()), "rate"),
        (|it| (it.cron, it.rate) = (None, Some("0s".into())), "rate"),
        (|it| (it.cron, it.rate) = (None, Some("1500ms".into())), "rate"),
        (|it| (it.cron, it.at) = (None, Some("tomorrow".into())), "at"),
        (|it| it.timezone = Some("Mars/Base".into()), "timezone"),
        (|it| it.jitter = Some("25h".into()), "jitter"),
        (|it| it.task = "no name".into(), "task"),
        (|it| it.queue = Some("no queue".into()), "queue"),
        (|it| it.overlap = Some("maybe".into()), "overlap"),
        (|it| it.catch_up = Some("two".into()), "catch_up"),
        (|it| it.args = serde_json::json!({"x": "x".repeat(262_144)}).as_object().cloned().unwrap(), "args"),
    ] {
        let mut changed = full.clone();
        change(&mut changed);
        assert_eq!(changed.read(name.clone()).unwrap_err().key, key);
    }
}

/// Every minute of some days, by its instant: named if its local time matches and came for the first time.
fn minute_by_minute(zone: &str, minute: impl Fn(DateTime) -> bool, from: Timestamp, days: i64) -> Vec<Timestamp> {
    let zone = Zone::named(zone).unwrap();
    let mut found = Vec::new();
    let mut latest = DateTime::MIN;
    // Two hours before the window, so that what came first is known.
    for number in -120..days * 24 * 60 {
        let at = Timestamp(from.0 + number * MINUTE);
        let local = zone.local(at);
        if local > latest {
            latest = local;
            if number >= 0 && minute(local) {
                found.push(at);
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn around_both_changes_of_the_year_ticks_are_those_of_a_search_of_every_minute(
        zone in proptest::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
        year in 2024_i64..2032,
        change in 0..2,
        hour in 0..5_i8,
        every in 1..31_i8,
    ) {
        // Each zone's two changes lie within these weeks.
        let month = match (zone, change) {
            ("Europe/Berlin", 0) => "03-25", ("Europe/Berlin", _) => "10-25",
            ("America/New_York", 0) => "03-07", ("America/New_York", _) => "11-01",
            (_, 0) => "04-01", _ => "10-01",
        };
        let from = at(&format!("{year}-{month}T00:00:00Z"));
        let rule = cron(&format!("*/{every} {hour}-{} * * ? *", hour + 2), zone);
        let matches = |local: DateTime| local.minute() % every == 0 && (hour..=hour + 2).contains(&local.hour());
        let expected = minute_by_minute(zone, matches, from, 8);
        let mut after = Timestamp(from.0 - 1);
        for tick in expected {
            prop_assert_eq!(rule.next(after), Some(tick), "{} {}", zone, tick);
            after = tick;
        }
    }

    #[test]
    fn the_last_tick_is_the_last_of_all_that_follow(every in 1..200_i64, until in 0..100_000_i64) {
        let rule = rate(&format!("{every}s"));
        let mut expected = None;
        let mut after = Timestamp(0);
        while let Some(tick) = rule.next(after).filter(|tick| tick.0 <= until) {
            (expected, after) = (Some(tick), tick);
        }
        prop_assert_eq!(rule.last(Timestamp(0), Timestamp(until)), expected);
    }

    /// However often and whenever it is looked at, each tick is fired once or left out, and none is lost.
    #[test]
    fn rounds_at_any_moments_fire_each_tick_once(
        every in 1..120_i64, jitter in 0..300_u64, steps in proptest::collection::vec(1..200_000_i64, 1..40), max in 1..5_usize,
    ) {
        let rule = rule(|it| (it.rate, it.jitter) = (Some(format!("{every}s")), Some(format!("{jitter}s"))));
        let (mut now, mut position, mut fired) = (0, position(0), Vec::new());
        for step in steps {
            now += step;
            loop {
                let round = rule.round(position, CatchUp::All, Timestamp(now), max);
                fired.extend(round.fire);
                let Some(passed) = round.passed else {
                    prop_assert!(round.wake.is_some_and(|wake| wake.0 > now));
                    break;
                };
                position.passed = passed;
            }
        }
        let due: Vec<Timestamp> = (1..).map(|count| Timestamp(count * every * 1000)).take_while(|tick| rule.due(*tick).0 <= now).collect();
        prop_assert!(fired.len() >= due.len());
        prop_assert_eq!(&fired[..due.len()], &due[..]);
    }
}
