//! What the scripted function can do.

use std::{fs::File, io::Write as _, path::PathBuf, process::Command, time::Duration};

use rhubarb::{Context, Task, TaskError, core::backend::Window};
use rustix::process::{Pid, getsid};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::Instrument as _;

macro_rules! task {
    ($(#[$doc:meta])* $type:ident = $name:literal -> $output:ty { $($(#[$fdoc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub(crate) struct $type { $($(#[$fdoc])* pub(crate) $field: $kind,)* }
        impl Task for $type {
            const NAME: &'static str = $name;
            type Output = $output;
        }
    };
}

task!(
    /// Does nothing.
    Noop = "noop" -> () {}
);
task!(
    /// Gives back what it got.
    Echo = "echo" -> Value { value: Value, }
);
task!(
    /// Sleeps, and notes begin and end in a file.
    Nap = "nap" -> u32 { ms: u64, ledger: Option<PathBuf>, stubborn: bool, }
);
task!(
    /// Fails its first attempts.
    Fail = "fail" -> u32 { times: u32, fatal: bool, after_ms: Option<u64>, }
);
task!(
    /// Ends its process in its first attempts.
    Crash = "crash" -> u32 { times: u32, }
);
task!(
    /// Panics.
    Panics = "panics" -> () { message: String, }
);
task!(
    /// Snoozes so many times.
    Snooze = "snooze" -> u32 { times: u32, ms: u64, }
);
task!(
    /// Takes steps with progress and a checkpoint each; ends its process once at a step.
    Steps = "steps" -> Vec<u64> { total: u64, ms: u64, crash_at: Option<u64>, }
);
task!(
    /// Prints.
    Say = "say" -> () { text: String, times: u64, nap_ms: u64, }
);
task!(
    /// Gives a large output.
    Big = "big" -> String { bytes: usize, }
);
task!(
    /// Enqueues so many others and returns their ids.
    Family = "family" -> Vec<String> { children: u32, queue: Option<String>, delay_ms: Option<u64>, }
);
task!(
    /// Starts a child that outlives it, tells its process id, and may die.
    Litter = "litter" -> u32 { ledger: Option<PathBuf>, die: bool, }
);
task!(
    /// Takes memory and keeps it; returns its process id.
    Grow = "grow" -> u32 { mib: usize, }
);

task!(
    /// Prints six lines and fails, in its first attempts.
    Complain = "complain" -> u32 { times: u32, }
);
task!(
    /// Enqueues a task that does nothing so many times, under one key until that task is settled; returns the ids.
    Once = "once" -> Vec<String> { key: String, times: u32, queue: String, }
);

task!(
    /// Has its GPUs to itself for a while, and proves it: a file for each stays locked meanwhile, where nobody else has
    /// locked it. Then it ends well, or leaves a child in a session of its own. Tells what it was given.
    OnGpus = "on_gpus" -> Value { ledger: PathBuf, ms: u64, leak: bool, }
);

pub(crate) async fn on_gpus(task: OnGpus, cx: Context) -> Result<Value, TaskError> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let visible = variable("CUDA_VISIBLE_DEVICES");
    let mut locks = Vec::new();
    for uuid in visible.split(',').filter(|uuid| !uuid.is_empty()) {
        let mut file = File::options().create(true).append(true).open(task.ledger.join(uuid))?;
        if file.try_lock().is_err() {
            return Err(TaskError::fatal(format!("two tasks are on {uuid}")));
        }
        writeln!(file, "{}", std::process::id())?;
        locks.push(file);
    }
    tokio::time::sleep(Duration::from_millis(task.ms)).await;
    if task.leak {
        let child = Command::new("setsid").args(["sleep", "3600"]).spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("a child has an id")?;
        // Until it has left, it would be killed with this process's group.
        while getsid(Some(pid))? != pid {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        note(Some(&task.ledger.join("leaked")), &child.id().to_string())?;
    }
    let order = variable("CUDA_DEVICE_ORDER");
    Ok(serde_json::json!({"gpus": cx.gpus(), "visible": visible, "order": order}))
}

pub(crate) async fn complain(task: Complain, cx: Context) -> Result<u32, TaskError> {
    for line in 1..=6 {
        println!("attempt {} line {line}", cx.attempt());
    }
    if cx.attempt() <= task.times {
        return Err(TaskError::retry(format!("complaint {}", cx.attempt())));
    }
    Ok(cx.attempt())
}

pub(crate) async fn once(task: Once, cx: Context) -> Result<Vec<String>, TaskError> {
    let mut ids = Vec::new();
    for _ in 0..task.times {
        let noop = cx.enqueue(Noop {}).queue(&task.queue).idempotency_key(&task.key);
        ids.push(noop.window(Window::UntilSettled).await?.id.to_string());
    }
    Ok(ids)
}

pub(crate) async fn noop(_: Noop, _: Context) -> Result<(), TaskError> {
    Ok(())
}

pub(crate) async fn echo(task: Echo, _: Context) -> Result<Value, TaskError> {
    Ok(task.value)
}

fn note(ledger: Option<&PathBuf>, line: &str) -> Result<(), TaskError> {
    if let Some(path) = ledger {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())?;
    }
    Ok(())
}

pub(crate) async fn nap(task: Nap, cx: Context) -> Result<u32, TaskError> {
    let ledger = task.ledger.as_ref();
    note(ledger, &format!("begin {} {} {}", cx.task_id(), cx.attempt(), std::process::id()))?;
    let nap = tokio::time::sleep(Duration::from_millis(task.ms));
    if task.stubborn {
        nap.await;
    } else {
        tokio::select! {
            () = nap => {}
            why = cx.cancelled() => {
                note(ledger, &format!("stopped {} {} {why:?}", cx.task_id(), cx.attempt()))?;
                return Err(TaskError::cancelled());
            }
        }
    }
    note(ledger, &format!("end {} {} {}", cx.task_id(), cx.attempt(), std::process::id()))?;
    Ok(cx.attempt())
}

pub(crate) async fn fail(task: Fail, cx: Context) -> Result<u32, TaskError> {
    if cx.attempt() > task.times {
        return Ok(cx.attempt());
    }
    let what = format!("told to fail attempt {}", cx.attempt());
    Err(match (task.fatal, task.after_ms) {
        (true, _) => TaskError::fatal(what),
        (false, Some(ms)) => TaskError::retry_after(what, Duration::from_millis(ms)),
        (false, None) => TaskError::retry(what),
    })
}

pub(crate) async fn crash(task: Crash, cx: Context) -> Result<u32, TaskError> {
    if cx.attempt() <= task.times {
        std::process::abort();
    }
    Ok(cx.attempt())
}

#[expect(clippy::panic, reason = "it is what the test asks for")]
pub(crate) async fn panics(task: Panics, _: Context) -> Result<(), TaskError> {
    panic!("{}", task.message)
}

pub(crate) async fn snooze(task: Snooze, cx: Context) -> Result<u32, TaskError> {
    let key = format!("snoozes/{}", cx.task_id());
    let before = match cx.blobs().get(&key).await {
        Ok(content) => String::from_utf8_lossy(&content).parse()?,
        Err(_) => 0_u32,
    };
    if before >= task.times {
        return Ok(cx.attempt());
    }
    cx.blobs().put(&key, (before + 1).to_string()).await?;
    Err(TaskError::snooze(Duration::from_millis(task.ms)))
}

pub(crate) async fn steps(task: Steps, cx: Context) -> Result<Vec<u64>, TaskError> {
    let mut done: Vec<u64> = match cx.last_checkpoint().await? {
        Some(checkpoint) => serde_json::from_slice(&checkpoint)?,
        None => Vec::new(),
    };
    let resumed_at = done.len() as u64;
    while (done.len() as u64) < task.total {
        let step = done.len() as u64;
        if task.crash_at == Some(step) && resumed_at == 0 {
            std::process::abort();
        }
        if cx.is_cancelled() {
            return Err(TaskError::cancelled());
        }
        tokio::time::sleep(Duration::from_millis(task.ms)).await;
        done.push(resumed_at);
        cx.checkpoint(serde_json::to_vec(&done)?).await?;
        cx.progress_message(step + 1, task.total, format!("step {step}")).await?;
    }
    Ok(done)
}

pub(crate) async fn say(task: Say, _: Context) -> Result<(), TaskError> {
    for _ in 0..task.times.max(1) {
        println!("{}", task.text);
    }
    eprintln!("to stderr");
    tokio::time::sleep(Duration::from_millis(task.nap_ms)).await;
    Ok(())
}

pub(crate) async fn big(task: Big, _: Context) -> Result<String, TaskError> {
    Ok("x".repeat(task.bytes))
}

pub(crate) async fn family(task: Family, cx: Context) -> Result<Vec<String>, TaskError> {
    let raise = async {
        let mut ids = Vec::new();
        for n in 0..task.children {
            let mut child = cx.enqueue(Echo { value: n.into() });
            if let Some(queue) = &task.queue {
                child = child.queue(queue);
            }
            if let Some(delay) = task.delay_ms {
                child = child.delay(Duration::from_millis(delay));
            }
            ids.push(child.await?.id.to_string());
        }
        Ok(ids)
    };
    raise.instrument(tracing::info_span!("raise children")).await
}

pub(crate) async fn litter(task: Litter, _: Context) -> Result<u32, TaskError> {
    let child = Command::new("sleep").arg("3600").spawn()?;
    note(task.ledger.as_ref(), &child.id().to_string())?;
    if task.die {
        std::process::abort();
    }
    Ok(child.id())
}

pub(crate) async fn grow(task: Grow, _: Context) -> Result<u32, TaskError> {
    let mut memory = vec![0_u8; task.mib << 20];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::mem::forget(memory);
    Ok(std::process::id())
}
