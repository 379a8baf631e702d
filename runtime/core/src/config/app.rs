//! The application: its name, its stage, and where its state lives.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use super::{
    Overrides, Place, VARIABLES, Vars,
    bounds::{APP_CHARS_MAX, DIR_DEFAULT, METRICS_PORT_DEFAULT, PATH_CHARS_MAX, STAGE_CHARS_MAX, STAGE_DEFAULT},
    mistake::{Problem, quoted},
    queue::QueueConfig,
    sheet::Table,
    value::{Reading, line, text_as, word, words},
};

/// The section `[app]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppConfig {
    /// The application's name.
    pub name: String,
    /// Keeps several installations of one application apart: `dev`, `prod`, ….
    pub stage: String,
    /// Where queues and rows live.
    pub backend: Backend,
    /// The folder of the embedded backend, relative to the configuration file.
    pub dir: String,
    /// What a power cut may take from the embedded backend.
    pub durability: Durability,
    /// The table on AWS, where it is not [`Self::aws_table_name`]'s.
    pub table: Option<String>,
    /// The bucket on AWS, where it is not [`Self::aws_bucket_name`]'s.
    pub bucket: Option<String>,
    /// Where agents show their metrics and their health.
    pub metrics: MetricsAddress,
    /// The URL of a Tempo that has the spans of tasks.
    pub traces: Option<String>,
}

/// Where an agent shows its metrics and its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// Nowhere: nothing is counted for it.
    Off,
    /// Here, or on one of the ports after it.
    At(SocketAddr),
}

impl Default for MetricsAddress {
    /// This machine only, on the port that OpenTelemetry's exporters for Prometheus have by default.
    fn default() -> Self {
        Self::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), METRICS_PORT_DEFAULT))
    }
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| "write IP:PORT, e.g. 127.0.0.1:9464, or off".to_owned()),
        }
    }
}

words! {
    /// Where queues and rows live.
    Backend {
        /// The embedded store: one machine, nothing to install.
        Local = "local",
        /// SQS, DynamoDB and S3, or an emulator of them.
        Aws = "aws",
    }

    /// What a power cut may take from the embedded backend. A crash of a process takes nothing
    /// from either.
    Durability {
        /// The last moments before the cut.
        Normal = "normal",
        /// Nothing: each commit waits for the disk.
        Full = "full",
    }
}

impl AppConfig {
    /// The name of a queue on AWS where it brings no `url`: `<app>-<stage>-<queue>`, with `.fifo`
    /// for a FIFO queue.
    #[must_use]
    pub fn aws_queue_name(&self, queue: &QueueConfig) -> String {
        let suffix = if queue.fifo { ".fifo" } else { "" };
        format!("{}-{}-{}{suffix}", self.name, self.stage, queue.name)
    }

    /// The table on AWS: `<app>-<stage>`, unless it is named.
    #[must_use]
    pub fn aws_table_name(&self) -> String {
        self.table.clone().unwrap_or_else(|| format!("{}-{}", self.name, self.stage))
    }

    /// The bucket on AWS: `<app>-<stage>-<account>`, unless it is named. The account is part of it because
    /// all accounts share one space of names.
    #[must_use]
    pub fn aws_bucket_name(&self, account: &str) -> String {
        self.bucket.clone().unwrap_or_else(|| format!("{}-{}-{account}", self.name, self.stage))
    }
}

impl AppConfig {
    /// The group of its schedules on EventBridge Scheduler.
    #[must_use]
    pub fn aws_schedule_group(&self) -> String {
        format!("{}-{}", self.name, self.stage)
    }

    /// The role by which EventBridge Scheduler sends to its queues.
    #[must_use]
    pub fn aws_scheduler_role(&self) -> String {
        format!("{}-{}-scheduler", self.name, self.stage)
    }
}

/// Reads the section; an option of the command beats a variable, a variable beats the file.
pub(super) fn read(root: &Table<'_, '_>, vars: &dyn Vars, overrides: &Overrides) -> AppConfig {
    let table = root.table("app", "app");
    let layers = Layers { table: &table, vars, overrides };
    let name = layers.read("name", |text| label(text, APP_CHARS_MAX));
    if name.is_none() {
        table.missing("name", r#"add the application's name, e.g. name = "training-platform""#);
    }
    AppConfig {
        name: name.unwrap_or_default(),
        stage: layers.read("stage", |text| label(text, STAGE_CHARS_MAX)).unwrap_or_else(|| STAGE_DEFAULT.to_owned()),
        backend: layers.read("backend", word).unwrap_or(Backend::Local),
        dir: layers.read("dir", line(PATH_CHARS_MAX)).unwrap_or_else(|| DIR_DEFAULT.to_owned()),
        durability: layers.read("durability", word).unwrap_or(Durability::Normal),
        table: layers.read("table", |text| aws_name(text, "table", 3..=255)),
        bucket: layers.read("bucket", |text| aws_name(text, "bucket", 3..=63)),
        metrics: layers.read("metrics", metrics_address).unwrap_or_default(),
        traces: layers.read("traces", tempo_url),
    }
}

struct Layers<'a, 't, 'i> {
    table: &'a Table<'t, 'i>,
    vars: &'a dyn Vars,
    overrides: &'a Overrides,
}

impl Layers<'_, '_, '_> {
    /// Reads the key in every layer, so that each mistake is told, and returns the uppermost value.
    fn read<T>(&self, key: &str, of: impl Fn(&str) -> Reading<T>) -> Option<T> {
        let mut value = self.table.read(key, text_as(&of));
        for (place, text) in self.layers(key) {
            let path = self.table.path(key);
            match of(&text) {
                Ok(upper) => {
                    self.table.sheet().came_from(&path, place);
                    value = Some(upper);
                }
                Err(problem) => self.table.sheet().mistake_at(place, &path, problem),
            }
        }
        value
    }

    /// What stands above the file, lowest first.
    fn layers(&self, key: &str) -> Vec<(Place, String)> {
        let Some(variable) = VARIABLES.iter().find(|variable| variable.key == key) else {
            return Vec::new();
        };
        let from_variable = self.vars.get(variable.name).map(|text| (Place::Variable(variable.name), text));
        let from_flag =
            variable.flag.and_then(|flag| self.overrides.get(flag).map(|text| (Place::Flag(flag), text.to_owned())));
        from_variable.into_iter().chain(from_flag).collect()
    }
}

/// A name that may be part of any name on AWS.
fn label(text: &str, chars_max: usize) -> Reading<String> {
    let first_is_letter = text.starts_with(|c: char| c.is_ascii_lowercase());
    let all_allowed = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first_is_letter && all_allowed && !text.ends_with('-') && text.len() <= chars_max {
        return Ok(text.to_owned());
    }
    let what = format!("{} cannot be part of names on AWS", quoted(text));
    let fix = format!("use lower-case letters, digits and `-`, first a letter, last no `-`, at most {chars_max}");
    Err(Problem::new(what, fix))
}

fn metrics_address(text: &str) -> Reading<MetricsAddress> {
    text.parse().map_err(|fix| Problem::new(format!("{} is no address to show metrics at", quoted(text)), fix))
}

fn tempo_url(text: &str) -> Reading<String> {
    let host = text.strip_prefix("http://").and_then(|rest| rest.split('/').next()).filter(|host| !host.is_empty());
    if host.is_some() && text.len() <= PATH_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let fix = "write http://HOST:PORT, e.g. http://127.0.0.1:3200; TLS is not spoken here: name a proxy beside this \
               program, and let that one speak TLS";
    Err(Problem::new(format!("{} is no URL of a Tempo", quoted(text)), fix))
}

/// A name as DynamoDB and S3 both take it.
fn aws_name(text: &str, what: &str, chars: RangeInclusive<usize>) -> Reading<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if chars.contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    let fix = format!("use letters, digits and `-_.`, {} to {} of them", chars.start(), chars.end());
    Err(Problem::new(format!("{} is no {what}'s name", quoted(text)), fix))
}
