//! What the template will hold: every name and number, made and checked before a line is written.

use std::{collections::BTreeMap, fmt, time::Duration};

use rhubarb_core::{
    config::{Config, FunctionConfig, Program, QueueClass, QueueConfig, WorkerConfig},
    limits::Limits,
    time::Timestamp,
};

use super::{compute::Worker, schedules::Planned};

/// SQS: characters of a queue's name.
const QUEUE_CHARS_MAX: usize = 80;
/// Lambda: characters of a function's name.
const FUNCTION_CHARS_MAX: usize = 64;
/// Lambda: bytes of all environment variables of a function.
const ENV_BYTES_MAX: usize = 4 * 1024;
/// What a function's variables take that are not its own, where the names on AWS are longest.
const OWN_ENV_BYTES: usize = 700;
/// How long a message of a queue that an agent feeds stays hidden: an agent extends what it works on.
const AGENT_VISIBILITY: Duration = Duration::from_secs(60);

/// The configuration cannot be deployed: every reason, each with the key and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unfit(Vec<String>);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Everything that the sections are written from.
pub(super) struct Plan<'a> {
    pub(super) config: &'a Config,
    /// In the order of their names.
    pub(super) queues: Vec<Queue<'a>>,
    /// Those that feed queues of class `ecs`, in the order of their names.
    pub(super) workers: Vec<Worker<'a>>,
    /// In the order of their names.
    pub(super) schedules: Vec<Planned<'a>>,
}

/// A queue, and the Lambda function that it feeds.
pub(super) struct Queue<'a> {
    pub(super) config: &'a QueueConfig,
    /// Its part of logical names: letters and digits.
    pub(super) id: String,
    pub(super) origin: Origin<'a>,
    pub(super) light: Option<Light<'a>>,
}

/// Where a queue comes from.
pub(super) enum Origin<'a> {
    /// The template makes it.
    Made { name: String, dead: String, visibility: Duration },
    /// It is there: its URL.
    There { url: &'a str, arn: Option<String> },
}

/// The Lambda function of a queue.
pub(super) struct Light<'a> {
    pub(super) function: &'a FunctionConfig,
    /// Its name on Lambda.
    pub(super) name: String,
    pub(super) timeout_seconds: u64,
    pub(super) window_seconds: u64,
}

impl<'a> Plan<'a> {
    pub(super) fn new(config: &'a Config, now: Timestamp) -> Result<Self, Unfit> {
        let mut reasons = Vec::new();
        let queues: Vec<_> = config.queues.values().map(|queue| Queue::new(config, queue)).collect();
        let mut ids: BTreeMap<&str, &QueueConfig> = BTreeMap::new();
        for queue in &queues {
            queue.check(&mut reasons);
            if let Some(other) = ids.insert(&queue.id, queue.config) {
                let (one, two) = (&other.name, &queue.config.name);
                reasons.push(format!("queues.{two}: its name and that of queues.{one} differ in nothing that a template can say (letters and digits, without case at the start of a word); rename one of them"));
            }
        }
        let workers: Vec<_> =
            config.workers.values().filter_map(|worker| Worker::new(config, worker, &mut reasons)).collect();
        let mut ids: BTreeMap<&str, &WorkerConfig> = BTreeMap::new();
        for worker in &workers {
            if let Some(other) = ids.insert(&worker.id, worker.config) {
                let (one, two) = (&other.name, &worker.config.name);
                reasons.push(format!("workers.{two}: its name and that of workers.{one} differ in nothing that a template can say (letters and digits, without case at the start of a word); rename one of them"));
            }
        }
        let schedules = Planned::all(config, now, &mut reasons);
        if reasons.is_empty() { Ok(Self { config, queues, workers, schedules }) } else { Err(Unfit(reasons)) }
    }

    /// The name of the cluster that the workers are services of.
    pub(super) fn cluster_name(&self) -> String {
        format!("{}-{}", self.config.app.name, self.config.app.stage)
    }

    /// The queues that the template makes.
    pub(super) fn made(&self) -> impl Iterator<Item = &Queue<'a>> {
        self.queues.iter().filter(|queue| matches!(queue.origin, Origin::Made { .. }))
    }

    /// The queues with a Lambda function.
    pub(super) fn light(&self) -> impl Iterator<Item = (&Queue<'a>, &Light<'a>)> {
        self.queues.iter().filter_map(|queue| Some((queue, queue.light.as_ref()?)))
    }

    /// The queues whose function comes as a zip.
    pub(super) fn zipped(&self) -> impl Iterator<Item = (&Queue<'a>, &Light<'a>)> {
        self.light().filter(|(_, light)| light.code_file().is_some())
    }
}

impl<'a> Queue<'a> {
    fn new(config: &'a Config, queue: &'a QueueConfig) -> Self {
        let light = Light::new(config, queue);
        let origin = match &queue.url {
            Some(url) => Origin::There { url, arn: arn_of(url) },
            None => Origin::Made {
                name: config.app.aws_queue_name(queue),
                dead: dead_name(config, queue),
                visibility: light.as_ref().map_or(AGENT_VISIBILITY, Light::visibility),
            },
        };
        Self { config: queue, id: logical(queue.name.as_str()), origin, light }
    }

    /// Its ARN as a value of the template.
    pub(super) fn arn(&self) -> String {
        match &self.origin {
            Origin::Made { .. } => format!("!GetAtt Queue{}.Arn", self.id),
            Origin::There { arn, .. } => format!("!Sub \"{}\"", arn.as_deref().unwrap_or_default()),
        }
    }

    /// Its URL as a value of the template.
    pub(super) fn url(&self) -> String {
        match &self.origin {
            Origin::Made { .. } => format!("!Ref Queue{}", self.id),
            Origin::There { url, .. } => super::yaml::scalar(url),
        }
    }

    fn check(&self, reasons: &mut Vec<String>) {
        let key = format!("queues.{}", self.config.name);
        match &self.origin {
            Origin::Made { dead, .. } if dead.len() > QUEUE_CHARS_MAX => reasons.push(format!(
                "{key}: the name of its dead-letter queue, `{dead}`, has {} characters; shorten the queue's to leave at most {QUEUE_CHARS_MAX}",
                dead.len(),
            )),
            Origin::There { arn: None, url } => reasons.push(format!(
                "{key}.url: `{url}` does not end in an account and a queue, which rights are given by; write e.g. \"https://sqs.eu-central-1.amazonaws.com/123456789012/orders\"",
            )),
            _ => {}
        }
        if let Some(light) = &self.light {
            light.check(&key, reasons);
        }
    }
}

impl<'a> Light<'a> {
    fn new(config: &'a Config, queue: &'a QueueConfig) -> Option<Self> {
        if queue.class != QueueClass::Lambda {
            return None;
        }
        let function = config.functions.get(queue.functions.first()?)?;
        let name = format!("{}-{}-{}", config.app.name, config.app.stage, queue.name);
        let timeout_seconds = whole_seconds(queue.invocation_limit());
        Some(Self { function, name, timeout_seconds, window_seconds: whole_seconds(queue.batch_window) })
    }

    /// The name of its zip; none where it comes as a container image.
    pub(super) fn code_file(&self) -> Option<String> {
        match self.function.program {
            Program::Package(_) => Some(format!("{}.zip", self.function.name)),
            Program::Command(_) => None,
        }
    }

    /// Lambda asks for six times the timeout (AWS: "Creating and configuring an Amazon SQS event source
    /// mapping"), and the window comes on top. SQS goes no further than 12 hours.
    fn visibility(&self) -> Duration {
        Duration::from_secs(6 * self.timeout_seconds + self.window_seconds).min(Limits::AWS.visibility_max)
    }

    fn check(&self, key: &str, reasons: &mut Vec<String>) {
        if self.name.len() > FUNCTION_CHARS_MAX {
            reasons.push(format!(
                "{key}: the name of its Lambda function, `{}`, has {} characters; shorten the queue's to leave at most {FUNCTION_CHARS_MAX}",
                self.name,
                self.name.len(),
            ));
        }
        let of = format!("functions.{}.env", self.function.name);
        for name in self.function.env.keys().filter(|name| is_taken(name)) {
            reasons.push(format!("{of}.{name}: Lambda sets this variable itself; choose another name"));
        }
        for name in self.function.env.keys().filter(|name| name.len() < 2 || name.starts_with('_')) {
            let fix = "write two characters or more, first a letter";
            reasons.push(format!("{of}.{name}: Lambda takes no variable of this name; {fix}"));
        }
        let bytes: usize = self.function.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if bytes + OWN_ENV_BYTES > ENV_BYTES_MAX {
            let most = ENV_BYTES_MAX - OWN_ENV_BYTES;
            reasons.push(format!("{of}: it has {bytes} bytes; shorten it to {most}: Lambda allows {ENV_BYTES_MAX} with Rhubarb's own variables"));
        }
    }
}

/// Variables that Lambda reserves, or that the template itself sets (AWS: "Defined runtime environment
/// variables"). What begins with `AWS_LAMBDA_` the configuration refuses.
fn is_taken(variable: &str) -> bool {
    const TAKEN: [&str; 12] = [
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_EXECUTION_ENV",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
    ];
    TAKEN.contains(&variable)
}

/// The name of a queue's dead-letter queue.
fn dead_name(config: &Config, queue: &QueueConfig) -> String {
    let name = config.app.aws_queue_name(queue);
    match name.strip_suffix(".fifo") {
        Some(stem) => format!("{stem}-dead.fifo"),
        None => format!("{name}-dead"),
    }
}

/// The ARN of a queue that is there, with the partition left to the stack, and the region where the URL
/// does not say it.
fn arn_of(url: &str) -> Option<String> {
    let (host, path) = url.split_once("://")?.1.split_once('/')?;
    let (account, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
    let account = account.rsplit('/').next().unwrap_or(account);
    let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let region = match host.split('.').collect::<Vec<_>>().as_slice() {
        ["sqs", region, "amazonaws", ..] => region,
        _ => "${AWS::Region}",
    };
    (is_account && is_name).then(|| format!("arn:${{AWS::Partition}}:sqs:{region}:{account}:{name}"))
}

/// A name as a part of logical names, which have letters and digits only: `high-priority_2` becomes
/// `HighPriority2`.
pub(super) fn logical(name: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    name.split(['-', '_']).map(word).collect()
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queues_name_becomes_a_part_of_logical_names() {
        for (name, id) in [("maintenance", "Maintenance"), ("high-priority_2", "HighPriority2"), ("a--b", "AB")] {
            assert_eq!(logical(name), id);
        }
    }

    #[test]
    fn the_arn_of_a_queue_that_is_there_comes_from_its_url() {
        let arn = |url| arn_of(url).unwrap_or_default();
        assert_eq!(
            arn("https://sqs.eu-central-1.amazonaws.com/123456789012/orders.fifo"),
            "arn:${AWS::Partition}:sqs:eu-central-1:123456789012:orders.fifo"
        );
        assert_eq!(
            arn("http://127.0.0.1:4566/000000000000/orders"),
            "arn:${AWS::Partition}:sqs:${AWS::Region}:000000000000:orders"
        );
        assert_eq!(
            arn("http://127.0.0.1:4566/queue/eu-west-1/000000000000/orders"),
            "arn:${AWS::Partition}:sqs:${AWS::Region}:000000000000:orders"
        );
        for url in ["https://queues.example/orders", "https://queues.example/team/orders", "http://h/000000000000/a\"b"]
        {
            assert_eq!(arn_of(url), None, "{url}");
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(10_001)), 11);
        assert_eq!(whole_seconds(Duration::from_secs(110)), 110);
    }
}
