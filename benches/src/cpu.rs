use std::time::Duration;

use load::Observer;

/// Measures the CPU time of a process, or of several, while a load is measured.
pub struct CpuMeter<F> {
    read: F,
    begin: Duration,
    end: Duration,
}

impl<F: Fn() -> Duration> CpuMeter<F> {
    /// `read` returns the CPU time used so far.
    pub fn new(read: F) -> Self {
        Self {
            read,
            begin: Duration::ZERO,
            end: Duration::ZERO,
        }
    }

    pub fn used(&self) -> Duration {
        self.end.saturating_sub(self.begin)
    }
}

impl<F: Fn() -> Duration> Observer for CpuMeter<F> {
    fn begin(&mut self) {
        self.begin = (self.read)();
    }

    fn end(&mut self) {
        self.end = (self.read)();
    }
}
