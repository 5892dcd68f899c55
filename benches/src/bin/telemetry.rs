//! What access lines and a rate limit cost: the CPU time of a request with each of them and without
//! both, in turns on one machine.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::server::{Launch, Server, serve_command};
use benches::setting::Load;
use benches::{CpuMeter, classify_target, median, page};
use bytes::Bytes;
use clap::Parser;
use load::{Arrivals, LoadSpec, read_files};

/// The others are compared with the first.
const VARIANTS: [(&str, &[&str]); 4] = [
    ("nothing", &["--access-log", "off"]),
    (
        "pretty access lines",
        &["--access-log", "on", "--log-format", "pretty"],
    ),
    (
        "JSON access lines",
        &["--access-log", "on", "--log-format", "json"],
    ),
    // So high that no request is rejected.
    (
        "rate limit",
        &["--access-log", "off", "--rate-limit", "1000000/s burst 1000000"],
    ),
];

/// Measures what an access line and a rate limit cost.
#[derive(Parser)]
struct Args {
    /// Loads to run: mlp, digits, resnet18.
    #[arg(long, value_delimiter = ',', default_values = ["mlp", "digits"])]
    loads: Vec<String>,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 8])]
    connections: Vec<usize>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    duration: f64,
    /// First port to use.
    #[arg(long, default_value_t = 8280)]
    port: u16,
    /// Writes the results into docs/performance.md, between the markers.
    #[arg(long)]
    write: bool,
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    let program = std::env::current_exe()?.with_file_name("classifyd");
    ensure!(
        program.is_file(),
        "{} is not there: build it first",
        program.display()
    );
    let work = PathBuf::from("benches/results");
    fs::create_dir_all(work.join("models")).with_context(|| work.display().to_string())?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut text = format!(
        "`telemetry {}`, {} CPUs\n\n\
         | load | connections | with | CPU us per request | to nothing | responses/s |\n\
         |---|--:|---|--:|--:|--:|\n",
        arguments.join(" "),
        std::thread::available_parallelism()?
    );
    for name in &args.loads {
        let load = Load::find(name, Path::new("."), &work.join("models"))?;
        // All servers run all the time. So rounds are short, and other work of the machine disturbs
        // all alike.
        let subjects = VARIANTS
            .iter()
            .enumerate()
            .map(|(index, variant)| Subject::start(&args, &program, &load, index, *variant, &work))
            .collect::<Result<Vec<_>>>()?;
        for &connections in &args.connections {
            text.push_str(&measure(&args, &load, connections, &subjects)?);
        }
    }
    println!("{text}");
    if args.write {
        page::write(Path::new("docs/performance.md"), "telemetry", &text)?;
    }
    Ok(())
}

struct Subject {
    variant: &'static str,
    server: Server,
    address: SocketAddr,
    request: Bytes,
}

impl Subject {
    fn start(
        args: &Args,
        program: &Path,
        load: &Load,
        index: usize,
        (variant, options): (&'static str, &[&str]),
        work: &Path,
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port + index as u16));
        let mut command = serve_command(program, &load.root, address);
        command.extend(options.iter().map(|&option| option.to_owned()));
        let target = classify_target(address, None)?;
        let log = work.join(format!("telemetry-{index}.log"));
        let server = Server::start(&Launch { command, address }, &target.get("/readyz"), &log)?;
        let inputs = read_files(std::slice::from_ref(&load.input))?;
        let input = inputs.first().context("no input")?;
        Ok(Self {
            variant,
            server,
            address,
            request: target.post(input.content_type, &input.body),
        })
    }
}

/// One measurement of a server.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    cpu_us: f64,
    throughput: f64,
}

impl Subject {
    fn measure(&self, args: &Args, connections: usize) -> Result<Sample> {
        let mut cpu = CpuMeter::new(|| self.server.cpu());
        let spec = LoadSpec {
            arrivals: Arrivals::Closed { connections },
            warmup: Duration::from_millis(300),
            duration: Duration::from_secs_f64(args.duration),
            ..LoadSpec::new(self.address, [self.request.clone()])
        };
        let outcome = load::run(&spec, &mut cpu)?;
        if outcome.interrupted {
            bail!("interrupted");
        }
        let tally = &outcome.tally;
        ensure!(tally.errors() == 0, "{}: {} errors", self.variant, tally.errors());
        Ok(Sample {
            cpu_us: cpu.used().as_secs_f64() * 1e6 / tally.responses_in_window.max(1) as f64,
            throughput: tally.good_in_window as f64 / outcome.measured.as_secs_f64(),
        })
    }
}

fn measure(args: &Args, load: &Load, connections: usize, subjects: &[Subject]) -> Result<String> {
    let mut samples = vec![Vec::new(); subjects.len()];
    for round in 0..args.rounds {
        // Each round begins with another server.
        for index in 0..subjects.len() {
            let at = (round + index) % subjects.len();
            samples[at].push(subjects[at].measure(args, connections)?);
        }
    }
    let middle = |values: Vec<f64>| median(values).unwrap_or(f64::NAN);
    let without = &samples[0];
    let mut text = String::new();
    for (subject, with) in subjects.iter().zip(&samples) {
        let ratios = with
            .iter()
            .zip(without)
            .map(|(with, without)| with.cpu_us / without.cpu_us);
        let _ = writeln!(
            text,
            "| {} | {connections} | {} | {:.1} | {:+.1} % | {:.0} |",
            load.name,
            subject.variant,
            middle(with.iter().map(|sample| sample.cpu_us).collect()),
            (middle(ratios.collect()) - 1.0) * 100.0,
            middle(with.iter().map(|sample| sample.throughput).collect()),
        );
    }
    Ok(text)
}
