//! The page of the agents in this process: where it is opened, and what happens where it cannot be.

use std::sync::Arc;

use rhubarb_agent::{
    Agent,
    page::{self, Page},
};
use rhubarb_core::config::MetricsAddress;
use rhubarb_telemetry::page::{CONTENT_TYPE, Page as Metrics};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{cli::Command, session::Session};

/// Where a command shows its page, by its option, or else the variable and the file. Their mistakes are the
/// command's to tell.
pub(crate) fn address(session: &Session, command: &Command) -> MetricsAddress {
    let option = match command {
        Command::Agent(agent) => agent.metrics,
        Command::Dev(dev) => dev.metrics,
        _ => return MetricsAddress::Off,
    };
    let configured = || session.project().map_or(MetricsAddress::Off, |project| project.config.app.metrics);
    option.unwrap_or_else(configured)
}

/// Opens the page; it is closed when what is returned is dropped. Without a free port the agents work without.
pub(crate) async fn open(address: MetricsAddress, agents: &[Agent]) -> Option<DropGuard> {
    let (MetricsAddress::At(address), Some(metrics)) = (address, rhubarb_telemetry::page::get()) else { return None };
    let listener = match page::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(server.address = %address, error = %error, "cannot show metrics and health at {address}: {error}; working without (`metrics` in [app], RHUBARB_METRICS, --metrics)");
            return None;
        }
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(server.address = %address, "metrics and health at http://{address}/metrics, /healthz, /readyz");
    }
    let metrics: &'static Metrics = metrics;
    let page = Page {
        metrics: Arc::new(move || metrics.text().map_err(|error| error.to_string())),
        metrics_type: CONTENT_TYPE,
        agents: agents.iter().map(Agent::health).collect(),
    };
    let end = CancellationToken::new();
    tokio::spawn(page::serve(listener, page, end.clone()));
    Some(end.drop_guard())
}
