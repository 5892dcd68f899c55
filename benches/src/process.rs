//! What `/proc` says about a process.

use std::time::Duration;

use procfs::process::{Process, Stat};

/// A process at one moment.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    /// Resident memory in bytes.
    pub resident: u64,
    /// Peak of the resident memory in bytes.
    pub peak: u64,
    pub threads: usize,
    /// User and system time.
    pub cpu: Duration,
}

impl Usage {
    /// `None` if the process has ended.
    pub fn of(process: u32) -> Option<Self> {
        let process = Process::new(process.cast_signed()).ok()?;
        let status = process.status().ok()?;
        Some(Self {
            resident: status.vmrss? * 1024,
            peak: status.vmhwm? * 1024,
            threads: status.threads as usize,
            cpu: cpu(&process.stat().ok()?),
        })
    }
}

/// Number of open file descriptors.
pub fn descriptors(process: u32) -> Option<usize> {
    Process::new(process.cast_signed()).ok()?.fd_count().ok()
}

/// User and system time.
pub fn cpu(stat: &Stat) -> Duration {
    let ticks = (stat.utime + stat.stime) as f64;
    Duration::from_secs_f64(ticks / procfs::ticks_per_second() as f64)
}

/// The process `root`, its process group, and all of their descendants.
pub fn family(root: u32) -> Vec<Stat> {
    let root = root.cast_signed();
    let mut others: Vec<Stat> = procfs::process::all_processes()
        .into_iter()
        .flatten()
        .filter_map(|process| process.ok()?.stat().ok())
        .collect();
    let mut family: Vec<Stat> = others
        .extract_if(.., |process| process.pid == root || process.pgrp == root)
        .collect();
    loop {
        let is_child = |process: &mut Stat| family.iter().any(|parent| parent.pid == process.ppid);
        let children: Vec<Stat> = others.extract_if(.., is_child).collect();
        if children.is_empty() {
            return family;
        }
        family.extend(children);
    }
}
