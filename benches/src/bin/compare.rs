//! Runs classifyd, the floors and the peers under the same loads on this machine, and shows medians
//! and ratios.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::figures::Figures;
use benches::figures::comparison::{Machine, Overload};
use benches::results::{RawSample, Results, Sample};
use benches::server::{Launch, Server};
use benches::setting::{LOADS, Load, PEERS, Subject};
use benches::{CpuMeter, classify_target, raw};
use bytes::Bytes;
use clap::Parser;
use load::{Arrivals, LoadSpec, Observer, Outcome, exchange, read_files};

const SERVERS: [&str; 3] = ["classifyd", "floor0", "floor1"];
const TIMEOUT: Duration = Duration::from_secs(30);
/// Deadline of each request in the overload part.
const DEADLINE: Duration = Duration::from_secs(1);

/// Compares classifyd with the floors and the peers on this machine.
#[derive(Parser)]
struct Args {
    /// Loads to run.
    #[arg(long, value_delimiter = ',', default_values = LOADS)]
    loads: Vec<String>,
    /// Servers of this repository.
    #[arg(long, value_delimiter = ',', default_values = SERVERS)]
    servers: Vec<String>,
    /// Peers: mosec, fastapi, litserve, bentoml, mlserver, or all.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds of load before each measurement.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// Loads to run at three times classifyd's capacity, or `none`.
    #[arg(long, value_delimiter = ',', default_value = "digits,resnet18")]
    overload: Vec<String>,
    /// Seconds of each overload.
    #[arg(long, default_value_t = 30.0)]
    overload_duration: f64,
    /// Most connections of an overload. With fewer than a server queues, its queue never fills.
    #[arg(long, default_value_t = 2048)]
    overload_connections: usize,
    /// First port to use.
    #[arg(long, default_value_t = 8200)]
    port: u16,
    /// Directory with the programs. Default: the one that this program is in.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Keeps the figures in benches/figures, as `compare` or, with peers, as `peers`, and updates
    /// the pages that show them.
    #[arg(long)]
    write: bool,
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    let repository = repository()?;
    let programs = match &args.programs {
        Some(programs) => programs.clone(),
        None => own_directory()?,
    };
    let results_directory = repository.join("benches/results");
    let work = results_directory.join("models");
    fs::create_dir_all(&work).with_context(|| work.display().to_string())?;

    let loads = args
        .loads
        .iter()
        .map(|name| Load::find(name, &repository, &work))
        .collect::<Result<Vec<_>>>()?;
    let subjects = subjects(&args, &repository, &programs)?;
    for subject in subjects.iter().filter(|subject| subject.is_peer()) {
        set_up(subject)?;
    }
    let bench = Bench {
        args: &args,
        cores: thread::available_parallelism()?.get(),
        logs: results_directory.clone(),
    };
    let mut results = Results {
        machine: machine(bench.cores)?,
        command: std::iter::once("compare".to_owned())
            .chain(std::env::args().skip(1))
            .collect::<Vec<_>>()
            .join(" "),
        rounds: args.rounds,
        duration_s: args.duration,
        warmup_s: args.warmup,
        samples: Vec::new(),
        raw: Vec::new(),
        overloads: Vec::new(),
    };
    for load in &loads {
        bench.run_load(load, &subjects, &mut results)?;
    }
    if let Some(classifyd) = subjects.iter().find(|subject| subject.name == "classifyd") {
        for load in loads
            .iter()
            .filter(|load| args.overload.iter().any(|name| name == load.name))
        {
            results.overloads.push(bench.overload(load, classifyd)?);
        }
    }
    let file = results_directory.join("latest.json");
    fs::write(&file, serde_json::to_string_pretty(&results)?).with_context(|| file.display().to_string())?;
    let figures = results.figures();
    println!("{}", figures.markdown());
    if args.write {
        let name = if args.peers.is_empty() { "compare" } else { "peers" };
        figures.write(&repository, name)?;
    }
    Ok(())
}

/// The directory above that holds this package, so that `compare` runs anywhere in the repository.
fn repository() -> Result<PathBuf> {
    let current = std::env::current_dir()?;
    current
        .ancestors()
        .find(|directory| directory.join("benches/make_models.py").is_file())
        .map(Path::to_path_buf)
        .context("compare must be started within the repository")
}

fn own_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = program.parent().context("this program is in no directory")?;
    Ok(directory.to_path_buf())
}

fn subjects(args: &Args, repository: &Path, programs: &Path) -> Result<Vec<Subject>> {
    let all_peers = args.peers.iter().any(|peer| peer == "all");
    let peers: Vec<String> = if all_peers {
        PEERS.map(str::to_owned).to_vec()
    } else {
        args.peers.clone()
    };
    for name in &args.servers {
        ensure!(SERVERS.contains(&name.as_str()), "no server {name:?}");
        let program = programs.join(name);
        ensure!(
            program.is_file(),
            "{} is not there: build it first",
            program.display()
        );
    }
    for name in &peers {
        ensure!(PEERS.contains(&name.as_str()), "no peer {name:?}");
    }
    let names = args.servers.iter().chain(&peers).enumerate();
    Ok(names
        .map(|(index, name)| Subject {
            name: name.clone(),
            programs: programs.to_path_buf(),
            repository: repository.to_path_buf(),
            port: args.port + index as u16,
        })
        .collect())
}

/// Installs a peer before anything is measured.
fn set_up(subject: &Subject) -> Result<()> {
    let status = std::process::Command::new(subject.repository.join("benches/peers/run.sh"))
        .args(["--setup", &subject.name])
        .status()?;
    ensure!(status.success(), "{} could not be set up", subject.name);
    Ok(())
}

struct Bench<'a> {
    args: &'a Args,
    cores: usize,
    logs: PathBuf,
}

/// A server, and how it was started.
struct Running {
    server: Server,
    launch: Launch,
}

impl Bench<'_> {
    fn run_load(&self, load: &Load, subjects: &[Subject], results: &mut Results) -> Result<()> {
        let input = fs::read(&load.input).with_context(|| load.input.display().to_string())?;
        let expected = raw::label(&load.model, &input)?;
        for round in 0..self.args.rounds {
            eprintln!("{}: round {} of {}", load.name, round + 1, self.args.rounds);
            let raw = raw::measure(&load.model, &input, self.cores, Duration::from_secs(1))?;
            results.raw.push(RawSample {
                round,
                load: load.name,
                raw,
            });
            // Each round begins with another server, so that no server always follows the same one.
            for index in 0..subjects.len() {
                let subject = &subjects[(round + index) % subjects.len()];
                if subject.is_peer() && !load.peers {
                    continue;
                }
                let mut running: Option<Running> = None;
                for &connections in load.connections {
                    let launch = subject.launch(load, connections, self.cores);
                    let current = match running.take() {
                        Some(current) if current.launch == launch => current,
                        other => {
                            // The old server has the port.
                            drop(other);
                            self.start(subject, load, launch)?
                        }
                    };
                    if round == 0 {
                        check(subject, load, current.launch.address, &expected)?;
                    }
                    results
                        .samples
                        .push(self.measure(subject, load, connections, round, &current)?);
                    running = Some(current);
                }
            }
        }
        Ok(())
    }

    fn start(&self, subject: &Subject, load: &Load, launch: Launch) -> Result<Running> {
        let log = self.logs.join(format!("{}-{}.log", subject.name, load.name));
        let probe = if subject.is_peer() {
            request(load, launch.address, None)?
        } else {
            classify_target(launch.address, None)?.get("/readyz")
        };
        let server = Server::start(&launch, &probe, &log)?;
        Ok(Running { server, launch })
    }

    fn spec(&self, load: &Load, running: &Running, arrivals: Arrivals) -> Result<LoadSpec> {
        let address = running.launch.address;
        Ok(LoadSpec {
            arrivals,
            warmup: Duration::from_secs_f64(self.args.warmup),
            duration: Duration::from_secs_f64(self.args.duration),
            timeout: TIMEOUT,
            ..LoadSpec::new(address, [request(load, address, None)?])
        })
    }

    fn measure(
        &self,
        subject: &Subject,
        load: &Load,
        connections: usize,
        round: usize,
        running: &Running,
    ) -> Result<Sample> {
        let spec = self.spec(load, running, Arrivals::Closed { connections })?;
        let mut cpu = CpuMeter::new(|| running.server.cpu());
        let outcome = run(&spec, &mut cpu)?;
        let tally = &outcome.tally;
        let good = tally.good().latency;
        let sample = Sample {
            round,
            load: load.name,
            connections,
            server: subject.name.clone(),
            throughput: tally.good_in_window as f64 / outcome.measured.as_secs_f64(),
            p50: good.percentile(50.0),
            p99: good.percentile(99.0),
            cpu_us: cpu.used().as_secs_f64() * 1e6 / (tally.responses_in_window.max(1)) as f64,
            errors: tally.errors(),
            resident: running.server.resident(),
            ready_ms: running.server.ready_after.as_secs_f64() * 1e3,
        };
        eprintln!(
            "  {:10} {:3} connections: {:9.0} responses/s, p50 {:9.3} ms, {:8.1} us CPU, {} errors",
            sample.server,
            connections,
            sample.throughput,
            sample.p50 / 1e3,
            sample.cpu_us,
            sample.errors
        );
        Ok(sample)
    }

    fn overload(&self, load: &Load, subject: &Subject) -> Result<Overload> {
        eprintln!("{}: overload", load.name);
        let connections = load.connections.iter().copied().max().unwrap_or(1);
        let running = self.start(subject, load, subject.launch(load, connections, self.cores))?;
        let closed = self.spec(load, &running, Arrivals::Closed { connections })?;
        let before = run(&closed, &mut ())?;
        let capacity = before.tally.good_in_window as f64 / before.measured.as_secs_f64();
        ensure!(capacity > 0.0, "{}: no successful response", load.name);
        let rate = 3.0 * capacity;
        let open = LoadSpec {
            requests: [request(load, running.launch.address, Some(DEADLINE))?].into(),
            duration: Duration::from_secs_f64(self.args.overload_duration),
            arrivals: Arrivals::Open {
                rate,
                max_connections: self.args.overload_connections,
            },
            ..closed.clone()
        };
        let mut own = CpuMeter::new(|| load::own_cpu().unwrap_or_default());
        let outcome = run(&open, &mut own)?;
        thread::sleep(Duration::from_secs(1));
        let after_spec = LoadSpec {
            warmup: Duration::ZERO,
            ..closed
        };
        let after = run(&after_spec, &mut ())?;
        let tally = &outcome.tally;
        let good = tally.good();
        let service = good.service.unwrap_or_default();
        let refused = tally.statuses.get(&503);
        let mut others: Vec<String> = tally
            .statuses
            .iter()
            .filter(|(status, _)| !(200..300).contains(*status) && **status != 503)
            .map(|(status, responses)| format!("{status}: {}", responses.latency.count()))
            .collect();
        others.extend(
            tally
                .failures
                .iter()
                .map(|(failure, count)| format!("{}: {count}", failure.name())),
        );
        let p50 = |outcome: &Outcome| outcome.tally.good().latency.percentile(50.0);
        let seconds = outcome.measured.as_secs_f64();
        Ok(Overload {
            load: load.name.to_owned(),
            capacity,
            rate,
            duration_s: seconds,
            goodput: tally.good_in_window as f64 / seconds,
            late: service.longer_than(DEADLINE),
            slowest_ms: service.max() / 1e3,
            deadline_ms: DEADLINE.as_secs_f64() * 1e3,
            refused: refused.map_or(0, |responses| responses.latency.count()),
            refusal_p99_ms: refused
                .and_then(|responses| responses.service.as_ref())
                .map(|service| service.percentile(99.0) / 1e3),
            unsent: tally.unsent,
            others: if others.is_empty() {
                "-".to_owned()
            } else {
                others.join(", ")
            },
            client_cpu_load: own.used().as_secs_f64() / seconds,
            recovery: after.tally.good_in_window as f64 / after.measured.as_secs_f64() / capacity,
            recovery_p50: p50(&after) / p50(&before),
        })
    }
}

/// Runs a load; Ctrl-C ends the comparison.
fn run(spec: &LoadSpec, observer: &mut dyn Observer) -> Result<Outcome> {
    let outcome = load::run(spec, observer)?;
    if outcome.interrupted {
        bail!("interrupted");
    }
    Ok(outcome)
}

/// The request of a load.
fn request(load: &Load, address: std::net::SocketAddr, deadline: Option<Duration>) -> Result<Bytes> {
    let mut target = classify_target(address, None)?;
    if let Some(deadline) = deadline {
        target = target.with_query("timeout_ms", &deadline.as_millis().to_string());
    }
    let inputs = read_files(std::slice::from_ref(&load.input))?;
    let input = inputs.first().context("no input")?;
    Ok(target.post(input.content_type, &input.body))
}

/// Checks that a server gives the label that the classifier gives. `floor0` does not look at its
/// input.
fn check(subject: &Subject, load: &Load, address: std::net::SocketAddr, expected: &str) -> Result<()> {
    if subject.name == "floor0" {
        return Ok(());
    }
    let response = exchange(address, &request(load, address, None)?, TIMEOUT)?;
    let text = String::from_utf8_lossy(&response.body).into_owned();
    let json: serde_json::Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let found = json["results"][0]["label"].as_str();
    ensure!(
        response.status == 200 && found == Some(expected),
        "{} on {}: expected the label {expected:?}, found {text}",
        subject.name,
        load.name
    );
    Ok(())
}

fn machine(cores: usize) -> Result<Machine> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or("unknown CPU".to_owned(), |(_, name)| name.trim().to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_owned();
    let date = std::process::Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(Machine {
        cpu,
        cores,
        kernel,
        date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
    })
}
