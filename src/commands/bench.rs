//! `classifyd bench`: a load generator for anyone who wants to know what their machine serves.
//!
//! [`target`] builds requests once, [`load`] sends them over plain connections and reads the answers ([`response`]) on
//! one thread, in a closed loop or by a [`schedule`]; [`tally`] counts, [`scrape`] reads what the server itself says
//! about the same time, [`report`] shows it all. It costs a fraction of the server's CPU time, so that both can share a
//! machine.

mod scrape;

#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use load::{Arrivals, LoadSpec, Observer, Outcome, Report, Step, Target};

use scrape::Snapshot;

/// Path of the requests, where the URL has none.
const CLASSIFY: &str = "/v1/classify";
/// Longest wait for the server's metrics: they must not hold up a measurement.
const METRICS_TIMEOUT: Duration = Duration::from_secs(2);

/// Send requests to a server and measure its answers.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Server, as in `http://localhost:8080`, or the full URL to post to.
    #[arg(value_name = "URL")]
    pub url: String,

    /// Model to ask for.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,

    /// Picture or .txt file to send, or a directory of them. May be given several times; files are sent in turn.
    #[arg(long = "file", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,

    /// Connections, each of which sends its next request when it has the answer to the last. Several numbers are
    /// measured one after the other.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,8,64",
        conflicts_with = "rate"
    )]
    pub concurrency: Vec<usize>,

    /// Send so many requests per second, whatever the server does. Latency counts from when a request was due.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,

    /// Most connections with --rate. Requests that find all of them busy wait, and that counts.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_connections: usize,

    /// How long each measurement takes.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,

    /// How long to send before each measurement.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,

    /// How long to wait for an answer.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// API key, sent as `Authorization: Bearer`.
    #[arg(long, value_name = "KEY", env = "CLASSIFYD_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// Header to send with every request.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,

    /// Write the results as JSON to this file, or to the standard output for `-`.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Threads of the load generator. More take CPU time from a server on the same machine.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
}

/// Measures, shows progress on the standard error and the table on the standard output.
///
/// Blocks until all is measured, or until Ctrl-C; must not be called on a thread that runs async code.
pub fn run(args: &Args) -> Result<()> {
    check(args)?;
    let target = target(args)?;
    let inputs = load::read_files(&args.files)?;
    let requests: Arc<[_]> = inputs
        .iter()
        .map(|input| target.post(input.content_type, &input.body))
        .collect();
    let address = load::reachable(&target.addresses()?, args.timeout)?;
    try_one(address, &requests[0], args)?;

    let mut report = Report {
        url: target.url.to_string(),
        inputs: inputs.len(),
        warmup_s: args.warmup.as_secs_f64(),
        timeout_s: args.timeout.as_secs_f64(),
        threads: args.threads,
        interrupted: false,
        steps: Vec::new(),
    };
    let loads: Vec<Arrivals> = match args.rate {
        Some(rate) => vec![Arrivals::Open {
            rate,
            max_connections: args.max_connections,
        }],
        None => args
            .concurrency
            .iter()
            .map(|&connections| Arrivals::Closed { connections })
            .collect(),
    };
    for arrivals in loads {
        let spec = LoadSpec {
            address,
            requests: Arc::clone(&requests),
            arrivals,
            warmup: args.warmup,
            duration: args.duration,
            timeout: args.timeout,
            threads: args.threads,
        };
        let mut progress = Progress::new(&spec, &target, args.model.as_deref());
        let outcome = load::run(&spec, &mut progress)?;
        progress.bar.finish_and_clear();
        if !outcome.measured.is_zero() {
            report.steps.push(progress.step(arrivals, &outcome));
        }
        if outcome.interrupted {
            report.interrupted = true;
            break;
        }
    }
    show(&report, args)?;
    ensure!(
        report.interrupted || report.steps.iter().any(|step| step.latency.is_some()),
        "no request was answered with status 2xx"
    );
    Ok(())
}

fn check(args: &Args) -> Result<()> {
    let at_least_one = |name: &str, value: usize| {
        ensure!(value > 0, "{name}: expected at least 1, found 0");
        Ok(())
    };
    for &connections in &args.concurrency {
        at_least_one("--concurrency", connections)?;
    }
    at_least_one("--max-connections", args.max_connections)?;
    at_least_one("--threads", args.threads)?;
    if let Some(rate) = args.rate {
        ensure!(
            rate.is_finite() && rate > 0.0,
            "--rate: expected a number above 0, found {rate}"
        );
    }
    for (name, value) in [("--duration", args.duration), ("--timeout", args.timeout)] {
        ensure!(!value.is_zero(), "{name}: expected more than 0s");
    }
    Ok(())
}

fn target(args: &Args) -> Result<Target> {
    let mut target = Target::parse(&args.url)?.with_default_path(CLASSIFY);
    if let Some(model) = &args.model {
        target = target.with_query("model", model);
    }
    if let Some(key) = &args.api_key {
        target.add_header("Authorization", &format!("Bearer {key}"))?;
    }
    for header in &args.headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("--header: expected \"Name: value\", found {header:?}"))?;
        target.add_header(name.trim(), value.trim())?;
    }
    Ok(target)
}

/// One request before the load: a wrong model or key is told at once, in the server's words.
fn try_one(address: SocketAddr, request: &[u8], args: &Args) -> Result<()> {
    let answer = load::exchange(address, request, args.timeout)?;
    // Too busy now is what a load test may be about; all else that is the request's fault will not get better.
    if (300..500).contains(&answer.status) && answer.status != 429 {
        let body = String::from_utf8_lossy(&answer.body);
        let words = match body.trim() {
            "" => "no reason given",
            words => words,
        };
        bail!("the server answered with status {}: {words}", answer.status);
    }
    Ok(())
}

fn show(report: &Report, args: &Args) -> Result<()> {
    let json_to_stdout = args.json.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if json_to_stdout {
        eprint!("{}", report.table());
        let mut stdout = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, report)?;
        writeln!(stdout)?;
        return Ok(());
    }
    write!(std::io::stdout(), "{}", report.table())?;
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(report)? + "\n";
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// Shows how far a measurement is, and reads what is to be compared at the ends of its window.
struct Progress<'a> {
    bar: ProgressBar,
    whole: Duration,
    address: SocketAddr,
    metrics: bytes::Bytes,
    model: Option<&'a str>,
    edges: Edges,
}

/// What was read at the two ends of the window.
#[derive(Debug, Default)]
struct Edges {
    metrics: [Option<Snapshot>; 2],
    cpu: [Option<Duration>; 2],
}

impl<'a> Progress<'a> {
    fn new(spec: &LoadSpec, target: &Target, model: Option<&'a str>) -> Self {
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
            metrics: target.get("/metrics"),
            model,
            edges: Edges::default(),
        }
    }

    fn step(&self, arrivals: Arrivals, outcome: &Outcome) -> Step {
        let cpu = match self.edges.cpu {
            [Some(before), Some(after)] => Some(after.saturating_sub(before)),
            _ => None,
        };
        let mut step = Step::new(arrivals, outcome, cpu);
        if let [Some(before), Some(after)] = &self.edges.metrics {
            step.mean_batch_size = after.batch_size_since(before);
            step.mean_queue_us = after.queue_seconds_since(before).map(|seconds| seconds * 1e6);
        }
        step
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let answer = load::exchange(self.address, &self.metrics, METRICS_TIMEOUT).ok()?;
        let page = std::str::from_utf8(&answer.body).ok()?;
        (answer.status == 200).then(|| Snapshot::parse(page, self.model))
    }
}

impl Observer for Progress<'_> {
    fn begin(&mut self) {
        self.edges.cpu[0] = load::own_cpu();
        self.edges.metrics[0] = self.snapshot();
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
        self.edges.cpu[1] = load::own_cpu();
        self.edges.metrics[1] = self.snapshot();
    }
}
