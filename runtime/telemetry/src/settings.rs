//! What the standard `OTEL_…` variables ask for
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! One thing differs from the specification, where an exporter runs unless it is turned off: nothing is
//! exported unless an endpoint is named, or a signal's exporter is asked for as `otlp`. All mistakes are told
//! together. Limits of spans (`OTEL_SPAN_…`) are read by the SDK itself.

use std::{collections::HashMap, time::Duration};

use http::Uri;
use rhubarb_core::config::Vars;

/// The longest list of resource attributes or headers that is read.
const PAIRS_MAX: usize = 128;
/// What a buffer may hold at most, whatever is asked.
const QUEUE_MAX: usize = 1 << 20;

/// What is exported, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Spans: off unless asked for, or an endpoint is named.
    pub traces: Option<Exporter>,
    /// Metrics: the same.
    pub metrics: Option<Exporter>,
    /// Metrics are counted for a page of this process too. No variable turns it on: the program does.
    pub page: bool,
    /// Log lines: off unless `OTEL_LOGS_EXPORTER=otlp`.
    pub logs: Option<Exporter>,
    /// Which traces are recorded.
    pub sampling: Sampling,
    /// How spans and log lines wait to be sent.
    pub buffer: Buffer,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub attributes: Vec<(String, String)>,
}

/// Where a signal goes: OTLP over HTTP, as protobuf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exporter {
    /// The whole URL.
    pub endpoint: String,
    /// Headers of each request, such as a key.
    pub headers: HashMap<String, String>,
    /// How long one export may take, with its retries.
    pub timeout: Duration,
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The decision of whoever began a trace counts.
    pub parent_based: bool,
    /// The share of the traces that begin here.
    pub ratio: f64,
}

/// How much waits to be sent, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// What comes when so many wait is dropped and counted.
    pub queue_max: usize,
    /// So many go out together.
    pub batch_max: usize,
    /// The longest that one waits.
    pub delay: Duration,
}

/// What is wrong with the variables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct BadSettings(Vec<String>);

/// The parts of a signal's variables.
#[derive(Clone, Copy)]
struct Signal {
    /// As in `OTEL_TRACES_EXPORTER`.
    word: &'static str,
    path: &'static str,
    /// An endpoint alone turns it on.
    by_endpoint: bool,
}

const TRACES: Signal = Signal { word: "TRACES", path: "v1/traces", by_endpoint: true };
const METRICS: Signal = Signal { word: "METRICS", path: "v1/metrics", by_endpoint: true };
const LOGS: Signal = Signal { word: "LOGS", path: "v1/logs", by_endpoint: false };

impl Settings {
    /// Nothing is exported.
    #[must_use]
    pub fn off() -> Self {
        Self {
            traces: None,
            metrics: None,
            page: false,
            logs: None,
            sampling: Sampling { parent_based: true, ratio: 1.0 },
            buffer: Buffer::default(),
            service_name: None,
            attributes: Vec::new(),
        }
    }

    /// Reads the variables.
    ///
    /// # Errors
    ///
    /// Every mistake, with its variable and the fix.
    pub fn read(vars: &dyn Vars) -> Result<Self, BadSettings> {
        let mut reader = Reader { vars, mistakes: Vec::new() };
        let settings = if reader.is_true("OTEL_SDK_DISABLED") { Self::off() } else { reader.settings() };
        if reader.mistakes.is_empty() { Ok(settings) } else { Err(BadSettings(reader.mistakes)) }
    }

    /// True if anything is exported.
    #[must_use]
    pub const fn exports(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self { queue_max: 2048, batch_max: 512, delay: Duration::from_secs(5) }
    }
}

struct Reader<'a> {
    vars: &'a dyn Vars,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn settings(&mut self) -> Settings {
        Settings {
            traces: self.exporter(TRACES),
            metrics: self.exporter(METRICS),
            page: false,
            logs: self.exporter(LOGS),
            sampling: self.sampling(),
            buffer: self.buffer(),
            service_name: self.vars.get("OTEL_SERVICE_NAME"),
            attributes: self.pairs("OTEL_RESOURCE_ATTRIBUTES"),
        }
    }

    fn exporter(&mut self, signal: Signal) -> Option<Exporter> {
        let variable = format!("OTEL_{}_EXPORTER", signal.word);
        let endpoint = self.endpoint(signal);
        let is_on = match self.vars.get(&variable).as_deref() {
            None => signal.by_endpoint && endpoint.is_some(),
            Some("otlp") => true,
            // Metrics for Prometheus are the agent's own page; no exporter is needed for them.
            Some("none" | "prometheus") => false,
            Some(other) => self.mistake(format!("{variable} is `{other}`: write otlp or none")).is_some(),
        };
        if !is_on {
            return None;
        }
        self.check_protocol(signal);
        let endpoint = endpoint.unwrap_or_else(|| format!("http://localhost:4318/{}", signal.path));
        self.check_endpoint(&endpoint);
        let headers = self.either(signal, "HEADERS").map(|name| self.pairs(&name)).unwrap_or_default();
        let timeout = self.either(signal, "TIMEOUT").and_then(|name| self.number(&name)).unwrap_or(10_000);
        Some(Exporter { endpoint, headers: headers.into_iter().collect(), timeout: Duration::from_millis(timeout) })
    }

    /// A signal's own endpoint is taken as it is; the common one gets the signal's path.
    fn endpoint(&self, signal: Signal) -> Option<String> {
        let own = self.vars.get(&format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.word));
        let common = || self.vars.get("OTEL_EXPORTER_OTLP_ENDPOINT");
        own.or_else(|| common().map(|base| format!("{}/{}", base.trim_end_matches('/'), signal.path)))
    }

    fn check_protocol(&mut self, signal: Signal) {
        let Some(name) = self.either(signal, "PROTOCOL") else { return };
        match self.vars.get(&name).as_deref() {
            None | Some("http/protobuf") => {}
            Some(other) => {
                self.mistake(format!(
                    "{name} is `{other}`, and only http/protobuf is spoken here: write that, and the collector's HTTP \
                     port (4318) in the endpoint"
                ));
            }
        }
    }

    fn check_endpoint(&mut self, endpoint: &str) {
        let parsed = endpoint.parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
        match parsed.as_ref().and_then(Uri::scheme_str) {
            Some("http") => {}
            Some("https") => {
                self.mistake(format!(
                    "the OTLP endpoint `{endpoint}` wants TLS, which is not spoken here: name a collector beside \
                     this program by http://, and let that one speak TLS"
                ));
            }
            _ => {
                self.mistake(format!("the OTLP endpoint `{endpoint}` is no URL: write http://HOST:4318"));
            }
        }
    }

    fn sampling(&mut self) -> Sampling {
        let word = self.vars.get("OTEL_TRACES_SAMPLER").unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (parent_based, own) = match word.strip_prefix("parentbased_") {
            Some(own) => (true, own),
            None => (false, word.as_str()),
        };
        let ratio = match own {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio(),
            _ => {
                let known = "always_on, always_off or traceidratio, each also with parentbased_ before it";
                self.mistake(format!("OTEL_TRACES_SAMPLER is `{word}`: write {known}"));
                1.0
            }
        };
        Sampling { parent_based, ratio }
    }

    fn ratio(&mut self) -> f64 {
        let Some(text) = self.vars.get("OTEL_TRACES_SAMPLER_ARG") else { return 1.0 };
        let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        if ratio.is_none() {
            self.mistake(format!("OTEL_TRACES_SAMPLER_ARG is `{text}`: write a number from 0 to 1"));
        }
        ratio.unwrap_or(1.0)
    }

    fn buffer(&mut self) -> Buffer {
        let least = Buffer::default();
        let mut size = |name, default| {
            let asked = self.number(name).and_then(|asked| usize::try_from(asked).ok());
            asked.unwrap_or(default).clamp(1, QUEUE_MAX)
        };
        let queue_max = size("OTEL_BSP_MAX_QUEUE_SIZE", least.queue_max);
        let batch_max = size("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", least.batch_max).min(queue_max);
        let delay = self.number("OTEL_BSP_SCHEDULE_DELAY").map_or(least.delay, Duration::from_millis);
        Buffer { queue_max, batch_max, delay }
    }

    /// The name of a signal's own variable where it is set, else of the common one where that is.
    fn either(&self, signal: Signal, what: &str) -> Option<String> {
        let names = [format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word), format!("OTEL_EXPORTER_OTLP_{what}")];
        names.into_iter().find(|name| self.vars.get(name).is_some())
    }

    fn number(&mut self, name: &str) -> Option<u64> {
        let text = self.vars.get(name)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.mistake(format!("{name} is `{text}`: write a whole number"));
        }
        number
    }

    /// `key=value,key=value`, with `%2C`-like escapes in values.
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let text = self.vars.get(name).unwrap_or_default();
        let mut pairs = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).take(PAIRS_MAX) {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    pairs.push((key.trim().to_owned(), unescape(value.trim())));
                }
                // What it says may be a key: it is not shown.
                _ => _ = self.mistake(format!("{name} holds a part without `=`: write KEY=VALUE,KEY=VALUE")),
            }
        }
        pairs
    }

    fn is_true(&self, name: &str) -> bool {
        self.vars.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn mistake(&mut self, mistake: String) -> Option<()> {
        self.mistakes.push(mistake);
        None
    }
}

fn unescape(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                rest = &after[2..];
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let vars: HashMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::read(&vars).map_err(|bad| bad.to_string())
    }

    #[test]
    fn nothing_is_exported_unless_it_is_asked_for() {
        assert_eq!(read(&[]).unwrap(), Settings::off());
        assert!(!read(&[("OTEL_TRACES_SAMPLER", "always_on")]).unwrap().exports());
        let disabled = [("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")];
        assert!(!read(&disabled).unwrap().exports());
    }

    #[test]
    fn an_endpoint_turns_on_traces_and_metrics_and_logs_are_asked_for() {
        let on = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/")]).unwrap();
        assert_eq!(on.traces.unwrap().endpoint, "http://c:4318/v1/traces");
        assert_eq!((on.metrics.unwrap().endpoint.as_str(), on.logs), ("http://c:4318/v1/metrics", None));
        let logs = read(&[("OTEL_LOGS_EXPORTER", "otlp")]).unwrap();
        assert_eq!(logs.logs.unwrap().endpoint, "http://localhost:4318/v1/logs");
        let own = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d/as-it-is"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb, team = x"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ];
        let own = read(&own).unwrap();
        let traces = own.traces.unwrap();
        assert_eq!((traces.endpoint.as_str(), traces.timeout), ("http://d/as-it-is", Duration::from_millis(250)));
        assert_eq!((traces.headers["api-key"].as_str(), traces.headers["team"].as_str()), ("a,b", "x"));
        assert_eq!(own.metrics, None);
    }

    #[test]
    fn every_mistake_is_told_with_its_variable() {
        let told = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ])
        .unwrap_err();
        for part in ["http://HOST:4318", "4318) in the endpoint", "OTEL_EXPORTER_OTLP_HEADERS", "jaeger_remote", "many"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn the_samplers_of_the_specification_are_read() {
        let sampling = |word, ratio| {
            read(&[("OTEL_TRACES_SAMPLER", word), ("OTEL_TRACES_SAMPLER_ARG", ratio)]).map(|read| read.sampling)
        };
        let is = |parent_based, ratio| Ok(Sampling { parent_based, ratio });
        assert_eq!(sampling("always_off", ""), is(false, 0.0));
        assert_eq!(sampling("parentbased_traceidratio", "0.01"), is(true, 0.01));
        assert_eq!(sampling("traceidratio", ""), is(false, 1.0));
        assert!(sampling("traceidratio", "2").is_err());
    }
}
