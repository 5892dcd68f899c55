//! The results of one or more loads, as JSON for programs and a table for people.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::run::Outcome;
use crate::spec::Arrivals;
use crate::tally::Latencies;

mod table;
#[cfg(test)]
mod tests;

/// The results of loads that were run one after the other. Serializes to JSON;
/// [`table`](Self::table) renders it for people.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// URL of the requests.
    pub url: String,
    /// Number of different inputs that were sent in turn.
    pub inputs: usize,
    /// Length of each warm-up in seconds.
    pub warmup_s: f64,
    /// Longest wait for a response in seconds.
    pub timeout_s: f64,
    /// Threads of the load generator.
    pub threads: usize,
    /// Whether Ctrl-C ended the last load early.
    pub interrupted: bool,
    /// The loads.
    pub steps: Vec<Step>,
}

/// The results of one load.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Connections of a closed loop; the largest number of connections of an open one.
    pub connections: usize,
    /// Requests per second of an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Seconds that were measured.
    pub duration_s: f64,
    /// Requests that were due while it was measured.
    pub requests: u64,
    /// Responses with status 2xx per second.
    pub throughput: f64,
    /// Latency of the responses with status 2xx, from the time the request was due.
    pub latency: Option<Percentiles>,
    /// Responses by status.
    pub statuses: BTreeMap<u16, StatusReport>,
    /// Requests without a response, by [`Failure::name`](crate::Failure::name).
    pub failures: BTreeMap<&'static str, u64>,
    /// Requests of an open loop that were never sent, because every connection was busy.
    pub unsent: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Mean number of inputs in a batch, if the server batches and tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_batch_size: Option<f64>,
    /// Mean time in the server's queue in microseconds, if the server tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_queue_us: Option<f64>,
    /// CPU time of the load generator per response in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cpu_us: Option<f64>,
    /// CPU time of the load generator divided by the time that was measured. At 1 a thread is fully
    /// busy, and the load generator may be what limits the throughput.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cpu_load: Option<f64>,
}

/// The responses with one status.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// Number of responses.
    pub count: u64,
    /// From the time the request was due to its response.
    pub latency: Option<Percentiles>,
    /// From the time the request was sent to its response, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Percentiles>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// Maximum.
    pub max: f64,
}

impl Percentiles {
    /// The percentiles of a histogram, or `None` if it is empty.
    pub fn of(latencies: &Latencies) -> Option<Self> {
        (latencies.count() > 0).then(|| Self {
            mean: latencies.mean(),
            p50: latencies.percentile(50.0),
            p90: latencies.percentile(90.0),
            p99: latencies.percentile(99.0),
            p999: latencies.percentile(99.9),
            max: latencies.max(),
        })
    }
}

impl Step {
    /// Sums up a load. `cpu` is the CPU time that the load generator used while it was measured:
    /// the difference of [`own_cpu`](crate::own_cpu) between
    /// [`Observer::begin`](crate::Observer::begin) and [`Observer::end`](crate::Observer::end).
    ///
    /// `mean_batch_size` and `mean_queue_us` are `None`; a caller that reads them from the server
    /// fills them in.
    pub fn new(arrivals: Arrivals, outcome: &Outcome, cpu: Option<Duration>) -> Self {
        let rate = match arrivals {
            Arrivals::Closed { .. } => None,
            Arrivals::Open { rate, .. } => Some(rate),
        };
        let tally = &outcome.tally;
        let seconds = outcome.measured.as_secs_f64();
        let per = |amount: f64, whole: f64| (whole > 0.0).then(|| amount / whole);
        let cpu = cpu.map(|cpu| cpu.as_secs_f64());
        let statuses = tally.statuses.iter().map(|(&status, responses)| {
            let report = StatusReport {
                count: responses.latency.count(),
                latency: Percentiles::of(&responses.latency),
                service: responses.service.as_ref().and_then(Percentiles::of),
            };
            (status, report)
        });
        let failures = tally.failures.iter();
        Self {
            connections: arrivals.max_connections(),
            rate,
            duration_s: seconds,
            requests: tally.requests(),
            throughput: per(tally.good_in_window as f64, seconds).unwrap_or(0.0),
            latency: Percentiles::of(&tally.good().latency),
            statuses: statuses.collect(),
            failures: failures
                .map(|(failure, &count)| (failure.name(), count))
                .collect(),
            unsent: tally.unsent,
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            mean_batch_size: None,
            mean_queue_us: None,
            client_cpu_us: cpu.and_then(|cpu| per(cpu * 1e6, tally.responses_in_window as f64)),
            client_cpu_load: cpu.and_then(|cpu| per(cpu, seconds)),
        }
    }

    /// Number of requests that did not get a response with status 2xx.
    pub fn errors(&self) -> u64 {
        let good = self
            .statuses
            .range(200..300)
            .map(|(_, responses)| responses.count);
        self.requests - good.sum::<u64>()
    }
}
