//! Requests and answers as whole values: read, sent on, answered in the service's place.

use std::{io, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONNECTION, HeaderMap, TRANSFER_ENCODING},
    http::request::Parts,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpStream;

/// Where AWS's JSON protocols name the operation.
const TARGET: &str = "x-amz-target";

/// When a request was signed, as `20270115T080000Z`.
const SIGNED: &str = "x-amz-date";
/// AWS refuses a request that was signed longer before or after it came.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// Why a connection ends without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("a fault that was asked for")]
    OnPurpose,
    #[error("cannot reach the service")]
    Unreachable(#[from] io::Error),
    #[error("the conversation with the service, or with its client, broke off")]
    Broken(#[from] hyper::Error),
}

/// A request that has come to its end.
pub(super) struct Whole {
    parts: Parts,
    pub(super) body: Bytes,
}

impl Whole {
    pub(super) async fn read(request: Request<Incoming>) -> Result<Self, Cut> {
        let (parts, body) = request.into_parts();
        Ok(Self { parts, body: body.collect().await?.to_bytes() })
    }

    /// What a rule knows it by: `AmazonSQS.SendMessage POST /`.
    pub(super) fn target(&self) -> String {
        let operation = self.operation().unwrap_or_default();
        let path = self.parts.uri.path_and_query().map_or("/", |path| path.as_str());
        format!("{operation} {} {path}", self.parts.method)
    }

    fn operation(&self) -> Option<&str> {
        self.parts.headers.get(TARGET).and_then(|target| target.to_str().ok())
    }

    /// True if its signature is of now, give or take what AWS allows.
    pub(super) fn is_signed_now(&self) -> bool {
        let date = self.parts.headers.get(SIGNED).and_then(|date| date.to_str().ok());
        let signed: Option<Timestamp> = date.and_then(|date| date.parse().ok());
        signed.is_some_and(|signed| Timestamp::now().duration_since(signed).unsigned_abs() <= SKEW_MAX)
    }

    /// An error as AWS answers it: JSON where the request names its operation, XML where it is a path (S3).
    pub(super) fn refuse(&self, status: u16, code: &str) -> Response<Full<Bytes>> {
        const MESSAGE: &str = "a fault that was asked for";
        let (kind, body) = if self.operation().is_some() {
            let body = serde_json::json!({ "__type": code, "message": MESSAGE });
            ("application/x-amz-json-1.0", body.to_string())
        } else {
            ("application/xml", format!("<Error><Code>{code}</Code><Message>{MESSAGE}</Message></Error>"))
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
        response
    }
}

/// Sends a request on and reads the answer to its end. A connection of its own for each: one that was cut
/// leaves nothing behind.
pub(super) async fn forward(upstream: SocketAddr, request: &Whole) -> Result<Response<Full<Bytes>>, Cut> {
    let stream = TcpStream::connect(upstream).await?;
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let mut parts = request.parts.clone();
    of_this_connection_only(&mut parts.headers);
    let exchange = async {
        let response = sender.send_request(Request::from_parts(parts, Full::new(request.body.clone()))).await?;
        let (mut parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        of_this_connection_only(&mut parts.headers);
        Ok(Response::from_parts(parts, Full::from(body)))
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // Where it ends first, the exchange says why.
        _ = connection => exchange.await,
    }
}

/// Takes away what holds for one connection, not for the message.
fn of_this_connection_only(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove("keep-alive");
    headers.remove(TRANSFER_ENCODING);
}
