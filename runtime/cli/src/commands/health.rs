//! `rhubarb health`: whether the agent of this machine is well, for the health checks of containers, which may have
//! no other HTTP client.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;
use rhubarb_core::config::MetricsAddress;

use crate::{
    exit::{CliError, Result},
    session::Session,
};

/// ECS and Docker ask for an answer within seconds, and ask again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The page's answer is a line; more of it is not read.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Ask the agent of this machine whether it is well
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb health
  rhubarb health --metrics 127.0.0.1:9465

It asks the agent's /healthz: exit code 0 where its receive loop and heartbeat work, 69 where not.")]
pub(crate) struct Health {
    /// Where the agent shows its health: IP:PORT [default: `metrics` in rhubarb.toml, 127.0.0.1:9464]
    #[arg(long, env = "RHUBARB_METRICS", value_name = "ADDRESS")]
    metrics: Option<MetricsAddress>,
}

impl Health {
    /// Asks, and says what was answered.
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let address = match self.metrics {
            Some(address) => address,
            None => session.project()?.config.app.metrics,
        };
        let MetricsAddress::At(address) = address else {
            let told = "agents here show no health: `metrics` is off ([app], RHUBARB_METRICS, --metrics)";
            return Err(CliError::Configuration(told.into()));
        };
        let answer = ask(address)
            .map_err(|error| CliError::Backend(format!("no agent answers at http://{address}/healthz: {error}")))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let is_well = head.split(' ').nth(1) == Some("200");
        if is_well { session.screen.line(body.trim()) } else { Err(CliError::Backend(body.trim().to_owned())) }
    }
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
