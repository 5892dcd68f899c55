//! What a run says in the end: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::run::{Arrivals, Outcome};
use crate::tally::Latencies;

/// Everything that `classifyd bench` measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where requests were sent.
    pub url: String,
    /// How many different inputs were sent in turn.
    pub inputs: usize,
    /// Seconds before each measurement that are not counted.
    pub warmup_s: f64,
    /// Seconds to wait for an answer.
    pub timeout_s: f64,
    /// Threads of the load generator.
    pub threads: usize,
    /// Ctrl-C ended the run early.
    pub interrupted: bool,
    /// One measurement after the other.
    pub steps: Vec<Step>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Connections of a closed loop; most connections of an open one.
    pub connections: usize,
    /// Requests per second of an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Seconds that were measured.
    pub duration_s: f64,
    /// Requests that were due within them.
    pub requests: u64,
    /// Answers of status 2xx per second.
    pub throughput: f64,
    /// Latency of the answers of status 2xx, from when the request was due.
    pub latency: Option<Percentiles>,
    /// By status of the answer.
    pub statuses: BTreeMap<u16, Answered>,
    /// Requests without an answer, by what happened: connect, timeout, closed, broken, malformed.
    pub failures: BTreeMap<&'static str, u64>,
    /// Requests of an open loop that were never sent, for every connection was busy.
    pub unsent: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Mean number of inputs in a batch, as the server's metrics say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_batch_size: Option<f64>,
    /// Mean time in the queue in microseconds, as the server's metrics say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_queue_us: Option<f64>,
    /// CPU time of the load generator per answer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cpu_us: Option<f64>,
    /// CPU time of the load generator in the window by the window's length: at 1 a thread is busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cpu_load: Option<f64>,
}

/// The answers with one status.
#[derive(Debug, Clone, Serialize)]
pub struct Answered {
    /// How many.
    pub count: u64,
    /// From when the request was due to its answer.
    pub latency: Option<Percentiles>,
    /// From when the request was sent to its answer, in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Percentiles>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Mean.
    pub mean: f64,
    /// Half of the requests took no longer.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Percentiles {
    /// None if nothing was recorded.
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
    /// Puts a measurement together. `cpu` is the CPU time that the load generator used in the window.
    ///
    /// What the server says about itself (`mean_batch_size`, `mean_queue_us`) is left for the caller to fill in.
    pub fn new(arrivals: Arrivals, outcome: &Outcome, cpu: Option<Duration>) -> Self {
        let (connections, rate) = match arrivals {
            Arrivals::Closed { connections } => (connections, None),
            Arrivals::Open {
                rate,
                max_connections,
            } => (max_connections, Some(rate)),
        };
        let tally = &outcome.tally;
        let seconds = outcome.measured.as_secs_f64();
        let per = |amount: f64, whole: f64| (whole > 0.0).then(|| amount / whole);
        let cpu = cpu.map(|cpu| cpu.as_secs_f64());
        Self {
            connections,
            rate,
            duration_s: seconds,
            requests: tally.requests(),
            throughput: per(tally.good_in_window as f64, seconds).unwrap_or(0.0),
            latency: Percentiles::of(&tally.good().latency),
            statuses: tally
                .statuses
                .iter()
                .map(|(&status, answers)| {
                    let answered = Answered {
                        count: answers.latency.count(),
                        latency: Percentiles::of(&answers.latency),
                        service: answers.service.as_ref().and_then(Percentiles::of),
                    };
                    (status, answered)
                })
                .collect(),
            failures: tally
                .failures
                .iter()
                .map(|(failure, &count)| (failure.name(), count))
                .collect(),
            unsent: tally.unsent,
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            mean_batch_size: None,
            mean_queue_us: None,
            client_cpu_us: cpu.and_then(|cpu| per(cpu * 1e6, tally.answers_in_window as f64)),
            client_cpu_load: cpu.and_then(|cpu| per(cpu, seconds)),
        }
    }

    /// Requests that ended otherwise than with status 2xx.
    pub fn errors(&self) -> u64 {
        self.requests - self.answered(|status| (200..300).contains(&status))
    }

    fn answered(&self, wanted: impl Fn(u16) -> bool) -> u64 {
        let wanted = self.statuses.iter().filter(|(status, _)| wanted(**status));
        wanted.map(|(_, answered)| answered.count).sum()
    }

    /// Errors by status and by what happened to the connection.
    fn describe_errors(&self) -> String {
        let statuses = self
            .statuses
            .iter()
            .filter(|(status, _)| !(200..300).contains(*status))
            .map(|(status, answered)| format!("{status}: {}", answered.count));
        let failures = self
            .failures
            .iter()
            .map(|(name, count)| format!("{name}: {count}"));
        let unsent = (self.unsent > 0).then(|| format!("unsent: {}", self.unsent));
        let all: Vec<String> = statuses.chain(failures).chain(unsent).collect();
        if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(", ")
        }
    }
}

impl Report {
    /// The table, and a line for each status other than 2xx that had to be waited for.
    pub fn table(&self) -> String {
        let metrics = self.steps.iter().any(|step| step.mean_batch_size.is_some());
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut header = vec![
            "load",
            "answers/s",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
            "errors",
            "sent",
            "received",
        ];
        if metrics {
            header.extend(["batch", "queue"]);
        }
        table.set_header(header);
        for step in &self.steps {
            let mut row = vec![
                step.rate.map_or_else(
                    || format!("{} conn", step.connections),
                    |rate| format!("{rate} req/s"),
                ),
                format!("{:.1}", step.throughput),
            ];
            row.extend(match step.latency {
                Some(latency) => {
                    [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(duration)
                }
                None => [const { String::new() }; 5].map(|_| "-".to_owned()),
            });
            row.push(step.describe_errors());
            row.extend([bytes(step.bytes_sent), bytes(step.bytes_received)]);
            if metrics {
                row.push(
                    step.mean_batch_size
                        .map_or("-".to_owned(), |size| format!("{size:.1}")),
                );
                row.push(step.mean_queue_us.map_or("-".to_owned(), duration));
            }
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        for step in &self.steps {
            text.extend(step.notes());
        }
        text
    }
}

impl Step {
    /// Lines below the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (status, answered) in &self.statuses {
            if let Some(latency) = answered.service.or(answered.latency)
                && !(200..300).contains(status)
            {
                notes.push(format!(
                    "answers with status {status} took {} (p50), {} (p99), {} at most\n",
                    duration(latency.p50),
                    duration(latency.p99),
                    duration(latency.max)
                ));
            }
        }
        notes
    }
}

/// Microseconds, in the unit that reads best.
fn duration(microseconds: f64) -> String {
    match microseconds {
        value if value < 1e3 => format!("{value:.0} us"),
        value if value < 1e6 => format!("{:.2} ms", value / 1e3),
        value => format!("{:.2} s", value / 1e6),
    }
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Ended, Failure, Tally, Window};
    use std::time::Instant;

    fn step() -> Step {
        let start = Instant::now();
        let window = Window {
            start,
            end: start + Duration::from_secs(2),
        };
        let mut tally = Tally::default();
        let mut record = |microseconds: u64, outcome| {
            let ended = Ended {
                due: start,
                sent: start,
                end: start + Duration::from_micros(microseconds),
                bytes: 300,
                outcome,
            };
            tally.record(&ended, &window, false);
        };
        let answer = |status| {
            Ok(crate::response::Response {
                status,
                bytes: 200,
                reusable: true,
                body: bytes::Bytes::new(),
            })
        };
        for latency in 1..=1000 {
            record(latency, answer(200));
        }
        record(3000, answer(503));
        record(4000, Err(Failure::Closed));
        let outcome = Outcome {
            tally,
            measured: Duration::from_secs(2),
            interrupted: false,
        };
        let cpu = Some(Duration::from_millis(10));
        let mut step = Step::new(Arrivals::Closed { connections: 8 }, &outcome, cpu);
        step.mean_batch_size = Some(4.0);
        step
    }

    fn report() -> Report {
        Report {
            url: "http://h/v1/classify".into(),
            inputs: 1,
            warmup_s: 1.0,
            timeout_s: 30.0,
            threads: 1,
            interrupted: false,
            steps: vec![step()],
        }
    }

    #[test]
    fn a_step_adds_up() {
        let step = step();
        assert_eq!((step.requests, step.errors()), (1002, 2));
        assert!((step.throughput - 500.0).abs() < 1e-9);
        let latency = step.latency.unwrap();
        assert!(
            (latency.p50 - 500.0).abs() < 1.0 && (latency.p999 - 999.0).abs() < 2.0,
            "{latency:?}"
        );
        assert!((step.client_cpu_us.unwrap() - 10_000.0 / 1001.0).abs() < 1e-9);
    }

    #[test]
    fn the_table_has_a_row_for_each_step() {
        let table = report().table();
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(lines[0][..3], ["load", "answers/s", "p50"]);
        assert_eq!(lines[1][..3], ["8 conn", "500.0", "500 us"]);
        assert!(table.contains("503: 1, closed: 1"), "{table}");
        assert!(table.contains("status 503 took 3.00 ms (p50)"), "{table}");
    }

    #[test]
    fn json_names_the_percentiles() {
        let json = serde_json::to_value(report()).unwrap();
        let step = &json["steps"][0];
        assert!(step["latency"]["p99.9"].as_f64().unwrap() > 990.0, "{json}");
        assert_eq!(step["statuses"]["503"]["count"], 1);
        assert_eq!(step["failures"]["closed"], 1);
        assert!(step.get("rate").is_none() && step.get("mean_queue_us").is_none());
    }

    #[test]
    fn durations_in_the_unit_that_reads_best() {
        assert_eq!(duration(80.4), "80 us");
        assert_eq!(duration(1234.0), "1.23 ms");
        assert_eq!(duration(2_500_000.0), "2.50 s");
    }
}
