//! What is done again on SIGHUP.

use std::fmt::Display;
use std::io;

use prometheus::IntGaugeVec;
use tokio::signal::unix::{SignalKind, signal};

/// Calls `reload` on every SIGHUP, logs how it went and sets `successful` for `what`. Several parts may ask for it; each hears of every signal. It may
/// read files, so it has a thread on which it may block.
pub fn on_hangup<F, E>(what: &'static str, successful: &IntGaugeVec, reload: F) -> io::Result<()>
where
    F: Fn() -> Result<(), E> + Clone + Send + 'static,
    E: Display + Send + 'static,
{
    let mut hangups = signal(SignalKind::hangup())?;
    let successful = successful.with_label_values(&[what]);
    successful.set(1);
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
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
