//! The figures of a comparison of servers, and the tables that show them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::table;
use crate::raw::Run;

/// Medians over the rounds of a comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// Command line of the measurement.
    pub command: String,
    pub rounds: usize,
    /// Seconds of each measurement.
    pub duration_s: f64,
    /// Seconds of load before each measurement.
    pub warmup_s: f64,
    pub machine: Machine,
    pub servers: Vec<ServerFigures>,
    pub raw: Vec<RawFigures>,
    pub starts: Vec<Start>,
    #[serde(default)]
    pub overloads: Vec<Overload>,
    pub goals: Vec<Goal>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// Day of the measurement.
    pub date: String,
}

/// A server under one load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerFigures {
    pub load: String,
    pub connections: usize,
    pub server: String,
    /// Responses with status 2xx per second.
    pub throughput: f64,
    pub throughput_to_floor: Option<f64>,
    pub p50_ms: f64,
    pub p50_to_floor: Option<f64>,
    pub p99_ms: f64,
    /// CPU time of the server per response, in microseconds.
    pub cpu_us: f64,
    pub cpu_to_floor: Option<f64>,
    /// Requests without a response of status 2xx, of all rounds.
    pub errors: u64,
}

/// ONNX Runtime without a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RawFigures {
    pub load: String,
    pub decode_us: f64,
    /// Inputs per second with a session per core, decoding included.
    pub all_cores: f64,
    pub runs: Vec<Run>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    pub load: String,
    pub server: String,
    /// From the start of the process to the first response.
    pub ready_ms: f64,
    /// Resident memory after the load; the largest of all rounds.
    pub resident_mb: f64,
}

/// classifyd under three times the load that it can take.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overload {
    pub load: String,
    /// Successful responses per second of a closed loop before.
    pub capacity: f64,
    /// Requests per second that were due.
    pub rate: f64,
    pub duration_s: f64,
    /// Successful responses per second.
    pub goodput: f64,
    /// The slowest successful response.
    pub slowest_ms: f64,
    /// Deadline of every request.
    pub deadline_ms: f64,
    /// Successful responses that came after the deadline.
    pub late: u64,
    /// Responses with status 503.
    pub refused: u64,
    /// From sending a request to its refusal.
    pub refusal_p99_ms: Option<f64>,
    /// Requests that the load generator could not send, because all its connections were busy. With
    /// many of them the load was smaller than it should have been.
    pub unsent: u64,
    /// All other responses and failures, as text.
    pub others: String,
    /// CPU time of the load generator divided by the time that was measured.
    pub client_cpu_load: f64,
    /// Throughput of a closed loop a second after the end, divided by that before.
    pub recovery: f64,
    /// The same for the median latency.
    pub recovery_p50: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Goal {
    pub what: String,
    /// Whether `limit` is a lower bound.
    pub at_least: bool,
    pub limit: f64,
    pub measured: f64,
    /// Decided before `measured` was rounded.
    pub reached: bool,
}

impl Comparison {
    /// Finds the figures of a server under a load.
    pub fn server(&self, load: &str, connections: usize, server: &str) -> Option<&ServerFigures> {
        self.servers
            .iter()
            .find(|row| row.load == load && row.connections == connections && row.server == server)
    }

    pub fn start(&self, load: &str, server: &str) -> Option<&Start> {
        self.starts
            .iter()
            .find(|start| start.load == load && start.server == server)
    }

    /// All tables, for docs/performance.md.
    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{}, {} cores, Linux {}, {}. `{}`: medians of {} rounds in which all servers take turns, {} s each \
             after {} s of warm-up. The load generator runs on the same cores, on one thread. Ratios are medians \
             of the ratios within a round.\n\n",
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.date,
            self.command,
            self.rounds,
            self.duration_s,
            self.warmup_s,
        );
        let mut loads: Vec<&str> = self.servers.iter().map(|row| row.load.as_str()).collect();
        loads.dedup();
        for load in loads {
            self.write_load(&mut text, load);
        }
        self.write_starts(&mut text);
        self.write_overloads(&mut text);
        self.write_goals(&mut text);
        text
    }

    fn write_load(&self, text: &mut String, load: &str) {
        let header = [
            "connections",
            "server",
            "responses/s",
            "to F1",
            "p50 ms",
            "to F1",
            "p99 ms",
            "CPU us per request",
            "to F1",
            "errors",
        ];
        let rows = self.servers.iter().filter(|row| row.load == load).map(|row| {
            vec![
                row.connections.to_string(),
                row.server.clone(),
                format!("{:.0}", row.throughput),
                optional(row.throughput_to_floor, 2),
                format!("{:.3}", row.p50_ms),
                optional(row.p50_to_floor, 2),
                format!("{:.3}", row.p99_ms),
                format!("{:.1}", row.cpu_us),
                optional(row.cpu_to_floor, 2),
                row.errors.to_string(),
            ]
        });
        let _ = writeln!(text, "### {load}\n\n{}", table(&header, 2..10, rows));
        if let Some(raw) = self.raw.iter().find(|raw| raw.load == load) {
            let _ = writeln!(text, "{}\n", raw.sentence());
        }
    }

    fn write_starts(&self, text: &mut String) {
        let header = [
            "load",
            "server",
            "start to ready, ms",
            "resident after the load, MB",
        ];
        let rows = self.starts.iter().map(|start| {
            vec![
                start.load.clone(),
                start.server.clone(),
                format!("{:.0}", start.ready_ms),
                format!("{:.0}", start.resident_mb),
            ]
        });
        let _ = writeln!(text, "### Start and memory\n\n{}", table(&header, 2..4, rows));
    }

    fn write_overloads(&self, text: &mut String) {
        if self.overloads.is_empty() {
            return;
        }
        let header = [
            "load",
            "capacity/s",
            "due/s",
            "successful/s",
            "of capacity",
            "slowest, ms",
            "deadline, ms",
            "late",
            "refused",
            "refusal p99, ms",
            "unsent",
            "others",
            "load generator, cores",
            "a second later: throughput, p50",
        ];
        let _ = writeln!(
            text,
            "### Overload\n\nclassifyd under an open loop at three times what a closed loop reaches. Latencies count \
             from when a request was sent.\n\n{}",
            table(&header, 1..14, self.overloads.iter().map(Overload::cells))
        );
    }

    fn write_goals(&self, text: &mut String) {
        if self.goals.is_empty() {
            return;
        }
        let rows = self.goals.iter().map(|goal| {
            let sign = if goal.at_least { "at least" } else { "at most" };
            vec![
                goal.what.clone(),
                format!("{sign} {}", goal.limit),
                format!("{:.2}", goal.measured),
                if goal.reached { "yes" } else { "no" }.to_owned(),
            ]
        });
        let header = ["what", "goal", "measured", "reached"];
        let _ = writeln!(text, "### Goals\n\n{}", table(&header, 1..3, rows));
    }
}

impl RawFigures {
    fn sentence(&self) -> String {
        let runs = self.runs.iter().map(|run| {
            let plural = if run.threads == 1 { "" } else { "s" };
            format!(
                "{:.1} us per input at batch {} on {} thread{plural}",
                run.item_us, run.batch, run.threads
            )
        });
        format!(
            "Without a server: decoding and resizing {:.1} us; a run {}; {:.0} inputs/s with a session per core, \
             decoding included.",
            self.decode_us,
            runs.collect::<Vec<_>>().join(", "),
            self.all_cores
        )
    }
}

impl Overload {
    fn cells(&self) -> Vec<String> {
        vec![
            self.load.clone(),
            format!("{:.0}", self.capacity),
            format!("{:.0}", self.rate),
            format!("{:.0}", self.goodput),
            format!("{:.2}", self.goodput / self.capacity),
            format!("{:.1}", self.slowest_ms),
            format!("{:.0}", self.deadline_ms),
            self.late.to_string(),
            self.refused.to_string(),
            optional(self.refusal_p99_ms, 2),
            self.unsent.to_string(),
            self.others.clone(),
            format!("{:.2}", self.client_cpu_load),
            format!("{:.2}, {:.2}", self.recovery, self.recovery_p50),
        ]
    }
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
