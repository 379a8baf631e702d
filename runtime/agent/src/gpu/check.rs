//! Looking at devices: before their first lease, after each lease, now and then while nobody has them, and in
//! quarantine.
//!
//! What is looked at is set apart in the ledger, so that nobody leases it meanwhile, and guarded, so that no other
//! agent does. A device that is not as it was, or fails its probe, goes into quarantine with the reason; there it is
//! looked at again, with growing pauses, and comes back by itself when it is clean and well. A crash in the middle
//! leaves the note in its lock file, and the next agent looks.

use std::{sync::Arc, time::Duration, time::SystemTime};

use rhubarb_core::{
    gpu::{GpuError, GpuReading, GpuState, HAND_OVER_MAX, HandOver, hand_over},
    time::Timestamp,
};
use tokio::time::Instant;

use super::{
    guard::Taken,
    pool::Inner,
    quarantine::{self, Quarantine, quarantine_of},
};

/// Between two looks at a device that is giving its memory back.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// The pause before a quarantined device is looked at again; doubled up to the next.
const AGAIN_PAUSE: Duration = Duration::from_secs(30);
const AGAIN_PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// A quarantine as the agent knows it.
pub(super) struct Confined {
    before: Option<GpuReading>,
    /// Every agent of the machine knows it, and may lift it.
    pub(super) on_file: bool,
    pub(super) again: Instant,
    pause: Duration,
}

impl Confined {
    fn new(before: Option<GpuReading>, on_file: bool) -> Self {
        Self { before, on_file, again: Instant::now() + AGAIN_PAUSE, pause: AGAIN_PAUSE }
    }
}

impl Inner {
    /// Looks at a device that is set apart and that this agent has not leased: takes the guard, finds out whether its
    /// last holder has left it clean, and probes it.
    pub(super) async fn first_look(self: Arc<Self>, uuid: String) {
        let Taken::Ours(guard, note) = self.guards.take(&uuid).await else {
            // Who has it looks after it.
            self.set_elsewhere(&uuid);
            self.state().ledger.release(&uuid);
            return self.note_change();
        };
        self.keep_guard(&uuid, guard);
        if self.hear_of_quarantine(&uuid) {
            self.give_up_guards(vec![uuid]);
            return self.note_change();
        }
        if let Some(note) = note {
            self.heed(&uuid, note);
            if let Some(reason) = self.until_clean(&uuid).await {
                return self.confine(&uuid, reason);
            }
        }
        match self.find_sickness(&uuid).await {
            Some(reason) => self.confine(&uuid, reason),
            None => self.free(&uuid),
        }
    }

    /// Looks at a device that was leased until it is as it was.
    pub(super) async fn look(self: Arc<Self>, uuid: String) {
        match self.until_clean(&uuid).await {
            Some(reason) => self.confine(&uuid, reason),
            None => self.free(&uuid),
        }
    }

    /// Looks at a quarantined device again.
    pub(super) async fn look_again(self: Arc<Self>, uuid: String) {
        let Taken::Ours(guard, _) = self.guards.take(&uuid).await else { return };
        self.keep_guard(&uuid, guard);
        if self.has_recovered(&uuid).await && self.lift(&uuid) {
            tracing::info!(gpu.uuid = %uuid, "GPU {uuid} is clean and well again: it is out of quarantine");
            return self.free(&uuid);
        }
        self.give_up_guards(vec![uuid]);
    }

    async fn has_recovered(&self, uuid: &str) -> bool {
        let Some(now) = self.read_one(uuid).await else { return false };
        let is_clean = {
            let mut state = self.state();
            let Some(device) = state.devices.get_mut(uuid) else { return false };
            let Some(confined) = &device.quarantine else { return false };
            let before = confined.before.as_ref().unwrap_or(&now);
            hand_over(before, Some(&now), Duration::ZERO) == HandOver::Clean
                && device.survivors.iter().all(|survivor| survivor.living().is_none())
        };
        is_clean && self.source.probe(uuid).await.is_ok()
    }

    /// Ends a quarantine, for every agent. One that another agent, or a person, has lifted meanwhile has ended too.
    fn lift(&self, uuid: &str) -> bool {
        let lifted = self.guards.folder().map_or(Ok(true), |folder| quarantine::lift(folder, uuid));
        if let Err(error) = &lifted {
            tracing::warn!(gpu.uuid = %uuid, error = %error, "GPU {uuid} is well again, and its quarantine cannot be lifted: {error}");
        }
        lifted.is_ok()
    }

    /// Waits, within a bound, until a device is as it was. Returns the reason if it is not.
    async fn until_clean(&self, uuid: &str) -> Option<String> {
        let began = Instant::now();
        loop {
            let now = self.read_one(uuid).await;
            let waited = began.elapsed();
            let (before, doomed, living) = {
                let mut state = self.state();
                let device = state.devices.get_mut(uuid)?;
                let living = device.survivors.iter().find_map(super::survivor::Survivor::living);
                (device.before.clone(), device.doomed.clone(), living)
            };
            if doomed.is_some() {
                return doomed;
            }
            let verdict = hand_over(&before.unwrap_or_default(), now.as_ref(), waited);
            match (verdict, living) {
                (HandOver::Quarantine(reason), _) => return Some(reason),
                (HandOver::Clean, None) => return None,
                (HandOver::Clean | HandOver::Wait, Some(pid)) if waited >= HAND_OVER_MAX => {
                    return Some(format!("process {pid}, which the last task started, lives on"));
                }
                (HandOver::Clean | HandOver::Wait, _) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// What is wrong with a device that nobody uses.
    async fn find_sickness(&self, uuid: &str) -> Option<String> {
        if let Some(device) = self.state().devices.get_mut(uuid) {
            device.probed = Some(Instant::now());
        }
        match self.source.probe(uuid).await {
            Ok(()) => {}
            Err(GpuError::Sick(reason)) => return Some(reason),
            Err(error) => tracing::warn!(gpu.uuid = %uuid, error = %error, "cannot probe GPU {uuid}: {error}"),
        }
        // For what a later lease must come back to, should the driver not answer then.
        self.read_one(uuid).await;
        self.state().devices.get(uuid).and_then(|device| device.doomed.clone())
    }

    async fn read_one(&self, uuid: &str) -> Option<GpuReading> {
        let all = self.source.read().await.ok()?;
        let reading = all.into_iter().find(|reading| reading.uuid == uuid)?;
        if let Some(device) = self.state().devices.get_mut(uuid)
            && let Some(reason) = device.read(reading.clone())
            && device.quarantine.is_none()
        {
            device.doomed.get_or_insert(reason);
        }
        Some(reading)
    }

    /// Lets a device go to the next task, here or of another agent.
    pub(super) fn free(self: &Arc<Self>, uuid: &str) {
        {
            let mut state = self.state();
            if let Some(device) = state.devices.get_mut(uuid) {
                device.before = None;
                device.quarantine = None;
                device.survivors.clear();
                if let Some(guard) = &mut device.guard {
                    guard.clear_note();
                }
            }
            state.ledger.release(uuid);
        }
        self.yield_if_wanted(uuid);
        self.give_up_guards(vec![uuid.to_owned()]);
        self.note_change();
    }

    /// Puts a device that nobody holds out of use, for every agent of the machine.
    pub(super) fn confine(self: &Arc<Self>, uuid: &str, reason: String) {
        tracing::error!(
            gpu.uuid = %uuid, gpu.reason = %reason,
            "GPU {uuid} is in quarantine: {reason}. It comes back by itself when it is clean and well, or by `rhubarb gpus release {uuid}`",
        );
        let before = self.state().devices.get_mut(uuid).and_then(|device| {
            device.doomed = None;
            device.before.take().or_else(|| device.reading.clone())
        });
        let since = Timestamp::from_system(SystemTime::now());
        let told = Quarantine { reason: reason.clone(), since, by: self.worker.clone(), before: before.clone() };
        let written = self.guards.folder().map(|folder| quarantine::quarantine(folder, uuid, &told));
        if let Some(Err(error)) = &written {
            tracing::warn!(gpu.uuid = %uuid, error = %error, "only this agent knows that GPU {uuid} is in quarantine: {error}");
        }
        {
            let mut state = self.state();
            state.ledger.quarantine(uuid, reason);
            if let Some(device) = state.devices.get_mut(uuid) {
                device.quarantine = Some(Confined::new(before, matches!(written, Some(Ok(())))));
                if let Some(guard) = &mut device.guard {
                    guard.clear_note();
                }
            }
        }
        self.give_up_guards(vec![uuid.to_owned()]);
        self.note_change();
    }

    /// Takes over what another agent, or an earlier one, found. Returns whether the device is in quarantine.
    pub(super) fn hear_of_quarantine(&self, uuid: &str) -> bool {
        let Some(told) = self.guards.folder().and_then(|folder| quarantine_of(folder, uuid)) else { return false };
        let mut state = self.state();
        if !matches!(state.ledger.state(uuid), Some(GpuState::Quarantined(_))) {
            tracing::warn!(gpu.uuid = %uuid, "GPU {uuid} is in quarantine: {}", told.reason);
            state.ledger.quarantine(uuid, told.reason);
            if let Some(device) = state.devices.get_mut(uuid) {
                device.quarantine = Some(Confined::new(told.before, true));
            }
        }
        true
    }

    /// Brings a device back whose quarantine somebody has lifted.
    pub(super) fn hear_of_release(self: &Arc<Self>, uuid: &str) {
        let is_lifted = self.guards.folder().is_some_and(|folder| quarantine_of(folder, uuid).is_none());
        let was_on_file =
            self.state().devices.get(uuid).is_some_and(|known| known.quarantine.as_ref().is_some_and(|it| it.on_file));
        if is_lifted && was_on_file {
            tracing::info!(gpu.uuid = %uuid, "GPU {uuid} was released from its quarantine");
            self.free(uuid);
        }
    }

    /// Whether a quarantined device is to be looked at now; the next time is then set.
    pub(super) fn is_due_again(&self, uuid: &str, now: Instant) -> bool {
        let mut state = self.state();
        let Some(confined) = state.devices.get_mut(uuid).and_then(|device| device.quarantine.as_mut()) else {
            return false;
        };
        let is_due = confined.again <= now;
        if is_due {
            confined.pause = (confined.pause * 2).min(AGAIN_PAUSE_MAX);
            confined.again = now + confined.pause;
        }
        is_due
    }
}
