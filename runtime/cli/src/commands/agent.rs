//! `rhubarb agent`: one agent, the command that operators live with.
//!
//! Each option is a variable too, so that the same settings can be given to every node. An option beats
//! the variable, and the variable beats `rhubarb.toml`.

use std::{sync::Arc, time::Duration};

use clap::{Args, builder::FalseyValueParser};
use rhubarb_agent::{Agent as Running, AgentError, AgentOptions};
use rhubarb_core::{
    config::{ByteSize, Config, MetricsAddress, Vars as _, WorkerConfig, default_queue},
    ids::{QueueName, WorkerId, WorkerName},
};

use crate::{
    crew::Crew,
    driver,
    exit::{CliError, Result, chain},
    page,
    project::know,
    session::Session,
    signals::StopSignals,
    values,
};

/// Run one agent: it serves queues until it is told to stop
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Agent {
    /// The worker of rhubarb.toml whose settings to use
    #[arg(env = "RHUBARB_WORKER")]
    worker: Option<WorkerName>,
    /// The queues to serve, in this order; without any those of WORKER, and without that `default`
    #[arg(long, env = "RHUBARB_QUEUES", value_delimiter = ',', value_name = "A,B,…")]
    queues: Vec<QueueName>,
    /// Its slots [default: those of WORKER, or the number of CPUs]
    #[arg(long, env = "RHUBARB_CONCURRENCY", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    concurrency: Option<u32>,
    /// Its name, unique among the living; by default made of worker, process and host
    #[arg(long, env = "RHUBARB_NAME", value_name = "ID")]
    name: Option<WorkerId>,
    /// Deliveries it may hold beyond its slots
    #[arg(long, env = "RHUBARB_PREFETCH", value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    prefetch: Option<u32>,
    /// A function process is replaced after so many tasks
    #[arg(long, env = "RHUBARB_MAX_TASKS_PER_CHILD", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tasks_per_child: Option<u32>,
    /// A function process over this memory is replaced, e.g. 2GiB
    #[arg(long, env = "RHUBARB_MAX_MEMORY_PER_CHILD", value_name = "SIZE", value_parser = values::size)]
    max_memory_per_child: Option<ByteSize>,
    /// How long attempts may take to finish when it is told to stop, e.g. 25s
    #[arg(long, env = "RHUBARB_GRACE", value_name = "DURATION", value_parser = values::duration)]
    grace: Option<Duration>,
    /// When the platform kills it after it was told to stop (ECS stopTimeout, TimeoutStopSec): the start checks that the
    /// grace fits
    #[arg(long, env = "RHUBARB_KILL_DELAY", value_name = "DURATION", value_parser = values::duration)]
    kill_delay: Option<Duration>,
    /// On AWS: feed the queues of class `lambda` too, where nothing runs Lambda
    #[arg(long, env = "RHUBARB_FEED_LAMBDA", value_parser = FalseyValueParser::new())]
    feed_lambda: bool,
    /// Cancel everything that waits on its queues first
    #[arg(long, env = "RHUBARB_PURGE", value_parser = FalseyValueParser::new())]
    purge: bool,
    /// On a Spot instance without ECS: drain when its interruption notice comes, two minutes ahead
    #[arg(long, env = "RHUBARB_SPOT_NOTICES", value_parser = FalseyValueParser::new())]
    spot_notices: bool,
    /// Where to show metrics and health: IP:PORT, or off [default: 127.0.0.1:9464, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<MetricsAddress>,
    /// Serve no queue, whatever else is said: only bring back what silent workers left
    #[arg(long, env = "RHUBARB_SCHEDULER_ONLY", value_parser = FalseyValueParser::new())]
    scheduler_only: bool,
}

const EXAMPLES: &str = "\
Examples:
  rhubarb agent training
  rhubarb agent --queues high,medium,low --concurrency 8 --name web-1
  RHUBARB_QUEUES=high RHUBARB_LOG_FORMAT=json rhubarb agent
  rhubarb agent --scheduler-only

SIGTERM and ctrl-c drain: it receives nothing more and lets attempts finish within the grace; what is left
goes back to its queue and spends no attempt. A second signal ends at once and hands the work back.";

/// What an agent needs at least, after its attempts have ended, to write what they came to and hand the rest back.
const HAND_BACK_MIN: Duration = Duration::from_secs(5);

/// From a Spot interruption notice to the interruption.
const SPOT_KILL_DELAY: Duration = Duration::from_secs(120);
/// Where EC2 has an instance's metadata, unless the SDKs' variable says another.
const INSTANCE_METADATA: &str = "http://169.254.169.254";

/// Refuses a grace that outlasts the platform's patience: the agent would be killed in the middle of handing back.
fn fits(worker: &WorkerConfig, config: &Config, kill_delay: Duration) -> Result<()> {
    let queues = worker.queues.iter().filter_map(|queue| config.queue(queue));
    let functions = queues.flat_map(|queue| &queue.functions).filter_map(|name| config.functions.get(name));
    let shutdown_grace = functions.map(|function| function.shutdown_grace).max().unwrap_or_default();
    let needed = worker.grace + shutdown_grace + HAND_BACK_MIN;
    if needed <= kill_delay {
        return Ok(());
    }
    let (grace, most) = (worker.grace, kill_delay.saturating_sub(shutdown_grace + HAND_BACK_MIN));
    Err(CliError::Configuration(format!(
        "the platform kills this agent {kill_delay:?} after it was told to stop, and it may take {needed:?}: {grace:?} of \
         grace, {shutdown_grace:?} that functions have to end, {HAND_BACK_MIN:?} to hand back the rest. Lower the grace to \
         {most:?} (--grace, RHUBARB_GRACE or [workers.{}] grace), or raise the kill delay",
        worker.name,
    )))
}

impl Agent {
    /// Runs it until it is told to stop.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let project = session.project()?;
        project.warn();
        let mut worker = self.worker_config(&project.config)?;
        if !self.scheduler_only {
            worker = project.served(worker, self.feed_lambda)?;
        }
        let of_spot = self.spot_notices.then_some(SPOT_KILL_DELAY);
        if let Some(kill_delay) = self.kill_delay.into_iter().chain(of_spot).min() {
            fits(&worker, &project.config, kill_delay)?;
        }
        let spot_notices = self.spot_notices.then(|| {
            session.vars.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE_METADATA.to_owned())
        });
        let backend = project.open(session.global.endpoint_url.as_deref()).await?;
        let options = AgentOptions {
            id: self.name.unwrap_or_else(|| unique_name(worker.name.as_str())),
            worker,
            config: Arc::clone(&project.config),
            backend: Arc::clone(&backend),
            root: project.root,
            vars: session.vars.all(),
            purge: self.purge,
            scheduler_only: self.scheduler_only,
            feed_lambda: self.feed_lambda,
            gpus: Some(driver::source(session)?),
            spot_notices,
        };
        let mut signals = StopSignals::listen()?;
        let starting = Running::start(options);
        let agent = tokio::select! {
            agent = starting => agent.map_err(told)?,
            _ = signals.next() => return Err(CliError::Interrupted),
        };
        let agents = vec![agent];
        let _page = page::open(self.metrics.unwrap_or(project.config.app.metrics), &agents).await;
        let stopped = Crew::set_out(agents).until_stopped(&mut signals).await;
        backend.close().await;
        stopped
    }

    /// The worker's settings, with the options in place of what the file says.
    fn worker_config(&self, config: &Config) -> Result<WorkerConfig> {
        let mut worker = match &self.worker {
            Some(name) => named(config, name)?,
            None => WorkerConfig::new(anonymous()?, vec![default_queue()]),
        };
        if !self.queues.is_empty() {
            know(config, &self.queues)?;
            worker.queues = distinct(&self.queues);
            worker.weights.retain(|queue, _| self.queues.contains(queue));
        }
        worker.concurrency = self.concurrency.or(worker.concurrency);
        worker.prefetch = self.prefetch.unwrap_or(worker.prefetch);
        worker.max_tasks_per_child = self.max_tasks_per_child.or(worker.max_tasks_per_child);
        worker.max_memory_per_child = self.max_memory_per_child.or(worker.max_memory_per_child);
        worker.grace = self.grace.unwrap_or(worker.grace);
        Ok(worker)
    }
}

/// What an agent's refusal to start means for the exit code.
pub(crate) fn told(error: AgentError) -> CliError {
    match error {
        AgentError::Store(error) => error.into(),
        other => CliError::Configuration(chain(&other)),
    }
}

/// A name that no other live worker has: the worker's own, the process and the host.
pub(crate) fn unique_name(worker: &str) -> WorkerId {
    let node = rustix::system::uname();
    let host: String = node.nodename().to_string_lossy().chars().take(60).map(allowed).collect();
    let name = format!("{worker}-{}@{host}", std::process::id());
    // A worker's name is at most 64 harmless characters, and so is the host's by now.
    WorkerId::new(&name).unwrap_or_else(|_| unreachable_name())
}

const fn allowed(c: char) -> char {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' => c,
        _ => '_',
    }
}

fn unreachable_name() -> WorkerId {
    #[expect(clippy::expect_used, reason = "a constant")]
    WorkerId::new("worker").expect("`worker` is a valid worker id")
}

fn anonymous() -> Result<WorkerName> {
    WorkerName::new("agent").map_err(|error| CliError::Usage(error.to_string()))
}

fn named(config: &Config, name: &WorkerName) -> Result<WorkerConfig> {
    config.workers.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = config.workers.keys().map(WorkerName::as_str).collect();
        CliError::Configuration(format!("there is no worker `{name}`: the workers are {}", known.join(", ")))
    })
}

fn distinct(queues: &[QueueName]) -> Vec<QueueName> {
    let mut distinct: Vec<QueueName> = Vec::with_capacity(queues.len());
    for queue in queues {
        if !distinct.contains(queue) {
            distinct.push(queue.clone());
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rhubarb_core::config::{NoVars, Overrides};

    use super::*;
    use crate::cli::{Cli, Command};

    const FILE: &str = r#"
        [app]
        name = "shop"
        [queues.high]
        functions = ["f"]
        [functions.f]
        package = "f"
        [workers.fast]
        queues = ["high", "default"]
        concurrency = 7
        weights = { high = 3 }
    "#;

    fn worker(words: &[&str]) -> Result<WorkerConfig, String> {
        let config = Config::parse(FILE, &NoVars, &Overrides::default()).unwrap();
        let cli = Cli::try_parse_from(["rhubarb", "agent"].iter().chain(words)).map_err(|error| error.to_string())?;
        let Command::Agent(agent) = cli.command else { panic!("another command") };
        agent.worker_config(&config).map_err(|error| error.text().unwrap_or_default().to_owned())
    }

    fn queues(worker: &WorkerConfig) -> Vec<&str> {
        worker.queues.iter().map(QueueName::as_str).collect()
    }

    #[test]
    fn without_a_worker_and_queues_it_serves_default() {
        let plain = worker(&[]).unwrap();
        assert_eq!((queues(&plain), plain.concurrency), (vec!["default"], None));
    }

    #[test]
    fn options_stand_in_place_of_what_the_file_says() {
        let fast = worker(&["fast"]).unwrap();
        assert_eq!((queues(&fast), fast.concurrency), (vec!["high", "default"], Some(7)));
        let other = worker(&["fast", "--queues", "default,default", "--concurrency", "2", "--grace", "1s"]).unwrap();
        assert_eq!(
            (queues(&other), other.concurrency, other.grace),
            (vec!["default"], Some(2), Duration::from_secs(1))
        );
        assert!(other.weights.is_empty());
    }

    #[test]
    fn what_the_file_does_not_know_is_refused_with_what_it_does() {
        assert!(worker(&["slow"]).unwrap_err().contains("the workers are fast"));
        assert!(worker(&["--queues", "hihg"]).unwrap_err().contains("the queues are default, high"));
        assert!(worker(&["--concurrency", "0"]).is_err());
    }

    #[test]
    fn a_name_says_worker_process_and_host() {
        let name = unique_name("short").to_string();
        assert!(name.starts_with(&format!("short-{}@", std::process::id())), "{name}");
        assert!(unique_name(&"w".repeat(64)).as_str().len() <= 128);
    }
}
