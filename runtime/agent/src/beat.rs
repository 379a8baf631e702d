//! The heartbeat: the worker's row, what the store says about queues, and the sweep's role.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, QueueRow, StoreError, WorkerRecord, WorkerState},
    config,
    ids::QueueName,
    time::Timestamp,
};
use rhubarb_host::{pipeline::Host, sweep};
use rhubarb_telemetry::metrics::WorkerShown;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{gauges::Looks, gpu::GpuPool, health::Health};

/// How often a worker writes its row and reads what the store says about queues.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// A worker that was silent for so long counts as gone.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(15);
/// How long a role is held after the last sweep: short, so that one that dies with it delays nobody; two
/// sweepers at once do no harm.
const ROLE_HOLD: Duration = Duration::from_secs(3);

/// Writes the worker's row until it is ended.
pub(crate) struct Beat {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) host: Arc<Host>,
    pub(crate) record: WorkerRecord,
    pub(crate) state: watch::Receiver<WorkerState>,
    pub(crate) has_beaten: bool,
    /// Sent to with the first heartbeat, and whenever something has changed.
    pub(crate) rows: watch::Sender<BTreeMap<QueueName, QueueRow>>,
    pub(crate) health: Health,
    pub(crate) shown: Option<Arc<WorkerShown>>,
    pub(crate) gpus: Option<GpuPool>,
    /// When the metrics were last told of the GPUs.
    pub(crate) told_at: Instant,
}

impl Beat {
    pub(crate) async fn run(mut self, end: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = ticks.tick() => {}
                _ = self.state.changed() => {}
            }
            let beaten = self.beat().await;
            self.health.beat(beaten.is_ok(), self.record.state, &self.record.functions);
            if let Err(error) = beaten {
                tracing::warn!(error = %error, "cannot write the heartbeat: {error}");
            }
        }
    }

    async fn beat(&mut self) -> Result<(), StoreError> {
        self.record.state = *self.state.borrow_and_update();
        self.record.functions = self.host.functions().health();
        self.record.tasks = self.host.functions().said();
        self.record.holds = self.host.keeper().held();
        if let Some(gpus) = &self.gpus {
            self.record.gpus = gpus.snapshot();
        }
        self.backend.workers().beat(&self.record).await?;
        if let Some(shown) = &self.shown {
            shown.heartbeat(Timestamp::from_system(SystemTime::now()).as_millis());
            if let Some(gpus) = &self.gpus {
                shown.gpus(gpus.readings(), std::mem::replace(&mut self.told_at, Instant::now()).elapsed());
            }
        }
        let rows = self.backend.tasks().queues().await?;
        let rows: BTreeMap<QueueName, QueueRow> = rows.into_iter().map(|row| (row.queue.clone(), row)).collect();
        let first = !std::mem::replace(&mut self.has_beaten, true);
        self.rows.send_if_modified(|known| {
            let news = first || *known != rows;
            *known = rows;
            news
        });
        Ok(())
    }
}

/// Sweeps while this worker holds the role, until it is ended.
pub(crate) async fn sweep(
    host: Arc<Host>,
    record: WorkerRecord,
    shown: Option<Arc<WorkerShown>>,
    end: CancellationToken,
) {
    let shared = host.shared();
    let mut looks = Looks::new(shared.config.app.backend == config::Backend::Aws);
    let mut ticks = tokio::time::interval(sweep::EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while end.run_until_cancelled(ticks.tick()).await.is_some() {
        let workers = shared.backend.workers();
        let swept = match workers.hold_role("sweep", &record.id, &record.instance, ROLE_HOLD).await {
            Ok(true) => {
                let now = Timestamp::from_system(SystemTime::now());
                let mut sweep = shared.sweep.lock().await;
                let swept = sweep.run(&*shared.backend, &shared.config, &record.id, now).await;
                if let Some(shown) = &shown
                    && let Err(error) = looks.look(&*shared.backend, &shared.config, sweep.messages(), shown).await
                {
                    tracing::warn!(error = %error, "cannot look at the queues for the metrics: {error}");
                }
                swept
            }
            Ok(false) => {
                shown.iter().for_each(|shown| looks.stop(shown));
                continue;
            }
            Err(error) => Err(error),
        };
        match swept {
            Ok(swept) if swept != sweep::Swept::default() => tracing::debug!(?swept, "swept"),
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %error, "cannot sweep: {error}"),
        }
    }
}
