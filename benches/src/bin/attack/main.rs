//! Puts hostile loads on classifyd, each on a fresh server with the shipped models and
//! configuration, and shows what they cost: memory, CPU time, threads, and how long other clients
//! wait meanwhile.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::classify_target;
use benches::figures::Figures;
use benches::figures::attack::{AttackFigures, Cost};
use benches::process::Usage;
use benches::server::{Launch, Server, serve_command};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use attacker::{Attacker, exchange};
use bystander::Bystander;
use loads::{LOADS, Load};

mod attacker;
mod bystander;
mod loads;

/// Longest wait for a response, of an attacker and of the others.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Time between two probes, two small requests and two readings of the server.
const EVERY: Duration = Duration::from_millis(50);
/// Longest wait until the server has finished what it still does after the load.
const SETTLE: Duration = Duration::from_secs(30);

const DIGIT: &[u8] = include_bytes!("../../../../models/digits/1/golden/7_0.png");

/// Puts hostile loads on classifyd, and shows what they cost.
#[derive(Parser)]
struct Args {
    /// Directory with the models to serve.
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Configuration of the server.
    #[arg(long, default_value = "classifyd.toml")]
    config: PathBuf,
    /// Only the loads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Length of the loads that go on for a time, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Scales sizes and numbers down, to try whether the loads work.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Port to listen on.
    #[arg(long, default_value_t = 8297)]
    port: u16,
    /// Port for probes and metrics.
    #[arg(long, default_value_t = 8296)]
    admin_port: u16,
    /// Directory with the server's program. Default: the one that this program is in.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Be the client that does no harm: send `livez` or `classify` to an address until standard
    /// input ends.
    #[arg(long, hide = true, num_args = 2, value_names = ["WHAT", "ADDRESS"])]
    ask: Option<Vec<String>>,
    /// Keeps the figures in benches/figures, and updates the pages that show them.
    #[arg(long)]
    write: bool,
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    if let Some([what, address]) = args.ask.as_deref() {
        return bystander::run(what, address);
    }
    raise_file_limit()?;
    let wanted = |load: &&Load| args.only.as_ref().is_none_or(|only| load.name.contains(only));
    let mut figures = AttackFigures {
        cpus: thread::available_parallelism()?.get(),
        loads: Vec::new(),
    };
    for load in LOADS.iter().filter(wanted) {
        eprintln!("{}", load.name);
        let cost = measure(&args, load)?;
        eprintln!("  {}", cost.cells().join(" | "));
        figures.loads.push(cost);
    }
    ensure!(
        !figures.loads.is_empty(),
        "--only: expected a part of the name of a load"
    );
    println!("{}", figures.markdown());
    if args.write {
        figures.write(Path::new("."), "attack")?;
    }
    let missed = figures.missed();
    ensure!(missed.is_empty(), "missed:\n{}", missed.join("\n"));
    Ok(())
}

/// A thousand clients need a thousand open files.
fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// How to start the server for a load.
fn launch(args: &Args, load: &Load, address: SocketAddr, admin: SocketAddr) -> Result<Launch> {
    let program = match &args.programs {
        Some(directory) => directory.join("classifyd"),
        None => std::env::current_exe()?.with_file_name("classifyd"),
    };
    let mut command = serve_command(&program, &args.models, address);
    let config = args.config.display().to_string();
    for (option, value) in [("--config", config), ("--admin-listen", admin.to_string())] {
        command.extend([option.to_owned(), value]);
    }
    command.extend(load.arguments.iter().map(|&argument| argument.to_owned()));
    Ok(Launch {
        command,
        address: admin,
    })
}

fn measure(args: &Args, load: &Load) -> Result<Cost> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, args.admin_port));
    let launch = launch(args, load, address, admin)?;
    let target = classify_target(address, Some("digits"))?;
    let log = std::env::temp_dir().join("classifyd-attack.log");
    let mut server = Server::start(&launch, &target.get("/readyz"), &log)?;
    let small = target.post("image/png", DIGIT);

    exchange(bystander::ADDRESS, address, &small).context("a small request before the load")?;
    let process = server.id();
    // Resets the peak, so that it is the load's and not that of the start.
    let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
    let before = Usage::of(process).context("the server ended before the load")?;
    let attacker = Attacker::new(address, args.scale, Duration::from_secs(args.seconds));

    let over = AtomicBool::new(false);
    let probes = Bystander::start("livez", admin)?;
    let requests = Bystander::start("classify", address)?;
    let during = thread::scope(|scope| {
        let during = scope.spawn(|| watch(&over, process));
        (load.run)(&attacker);
        settle(process);
        over.store(true, Ordering::Relaxed);
        during.join().unwrap_or_default()
    });
    let (probe, request) = (probes.end()?, requests.end()?);
    let alive = server.is_running()
        && exchange(bystander::ADDRESS, address, &small).is_ok_and(|response| response.status == 200);
    let last = Usage::of(process).filter(|_| alive).unwrap_or_default();
    Ok(Cost {
        name: load.name.to_owned(),
        before_mib: mib(before.peak),
        peak_mib: mib(during.peak.max(last.peak)),
        probe,
        request,
        cpu_s: (during.cpu.saturating_sub(before.cpu).as_secs_f64() * 10.0).round() / 10.0,
        threads_before: before.threads,
        threads: during.threads.max(before.threads),
        alive,
        responses: attacker.describe_responses(),
    })
}

/// The largest values while a load runs.
fn watch(over: &AtomicBool, process: u32) -> Usage {
    let mut most = Usage::default();
    while !over.load(Ordering::Relaxed) {
        if let Some(now) = Usage::of(process) {
            most.peak = most.peak.max(now.peak);
            most.threads = most.threads.max(now.threads);
            most.cpu = most.cpu.max(now.cpu);
        }
        thread::sleep(EVERY);
    }
    most
}

/// Waits until the server does nothing but respond to the other clients.
fn settle(process: u32) {
    let end = Instant::now() + SETTLE;
    let cpu = || Usage::of(process).map(|now| now.cpu);
    let mut before = cpu();
    while before.is_some() && Instant::now() < end {
        thread::sleep(Duration::from_millis(500));
        let now = cpu();
        let used = now.zip(before).map(|(now, before)| now.saturating_sub(before));
        if used.is_none_or(|used| used < Duration::from_millis(100)) {
            return;
        }
        before = now;
    }
}

fn mib(bytes: u64) -> u64 {
    (bytes as f64 / f64::from(1 << 20)).round() as u64
}
