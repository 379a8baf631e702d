//! Measures the cold start: from the start of the bootstrap's process to its first `next`, which is after the
//! function's own. The backend is an emulator's, so the network is this machine's.
//!
//! ```text
//! cargo build --profile bootstrap -p rhubarb-lambda && cargo build --profile dist -p maintenance
//! cargo run -p rhubarb-lambda --example lambda_cold_start -- target/bootstrap/rhubarb-lambda target/dist/maintenance
//! ```

use std::{error::Error, ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use rhubarb_aws::{AwsBackend, AwsOptions, Connection};
use rhubarb_core::config::{Config, NoVars, Overrides};
use rhubarb_host::{
    process::{FunctionProcess, ProcessSpec},
    runtime_api::Routes,
};
use rhubarb_testkit::emulator::{Emulator, REGION};

const STARTS: usize = 21;

const TOML: &str = "[app]\nname = \"cold\"\nbackend = \"aws\"\n[queues.q]\nclass = \"lambda\"\n\
                    [functions.function]\npackage = \"function\"\n";

struct NoRoutes;

#[async_trait]
impl Routes for NoRoutes {
    async fn call(&self, _: Request<Bytes>) -> Response<Bytes> {
        Response::default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let programs: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [bootstrap, function] = programs.as_slice() else {
        return Err("give the paths of a bootstrap and of a function".into());
    };
    let emulator = Emulator::start();
    let options = AwsOptions { create: true, ..AwsOptions::default() };
    let connection = Connection::to_emulator(emulator.endpoint(), REGION);
    AwsBackend::over(connection, &Config::parse(TOML, &NoVars, &Overrides::default())?, options).await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("rhubarb.toml"), TOML)?;
    std::fs::copy(function, folder.path().join("function"))?;

    let mut spec = ProcessSpec::new("cold-dev-q", vec![bootstrap.canonicalize()?.into()]);
    let settings = [("RHUBARB_QUEUE", "q"), ("RHUBARB_BUCKET", "cold-dev-000000000000"), ("PATH", "/usr/bin:/bin")];
    spec.env = settings.map(|(name, value)| (name.into(), value.into())).into();
    spec.env.extend(emulator.variables().into_iter().map(|(name, value)| (name.into(), OsString::from(value))));
    spec.env.push(("LAMBDA_TASK_ROOT".into(), folder.path().into()));
    let spec = Arc::new(spec);

    let mut took = Vec::new();
    for _ in 0..STARTS {
        let process = FunctionProcess::start(Arc::clone(&spec), Arc::new(NoRoutes)).await?;
        took.push(process.init_took());
        process.stop(Duration::from_secs(1)).await;
    }
    took.sort_unstable();
    let size = std::fs::metadata(bootstrap)?.len() as f64 / f64::from(1 << 20);
    println!("cold start: median {:?}, best {:?}, worst {:?} of {STARTS}", took[STARTS / 2], took[0], took[STARTS - 1]);
    println!("bootstrap: {size:.1} MiB");
    Ok(())
}
