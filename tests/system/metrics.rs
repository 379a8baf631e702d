//! The agent's page, read by Prometheus's own parser and scraped by a real Prometheus; every query of every
//! dashboard against it; and a task's story from the store alone.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use rhubarb::core::row::State;
use rhubarb_telemetry::metrics::table::{INSTRUMENTS, Kind, table};
use rhubarb_tests::{AgentProcess, App, enqueue, over_aws, settled, until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

const PLATFORM: &str = r#"
[queues.work]
timeout = "10s"
max_running = 50
max_running_per_key = 50
max_attempts = 2
backoff = { initial = "1ms", factor = 1 }
[queues.idle]
[workers.all]
queues = ["work", "idle"]
concurrency = 2
"#;

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// An agent with its page on a free port, and the address of that.
async fn agent_with_page(app: &App) -> (AgentProcess, SocketAddr) {
    // Makes queues and table on an emulator.
    let _ = app.client().await;
    let mut command = app.command(&["agent", "all", "--metrics", "127.0.0.1:0"]);
    command.env_remove("RHUBARB_METRICS");
    let agent = AgentProcess::start(command).await;
    let line = agent.log().lines().find(|line| line.contains("metrics and health at")).unwrap().to_owned();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    (agent, address.parse().unwrap())
}

/// Runs tasks of every fate, and waits until they are settled.
async fn work(app: &App) {
    let client = app.client().await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(enqueue(&client, "echo", json!({"value": n}), "work").await);
    }
    ids.push(enqueue(&client, "fail", json!({"times": 1}), "work").await);
    ids.push(enqueue(&client, "fail", json!({"times": 9}), "work").await);
    ids.push(enqueue(&client, "once", json!({"key": "k", "times": 1, "queue": "idle"}), "work").await);
    for id in ids {
        settled(&client, id).await;
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The families of a page as Prometheus's own Python client reads them: their names with samples, and those whose
/// type is a counter.
async fn parsed(page: &str) -> Value {
    let script = "import json, sys\n\
        from prometheus_client.parser import text_string_to_metric_families as parse\n\
        print(json.dumps([{'name': f.name, 'type': f.type, 'help': f.documentation,\n\
            'samples': [[s.name, s.labels, s.value] for s in f.samples]} for f in parse(sys.stdin.read())]))";
    let mut python = Command::new(root().join(".venv/bin/python"))
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let page = page.to_owned();
    let write = tokio::spawn(async move { stdin.write_all(page.as_bytes()).await });
    let output = python.wait_with_output().await.unwrap();
    write.await.unwrap().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The sum of a family's samples of this name and these labels.
fn sum(families: &Value, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = families.as_array().unwrap().iter().flat_map(|family| family["samples"].as_array().unwrap());
    let fits = |sample: &&Value| {
        sample[0] == name && labels.iter().all(|(label, value)| sample[1][*label].as_str() == Some(value))
    };
    samples.filter(fits).map(|sample| sample[2].as_f64().unwrap()).sum()
}

#[tokio::test]
async fn the_page_tells_what_happened_in_the_words_of_the_table() {
    let app = App::new(PLATFORM);
    let (agent, address) = agent_with_page(&app).await;
    work(&app).await;
    let page = until(async || {
        let (_, page) = get(address, "/metrics").await;
        let families = parsed(&page).await;
        (sum(&families, "rhubarb_task_settled_total", &[]) >= 24.0
            && sum(&families, "rhubarb_queue_workers", &[("queue_name", "work")]) > 0.0)
            .then_some(families)
    })
    .await;
    let settled = |labels: &[(&str, &str)]| sum(&page, "rhubarb_task_settled_total", labels);
    assert_eq!(settled(&[("task_name", "echo"), ("task_state", "succeeded")]), 20.0);
    assert_eq!(settled(&[("task_name", "fail"), ("task_state", "failed")]), 1.0);
    assert_eq!(settled(&[("queue_name", "idle"), ("task_name", "noop")]), 1.0);
    let failed = [("queue_name", "work"), ("task_name", "fail")];
    assert_eq!(sum(&page, "rhubarb_task_retries_total", &failed), 2.0);
    assert_eq!(sum(&page, "rhubarb_task_attempts_total", &[("task_outcome", "failed")]), 3.0);
    assert_eq!(sum(&page, "messaging_process_duration_seconds_count", &[("task_name", "echo")]), 20.0);
    assert_eq!(sum(&page, "rhubarb_task_wait_duration_seconds_count", &failed), 2.0, "first attempts alone");
    assert_eq!(sum(&page, "rhubarb_worker_slots", &[]), 2.0);
    assert!(sum(&page, "rhubarb_worker_heartbeat_time_seconds", &[]) > 1.7e9);
    assert!(sum(&page, "rhubarb_function_starts_total", &[("function_name", "scripted")]) >= 1.0);
    assert_eq!(sum(&page, "rhubarb_workers", &[("worker_state", "running")]), 1.0);
    if rhubarb_tests::over_aws() {
        let sent = sum(&page, "rhubarb_aws_requests_total", &[("rpc_service", "SQS")]);
        assert!(sent > 0.0);
    }
    // Whatever stands on the page stands in the table, with its meaning; and by the table's kinds.
    for family in page.as_array().unwrap().iter().filter(|family| family["name"] != "target") {
        let name = family["name"].as_str().unwrap();
        if name == "target_info" {
            continue;
        }
        let of = |i: &&rhubarb_telemetry::metrics::table::Instrument| {
            i.prometheus_name().trim_end_matches("_total") == name.trim_end_matches("_total")
        };
        let instrument = INSTRUMENTS.iter().find(of);
        assert!(instrument.is_some(), "{name} is in no table");
        let instrument = instrument.unwrap();
        let kind = match instrument.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(
            (family["type"].as_str(), family["help"].as_str()),
            (Some(kind), Some(instrument.meaning)),
            "{name}"
        );
        for sample in family["samples"].as_array().unwrap() {
            for label in sample[1].as_object().unwrap().keys().filter(|label| *label != "le") {
                let known = instrument.attributes.iter().any(|attribute| attribute.replace('.', "_") == *label);
                assert!(known, "{name} has no {label} in the table");
            }
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_is_well_and_ready_until_it_drains() {
    let app = App::new(PLATFORM);
    let client = app.client().await;
    let (mut agent, address) = agent_with_page(&app).await;
    until(async || (get(address, "/readyz").await.0 == 200).then_some(())).await;
    assert_eq!(get(address, "/healthz").await, (200, "ok\n".to_owned()));
    let asked = ["health", "--metrics", &address.to_string()];
    let told = app.run(&asked).await;
    assert_eq!((told.code, told.stdout.trim()), (Some(0), "ok"));
    // Something runs, so that the drain takes its time.
    let id = enqueue(&client, "nap", json!({"ms": 9000}), "work").await;
    rhubarb_tests::reached(&client, id, State::Running).await;
    agent.signal(rustix::process::Signal::TERM);
    agent.saw("drains").await;
    let (code, told) = until(async || Some(get(address, "/readyz").await).filter(|(code, _)| *code != 200)).await;
    assert!(code == 503 && told.contains("is draining"), "{code} {told}");
    assert_eq!(get(address, "/healthz").await.0, 200);
    agent.signal(rustix::process::Signal::TERM);
    agent.ended().await;
    let gone = app.run(&asked).await;
    assert!(gone.code == Some(69) && gone.stderr.contains("no agent answers"), "{:?} {}", gone.code, gone.stderr);
}

#[tokio::test]
async fn permits_that_are_taken_and_tasks_that_wait_for_one_are_told() {
    let app = App::new("[queues.work]\nmax_running = 1\nmax_running_per_key = 1\n[workers.all]\nqueues = [\"work\"]\n");
    let client = app.client().await;
    let (agent, address) = agent_with_page(&app).await;
    let long = enqueue(&client, "nap", json!({"ms": 600_000}), "work").await;
    rhubarb_tests::reached(&client, long, State::Running).await;
    let parked = enqueue(&client, "noop", json!({}), "work").await;
    rhubarb_tests::reached(&client, parked, State::Waiting).await;
    let is_told = |page: &Value| {
        let of = |name, scope| sum(page, name, &[("queue_name", "work"), ("permit_scope", scope)]);
        assert!(of("rhubarb_permit_taken", "key") == 0.0, "it has no key");
        (of("rhubarb_permit_taken", "queue"), of("rhubarb_permit_parked", "queue")) == (1.0, 1.0)
            && (of("rhubarb_permit_limit", "queue"), of("rhubarb_permit_limit", "key")) == (1.0, 1.0)
    };
    until(async || is_told(&parsed(&get(address, "/metrics").await.1).await).then_some(())).await;
    client.cancel(&[long, parked]).await;
    settled(&client, long).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_taken_port_does_not_stop_an_agent() {
    let app = App::new(PLATFORM);
    let (first, address) = agent_with_page(&app).await;
    let address = address.to_string();
    let second = AgentProcess::start(app.command(&["agent", "all", "--metrics", &address])).await;
    let (_, log) = second.stop().await;
    let told = log.lines().find(|line| line.contains("metrics and health at")).unwrap();
    assert!(!told.contains(&address), "{told}");
    first.stop().await;
}

#[tokio::test]
async fn a_trace_is_told_from_the_store_alone() {
    let app = App::new(PLATFORM);
    let agent = app.agent(&["all"]).await;
    let client = app.client().await;
    let id = enqueue(&client, "once", json!({"key": "k", "times": 1, "queue": "idle"}), "work").await;
    settled(&client, id).await;
    let child = client.output::<Vec<rhubarb::TaskId>>(id).await.unwrap()[0];
    settled(&client, child).await;
    agent.stop().await;
    let lines = until(async || {
        let ran = app.run(&["trace", &id.to_string(), "--json"]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 2).then_some(lines)
    })
    .await;
    let place = |line: &Value| (line["depth"].as_u64(), line["id"].as_str().unwrap().to_owned());
    assert_eq!([place(&lines[0]), place(&lines[1])], [(Some(0), id.to_string()), (Some(1), child.to_string())]);
    assert_eq!(lines[1]["parent"], id.to_string());
    let events: Vec<&str> =
        lines[1]["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["accepted", "began", "ended"]);
    let told = app.run(&["trace", &id.to_string()]).await.stdout;
    assert!(told.contains("└─ noop") && told.contains("attempt 1 succeeded"), "{told}");
}

#[test]
fn the_table_in_the_readme_is_the_codes() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once("<!-- begin metrics -->\n\n").unwrap();
    let (written, _) = after.split_once("\n<!-- end metrics -->").unwrap();
    assert_eq!(written, table(), "README.md: put this between the two comments:\n{}", table());
}

/// Debian's Prometheus, where `tests/run` could have it.
fn tool(name: &str) -> Option<PathBuf> {
    let fetched = root().join(".venv/prometheus/usr/bin").join(name);
    let installed = Path::new("/usr/bin").join(name);
    [fetched, installed].into_iter().find(|path| path.exists())
}

/// Ends the server with the test.
struct Prometheus {
    _child: Child,
    address: SocketAddr,
    _data: tempfile::TempDir,
}

impl Prometheus {
    /// A Prometheus with our rules that scrapes this page each second.
    async fn start(program: &Path, page: SocketAddr) -> Self {
        let data = tempfile::tempdir().unwrap();
        let rules = root().join("infra/observability/prometheus/rules.yaml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n  \
             - {{job_name: rhubarb, static_configs: [{{targets: ['{page}']}}]}}\n",
            rules.display()
        );
        let file = data.path().join("prometheus.yaml");
        std::fs::write(&file, config).unwrap();
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        until(async || TcpStream::connect(address).await.ok()).await;
        Self { _child: child, address, _data: data }
    }

    /// The series that a query finds; an error of the query fails the test.
    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (code, body) = get(self.address, &format!("/api/v1/query?query={encoded}")).await;
        if code == 503 {
            return Vec::new();
        }
        let answer: Value = serde_json::from_str(body.trim()).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

/// The queries of a dashboard that go to Prometheus, with the variables that stand for everything filled in.
fn queries(dashboard: &str) -> Vec<String> {
    let path = root().join("infra/observability/grafana/dashboards").join(dashboard);
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["datasource"]["type"] == "prometheus" {
            let of = |target: &Value| target["expr"].as_str().unwrap().replace("$queue", ".*").replace("$task", ".*");
            queries.extend(panel["targets"].as_array().unwrap().iter().map(of));
        }
    }
    assert!(!queries.is_empty());
    queries
}

#[tokio::test]
async fn every_query_of_the_dashboards_finds_data() {
    let Some(program) = tool("prometheus") else {
        println!("skipped: no Prometheus: Debian's package `prometheus` could not be had");
        return;
    };
    let app = App::new(PLATFORM);
    let (agent, address) = agent_with_page(&app).await;
    let prometheus = Prometheus::start(&program, address).await;
    // A rate needs two scrapes of a counter that moved in between.
    work(&app).await;
    until(async || (!prometheus.query("rhubarb_task_settled_total").await.is_empty()).then_some(())).await;
    work(&app).await;
    let moved = "sum(rate(rhubarb_task_settled_total[1m])) > 0 and on() rhubarb_queue_workers";
    until(async || (!prometheus.query(moved).await.is_empty()).then_some(())).await;
    for dashboard in ["queues.json", "tasks.json", "workers.json"] {
        for query in queries(dashboard) {
            let what = format!("{dashboard}: {query}");
            // On AWS counting the tasks of each state would read too many index entries: nobody tells them.
            if over_aws() && query.contains("rhubarb_queue_tasks") {
                println!("skipped: {what}: told over the embedded backend alone");
                continue;
            }
            until(async || (!prometheus.query(&query).await.is_empty()).then_some(())).await;
            println!("ok: {what}");
        }
    }
    // GPUs are told by an exporter of NVIDIA's that needs one: here the queries are only understood.
    for query in queries("gpus.json") {
        prometheus.query(&query).await;
    }
    let firing = prometheus.query("ALERTS{alertname!=\"RhubarbTasksFailed\",alertstate=\"firing\"}").await;
    assert!(firing.is_empty(), "{firing:?}");
    agent.stop().await;
}

#[tokio::test]
async fn the_rules_pass_promtool_and_fire_as_their_tests_say() {
    let Some(promtool) = tool("promtool") else {
        println!("skipped: no promtool: Debian's package `prometheus` could not be had");
        return;
    };
    let folder = root().join("infra/observability/prometheus");
    for arguments in [["check", "config", "prometheus.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let output = Command::new(&promtool).args(arguments).current_dir(&folder).output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
    }
}
