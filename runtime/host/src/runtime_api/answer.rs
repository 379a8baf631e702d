//! What an invocation comes to, as the function process put it.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use super::{ERROR_MESSAGE_BYTES_MAX, STACK_LINES_MAX};
use crate::process::ExitStatus;

/// What the function answered. What its bytes mean is for the pipeline to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The body that was posted to `response`, unread.
    Response(Bytes),
    /// The function reported that the invocation failed.
    Error(FunctionError),
}

/// An error in the words of the function: bounded, but otherwise untrusted text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionError {
    /// The kind of error, such as `ValueError`; `Unknown` where the function names none.
    pub error_type: String,
    /// What went wrong; empty where the function says nothing.
    pub message: String,
    /// The stack trace, a line each; empty where there is none.
    pub stack: Vec<String>,
}

/// Why an invocation ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvocationEnd {
    /// The process ended before it answered.
    #[error("the function process {status} before it answered")]
    ProcessDied {
        /// How it ended.
        status: ExitStatus,
        /// The last of what it printed.
        output_tail: String,
    },
    /// The answer was larger than Lambda allows. The process lives and can be given more.
    #[error(
        "the function's response of {bytes} bytes is over the limit of {limit} bytes; return a reference to the data instead"
    )]
    ResponseTooLarge {
        /// The size of the answer, as far as it was read.
        bytes: u64,
        /// What is allowed.
        limit: usize,
    },
    /// The event was larger than Lambda allows. The function never saw it.
    #[error(
        "the event of {bytes} bytes is over the limit of {limit} bytes; send fewer records at once or a reference to the data"
    )]
    EventTooLarge {
        /// The size of the event.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The invocation could not be offered to the process. The function never saw it.
    #[error("cannot invoke the function: {reason}")]
    NotOffered {
        /// Which rule of the conversation forbids it.
        reason: String,
    },
}

impl FunctionError {
    /// Reads the body of an `error` or `init/error` request, leniently: AWS's JSON form where it is
    /// that, else the text as the message. The type may also come by header.
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Self {
        let named = headers
            .get("lambda-runtime-function-error-type")
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let parsed: Option<Value> = serde_json::from_slice(body).ok();
        let Some(Value::Object(mut fields)) = parsed else {
            let message = String::from_utf8_lossy(head(body)).into_owned();
            return Self::new(named, message, Vec::new());
        };
        let stack = match fields.remove("stackTrace") {
            Some(Value::Array(lines)) => lines,
            _ => Vec::new(),
        };
        let error_type = fields.remove("errorType").map(text).or(named);
        let message = fields.remove("errorMessage").map(text).unwrap_or_default();
        Self::new(error_type, message, stack)
    }

    fn new(error_type: Option<String>, message: String, stack: Vec<Value>) -> Self {
        let error_type = error_type.filter(|name| !name.is_empty());
        let lines = stack.into_iter().take(STACK_LINES_MAX).map(text);
        Self {
            error_type: bounded(error_type.unwrap_or_else(|| "Unknown".to_owned())),
            message: bounded(message),
            stack: lines.map(bounded).collect(),
        }
    }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn head(body: &[u8]) -> &[u8] {
    &body[..body.len().min(ERROR_MESSAGE_BYTES_MAX)]
}

/// Cuts `text` to what is kept of it, between two characters.
fn bounded(mut text: String) -> String {
    if text.len() > ERROR_MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> FunctionError {
        FunctionError::read(&HeaderMap::new(), body)
    }

    #[test]
    fn an_error_in_lambdas_form_is_read_whole() {
        let body = br#"{"errorMessage":"no such file","errorType":"OSError","stackTrace":["a","b"]}"#;
        let error = read(body);
        assert_eq!(error.error_type, "OSError");
        assert_eq!(error.message, "no such file");
        assert_eq!(error.stack, ["a", "b"]);
    }

    #[test]
    fn an_error_that_is_no_json_is_its_own_message() {
        let error = read(b"it broke");
        assert_eq!(error.error_type, "Unknown");
        assert_eq!(error.message, "it broke");
    }

    #[test]
    fn the_type_may_come_by_header() {
        let mut headers = HeaderMap::new();
        let value = http::HeaderValue::from_static("Runtime.Custom");
        headers.insert("lambda-runtime-function-error-type", value);
        assert_eq!(FunctionError::read(&headers, b"").error_type, "Runtime.Custom");
        let named = FunctionError::read(&headers, br#"{"errorType":"Own"}"#);
        assert_eq!(named.error_type, "Own");
    }

    #[test]
    fn fields_of_other_types_are_written_out() {
        let error = read(br#"{"errorMessage":{"code":7},"errorType":null,"stackTrace":"none"}"#);
        assert_eq!(error.message, r#"{"code":7}"#);
        assert_eq!(error.error_type, "Unknown");
        assert!(error.stack.is_empty());
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let message = "ä".repeat(ERROR_MESSAGE_BYTES_MAX);
        let body = serde_json::to_vec(&serde_json::json!({ "errorMessage": message })).unwrap();
        assert_eq!(read(&body).message.len(), ERROR_MESSAGE_BYTES_MAX);
    }

    #[test]
    fn a_long_stack_is_cut() {
        let stack = vec!["line"; STACK_LINES_MAX + 5];
        let body = serde_json::to_vec(&serde_json::json!({ "stackTrace": stack })).unwrap();
        assert_eq!(read(&body).stack.len(), STACK_LINES_MAX);
    }
}
