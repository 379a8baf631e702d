//! A client of endpoints on this machine or close by: one request a connection, no encryption, everything bounded.
//! A request that is not answered is repeated by nobody here.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// An answer that is not there by then is none, unless another bound is asked for. ECS's agent gives up its own calls
/// before that.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// No answer that is waited for is larger: the metadata of an ECS task with many containers is.
const BODY_BYTES_MAX: usize = 512 * 1024;

/// The base of some URLs, such as `http://169.254.170.2/api/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    path: String,
    within: Duration,
    bytes_max: usize,
}

impl Endpoint {
    /// Reads a URL without encryption, as ECS and EC2 give them.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn read(url: &str) -> Result<Self, String> {
        let wrong = || format!("{url:?} is no URL such as http://169.254.170.2/v4/id");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
        let (port, path) = (uri.port_u16().unwrap_or(80), uri.path().trim_end_matches('/'));
        Ok(Self {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            within: ANSWER_WITHIN,
            bytes_max: BODY_BYTES_MAX,
        })
    }

    /// Waits so long for an answer, and reads so much of it.
    #[must_use]
    pub fn within(self, within: Duration, bytes_max: usize) -> Self {
        Self { within, bytes_max, ..self }
    }

    /// Asks for what is at `path` below the base.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<(StatusCode, Bytes), String> {
        self.call(Method::GET, path, headers, String::new()).await
    }

    /// Asks for `path` below the base. An error says why there is no answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<(StatusCode, Bytes), String> {
        let within = self.within;
        let answer = tokio::time::timeout(within, self.exchange(method, path, headers, body));
        answer.await.unwrap_or_else(|_| Err(format!("there was no answer within {within:?}")))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<(StatusCode, Bytes), String> {
        let Self { host, port, .. } = self;
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.path));
        request = request.header(header::HOST, format!("{host}:{port}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| told(&error))?;
        // An IPv6 address is in brackets in a URL.
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((address, *port)).await.map_err(|error| told(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
        let ask = async {
            let response = sender.send_request(request).await.map_err(|error| told(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.bytes_max).collect().await;
            Ok((status, body.map_err(|error| told(&error))?.to_bytes()))
        };
        tokio::pin!(ask);
        tokio::select! {
            answer = &mut ask => answer,
            // A server may close as soon as it has answered.
            _ = connection => ask.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_anything_else_refused() {
        let read = |url| Endpoint::read(url).map(|at| (at.host, at.port, at.path));
        assert_eq!(read("http://169.254.170.2/v4/abc"), Ok(("169.254.170.2".into(), 80, "/v4/abc".into())));
        assert_eq!(read("http://[::1]:8080/"), Ok(("[::1]".into(), 8080, String::new())));
        for url in ["", "169.254.170.2", "https://169.254.170.2/v4", "http:///v4", "file:///etc/passwd"] {
            assert!(read(url).is_err(), "{url}");
        }
    }
}
