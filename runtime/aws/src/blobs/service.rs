//! The object store's HTTP by the client that AWS's own clients use: one TLS stack, the same time limits.
//!
//! An answer is read to its end here, so that one that is cut off or stands still is an error of the request
//! and is tried again; a blob is wanted whole anyway.

use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_runtime_api::client::{
    http::{HttpConnector as _, SharedHttpConnector},
    orchestrator::HttpRequest as SdkRequest,
    result::ConnectorError,
};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use bytes::{Bytes, BytesMut};
use http::{Method, Uri};
use http_body_util::BodyExt as _;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};

use super::answer::Answer;
use crate::{
    connect::{Connection, READ_TIMEOUT},
    requests::{Requests, answered},
};

/// The longest answer that is read as an error.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// AWS's HTTP client as the object store wants it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    connector: SharedHttpConnector,
    requests: Requests,
}

impl Service {
    pub(super) fn new(connection: &Connection) -> Self {
        Self { connector: connection.connector(), requests: connection.requests.clone() }
    }
}

impl HttpConnector for Service {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let operation = operation(&parts.method, &parts.uri);
        self.requests.note("S3", operation);
        let body = body.collect().await?.to_bytes();
        let request = http::Request::from_parts(parts, SdkBody::from(body));
        let request = SdkRequest::try_from(request).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let response = self.connector.call(request).await;
        answered("S3", operation, response.as_ref().ok().map(|response| response.status().as_u16()));
        let response = response.map_err(unsent)?;
        let response = response.try_into_http1x().map_err(|error| HttpError::new(HttpErrorKind::Decode, error))?;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() || parts.status == http::StatusCode::NOT_MODIFIED {
            let body = read(ByteStream::new(body), usize::MAX).await?;
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)));
        }
        let body = read(ByteStream::new(body), ERROR_BYTES_MAX).await?;
        let region = parts.headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
        let region = region.map(str::to_owned);
        let answer = Answer::read(parts.status.as_u16(), region, &String::from_utf8_lossy(&body));
        // The object store tries `Request` again, and nothing of kind `Unknown`.
        let kind = if answer.may_pass() { HttpErrorKind::Request } else { HttpErrorKind::Unknown };
        Err(HttpError::new(kind, answer))
    }
}

/// Reads a body, at most about so much of it.
async fn read(mut body: ByteStream, max: usize) -> Result<Bytes, HttpError> {
    let mut whole = BytesMut::new();
    while whole.len() < max {
        let Ok(next) = tokio::time::timeout(READ_TIMEOUT, body.next()).await else {
            return Err(HttpError::new(HttpErrorKind::Timeout, StandsStill(READ_TIMEOUT)));
        };
        let Some(piece) = next else { break };
        whole.extend_from_slice(&piece.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?);
    }
    Ok(whole.freeze())
}

#[derive(Debug, thiserror::Error)]
#[error("nothing more of the answer came for {0:?}")]
struct StandsStill(Duration);

/// No connection, or one that ended before the answer: whatever was asked may be asked again.
fn unsent(error: ConnectorError) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_user() {
        HttpErrorKind::Unknown
    } else {
        HttpErrorKind::Request
    };
    HttpError::new(kind, error)
}

/// The operation's name, for the counts.
fn operation(method: &Method, uri: &Uri) -> &'static str {
    let query = uri.query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
    match *method {
        Method::GET if asks("list-type") => "ListObjectsV2",
        Method::GET => "GetObject",
        Method::PUT if asks("partNumber") => "UploadPart",
        Method::PUT if uri.path().trim_matches('/').contains('/') => "PutObject",
        Method::PUT if uri.host().is_some_and(|host| host.contains(".s3.")) => "PutObject",
        Method::PUT => "CreateBucket",
        Method::POST if asks("delete") => "DeleteObjects",
        Method::POST if asks("uploads") => "CreateMultipartUpload",
        Method::POST => "CompleteMultipartUpload",
        Method::DELETE => "AbortMultipartUpload",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_operation() {
        let of = |method: &str, uri: &str| operation(&method.parse().unwrap(), &uri.parse().unwrap());
        assert_eq!(of("GET", "http://127.0.0.1:1/b?list-type=2&prefix=x"), "ListObjectsV2");
        assert_eq!(of("GET", "http://127.0.0.1:1/b/k"), "GetObject");
        assert_eq!(of("PUT", "http://127.0.0.1:1/b/k"), "PutObject");
        assert_eq!(of("PUT", "https://b.s3.eu-central-1.amazonaws.com/k"), "PutObject");
        assert_eq!(of("PUT", "https://s3.eu-central-1.amazonaws.com/b"), "CreateBucket");
        assert_eq!(of("PUT", "http://127.0.0.1:1/b/k?partNumber=1&uploadId=x"), "UploadPart");
        assert_eq!(of("POST", "http://127.0.0.1:1/b?delete"), "DeleteObjects");
        assert_eq!(of("POST", "http://127.0.0.1:1/b/k?uploads"), "CreateMultipartUpload");
        assert_eq!(of("POST", "http://127.0.0.1:1/b/k?uploadId=x"), "CompleteMultipartUpload");
        assert_eq!(of("DELETE", "http://127.0.0.1:1/b/k?uploadId=x"), "AbortMultipartUpload");
    }
}
