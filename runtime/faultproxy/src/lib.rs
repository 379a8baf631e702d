//! What goes wrong between a client and a service: an HTTP/1.1 proxy of the caller's own on 127.0.0.1.
//!
//! Tests put it before an emulator of AWS, and so does `rhubarb chaos`; so it is a crate of its own, which brings
//! nothing of the tests along. By rules that are added, it drops a request before the service has seen it or its answer after, delays
//! it, sends it twice, or answers in the service's place; and it can be down as a whole, and come back on the
//! same port. Each request is counted by its target, whatever became of it, and can be waited for. All of it
//! stops when its handle is dropped.

mod rule;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use self::rule::{Rule, Wrong};
use self::{
    rule::Rules,
    wire::{Cut, Whole},
};

/// A running proxy.
#[derive(Debug)]
pub struct FaultProxy {
    endpoint: String,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    /// How many requests have come: told to whoever waits for one.
    seen: watch::Sender<u64>,
    is_down: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    rules: Rules,
    /// How often each target was asked for. Operations are few; only S3's keys make more of them.
    targets: BTreeMap<String, usize>,
    wronged: u64,
}

impl FaultProxy {
    /// Starts one before `upstream`, an `http://` endpoint of this machine. Nothing goes wrong yet.
    ///
    /// # Panics
    ///
    /// The endpoint has no address of this machine, or no port is free.
    #[expect(clippy::expect_used, reason = "a test without its proxy cannot go on")]
    pub async fn start(upstream: &str) -> Self {
        Self::before(upstream).await.expect("a proxy before an endpoint such as http://127.0.0.1:4566")
    }

    /// As [`Self::start`], for whoever can go on without.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the endpoint is not `http://`, an address of this machine and a port. Otherwise no port
    /// is free.
    pub async fn before(upstream: &str) -> io::Result<Self> {
        let upstream = loopback(upstream).ok_or_else(|| {
            let what = format!("`{upstream}` is no endpoint of this machine such as http://127.0.0.1:4566");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            seen: watch::Sender::new(0),
            is_down: watch::Sender::new(false),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { endpoint: format!("http://{address}"), shared, accepting })
    }

    /// Where clients reach the service through it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Adds a rule. The first rule that applies to a request decides what becomes of it.
    pub fn add(&self, rule: Rule) {
        self.shared.state().rules.add(rule);
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.shared.state().rules = Rules::default();
    }

    /// Cuts every connection and accepts none, until [`Self::come_back`].
    pub fn go_down(&self) {
        self.shared.is_down.send_replace(true);
    }

    /// Ends an outage.
    pub fn come_back(&self) {
        self.shared.is_down.send_replace(false);
    }

    /// How many requests have come so far whose target contains this: a piece of the `x-amz-target` header, of
    /// the method, or of the path with its query.
    #[must_use]
    pub fn count(&self, target: &str) -> usize {
        let state = self.shared.state();
        state.targets.iter().filter(|(one, _)| one.contains(target)).map(|(_, count)| count).sum()
    }

    /// How many requests a rule has done something to.
    #[must_use]
    pub fn wronged(&self) -> u64 {
        self.shared.state().wronged
    }

    /// Waits until so many requests have come whose target contains this.
    pub async fn wait_for(&self, target: &str, count: usize) {
        let mut seen = self.shared.seen.subscribe();
        // The sender lives as long as `self`.
        let _ = seen.wait_for(|_| self.count(target) >= count).await;
    }
}

impl Drop for FaultProxy {
    /// Stops accepting, which ends every connection too.
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves whole values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request and decides what becomes of it.
    fn note(&self, target: &str, body: &[u8]) -> Option<Wrong> {
        let wrong = {
            let mut state = self.state();
            *state.targets.entry(target.to_owned()).or_default() += 1;
            let wrong = state.rules.decide(target, body);
            state.wronged += u64::from(wrong.is_some());
            wrong
        };
        self.seen.send_modify(|seen| *seen += 1);
        wrong
    }
}

/// The address of an `http://` endpoint of this machine.
fn loopback(endpoint: &str) -> Option<SocketAddr> {
    let address = endpoint.strip_prefix("http://")?.trim_end_matches('/').replace("localhost", "127.0.0.1");
    address.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends its connections when it is dropped.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                if !*shared.is_down.borrow() {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut is_down = shared.is_down.subscribe();
    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A connection that was cut ends with the error that cut it.
        _ = connection => {}
        _ = is_down.wait_for(|down| *down) => {}
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Cut> {
    let request = Whole::read(request).await?;
    let send = || wire::forward(shared.upstream, &request);
    match shared.note(&request.target(), &request.body) {
        None => send().await,
        Some(Wrong::DropRequest) => Err(Cut::OnPurpose),
        Some(Wrong::DropAnswer) => {
            send().await?;
            Err(Cut::OnPurpose)
        }
        Some(Wrong::Delay(time)) => {
            tokio::time::sleep(time).await;
            send().await
        }
        Some(Wrong::Twice) => {
            send().await?;
            send().await
        }
        Some(Wrong::CheckDate) if request.is_signed_now() => send().await,
        Some(Wrong::CheckDate) => Ok(request.refuse(403, "InvalidSignatureException")),
        Some(Wrong::Answer { status, code }) => Ok(request.refuse(status, code)),
    }
}
