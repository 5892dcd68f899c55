//! Detects models whose runs keep failing.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

/// Consecutive failures after which the model is reported as degraded.
pub(super) const DEGRADED_AFTER: u32 = 3;

/// Counts the failed runs of a model, over all its lanes, since the last successful one.
#[derive(Debug)]
pub(super) struct Health {
    model: String,
    failures: AtomicU32,
}

impl Health {
    pub(super) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            failures: AtomicU32::new(0),
        }
    }

    /// A run failed, or a session could not be loaded again. Not for errors that an input caused.
    pub(super) fn failed(&self, error: &dyn Display) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures == DEGRADED_AFTER {
            tracing::warn!(model = self.model, failures, %error, "the model is degraded: its runs keep failing");
        }
    }

    pub(super) fn succeeded(&self) {
        // Nearly always zero, and a load is cheaper than a swap on a cache line that all lanes
        // share.
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.failures.swap(0, Ordering::Relaxed) >= DEGRADED_AFTER {
            tracing::info!(
                model = self.model,
                "the model is no longer degraded: a run succeeded"
            );
        }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= DEGRADED_AFTER
    }
}
