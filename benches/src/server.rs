//! A server under test: a process, and whatever it starts.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use load::exchange;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::process::{self, Usage};

/// Peers import frameworks before they listen.
const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(10);

/// How to start a server. Equal launches start the same server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Address that it listens on.
    pub address: SocketAddr,
}

/// The command line of `classifyd serve` with the models of a directory.
pub fn serve_command(program: &Path, models: &Path, listen: SocketAddr) -> Vec<String> {
    vec![
        program.display().to_string(),
        "serve".to_owned(),
        "--models".to_owned(),
        models.display().to_string(),
        "--listen".to_owned(),
        listen.to_string(),
    ]
}

/// A running server, ended when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Time from the start of the process to the first response with status 200.
    pub ready_after: Duration,
}

impl Server {
    /// Starts a server and waits until it responds to `probe` with status 200. Its output goes to
    /// `log`.
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
            // A process group of its own, so that its workers can be found and ended with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{program} could not be started"))?;
        let mut server = Self {
            child,
            ready_after: Duration::ZERO,
        };
        loop {
            let response = exchange(launch.address, probe, START);
            if response.is_ok_and(|response| response.status == 200) {
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
        process::family(self.id()).iter().map(process::cpu).sum()
    }

    /// Id of the process that was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process that was started is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory of all its processes in bytes. Pages that several of them share count
    /// several times.
    pub fn resident(&self) -> u64 {
        process::family(self.id())
            .iter()
            .filter_map(|process| Usage::of(process.pid.cast_unsigned()))
            .map(|usage| usage.resident)
            .sum()
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
