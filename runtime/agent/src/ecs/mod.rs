//! What an agent has to do with Amazon ECS, where it runs in one of its containers.
//!
//! * [`metadata`]: which ECS task it is, for its row.
//! * [`protection`]: while it is busy, scale-in and deployments leave its ECS task alone.
//! * [`spot`]: the interruption notice of a Spot instance where no ECS turns it into a signal.
//!
//! ECS stops a container by SIGTERM, on Fargate, EC2 and Managed Instances, for scale-in, Spot and draining alike: that
//! is the stop notice, and `RHUBARB_KILL_DELAY` (the container's `stopTimeout`) is what the drain must fit into.
//!
//! All endpoints are link-local and speak plain HTTP. None of them is needed for work: one that fails is told about
//! once, and nothing is lost by a crash, as protection expires by itself.

mod metadata;
mod protection;
mod spot;

use std::ffi::OsString;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::metadata::metadata;
use self::{protection::keep_protected, spot::watch_spot};

/// What goes on beside the work.
#[derive(Clone, Debug)]
pub(crate) struct Ecs {
    /// The environment, which names ECS's endpoints.
    pub(crate) vars: Vec<(OsString, OsString)>,
    /// The base of the instance's metadata, where Spot notices are to be watched for.
    pub(crate) spot_notices: Option<String>,
}

impl Ecs {
    /// Protects the ECS task while `is_busy`, and drains the agent by `drain` when its Spot instance is to go.
    pub(crate) fn start(
        &self,
        tracker: &TaskTracker,
        is_busy: impl Fn() -> bool + Send + Sync + 'static,
        drain: CancellationToken,
        end: &CancellationToken,
    ) {
        tracker.spawn(keep_protected(self.vars.clone(), is_busy, end.clone()));
        if let Some(url) = self.spot_notices.clone() {
            tracker.spawn(watch_spot(url, move || drain.cancel(), end.clone()));
        }
    }
}

/// A variable of the environment that holds something.
fn var(vars: &[(OsString, OsString)], name: &str) -> Option<String> {
    let (_, value) = vars.iter().find(|(key, value)| key == name && !value.is_empty())?;
    Some(value.to_string_lossy().into_owned())
}
