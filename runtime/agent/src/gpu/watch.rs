//! The regular look at all devices: usage while they are leased, errors, the guards' renewal, quarantines that others
//! have begun or ended, and devices that come.
//!
//! One question to the helper a second while something is leased, one in ten while nothing is. A driver that cannot be
//! asked stops nothing: what runs goes on, and what is given back is judged when its time to be clean is over.

use std::{convert::Infallible, sync::Arc, time::Duration};

use rhubarb_core::gpu::{GpuReading, GpuState};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    guard::RENEW_EVERY,
    pool::{Entry, GpuPool, Inner},
};

/// Between two readings while something is leased.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Between two readings while nothing is.
const READ_IDLE_EVERY: Duration = Duration::from_secs(10);
/// A device that is missing from so many readings in a row no longer answers.
const MISSED_MAX: u32 = 2;
/// Between two probes of a device that nobody has.
const PROBE_EVERY: Duration = Duration::from_secs(10 * 60);

impl GpuPool {
    /// Watches until it is ended, also in the midst of a question to a driver that does not answer.
    pub(crate) async fn watch(self, end: CancellationToken) {
        end.run_until_cancelled(self.watch_on()).await;
    }

    async fn watch_on(&self) -> Infallible {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut read, mut renewed, mut told) = (None::<Instant>, Instant::now(), Told::default());
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let every = if self.0.is_in_use() { Duration::ZERO } else { READ_IDLE_EVERY };
            if read.is_none_or(|at| now.duration_since(at) >= every) {
                read = Some(now);
                self.0.read_all(&mut told).await;
            }
            if now.duration_since(renewed) >= RENEW_EVERY {
                renewed = now;
                self.0.renew().await;
            }
            self.0.tend(now);
        }
    }
}

/// What has been said already.
#[derive(Default)]
struct Told {
    unavailable: bool,
    blind: bool,
}

impl Entry {
    /// Takes readings of its devices into what they have done.
    pub(super) fn add(&mut self, readings: &[GpuReading]) {
        for reading in readings {
            self.tallies.entry(reading.uuid.clone()).or_default().add(reading);
        }
    }
}

impl Inner {
    fn is_in_use(&self) -> bool {
        let state = self.state();
        state.ledger.devices().iter().any(|(_, stands)| matches!(stands, GpuState::Held(_) | GpuState::Checking))
    }

    async fn read_all(self: &Arc<Self>, told: &mut Told) {
        let readings = match self.source.read().await {
            Ok(readings) => readings,
            Err(error) => {
                if !std::mem::replace(&mut told.unavailable, true) {
                    tracing::warn!(error = %error, "cannot watch the GPUs: {error}");
                }
                return;
            }
        };
        told.unavailable = false;
        if readings.iter().any(|reading| reading.processes.is_none()) && !std::mem::replace(&mut told.blind, true) {
            tracing::info!(
                "the driver does not show the processes on the GPUs here: memory alone decides whether one was given back"
            );
        }
        let is_new = {
            let state = self.state();
            let is_known = |uuid: &String| state.ledger.state(uuid).is_some() || state.hidden.contains(uuid);
            readings.iter().any(|reading| !is_known(&reading.uuid))
        };
        self.take_readings(&readings);
        if is_new && let Ok(all) = self.source.devices().await {
            self.take_in(&all);
            let mut state = self.state();
            let ledger = &state.ledger;
            let hidden = readings.into_iter().map(|reading| reading.uuid).filter(|uuid| ledger.state(uuid).is_none());
            state.hidden = hidden.collect();
        }
    }

    /// Notes what was read; what has fallen sick meanwhile goes into quarantine, at once or when its lease ends.
    fn take_readings(self: &Arc<Self>, readings: &[GpuReading]) {
        let mut sick = Vec::new();
        {
            let mut state = self.state();
            let stands: Vec<(String, GpuState)> = state
                .ledger
                .devices()
                .into_iter()
                .map(|(device, stands)| (device.uuid.clone(), stands.clone()))
                .collect();
            for (uuid, stands) in stands {
                let now = readings.iter().find(|reading| reading.uuid == uuid);
                if let (GpuState::Held(leases), Some(now)) = (&stands, now) {
                    for id in leases {
                        state.leases.get_mut(id).into_iter().for_each(|entry| entry.add(std::slice::from_ref(now)));
                    }
                }
                let Some(device) = state.devices.get_mut(&uuid) else { continue };
                device.missed = if now.is_some() { 0 } else { device.missed.saturating_add(1) };
                let found = match now {
                    Some(now) => device.read(now.clone()),
                    None if device.reading.is_some() && device.missed >= MISSED_MAX => {
                        Some("it no longer answers".to_owned())
                    }
                    None => None,
                };
                match (found, stands) {
                    (Some(reason), GpuState::Free) => sick.push((uuid, reason)),
                    (Some(reason), GpuState::Held(_) | GpuState::Checking) => {
                        device.doomed.get_or_insert(reason);
                    }
                    (Some(_), GpuState::Quarantined(_)) | (None, _) => {}
                }
            }
            for (uuid, _) in &sick {
                // Before anybody can lease it.
                state.ledger.set_apart(uuid);
            }
        }
        for (uuid, reason) in sick {
            self.confine(&uuid, reason);
        }
    }

    /// Renews what is held. A device that may be another agent's by now is lost: what uses it is stopped.
    async fn renew(&self) {
        let held: Vec<String> = {
            let state = self.state();
            let guarded = state.devices.iter().filter(|(_, device)| device.guard.is_some());
            guarded.map(|(uuid, _)| uuid.clone()).collect()
        };
        for uuid in held {
            let answer = self.guards.renew(&uuid).await;
            let mut state = self.state();
            let Some(guard) = state.devices.get_mut(&uuid).and_then(|device| device.guard.as_mut()) else {
                continue;
            };
            if !guard.note_renewal(&answer) {
                tracing::error!(gpu.uuid = %uuid, "another agent may hold GPU {uuid} by now: what runs on it here is stopped");
                let holders = state.ledger.holders(&uuid);
                holders.iter().filter_map(|id| state.leases.get(id)).for_each(|entry| entry.lost.cancel());
            }
        }
    }

    /// Hears of quarantines that others have begun or ended, and looks at what is due.
    fn tend(self: &Arc<Self>, now: Instant) {
        let devices: Vec<(String, GpuState)> = {
            let state = self.state();
            state.ledger.devices().into_iter().map(|(device, stands)| (device.uuid.clone(), stands.clone())).collect()
        };
        for (uuid, stands) in devices {
            match stands {
                GpuState::Quarantined(_) => {
                    self.hear_of_release(&uuid);
                    if self.is_due_again(&uuid, now) {
                        self.tracker.spawn(Arc::clone(self).look_again(uuid));
                    }
                }
                GpuState::Free if !self.hear_of_quarantine(&uuid) && self.is_due_for_probe(&uuid, now) => {
                    self.tracker.spawn(Arc::clone(self).first_look(uuid));
                }
                GpuState::Free | GpuState::Held(_) | GpuState::Checking => {}
            }
        }
    }

    /// Sets a device apart whose last probe is long ago.
    fn is_due_for_probe(&self, uuid: &str, now: Instant) -> bool {
        let mut state = self.state();
        let Some(device) = state.devices.get_mut(uuid) else { return false };
        let is_due = device.probed.is_none_or(|at| now.duration_since(at) >= PROBE_EVERY);
        if is_due {
            device.probed = Some(now);
        }
        is_due && state.ledger.set_apart(uuid)
    }
}
