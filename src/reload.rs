//! What is done again on SIGHUP.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};
use prometheus::IntGaugeVec;
use tokio::signal::unix::{SignalKind, signal};

/// Keeps SIGHUP waiting until [`Hangups::listen`], also over a new start of the program: its default is to end the process.
pub fn hold_hangups() -> io::Result<()> {
    Ok(hangup().thread_block()?)
}

fn hangup() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGHUP);
    signals
}

/// SIGHUP, heard from the first moment: one that comes while the models load is answered when they are loaded.
#[derive(Debug, Clone)]
pub struct Hangups {
    heard: Arc<AtomicBool>,
}

impl Hangups {
    /// From now on SIGHUP no longer ends the process. Call it before any other thread is started.
    pub fn listen() -> io::Result<Self> {
        let heard = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&heard))?;
        hangup().thread_unblock()?;
        Ok(Self { heard })
    }

    /// Calls `reload` on every SIGHUP, also on one that came before this call. Logs how it went and sets `successful` for `what`.
    /// Several parts may ask for it; each hears of every signal. It may read files, so it has a thread on which it may block.
    pub fn on_each<F, E>(&self, what: &'static str, successful: &IntGaugeVec, reload: F) -> io::Result<()>
    where
        F: Fn() -> Result<(), E> + Clone + Send + 'static,
        E: Display + Send + 'static,
    {
        let mut hangups = signal(SignalKind::hangup())?;
        // Read after the line above, so that no signal falls between the two.
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
                    Ok(Ok(())) => tracing::info!(what, "read again"),
                    Ok(Err(error)) => {
                        tracing::error!(what, %error, "could not be read again: all stays as it was");
                    }
                    Err(error) => tracing::error!(what, %error, "could not be read again"),
                }
            }
        });
        Ok(())
    }
}
