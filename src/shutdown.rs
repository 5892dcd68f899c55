//! Signals, and the state of draining.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Whether the server is on its way out.
#[derive(Debug, Default)]
pub struct Draining {
    started: AtomicBool,
    is_over: watch::Sender<bool>,
}

impl Draining {
    /// From now on the server is not ready for new traffic.
    pub fn start(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether [`Self::start`] was called.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Requests that are still in flight have had their time.
    pub fn end(&self) {
        self.is_over.send_replace(true);
    }

    /// Resolves when [`Self::end`] is called.
    pub async fn over(&self) {
        // The sender lives as long as this.
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
    }
}

/// Who asked the server to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM: an orchestrator, which needs time to take the server out of its load balancer.
    Terminate,
    /// SIGINT: a person at the terminal, who should not wait.
    Interrupt,
}

/// The signals that end the server.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Cause {
        tokio::select! {
            _ = self.terminate.recv() => Cause::Terminate,
            _ = self.interrupt.recv() => Cause::Interrupt,
        }
    }
}
