//! The wire: which request is which, and the headers of an invocation.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use super::{EVENT_BYTES_MAX, InvocationEnd, REQUEST_ID_BYTES_MAX, ROUTES_PREFIX, RUNTIME_API_VERSION};

pub(super) type HttpResponse = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One invocation of a function.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Names the invocation: at most 128 letters, digits, `-`, `_`, `.` or `:`.
    pub request_id: String,
    /// When the host will stop waiting.
    pub deadline: SystemTime,
    /// The event, JSON, at most 6 MiB.
    pub event: Bytes,
    /// The function's ARN, as AWS would give it.
    pub arn: String,
    /// The X-Ray trace header, if there is a trace.
    pub trace_id: Option<String>,
    /// The client context of the mobile SDK, JSON; only a real Lambda host has one.
    pub client_context: Option<String>,
    /// The Cognito identity, JSON; only a real Lambda host has one.
    pub cognito_identity: Option<String>,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call<'a> {
    Next,
    Response(&'a str),
    Error(&'a str),
    InitError,
    /// One of the host's own routes.
    Route,
    /// The path exists, the method does not; the one that does.
    WrongMethod(&'static str),
    Unknown,
}

impl Invocation {
    /// Describes an invocation without a trace, a client context or an identity.
    pub fn new(request_id: impl Into<String>, deadline: SystemTime, event: Bytes, arn: impl Into<String>) -> Self {
        Self {
            request_id: request_id.into(),
            deadline,
            event,
            arn: arn.into(),
            trace_id: None,
            client_context: None,
            cognito_identity: None,
        }
    }

    /// Writes the invocation as the answer to a `next`; refuses what cannot be written.
    pub(super) fn into_response(self) -> Result<(String, HttpResponse), InvocationEnd> {
        if self.event.len() > EVENT_BYTES_MAX {
            let bytes = self.event.len();
            return Err(InvocationEnd::EventTooLarge { bytes, limit: EVENT_BYTES_MAX });
        }
        if !is_request_id(&self.request_id) {
            let reason =
                format!("the request id must be 1 to {REQUEST_ID_BYTES_MAX} letters, digits, `-`, `_`, `.` or `:`");
            return Err(InvocationEnd::NotOffered { reason });
        }
        let texts = [
            ("lambda-runtime-aws-request-id", Some(&self.request_id)),
            ("lambda-runtime-invoked-function-arn", Some(&self.arn)),
            ("lambda-runtime-trace-id", self.trace_id.as_ref()),
            ("lambda-runtime-client-context", self.client_context.as_ref()),
            ("lambda-runtime-cognito-identity", self.cognito_identity.as_ref()),
        ];
        let mut response = Response::new(Full::new(self.event));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers
            .insert(HeaderName::from_static("lambda-runtime-deadline-ms"), HeaderValue::from(epoch_ms(self.deadline)));
        for (name, text) in texts {
            let Some(text) = text else { continue };
            let value = HeaderValue::from_str(text).map_err(|_| InvocationEnd::NotOffered {
                reason: format!("header {name} cannot hold `{}`", text.escape_debug()),
            })?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok((self.request_id, response))
    }
}

impl<'a> Call<'a> {
    /// Reads what a request asks for.
    pub(super) fn of(method: &Method, path: &'a str) -> Self {
        if path.starts_with(ROUTES_PREFIX) {
            return Self::Route;
        }
        let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(RUNTIME_API_VERSION));
        let Some(rest) = rest.and_then(|path| path.strip_prefix("/runtime/")) else {
            return Self::Unknown;
        };
        let (call, wanted) = match rest.strip_prefix("invocation/") {
            Some("next") => (Self::Next, "GET"),
            Some(answer) => match answer.split_once('/') {
                Some((id, "response")) if !id.is_empty() => (Self::Response(id), "POST"),
                Some((id, "error")) if !id.is_empty() => (Self::Error(id), "POST"),
                _ => return Self::Unknown,
            },
            None if rest == "init/error" => (Self::InitError, "POST"),
            None => return Self::Unknown,
        };
        if method.as_str() == wanted { call } else { Self::WrongMethod(wanted) }
    }
}

/// Lambda's own answer to an accepted response or error.
pub(super) fn accepted() -> HttpResponse {
    json(StatusCode::ACCEPTED, Bytes::from_static(br#"{"status":"OK"}"#))
}

/// An error in the form that Runtime API clients read.
pub(super) fn refused(status: StatusCode, error_type: &str, message: &str) -> HttpResponse {
    let body = serde_json::json!({ "errorType": error_type, "errorMessage": message });
    json(status, body.to_string().into())
}

fn json(status: StatusCode, body: Bytes) -> HttpResponse {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn is_request_id(id: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(legal)
}

fn epoch_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn call<'a>(method: &str, path: &'a str) -> Call<'a> {
        Call::of(&Method::from_bytes(method.as_bytes()).unwrap(), path)
    }

    fn invocation(request_id: &str) -> Invocation {
        let deadline = UNIX_EPOCH + Duration::from_millis(1_542_409_706_888);
        Invocation::new(request_id, deadline, Bytes::from_static(b"{}"), "arn:aws:x")
    }

    #[test]
    fn every_path_of_the_runtime_api_is_known() {
        let id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";
        let base = "/2018-06-01/runtime";
        assert_eq!(call("GET", &format!("{base}/invocation/next")), Call::Next);
        let response = format!("{base}/invocation/{id}/response");
        assert_eq!(call("POST", &response), Call::Response(id));
        assert_eq!(call("POST", &format!("{base}/invocation/{id}/error")), Call::Error(id));
        assert_eq!(call("POST", &format!("{base}/init/error")), Call::InitError);
        assert_eq!(call("PUT", "/rhubarb/v1/progress"), Call::Route);
    }

    #[test]
    fn a_wrong_method_is_told_the_right_one() {
        let next = "/2018-06-01/runtime/invocation/next";
        assert_eq!(call("POST", next), Call::WrongMethod("GET"));
        let response = "/2018-06-01/runtime/invocation/a/response";
        assert_eq!(call("PUT", response), Call::WrongMethod("POST"));
        assert_eq!(call("GET", "/2018-06-01/runtime/init/error"), Call::WrongMethod("POST"));
    }

    #[test]
    fn other_paths_and_versions_are_unknown() {
        for path in [
            "/",
            "/2015-03-31/runtime/invocation/next",
            "/2018-06-01/runtime/invocation",
            "/2018-06-01/runtime/invocation/next/",
            "/2018-06-01/runtime/invocation//response",
            "/2018-06-01/runtime/invocation/a/b/response",
            "/2018-06-01/runtime/init",
            "/2018-06-01-runtime/init/error",
            "/rhubarb/v2/progress",
        ] {
            assert_eq!(call("GET", path), Call::Unknown, "{path}");
        }
    }

    #[test]
    fn an_invocation_carries_the_headers_of_lambda() {
        let mut invocation = invocation("r1");
        invocation.trace_id = Some("Root=1-5bef4de7;Sampled=1".into());
        let (id, response) = invocation.into_response().unwrap();
        assert_eq!(id, "r1");
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!(header("lambda-runtime-aws-request-id"), "r1");
        assert_eq!(header("lambda-runtime-deadline-ms"), "1542409706888");
        assert_eq!(header("lambda-runtime-invoked-function-arn"), "arn:aws:x");
        assert_eq!(header("lambda-runtime-trace-id"), "Root=1-5bef4de7;Sampled=1");
        assert_eq!(header("content-type"), "application/json");
        assert!(!response.headers().contains_key("lambda-runtime-client-context"));
        assert!(!response.headers().contains_key("lambda-runtime-cognito-identity"));
    }

    #[test]
    fn client_context_and_identity_are_passed_on_where_they_are_set() {
        let mut invocation = invocation("r1");
        invocation.client_context = Some("{\"custom\":{}}".into());
        invocation.cognito_identity = Some("{}".into());
        let (_, response) = invocation.into_response().unwrap();
        assert_eq!(response.headers()["lambda-runtime-client-context"], "{\"custom\":{}}");
        assert_eq!(response.headers()["lambda-runtime-cognito-identity"], "{}");
    }

    #[test]
    fn a_request_id_that_is_no_path_segment_is_refused() {
        for id in ["", "a/b", "a b", "ä", &"x".repeat(129)] {
            let refused = invocation(id).into_response();
            assert!(matches!(refused, Err(InvocationEnd::NotOffered { .. })), "{id:?}");
        }
    }

    #[test]
    fn a_header_with_a_line_break_is_refused_by_name() {
        let mut invocation = invocation("r1");
        invocation.trace_id = Some("a\r\nevil: 1".into());
        let Err(InvocationEnd::NotOffered { reason }) = invocation.into_response() else {
            panic!("accepted");
        };
        assert!(reason.contains("lambda-runtime-trace-id"), "{reason}");
    }

    #[test]
    fn an_event_over_six_mebibytes_is_refused() {
        let mut invocation = invocation("r1");
        invocation.event = vec![b' '; EVENT_BYTES_MAX + 1].into();
        let refused = invocation.into_response();
        assert!(matches!(refused, Err(InvocationEnd::EventTooLarge { .. })));
    }
}
