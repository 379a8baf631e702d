//! GPUs, as far as they can be decided without one: what a device is, what a queue asks for, who holds which, and
//! whether a device is fit for the next task.
//!
//! Everything here is pure. Where the readings come from (NVML, in a process of its own) and how the guards between
//! agents are held (file locks, rows in the store) is the agent's business. An agent that crashes takes its ledger with
//! it: the guards outlive it, and the kernel frees the locks.

mod ask;
mod device;
mod hand_over;
mod ledger;
pub mod mps;
mod of_task;
mod out_of_memory;
mod source;
mod visible;
mod waiting;
pub mod wire;

pub use self::{
    ask::GpuAsk,
    device::{GpuDevice, GpuProcess, GpuReading},
    hand_over::{HAND_OVER_MAX, HandOver, MEMORY_TOLERANCE, hand_over, sickness},
    ledger::{GpuLeaseId, GpuLedger, GpuState},
    of_task::too_many_gpus,
    out_of_memory::{out_of_memory, says_out_of_memory},
    source::{GpuError, GpuHold, GpuSource, GpuUsage, RanOn},
    visible::{Visible, visible},
    waiting::GpuWait,
};
