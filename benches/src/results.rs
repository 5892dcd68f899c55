//! The samples of a comparison, and the figures that are taken from them.

use serde::Serialize;

use crate::figures::comparison::{Comparison, Machine, Overload, RawFigures, ServerFigures, Start};
use crate::median;
use crate::raw::{Raw, Run};

mod goals;

/// All samples of one comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    pub machine: Machine,
    /// Command line.
    pub command: String,
    /// How often everything was measured.
    pub rounds: usize,
    /// Seconds of each measurement.
    pub duration_s: f64,
    /// Seconds of load before each measurement.
    pub warmup_s: f64,
    pub samples: Vec<Sample>,
    pub raw: Vec<RawSample>,
    pub overloads: Vec<Overload>,
}

/// One server under one load in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Counts from 0.
    pub round: usize,
    pub load: &'static str,
    /// Connections of the closed loop.
    pub connections: usize,
    pub server: String,
    /// Responses with status 2xx per second.
    pub throughput: f64,
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
    /// CPU time of the server per response, in microseconds.
    pub cpu_us: f64,
    /// Requests without a response of status 2xx.
    pub errors: u64,
    /// Resident memory after the load in bytes.
    pub resident: u64,
    /// Time from the start of the server to its first response, in milliseconds.
    pub ready_ms: f64,
}

/// ONNX Runtime under one load in one round.
#[derive(Debug, Clone, Serialize)]
pub struct RawSample {
    /// Counts from 0.
    pub round: usize,
    pub load: &'static str,
    pub raw: Raw,
}

type Field = fn(&Sample) -> f64;
const THROUGHPUT: Field = |sample| sample.throughput;
const P50: Field = |sample| sample.p50;
const P99: Field = |sample| sample.p99;
const CPU: Field = |sample| sample.cpu_us;

impl Results {
    /// Medians over the rounds, and medians of the ratios within the rounds, as precise as they are
    /// shown.
    pub fn figures(&self) -> Comparison {
        Comparison {
            command: self.command.clone(),
            rounds: self.rounds,
            duration_s: self.duration_s,
            warmup_s: self.warmup_s,
            machine: self.machine.clone(),
            servers: self.server_figures(),
            raw: self.raw_figures(),
            starts: self.starts(),
            overloads: self.overloads.iter().map(rounded).collect(),
            goals: self.goals(),
        }
    }

    fn server_figures(&self) -> Vec<ServerFigures> {
        let mut rows = distinct(&self.samples, |sample| {
            (sample.load, sample.connections, sample.server.as_str())
        });
        // Loads in the order of the first round, then most connections first.
        let loads = distinct(&self.samples, |sample| sample.load);
        rows.sort_by_key(|(load, connections, _)| {
            let at = loads.iter().position(|other| other == load);
            (at, std::cmp::Reverse(*connections))
        });
        let figures = |(load, connections, server): (&str, usize, &str)| {
            let of = |field| self.median(load, connections, server, field).unwrap_or(0.0);
            let ratio = |field| {
                self.ratio_to_floor(load, connections, server, field)
                    .map(|ratio| round(ratio, 2))
            };
            ServerFigures {
                load: load.to_owned(),
                connections,
                server: server.to_owned(),
                throughput: round(of(THROUGHPUT), 0),
                throughput_to_floor: ratio(THROUGHPUT),
                p50_ms: round(of(P50) / 1e3, 3),
                p50_to_floor: ratio(P50),
                p99_ms: round(of(P99) / 1e3, 3),
                cpu_us: round(of(CPU), 1),
                cpu_to_floor: ratio(CPU),
                errors: self
                    .of(load, connections, server)
                    .map(|sample| sample.errors)
                    .sum(),
            }
        };
        rows.into_iter().map(figures).collect()
    }

    fn raw_figures(&self) -> Vec<RawFigures> {
        let loads = distinct(&self.raw, |sample| sample.load);
        let figures = |load: &str| {
            let raw: Vec<&Raw> = self
                .raw
                .iter()
                .filter(|sample| sample.load == load)
                .map(|sample| &sample.raw)
                .collect();
            let median_of = |field: &dyn Fn(&Raw) -> f64| median(raw.iter().map(|raw| field(raw)));
            let runs = raw.first()?.runs.iter().enumerate().map(|(index, run)| Run {
                item_us: round(median_of(&|raw| raw.runs[index].item_us).unwrap_or(0.0), 1),
                ..*run
            });
            Some(RawFigures {
                load: load.to_owned(),
                decode_us: round(median_of(&|raw| raw.decode_us)?, 1),
                all_cores: round(median_of(&|raw| raw.all_cores)?, 0),
                runs: runs.collect(),
            })
        };
        loads.into_iter().filter_map(figures).collect()
    }

    fn starts(&self) -> Vec<Start> {
        let rows = distinct(&self.samples, |sample| (sample.load, sample.server.as_str()));
        let start = |(load, server): (&str, &str)| {
            let samples = || self.with(load, server);
            Some(Start {
                load: load.to_owned(),
                server: server.to_owned(),
                ready_ms: round(median(samples().map(|sample| sample.ready_ms))?, 0),
                resident_mb: round(samples().map(|sample| sample.resident).max()? as f64 / 1e6, 0),
            })
        };
        rows.into_iter().filter_map(start).collect()
    }

    fn with<'a>(&'a self, load: &'a str, server: &'a str) -> impl Iterator<Item = &'a Sample> + 'a {
        self.samples
            .iter()
            .filter(move |sample| sample.load == load && sample.server == server)
    }

    fn of<'a>(
        &'a self,
        load: &'a str,
        connections: usize,
        server: &'a str,
    ) -> impl Iterator<Item = &'a Sample> + 'a {
        self.with(load, server)
            .filter(move |sample| sample.connections == connections)
    }

    fn median(&self, load: &str, connections: usize, server: &str, field: Field) -> Option<f64> {
        median(self.of(load, connections, server).map(field))
    }

    /// Median of the ratios within the rounds: a disturbance of a round disturbs both sides of its
    /// ratio.
    fn ratio(
        &self,
        load: &str,
        connections: usize,
        server: &str,
        field: Field,
        base: impl Fn(usize) -> Option<f64>,
    ) -> Option<f64> {
        median(self.of(load, connections, server).filter_map(|sample| {
            let base = base(sample.round)?;
            (base > 0.0).then(|| field(sample) / base)
        }))
    }

    fn ratio_to_floor(&self, load: &str, connections: usize, server: &str, field: Field) -> Option<f64> {
        self.ratio(load, connections, server, field, |round| {
            let mut floor = self.of(load, connections, "floor1");
            floor.find(|sample| sample.round == round).map(field)
        })
    }

    fn ratio_to_raw(
        &self,
        load: &str,
        connections: usize,
        field: Field,
        raw: fn(&Raw) -> f64,
    ) -> Option<f64> {
        self.ratio(load, connections, "classifyd", field, |round| {
            let mut samples = self.raw.iter();
            let sample = samples.find(|sample| sample.load == load && sample.round == round)?;
            Some(raw(&sample.raw))
        })
    }
}

/// The different keys of the items, in the order in which they first come.
fn distinct<'a, T, K: PartialEq>(items: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<K> {
    let mut keys = Vec::new();
    for item in items {
        let key = key(item);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn rounded(overload: &Overload) -> Overload {
    Overload {
        capacity: round(overload.capacity, 0),
        rate: round(overload.rate, 0),
        goodput: round(overload.goodput, 0),
        slowest_ms: round(overload.slowest_ms, 1),
        refusal_p99_ms: overload.refusal_p99_ms.map(|value| round(value, 2)),
        client_cpu_load: round(overload.client_cpu_load, 2),
        recovery: round(overload.recovery, 2),
        recovery_p50: round(overload.recovery_p50, 2),
        ..overload.clone()
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: usize, server: &str, throughput: f64) -> Sample {
        Sample {
            round,
            load: "mlp",
            connections: 64,
            server: server.into(),
            throughput,
            p50: 1000.0,
            p99: 2000.0,
            cpu_us: 20.0,
            errors: 0,
            resident: 50_000_000,
            ready_ms: 100.0,
        }
    }

    fn page(samples: Vec<Sample>) -> String {
        let results = Results {
            machine: Machine {
                cpu: "CPU".into(),
                cores: 2,
                kernel: "6.0".into(),
                date: "2026-01-01".into(),
            },
            command: "compare".into(),
            rounds: 3,
            duration_s: 5.0,
            warmup_s: 1.0,
            samples,
            raw: Vec::new(),
            overloads: Vec::new(),
        };
        results.figures().markdown()
    }

    fn assert_contains(page: &str, line: &str) {
        assert!(page.contains(line), "expected {line:?} in:\n{page}");
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round was disturbed, for both servers alike.
        let page = page(vec![
            sample(0, "classifyd", 1200.0),
            sample(0, "floor1", 1000.0),
            sample(1, "classifyd", 130.0),
            sample(1, "floor1", 100.0),
            sample(2, "classifyd", 1400.0),
            sample(2, "floor1", 1000.0),
        ]);
        assert_contains(&page, "| 64 | classifyd | 1200 | 1.30 | 1.000 |");
        assert_contains(
            &page,
            "| mlp, 64 connections: throughput to F1 | at least 1.1 | 1.30 | yes |",
        );
        assert_contains(
            &page,
            "| mlp, 64 connections: CPU per request to F1 | at most 0.9 | 1.00 | no |",
        );
    }

    #[test]
    fn a_goal_is_measured_against_the_best_peer() {
        let page = page(vec![
            sample(0, "classifyd", 900.0),
            sample(0, "mosec", 300.0),
            sample(0, "fastapi", 100.0),
        ]);
        assert_contains(&page, "throughput to the best peer | at least 4 | 3.00 | no |");
        // Without F1 there is no ratio.
        assert_contains(&page, "| 64 | mosec | 300 | - |");
    }
}
