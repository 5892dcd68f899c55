//! Ends a run from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::logging::LogLevel;
use ort::session::RunOptions;

use super::{OUTLIER_BYTES, RunError};
use crate::device::Provider;

/// Ends one run from another thread. After the run has ended, a call does nothing.
#[derive(Clone)]
pub struct Interrupt {
    options: Arc<RunOptions>,
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    /// The options of a run with `input_bytes` bytes of input.
    pub(super) fn new(input_bytes: usize, provider: Provider) -> Result<Self, RunError> {
        let failed = |error: ort::Error| RunError::Failed(error.to_string());
        let mut options = RunOptions::new().map_err(failed)?;
        match provider {
            Provider::Cpu if input_bytes >= OUTLIER_BYTES => options
                .set("memory.enable_memory_arena_shrinkage", "cpu:0")
                .map_err(failed)?,
            Provider::Cpu => {}
            // The session itself logs at a verbose level for `PlacementLog`. The arena keeps its
            // memory: on a GPU, full batches of this size are the rule.
            Provider::Cuda | Provider::Tensorrt => {
                options.set_log_level(LogLevel::Warning).map_err(failed)?
            }
        }
        Ok(Self {
            options: Arc::new(options),
            requested: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Makes the run end as soon as the current node of the graph has finished.
    pub fn interrupt(&self) {
        self.requested.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a run could not be interrupted");
        }
    }

    pub(super) fn options(&self) -> &RunOptions {
        &self.options
    }

    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}
