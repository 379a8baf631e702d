//! From the errors of AWS's clients to what a caller can choose from: try again, or mend something first.
//!
//! What comes here has been tried three times already ([`crate::connect`]). Nothing is known about the outcome of
//! a call that got no answer: each verb above is one that may be repeated.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::{
    client::{orchestrator::HttpResponse, result::SdkError},
    http::StatusCode,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use rhubarb_core::backend::StoreError;

/// Codes that say "slower" or "not now", whatever the status.
const THROTTLED: [&str; 11] = [
    "InternalError",
    "InternalServerError",
    "KMS.ThrottlingException",
    "KmsThrottled",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
];
/// Codes for a request that should not have been made: a limit or a rule of the service.
const INVALID: [&str; 6] = [
    "BatchRequestTooLong",
    "InvalidMessageContents",
    "InvalidParameterValue",
    "MissingParameter",
    "UnsupportedOperation",
    "ValidationException",
];

/// What the caller of a backend is told about a failed call. `what` is what was tried, as an infinitive, with the
/// name of the queue, table or bucket: "send messages to queue `orders`".
pub(crate) fn store_error<E>(what: impl Into<String>, error: &SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let what = what.into();
    let SdkError::ServiceError(answer) = error else { return unanswered(what, error) };
    let (code, message) = (code_of(answer.err()), answer.err().message().unwrap_or_default());
    refused(what, code, message, answer.raw().status(), || Told::of(error))
}

/// The code of a service's error without the prefix of the older protocol.
pub(crate) fn code_of(error: &impl ProvideErrorMetadata) -> &str {
    let code = error.code().unwrap_or_default();
    code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code)
}

/// The code of the answer, where there was one.
pub(crate) fn answered_code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().map(code_of)
}

/// An answer that is no success.
pub(crate) fn refused(
    what: String,
    code: &str,
    message: &str,
    status: StatusCode,
    told: impl FnOnce() -> Told,
) -> StoreError {
    if THROTTLED.contains(&code) || status.is_server_error() {
        return StoreError::unreachable(what, told());
    }
    if INVALID.contains(&code) {
        return StoreError::Invalid(format!("cannot {what}: {message}"));
    }
    let fix = match code {
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => {
            "the AWS credentials have expired: sign in again, or renew AWS_SESSION_TOKEN".to_owned()
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" | "InvalidAccessKeyId" => {
            "AWS does not know the access key: check AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN".to_owned()
        }
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "IncompleteSignature" => format!(
            "AWS does not accept the signature: check AWS_SECRET_ACCESS_KEY, the region and this machine's clock ({message})"
        ),
        "AccessDenied" | "AccessDeniedException" | "KmsAccessDenied" | "KMS.AccessDeniedException" => {
            format!("no permission: {message}. Allow this action on this resource in the policy of whoever runs this")
        }
        "QueueDoesNotExist" | "NonExistentQueue" => {
            "there is no such queue in this account and region: deploy the template (`rhubarb deploy template`), or check the region and AWS_ENDPOINT_URL".to_owned()
        }
        "ResourceNotFoundException" => {
            "there is no such table in this account and region: deploy the template (`rhubarb deploy template`), or check `table` in [app], RHUBARB_TABLE, the region and AWS_ENDPOINT_URL".to_owned()
        }
        "" => format!(
            "the endpoint answered with status {} and no error of AWS: check AWS_ENDPOINT_URL",
            status.as_u16()
        ),
        _ => format!("AWS answered {code}: {message}"),
    };
    StoreError::Broken { what, fix }
}

/// A call without an answer: not sent, cut off, or too late.
pub(crate) fn unanswered(what: String, error: &(dyn Error + 'static)) -> StoreError {
    let told = Told::of(error);
    if told.0.contains("Missing Region") {
        let fix = "no AWS region is configured: set AWS_REGION, or `region` in the profile".to_owned();
        return StoreError::Broken { what, fix };
    }
    match credentials_error(error) {
        // A provider that was asked and did not answer, or not in time, may do so later.
        Some(CredentialsError::ProviderTimedOut(_)) | None => StoreError::unreachable(what, told),
        Some(CredentialsError::CredentialsNotLoaded(_)) => {
            let fix =
                "no AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; \
                       on AWS, give the task or function a role"
                    .to_owned();
            StoreError::Broken { what, fix }
        }
        Some(other) => {
            let fix = format!("the AWS credentials cannot be had: {}", Told::of(other).0);
            StoreError::Broken { what, fix }
        }
    }
}

fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    chain(error).find_map(|error| error.downcast_ref())
}

pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An error with its causes as one line: AWS's own errors say the cause only where they are asked for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Told(pub(crate) String);

impl Told {
    /// The error and its causes; a cause that only repeats is left out.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut parts: Vec<String> = Vec::new();
        for part in chain(error).map(ToString::to_string) {
            if !parts.last().is_some_and(|last| last.contains(&part)) {
                parts.push(part);
            }
        }
        Self(parts.join(": "))
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::{body::SdkBody, error::ErrorMetadata};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("service error")]
    struct Answer(ErrorMetadata);

    impl ProvideErrorMetadata for Answer {
        fn meta(&self) -> &ErrorMetadata {
            &self.0
        }
    }

    fn answered(status: u16, code: &str, message: &str) -> StoreError {
        let meta = ErrorMetadata::builder().code(code).message(message).build();
        let status = StatusCode::try_from(status).unwrap();
        store_error(
            "send messages",
            &SdkError::service_error(Answer(meta), HttpResponse::new(status, SdkBody::empty())),
        )
    }

    #[track_caller]
    fn assert_broken(error: &StoreError, fix: &str) {
        assert!(matches!(error, StoreError::Broken { .. }) && error.to_string().contains(fix), "{error:?}");
    }

    #[test]
    fn what_may_pass_by_itself_can_be_tried_again() {
        for (status, code) in [(400, "ThrottlingException"), (403, "RequestThrottled"), (500, "Anything"), (503, "")] {
            assert!(answered(status, code, "slow down").is_transient(), "{status} {code}");
        }
        let refused = ConnectorError::io(std::io::Error::other("connection refused").into());
        let error = store_error::<Answer>("send messages", &SdkError::dispatch_failure(refused));
        let StoreError::Unreachable { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("connection refused"), "{source}");
    }

    #[test]
    fn what_somebody_must_mend_says_how() {
        assert_broken(&answered(403, "ExpiredToken", "expired"), "the AWS credentials have expired");
        assert_broken(&answered(403, "InvalidClientTokenId", "?"), "AWS does not know the access key");
        assert_broken(&answered(403, "SignatureDoesNotMatch", "?"), "clock");
        let denied = "User: u is not authorized to perform: sqs:SendMessage on resource: arn:aws:sqs:q";
        assert_broken(&answered(403, "AccessDenied", denied), "sqs:SendMessage on resource: arn:aws:sqs:q");
        assert_broken(&answered(400, "AWS.SimpleQueueService.NonExistentQueue", ""), "deploy the template");
        assert_broken(&answered(400, "ResourceNotFoundException", ""), "RHUBARB_TABLE");
        assert_broken(&answered(404, "", ""), "AWS_ENDPOINT_URL");
        assert_broken(&answered(400, "OverLimit", "too many in flight"), "AWS answered OverLimit: too many in flight");
    }

    #[test]
    fn what_breaks_a_rule_is_invalid() {
        let error = answered(400, "InvalidParameterValue", "DelaySeconds is not valid");
        assert!(matches!(&error, StoreError::Invalid(text) if text.contains("DelaySeconds")), "{error:?}");
    }

    #[test]
    fn missing_credentials_and_regions_are_named() {
        let none = CredentialsError::not_loaded("nothing there");
        let error: SdkError<Answer, HttpResponse> = SdkError::construction_failure(none);
        assert_broken(&store_error("send messages", &error), "no AWS credentials were found");
        let error: SdkError<Answer, HttpResponse> =
            SdkError::construction_failure("Invalid Configuration: Missing Region");
        assert_broken(&store_error("send messages", &error), "set AWS_REGION");
    }
}
