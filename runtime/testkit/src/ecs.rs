//! The endpoints that ECS and EC2 give a container, on a free port of 127.0.0.1: task protection, the task's metadata,
//! and the instance's metadata with Spot notices. They stop when their handle is dropped.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

#[derive(Debug, Default)]
struct State {
    asked: Vec<String>,
    protected: bool,
    refusal: Option<String>,
    interrupted: bool,
}

/// The running endpoints.
#[derive(Debug)]
pub struct FakeEcs {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    news: watch::Receiver<()>,
    server: JoinHandle<()>,
}

impl FakeEcs {
    /// The ECS task that the container belongs to.
    pub const TASK_ARN: &str = "arn:aws:ecs:eu-west-1:111122223333:task/shop/0123456789abcdef0123456789abcdef";
    /// The token of the instance's metadata.
    pub const TOKEN: &str = "token";

    /// Starts them.
    ///
    /// # Panics
    ///
    /// There is no free port.
    #[expect(clippy::expect_used, reason = "a test that cannot start its endpoints fails")]
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::<Mutex<State>>::default();
        let (tell, news) = watch::channel(());
        let server = tokio::spawn(serve(listener, Arc::clone(&state), tell));
        Self { address, state, news, server }
    }

    /// For `ECS_AGENT_URI`.
    #[must_use]
    pub fn agent_uri(&self) -> String {
        format!("http://{}/api/0123", self.address)
    }

    /// For `ECS_CONTAINER_METADATA_URI_V4`.
    #[must_use]
    pub fn metadata_uri(&self) -> String {
        format!("http://{}/v4/0123", self.address)
    }

    /// For `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    #[must_use]
    pub fn instance_uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked about protection, oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state).asked.clone()
    }

    /// Says whether the task is protected.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        lock(&self.state).protected
    }

    /// Waits until that is so. The caller bounds the wait.
    pub async fn protected(&self, is: bool) {
        let mut news = self.news.clone();
        // The server is gone only with this handle.
        while self.is_protected() != is && news.changed().await.is_ok() {}
    }

    /// Answers every wish for protection with this body.
    pub fn refuse(&self, body: &str) {
        lock(&self.state).refusal = Some(body.to_owned());
    }

    /// Does again what it is asked for.
    pub fn comply(&self) {
        lock(&self.state).refusal = None;
    }

    /// Gives a Spot notice.
    pub fn interrupt(&self) {
        lock(&self.state).interrupted = true;
    }
}

impl Drop for FakeEcs {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>, tell: watch::Sender<()>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (state, tell) = (Arc::clone(&state), tell.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, &state, &tell));
            // A client that goes away in the middle is no trouble of ours.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: &Mutex<State>,
    tell: &watch::Sender<()>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, text) = match (&head.method, head.uri.path()) {
        (&Method::PUT, "/api/0123/task-protection/v1/state") => {
            let answer = protect(&mut lock(state), &String::from_utf8_lossy(&body));
            tell.send_replace(());
            answer
        }
        (&Method::GET, "/v4/0123/task") => (StatusCode::OK, METADATA.replace("TASK", FakeEcs::TASK_ARN)),
        (&Method::PUT, "/latest/api/token") => (StatusCode::OK, FakeEcs::TOKEN.to_owned()),
        (&Method::GET, "/latest/meta-data/spot/instance-action") => {
            match head.headers.get("x-aws-ec2-metadata-token").map(|token| token.as_bytes()) {
                Some(token) if token == FakeEcs::TOKEN.as_bytes() => notice(&lock(state)),
                _ => (StatusCode::UNAUTHORIZED, String::new()),
            }
        }
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

fn protect(state: &mut State, body: &str) -> (StatusCode, String) {
    state.asked.push(body.to_owned());
    if let Some(refusal) = &state.refusal {
        return (StatusCode::BAD_REQUEST, refusal.clone());
    }
    let asked: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let Some(is) = asked.get("ProtectionEnabled").and_then(serde_json::Value::as_bool) else {
        return (StatusCode::BAD_REQUEST, r#"{"error":{"Code":"InvalidParameterException","Message":""}}"#.to_owned());
    };
    state.protected = is;
    let until = if is { "\"2030-01-01T00:00:00Z\"" } else { "null" };
    let arn = FakeEcs::TASK_ARN;
    let text = format!(r#"{{"protection":{{"ExpirationDate":{until},"ProtectionEnabled":{is},"TaskArn":"{arn}"}}}}"#);
    (StatusCode::OK, text)
}

fn notice(state: &State) -> (StatusCode, String) {
    match state.interrupted {
        true => (StatusCode::OK, r#"{"action":"terminate","time":"2030-01-01T00:00:00Z"}"#.to_owned()),
        false => (StatusCode::NOT_FOUND, String::new()),
    }
}

/// As version 4 of the endpoint writes it, with fewer fields.
const METADATA: &str = r#"{
    "Cluster": "arn:aws:ecs:eu-west-1:111122223333:cluster/shop", "TaskARN": "TASK", "Family": "shop-training",
    "Revision": "7", "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING", "Limits": {"CPU": 2, "Memory": 4096},
    "AvailabilityZone": "eu-west-1b", "LaunchType": "EC2", "Containers": [{"Name": "worker"}]
}"#;

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
