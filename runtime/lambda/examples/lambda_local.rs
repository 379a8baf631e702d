//! The bootstrap over the embedded backend, for tests: all of it but AWS.

use std::{process::ExitCode, sync::Arc};

use rhubarb_core::{
    backend::Backend,
    config::{Config, Overrides},
};
use rhubarb_local::{LocalBackend, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    rhubarb_lambda::run(Overrides::default(), async |config: &Config| {
        let backend = LocalBackend::open(&config.app.dir, Options::default())?;
        Ok(Arc::new(backend) as Arc<dyn Backend>)
    })
    .await
}
