//! The agent's page: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever watches over processes.
//!
//! It is for one machine, or for a network that may read it: there is nothing secret on it, and nothing can be
//! done by it. Without a free port an agent works on and says so; the page is no part of the work.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::health::{Health, told};

/// Ports that are tried one after the other.
const PORTS_MAX: u16 = 16;
/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 16;
/// A request whose head has not come by then is not answered.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is not done by then is closed.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// After a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes the text of `/metrics`.
pub type MetricsText = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What the page shows.
#[derive(Clone)]
pub struct Page {
    /// Of the process.
    pub metrics: MetricsText,
    /// The media type of [`Self::metrics`].
    pub metrics_type: &'static str,
    /// Of each agent in it.
    pub agents: Vec<Health>,
}

/// Takes the first free port from `address` on, among sixteen; any free one for port 0.
///
/// # Errors
///
/// All are taken, or the address is none of this machine's: the first one's error.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let mut first = None;
    let ports = if address.port() == 0 { 0..=0 } else { address.port()..=address.port().saturating_add(PORTS_MAX - 1) };
    for port in ports {
        match TcpListener::bind(SocketAddr::new(address.ip(), port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => _ = first.get_or_insert(error),
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
}

/// Answers until ended.
pub async fn serve(listener: TcpListener, page: Page, end: CancellationToken) {
    let (page, room) = (Arc::new(page), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let accept = async {
            // The semaphore is never closed.
            let room = Arc::clone(&room).acquire_owned().await.ok();
            (listener.accept().await, room)
        };
        let Some((accepted, room)) = end.run_until_cancelled(accept).await else { return };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (page, end) = (Arc::clone(&page), end.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let page = Arc::clone(&page);
                async move { Ok::<_, Infallible>(page.answer(&request)) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            // Who hangs up half-way asks again.
            let _ = end.run_until_cancelled(tokio::time::timeout(CONNECTION_TIMEOUT, connection)).await;
            drop(room);
        });
    }
}

impl Page {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        let health = |wrong: &dyn Fn(&Health) -> Vec<String>| {
            let (is_well, body) = told(&self.agents.iter().map(wrong).collect::<Vec<_>>());
            text(if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
        };
        match request.uri().path() {
            "/metrics" => match (self.metrics)() {
                Ok(body) => with_type(StatusCode::OK, self.metrics_type, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/healthz" => health(&Health::stalled),
            "/readyz" => health(&Health::not_ready),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use rhubarb_core::{backend::WorkerState, ids::WorkerId};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn each_path_says_what_it_is_for() {
        let health = Health::new(WorkerId::new("w").unwrap());
        let metrics: MetricsText = Arc::new(|| Ok("up 1\n".to_owned()));
        let page = Page { metrics, metrics_type: "text/plain; version=0.0.4", agents: vec![health.clone()] };
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, end) = (listener.local_addr().unwrap(), CancellationToken::new());
        let server = tokio::spawn(serve(listener, page, end.clone()));
        let metrics = get(address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("\r\n\r\nup 1\n"), "{metrics}");
        assert!(metrics.contains("version=0.0.4"), "{metrics}");
        assert!(get(address, "/healthz").await.ends_with("ok\n"));
        let early = get(address, "/readyz").await;
        assert!(early.starts_with("HTTP/1.1 503") && early.contains("worker w is starting"), "{early}");
        health.beat(true, WorkerState::Running, &[]);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        end.cancel();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_taken_port_is_skipped() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let next = bind(address).await.unwrap();
        assert!(next.local_addr().unwrap().port() > address.port());
        assert!(bind("192.0.2.1:9464".parse().unwrap()).await.is_err(), "no address of this machine");
    }
}
