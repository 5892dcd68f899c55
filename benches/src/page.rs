//! The results, and the page that shows them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::median;
use crate::raw::Raw;
use crate::setting::{LOADS, PEERS};

/// All that one comparison measured.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// How often everything was measured.
    pub rounds: usize,
    /// Seconds of each measurement.
    pub duration_s: f64,
    /// Seconds of load before each measurement.
    pub warmup_s: f64,
    /// One server, one load, one round.
    pub samples: Vec<Sample>,
    /// ONNX Runtime alone.
    pub raw: Vec<RawSample>,
    /// More load than a server can take.
    pub overload: Vec<Overload>,
}

/// The machine that was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Name of the CPU.
    pub cpu: String,
    /// Cores that may be used.
    pub cores: usize,
    /// Kernel.
    pub kernel: String,
    /// Day of the measurement.
    pub date: String,
}

/// One server under one load in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Counts from 0.
    pub round: usize,
    /// Name of the load.
    pub load: &'static str,
    /// Connections of the closed loop.
    pub connections: usize,
    /// Name of the server.
    pub server: String,
    /// Answers of status 2xx per second.
    pub throughput: f64,
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
    /// CPU time of the server per answer, in microseconds.
    pub cpu_us: f64,
    /// Requests without an answer of status 2xx.
    pub errors: u64,
    /// Resident memory after the load in bytes.
    pub resident: u64,
    /// From the start of the server to its first answer, in milliseconds.
    pub ready_ms: f64,
}

/// ONNX Runtime under one load in one round.
#[derive(Debug, Clone, Serialize)]
pub struct RawSample {
    /// Counts from 0.
    pub round: usize,
    /// Name of the load.
    pub load: &'static str,
    /// What was measured.
    pub raw: Raw,
}

/// Three times the load that a server can take.
#[derive(Debug, Clone, Serialize)]
pub struct Overload {
    /// Name of the load.
    pub load: &'static str,
    /// Good answers per second in a closed loop before.
    pub capacity: f64,
    /// Requests per second that were due.
    pub rate: f64,
    /// Seconds.
    pub duration_s: f64,
    /// Good answers per second.
    pub goodput: f64,
    /// Good answers.
    pub good: u64,
    /// Of these, those that came later than the deadline after they were sent.
    pub late: u64,
    /// The slowest good answer, in milliseconds.
    pub slowest_ms: f64,
    /// Deadline of every request, in milliseconds.
    pub deadline_ms: f64,
    /// Answers with status 503.
    pub refused: u64,
    /// Milliseconds from sending to refusal.
    pub refusal_p99_ms: Option<f64>,
    /// Requests that the load generator could not send, for all its connections were busy. With many of them the load
    /// was not what it should have been.
    pub unsent: u64,
    /// All other answers and failures, in words.
    pub others: String,
    /// CPU time of the load generator by the length of the measurement.
    pub client_cpu_load: f64,
    /// Throughput of a closed loop, one second after the end, by that before.
    pub recovery: f64,
    /// The same for p50.
    pub recovery_p50: f64,
}

type Field = fn(&Sample) -> f64;
const THROUGHPUT: Field = |sample| sample.throughput;
const P50: Field = |sample| sample.p50;
const P99: Field = |sample| sample.p99;
const CPU: Field = |sample| sample.cpu_us;

impl Results {
    fn of<'a>(
        &'a self,
        load: &'a str,
        connections: usize,
        server: &'a str,
    ) -> impl Iterator<Item = &'a Sample> + 'a {
        self.samples.iter().filter(move |sample| {
            sample.load == load && sample.connections == connections && sample.server == server
        })
    }

    fn median(&self, load: &str, connections: usize, server: &str, field: Field) -> Option<f64> {
        median(self.of(load, connections, server).map(field))
    }

    /// Median of the ratios within the rounds: what disturbs a round disturbs both sides of it.
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

    /// The page's text.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{}, {} cores, Linux {}, {}. `{}`: medians of {} rounds in which all servers take turns, {} s each after \
             {} s of warm-up; the load generator runs on the same cores, on one thread. Ratios are medians of the \
             ratios within a round.\n",
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.date,
            self.command,
            self.rounds,
            self.duration_s,
            self.warmup_s,
        );
        for load in LOADS {
            self.write_load(&mut text, load);
        }
        self.write_start(&mut text);
        self.write_overload(&mut text);
        self.write_goals(&mut text);
        text
    }

    fn write_load(&self, text: &mut String, load: &str) {
        let mut rows: Vec<(usize, &str)> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.load == load) {
            let row = (sample.connections, sample.server.as_str());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        if rows.is_empty() {
            return;
        }
        // Most connections first, and then in the order of the first round.
        rows.sort_by_key(|row| std::cmp::Reverse(row.0));
        let _ = writeln!(text, "### {load}\n");
        let _ = writeln!(
            text,
            "| connections | server | answers/s | to F1 | p50 ms | to F1 | p99 ms | CPU us per request | to F1 | errors |"
        );
        let _ = writeln!(text, "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        for (connections, server) in rows {
            let of = |field| self.median(load, connections, server, field).unwrap_or(0.0);
            let ratio = |field| optional(self.ratio_to_floor(load, connections, server, field), 2);
            let errors: u64 = self
                .of(load, connections, server)
                .map(|sample| sample.errors)
                .sum();
            let _ = writeln!(
                text,
                "| {connections} | {server} | {:.0} | {} | {:.3} | {} | {:.3} | {:.1} | {} | {errors} |",
                of(THROUGHPUT),
                ratio(THROUGHPUT),
                of(P50) / 1e3,
                ratio(P50),
                of(P99) / 1e3,
                of(CPU),
                ratio(CPU),
            );
        }
        let raw: Vec<&Raw> = self
            .raw
            .iter()
            .filter(|sample| sample.load == load)
            .map(|sample| &sample.raw)
            .collect();
        if let Some(first) = raw.first() {
            let decode = median(raw.iter().map(|raw| raw.decode_us)).unwrap_or(0.0);
            let all = median(raw.iter().map(|raw| raw.all_cores)).unwrap_or(0.0);
            let _ = write!(
                text,
                "\nWithout a server: decoding and resizing {decode:.1} us; a run"
            );
            for (index, run) in first.runs.iter().enumerate() {
                let item = median(raw.iter().map(|raw| raw.runs[index].item_us)).unwrap_or(0.0);
                let _ = write!(
                    text,
                    "{} {item:.1} us per input at batch {} on {} thread{}",
                    if index == 0 { "" } else { "," },
                    run.batch,
                    run.threads,
                    if run.threads == 1 { "" } else { "s" },
                );
            }
            let _ = writeln!(
                text,
                "; {all:.0} inputs/s with a session per core, decoding counted."
            );
        }
        text.push('\n');
    }

    fn write_start(&self, text: &mut String) {
        let _ = writeln!(text, "### Start and memory\n");
        let _ = writeln!(
            text,
            "| load | server | start to ready, ms | resident after the load, MB |"
        );
        let _ = writeln!(text, "|---|---|--:|--:|");
        let mut rows: Vec<(&str, &str)> = Vec::new();
        for sample in &self.samples {
            let row = (sample.load, sample.server.as_str());
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        for (load, server) in rows {
            let _ = writeln!(
                text,
                "| {load} | {server} | {} | {} |",
                optional(self.start(load, server), 0),
                optional(self.memory(load, server), 0),
            );
        }
        text.push('\n');
    }

    fn any<'a>(&'a self, load: &'a str, server: &'a str) -> impl Iterator<Item = &'a Sample> + 'a {
        let of_load = move |sample: &&Sample| sample.load == load && sample.server == server;
        self.samples.iter().filter(of_load)
    }

    fn start(&self, load: &str, server: &str) -> Option<f64> {
        median(self.any(load, server).map(|sample| sample.ready_ms))
    }

    /// The most that any round saw.
    fn memory(&self, load: &str, server: &str) -> Option<f64> {
        let bytes = self.any(load, server).map(|sample| sample.resident).max()?;
        Some(bytes as f64 / 1e6)
    }

    fn write_overload(&self, text: &mut String) {
        if self.overload.is_empty() {
            return;
        }
        let _ = writeln!(text, "### Overload\n");
        let _ = writeln!(
            text,
            "classifyd, open loop at three times what a closed loop reaches; latencies from when a request was sent.\n"
        );
        let _ = writeln!(
            text,
            "| load | capacity/s | due/s | good/s | of capacity | slowest good, ms | deadline, ms | late | refused | refusal p99, ms | unsent | others | load generator, cores | a second later: throughput, p50 |"
        );
        let _ = writeln!(text, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|---|");
        for overload in &self.overload {
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.1} | {:.0} | {} | {} | {} | {} | {} | {:.2} | {:.2}, {:.2} |",
                overload.load,
                overload.capacity,
                overload.rate,
                overload.goodput,
                overload.goodput / overload.capacity,
                overload.slowest_ms,
                overload.deadline_ms,
                overload.late,
                overload.refused,
                optional(overload.refusal_p99_ms, 2),
                overload.unsent,
                overload.others,
                overload.client_cpu_load,
                overload.recovery,
                overload.recovery_p50,
            );
        }
        text.push('\n');
    }

    fn write_goals(&self, text: &mut String) {
        let goals = self.goals();
        if goals.is_empty() {
            return;
        }
        let _ = writeln!(text, "### Goals\n");
        let _ = writeln!(text, "| what | goal | measured | reached |\n|---|--:|--:|---|");
        for goal in goals {
            let (sign, reached) = if goal.at_least {
                ("at least", goal.measured >= goal.limit)
            } else {
                ("at most", goal.measured <= goal.limit)
            };
            let _ = writeln!(
                text,
                "| {} | {sign} {} | {:.2} | {} |",
                goal.what,
                goal.limit,
                goal.measured,
                if reached { "yes" } else { "no" }
            );
        }
        text.push('\n');
    }

    /// The goals for which something was measured.
    fn goals(&self) -> Vec<Goal> {
        let all = [
            self.goals_to_floor(),
            self.goals_to_raw(),
            self.goals_to_peers(),
            self.goals_alone(),
        ];
        all.into_iter().flatten().flatten().collect()
    }

    fn goals_to_floor(&self) -> Vec<Option<Goal>> {
        let to_floor = |load, connections, field| self.ratio_to_floor(load, connections, "classifyd", field);
        let mut goals = vec![
            at_least(
                "mlp, 64 connections: throughput to F1",
                1.1,
                to_floor("mlp", 64, THROUGHPUT),
            ),
            at_most(
                "mlp, 64 connections: CPU per request to F1",
                0.9,
                to_floor("mlp", 64, CPU),
            ),
            at_least(
                "mlp, 8 connections: throughput to F1",
                1.0,
                to_floor("mlp", 8, THROUGHPUT),
            ),
            at_most("mlp, 1 connection: p50 to F1", 1.2, to_floor("mlp", 1, P50)),
        ];
        goals.extend([64, 8, 1].map(|connections| {
            let what = format!("digits, {connections} connections: throughput to F1");
            at_least(what, 1.0, to_floor("digits", connections, THROUGHPUT))
        }));
        goals.push(at_most(
            "digits, 1 connection: p50 to F1",
            1.1,
            to_floor("digits", 1, P50),
        ));
        goals
    }

    fn goals_to_raw(&self) -> Vec<Option<Goal>> {
        let spread = self
            .of("resnet18", 16, "classifyd")
            .map(|sample| sample.p99 / sample.p50);
        vec![
            at_least(
                "resnet18, 16 connections: throughput to ONNX Runtime on all cores, decoding counted",
                0.95,
                self.ratio_to_raw("resnet18", 16, THROUGHPUT, |raw| raw.all_cores),
            ),
            at_most("resnet18, 16 connections: p99 to p50", 1.5, median(spread)),
            at_most(
                "resnet18, 1 connection: p50 to the fastest run and decoding",
                1.1,
                self.ratio_to_raw("resnet18", 1, P50, |raw| raw.fastest() + raw.decode_us),
            ),
        ]
    }

    fn goals_to_peers(&self) -> Vec<Option<Goal>> {
        let to_best = |load, connections, field, better| {
            let best = self.best_peer(load, connections, field, better)?;
            Some(self.median(load, connections, "classifyd", field)? / best)
        };
        let mut goals: Vec<_> = [("mlp", 64, 4.0), ("mlp", 8, 3.0), ("resnet18", 16, 1.1)]
            .map(|(load, connections, limit)| {
                let what = format!("{load}, {connections} connections: throughput to the best peer");
                at_least(what, limit, to_best(load, connections, THROUGHPUT, f64::max))
            })
            .into();
        let times_lower = to_best("mlp", 1, P50, f64::min).map(|ratio| 1.0 / ratio);
        goals.push(at_least(
            "mlp, 1 connection: p50 of the best peer to ours",
            3.0,
            times_lower,
        ));
        goals
    }

    fn goals_alone(&self) -> Vec<Option<Goal>> {
        let mut goals = vec![
            at_most(
                "digits: start to ready, ms",
                300.0,
                self.start("digits", "classifyd"),
            ),
            at_most(
                "digits: resident memory, MB",
                60.0,
                self.memory("digits", "classifyd"),
            ),
        ];
        // A load that could not be sent says nothing about the server.
        let sent =
            |overload: &&Overload| overload.unsent as f64 <= 0.01 * overload.rate * overload.duration_s;
        for overload in self.overload.iter().filter(sent) {
            let of = |what: &str| format!("{}, overload: {what}", overload.load);
            let part = overload.goodput / overload.capacity;
            goals.extend([
                at_least(of("good answers to capacity"), 0.9, Some(part)),
                at_most(of("p99 of a refusal, ms"), 10.0, overload.refusal_p99_ms),
                at_most(of("answers past their deadline"), 0.0, Some(overload.late as f64)),
            ]);
        }
        goals
    }

    fn best_peer(
        &self,
        load: &str,
        connections: usize,
        field: Field,
        better: fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let peers = PEERS.iter();
        peers
            .filter_map(|peer| self.median(load, connections, peer, field))
            .reduce(better)
    }
}

struct Goal {
    what: String,
    at_least: bool,
    limit: f64,
    measured: f64,
}

fn at_least(what: impl Into<String>, limit: f64, measured: Option<f64>) -> Option<Goal> {
    Some(Goal {
        what: what.into(),
        at_least: true,
        limit,
        measured: measured?,
    })
}

fn at_most(what: impl Into<String>, limit: f64, measured: Option<f64>) -> Option<Goal> {
    Some(Goal {
        at_least: false,
        ..at_least(what, limit, measured)?
    })
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Puts `text` between the markers of a section of a page, which is begun if it is not there.
pub fn write(page: &Path, section: &str, text: &str) -> Result<()> {
    let begin = format!("<!-- {section}: begin -->");
    let end = format!("<!-- {section}: end -->");
    let old = match fs::read_to_string(page) {
        Ok(old) => old,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("# Performance\n\n{begin}\n{end}\n")
        }
        Err(error) => return Err(error).with_context(|| page.display().to_string()),
    };
    let (before, rest) = old
        .split_once(&begin)
        .with_context(|| format!("{}: expected a line {begin}", page.display()))?;
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("{}: expected a line {end} below", page.display()))?;
    let new = format!("{before}{begin}\n{}\n{end}{after}", text.trim_end());
    fs::write(page, new).with_context(|| page.display().to_string())
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

    fn results(samples: Vec<Sample>) -> Results {
        Results {
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
            overload: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round was disturbed, for both alike.
        let results = results(vec![
            sample(0, "classifyd", 1200.0),
            sample(0, "floor1", 1000.0),
            sample(1, "classifyd", 130.0),
            sample(1, "floor1", 100.0),
            sample(2, "classifyd", 1400.0),
            sample(2, "floor1", 1000.0),
        ]);
        let ratio = results
            .ratio_to_floor("mlp", 64, "classifyd", THROUGHPUT)
            .unwrap();
        assert!((ratio - 1.3).abs() < 1e-9);
        let page = results.markdown();
        assert!(
            page.contains("| 64 | classifyd | 1200 | 1.30 | 1.000 |"),
            "{page}"
        );
        assert!(
            page.contains("| mlp, 64 connections: throughput to F1 | at least 1.1 | 1.30 | yes |"),
            "{page}"
        );
        assert!(
            page.contains("| mlp, 64 connections: CPU per request to F1 | at most 0.9 | 1.00 | no |"),
            "{page}"
        );
    }

    #[test]
    fn the_best_peer_counts() {
        let results = results(vec![
            sample(0, "classifyd", 900.0),
            sample(0, "mosec", 300.0),
            sample(0, "fastapi", 100.0),
        ]);
        let page = results.markdown();
        assert!(
            page.contains("throughput to the best peer | at least 4 | 3.00 | no |"),
            "{page}"
        );
        assert!(
            page.contains("| 64 | mosec | 300 | - |"),
            "without F1 there is no ratio: {page}"
        );
    }

    #[test]
    fn a_page_keeps_what_is_around_the_markers() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("performance.md");
        write(&page, "compare", "one").unwrap();
        let begun = fs::read_to_string(&page).unwrap();
        fs::write(&page, format!("{begun}\nbelow\n")).unwrap();
        write(&page, "compare", "two\n").unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert_eq!(
            text,
            "# Performance\n\n<!-- compare: begin -->\ntwo\n<!-- compare: end -->\n\nbelow\n"
        );
        fs::write(&page, "no markers").unwrap();
        assert!(write(&page, "compare", "x").is_err());
    }
}
