//! Schedules with real agents: what is killed, what runs long, what overlaps.

use std::collections::BTreeMap;

use rhubarb::{
    Client,
    core::{
        backend::{Filter, TaskDetail},
        config::Definition,
        ids::{ScheduleName, TaskId},
        row::State,
        time::Timestamp,
    },
};
use rhubarb_tests::{App, enqueue, reached, until};
use serde_json::json;

const WORKERS: &str = r#"
[queues.work]
lease = "{lease}"
[workers.all]
queues = ["work"]
concurrency = 2
grace = "100ms"
"#;

fn every_second(task: &str) -> Definition {
    let (rate, queue) = (Some("1s".into()), Some("work".into()));
    Definition { rate, queue, task: task.into(), ..Definition::default() }
}

pub(crate) fn name(text: &str) -> ScheduleName {
    text.parse().unwrap()
}

/// The tasks of a schedule, by their ticks.
pub(crate) async fn tasks_of(client: &Client, schedule: &ScheduleName) -> BTreeMap<Timestamp, Vec<TaskDetail>> {
    let mut ticks: BTreeMap<Timestamp, Vec<TaskDetail>> = BTreeMap::new();
    let mut filter = Filter { limit: 1000, ..Filter::default() };
    loop {
        let page = client.tasks(&filter).await.unwrap();
        for record in page.items {
            let detail = client.task(record.id).await.unwrap();
            let spec = detail.spec.clone().unwrap();
            if let Some(tick) = spec.tick.filter(|_| spec.schedule.as_ref() == Some(schedule)) {
                ticks.entry(tick).or_default().push(detail);
            }
        }
        match page.next {
            Some(next) => filter.cursor = Some(next),
            None => return ticks,
        }
    }
}

pub(crate) async fn until_ticks(
    client: &Client,
    schedule: &ScheduleName,
    count: usize,
) -> BTreeMap<Timestamp, Vec<TaskDetail>> {
    until(async || Some(tasks_of(client, schedule).await).filter(|ticks| ticks.len() >= count)).await
}

#[tokio::test]
async fn each_tick_fires_once_with_three_agents_of_which_the_holder_is_killed() {
    let app = App::new(WORKERS);
    let client = app.client().await;
    let schedule = name("pulse");
    client.create_schedule(&schedule, &every_second("noop")).await.unwrap();
    // The first takes the role; the others see that it is taken.
    let first = app.agent(&["all", "--name", "first"]).await;
    until_ticks(&client, &schedule, 2).await;
    let second = app.agent(&["all", "--name", "second"]).await;
    let third = app.agent(&["all", "--name", "third"]).await;
    let before = until_ticks(&client, &schedule, 4).await.len();
    first.kill().await;
    until_ticks(&client, &schedule, before + 4).await;
    second.kill().await;
    let ticks = until_ticks(&client, &schedule, before + 9).await;
    third.stop().await;

    let times: Vec<i64> = ticks.keys().map(|tick| tick.as_millis()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1000), "no tick is lost: {times:?}");
    assert!(ticks.values().all(|tasks| tasks.len() == 1), "no tick is doubled");
}

#[tokio::test]
async fn long_tasks_never_delay_a_tick() {
    let app = App::new(WORKERS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    for _ in 0..2 {
        let id = enqueue(&client, "nap", json!({"ms": 600_000}), "work").await;
        reached(&client, id, State::Running).await;
    }
    let schedule = name("pulse");
    client.create_schedule(&schedule, &every_second("noop")).await.unwrap();
    let ticks = until_ticks(&client, &schedule, 4).await;
    // The first tick may be due before any scheduler has seen the schedule.
    for (_, tasks) in ticks.iter().skip(1) {
        assert_eq!(tasks[0].record.state, State::Queued, "no slot is free");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_tick_that_would_overlap_is_left_out_or_takes_the_earlier_ones_place() {
    let app = App::new(&WORKERS.replace("concurrency = 2", "concurrency = 8"));
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    let (skips, replaces) = (name("skips"), name("replaces"));
    let long = |overlap: &str| Definition {
        overlap: Some(overlap.into()),
        args: json!({"ms": 600_000}).as_object().cloned().unwrap(),
        ..every_second("nap")
    };
    client.create_schedule(&skips, &long("skip")).await.unwrap();
    client.create_schedule(&replaces, &long("cancel-previous")).await.unwrap();

    // Two were left out while the first still runs.
    let settled = |ticks: &BTreeMap<Timestamp, Vec<TaskDetail>>| {
        ticks.values().filter(|tasks| tasks[0].record.state == State::Cancelled).count()
    };
    let skipped = until(async || Some(tasks_of(&client, &skips).await).filter(|ticks| settled(ticks) >= 2)).await;
    let states: Vec<State> = skipped.values().map(|tasks| tasks[0].record.state).take(3).collect();
    assert_eq!(states, [State::Running, State::Cancelled, State::Cancelled]);
    let log = &skipped.values().nth(1).unwrap()[0].attempts[0].log.text;
    let first: TaskId = skipped.values().next().unwrap()[0].record.id;
    assert!(log.contains(&format!("left out: task {first}")), "{log}");

    // Each took the place of the one before it.
    let replaced = until(async || Some(tasks_of(&client, &replaces).await).filter(|ticks| settled(ticks) >= 2)).await;
    let states: Vec<State> = replaced.values().map(|tasks| tasks[0].record.state).take(2).collect();
    assert_eq!(states, [State::Cancelled, State::Cancelled]);
    agent.stop().await;
}

#[tokio::test]
async fn schedules_are_made_looked_at_and_changed_by_the_command() {
    let app =
        App::new(&format!("{WORKERS}\n[schedules.nightly]\ncron = \"0 3 * * *\"\ntask = \"noop\"\nqueue = \"work\"\n"));
    let create = ["schedules", "create", "pulse", "--rate", "2s", "--task", "noop", "--queue", "work"];
    let made = app.run(&create).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let again = app.run(&create).await;
    assert!(again.code == Some(2) && again.stderr.contains("there is a schedule `pulse` already"), "{again:?}");

    let listed = app.run(&["schedules", "list", "--json"]).await;
    let lines: Vec<serde_json::Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names, ["nightly", "pulse"], "{listed:?}");
    assert_eq!((&lines[0]["from_file"], &lines[0]["cron"]), (&json!(true), &json!("0 3 * * ? *")));

    let next = app.run(&["schedules", "next", "nightly", "-n", "3"]).await;
    assert_eq!(next.stdout.matches("T03:00:00Z").count(), 3, "{next:?}");
    let ran = app.run(&["schedules", "run", "nightly"]).await;
    let id: TaskId = ran.stdout.trim().parse().unwrap();
    let client = app.client().await;
    let spec = client.task(id).await.unwrap().spec.unwrap();
    assert_eq!((spec.schedule, spec.tick), (Some(name("nightly")), None));

    for (arguments, state) in
        [(["schedules", "pause", "pulse"], "paused"), (["schedules", "resume", "pulse"], "active")]
    {
        assert_eq!(app.run(&arguments).await.code, Some(0));
        let shown = app.run(&["schedules", "show", "pulse"]).await;
        assert!(shown.stdout.contains(state), "{shown:?}");
    }
    let updated = app.run(&["schedules", "update", "pulse", "--cron", "*/5 * * * *", "--catch-up", "all"]).await;
    assert_eq!(updated.code, Some(0), "{updated:?}");
    let shown = app.run(&["schedules", "show", "pulse", "--json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["cron"], &shown["rate"], &shown["catch_up"]),
        (&json!("*/5 * * * ? *"), &json!(null), &json!("all"))
    );
    assert_eq!(app.run(&["schedules", "delete", "pulse"]).await.code, Some(0));
    let gone = app.run(&["schedules", "show", "pulse"]).await;
    assert!(gone.code == Some(2) && gone.stderr.contains("there is no schedule `pulse`"), "{gone:?}");
    let of_file = app.run(&["schedules", "delete", "nightly"]).await;
    assert!(of_file.code == Some(2) && of_file.stderr.contains("rhubarb.toml"), "{of_file:?}");
}

#[tokio::test]
async fn a_bad_schedule_is_refused_before_anything_is_made() {
    let app = App::new(WORKERS);
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    // Its functions have said what they run.
    until(async || client.workers().await.unwrap().iter().any(|heard| !heard.worker.tasks.is_empty()).then_some(()))
        .await;
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(262_144));
    std::fs::write(app.path().join("large.json"), large).unwrap();
    let long = "n".repeat(65);
    let task = ["--task", "noop", "--queue", "work"];
    for (schedule, arguments, what) in [
        ("s", vec!["--cron", "0 0 30 2 ? *"], "`cron`"),
        ("s", vec!["--cron", "0 3 13 * 5"], "crontab and AWS take differently"),
        ("s", vec!["--rate", "0s"], "`rate`"),
        ("s", vec!["--rate", "1m", "--timezone", "Europe/Berlni"], "did you mean \"Europe/Berlin\"?"),
        ("s", vec!["--at", "2020-01-01T00:00:00"], "`at`: 2020-01-01T00:00:00 in UTC has passed"),
        ("s", vec!["--rate", "1m", "--args", "@large.json"], "`args`"),
        ("s", vec!["--rate", "1m", "--queue", "nowhere"], "there is no queue `nowhere`"),
        ("s", vec!["--rate", "1m", "--task", "unheard_of"], "no function of queue work runs `unheard_of`"),
        (long.as_str(), vec!["--rate", "1m"], "at most 64"),
        ("s", vec![], "say when it fires"),
    ] {
        let mut all = vec!["schedules", "create", schedule];
        let is_given = |key: &str| arguments.contains(&key);
        all.extend(task.chunks(2).filter(|pair| !is_given(pair[0])).flatten());
        all.extend(&arguments);
        let refused = app.run(&all).await;
        assert!(refused.code == Some(2) && refused.stderr.contains(what), "{arguments:?}: {refused:?}");
    }
    assert_eq!(client.schedules().await.unwrap(), []);
    agent.stop().await;
}

#[tokio::test]
async fn the_files_schedules_fire_and_go_with_the_file() {
    let file = "[schedules.pulse]\nrate = \"1s\"\ntask = \"noop\"\nqueue = \"work\"\n";
    let app = App::new(&format!("{WORKERS}\n{file}"));
    let client = app.client().await;
    let agent = app.agent(&["all"]).await;
    until_ticks(&client, &name("pulse"), 2).await;
    agent.stop().await;
    let path = app.path().join("rhubarb.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(file, "")).unwrap();
    let agent = app.agent(&["all"]).await;
    assert_eq!(client.backend().schedules().list().await.unwrap(), []);
    agent.stop().await;
}
