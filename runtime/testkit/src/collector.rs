//! An OTLP collector of a test's own: a real HTTP server on a free port of 127.0.0.1 that reads OpenTelemetry's
//! official protobuf types and keeps what it was sent. It stops when its handle is dropped.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: SpanKind,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// Its parent's id, unless it begins its trace.
    pub parent: Option<String>,
    /// Traces and spans that it is linked to.
    pub links: Vec<(String, String)>,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The resource's attributes, as text.
    pub resource: BTreeMap<String, String>,
    /// True if its status is an error.
    pub failed: bool,
}

/// A log line as it arrived.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// What it says.
    pub body: String,
    /// Its trace, in hexadecimal digits; empty outside of one.
    pub trace: String,
    /// Its fields, as text.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    logs: Mutex<Vec<LogLine>>,
    /// Paths and bodies that are no OTLP.
    wrong: Mutex<Vec<String>>,
    /// Requests are taken and never answered.
    mute: AtomicBool,
    /// Requests are answered and not read.
    forgets: AtomicBool,
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Kept>,
    news: watch::Receiver<u64>,
    server: JoinHandle<()>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// There is no free port.
    #[expect(clippy::expect_used, reason = "a test that cannot start its collector fails")]
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let kept = Arc::<Kept>::default();
        let (tell, news) = watch::channel(0);
        let server = tokio::spawn(serve(listener, Arc::clone(&kept), tell));
        Self { address, kept, news, server }
    }

    /// The base of its URLs, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it takes requests and never answers.
    pub fn fall_silent(&self) {
        self.kept.mute.store(true, Relaxed);
    }

    /// From now on it answers and keeps nothing: for figures.
    pub fn forget(&self) {
        self.kept.forgets.store(true, Relaxed);
    }

    /// The spans that arrived so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.kept.spans).clone()
    }

    /// The log lines that arrived so far.
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        lock(&self.kept.logs).clone()
    }

    /// Requests that were no OTLP.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        lock(&self.kept.wrong).clone()
    }

    /// Waits until what arrived is enough, and returns it. The caller bounds the wait.
    pub async fn spans_until(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut news = self.news.clone();
        loop {
            news.borrow_and_update();
            let spans = self.spans();
            // The server is gone only with this handle.
            if enough(&spans) || news.changed().await.is_err() {
                return spans;
            }
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, kept: Arc<Kept>, tell: watch::Sender<u64>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (kept, tell) = (Arc::clone(&kept), tell.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request| take(request, &kept, &tell));
            // A client that goes away in the middle is no trouble of ours.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn take(
    request: Request<Incoming>,
    kept: &Kept,
    tell: &watch::Sender<u64>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if kept.mute.load(Relaxed) {
        std::future::pending::<()>().await;
    }
    let told = |error: prost::DecodeError| error.to_string();
    let read = match path.as_str() {
        _ if kept.forgets.load(Relaxed) => Ok(()),
        "/v1/traces" => ExportTraceServiceRequest::decode(body).map(|request| keep_spans(kept, request)).map_err(told),
        "/v1/logs" => ExportLogsServiceRequest::decode(body).map(|request| keep_logs(kept, request)).map_err(told),
        "/v1/metrics" => Ok(()),
        _ => Err("no path of OTLP".to_owned()),
    };
    if let Err(error) = read {
        lock(&kept.wrong).push(format!("{path}: {error}"));
    }
    tell.send_modify(|news| *news += 1);
    let mut response = Response::new(Full::default());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/x-protobuf"));
    Ok(response)
}

fn keep_spans(kept: &Kept, request: ExportTraceServiceRequest) {
    let mut spans = lock(&kept.spans);
    for of_resource in request.resource_spans {
        let resource = texts(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                kind: span.kind(),
                failed: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: Some(hex(&span.parent_span_id)).filter(|parent| !parent.is_empty()),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                attributes: texts(span.attributes),
                resource: resource.clone(),
            });
        }
    }
}

fn keep_logs(kept: &Kept, request: ExportLogsServiceRequest) {
    let scopes = request.resource_logs.into_iter().flat_map(|of_resource| of_resource.scope_logs);
    let lines = scopes.flat_map(|scope| scope.log_records).map(|record| LogLine {
        body: record.body.and_then(text).unwrap_or_default(),
        trace: hex(&record.trace_id),
        attributes: texts(record.attributes),
    });
    lock(&kept.logs).extend(lines);
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().filter_map(|pair| Some((pair.key, pair.value.and_then(text)?))).collect()
}

fn text(value: AnyValue) -> Option<String> {
    match value.value? {
        Value::StringValue(text) => Some(text),
        Value::BoolValue(value) => Some(value.to_string()),
        Value::IntValue(value) => Some(value.to_string()),
        Value::DoubleValue(value) => Some(value.to_string()),
        other => Some(format!("{other:?}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds the lock; if something did, what is kept is still whole.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
