//! What S3 answers instead of doing what was asked, as an error that keeps its code on its way through the
//! object store, and as what a caller can choose from.

use std::error::Error;

use aws_smithy_runtime_api::http::StatusCode;
use rhubarb_core::backend::StoreError;

use crate::error::{Told, chain, refused, unanswered};

/// An answer that is no success.
#[derive(Clone, Debug, thiserror::Error)]
#[error("S3 answered {status} {code}: {message}")]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    /// Where the bucket lies, if it is asked for elsewhere.
    pub(super) region: Option<String>,
}

impl Answer {
    /// Reads the XML of an error: `<Error><Code>…</Code><Message>…</Message>…`.
    pub(super) fn read(status: u16, region: Option<String>, body: &str) -> Self {
        let element = |name: &str| {
            let (_, rest) = body.split_once(&format!("<{name}>"))?;
            let (text, _) = rest.split_once(&format!("</{name}>"))?;
            Some(text.to_owned())
        };
        let (code, message) = (element("Code").unwrap_or_default(), element("Message").unwrap_or_default());
        Self { status, code, message, region }
    }

    /// True if the same request may be answered otherwise in a moment.
    pub(super) fn may_pass(&self) -> bool {
        self.status >= 500 || matches!(self.status, 408 | 429) || self.code == "OperationAborted"
    }
}

/// The code of an answer that is somewhere in an error.
pub(super) fn code_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    answer_in(error).map(|answer| answer.code.as_str())
}

fn answer_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Answer> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// What the caller is told. `what` is what was tried, as an infinitive.
pub(super) fn told(what: String, error: &(dyn Error + 'static)) -> StoreError {
    let Some(answer) = answer_in(error) else { return unanswered(what, error) };
    let fix = match (answer.code.as_str(), &answer.region) {
        ("NoSuchBucket", _) => {
            "there is no such bucket: deploy the template (`rhubarb deploy template`), or check `bucket` in [app], RHUBARB_BUCKET and AWS_ENDPOINT_URL".to_owned()
        }
        ("BucketAlreadyExists", _) => {
            "another account has a bucket of this name: choose another by `bucket` in [app] or RHUBARB_BUCKET".to_owned()
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", Some(region)) => {
            format!("the bucket lies in region {region}: set AWS_REGION to it, or name another bucket")
        }
        ("RequestTimeTooSkewed", _) => "this machine's clock is wrong: set it (S3 allows 15 minutes)".to_owned(),
        _ => {
            let status = StatusCode::try_from(answer.status).ok();
            let Some(status) = status.filter(|_| !answer.may_pass()) else {
                return StoreError::unreachable(what, Told::of(answer));
            };
            return refused(what, &answer.code, &answer.message, status, || Told::of(answer));
        }
    };
    StoreError::Broken { what, fix }
}

#[cfg(test)]
mod tests {
    use object_store::client::{HttpError, HttpErrorKind};

    use super::*;

    fn wrapped(status: u16, code: &str, region: Option<&str>) -> StoreError {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no luck</Message></Error>");
        let answer = Answer::read(status, region.map(Into::into), &body);
        let inner = HttpError::new(HttpErrorKind::Unknown, answer);
        told("read a blob".into(), &object_store::Error::Generic { store: "S3", source: Box::new(inner) })
    }

    #[track_caller]
    fn assert_broken(error: &StoreError, fix: &str) {
        assert!(matches!(error, StoreError::Broken { .. }) && error.to_string().contains(fix), "{error:?}");
    }

    #[test]
    fn what_somebody_must_mend_says_how() {
        assert_broken(&wrapped(404, "NoSuchBucket", None), "RHUBARB_BUCKET");
        assert_broken(&wrapped(403, "AccessDenied", None), "no permission: no luck");
        assert_broken(&wrapped(400, "ExpiredToken", None), "the AWS credentials have expired");
        assert_broken(&wrapped(403, "RequestTimeTooSkewed", None), "clock");
        assert_broken(&wrapped(301, "PermanentRedirect", Some("eu-west-1")), "set AWS_REGION");
        assert_broken(&wrapped(409, "BucketAlreadyExists", None), "choose another");
    }

    #[test]
    fn what_may_pass_by_itself_can_be_tried_again() {
        for (status, code) in [(500, "InternalError"), (503, "SlowDown"), (429, ""), (408, "RequestTimeout")] {
            assert!(wrapped(status, code, None).is_transient(), "{status} {code}");
        }
    }

    #[test]
    fn a_body_that_is_no_error_of_s3_is_no_panic() {
        for body in ["", "<Code>", "</Code><Code>", "<html>", "<Code></Code><Message>"] {
            assert_eq!(Answer::read(404, None, body).code, "");
        }
    }
}
