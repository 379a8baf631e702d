//! The fault proxy before a small server that counts what reaches it.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rhubarb_faultproxy::{FaultProxy, Rule, Wrong};
use tokio::net::{TcpListener, TcpStream};

/// A server that echoes, and how often it was asked.
struct Echo {
    address: SocketAddr,
    asked: Arc<AtomicU32>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let echo = service_fn(move |request: Request<Incoming>| {
                    count.fetch_add(1, Ordering::SeqCst);
                    async { Ok::<_, hyper::Error>(Response::new(Full::new(request.collect().await?.to_bytes()))) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), echo);
                tokio::spawn(connection);
            }
        });
        Self { address, asked, serving }
    }

    async fn behind_a_proxy() -> (Self, FaultProxy) {
        let echo = Self::start().await;
        let proxy = FaultProxy::start(&format!("http://{}", echo.address)).await;
        (echo, proxy)
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

/// One connection to the proxy, on which several requests can be made.
struct Client(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(proxy: &FaultProxy) -> Result<Self, String> {
        let address = proxy.endpoint().strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn ask(&mut self, target: &str, body: &str) -> Result<(u16, String), String> {
        let request = Request::post("/").header("x-amz-target", target).header("host", "echo");
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let response = self.0.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

async fn ask(proxy: &FaultProxy, target: &str, body: &str) -> Result<(u16, String), String> {
    Client::connect(proxy).await?.ask(target, body).await
}

fn done(body: &str) -> Result<(u16, String), String> {
    Ok((200, body.to_owned()))
}

#[tokio::test]
async fn without_rules_all_goes_through_and_is_counted() {
    let (echo, proxy) = Echo::behind_a_proxy().await;
    let mut client = Client::connect(&proxy).await.unwrap();
    for body in ["one", "", &"long".repeat(300_000)] {
        assert_eq!(client.ask("AmazonSQS.SendMessage", body).await, done(body));
    }
    assert_eq!(ask(&proxy, "DynamoDB_20120810.PutItem", "x").await, done("x"));
    assert_eq!(
        (echo.asked(), proxy.count("SendMessage"), proxy.count("DynamoDB"), proxy.count("POST /")),
        (4, 3, 1, 4)
    );
}

#[tokio::test]
async fn a_dropped_request_never_reaches_the_service() {
    let (echo, proxy) = Echo::behind_a_proxy().await;
    proxy.add(Rule::nth(2, "Send", Wrong::DropRequest));
    assert_eq!(ask(&proxy, "Send", "a").await, done("a"));
    assert!(ask(&proxy, "Send", "b").await.is_err());
    assert_eq!(ask(&proxy, "Send", "c").await, done("c"));
    assert_eq!((echo.asked(), proxy.count("Send")), (2, 3));
}

#[tokio::test]
async fn a_dropped_answer_is_of_a_request_that_was_done() {
    let (echo, proxy) = Echo::behind_a_proxy().await;
    proxy.add(Rule::first(1, "Send", Wrong::DropAnswer));
    assert!(ask(&proxy, "Send", "a").await.is_err());
    assert_eq!(echo.asked(), 1);
    assert_eq!(ask(&proxy, "Send", "b").await, done("b"));
}

#[tokio::test]
async fn a_doubled_request_is_done_twice_and_answered_once() {
    let (echo, proxy) = Echo::behind_a_proxy().await;
    proxy.add(Rule::first(1, "", Wrong::Twice));
    assert_eq!(ask(&proxy, "Send", "a").await, done("a"));
    assert_eq!((echo.asked(), proxy.count("Send")), (2, 1));
}

#[tokio::test]
async fn a_delayed_request_is_seen_and_not_done_until_then() {
    let (echo, proxy) = Echo::behind_a_proxy().await;
    proxy.add(Rule::every("Slow", Wrong::Delay(Duration::from_secs(3600))));
    let mut client = Client::connect(&proxy).await.unwrap();
    let mut slow = Box::pin(client.ask("Slow", "a"));
    tokio::select! {
        answer = &mut slow => unreachable!("{answer:?}"),
        () = proxy.wait_for("Slow", 1) => {}
    }
    assert_eq!(ask(&proxy, "Fast", "b").await, done("b"));
    assert_eq!(echo.asked(), 1);
}

#[tokio::test]
async fn an_answer_in_the_service_s_place_is_as_aws_gives_it() {
    let (echo, proxy) = Echo::behind_a_proxy().await;
    proxy.add(Rule::first(1, "PutItem", Wrong::THROUGHPUT));
    proxy.add(Rule::every("PutItem", Wrong::UNAVAILABLE));
    let (status, body) = ask(&proxy, "DynamoDB_20120810.PutItem", "a").await.unwrap();
    assert!(status == 400 && body.contains(r#""__type":"ProvisionedThroughputExceededException""#), "{body}");
    let (status, _) = ask(&proxy, "DynamoDB_20120810.PutItem", "a").await.unwrap();
    assert_eq!((status, echo.asked()), (503, 0), "the first rule that applies decides");
    proxy.clear();
    assert_eq!(ask(&proxy, "DynamoDB_20120810.PutItem", "a").await, done("a"));
}

#[tokio::test]
async fn a_rule_can_ask_for_a_piece_of_the_body() {
    let (_echo, proxy) = Echo::behind_a_proxy().await;
    proxy.add(Rule::every("Send", Wrong::FAILED).with_body("task-7"));
    assert_eq!(ask(&proxy, "Send", "of task-6").await, done("of task-6"));
    assert_eq!(ask(&proxy, "Send", "of task-7").await.unwrap().0, 500);
}

#[tokio::test]
async fn a_share_of_the_requests_is_the_same_with_the_same_seed() {
    async fn failures(seed: u64) -> Vec<bool> {
        let (_echo, proxy) = Echo::behind_a_proxy().await;
        proxy.add(Rule::share(30, seed, "Send", Wrong::FAILED));
        let mut client = Client::connect(&proxy).await.unwrap();
        let mut failed = Vec::new();
        for _ in 0..100 {
            failed.push(client.ask("Send", "x").await.unwrap().0 == 500);
        }
        failed
    }
    let one = failures(1).await;
    assert_eq!(failures(1).await, one);
    assert_ne!(failures(2).await, one);
    let count = one.iter().filter(|failed| **failed).count();
    assert!((15..=45).contains(&count), "{count} of 100");
}

#[tokio::test]
async fn an_outage_cuts_what_is_open_refuses_what_comes_and_ends() {
    let (echo, proxy) = Echo::behind_a_proxy().await;
    proxy.add(Rule::every("Slow", Wrong::Delay(Duration::from_secs(3600))));
    let (mut idle, mut busy) = (Client::connect(&proxy).await.unwrap(), Client::connect(&proxy).await.unwrap());
    assert_eq!(idle.ask("Fast", "a").await, done("a"));
    let mut slow = Box::pin(busy.ask("Slow", "b"));
    tokio::select! {
        answer = &mut slow => unreachable!("{answer:?}"),
        () = proxy.wait_for("Slow", 1) => {}
    }
    proxy.go_down();
    assert!(slow.await.is_err());
    assert!(idle.ask("Fast", "c").await.is_err());
    assert!(ask(&proxy, "Fast", "d").await.is_err());
    proxy.come_back();
    assert_eq!(ask(&proxy, "Fast", "e").await, done("e"));
    assert_eq!(echo.asked(), 2);
}

#[tokio::test]
async fn a_service_that_is_not_there_ends_the_connection() {
    let proxy = FaultProxy::start(&format!("http://127.0.0.1:{}", free_port())).await;
    assert!(ask(&proxy, "Send", "a").await.is_err());
    assert_eq!(proxy.count("Send"), 1);
}

#[tokio::test]
async fn with_its_handle_the_proxy_is_gone() {
    let (_echo, proxy) = Echo::behind_a_proxy().await;
    let mut client = Client::connect(&proxy).await.unwrap();
    assert_eq!(client.ask("Send", "a").await, done("a"));
    let address = proxy.endpoint().strip_prefix("http://").unwrap().to_owned();
    drop(proxy);
    assert!(client.ask("Send", "b").await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

/// A port that nothing listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn only_an_endpoint_of_this_machine_is_stood_before() {
    for wrong in ["https://127.0.0.1:4566", "http://10.0.0.1:4566", "http://127.0.0.1", "sqs"] {
        let error = FaultProxy::before(wrong).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(wrong), "{error}");
    }
}
