//! `classifyd bench`: sends load to a server and measures its responses.
//!
//! The load itself is sent by the crate [`load`]. This file turns arguments into loads, and
//! `progress` shows how far they are and reads the server's own metrics.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use load::{Arrivals, LoadSpec, Report, Target};

use progress::Progress;

mod progress;
mod scrape;
#[cfg(test)]
mod tests;

/// Path of the requests if the URL has none.
const CLASSIFY: &str = "/v1/classify";

/// Send requests to a server and measure its responses.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Server, as in `http://localhost:8080`, or the full URL to post to.
    #[arg(value_name = "URL")]
    pub url: String,

    /// Model to request.
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,

    /// Image or .txt file to send, or a directory of them. May be given several times; files are
    /// sent in turn.
    #[arg(long = "file", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,

    /// Connections, each of which sends its next request when it has the response to the last.
    /// Several numbers are measured one after the other.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_value = "1,8,64",
        conflicts_with = "rate"
    )]
    pub concurrency: Vec<usize>,

    /// Send this many requests per second, whatever the server does. Latency counts from when a
    /// request was due.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,

    /// Most connections with --rate. Requests that find all of them busy wait, and their latency
    /// includes the wait.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_connections: usize,

    /// How long each measurement takes.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,

    /// How long to send before each measurement.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,

    /// How long to wait for a response.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,

    /// API key, sent as `Authorization: Bearer`.
    #[arg(long, value_name = "KEY", env = "CLASSIFYD_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// Header to send with every request.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,

    /// Write the results as JSON to this file, or to standard output for `-`.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Threads of the load generator. More take CPU time from a server on the same machine.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
}

/// Measures until all loads are done or Ctrl-C is pressed. Progress goes to standard error, the
/// table to standard output.
///
/// Blocks, and must not be called on a thread that runs async code.
pub fn run(args: &Args) -> Result<()> {
    check(args)?;
    let target = target(args)?;
    let bodies = load::read_files(&args.files)?;
    let requests: Arc<[Bytes]> = bodies
        .iter()
        .map(|body| target.post(body.content_type, &body.body))
        .collect();
    let address = load::reachable(&target.addresses()?, args.timeout)?;
    try_one(address, &requests[0], args)?;

    let mut report = Report {
        url: target.url().to_string(),
        inputs: bodies.len(),
        warmup_s: args.warmup.as_secs_f64(),
        timeout_s: args.timeout.as_secs_f64(),
        threads: args.threads,
        interrupted: false,
        steps: Vec::new(),
    };
    for arrivals in all_arrivals(args) {
        let spec = LoadSpec {
            arrivals,
            warmup: args.warmup,
            duration: args.duration,
            timeout: args.timeout,
            threads: args.threads,
            ..LoadSpec::new(address, Arc::clone(&requests))
        };
        let mut progress = Progress::new(&spec, target.get("/metrics"), args.model.as_deref());
        let outcome = load::run(&spec, &mut progress)?;
        progress.clear();
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
        "no response had status 2xx"
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
        target
            .add_header("Authorization", &format!("Bearer {key}"))
            .context("--api-key")?;
    }
    for header in &args.headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("--header: expected \"Name: value\", found {header:?}"))?;
        target.add_header(name.trim(), value.trim()).context("--header")?;
    }
    Ok(target)
}

fn all_arrivals(args: &Args) -> Vec<Arrivals> {
    if let Some(rate) = args.rate {
        return vec![Arrivals::Open {
            rate,
            max_connections: args.max_connections,
        }];
    }
    let closed = |&connections: &usize| Arrivals::Closed { connections };
    args.concurrency.iter().map(closed).collect()
}

/// Sends one request before the load, so that a wrong model or API key is reported at once, in the
/// server's words.
fn try_one(address: SocketAddr, request: &[u8], args: &Args) -> Result<()> {
    let response = load::exchange(address, request, args.timeout)?;
    // Overload (429, 5xx) may be what the test is about. The other errors are the request's fault
    // and would hit every request.
    if (300..500).contains(&response.status) && response.status != 429 {
        let body = String::from_utf8_lossy(&response.body);
        let reason = match body.trim() {
            "" => "no reason given",
            reason => reason,
        };
        bail!("the server responded with status {}: {reason}", response.status);
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
