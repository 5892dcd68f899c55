//! Shows how far a load is, and reads the server's metrics and the CPU time of the load generator
//! at both ends of the measurement.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use load::{Arrivals, LoadSpec, Observer, Outcome, Step};

use super::scrape::Snapshot;

/// Longest wait for the server's metrics. They must not hold up a measurement.
const METRICS_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Progress<'a> {
    bar: ProgressBar,
    whole: Duration,
    address: SocketAddr,
    /// Request for the metrics.
    metrics: Bytes,
    model: Option<&'a str>,
    begin: Edge,
    end: Edge,
}

/// What is read at one end of the measurement.
#[derive(Debug, Default)]
struct Edge {
    cpu: Option<Duration>,
    metrics: Option<Snapshot>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(spec: &LoadSpec, metrics: Bytes, model: Option<&'a str>) -> Self {
        let whole = spec.warmup + spec.duration;
        let name = match spec.arrivals {
            Arrivals::Closed { connections } => format!("{connections} connections"),
            Arrivals::Open { rate, .. } => format!("{rate} requests per second"),
        };
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(whole.as_millis() as u64);
            if let Ok(style) = ProgressStyle::with_template("{prefix:24} {bar:30} {msg}") {
                bar.set_style(style);
            }
            bar.with_prefix(name)
        } else {
            eprintln!("{name}: {}", humantime::format_duration(whole));
            ProgressBar::hidden()
        };
        Self {
            bar,
            whole,
            address: spec.address,
            metrics,
            model,
            begin: Edge::default(),
            end: Edge::default(),
        }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Sums up the load, with what was read at both ends.
    pub(super) fn step(&self, arrivals: Arrivals, outcome: &Outcome) -> Step {
        let cpu = self.begin.cpu.zip(self.end.cpu);
        let cpu = cpu.map(|(before, after)| after.saturating_sub(before));
        let mut step = Step::new(arrivals, outcome, cpu);
        if let (Some(before), Some(after)) = (&self.begin.metrics, &self.end.metrics) {
            step.mean_batch_size = after.batch_size_since(before);
            step.mean_queue_us = after.queue_seconds_since(before).map(|seconds| seconds * 1e6);
        }
        step
    }

    fn read_edge(&self) -> Edge {
        Edge {
            cpu: load::own_cpu(),
            metrics: self.snapshot(),
        }
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let response = load::exchange(self.address, &self.metrics, METRICS_TIMEOUT).ok()?;
        let page = std::str::from_utf8(&response.body).ok()?;
        (response.status == 200).then(|| Snapshot::parse(page, self.model))
    }
}

impl Observer for Progress<'_> {
    fn begin(&mut self) {
        self.begin = self.read_edge();
    }

    fn tick(&mut self, elapsed: Duration, ended: u64) {
        self.bar.set_position(elapsed.min(self.whole).as_millis() as u64);
        let seconds = elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.bar
                .set_message(format!("{:.0} requests/s", ended as f64 / seconds));
        }
    }

    fn end(&mut self) {
        self.end = self.read_edge();
    }
}
