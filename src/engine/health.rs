//! Whether a model's runs succeed.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::metrics::ModelMetrics;

/// So many failed runs, one after the other, are no accident any more.
pub(super) const DEGRADED_AFTER: u32 = 3;

/// Counts the failed runs of all lanes of a model since the last that succeeded.
#[derive(Debug)]
pub(super) struct Health {
    failures: AtomicU32,
    metrics: ModelMetrics,
}

impl Health {
    pub(super) fn new(metrics: &ModelMetrics) -> Self {
        metrics.degraded.set(0);
        Self {
            failures: AtomicU32::new(0),
            metrics: metrics.clone(),
        }
    }

    /// A run failed, or a session could not be loaded again, and no input was at fault.
    pub(super) fn failed(&self, error: &dyn Display) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures == DEGRADED_AFTER {
            self.metrics.degraded.set(1);
            tracing::warn!(model = self.metrics.model, failures, %error, "the model is degraded: its runs fail one after the other");
        }
    }

    /// A run succeeded.
    pub(super) fn succeeded(&self) {
        // Nearly always zero, and a load costs less than a swap that all lanes fight for.
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.failures.swap(0, Ordering::Relaxed) >= DEGRADED_AFTER {
            self.metrics.degraded.set(0);
            tracing::info!(
                model = self.metrics.model,
                "the model is no longer degraded: a run succeeded"
            );
        }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= DEGRADED_AFTER
    }
}
