//! The agent's side of the GPU helper: a [`GpuSource`] that asks a process of its own.
//!
//! The helper is started when something is first asked, and asked one question at a time, each with a bound. One that
//! is silent, dies or says what is no answer is killed, and the next question starts another after a pause that grows;
//! so does a driver that hangs for good: its devices stay unknown, and nothing else of the agent waits for them. The
//! helper ends when the agent does, because its standard input ends.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::Path,
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use rhubarb_core::gpu::{
    GpuDevice, GpuError, GpuReading, GpuSource, Visible, mps, visible,
    wire::{GpuAnswer, GpuQuestion, LINE_BYTES_MAX, TEXT_BYTES_MAX},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
    time::{Instant, timeout},
};

/// The first answer: without NVIDIA's persistence daemon the driver sets up every device first.
pub const FIRST_ANSWER_MAX: Duration = Duration::from_secs(60);
/// Every other one.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);
/// CUDA's start and a kernel of microseconds.
pub const PROBE_MAX: Duration = Duration::from_secs(30);
/// The pause before a helper is started again, and the longest that it grows to.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A probe's exit code for a device that failed; its first line says why.
pub const SICK: u8 = 1;

/// What both processes get of the agent's environment: what a program needs to run and to find the driver.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_CACHE_PATH",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY",
];

/// How a machine's GPUs are asked.
#[derive(Clone, Debug, Default)]
pub struct HelperOptions {
    /// The command that answers [`GpuQuestion`]s.
    pub helper: Vec<OsString>,
    /// The command that probes the device whose UUID is added to it.
    pub probe: Vec<OsString>,
    /// What both get as environment.
    pub env: Vec<(OsString, OsString)>,
    /// Which devices may be used.
    pub visible: Visible,
    /// [`mps::MPS_LIMIT`].
    pub mps: Option<String>,
}

impl HelperOptions {
    /// `exe` answers as the `rhubarb` command does. `RHUBARB_GPU_SOURCE` and `RHUBARB_GPU_PROBE` among `vars` are
    /// commands in place of both processes, for machines that have no driver to test with.
    #[must_use]
    pub fn new(exe: &Path, vars: &[(OsString, OsString)]) -> Self {
        let var = |name: &str| {
            let found = vars.iter().find(|(known, _)| known == OsStr::new(name));
            found.map(|(_, value)| value.to_string_lossy().into_owned())
        };
        let command = |name: &str, mode: &str| match var(name).filter(|command| !command.trim().is_empty()) {
            Some(command) => command.split_whitespace().map(OsString::from).collect(),
            None => vec![exe.into(), mode.into()],
        };
        let inherited = vars.iter().filter(|(name, _)| INHERITED.iter().any(|allowed| OsStr::new(allowed) == name));
        Self {
            helper: command("RHUBARB_GPU_SOURCE", "gpu-helper"),
            probe: command("RHUBARB_GPU_PROBE", "gpu-probe"),
            env: inherited.cloned().collect(),
            visible: Visible { nvidia: var("NVIDIA_VISIBLE_DEVICES"), cuda: var("CUDA_VISIBLE_DEVICES") },
            mps: var(mps::MPS_LIMIT).filter(|limits| !limits.is_empty()),
        }
    }
}

/// Asks the helper.
#[derive(Debug)]
pub struct GpuHelper {
    options: HelperOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    /// There is no driver: nothing is asked any more.
    is_absent: bool,
    /// The driver has listed its devices before.
    has_listed: bool,
    /// When the next helper may be started, and how long the pause before it was.
    pause: Option<(Instant, Duration)>,
    xids: Xids,
}

impl GpuHelper {
    /// Asks by these commands. Nothing is started yet.
    #[must_use]
    pub fn new(options: HelperOptions) -> Self {
        Self { options, state: Mutex::default() }
    }

    async fn ask(&self, state: &mut State, question: GpuQuestion) -> Result<GpuAnswer, GpuError> {
        if let Some((next, _)) = state.pause.filter(|(next, _)| state.process.is_none() && *next > Instant::now()) {
            let seconds = next.duration_since(Instant::now()).as_secs() + 1;
            return Err(GpuError::Unavailable(format!("its helper failed and is started again in {seconds} s")));
        }
        // Taken out: a question that is given up in the middle ends this helper, whose answers would be out of step.
        let process = match state.process.take() {
            Some(process) => Ok(process),
            None => Process::start(&self.options),
        };
        let answered = match process {
            Ok(mut process) => match process.ask(question).await {
                Ok(answer) => Ok((process, answer)),
                Err(reason) => Err(reason),
            },
            Err(error) => Err(format!("its helper cannot be started: {error}")),
        };
        match answered {
            Ok((process, answer)) => {
                (state.process, state.pause) = (Some(process), None);
                Ok(answer)
            }
            Err(reason) => {
                state.xids.begin_anew();
                let pause = state.pause.map_or(PAUSE_MIN, |(_, pause)| (pause * 2).min(PAUSE_MAX));
                state.pause = Some((Instant::now() + pause, pause));
                tracing::warn!("the NVIDIA driver's helper failed: {reason}; it is started again after {pause:?}");
                Err(GpuError::Unavailable(reason))
            }
        }
    }

    /// The devices that may be used, with the memory that MPS leaves of each.
    fn usable(&self, all: &[GpuDevice], is_first: bool) -> Vec<GpuDevice> {
        let mut devices = visible(all, &self.options.visible);
        if let Some(limits) = &self.options.mps
            && let Err(mistake) = mps::limit_memory(&mut devices, limits)
            && is_first
        {
            tracing::warn!("{mistake}; no limit is taken");
        }
        devices
    }
}

impl State {
    fn out_of_step(&mut self) -> GpuError {
        self.process = None;
        self.xids.begin_anew();
        GpuError::Unavailable("its helper answered another question".into())
    }
}

#[async_trait]
impl GpuSource for GpuHelper {
    async fn devices(&self) -> Result<Vec<GpuDevice>, GpuError> {
        let mut state = self.state.lock().await;
        if state.is_absent {
            return Ok(Vec::new());
        }
        let devices = match self.ask(&mut state, GpuQuestion::Devices).await? {
            GpuAnswer::Devices(devices) => devices,
            GpuAnswer::NoDriver(reason) if !state.has_listed => {
                tracing::info!("this machine has no NVIDIA driver, so no GPUs: {reason}");
                (state.is_absent, state.process) = (true, None);
                return Ok(Vec::new());
            }
            GpuAnswer::NoDriver(reason) | GpuAnswer::Failed(reason) => return Err(GpuError::Unavailable(reason)),
            GpuAnswer::Readings(_) => return Err(state.out_of_step()),
        };
        let is_first = !std::mem::replace(&mut state.has_listed, true);
        Ok(self.usable(&devices, is_first))
    }

    async fn read(&self) -> Result<Vec<GpuReading>, GpuError> {
        let mut state = self.state.lock().await;
        if state.is_absent {
            return Ok(Vec::new());
        }
        match self.ask(&mut state, GpuQuestion::Read).await? {
            GpuAnswer::Readings(readings) => {
                Ok(readings.into_iter().map(|reading| state.xids.added(reading)).collect())
            }
            GpuAnswer::NoDriver(reason) | GpuAnswer::Failed(reason) => Err(GpuError::Unavailable(reason)),
            GpuAnswer::Devices(_) => Err(state.out_of_step()),
        }
    }

    async fn probe(&self, uuid: &str) -> Result<(), GpuError> {
        let mut command = command(&self.options.probe, &self.options.env)
            .map_err(|error| GpuError::Unavailable(format!("the probe cannot be started: {error}")))?;
        command.kill_on_drop(true).arg(uuid).env("CUDA_VISIBLE_DEVICES", uuid).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        let mut child =
            command.spawn().map_err(|error| GpuError::Unavailable(format!("the probe cannot be started: {error}")))?;
        match timeout(PROBE_MAX, outcome(&mut child)).await {
            Ok(Ok((Some(0), _))) => Ok(()),
            Ok(Ok((Some(code), told))) if code == i32::from(SICK) => Err(GpuError::Sick(told)),
            Ok(Ok((Some(code), told))) => {
                Err(GpuError::Unavailable(format!("the probe ended with code {code}: {told}")))
            }
            Ok(Ok((None, _))) => Err(GpuError::Sick("the probe was ended by a signal".into())),
            Ok(Err(error)) => Err(GpuError::Unavailable(format!("the probe cannot be followed: {error}"))),
            // Dropped, it is killed; one that the driver holds fast is not waited for.
            Err(_) => Err(GpuError::Sick(format!("the probe did not end within {PROBE_MAX:?}"))),
        }
    }

    fn limits_memory(&self) -> bool {
        self.options.mps.as_deref().is_some_and(|limits| mps::limit_memory(&mut [], limits).is_ok())
    }
}

/// What a probe ended with, and the first line it said.
async fn outcome(child: &mut Child) -> std::io::Result<(Option<i32>, String)> {
    // Held to the end: waiting for a child closes it, and that would end the probe.
    let _starter = child.stdin.take();
    let mut told = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(TEXT_BYTES_MAX as u64).read_to_end(&mut told).await?;
    }
    let status = child.wait().await?;
    let told = String::from_utf8_lossy(&told);
    let line: String = told.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    Ok((status.code(), if line.is_empty() { "it did not say why".into() } else { line }))
}

fn command(words: &[OsString], env: &[(OsString, OsString)]) -> std::io::Result<Command> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| std::io::Error::other("the command names no program"))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(env.iter().cloned());
    // Both end when their standard input does: with the agent, however it ends.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command)
}

/// A helper that runs. Dropped, it is left to end by itself, which is kinder to the driver than being killed; one that
/// owes an answer is killed.
#[derive(Debug)]
struct Process {
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    has_answered: bool,
    owes_answer: bool,
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.owes_answer {
            // It may be gone already.
            let _ = self.child.start_kill();
        }
    }
}

impl Process {
    fn start(options: &HelperOptions) -> std::io::Result<Self> {
        let mut child = command(&options.helper, &options.env)?.spawn()?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("it has no pipes"));
        };
        Ok(Self { questions, answers: BufReader::new(answers), has_answered: false, owes_answer: false, child })
    }

    async fn ask(&mut self, question: GpuQuestion) -> Result<GpuAnswer, String> {
        let most = if self.has_answered { ANSWER_MAX } else { FIRST_ANSWER_MAX };
        self.owes_answer = true;
        let Ok(line) = timeout(most, self.exchange(question)).await else {
            return Err(format!("its helper did not answer within {most:?}"));
        };
        let line = line.map_err(|error| format!("its helper is gone: {error}"))?;
        let answer = GpuAnswer::parse(&line).map_err(|error| format!("its helper said what is no answer: {error}"))?;
        (self.has_answered, self.owes_answer) = (true, false);
        Ok(answer)
    }

    async fn exchange(&mut self, question: GpuQuestion) -> std::io::Result<Vec<u8>> {
        self.questions.write_all(question.line().as_bytes()).await?;
        self.questions.flush().await?;
        let mut line = Vec::new();
        let mut bounded = (&mut self.answers).take(LINE_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut line).await?;
        match line.pop() {
            Some(b'\n') => Ok(line),
            Some(_) if line.len() + 1 >= LINE_BYTES_MAX => Err(std::io::Error::other("its line is too long")),
            _ => Err(std::io::Error::other("it ended")),
        }
    }
}

/// Xid errors by device and kind. A helper counts from its own start; these counts go on over helpers.
#[derive(Debug, Default)]
struct Xids {
    past: BTreeMap<String, BTreeMap<u64, u64>>,
    seen: BTreeMap<String, BTreeMap<u64, u64>>,
}

impl Xids {
    fn added(&mut self, mut reading: GpuReading) -> GpuReading {
        self.seen.insert(reading.uuid.clone(), reading.xids.clone());
        if let Some(past) = self.past.get(&reading.uuid) {
            add(&mut reading.xids, past);
        }
        reading
    }

    /// A helper is gone, and the next one counts from nothing.
    fn begin_anew(&mut self) {
        for (uuid, counts) in std::mem::take(&mut self.seen) {
            add(self.past.entry(uuid).or_default(), &counts);
        }
    }
}

fn add(counts: &mut BTreeMap<u64, u64>, more: &BTreeMap<u64, u64>) {
    for (xid, times) in more {
        *counts.entry(*xid).or_default() += times;
    }
}
