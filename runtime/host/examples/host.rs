//! A host with one function process, for tests that kill the host: prints the process's id and waits.

use std::env;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use rhubarb_host::process::{FunctionProcess, ProcessSpec};
use rhubarb_host::runtime_api::Routes;

struct NoRoutes;

#[async_trait]
impl Routes for NoRoutes {
    async fn call(&self, _: Request<Bytes>) -> Response<Bytes> {
        Response::new(Bytes::new())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let command = env::args_os().skip(1).collect();
    let spec = Arc::new(ProcessSpec::new("orphan", command));
    let process = FunctionProcess::start(spec, Arc::new(NoRoutes)).await?;
    println!("{}", process.id());
    process.wait().await;
    Ok(())
}
