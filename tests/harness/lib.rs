//! What the whole-system tests share: an application in a folder of its own, and real agents.
//!
//! Agents are processes of the `rhubarb` command, so that they can be killed; functions are processes of
//! theirs. Everything is stopped by its own handle, also when a test fails.
//!
//! Every application of a test runs over the embedded backend, or, where `RHUBARB_TEST_BACKEND` says `aws`, over
//! SQS, DynamoDB and S3 of an emulator of its own.

pub mod cloud;
pub mod fuzz;
pub mod gpus;

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rhubarb::{
    Client,
    core::{backend::TaskDetail, ids::TaskId, row::State},
};
use serde_json::{Value, value::RawValue};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::mpsc,
};

use crate::cloud::Cloud;

/// Nothing that a test waits for takes so long on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The path of a binary of this workspace, built beside the test.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let mut folder = exe.parent().unwrap_or(Path::new(".")).to_owned();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder.join(name)
}

/// An application: a folder with a `rhubarb.toml`, and its store below it or on an emulator.
pub struct App {
    dir: TempDir,
    cloud: Option<Cloud>,
}

/// True where the tests' applications run over an emulator of AWS.
#[must_use]
pub fn over_aws() -> bool {
    std::env::var("RHUBARB_TEST_BACKEND").is_ok_and(|backend| backend == "aws")
}

impl App {
    /// An application with these queues (TOML); the function `scripted` is there, and
    /// runs every queue that names no other. `{lease}` is the shortest lease that its backend allows.
    #[must_use]
    pub fn new(toml: &str) -> Self {
        Self::over(toml, over_aws())
    }

    /// An application over an emulator, or over the embedded backend, whatever the other tests run over.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test cannot go on without its folder")]
    pub fn over(toml: &str, aws: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let scripted = binary("scripted");
        let scripted = scripted.to_string_lossy();
        let cloud = aws.then(Cloud::start);
        let backend = cloud.as_ref().map(Cloud::settings).unwrap_or_default();
        let lease = if aws { "3s" } else { "1s" };
        let text = format!(
            "[app]\nname = \"tests\"\n{backend}\n[functions.scripted]\ncommand = ['{scripted}']\n\n{}\n",
            toml.replace("{scripted}", &scripted).replace("{lease}", lease),
        );
        std::fs::write(dir.path().join("rhubarb.toml"), text).expect("rhubarb.toml can be written");
        Self { dir, cloud }
    }

    /// The emulator that it runs over, its queues, table and bucket made.
    async fn cloud(&self) -> Option<&Cloud> {
        let cloud = self.cloud.as_ref()?;
        cloud.make(self.path()).await;
        Some(cloud)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A client of it.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its client")]
    #[must_use]
    pub async fn client(&self) -> Client {
        match self.cloud().await {
            Some(cloud) => cloud.client(self.path()).await,
            None => Client::open(self.path()).await.expect("the application opens"),
        }
    }

    /// The `rhubarb` command in its folder, with these arguments.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("rhubarb"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null()).kill_on_drop(true);
        // The ports that agents take by default are few, and the tests that run at once are many.
        command.env_remove("RUST_LOG").env("RHUBARB_METRICS", "off").envs(self.variables());
        command
    }

    /// The variables that lead a program to its emulator; none over the embedded backend.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        self.cloud.as_ref().map(Cloud::variables).unwrap_or_default()
    }

    /// Runs the command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.cloud().await;
        Ran::of(self.command(arguments)).await
    }

    /// Starts an agent with these arguments and waits until it is ready.
    pub async fn agent(&self, arguments: &[&str]) -> AgentProcess {
        self.cloud().await;
        let mut all = vec!["agent"];
        all.extend(arguments);
        AgentProcess::start(self.command(&all)).await
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

impl Ran {
    /// Runs a command to its end.
    #[expect(clippy::expect_used, reason = "a test cannot go on without the command")]
    pub async fn of(mut command: Command) -> Self {
        let output = tokio::time::timeout(PATIENCE, command.output());
        let output = output.await.expect("the command ends").expect("the command starts");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A running agent. All that it logs is read at once: a full pipe would stop it.
pub struct AgentProcess {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    log: String,
}

impl AgentProcess {
    /// Starts an agent by this command and waits until it is ready.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its agent")]
    pub async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the agent starts");
        let stderr = child.stderr.take().expect("stderr is piped").into_owned_fd().expect("a pipe");
        let mut stderr = BufReader::new(File::from(stderr));
        let (tell, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let mut agent = Self { child, lines, log: String::new() };
        agent.saw("is ready").await;
        agent
    }

    /// Waits until the agent logs a line with this text.
    pub async fn saw(&mut self, text: &str) {
        let find = async {
            while let Some(line) = self.lines.recv().await {
                self.log.push_str(&line);
                if line.contains(text) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(PATIENCE, find).await;
        assert_eq!(found, Ok(true), "the agent never logged `{text}`; it logged:\n{}", self.log);
    }

    /// What it has logged, as far as it was read.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Ends it as a power cut would.
    pub async fn kill(mut self) {
        // It may be gone already.
        let _ = self.child.kill().await;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It may be gone already.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Stops it (SIGSTOP) where it keeps nobody from writing to the embedded store in this folder: its writers wait
    /// for one that was stopped in the middle of a write.
    pub async fn freeze(&self, app: &App) {
        until(async || {
            self.signal(rustix::process::Signal::STOP);
            until(async || has_stopped(self.id()).then_some(())).await;
            let may_write = app.cloud.is_some() || is_unlocked(&app.path().join(".rhubarb"));
            if !may_write {
                self.signal(rustix::process::Signal::CONT);
            }
            may_write.then_some(())
        })
        .await;
    }

    /// Asks it to drain and waits for its end; returns its exit status and what it logged.
    pub async fn stop(self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// Waits for its end; returns its exit status and what it logged.
    #[expect(clippy::expect_used, reason = "an agent that never ends fails the test")]
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let end = async {
            while let Some(line) = self.lines.recv().await {
                self.log.push_str(&line);
            }
            self.child.wait().await
        };
        let status = tokio::time::timeout(PATIENCE, end).await.expect("the agent ends").expect("the agent is reaped");
        (status, std::mem::take(&mut self.log))
    }
}

/// A test that fails tells what its agents logged.
impl Drop for AgentProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            while let Ok(line) = self.lines.try_recv() {
                self.log.push_str(&line);
            }
            eprintln!("the agent, process {}, logged:\n{}", self.id(), self.log);
        }
    }
}

/// Enqueues a task of the scripted function.
#[expect(clippy::expect_used, reason = "a test cannot go on without its task")]
pub async fn enqueue(client: &Client, task: &str, args: Value, queue: &str) -> TaskId {
    let args = RawValue::from_string(args.to_string()).expect("JSON");
    let name = task.parse().expect("a task name");
    client.enqueue_named(name, args).queue(queue).await.expect("the task is accepted").id()
}

/// Waits until a task is settled.
#[expect(clippy::expect_used, reason = "a task that never settles fails the test")]
pub async fn settled(client: &Client, id: TaskId) -> TaskDetail {
    let state = client.wait(id, PATIENCE).await.expect("the task settles");
    assert!(state.is_settled(), "task {id} is still {state}");
    client.task(id).await.expect("the task is there")
}

/// Waits until a task is in this state.
#[expect(clippy::expect_used, reason = "a task that is not there fails the test")]
pub async fn reached(client: &Client, id: TaskId, state: State) -> TaskDetail {
    until(async || {
        let detail = client.task(id).await.expect("the task is there");
        (detail.record.state == state).then_some(detail)
    })
    .await
}

/// Asks again and again until there is an answer: for facts that nothing announces.
#[expect(clippy::expect_used, reason = "a fact that never comes true fails the test")]
pub async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    // An emulator that is asked all the time does nothing else.
    let pause = Duration::from_millis(if over_aws() { 100 } else { 10 });
    let found = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("it comes true in time")
}

/// Lets a moment pass that every process's view of the store's clock agrees on. AWS tells its clock in whole
/// seconds, so two processes may judge it a second apart; the embedded store's is the machine's.
pub async fn a_clear_moment() {
    if over_aws() {
        let begun = std::time::Instant::now();
        until(async || (begun.elapsed() > Duration::from_secs(2)).then_some(())).await;
    }
}

/// True while a process with this id is there (and is no zombie).
#[must_use]
pub fn is_running(pid: u32) -> bool {
    state_in(&format!("/proc/{pid}/stat")).is_some_and(|state| state != "Z" && state != "X")
}

/// True if every thread of this process is stopped.
#[expect(clippy::expect_used, reason = "a process that is gone fails the test")]
fn has_stopped(pid: u32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    threads.all(|thread| {
        let stat = thread.expect("its threads can be listed").path().join("stat");
        state_in(&stat.to_string_lossy()).as_deref() == Some("T")
    })
}

/// The letter by which the kernel tells the state of a process or a thread, where it is there.
fn state_in(stat: &str) -> Option<String> {
    let stat = std::fs::read_to_string(stat).ok()?;
    Some(stat.rsplit(')').next()?.split_whitespace().next()?.to_owned())
}

/// True if no process holds a lock of the writers in the folder of an embedded store.
#[expect(clippy::expect_used, reason = "a store without its locks fails the test")]
fn is_unlocked(store: &Path) -> bool {
    ["turn.lock", "write.lock"].iter().all(|name| {
        let lock = File::options().write(true).open(store.join(name)).expect("the store has this lock");
        lock.try_lock().is_ok()
    })
}
