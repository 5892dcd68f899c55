//! A server under test: a process, and whatever it starts.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use load::exchange;
use rustix::process::{Pid, Signal, kill_process_group};

/// Peers import frameworks before they listen.
const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(10);

/// How to start a server. Two equal launches start the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Address that it will listen on.
    pub address: SocketAddr,
}

/// A running server, ended when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// From its start to the first good answer.
    pub ready_after: Duration,
}

impl Server {
    /// Starts a server and waits until it answers `probe` with status 200. What it prints goes to `log`.
    pub fn start(launch: &Launch, probe: &[u8], log: &Path) -> Result<Self> {
        let [program, arguments @ ..] = launch.command.as_slice() else {
            bail!("expected a command, found none");
        };
        if exchange(launch.address, probe, Duration::from_secs(1)).is_ok() {
            bail!("something else listens on {}", launch.address);
        }
        let output = File::create(log).with_context(|| log.display().to_string())?;
        let begin = Instant::now();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A group of its own, so that its workers can be found and ended with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{program} could not be started"))?;
        let mut server = Self {
            child,
            ready_after: Duration::ZERO,
        };
        loop {
            let answer = exchange(launch.address, probe, START);
            if answer.is_ok_and(|answer| answer.status == 200) {
                server.ready_after = begin.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("{program} ended with {status}, see {}", log.display());
            }
            if begin.elapsed() > START {
                bail!("{program} was not ready after {START:?}, see {}", log.display());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// User and system time of all its processes.
    pub fn cpu(&self) -> Duration {
        self.processes()
            .iter()
            .filter_map(|process| load::cpu(&process.stat))
            .sum()
    }

    /// The process that was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process that was started has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory of all its processes in bytes. Pages that several of them share count several times.
    pub fn resident(&self) -> u64 {
        let kibibytes = |id: u32| -> Option<u64> {
            let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let processes = self.processes();
        processes
            .iter()
            .filter_map(|process| kibibytes(process.id))
            .map(|amount| amount * 1024)
            .sum()
    }

    /// The process that was started, its group, and all that descend from it.
    fn processes(&self) -> Vec<Process> {
        let root = self.child.id();
        let all: HashMap<u32, Process> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| Process::read(entry.ok()?.file_name().to_str()?.parse().ok()?))
            .map(|process| (process.id, process))
            .collect();
        let mut ours: HashSet<u32> = all
            .values()
            .filter(|process| process.id == root || process.group == root)
            .map(|process| process.id)
            .collect();
        loop {
            let children: Vec<u32> = all
                .values()
                .filter(|process| ours.contains(&process.parent) && !ours.contains(&process.id))
                .map(|process| process.id)
                .collect();
            if children.is_empty() {
                break;
            }
            ours.extend(children);
        }
        all.into_values()
            .filter(|process| ours.contains(&process.id))
            .collect()
    }

    fn stop(&mut self) {
        let Some(group) = Pid::from_raw(self.child.id().cast_signed()) else {
            return;
        };
        let _ = kill_process_group(group, Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < STOP && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        // Workers may outlive the process that started them.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Process {
    id: u32,
    parent: u32,
    group: u32,
    stat: String,
}

impl Process {
    fn read(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some(Self {
            id,
            parent,
            group,
            stat,
        })
    }
}
