//! The signals that end the server, and the state of its drain.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How far the server is in shutting down.
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

    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// The time for requests in flight is over.
    pub fn end(&self) {
        self.is_over.send_replace(true);
    }

    /// Resolves once [`Self::end`] has been called.
    pub async fn over(&self) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM, from an orchestrator that needs time to take the server out of its load balancer.
    Terminate,
    /// SIGINT, from a person at the terminal who should not have to wait.
    Interrupt,
}

#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals do not end the process by themselves.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub async fn next(&mut self) -> Cause {
        tokio::select! {
            _ = self.terminate.recv() => Cause::Terminate,
            _ = self.interrupt.recv() => Cause::Interrupt,
        }
    }
}
