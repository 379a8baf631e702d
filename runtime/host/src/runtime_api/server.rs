//! Serves the Runtime API to one function process.
//!
//! Each process has a listener of its own on a free loopback port, so that what it says can only be
//! about its own invocations. One task serves one connection; what does not concern the conversation
//! is answered at once. Dropping the [`Server`] closes the port and every connection.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::body::{self, BodyError, WholeBody};
use super::late_eof::LateEof;
use super::request::{Call, HttpResponse, accepted, refused};
use super::{Answer, CONNECTIONS_MAX, Exchange, FunctionError, InvocationEnd, RESPONSE_BYTES_MAX, Refusal};

/// The trailer by which a streamed response reports that it failed in the middle.
const ERROR_TYPE_TRAILER: &str = "lambda-runtime-function-error-type";
const ERROR_BODY_TRAILER: &str = "lambda-runtime-function-error-body";

/// How long nothing is accepted after accepting went wrong.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers the paths under `/rhubarb/v1/` for one function process.
#[async_trait]
pub trait Routes: Send + Sync + 'static {
    /// Answers one request. Its body is whole and within [`body_limit`](Self::body_limit).
    async fn call(&self, request: Request<Bytes>) -> Response<Bytes>;

    /// The largest body that is accepted on `path`; what is larger is answered with 413.
    fn body_limit(&self, path: &str) -> usize {
        let _ = path;
        RESPONSE_BYTES_MAX
    }
}

/// The Runtime API of one function process, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    closing: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Opens a loopback port for one process and serves `exchange` and `routes` on it.
    pub async fn start(exchange: Arc<Exchange>, routes: Arc<dyn Routes>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let closing = CancellationToken::new();
        let desk = Arc::new(Desk { exchange, routes });
        let accepting = tokio::spawn(accept(listener, desk, closing.clone()));
        Ok(Self { address, closing, accepting })
    }

    /// Where the process finds it: the value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more, and waits at most `limit` until what was sent has been read.
    ///
    /// For the end of the process: an answer that it sent with its last breath still counts.
    pub async fn finish(&mut self, limit: Duration) {
        self.closing.cancel();
        if tokio::time::timeout(limit, &mut self.accepting).await.is_err() {
            self.accepting.abort();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Owns the connections: dropping it, or aborting the task it runs in, closes them all.
async fn accept(listener: TcpListener, desk: Arc<Desk>, closing: CancellationToken) {
    let mut connections = JoinSet::new();
    let connections_max = CONNECTIONS_MAX + 2 * desk.exchange.concurrency();
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&desk)));
                }
                // Out of file descriptors, mostly: the connection waits until there are some.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a function process");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    // Connections that the process opened just before its end still wait in the listener.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                connections.spawn(converse(stream, Arc::clone(&desk)));
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn converse(stream: TcpStream, desk: Arc<Desk>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let served = http1::Builder::new()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(LateEof::new(stream)), service)
        .await;
    if let Err(error) = served {
        // The process died, or does not speak HTTP. Its end is noticed elsewhere.
        tracing::debug!(%error, "a connection of a function process broke");
    }
}

/// Answers the requests of one process.
struct Desk {
    exchange: Arc<Exchange>,
    routes: Arc<dyn Routes>,
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> HttpResponse {
        match Call::of(request.method(), request.uri().path()) {
            Call::Next => self.next().await,
            Call::Response(id) => {
                let id = id.to_owned();
                self.response(&id, request.into_body()).await
            }
            Call::Error(id) => {
                let id = id.to_owned();
                self.error(&id, request).await
            }
            Call::InitError => self.init_error(request).await,
            Call::Route => self.route(request).await,
            Call::WrongMethod(wanted) => {
                let message = format!("{} wants {wanted}", request.uri().path());
                let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", &message);
                let allow = HeaderValue::from_static(wanted);
                response.headers_mut().insert(http::header::ALLOW, allow);
                drained(request.into_body(), response).await
            }
            Call::Unknown => {
                let message = format!(
                    "no {} here; the Runtime API is below /2018-06-01/runtime/, the host's routes below /rhubarb/v1/",
                    request.uri().path()
                );
                let response = refused(StatusCode::NOT_FOUND, "NotFound", &message);
                drained(request.into_body(), response).await
            }
        }
    }

    async fn next(&self) -> HttpResponse {
        match self.exchange.poll() {
            Ok(event) => event.await.unwrap_or_else(|_| Refusal::Ended.into_response()),
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn response(&self, id: &str, body: Incoming) -> HttpResponse {
        if let Err(refusal) = self.exchange.expects(id) {
            return drained(body, refusal.into_response()).await;
        }
        let (answer, reply) = match body::read(body, RESPONSE_BYTES_MAX).await {
            Ok(whole) => (Ok(answer_of(whole)), accepted()),
            Err(error) => match too_large(&error, RESPONSE_BYTES_MAX) {
                Some((bytes, reply)) => {
                    let limit = RESPONSE_BYTES_MAX;
                    (Err(InvocationEnd::ResponseTooLarge { bytes, limit }), reply)
                }
                None => return truncated(),
            },
        };
        self.settled(id, answer, reply)
    }

    async fn error(&self, id: &str, request: Request<Incoming>) -> HttpResponse {
        let (parts, body) = request.into_parts();
        if let Err(refusal) = self.exchange.expects(id) {
            return drained(body, refusal.into_response()).await;
        }
        let (error, reply) = match body::read(body, RESPONSE_BYTES_MAX).await {
            Ok(whole) => (FunctionError::read(&parts.headers, &whole.bytes), accepted()),
            Err(error) => match too_large(&error, RESPONSE_BYTES_MAX) {
                Some((_, reply)) => (FunctionError::read(&parts.headers, b""), reply),
                None => return truncated(),
            },
        };
        self.settled(id, Ok(Answer::Error(error)), reply)
    }

    fn settled(&self, id: &str, answer: Result<Answer, InvocationEnd>, reply: HttpResponse) -> HttpResponse {
        match self.exchange.answer(id, answer) {
            Ok(()) => reply,
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn init_error(&self, request: Request<Incoming>) -> HttpResponse {
        let (parts, body) = request.into_parts();
        let body = match body::read(body, RESPONSE_BYTES_MAX).await {
            Ok(whole) => whole.bytes,
            Err(BodyError::TooLarge { .. }) => Bytes::new(),
            Err(BodyError::Truncated) => return truncated(),
        };
        let error = FunctionError::read(&parts.headers, &body);
        match self.exchange.init_error(error) {
            Ok(()) => accepted(),
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> HttpResponse {
        let limit = self.routes.body_limit(request.uri().path());
        let (parts, body) = request.into_parts();
        let body = match body::read(body, limit).await {
            Ok(whole) => whole.bytes,
            Err(error) => {
                return too_large(&error, limit).map_or_else(truncated, |(_, reply)| reply);
            }
        };
        let response = self.routes.call(Request::from_parts(parts, body)).await;
        response.map(Full::new)
    }
}

impl Refusal {
    fn into_response(self) -> HttpResponse {
        let (status, error_type) = match self {
            Self::UnknownRequest { .. } | Self::AnsweredBefore { .. } => (StatusCode::BAD_REQUEST, "InvalidRequestID"),
            Self::InitErrorTooLate | Self::InitFailed | Self::TooManyPolls { .. } | Self::Ended => {
                (StatusCode::FORBIDDEN, "InvalidStateTransition")
            }
        };
        refused(status, error_type, &self.to_string())
    }
}

/// A streamed response may report by trailers that it failed after it had begun.
fn answer_of(whole: WholeBody) -> Answer {
    match whole.trailers.as_ref().and_then(streamed_error) {
        Some(error) => Answer::Error(error),
        None => Answer::Response(whole.bytes),
    }
}

fn streamed_error(trailers: &HeaderMap) -> Option<FunctionError> {
    trailers.get(ERROR_TYPE_TRAILER)?;
    let encoded = trailers.get(ERROR_BODY_TRAILER).map_or(&b""[..], HeaderValue::as_bytes);
    let body = BASE64_STANDARD.decode(encoded).unwrap_or_else(|_| encoded.to_vec());
    Some(FunctionError::read(trailers, &body))
}

/// The refusal of a body over its limit, with the size it had; none if the body merely broke off.
fn too_large(error: &BodyError, limit: usize) -> Option<(u64, HttpResponse)> {
    let BodyError::TooLarge { bytes, drained } = *error else {
        return None;
    };
    let message = format!("a body of {bytes} bytes is over the limit of {limit} bytes");
    let mut response = refused(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message);
    if !drained {
        close(&mut response);
    }
    Some((bytes, response))
}

/// The invocation stays in flight: the process either sends its answer again, or ends.
fn truncated() -> HttpResponse {
    let mut response = refused(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "the request's body broke off");
    close(&mut response);
    response
}

/// Reads what is left of a request that is refused unread, so that its sender reads the refusal.
async fn drained(body: Incoming, mut response: HttpResponse) -> HttpResponse {
    if body::drain(body, 0).await.is_none() {
        close(&mut response);
    }
    response
}

fn close(response: &mut HttpResponse) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}
