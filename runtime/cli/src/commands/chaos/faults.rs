//! What goes wrong with function processes, and how much has gone wrong in all.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fastrand::Rng;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::stage::Stage;
use crate::exit::Result;

/// The pause before something happens to a function.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(1500)];

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL to an agent.
    AgentKilled,
    /// SIGSTOP to an agent for longer than a lease, then SIGCONT.
    AgentStopped,
    /// SIGKILL to a function process.
    FunctionKilled,
    /// SIGSTOP to a function process, then SIGCONT.
    FunctionStopped,
    /// The emulator was out of reach.
    #[cfg_attr(not(feature = "aws"), expect(dead_code, reason = "only an emulator can be out of reach"))]
    Outage,
}

/// How often each thing has gone wrong.
#[derive(Debug, Default)]
pub(super) struct Disturbed {
    counts: [AtomicU64; 5],
    more: Notify,
}

/// The same, as it stands.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Counts {
    agents_killed: u64,
    agents_stopped: u64,
    functions_killed: u64,
    functions_stopped: u64,
    outages: u64,
}

impl Disturbed {
    pub(super) fn note(&self, fault: Fault) {
        self.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
        self.more.notify_waiters();
    }

    /// Waits until so many things have gone wrong in all.
    pub(super) async fn reach(&self, faults: u64) {
        loop {
            let more = self.more.notified();
            if self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>() >= faults {
                return;
            }
            more.await;
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let of = |fault: usize| self.counts[fault].load(Ordering::Relaxed);
        Counts {
            agents_killed: of(0),
            agents_stopped: of(1),
            functions_killed: of(2),
            functions_stopped: of(3),
            outages: of(4),
        }
    }
}

impl fmt::Display for Disturbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agents_killed, agents_stopped, functions_killed, functions_stopped, outages } = self;
        write!(
            f,
            "agents killed {agents_killed}, stopped {agents_stopped}; functions killed {functions_killed}, stopped {functions_stopped}"
        )?;
        if *outages > 0 { write!(f, "; outages {outages}") } else { Ok(()) }
    }
}

/// Kills and stops function processes at random, until all is calm.
pub(super) async fn disturb_functions(
    stage: &Stage,
    disturbed: &Disturbed,
    mut calm: watch::Receiver<bool>,
) -> Result<()> {
    let mut random = Rng::with_seed(!stage.seed);
    loop {
        let pause = between(&mut random, PAUSE);
        tokio::select! {
            _ = calm.wait_for(|calm| *calm) => return Ok(()),
            () = sleep(pause) => {}
        }
        let (chosen, kills) = (random.usize(..), random.u8(0..10) < 7);
        let lease = stage.lease();
        let stopped = between(&mut random, [lease / 2, lease * 2]);
        let living = stage.functions()?;
        let Some(pid) = living.get(chosen % living.len().max(1)) else { continue };
        if kills && send(stage, *pid, Signal::KILL) {
            disturbed.note(Fault::FunctionKilled);
        } else if send(stage, *pid, Signal::STOP) {
            sleep(stopped).await;
            // It may have been killed meanwhile.
            send(stage, *pid, Signal::CONT);
            disturbed.note(Fault::FunctionStopped);
        }
    }
}

/// Sends a signal to a function of this stage and to nobody who got its id after it. Returns whether it went out.
fn send(stage: &Stage, pid: Pid, signal: Signal) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    stage.is_ours(pid) && pidfd_send_signal(process, signal).is_ok()
}

/// A time between two.
pub(super) fn between(random: &mut Rng, [from, to]: [Duration; 2]) -> Duration {
    from + to.saturating_sub(from).mul_f64(random.f64())
}
