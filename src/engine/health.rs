//! Whether a model's runs succeed.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

/// So many failed runs, one after the other, are no accident any more.
pub(super) const DEGRADED_AFTER: u32 = 3;

/// Counts the failed runs of all lanes of a model since the last that succeeded.
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

    /// A run failed, or a session could not be loaded again, and no input was at fault.
    pub(super) fn failed(&self, error: &dyn Display) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures == DEGRADED_AFTER {
            tracing::warn!(model = self.model, failures, %error, "the model is degraded: its runs fail one after the other");
        }
    }

    /// A run succeeded.
    pub(super) fn succeeded(&self) {
        // Nearly always zero, and a load costs less than a swap that all lanes fight for.
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
