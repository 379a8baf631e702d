//! Uses the NVIDIA device that was leased to the task: what `tests/gpu` watches on a machine that has one.
//!
//! With arguments this executable does the same without a task: `gpu-first-work` tells how long a bare start of CUDA
//! takes, `gpu-keep MIB` is the process that a leaky task leaves behind.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cuda::{CudaError, CudaSlice, Gpu};
use rhubarb::{Context, Task, TaskError};
use serde::{Deserialize, Serialize};

/// Takes memory on the leased device and keeps it for a while.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UseGpu {
    mib: usize,
    ms: u64,
    /// Leaves a process behind, in a session of its own, that keeps as much memory.
    leave: bool,
}

/// What a task saw; times are milliseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UsedGpu {
    device: String,
    gpus: Vec<String>,
    pid: u32,
    /// The process that is left behind.
    left: Option<u32>,
    /// When the device had done its first work.
    first_work: u64,
    ended: u64,
}

impl Task for UseGpu {
    const NAME: &'static str = "use_gpu";
    type Output = UsedGpu;
}

pub(crate) async fn use_gpu(task: UseGpu, cx: Context) -> Result<UsedGpu, TaskError> {
    let (gpu, memory) = work(task.mib)?;
    let first_work = now();
    let left = if task.leave { Some(leave(task.mib)?) } else { None };
    tokio::time::sleep(Duration::from_millis(task.ms)).await;
    let device = gpu.name().to_owned();
    drop(memory);
    Ok(UsedGpu { device, gpus: cx.gpus().to_vec(), pid: std::process::id(), left, first_work, ended: now() })
}

/// Runs the mode that the arguments name, to its end; false where they name none.
pub(crate) fn run(arguments: &[String]) -> bool {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (mib, keeps) = match words.as_slice() {
        ["gpu-first-work"] => (1, false),
        ["gpu-keep", mib] => (mib.parse().unwrap_or(1), true),
        _ => return false,
    };
    match work(mib) {
        Ok(_memory) => {
            println!("{}", now());
            if keeps {
                loop {
                    std::thread::park();
                }
            }
        }
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
    true
}

/// Starts CUDA and has the device write so much memory.
fn work(mib: usize) -> Result<(Gpu, CudaSlice<u8>), CudaError> {
    let gpu = Gpu::open()?;
    let memory = gpu.zeros(mib.max(1) << 20)?;
    gpu.wait()?;
    Ok((gpu, memory))
}

/// Returns once the process that is left behind holds its memory.
fn leave(mib: usize) -> Result<u32, TaskError> {
    let mut child = Command::new("setsid")
        .arg(std::env::current_exe()?)
        .args(["gpu-keep", &mib.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut told = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut told)?;
    }
    if told.trim().parse::<u64>().is_err() {
        return Err(TaskError::fatal(format!("the process to be left behind holds nothing: {}", told.trim())));
    }
    Ok(child.id())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
