//! Where it all takes place: a folder and an application of its own, so that nothing of the user's is touched.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rhubarb::{Client, TaskId};
use rhubarb_core::{
    backend::Backend,
    config::{Config, NoVars, Overrides},
};
use rustix::process::Pid;
use tokio::{process::Command, sync::watch};

use super::{cloud::Cloud, faults::Disturbed, producer};
use crate::{
    exit::{CliError, Result},
    project::Project,
    session::Session,
};

/// Once its agents have been killed, all processes of a stage are gone within this: their guards need a moment.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// An application, and how to reach it.
pub(super) struct Stage {
    /// Its folder, the journal in it too.
    pub(super) folder: PathBuf,
    /// Decides what goes wrong.
    pub(super) seed: u64,
    /// The backend past all faults: for the judge.
    pub(super) eyes: Arc<dyn Backend>,
    /// How the producer reaches it, through whatever goes wrong.
    pub(super) producer: Client,
    key: u64,
    cloud: Option<Cloud>,
    program: PathBuf,
}

impl Stage {
    /// Makes the folder and the application. With `--aws` its queues, table and bucket too.
    pub(super) async fn set(session: &Session, seed: u64) -> Result<Self> {
        let failed = |what: &str, error: &std::io::Error| CliError::io(what, error);
        let program = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let key = fastrand::u64(..);
        let folder = std::env::temp_dir().join(format!("rhubarb-chaos-{key:016x}"));
        DirBuilder::new().mode(0o700).create(&folder).map_err(|error| failed("make a folder", &error))?;
        let opened = Self::open(session, seed, key, &folder, program).await;
        if opened.is_err() {
            // The error is worth more than what is left.
            let _ = fs::remove_dir_all(&folder);
        }
        opened
    }

    async fn open(session: &Session, seed: u64, key: u64, folder: &std::path::Path, program: PathBuf) -> Result<Self> {
        let aws = session.global.aws || session.global.backend.as_deref() == Some("aws");
        let text = describe(&program, folder, key, aws)?;
        let file = folder.join("rhubarb.toml");
        fs::write(&file, text).map_err(|error| CliError::io("write the application's rhubarb.toml", &error))?;
        let project = Project::read(&file, &NoVars, &Overrides::default())?;
        let config: Arc<Config> = Arc::clone(&project.config);
        let (eyes, hands, cloud) = if aws {
            let (eyes, hands, cloud) = Cloud::open(session, &config, seed).await?;
            (eyes, hands, Some(cloud))
        } else {
            let backend = project.open(None).await?;
            (Arc::clone(&backend), backend, None)
        };
        let folder = folder.to_owned();
        Ok(Self { folder, seed, eyes, producer: Client::new(hands, config), key, cloud, program })
    }

    /// What it plays over, in words.
    pub(super) fn place(&self) -> &'static str {
        if self.cloud.is_some() { "an emulator of AWS" } else { "the embedded backend" }
    }

    /// The queues that tasks go to, in turn.
    pub(super) const fn queues(&self) -> [&'static str; 3] {
        ["lease", "message", "batches"]
    }

    /// How long leases are: the shortest that the backend allows and that a busy machine can keep.
    pub(super) const fn lease(&self) -> Duration {
        lease(self.cloud.is_some())
    }

    /// The id of a task.
    pub(super) fn id(&self, number: u64) -> TaskId {
        producer::id(self.key, number)
    }

    /// The command of an agent: led to this application and to nothing else.
    pub(super) fn agent(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--config", &self.folder.join("rhubarb.toml").to_string_lossy(), "--log-level", "warn"]);
        command.args(["chaos", "agent", "all"]).current_dir(&self.folder).env_clear();
        command.envs(["PATH", "TMPDIR", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        if let Some(cloud) = &self.cloud {
            command.envs(cloud.variables());
        }
        command
    }

    /// The function processes that live.
    pub(super) fn functions(&self) -> Result<Vec<Pid>> {
        let folder = self.folder.as_os_str().as_encoded_bytes();
        processes(|word| word == folder)
    }

    /// True if a process with this id lives and is a function of this stage: an id may have been given anew.
    pub(super) fn is_ours(&self, pid: Pid) -> bool {
        let folder = self.folder.as_os_str().as_encoded_bytes();
        runs_with(pid, |word| word == folder)
    }

    /// Waits until no process of this stage lives any more: no agent, and no function, also none that an agent had
    /// just begun to start.
    pub(super) async fn is_empty(&self) -> Result<()> {
        let folder = self.folder.as_os_str().as_encoded_bytes();
        let empty = async {
            while !processes(|word| word.starts_with(folder))?.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        let late = |_| CliError::Task("processes of the agents outlive them".to_owned());
        tokio::time::timeout(EMPTY_WITHIN, empty).await.map_err(late)?
    }

    /// Lets the emulator be out of reach now and then, until all is calm.
    pub(super) async fn misbehave(&self, disturbed: &Disturbed, calm: watch::Receiver<bool>) -> Result<()> {
        match &self.cloud {
            Some(cloud) => cloud.misbehave(self.seed, disturbed, calm).await,
            None => Ok(()),
        }
    }

    /// Requests that something was done to.
    pub(super) fn wronged(&self) -> u64 {
        self.cloud.as_ref().map_or(0, Cloud::wronged)
    }

    /// Removes the folder.
    pub(super) fn clear(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(|error| CliError::io("remove the folder", &error))
    }
}

/// The processes of this machine that have such a word in their command line.
fn processes(is_meant: impl Fn(&[u8]) -> bool) -> Result<Vec<Pid>> {
    let all = fs::read_dir("/proc").map_err(|error| CliError::io("list the processes", &error))?;
    let ids = all.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
    Ok(ids.filter(|pid| runs_with(*pid, &is_meant)).collect())
}

/// True if a process with this id lives and has such a word in its command line.
fn runs_with(pid: Pid, is_meant: impl Fn(&[u8]) -> bool) -> bool {
    let words = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
    words.split(|byte| *byte == 0).any(is_meant)
}

const fn lease(aws: bool) -> Duration {
    Duration::from_secs(if aws { 3 } else { 2 })
}

/// The application: a queue of each ack mode, and one of batches.
fn describe(program: &std::path::Path, folder: &std::path::Path, key: u64, aws: bool) -> Result<String> {
    let quoted = |path: &std::path::Path| match path.to_str() {
        Some(text) if !text.contains('\'') => Ok(format!("'{text}'")),
        _ => Err(CliError::Usage(format!("the path {} has letters that rhubarb.toml cannot hold", path.display()))),
    };
    let (program, journal) = (quoted(program)?, quoted(folder)?);
    let backend = if aws { "aws" } else { "local" };
    // What is killed again and again shall come back again and again.
    let policy = format!(
        "functions = [\"chaos\"]\nlease = \"{}s\"\ntimeout = \"2m\"\nmax_attempts = 100\nbackoff = {{ initial = \"10ms\", max = \"200ms\" }}",
        lease(aws).as_secs(),
    );
    Ok(format!(
        "[app]\nname = \"chaos\"\nstage = \"c{stage:012x}\"\nbackend = \"{backend}\"\n\n\
         [queues.lease]\nack = \"lease\"\n{policy}\n\n\
         [queues.message]\nack = \"message\"\n{policy}\n\n\
         [queues.batches]\nack = \"message\"\nbatch = 10\n{policy}\n\n\
         [workers.all]\nqueues = [\"lease\", \"message\", \"batches\"]\nconcurrency = 4\ngrace = \"10s\"\n\n\
         [functions.chaos]\ncommand = [{program}, 'chaos', 'function', {journal}]\n",
        stage = key & 0xffff_ffff_ffff,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_is_a_valid_one_over_both_backends() {
        for aws in [false, true] {
            let text = describe("/bin/rhubarb".as_ref(), "/tmp/some folder".as_ref(), u64::MAX, aws).unwrap();
            let config = Config::parse(&text, &NoVars, &Overrides::default()).unwrap();
            assert_eq!(config.queues.values().filter(|queue| queue.retry.max_attempts == 100).count(), 3, "{text}");
        }
    }
}
