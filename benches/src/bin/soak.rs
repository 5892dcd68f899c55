//! Runs classifyd for a long time under load with bad requests mixed in, and shows whether it stays as it was: memory, file
//! descriptors, threads, answers, and how fast `/livez` answers beside it.

use std::fs;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{collections::BTreeMap, io::Write};

use anyhow::{Context, Result, ensure};
use benches::classify_target;
use benches::server::{Launch, Server};
use bytes::Bytes;
use clap::Parser;
use load::{Arrivals, Latencies, LoadSpec, Target, exchange, read_files};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two bad requests, and between two probes.
const BAD_EVERY: Duration = Duration::from_millis(50);
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// By then requests that were under way and connections that linger have ended.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs classifyd for a long time under load, with bad requests mixed in.
#[derive(Parser)]
struct Args {
    /// Folder with the models to serve.
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Model to ask.
    #[arg(long, default_value = "digits")]
    model: String,
    /// File to send.
    #[arg(long, default_value = "models/digits/1/golden/7_0.png")]
    file: PathBuf,
    /// Minutes of load.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Part of what 64 connections reach in the first ten seconds, in large batches that an open loop does not have; 1 or more keeps
    /// them going all the time instead.
    #[arg(long, default_value_t = 0.6)]
    load: f64,
    /// Port to listen on.
    #[arg(long, default_value_t = 8299)]
    port: u16,
    /// Port for probes and metrics.
    #[arg(long, default_value_t = 8298)]
    admin_port: u16,
}

/// The process at one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    minute: f64,
    resident_mb: f64,
    descriptors: usize,
    threads: usize,
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, args.admin_port));
    let mut program = std::env::current_exe()?;
    program.set_file_name("classifyd");
    let launch = Launch {
        command: [&program.display().to_string(), "serve", "--models"]
            .into_iter()
            .chain([
                args.models.display().to_string().as_str(),
                "--listen",
                &address.to_string(),
                "--admin-listen",
                &admin.to_string(),
            ])
            .map(str::to_owned)
            .collect(),
        address: admin,
    };
    let target = classify_target(address, Some(&args.model))?;
    let probe = target.get("/readyz");
    let livez = target.get("/livez");
    // With access lines, as in production, but millions of them belong on no disk.
    let server = Server::start(&launch, &probe, Path::new("/dev/null"))?;

    let inputs = read_files(std::slice::from_ref(&args.file))?;
    let input = inputs.first().context("--file: expected a picture or a text")?;
    let good = target.post(input.content_type, &input.body);
    let bad = bad_requests(&target, input.content_type, &input.body);
    for (name, expected, request) in &bad {
        let answer = exchange(address, request, TIMEOUT).with_context(|| (*name).to_owned())?;
        ensure!(
            answer.status == *expected,
            "{name}: expected {expected}, found {}",
            answer.status
        );
    }

    let closed = LoadSpec {
        address,
        requests: [good].into(),
        arrivals: Arrivals::Closed { connections: 64 },
        warmup: Duration::from_secs(2),
        duration: Duration::from_secs(10),
        timeout: TIMEOUT,
        threads: 1,
    };
    let before = load::run(&closed, &mut ())?;
    let capacity = before.tally.good_in_window as f64 / before.measured.as_secs_f64();
    let arrivals = if args.load < 1.0 {
        Arrivals::Open {
            rate: capacity * args.load,
            max_connections: 1024,
        }
    } else {
        Arrivals::Closed { connections: 64 }
    };
    let duration = Duration::from_secs_f64(args.minutes * 60.0);
    eprintln!("{capacity:.0} answers/s with 64 connections; now {arrivals:?} for {duration:?}");

    thread::sleep(SETTLE);
    let idle = read(server.id(), Instant::now())?;

    let over = AtomicBool::new(false);
    let going_on = || !over.load(Ordering::Relaxed);
    let probes = Mutex::new(Latencies::default());
    let wrong = Mutex::new(BTreeMap::<String, u64>::new());
    let begun = Instant::now();
    let (outcome, readings, bad_sent) = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent = 0_usize;
            while going_on() {
                let (name, expected, request) = &bad[sent % bad.len()];
                let found = match exchange(address, request, TIMEOUT) {
                    Ok(answer) if answer.status == *expected => None,
                    Ok(answer) => Some(format!("{name}: {}", answer.status)),
                    Err(error) => Some(format!("{name}: {error:#}")),
                };
                if let (Some(found), Ok(mut wrong)) = (found, wrong.lock()) {
                    *wrong.entry(found).or_default() += 1;
                }
                leave_in_the_middle(address, &closed.requests[0]);
                sent += 1;
                thread::sleep(BAD_EVERY);
            }
            sent
        });
        scope.spawn(|| {
            while going_on() {
                let asked = Instant::now();
                let answered = exchange(admin, &livez, TIMEOUT).is_ok_and(|answer| answer.status == 200);
                if answered {
                    if let Ok(mut probes) = probes.lock() {
                        probes.record(asked.elapsed());
                    }
                } else if let Ok(mut wrong) = wrong.lock() {
                    *wrong.entry("/livez".to_owned()).or_default() += 1;
                }
                thread::sleep(PROBE_EVERY);
            }
        });
        let reading = scope.spawn(|| {
            let mut readings = Vec::new();
            while going_on() {
                if let Ok(reading) = read(server.id(), begun) {
                    readings.push(reading);
                }
                thread::sleep(Duration::from_secs(5));
            }
            readings
        });
        let plan = LoadSpec {
            arrivals,
            warmup: Duration::ZERO,
            duration,
            ..closed.clone()
        };
        let outcome = load::run(&plan, &mut ());
        over.store(true, Ordering::Relaxed);
        (
            outcome,
            reading.join().unwrap_or_default(),
            sending.join().unwrap_or_default(),
        )
    });
    let outcome = outcome?;
    thread::sleep(SETTLE);
    let last = read(server.id(), begun)?;

    println!("| minute | resident MB | file descriptors | threads |\n|---|---|---|---|");
    let every = (readings.len() / 12).max(1);
    for reading in readings.iter().step_by(every).chain([&last]) {
        println!(
            "| {:.1} | {:.1} | {} | {} |",
            reading.minute, reading.resident_mb, reading.descriptors, reading.threads
        );
    }
    let tally = &outcome.tally;
    // What a busy machine kept the load generator from sending is no error of the server.
    let errors = tally.errors() - tally.unsent;
    let latency = tally.good().latency;
    println!(
        "\n{} good answers ({:.0} a second), p50 {:.2} ms, p99 {:.2} ms, {errors} errors, {} not sent; {bad_sent} bad requests and as many \
         left in the middle",
        tally.good_in_window,
        tally.good_in_window as f64 / outcome.measured.as_secs_f64(),
        latency.percentile(50.0) / 1e3,
        latency.percentile(99.0) / 1e3,
        tally.unsent,
    );
    if let Ok(probes) = probes.lock() {
        println!(
            "/livez on admin_listen, on a new connection each time, {} times: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            probes.count(),
            probes.percentile(50.0) / 1e3,
            probes.percentile(99.0) / 1e3,
            probes.max() / 1e3
        );
    }
    let wrong = wrong.into_inner().unwrap_or_default();
    ensure!(wrong.is_empty(), "answers that were not as expected: {wrong:?}");
    ensure!(errors == 0, "{errors} errors");
    is_flat(idle, &readings, last)
}

/// Whether the process without load is as it was before it, and its memory as in the first quarter of it, when everything was warm.
fn is_flat(idle: Reading, readings: &[Reading], last: Reading) -> Result<()> {
    let early = &readings[..readings.len().div_ceil(4)];
    let resident_mb = early
        .iter()
        .map(|reading| reading.resident_mb)
        .fold(0.0, f64::max);
    ensure!(
        last.resident_mb <= resident_mb * 1.05 + 2.0,
        "memory: expected at most 5 % and 2 MB more than the {resident_mb:.1} MB of the first quarter, found {:.1}",
        last.resident_mb
    );
    for (what, before, after) in [
        ("file descriptors", idle.descriptors, last.descriptors),
        ("threads", idle.threads, last.threads),
    ] {
        ensure!(
            after <= before,
            "{what}: expected at most {before} as before the load, found {after}"
        );
    }
    Ok(())
}

/// What goes wrong in practice, with the status that it must get.
fn bad_requests(target: &Target, content_type: &'static str, body: &[u8]) -> Vec<(&'static str, u16, Bytes)> {
    let mut unknown = target.clone();
    unknown.url.set_query(Some("model=nobody"));
    let large = vec![0; 17 << 20];
    vec![
        ("no body", 422, target.post(content_type, &[])),
        (
            "half a file",
            422,
            target.post("image/png", &body[..body.len() / 2]),
        ),
        (
            "noise",
            422,
            target.post("image/jpeg", &[0xff, 0xd8, 0xff, 0xe0, 1, 2, 3]),
        ),
        (
            "a type that nobody takes",
            415,
            target.post("application/pdf", b"%PDF-1.7"),
        ),
        (
            "broken JSON",
            400,
            target.post("application/json", b"{\"inputs\": ["),
        ),
        ("an unknown model", 404, unknown.post(content_type, body)),
        ("a large file", 413, target.post(content_type, &large)),
        ("no such page", 404, target.get("/v1/nothing")),
    ]
}

/// A client that hangs up while it sends.
fn leave_in_the_middle(address: SocketAddr, request: &[u8]) {
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, TIMEOUT) {
        let _ = stream.write_all(&request[..request.len() / 2]);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn read(process: u32, begun: Instant) -> Result<Reading> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let number = |key: &str| -> Result<f64> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .context("no such line")?;
        Ok(line.split_whitespace().next().context("no value")?.parse()?)
    };
    Ok(Reading {
        minute: begun.elapsed().as_secs_f64() / 60.0,
        resident_mb: number("VmRSS:")? / 1024.0,
        descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count(),
        threads: number("Threads:")? as usize,
    })
}
