//! Resources that a run takes of the machine: time, processor, memory, context switches.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Usage, UsageWho, getrusage},
    time::TimeValLike as _,
};

/// Measures from when it is started.
pub(crate) struct Meter {
    started: Instant,
    before: Usage,
}

/// Resources that a run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) wall: Duration,
    /// Processor time of the whole process, user and system.
    pub(crate) cpu: Duration,
    /// Times that a thread gave the processor up or lost it.
    pub(crate) switches: u64,
    /// Most memory that was resident at once, in bytes.
    pub(crate) resident: u64,
}

impl Meter {
    pub(crate) fn start() -> io::Result<Self> {
        forget_peak();
        Ok(Self { started: Instant::now(), before: getrusage(UsageWho::RUSAGE_SELF)? })
    }

    pub(crate) fn stop(self) -> io::Result<Used> {
        let wall = self.started.elapsed();
        let after = getrusage(UsageWho::RUSAGE_SELF)?;
        let switches =
            |usage: &Usage| usage.voluntary_context_switches() + usage.involuntary_context_switches();
        Ok(Used {
            wall,
            cpu: cpu(&after).saturating_sub(cpu(&self.before)),
            switches: u64::try_from(switches(&after) - switches(&self.before)).unwrap_or_default(),
            resident: peak().unwrap_or_default(),
        })
    }
}

fn cpu(usage: &Usage) -> Duration {
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// Has the system count the peak of resident memory from now on. Where it cannot, the peak is that of all runs so far.
fn forget_peak() {
    let _not_here = fs::write("/proc/self/clear_refs", "5");
}

/// Returns the peak of resident memory in bytes, where the system tells.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
