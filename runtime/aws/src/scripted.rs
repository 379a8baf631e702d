//! For tests: a connection whose answers a test writes itself. What an emulator never says, and time that a test
//! moves instead of waiting for it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::{fmt, future::Future, sync::Arc};

use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::connect::Connection;

/// A status and a body.
pub(crate) type Answer = (u16, Value);

type Script = dyn Fn(String, Value) -> BoxFuture<'static, Answer> + Send + Sync;

#[derive(Clone)]
struct Scripted(Arc<Script>);

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl HttpConnector for Scripted {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap_or(Value::Null);
        let answer = (self.0)(operation, body);
        HttpConnectorFuture::new(async move {
            let (status, body) = answer.await;
            Ok(HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body.to_string())))
        })
    }
}

/// A connection that a script answers: it gets the operation's name and the request.
pub(crate) fn connection<F>(script: impl Fn(String, Value) -> F + Send + Sync + 'static) -> Connection
where
    F: Future<Output = Answer> + Send + 'static,
{
    let scripted = Scripted(Arc::new(move |operation, body| Box::pin(script(operation, body))));
    let http = http_client_fn(move |_, _| SharedHttpConnector::new(scripted.clone()));
    let nowhere = Connection::to_emulator("http://127.0.0.1:1", "eu-central-1");
    Connection::new(nowhere.sdk().to_builder().http_client(http).build())
}

/// An error as the services of the JSON protocol say it.
pub(crate) fn refusal(code: &str, message: &str) -> Answer {
    (400, serde_json::json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message }))
}
