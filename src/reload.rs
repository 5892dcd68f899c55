//! Reloading on SIGHUP.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};
use prometheus::IntGaugeVec;
use tokio::signal::unix::{SignalKind, signal};

/// Blocks SIGHUP until [`Hangups::listen`], even across a restart of the program by `exec`.
/// Otherwise the signal would end the process.
pub fn hold_hangups() -> io::Result<()> {
    Ok(hangup().thread_block()?)
}

fn hangup() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGHUP);
    signals
}

/// Listens for SIGHUP from the start of the process: a signal that arrives while the models load
/// takes effect when they are loaded.
#[derive(Debug, Clone)]
pub struct Hangups {
    heard: Arc<AtomicBool>,
}

impl Hangups {
    /// From now on SIGHUP does not end the process. Call it before any other thread starts.
    pub fn listen() -> io::Result<Self> {
        let heard = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&heard))?;
        hangup().thread_unblock()?;
        Ok(Self { heard })
    }

    /// Calls `reload` on every SIGHUP, including one that arrived before this call, on a thread
    /// where it may block. Logs the outcome and sets `successful` for `what`. Every part of the
    /// program that calls this function gets every signal.
    pub fn on_each<F, E>(&self, what: &'static str, successful: &IntGaugeVec, reload: F) -> io::Result<()>
    where
        F: Fn() -> Result<(), E> + Clone + Send + 'static,
        E: Display + Send + 'static,
    {
        let mut hangups = signal(SignalKind::hangup())?;
        // After the line above, so that no signal is missed in between.
        let mut due = self.heard.load(Ordering::Acquire);
        let successful = successful.with_label_values(&[what]);
        successful.set(1);
        tokio::spawn(async move {
            loop {
                if !due && hangups.recv().await.is_none() {
                    return;
                }
                due = false;
                let reloaded = tokio::task::spawn_blocking(reload.clone()).await;
                successful.set(i64::from(matches!(reloaded, Ok(Ok(())))));
                match reloaded {
                    Ok(Ok(())) => tracing::info!(what, "reloaded"),
                    Ok(Err(error)) => {
                        tracing::error!(what, %error, "reload failed: nothing changes");
                    }
                    Err(error) => tracing::error!(what, %error, "reload failed"),
                }
            }
        });
        Ok(())
    }
}
