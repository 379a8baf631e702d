//! A function: handlers by task name, run on AWS's own runtime client, wherever it is started.
//!
//! The same binary serves Lambda, an agent and a laptop: all speak the Lambda Runtime API. Before its
//! first task it tells the host which tasks it runs; plain Lambda does not know that route, and the
//! function then works without a host. What prevents a start is reported as an init error.

mod answer;
mod event;
mod handlers;
mod invocation;
#[cfg(feature = "otel")]
pub(crate) mod otel;

use std::{
    env,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use http::{Method, StatusCode};
use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use rhubarb_core::{contract, ids::TaskName};
use serde_json::value::RawValue;

use self::{handlers::Handlers, invocation::Service};
use crate::{
    Context, Error, Task, TaskError,
    context::{
        ContextError, Refusal, States,
        routes::{Call, Host, Http},
    },
    task_error::{BoxError, with_causes},
};

/// Where a host says that it serves the Runtime API.
const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";
/// What AWS's runtime client wants beside it.
const WANTED: [&str; 4] =
    [RUNTIME_API, "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"];

type Setup = Box<dyn FnOnce() -> BoxFuture<'static, Result<AddState, BoxError>> + Send>;
type AddState = Box<dyn FnOnce(&mut States) + Send>;

/// A function: what runs some kinds of task.
///
/// ```no_run
/// # use rhubarb::{Context, Function, Task, TaskError};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct SendReport;
/// # impl Task for SendReport { const NAME: &'static str = "send_report"; type Output = (); }
/// struct Mailer;
///
/// async fn send_report(task: SendReport, cx: Context) -> Result<(), TaskError> {
///     let mailer = cx.state::<Mailer>()?;
///     // …
///     Ok(())
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<(), rhubarb::Error> {
///     Function::new().state(Mailer).on(send_report).run().await
/// }
/// ```
#[must_use = "a function does nothing until it is run"]
#[derive(Default)]
pub struct Function {
    handlers: Handlers,
    twice: Option<&'static str>,
    states: States,
    setups: Vec<Setup>,
    parallel: usize,
}

impl Function {
    /// A function that runs nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs tasks of a kind with this handler, an `async fn(T, Context) -> Result<T::Output, TaskError>`;
    /// any error type that becomes a [`TaskError`] by `?` will do.
    pub fn on<T, F, R, E>(mut self, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, Context) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T::Output, E>> + Send + 'static,
        E: Into<TaskError>,
    {
        if !self.handlers.add(handler) {
            self.twice.get_or_insert(T::NAME);
        }
        self
    }

    /// Gives every handler a value, found by its type with [`Context::state`].
    pub fn state<S: Send + Sync + 'static>(mut self, state: S) -> Self {
        self.states.insert(Arc::new(state));
        self
    }

    /// Makes a value for every handler before the first task is taken. An error ends the function, and
    /// is reported on the tasks that wait for it.
    pub fn setup<S, E>(mut self, setup: impl Future<Output = Result<S, E>> + Send + 'static) -> Self
    where
        S: Send + Sync + 'static,
        E: Into<BoxError>,
    {
        self.setups.push(Box::new(move || {
            Box::pin(async move {
                let state = Arc::new(setup.await.map_err(Into::into)?);
                Ok(Box::new(move |states: &mut States| states.insert(state)) as AddState)
            })
        }));
        self
    }

    /// Runs up to so many records of one invocation at the same time; in order otherwise. The queue's
    /// `parallel` should say the same.
    pub const fn parallel(mut self, records: usize) -> Self {
        self.parallel = records;
        self
    }

    /// Takes tasks and runs them, until the host ends the process.
    ///
    /// # Errors
    ///
    /// It was not started by a host, its handlers contradict each other, its setup failed, or the host
    /// is gone.
    pub async fn run(self) -> Result<(), Error> {
        for variable in WANTED {
            if env::var_os(variable).is_none_or(|value| value.is_empty()) {
                return Err(Error::NotHosted { variable });
            }
        }
        #[cfg(feature = "otel")]
        let otel = Arc::new(otel::Otel::start());
        let http = Http::new(&env::var(RUNTIME_API).unwrap_or_default());
        let service = match self.start(Arc::new(http)).await {
            Ok(service) => Arc::new(service),
            Err((http, error)) => {
                http.init_error(error_type(&error), &with_causes(&error)).await;
                return Err(error);
            }
        };
        let handler = service_fn(move |event: LambdaEvent<Box<RawValue>>| {
            let service = Arc::clone(&service);
            #[cfg(feature = "otel")]
            let otel = Arc::clone(&otel);
            async move {
                let left = time_left(event.context.deadline);
                let answer = service.invoke(event.payload.get(), left).await;
                #[cfg(feature = "otel")]
                otel.before_answer().await;
                answer.map_err(|message| Diagnostic { error_type: "BadEvent".to_owned(), error_message: message })
            }
        });
        Runtime::new(handler).run_concurrent().await.map_err(Error::Runtime)
    }

    async fn start(self, http: Arc<Http>) -> Result<Service, (Arc<Http>, Error)> {
        let started = async {
            self.check()?;
            let mut states = self.states;
            for setup in self.setups {
                let add = setup().await.map_err(Error::Setup)?;
                add(&mut states);
            }
            let host = introduce(&self.handlers, Host::new(http.clone())).await?;
            Ok(Service { handlers: self.handlers, states, host, parallel: self.parallel })
        };
        started.await.map_err(|error| (http, error))
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(task) = self.twice {
            return Err(Error::Duplicate { task });
        }
        if self.handlers.names().next().is_none() {
            return Err(Error::NoHandler);
        }
        self.handlers.names().try_for_each(|name| TaskName::new(name).map(drop).map_err(Error::Name))
    }
}

/// Tells the host which tasks the function runs. Returns the host, if there is one.
async fn introduce(handlers: &Handlers, host: Host) -> Result<Host, Error> {
    #[derive(serde::Serialize)]
    struct Introduction {
        v: u64,
        tasks: Vec<&'static str>,
        sdk: &'static str,
    }
    let introduction = Introduction {
        v: contract::VERSION,
        tasks: handlers.names().collect(),
        sdk: concat!("rhubarb ", env!("CARGO_PKG_VERSION")),
    };
    let body = serde_json::to_vec(&introduction).map_err(|error| Error::Runtime(error.into()))?;
    let call = Call::new("introduce the function", Method::POST, "/function".to_owned(), body.into());
    let reply = match host.ask(call).await {
        Ok(reply) => reply,
        Err(ContextError::Host { source, .. }) => return Err(Error::Runtime(source)),
        Err(error) => return Err(Error::Runtime(error.into())),
    };
    match reply.status {
        status if status.is_success() => Ok(host),
        // Plain Lambda knows no such path.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(Host::default()),
        _ => Err(Error::Refused(Refusal::read(&reply).error_message)),
    }
}

/// What remains until a time in epoch milliseconds.
fn time_left(deadline: u64) -> Duration {
    let deadline = UNIX_EPOCH + Duration::from_millis(deadline);
    deadline.duration_since(SystemTime::now()).unwrap_or_default()
}

const fn error_type(error: &Error) -> &'static str {
    match error {
        Error::NotHosted { .. } => "NotHosted",
        Error::Duplicate { .. } => "DuplicateTask",
        Error::NoHandler => "NoHandler",
        Error::Name(_) => "InvalidTaskName",
        Error::Setup(_) => "Setup",
        Error::Refused(_) => "Refused",
        Error::Runtime(_) => "Runtime",
    }
}
