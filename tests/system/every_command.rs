//! Every command over whichever backend the tests run on, told in one table: the same words and codes on all of them.

use std::{fs::File, path::Path};

use rhubarb_tests::{App, PATIENCE, Ran, over_aws};
use serde_json::Value;

const QUEUES: &str = r#"
[queues.default]
[queues.high]
[queues.low]
[schedules.nightly]
cron = "0 3 * * *"
task = "noop"
queue = "high"
[workers.all]
queues = ["default"]
concurrency = 2
"#;

/// A line is the exit code, the command, and what it tells: words (of standard error where it fails), or with
/// `--json` what one of the documents has at a place. `<name>` is the id of a task; quotes are as in a shell.
const TABLE: &str = r#"
0  | check                                                                | rhubarb.toml is fine & no worker serves it
0  | check --json                                                         | /ok=true & /warnings/0/key=queues.high
64 | --config missing.toml check                                          | missing.toml
0  | config                                                               | `[queues.NAME]` & max_attempts
0  | config --json                                                        | /key=max_attempts & /section=queues.NAME
0  | schema                                                               | "A task's message"
0  | schema --json                                                        | /$id=urn:rhubarb:envelope:1
0  | completions bash                                                     | _rhubarb()
2  | completions basic                                                    | fish
64 | agent nobody                                                         | nobody

0  | enqueue echo --args '{"value": {"a": 1}}' --wait                     | {"a":1}
0  | enqueue echo --args - --wait --json                                  | /state=succeeded & /output=7
0  | enqueue say --args '{"text": "printed"}' --id <done> --wait          | null
1  | enqueue fail --args '{"times": 9, "fatal": true}' --id <bad> --wait  | told to fail attempt 1
1  | enqueue fail --args '{"times": 9, "fatal": true}' --id <worse> --wait --json | /state=failed & /id=<worse>
0  | enqueue family --args '{"children": 2}' --id <parent> --wait --json  | /state=succeeded
0  | enqueue noop --queue low --id <waits> --json                         | /id=<waits> & /existing=false
0  | enqueue noop --queue low --id <eta> --eta 2100-01-01T00:00:00Z       | <eta>
0  | enqueue echo --args @args.json --queue high --delay 1h --expires 2h --timeout 30s --max-attempts 2 --gpus 0 --id <later> --idempotency-key k --window 2h --fairness-key f --concurrency-key c | <later>
0  | task <later> --json                                                  | /state=scheduled & /queue=high & /spec/args/value=7 & /spec/timeout_ms=30000 & /spec/max_attempts=2 & /spec/gpus=0 & /spec/idempotency_key=k & /spec/fairness_key=f & /spec/concurrency_key=c
0  | enqueue echo --args '{"value": 7}' --queue high --idempotency-key k --json | /id=<later> & /existing=true
2  | enqueue echo --args '{"value": 8}' --queue high --idempotency-key k  | <later> & other arguments
2  | enqueue echo --id <later>                                            | <later> & scheduled
2  | enqueue echo --ordering-key o                                        | `ordering_key` & fifo = true
2  | enqueue echo --gpus 1                                                | `gpus` of 1 & no queue has as many
2  | enqueue echo --args '{not json'                                      | JSON
64 | enqueue echo --queue hihg                                            | hihg
2  | enqueue ../x                                                         | task name

0  | tasks                                                                | <done> & <bad> & <later> & <waits>
0  | tasks --state failed --queue default --since 1h --limit 9 --json     | /id=<bad> & /id=<worse>
0  | tasks --state scheduled --task echo --json                           | /id=<later>
0  | tasks --root <parent> --json                                         | /task=echo
2  | tasks --state asleep                                                 | asleep
0  | task <done>                                                          | state        succeeded & attempts     1 of 3
0  | task <done> --json                                                   | /attempts/0/outcome=succeeded & /attempts/0/worker=one
0  | task <waits>                                                         | no worker serves queue low
1  | task <nobody>                                                        | there is no task <nobody>
2  | task ../../etc/passwd                                                | task id
0  | result <done>                                                        | null
0  | result <parent> --json                                               | /0=
1  | result <bad>                                                         | told to fail
1  | result <waits>                                                       | is queued
1  | result <nobody>                                                      | no task
0  | logs <done>                                                          | printed
0  | logs <done> --attempt 1 --json                                       | /outcome=succeeded & /dropped=0
2  | logs <done> --attempt 2                                              | has no attempt 2
0  | trace <parent>                                                       | attempt 1 began on one & attempt 1 succeeded
0  | trace <parent> --json                                                | /depth=0 & /parent=<parent>

0  | queues                                                               | one & no live worker
0  | queues --json                                                        | /queue=high & /served_by/0=one & /delayed=1 & /dead=2
0  | workers                                                              | one & running & default
0  | workers --json                                                       | /id=one & /alive=true & /queues/0=default
2  | gpus release GPU-1 --locks nowhere                                   | GPU-1 is in no quarantine of nowhere
2  | gpus release ../GPU-1                                                | no UUID of a device
0  | pause high                                                           | queue high is paused
0  | pause high low --json                                                | /queue=low & /paused=true
0  | queues                                                               | PAUSED
0  | resume high low --json                                               | /queue=low & /paused=false
0  | resume high                                                          | queue high is open again
64 | pause hihg                                                           | hihg
0  | cancel <later>                                                       | <later> cancelled
0  | cancel <eta> --json                                                  | /id=<eta> & /state=cancelled
0  | enqueue nap --args '{"ms": 600000}' --id <long>                      | <long>
0  | cancel <long>                                                        | <long>
0  | logs <long> --follow                                                 |
0  | task <long>                                                          | state        cancelled
2  | cancel <done>                                                        | is succeeded: there is nothing to cancel
1  | cancel <nobody>                                                      | no task
2  | purge low                                                            | --yes
0  | purge low --yes                                                      | message
0  | tasks --state cancelled --queue low --json                           | /id=<waits> & /id=<eta>
0  | purge default --yes --json                                           | /queue=default
64 | purge hihg --yes                                                     | hihg

0  | dead list                                                            | <bad> & <worse> & told to fail
0  | dead list --task fail --reason error --json                          | /id=<bad> & /failure/kind=error
0  | dead show <bad>                                                      | state        failed
2  | dead show <done>                                                     | is succeeded, no dead letter
0  | dead discard <bad>                                                   | <bad> discarded
2  | dead discard                                                         | --reason
0  | dead redrive --queue default --json                                  | /id=<worse> & /done=redriven

0  | schedules list --json                                                | /name=nightly & /from_file=true & /cron=0 3 * * ? *
0  | schedules next nightly -n 2                                          | T03:00:00Z
0  | schedules run nightly --json                                         | /id=
0  | tasks --queue high --state queued --json                             | /task=noop
0  | schedules create pulse --rate 2h --task noop --queue low             | created schedule pulse
2  | schedules create pulse --rate 2h --task noop --queue low             | there is a schedule `pulse` already
0  | schedules pause pulse --json                                         | /name=pulse & /done=paused
0  | schedules show pulse                                                 | paused
0  | schedules resume pulse                                               | resumed schedule pulse
0  | schedules update pulse --cron '*/5 * * * *'                          | updated schedule pulse
0  | schedules show pulse --json                                          | /cron=*/5 * * * ? * & /paused=false
0  | schedules delete pulse                                               | deleted schedule pulse
2  | schedules delete nightly                                             | rhubarb.toml
"#;

const TASKS: [&str; 9] = ["done", "long", "bad", "worse", "parent", "waits", "eta", "later", "nobody"];

/// The names of tasks as ids.
fn named(text: &str) -> String {
    TASKS.iter().enumerate().fold(text.to_owned(), |text, (number, name)| {
        text.replace(&format!("<{name}>"), &format!("0198a3c2-7b1e-7d30-9c5f-2f1c8d9e0a4{number}"))
    })
}

/// The words of a command line: what stands in quotes is one.
fn words(line: &str) -> Vec<String> {
    let pieces = line.split('\'').enumerate();
    let of = |(index, piece): (usize, &str)| match index % 2 {
        0 => piece.split_whitespace().map(ToOwned::to_owned).collect(),
        _ => vec![piece.to_owned()],
    };
    pieces.flat_map(of).collect()
}

/// Whether a document has this value at this place; an empty one stands for any.
fn has(document: &Value, place: &str, value: &str) -> bool {
    document.pointer(place).is_some_and(|found| {
        let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        value.is_empty() || found == value
    })
}

async fn run(app: &App, arguments: &[String], input: &Path) -> Ran {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = app.command(&arguments);
    let output = command.stdin(File::open(input).unwrap()).output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn check(line: &str, ran: &Ran, code: &str, tells: &str, is_json: bool) {
    assert_eq!(ran.code.map(|code| code.to_string()).as_deref(), Some(code), "{line}: {ran:?}");
    let documents = ran.stdout.lines().filter(|_| is_json).map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let documents = documents.map_err(|error| format!("{line}: no JSON, {error}: {ran:?}")).unwrap();
    for told in tells.split(" & ") {
        let is_told = match told.split_once('=').filter(|_| is_json && told.starts_with('/')) {
            Some((place, value)) => documents.iter().any(|document| has(document, place, value)),
            None => ran.stdout.contains(told) || ran.stderr.contains(told),
        };
        assert!(is_told, "{line}: `{told}` is missing: {ran:?}");
    }
}

#[tokio::test]
async fn every_command_tells_the_same_over_every_backend() {
    let app = App::new(QUEUES);
    let input = app.path().join("args.json");
    std::fs::write(&input, r#"{"value": 7}"#).unwrap();
    let agent = app.agent(&["all", "--name", "one"]).await;
    let urls = if over_aws() { "0 | queues --urls --json | /queue=high & /url=" } else { "2 | queues --urls | --aws" };
    for line in TABLE.lines().chain([urls]).filter(|line| !line.is_empty()) {
        let cells = named(line);
        let cells: Vec<&str> = cells.splitn(3, '|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{line}");
        let (code, command, tells) = (cells[0], cells[1], cells[2]);
        let arguments = words(command);
        let ran = run(&app, &arguments, &input).await;
        check(line, &ran, code, tells, arguments.iter().any(|word| word == "--json"));
    }
    agent.stop().await;
}
