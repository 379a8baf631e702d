//! How a function reaches its host: the routes beside the Runtime API, over one pool of kept-alive
//! loopback connections.
//!
//! [`Routes`] is the seam: [`Http`] in production, `testing::Host` in tests, so that a test runs the
//! same client. A host that is gone fails the call; the function then ends with its host.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rhubarb_core::{contract::ROUTES, ids::TaskId};
use serde::de::DeserializeOwned;

use super::ContextError;
use crate::task_error::BoxError;

/// One request to the host.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is being done, as an infinitive.
    pub(crate) what: &'static str,
    pub(crate) method: Method,
    /// Path and query below the base of the routes.
    pub(crate) path: String,
    /// The calling task.
    pub(crate) task: Option<TaskId>,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) const fn get(what: &'static str, path: String) -> Self {
        Self::new(what, Method::GET, path, Bytes::new())
    }

    pub(crate) const fn new(what: &'static str, method: Method, path: String, body: Bytes) -> Self {
        Self { what, method, path, task: None, body }
    }
}

/// The host's answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Answers calls.
pub(crate) trait Routes: Send + Sync {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, BoxError>>;
}

/// The host, or none: on plain Lambda nobody serves the routes.
#[derive(Clone, Default)]
pub(crate) struct Host(Option<Arc<dyn Routes>>);

impl Host {
    pub(crate) fn new(routes: Arc<dyn Routes>) -> Self {
        Self(Some(routes))
    }

    pub(crate) const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Makes a call that must be answered with success.
    pub(crate) async fn call(&self, call: Call) -> Result<Bytes, ContextError> {
        let what = call.what;
        let reply = self.ask(call).await?;
        if reply.status.is_success() { Ok(reply.body) } else { Err(ContextError::of(what, &reply)) }
    }

    /// Makes a call whose answer is JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ContextError> {
        let what = call.what;
        let body = self.call(call).await?;
        serde_json::from_slice(&body).map_err(|error| ContextError::Host { what, source: error.into() })
    }

    /// Makes a call; any status is an answer.
    pub(crate) async fn ask(&self, call: Call) -> Result<Reply, ContextError> {
        let what = call.what;
        let Some(routes) = &self.0 else { return Err(ContextError::NoHost { what }) };
        routes.call(call).await.map_err(|source| ContextError::Host { what, source })
    }
}

/// The host over HTTP.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
}

impl Http {
    /// `address` is the value of `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn new(address: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, address: address.to_owned() }
    }

    /// Reports that the function cannot start, as the Runtime API wants it.
    pub(crate) async fn init_error(&self, kind: &str, message: &str) {
        let body = serde_json::json!({ "errorType": kind, "errorMessage": message }).to_string();
        let call = Call::new("report the error", Method::POST, String::new(), body.into());
        // The process ends with the error anyway: that it could not be reported changes nothing.
        let _ = self.send(call, "/2018-06-01/runtime/init/error").await;
    }

    fn send(&self, call: Call, path: &str) -> BoxFuture<'static, Result<Reply, BoxError>> {
        let uri = format!("http://{}{path}", self.address).parse::<Uri>();
        let client = self.client.clone();
        #[cfg(feature = "otel")]
        let trace = crate::function::otel::here();
        async move {
            let mut request = Request::builder().method(call.method).uri(uri?);
            if let Some(task) = call.task {
                request = request.header("Rhubarb-Task", task.to_string());
            }
            #[cfg(feature = "otel")]
            if let Some(trace) = trace {
                request = [("traceparent", trace.traceparent), ("tracestate", trace.tracestate)]
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
                    .fold(request, |request, (name, value)| request.header(name, value));
            }
            let response = client.request(request.body(Full::new(call.body))?).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok(Reply { status, body })
        }
        .boxed()
    }
}

impl Routes for Http {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, BoxError>> {
        let path = format!("{ROUTES}{}", call.path);
        self.send(call, &path)
    }
}

/// A value as it may stand in a query.
pub(crate) fn query_value(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
