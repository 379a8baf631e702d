//! From the start of the process to the loop over the Runtime API.
//!
//! What is wrong at the start is posted as an init error, so that Lambda shows it where people look, and the
//! process ends. Lambda tries again with the next invocation; until then the messages stay in their queue.

use std::{
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use lambda_runtime_api_client::{PooledClient, body::Body};
use rhubarb_core::{
    backend::Backend,
    config::{Config, Overrides, Vars as _},
};
use rhubarb_telemetry::spans::FutureExt as _;
use serde_json::Value;

use crate::{
    feeder::{Answer, Feeder, InvocationError},
    logging,
    plan::{self, InitError, Plan},
    telemetry::OfSandbox,
};

/// An error of whatever kind.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Lambda's variables without which the Runtime API cannot be talked to.
const NEEDED: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
];

/// Runs the bootstrap until Lambda ends it. `overrides` stand above the environment; `connect` opens the
/// backend of a configuration.
pub async fn run(
    overrides: Overrides,
    connect: impl AsyncFnOnce(&Config) -> Result<Arc<dyn Backend>, BoxError>,
) -> ExitCode {
    let began = Instant::now();
    let vars: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let texts = plan::texts(&vars);
    let (telemetry, mistake) = OfSandbox::start(&texts);
    logging::start(&texts, &telemetry.telemetry);
    if let Some(mistake) = mistake {
        tracing::error!(error = mistake, "telemetry is off: {mistake}");
    }
    if let Some(missing) = NEEDED.into_iter().find(|name| texts.get(name).is_none()) {
        eprintln!(
            "{missing} is not set: this program is the bootstrap of a Lambda function, and AWS Lambda, or an emulator \
             of it, starts it. `rhubarb package` makes the zip, `rhubarb dev` runs functions without Lambda"
        );
        return ExitCode::from(64);
    }
    let root = root(texts.get("LAMBDA_TASK_ROOT").as_deref());
    match start(&root, &vars, &overrides, connect).await {
        Ok(feeder) => {
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(init_ms = took_ms, "ready for invocations after {took_ms} ms");
            serve(feeder, telemetry).await
        }
        Err(error) => {
            tracing::error!(error = %error, "cannot start: {error}");
            post_init_error(&error).await;
            ExitCode::FAILURE
        }
    }
}

async fn start(
    root: &Path,
    vars: &[(OsString, OsString)],
    overrides: &Overrides,
    connect: impl AsyncFnOnce(&Config) -> Result<Arc<dyn Backend>, BoxError>,
) -> Result<Feeder, InitError> {
    let plan = Plan::read(root, vars, overrides)?;
    let backend = connect(&plan.config).await.map_err(|error| InitError::Backend(error.to_string()))?;
    Feeder::start(plan, backend).await
}

async fn serve(feeder: Feeder, telemetry: OfSandbox) -> ExitCode {
    let (feeder, telemetry) = (&feeder, &telemetry);
    let handler = service_fn(async |event: LambdaEvent<Value>| -> Result<Answer, Diagnostic> {
        let deadline = event.context.deadline();
        let answer = feeder.invoke(event.payload, deadline).with_context(telemetry.invocation(&event.context)).await;
        telemetry.flush(deadline).await;
        answer.map_err(diagnostic)
    });
    let ended = lambda_runtime::Runtime::new(handler).run().await;
    feeder.end().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "the Runtime API cannot be reached: {error}");
            ExitCode::FAILURE
        }
    }
}

fn diagnostic(error: InvocationError) -> Diagnostic {
    let error_type = match error {
        InvocationError::Event(_) => "Rhubarb.Event",
        InvocationError::Sweep(_) => "Rhubarb.Backend",
    };
    tracing::error!(error = %error, "{error}");
    Diagnostic { error_type: error_type.to_owned(), error_message: error.to_string() }
}

/// Where the zip's files are, or those of the image.
fn root(task_root: Option<&str>) -> PathBuf {
    let beside = || std::env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from));
    task_root.map(PathBuf::from).or_else(beside).unwrap_or_else(|| PathBuf::from("."))
}

/// <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-initerror>
async fn post_init_error(error: &InitError) {
    let body = serde_json::json!({ "errorType": error.kind(), "errorMessage": error.to_string(), "stackTrace": [] });
    let posted = async {
        let request = http::Request::post("/2018-06-01/runtime/init/error")
            .header("lambda-runtime-function-error-type", error.kind())
            .body(Body::from(body.to_string()))?;
        PooledClient::builder().build().call(request).await
    };
    if let Err(unposted) = posted.await {
        tracing::error!(error = %unposted, "cannot tell Lambda why this function does not start: {unposted}");
    }
}
