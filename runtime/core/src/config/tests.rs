use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{retry::RetryOn, row::AckMode};

const EXAMPLE: &str = include_str!("../../../../rhubarb.toml");

/// A whole file around `sections`; its functions are `f`, `g` and `busy`, its worker serves
/// `default` and `q`.
fn parse(sections: &str) -> Result<Config, Mistakes> {
    let functions = "[functions]\nf = { package = \"f\" }\ng = { command = [\"./g\"] }\n\
                     busy = { package = \"busy\", in_flight = 2 }\n";
    let queue = if sections.contains("[queues.q]") { "" } else { "[queues.q]\n" };
    let worker = if sections.contains("[workers") { "" } else { "[workers.w]\nqueues = [\"default\", \"q\"]\n" };
    let text = format!("[app]\nname = \"shop\"\n{functions}{queue}{worker}{sections}");
    Config::parse(&text, &NoVars, &Overrides::default())
}

fn the_queue(keys: &str) -> QueueConfig {
    parse(&format!("[queues.q]\n{keys}")).unwrap().queues["q"].clone()
}

/// Asserts that each text gives exactly one mistake, at this key, with these words.
fn assert_mistakes(cases: &[(&str, &str, &str)]) {
    for (sections, key, words) in cases {
        let mistakes = parse(sections).expect_err(sections);
        let list: Vec<_> = mistakes.iter().collect();
        assert_eq!(list.len(), 1, "{sections}\n{mistakes}");
        assert_eq!(list[0].key, *key, "{sections}\n{mistakes}");
        assert!(mistakes.to_string().contains(words), "{words:?} of {sections}\n{mistakes}");
    }
}

#[test]
fn the_example_has_no_mistakes_and_no_warnings() {
    let config = Config::parse(EXAMPLE, &NoVars, &Overrides::default()).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.functions.len(), 5);
    let names: Vec<&str> = config.queues.keys().map(QueueName::as_str).collect();
    assert_eq!(names, ["default", "evaluation", "maintenance", "prediction", "preprocessing", "training"]);
    assert_eq!(config.schedules.len(), 3);
}

#[test]
fn the_example_is_also_right_on_aws() {
    let overrides = Overrides { backend: Some("aws".into()), ..Overrides::default() };
    let config = Config::parse(EXAMPLE, &NoVars, &overrides).unwrap();
    assert_eq!(config.app.backend, Backend::Aws);
    assert_eq!(config.warnings, []);
    let maintenance = &config.queues["maintenance"];
    assert_eq!(maintenance.invocation_limit(), Duration::from_secs(110));
    assert_eq!(config.app.aws_queue_name(maintenance), "training-platform-dev-maintenance");
    let fed = |feeds_lambda| -> Vec<&str> {
        config.queues_of(&config.workers["short"], feeds_lambda).map(|queue| queue.name.as_str()).collect()
    };
    assert_eq!(fed(false), ["default", "evaluation"]);
    assert_eq!(fed(true), ["default", "evaluation", "preprocessing", "maintenance"]);
}

#[test]
fn a_mistake_names_its_line_its_key_what_is_wrong_and_the_fix() {
    let text = "[app]\nname = \"shop\"\n[functions.f]\npackage = \"f\"\n[queues.training]\ntimeout = \"25 hourz\"\n";
    let mistakes = Config::parse(text, &NoVars, &Overrides::default()).unwrap_err();
    assert_eq!(
        mistakes.to_string(),
        "rhubarb.toml:6:1: queues.training.timeout: \"25 hourz\" is no duration; write e.g. \"24h\", \"1h 30m\" or \"500ms\""
    );
}

#[test]
fn all_mistakes_are_told_together_in_the_order_of_the_file() {
    let mistakes = parse(
        "[queues.q]\ntimeout = 24\nbatch = 0\nfunctions = [\"h\"]\ntrak = \"full\"\n[queue.x]\n\
         [tasks.t]\nqueue = \"r\"\n[schedules.s]\nrate = \"0s\"\n",
    )
    .unwrap_err();
    let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let expected = [
        "queues.q.timeout: 24 has no unit; write a duration in quotes, e.g. \"24s\"",
        "queues.q.batch: 0 is out of bounds; write one from 1 to 10000",
        "queues.q.functions: there is no function `h`; write one of",
        "queues.q.trak: there is no such key; did you mean \"track\"?",
        "queue: there is no such key; did you mean \"queues\"?",
        "tasks.t.queue: there is no queue `r`; write one of \"default\", \"q\"",
        "schedules.s: it is missing",
        "schedules.s.rate: 0s is out of bounds; write one from 1s to 366d",
    ];
    for words in expected {
        let words = words.replace("schedules.s: it", "schedules.s.task: it");
        assert!(told.iter().any(|line| line.contains(&words)), "{words}\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), expected.len(), "{}", told.join("\n"));
    let lines: Vec<Place> = mistakes.iter().map(|mistake| mistake.place).collect();
    assert!(lines.is_sorted());
}

#[test]
fn a_file_without_a_name_is_told_to_add_one() {
    let mistakes = Config::parse("", &NoVars, &Overrides::default()).unwrap_err();
    assert!(mistakes.to_string().contains("app.name: it is missing; add the application's name"));
}

#[test]
fn the_shortest_file_runs_one_function_on_the_default_queue() {
    let text = "[app]\nname = \"shop\"\n[functions.hello]\npackage = \"hello\"\n";
    let config = Config::parse(text, &NoVars, &Overrides::default()).unwrap();
    assert_eq!(config.warnings, []);
    let queue = &config.queues["default"];
    assert_eq!(queue.functions[0].as_str(), "hello");
    assert_eq!(config.workers["default"].queues, [default_queue()]);
    assert!(!queue.is_declared);
}

#[test]
fn a_variable_beats_the_file_and_an_option_beats_the_variable() {
    let text = "[app]\nname = \"shop\"\nstage = \"dev\"\nbackend = \"local\"\n";
    let vars = HashMap::from([
        ("RHUBARB_STAGE".to_owned(), "prod".to_owned()),
        ("RHUBARB_BACKEND".to_owned(), "aws".to_owned()),
        ("RHUBARB_DIR".to_owned(), String::new()),
    ]);
    let overrides = Overrides { stage: Some("test".into()), ..Overrides::default() };
    let app = Config::parse(text, &vars, &overrides).unwrap().app;
    assert_eq!((app.stage.as_str(), app.backend), ("test", Backend::Aws));
    assert_eq!(app.dir, ".rhubarb", "an empty variable counts as absent");
}

#[test]
fn a_wrong_variable_or_option_is_named() {
    let vars = HashMap::from([("RHUBARB_BACKEND".to_owned(), "awz".to_owned())]);
    let overrides = Overrides { stage: Some("Dev!".into()), ..Overrides::default() };
    let mistakes = Config::parse("[app]\nname = \"shop\"\nstage = \"-\"\n", &vars, &overrides).unwrap_err();
    let told = mistakes.to_string();
    assert!(
        told.contains("RHUBARB_BACKEND: app.backend: \"awz\" is no known word here; did you mean \"aws\"?"),
        "{told}"
    );
    assert!(told.contains("--stage: app.stage: \"Dev!\" cannot be part of names on AWS"), "{told}");
    assert!(told.contains("rhubarb.toml:3:1: app.stage: \"-\" cannot be part"), "{told}");
}

#[test]
fn every_variable_stands_for_a_key_of_the_reference() {
    for variable in VARIABLES {
        assert!(reference().iter().any(|key| key.section == "app" && key.key == variable.key));
    }
}

#[test]
fn a_queue_has_every_default_filled_in() {
    let queue = the_queue("");
    assert_eq!((queue.class, queue.ack, queue.track), (QueueClass::Ecs, AckMode::Lease, Track::Full));
    assert_eq!(queue.functions.len(), 3);
    assert_eq!((queue.cpu, queue.memory), (Some(4.0), ByteSize::gib(8)));
    assert_eq!(queue.timeout, Duration::from_secs(3600));
    assert_eq!(queue.soft_timeout, Duration::from_secs(3300));
    assert_eq!(queue.max_receives, 130);
    assert_eq!(queue.lease, Duration::from_secs(30));
    let queue = the_queue("gpus = 2\nfunctions = [\"f\"]");
    assert_eq!((queue.cpu, queue.memory), (Some(8.0), ByteSize::gib(32)));
    let queue = the_queue("class = \"lambda\"\nfunctions = [\"f\"]");
    assert_eq!((queue.cpu, queue.memory), (None, ByteSize::mib(256)));
    assert_eq!((queue.timeout, queue.ack), (Duration::from_secs(300), AckMode::Message));
    assert_eq!(the_queue("fifo = true").ack, AckMode::Message);
    assert_eq!(the_queue("track = \"failures\"").ack, AckMode::Message);
}

#[test]
fn a_function_is_told_a_tenth_but_at_most_five_minutes_before_its_timeout() {
    assert_eq!(the_queue("timeout = \"10s\"").soft_timeout, Duration::from_secs(9));
    assert_eq!(the_queue("timeout = \"24h\"").soft_timeout, Duration::from_secs(24 * 3600 - 300));
    assert_eq!(the_queue("soft_timeout = \"1m\"").soft_timeout, Duration::from_secs(60));
}

#[test]
fn an_invocation_takes_as_many_timeouts_as_tasks_run_after_one_another() {
    let limit = |keys: &str| the_queue(&format!("timeout = \"10s\"\n{keys}")).invocation_limit().as_secs();
    assert_eq!(limit(""), 20);
    assert_eq!(limit("batch = 10"), 110);
    assert_eq!(limit("batch = 10\nparallel = 4"), 40);
    assert_eq!(limit("batch = 10\nparallel = 10"), 20);
}

#[test]
fn a_task_lowers_its_queues_policy() {
    let config = parse(
        "[queues.q]\ntimeout = \"1h\"\nmax_attempts = 5\nexpires = \"1d\"\nbackoff = { max = \"1m\" }\n\
         [tasks.t]\ntimeout = \"10m\"\nmax_attempts = 2\nbackoff = { initial = \"5s\" }\n\
         [tasks.longer]\ntimeout = \"2h\"\nmax_attempts = 9\n",
    )
    .unwrap();
    let policy = |task: &str| config.policy(&"q".parse().unwrap(), &task.parse().unwrap()).unwrap();
    let t = policy("t");
    assert_eq!((t.timeout, t.soft_timeout), (Duration::from_secs(600), Duration::from_secs(540)));
    assert_eq!((t.retry.max_attempts, t.retry.initial), (2, Duration::from_secs(5)));
    assert_eq!((t.retry.max, t.expires), (Duration::from_secs(60), Some(Duration::from_secs(86_400))));
    let longer = policy("longer");
    assert_eq!((longer.timeout, longer.retry.max_attempts), (Duration::from_secs(3600), 5));
    assert_eq!(policy("other").retry.max_attempts, 5);
    let lowered = policy("other").lowered(Some(Duration::from_secs(10)), Some(0));
    assert_eq!((lowered.soft_timeout, lowered.retry.max_attempts), (Duration::from_secs(9), 1));
}

#[test]
fn a_process_is_replaced_after_the_fewest_tasks_that_anyone_says() {
    let config = parse(
        "[functions.short]\npackage = \"s\"\nmax_tasks_per_child = 5\n[queues.q]\ngpus = 1\nfunctions = [\"f\", \"short\"]\n\
         [workers.plain]\nqueues = [\"q\", \"default\"]\n[workers.w]\nqueues = [\"q\"]\nmax_tasks_per_child = 3\n",
    )
    .unwrap();
    let limit = |worker: &str, function: &str, queue: &str| {
        config.max_tasks_per_child(&config.workers[worker], &function.parse().unwrap(), &config.queues[queue])
    };
    assert_eq!(limit("plain", "f", "default"), None);
    assert_eq!(limit("plain", "f", "q"), Some(1));
    assert_eq!(limit("plain", "short", "q"), Some(5));
    assert_eq!(limit("w", "short", "q"), Some(3));
}

#[test]
fn an_unknown_key_is_a_mistake_in_every_section() {
    assert_mistakes(&[
        ("[queues.q]\nmax_atempts = 3", "queues.q.max_atempts", "did you mean \"max_attempts\"?"),
        ("[queues.q]\nconcurrency_limit = 3", "queues.q.concurrency_limit", "there is no such key"),
        ("[queues.q]\nbackoff = { inital = \"1s\" }", "queues.q.backoff.inital", "did you mean \"initial\"?"),
        ("[workers.x]\nqueues = [\"default\", \"q\"]\nqueue = \"q\"", "workers.x.queue", "did you mean \"queues\"?"),
        ("[functions.x]\npackage = \"x\"\nen = {}", "functions.x.en", "did you mean \"env\"?"),
        ("[tasks.t]\nqeue = \"q\"", "tasks.t.qeue", "did you mean \"queue\"?"),
        ("[tasks.reports.daily]\nqueue = \"q\"", "tasks.reports.daily", "a name with a dot stands in quotes"),
        (
            "[schedules.s]\nrate = \"1m\"\ntask = \"t\"\ncatchup = \"one\"",
            "schedules.s.catchup",
            "did you mean \"catch_up\"?",
        ),
        ("[worker.x]", "worker", "did you mean \"workers\"?"),
    ]);
}

#[test]
fn a_value_of_the_wrong_kind_says_what_it_should_be() {
    assert_mistakes(&[
        ("[queues]\nr = 1", "queues.r", "it is a whole number, not a table; write [queues.r]"),
        ("[queues.q]\nbatch = \"10\"", "queues.q.batch", "it is text, not a whole number"),
        ("[queues.q]\nbatch = 99999999999999999999", "queues.q.batch", "out of bounds"),
        ("[queues.q]\ngpus = -1", "queues.q.gpus", "-1 is out of bounds; write one from 0 to 64"),
        ("[queues.q]\nfifo = \"yes\"", "queues.q.fifo", "write true or false"),
        ("[queues.q]\nmemory = 32", "queues.q.memory", "write a size in quotes, e.g. \"32MiB\""),
        ("[queues.q]\nmemory = \"32GB\"", "queues.q.memory", "\"32GB\" is no size"),
        ("[queues.q]\ncpu = nan", "queues.q.cpu", "out of bounds"),
        ("[queues.q]\nfunctions = \"f\"", "queues.q.functions", "it is text, not a list"),
        ("[queues.q]\nfunctions = []", "queues.q.functions", "the list is empty"),
        ("[queues.q]\nfunctions = [\"f\", 7]", "queues.q.functions", "element 2: it is a whole number, not text"),
        ("[queues.q]\nfunctions = [\"f\", \"f\"]", "queues.q.functions", "element 2 is there twice"),
        ("[queues.q]\nallow = [\"sweeep\"]", "queues.q.allow", "did you mean \"sweep\"?"),
        ("[queues.q]\nclass = \"fargate\"", "queues.q.class", "write one of \"ecs\", \"lambda\""),
        ("[queues.q]\nurl = \"orders\"", "queues.q.url", "is no queue's URL"),
        ("[queues.q]\nraw_task = \"a b\"", "queues.q.raw_task", "is no valid task name"),
    ]);
}

#[test]
fn a_name_that_breaks_its_rule_is_a_mistake() {
    let long = "q".repeat(65);
    for name in ["../x", "a b", "", "/etc/passwd", "\\u001b[2J", &long] {
        for kind in ["queues", "workers", "functions", "schedules"] {
            let mistakes = parse(&format!("[{kind}.\"{name}\"]\n")).unwrap_err().to_string();
            assert!(mistakes.contains("no valid") && !mistakes.contains('\u{1b}'), "{mistakes}");
        }
    }
    assert!(parse("[tasks.\"reports.daily\"]\nqueue = \"q\"\n").is_ok());
}

#[test]
fn a_queues_name_on_aws_has_at_most_80_characters() {
    let name = "q".repeat(64);
    let text = |stage: &str, keys: &str| {
        format!("[app]\nname = \"training-platform\"\nstage = \"{stage}\"\n[queues.{name}]\n{keys}\n")
    };
    let parse = |text: &str| Config::parse(text, &NoVars, &Overrides::default());
    let mistakes = parse(&text("dev", "")).unwrap_err();
    assert!(mistakes.to_string().contains("has 86 characters; shorten it to 80"), "{mistakes}");
    assert!(parse(&text("dev", "url = \"https://sqs.example/1/q\"")).is_ok());
    let short = format!("[app]\nname = \"a\"\nstage = \"{}\"\n[queues.{name}]\nfifo = ", "s".repeat(13));
    assert!(parse(&format!("{short}false\n")).is_ok());
    assert!(parse(&format!("{short}true\n")).unwrap_err().to_string().contains("85 characters"));
}

#[test]
fn a_queue_of_class_lambda_keeps_to_what_lambda_allows() {
    assert_mistakes(&[
        ("[queues.q]\nclass = \"lambda\"", "queues.q.functions", "exactly one function, not 3"),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\", \"g\"]",
            "queues.q.functions",
            "exactly one function, not 2",
        ),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\nack = \"lease\"",
            "queues.q.ack",
            "AWS deletes the messages",
        ),
        ("[queues.q]\nmax_running = 0", "queues.q.max_running", "out of bounds"),
        ("[queues.q]\nmax_running = 1\nmax_running_per_key = 2", "queues.q.max_running_per_key", "2 is over 1"),
        ("[queues.q]\nfifo = true\nmax_running = 1", "queues.q.max_running", "would be overtaken"),
        ("[queues.q]\nrate_limit = \"fast\"", "queues.q.rate_limit", "no rate"),
        ("[queues.q]\nrate_limit = \"5/fortnight\"", "queues.q.rate_limit", "no rate"),
        ("[queues.q]\nrate_limit_per_key = \"0/minute\"", "queues.q.rate_limit_per_key", "out of bounds"),
        ("[queues.q]\nrate_limit_per_key = \"5/2d\"", "queues.q.rate_limit_per_key", "out of bounds"),
        ("[queues.q]\ntrack = \"failures\"\nrate_limit = \"5/s\"", "queues.q.rate_limit", "no row counts"),
        ("[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\ngpus = 1", "queues.q.gpus", "Lambda has no GPUs"),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\ncpu = 2",
            "queues.q.cpu",
            "derives CPUs from the memory",
        ),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\nmemory = \"32GiB\"",
            "queues.q.memory",
            "from 128MiB to 10GiB",
        ),
        ("[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\nmemory = \"262145KiB\"", "queues.q.memory", "whole MiB"),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\nbatch = 11\ntimeout = \"1s\"",
            "queues.q.batch",
            "11 is over 10",
        ),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\nbatch = 1001\nparallel = 1001\nbatch_window = \"1s\"",
            "queues.q.batch",
            "1001 is over 1000",
        ),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\nbatch_window = \"1s\"",
            "queues.q.batch_window",
            "a batch of 1",
        ),
        (
            "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\nbatch = 2\nbatch_window = \"6m\"",
            "queues.q.batch_window",
            "from 0s to 5m",
        ),
    ]);
    let windowed = "class = \"lambda\"\nfunctions = [\"f\"]\nbatch = 1000\nparallel = 1000\nbatch_window = \"1s\"";
    assert_eq!(the_queue(windowed).batch, 1000);
}

#[test]
fn ten_thousand_tasks_to_a_batch_are_for_lambda_on_aws_alone() {
    let text = "[app]\nname = \"shop\"\n[functions.f]\npackage = \"f\"\n[queues.default]\nclass = \"lambda\"\n\
                batch = 10_000\nparallel = 10_000\nbatch_window = \"1s\"\n";
    let aws = Overrides { backend: Some("aws".into()), ..Overrides::default() };
    assert!(Config::parse(text, &NoVars, &aws).is_ok());
    assert!(Config::parse(text, &NoVars, &Overrides::default()).is_err());
}

#[test]
fn an_invocation_on_lambda_ends_within_15_minutes() {
    let lambda = "[queues.q]\nclass = \"lambda\"\nfunctions = [\"f\"]\n";
    assert_mistakes(&[
        (&format!("{lambda}timeout = \"15m\""), "queues.q.timeout", "may take 15m 10s"),
        (
            &format!("{lambda}timeout = \"90s\"\nbatch = 10"),
            "queues.q.timeout",
            "write at most 1m 29s, a smaller batch, or class = \"ecs\"",
        ),
        (&format!("{lambda}timeout = \"14h\""), "queues.q.timeout", "Lambda allows 15m"),
    ]);
    assert!(parse(&format!("{lambda}timeout = \"890s\"")).is_ok());
    assert!(parse(&format!("{lambda}timeout = \"89s\"\nbatch = 10")).is_ok());
    assert!(parse(&format!("{lambda}timeout = \"90s\"\nbatch = 10\nparallel = 2")).is_ok());
}

#[test]
fn a_lambda_function_has_an_environment_of_at_most_4_kib() {
    let function =
        |bytes: usize| format!("[functions.h]\npackage = \"h\"\nenv = {{ A = \"{}\" }}\n", "x".repeat(bytes));
    let lambda = "[queues.q]\nclass = \"lambda\"\nfunctions = [\"h\"]\n";
    assert!(parse(&format!("{}{lambda}", function(4_000))).is_ok());
    assert!(parse(&function(5_000)).is_ok());
    assert_mistakes(&[
        (&format!("{}{lambda}", function(5_000)), "queues.q.functions", "has 5003 bytes; Lambda allows 4096"),
        (&function(65_535), "functions.h.env", "at most 65536"),
    ]);
}

#[test]
fn the_ack_mode_fits_the_class_the_order_and_the_timeout() {
    assert_mistakes(&[
        ("[queues.q]\nfifo = true\nack = \"lease\"", "queues.q.ack", "a FIFO queue keeps its order"),
        (
            "[queues.q]\nack = \"message\"\ntimeout = \"11h 1s\"",
            "queues.q.timeout",
            "write at most 11h, or ack = \"lease\"",
        ),
        ("[queues.q]\nfifo = true\ntimeout = \"12h\"", "queues.q.timeout", "12h is over 11h"),
        ("[queues.q]\ntrack = \"failures\"\nack = \"lease\"", "queues.q.ack", "there is no row to lease"),
        ("[queues.q]\ntrack = \"none\"\ntimeout = \"12h\"", "queues.q.timeout", "12h is over 11h"),
    ]);
    assert!(parse("[queues.q]\nack = \"message\"\ntimeout = \"11h\"").is_ok());
    assert!(parse("[queues.q]\ntimeout = \"24h\"").is_ok());
}

#[test]
fn a_track_level_below_full_is_not_asked_for_what_needs_a_row() {
    assert_mistakes(&[
        ("[queues.q]\ntrack = \"failures\"\nkeep = \"1d\"", "queues.q.keep", "track = \"failures\""),
        ("[queues.q]\ntrack = \"none\"\nkeep_failed = \"1d\"", "queues.q.keep_failed", "write track = \"full\""),
        ("[queues.q]\ntrack = \"none\"\nlease = \"1m\"", "queues.q.lease", "nothing is written"),
        ("[queues.q]\ntrack = \"none\"\nexpires = \"1m\"", "queues.q.expires", "nothing is written"),
        (
            "[queues.q]\ntrack = \"none\"\n[schedules.s]\nrate = \"1m\"\ntask = \"t\"\nqueue = \"q\"",
            "schedules.s.queue",
            "no row makes a tick fire once",
        ),
        (
            "[queues.q]\ntrack = \"none\"\n[tasks.t]\nqueue = \"q\"\n[schedules.s]\nrate = \"1m\"\ntask = \"t\"",
            "schedules.s.queue",
            "queue `q`",
        ),
    ]);
    assert!(parse("[queues.q]\ntrack = \"failures\"\nkeep_failed = \"1d\"").is_ok());
}

#[test]
fn times_and_sizes_keep_to_their_bounds() {
    assert_mistakes(&[
        ("[queues.q]\ntimeout = \"0s\"", "queues.q.timeout", "0s is out of bounds"),
        ("[queues.q]\ntimeout = \"31d\"", "queues.q.timeout", "write one from 1ms to 30d"),
        ("[queues.q]\nlease = \"999ms\"", "queues.q.lease", "write one from 1s to 12h"),
        ("[queues.q]\nlease = \"13h\"", "queues.q.lease", "13h is out of bounds"),
        ("[queues.q]\nsoft_timeout = \"1h\"", "queues.q.soft_timeout", "told after 1h, when it is killed after 1h"),
        ("[queues.q]\nmax_attempts = 0", "queues.q.max_attempts", "write one from 1 to 100"),
        ("[queues.q]\nmax_receives = 3", "queues.q.max_receives", "after 3 receives"),
        ("[queues.q]\nbackoff = { initial = \"10m\" }", "queues.q.backoff.initial", "10m is over 5m"),
        ("[queues.q]\nbackoff = { max = \"1s\" }", "queues.q.backoff.max", "2s is over 1s"),
        ("[queues.q]\nbackoff = { factor = 0.5 }", "queues.q.backoff.factor", "write one from 1 to 100"),
        ("[queues.q]\nbackoff = \"1s\"", "queues.q.backoff", "it is text, not a table"),
        ("[queues.q]\nretry_on = []", "queues.q.retry_on", "the list is empty"),
        ("[queues.q]\nretry_on = [\"worker_lost\"]", "queues.q.retry_on", "max_attempts = 1"),
        ("[queues.q]\nretry_on = [\"a\"]\nnever_retry_on = [\"b\"]", "queues.q.never_retry_on", "keep one of them"),
        ("[tasks.t]\nretry_on = [\"a\"]\nnever_retry_on = [\"b\"]", "tasks.t.never_retry_on", "contradict each other"),
        ("[queues.q]\nkeep = \"0s\"", "queues.q.keep", "out of bounds"),
    ]);
}

#[test]
fn a_lease_on_aws_is_longer_than_clocks_are_apart() {
    let on = |backend: &str, lease: &str| {
        let text = format!("[app]\nname = \"shop\"\nbackend = \"{backend}\"\n[queues.q]\nlease = \"{lease}\"\n");
        Config::parse(&text, &NoVars, &Overrides::default())
    };
    let mistakes = on("aws", "2999ms").unwrap_err().to_string();
    assert!(mistakes.contains("queues.q.lease: 2s 999ms is too short on AWS"), "{mistakes}");
    assert!(mistakes.contains("may judge the time 1s apart; write at least 3s"), "{mistakes}");
    on("aws", "3s").unwrap();
    on("local", "1s").unwrap();
}

#[test]
fn a_batch_fits_its_queue() {
    assert_mistakes(&[
        ("[queues.q]\nbatch = 1001", "queues.q.batch", "1001 is over 1000, the limit of an agent"),
        ("[queues.q]\nbatch = 20000", "queues.q.batch", "write one from 1 to 10000"),
        ("[queues.q]\nbatch = 2\nparallel = 3", "queues.q.parallel", "3 is over 2"),
        ("[queues.q]\nfifo = true\nbatch = 11", "queues.q.batch", "the limit of a FIFO queue"),
        ("[queues.q]\nfifo = true\nbatch = 2\nparallel = 2", "queues.q.parallel", "run in order"),
        ("[queues.q]\nfifo = true\nbatch = 2\nbatch_window = \"1s\"", "queues.q.batch_window", "SQS has none"),
        ("[queues.q]\nfunctions = [\"f\"]\ngpus = 1\nbatch = 2", "queues.q.batch", "one task at a time"),
    ]);
}

#[test]
fn gpu_keys_are_for_queues_that_ask_for_gpus() {
    let queue = the_queue(
        "functions = [\"f\"]\ngpus = 1\ngpu_memory = \"40GiB\"\ngpu_name = \"H200\"\ncompute_capability = \">=8.0\"\n\
         gpu_share = 2\nwithout_gpu = \"cpu\"",
    );
    assert_eq!(queue.gpu_memory, Some(ByteSize::gib(40)));
    assert_eq!(queue.compute_capability, Some(ComputeCapability { major: 8, minor: 0 }));
    assert_eq!((queue.gpu_share, queue.without_gpu), (2, WithoutGpu::Cpu));
    assert_mistakes(&[
        ("[queues.q]\nwithout_gpu = \"cpu\"", "queues.q.without_gpu", "the queue asks for no GPU; add gpus = 1"),
        ("[queues.q]\ngpu_memory = \"40GiB\"", "queues.q.gpu_memory", "add gpus = 1"),
        (
            "[queues.q]\ngpus = 1\nfunctions = [\"f\"]\ncompute_capability = \"8.0\"",
            "queues.q.compute_capability",
            "write e.g. \">=8.0\"",
        ),
        ("[queues.q]\ngpus = 1\nfunctions = [\"busy\"]", "queues.q.functions", "would share one GPU"),
    ]);
}

#[test]
fn a_url_and_fifo_agree() {
    assert_mistakes(&[
        ("[queues.q]\nurl = \"https://sqs.example/1/q.fifo\"", "queues.q.url", "add fifo = true"),
        ("[queues.q]\nfifo = true\nurl = \"https://sqs.example/1/q\"", "queues.q.url", "does not end in .fifo"),
    ]);
}

#[test]
fn a_worker_serves_queues_that_exist() {
    assert_mistakes(&[
        (
            "[workers.w]\nqueues = [\"q\", \"defalt\"]",
            "workers.w.queues",
            "there is no queue `defalt`; did you mean \"default\"?",
        ),
        (
            "[workers.w]\nqueues = [\"q\"]\nweights = { default = 4 }",
            "workers.w.weights.default",
            "does not serve queue `default`",
        ),
        ("[workers.w]\nqueues = [\"q\"]\nweights = { q = 0 }", "workers.w.weights.q", "write one from 1 to 100"),
        ("[workers.w]\nqueues = [\"q\"]\nconcurrency = 0", "workers.w.concurrency", "write one from 1"),
        ("[workers.w]\nqueues = []", "workers.w.queues", "the list is empty"),
    ]);
    let config = parse("[workers.w]\nweights = { default = 4 }").unwrap();
    assert_eq!(config.workers["w"].queues, [default_queue()]);
    assert_eq!(config.workers["w"].weight(&default_queue()), 4);
    assert_eq!(config.workers["w"].weight(&"q".parse().unwrap()), 1);
}

#[test]
fn a_queue_that_no_worker_serves_is_a_warning() {
    let config = parse("[queues.lonely]\n").unwrap();
    let told: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].ends_with("queues.lonely: no worker serves it; add it to the `queues` of a worker"), "{told:?}");
}

#[test]
fn a_track_level_is_no_warning_and_none_needs_a_dead_letter_queue() {
    let config = parse("[queues.q]\ntrack = \"none\"\n[workers.w]\nqueues = [\"q\"]").unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let long = format!("[queues.{}]\ntrack = \"none\"", "q".repeat(60));
    let path = format!("queues.{}.track", "q".repeat(60));
    assert_mistakes(&[
        (&long, &path, "a queue of so long a name has none"),
        (
            "[queues.q]\ntrack = \"none\"\nurl = \"https://sqs.eu-central-1.amazonaws.com/123456789012/q\"",
            "queues.q.track",
            "a queue with a `url` of its own has none",
        ),
    ]);
}

#[test]
fn a_function_has_a_package_or_a_command() {
    assert_mistakes(&[
        ("[functions.x]", "functions.x.package", "name its cargo package"),
        ("[functions.x]\npackage = \"x\"\ncommand = [\"x\"]", "functions.x.command", "a package and a command"),
        ("[functions.x]\npackage = \"--release\"", "functions.x.package", "no name of a cargo package"),
        ("[functions.x]\ncommand = []", "functions.x.command", "it names no program"),
        ("[functions.x]\ncommand = \"x\"", "functions.x.command", "not a list"),
        (
            "[functions.x]\npackage = \"x\"\nenv = { \"A B\" = \"1\" }",
            "functions.x.env.\"A B\"",
            "no name of a variable",
        ),
        ("[functions.x]\npackage = \"x\"\nenv = { A = 1 }", "functions.x.env.A", "write text in quotes"),
        ("[functions.x]\npackage = \"x\"\nenv = { A = \"a\\u0000\" }", "functions.x.env.A", "NUL"),
        (
            "[functions.x]\npackage = \"x\"\nenv = { AWS_LAMBDA_RUNTIME_API = \"1\" }",
            "functions.x.env.AWS_LAMBDA_RUNTIME_API",
            "the host sets this",
        ),
    ]);
    let python =
        parse("[functions.x]\ncommand = [\"python3\", \"-m\", \"awslambdaric\", \"app.handler\"]\nenv = { A = \"\" }")
            .unwrap();
    let function = &python.functions["x"];
    assert!(matches!(&function.program, Program::Command(words) if words.len() == 4));
    assert_eq!(function.env["A"], "");
    assert_eq!(function.init_timeout, Duration::from_secs(10));
}

#[test]
fn a_task_names_what_exists_and_stays_within_its_queue() {
    assert_mistakes(&[
        ("[tasks.t]\nqueue = \"qq\"", "tasks.t.queue", "there is no queue `qq`; did you mean \"q\"?"),
        ("[tasks.t]\nfunction = \"fun\"", "tasks.t.function", "there is no function `fun`"),
        (
            "[queues.q]\nfunctions = [\"f\"]\n[tasks.t]\nqueue = \"q\"\nfunction = \"g\"",
            "tasks.t.function",
            "queue `q` has no function `g`",
        ),
        ("[tasks.t]\nqueue = \"q\"\ntimeout = \"2h\"", "tasks.t.timeout", "2h is over 1h"),
        ("[tasks.t]\nqueue = \"q\"\nmax_attempts = 4", "tasks.t.max_attempts", "4 is over 3"),
        ("[tasks.t]\nqueue = \"q\"\nbackoff = { initial = \"1h\" }", "tasks.t.backoff", "1h is over 5m"),
    ]);
}

#[test]
fn a_schedule_has_one_rule_of_a_right_form() {
    assert_mistakes(&[
        ("[schedules.s]\ntask = \"t\"", "schedules.s.rate", "say when it fires"),
        (
            "[schedules.s]\ntask = \"t\"\nrate = \"1m\"\nat = \"2027-01-01T00:00:00\"",
            "schedules.s.at",
            "has rate and at; keep one",
        ),
        ("[schedules.s]\nrate = \"1m\"", "schedules.s.task", "it is missing"),
        ("[schedules.s]\ntask = \"t\"\nrate = \"1500ms\"", "schedules.s.rate", "whole seconds"),
        ("[schedules.s]\ntask = \"t\"\nrate = \"often\"", "schedules.s.rate", "is no duration"),
        ("[schedules.s]\ntask = \"t\"\ncron = \"* * *\"", "schedules.s.cron", "five fields"),
        ("[schedules.s]\ntask = \"t\"\ncron = \"0 3 * * ! *\"", "schedules.s.cron", "write ? in one of the two"),
        ("[schedules.s]\ntask = \"t\"\ncron = \"0 3 13 * 5\"", "schedules.s.cron", "crontab and AWS take differently"),
        ("[schedules.s]\ntask = \"t\"\ncron = \"0 0 30 2 ? *\"", "schedules.s.cron", "never comes"),
        (
            "[schedules.s]\ntask = \"t\"\nrate = \"1m\"\ntimezone = \"Europe/Berlni\"",
            "schedules.s.timezone",
            "did you mean \"Europe/Berlin\"?",
        ),
        (
            "[schedules.s]\ntask = \"t\"\nat = \"2027-03-28T02:30:00\"\ntimezone = \"Europe/Berlin\"",
            "schedules.s.at",
            "clocks go forward over it",
        ),
        (
            "[schedules.s]\ntask = \"t\"\ncron = \"0 0 1 1 ? *\"\nstart = 2027-02-01T00:00:00\nend = 2027-03-01T00:00:00",
            "schedules.s.end",
            "it never fires between start and end",
        ),
        ("[schedules.s]\ntask = \"t\"\nat = \"tomorrow\"", "schedules.s.at", "no local date and time"),
        ("[schedules.s]\ntask = \"t\"\nat = \"2027-02-29T00:00:00\"", "schedules.s.at", "no local date and time"),
        ("[schedules.s]\ntask = \"t\"\nat = \"2027-01-01T00:00:00Z\"", "schedules.s.at", "the zone as timezone"),
        ("[schedules.s]\ntask = \"t\"\nat = 2027-01-01T00:00:00+02:00", "schedules.s.at", "the zone as timezone"),
        (
            "[schedules.s]\ntask = \"t\"\nrate = \"1m\"\ntimezone = \"../etc\"",
            "schedules.s.timezone",
            "is no time zone",
        ),
        ("[schedules.s]\ntask = \"t\"\nrate = \"1m\"\nqueue = \"x\"", "schedules.s.queue", "there is no queue `x`"),
        ("[schedules.s]\ntask = \"t\"\nrate = \"1m\"\njitter = \"25h\"", "schedules.s.jitter", "from 0s to 24h"),
        (
            "[schedules.s]\ntask = \"t\"\nrate = \"1m\"\nstart = 2027-01-02T00:00:00\nend = 2027-01-01T00:00:00",
            "schedules.s.end",
            "before it starts",
        ),
        ("[schedules.s]\ntask = \"t\"\nrate = \"1m\"\nargs = [1]", "schedules.s.args", "write e.g. args = {"),
        ("[schedules.s]\ntask = \"t\"\nrate = \"1m\"\nargs = { x = nan }", "schedules.s.args", "does not fit JSON"),
    ]);
    let long = format!("[schedules.s]\ntask = \"t\"\nrate = \"1m\"\nargs = {{ x = \"{}\" }}", "x".repeat(262_144));
    assert_mistakes(&[(&long, "schedules.s.args", "at most 262144")]);
}

#[test]
fn a_schedule_is_read_whole() {
    let config = parse(
        "[schedules.s]\ncron = \"0 3 *  * ? *\"\ntask = \"t\"\nqueue = \"q\"\ntimezone = \"Europe/Berlin\"\n\
         start = 2027-01-01T00:00:00\nend = \"2027-06-01T00:00:00\"\njitter = \"5m\"\noverlap = \"skip\"\n\
         catch_up = \"all\"\nenabled = false\nargs = { n = 7, x = 0.5, on = 2027-01-01, list = [true, \"a\"] }\n",
    )
    .unwrap();
    let schedule = &config.schedules["s"];
    assert_eq!(schedule.when, When::Cron("0 3 * * ? *".into()));
    assert_eq!((schedule.overlap, schedule.catch_up, schedule.enabled), (Overlap::Skip, CatchUp::All, false));
    assert_eq!(schedule.start.unwrap().to_string(), "2027-01-01T00:00:00");
    assert_eq!(
        serde_json::to_value(&schedule.args).unwrap(),
        serde_json::json!({ "n": 7, "x": 0.5, "on": "2027-01-01", "list": [true, "a"] })
    );
    let config = parse("[schedules.s]\nat = 2027-01-01T00:00:00\ntask = \"t\"\n").unwrap();
    assert!(matches!(config.schedules["s"].when, When::At(at) if at.year() == 2027));
    assert_eq!(config.schedules["s"].timezone, "UTC");
}

/// A file whose section of `key` says `key = value`, and the path of that key.
fn file_with(key: &Key, value: &str) -> (String, String) {
    let section = if key.section == "backoff" { "queues.NAME.backoff" } else { key.section };
    let section = section.replace("NAME", "x");
    let (mut app, mut own) = ("name = \"shop\"\n".to_owned(), String::new());
    match key.section {
        "app" if key.key == "name" => app.clear(),
        "functions.NAME" if !matches!(key.key, "package" | "command") => own.push_str("package = \"f\"\n"),
        "schedules.NAME" if !matches!(key.key, "task") => own.push_str("task = \"t\"\n"),
        _ => {}
    }
    if key.section == "schedules.NAME" && !matches!(key.key, "rate" | "cron" | "at") {
        own.push_str("rate = \"1m\"\n");
    }
    let line = format!("{} = {value}\n", key.key);
    let text = if key.section == "app" {
        format!("[app]\n{app}{line}")
    } else {
        format!("[app]\n{app}[functions.f]\npackage = \"f\"\n[{section}]\n{own}{line}")
    };
    (text, format!("{section}.{}", key.key))
}

#[test]
fn every_key_of_the_reference_is_read() {
    for key in reference() {
        let wrong = if key.kind == "local time" { "true" } else { "07:30:00" };
        let (text, path) = file_with(key, wrong);
        let mistakes = Config::parse(&text, &NoVars, &Overrides::default()).expect_err(&path);
        assert!(mistakes.iter().any(|mistake| mistake.key == path), "{path}:\n{mistakes}");
    }
}

#[test]
fn every_default_of_the_reference_is_what_holds_without_the_key() {
    let mut compared = 0;
    for key in reference() {
        let literal = key.default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let Some(literal) = literal.filter(|literal| !literal.contains('`')) else { continue };
        let quoted = match key.kind.as_str() {
            "duration" | "size" => format!("{literal:?}"),
            _ if key.key == "metrics" => format!("{literal:?}"),
            _ if literal == "[]" => continue, // an empty list is not written
            _ => literal.to_owned(),
        };
        let (with, _) = file_with(key, &quoted);
        // A queue may not be asked for a GPU's keys without a GPU, nor for Lambda's without Lambda.
        let needed = match key.key {
            "max_concurrency" => "class = \"lambda\"\nfunctions = [\"f\"]\n",
            key if key.contains("gpu_") || key.ends_with("_gpu") => "gpus = 1\n",
            _ => "",
        };
        let with = with.replace("[queues.x]\n", &format!("[queues.x]\n{needed}"));
        let without = with.replace(&format!("\n{} = {quoted}\n", key.key), "\n");
        assert_ne!(with, without);
        let parse = |text: &str| Config::parse(text, &NoVars, &Overrides::default());
        let warned = |config: Config| Config { warnings: Vec::new(), ..config };
        assert_eq!(parse(&with).map(warned), parse(&without).map(warned), "{}.{}", key.section, key.key);
        compared += 1;
    }
    assert!(compared > 25, "only {compared} defaults were compared");
}

#[test]
fn the_reference_prints_one_table_for_each_section() {
    let text = reference_markdown();
    assert_eq!(text.matches("| key | type | default | meaning |").count(), 7);
    for key in reference() {
        assert!(text.contains(&format!("| `{}` | {} | {} |", key.key, key.kind, key.default)));
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,400}") {
        let _ = Config::parse(&text, &NoVars, &Overrides::default());
    }

    #[test]
    fn no_damage_to_the_example_makes_the_parser_panic_or_tell_nothing(
        start in 0_usize..EXAMPLE.len(), length in 0_usize..40, put in "[ -~\\n\"=\\[\\]{}]{0,12}",
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        let start = start.min(text.len());
        let end = (start + length).min(text.len());
        text.splice(start..end, put.chars());
        let text: String = text.into_iter().collect();
        if let Err(mistakes) = Config::parse(&text, &NoVars, &Overrides::default()) {
            let lines = text.lines().count() + 1;
            prop_assert!(mistakes.iter().count() > 0);
            for mistake in mistakes.iter() {
                let Place::File { line, .. } = mistake.place else { panic!("{mistake}") };
                prop_assert!((1..=lines).contains(&line), "{}", mistake);
                prop_assert!(!mistake.what.is_empty() && !mistake.fix.is_empty());
            }
        }
    }

    #[test]
    fn a_value_of_any_kind_at_any_key_is_read_or_refused(
        index in 0_usize..1000, value in "(-?[0-9]{1,20}|\"[ -!#-\\[\\]-~]{0,20}\"|true|\\[[0-9]\\]|\\{ a = 1 \\}|1979-05-27|nan|-inf|1e400|0xFF)",
    ) {
        let key = &reference()[index % reference().len()];
        let (text, _) = file_with(key, &value);
        let _ = Config::parse(&text, &NoVars, &Overrides::default());
    }
}

#[test]
fn on_aws_seconds_need_an_agent_that_fires_them() {
    let text = |rate: &str, class: &str| {
        format!(
            "[app]\nname = \"shop\"\nbackend = \"aws\"\n[functions.f]\npackage = \"f\"\n\
             [queues.q]\nclass = \"{class}\"\nfunctions = [\"f\"]\n[workers.w]\nqueues = [\"q\"]\n\
             [schedules.s]\nrate = \"{rate}\"\ntask = \"t\"\nqueue = \"q\"\n"
        )
    };
    let mistakes = |rate, class| {
        let parsed = Config::parse(&text(rate, class), &NoVars, &Overrides::default());
        parsed.err().map_or_else(String::new, |mistakes| mistakes.to_string())
    };
    for rate in ["30 seconds", "90 seconds"] {
        assert!(mistakes(rate, "lambda").contains("schedules.s.rate: EventBridge has no rate in seconds"), "{rate}");
        assert!(!mistakes(rate, "ecs").contains("EventBridge"), "{rate}");
    }
    assert!(!mistakes("2 minutes", "lambda").contains("EventBridge"));
}

#[test]
fn a_schedule_made_at_run_time_is_checked_as_one_of_the_file() {
    let config = parse("[queues.loose]\ntrack = \"none\"\nfunctions = [\"f\"]\n").unwrap_or_else(|mistakes| {
        panic!("{mistakes}");
    });
    let now = crate::time::Timestamp(1_800_000_000_000);
    let checked = |change: fn(&mut Definition)| {
        let mut definition = Definition { task: "t".into(), rate: Some("1m".into()), ..Definition::default() };
        change(&mut definition);
        let schedule = definition.read("s".parse().unwrap()).unwrap();
        schedule.check(&config, now).map_err(|unfit| unfit.to_string())
    };
    assert_eq!(checked(|_| ()), Ok(()));
    for (change, what) in [
        ((|it| it.queue = Some("nowhere".into())) as fn(&mut Definition), "`queue`: there is no queue `nowhere`"),
        (|it| it.queue = Some("loose".into()), "`queue`: its task goes to queue `loose`"),
        (
            |it| (it.rate, it.at) = (None, Some("2026-01-01T00:00:00".into())),
            "`at`: 2026-01-01T00:00:00 in UTC has passed",
        ),
        (|it| it.end = Some("2026-01-01T00:00:00".into()), "`end`: it has passed"),
        (|it| (it.rate, it.cron) = (None, Some("0 0 1 1 ? 2026".into())), "`cron`: "),
    ] {
        let refusal = checked(change).unwrap_err();
        assert!(refusal.starts_with(what), "{refusal}");
    }
}

#[test]
fn a_task_says_itself_which_failures_are_tried_again_in_place_of_its_queue() {
    let config = parse(
        "[queues.q]\nnever_retry_on = [\"ValueError\"]\n[tasks.t]\nqueue = \"q\"\nretry_on = [\"Timeout\"]\n[tasks.u]\nqueue = \"q\"\n",
    )
    .unwrap();
    let queue = &config.queues["q"];
    let on = |task: Option<&str>| TaskPolicy::new(queue, task.map(|task| &config.tasks[task])).retry.on;
    let never = RetryOn::Never(vec!["ValueError".into()]);
    assert_eq!((on(None), on(Some("u"))), (never.clone(), never));
    assert_eq!(on(Some("t")), RetryOn::Only(vec!["Timeout".into()]));
}
