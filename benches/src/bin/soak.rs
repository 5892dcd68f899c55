//! Runs classifyd under load for ten minutes, with bad requests mixed in, and fails if a response
//! is not as expected, or if memory, file descriptors or threads grow.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::process::{Usage, descriptors};
use benches::server::{Launch, Server, serve_command};
use benches::{classify_target, page};
use bytes::Bytes;
use clap::Parser;
use load::{Arrivals, Latencies, LoadSpec, Outcome, Target, exchange, read_files};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two bad requests, two probes and two readings of the process.
const BAD_EVERY: Duration = Duration::from_millis(50);
const PROBE_EVERY: Duration = Duration::from_millis(100);
const READ_EVERY: Duration = Duration::from_secs(5);
/// Requests that were under way, and connections that linger, have ended by then.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs classifyd for a long time under load, with bad requests mixed in.
#[derive(Parser)]
struct Args {
    /// Directory with the models to serve.
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Model to request.
    #[arg(long, default_value = "digits")]
    model: String,
    /// File to send.
    #[arg(long, default_value = "models/digits/1/golden/7_0.png")]
    file: PathBuf,
    /// Minutes of load.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Rate of the open loop, as a share of what 64 connections reach in the first ten seconds.
    /// With 1 or more the 64 connections go on in a closed loop instead.
    #[arg(long, default_value_t = 0.6)]
    load: f64,
    /// Port to listen on.
    #[arg(long, default_value_t = 8299)]
    port: u16,
    /// Port for probes and metrics.
    #[arg(long, default_value_t = 8298)]
    admin_port: u16,
    /// Writes the results into docs/performance.md, between the markers.
    #[arg(long)]
    write: bool,
}

/// A bad request, with the status that it must get.
struct Bad {
    name: &'static str,
    status: u16,
    request: Bytes,
}

/// The process at one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    minute: f64,
    usage: Usage,
    descriptors: usize,
}

/// What happened beside the load.
#[derive(Default)]
struct Seen {
    readings: Vec<Reading>,
    /// Latencies of `/livez`.
    probes: Latencies,
    bad_sent: usize,
    /// Responses that were not as expected.
    wrong: BTreeMap<String, u64>,
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, args.admin_port));
    let program = std::env::current_exe()?.with_file_name("classifyd");
    let mut command = serve_command(&program, &args.models, address);
    command.extend(["--admin-listen".to_owned(), admin.to_string()]);
    let launch = Launch {
        command,
        address: admin,
    };
    let target = classify_target(address, Some(&args.model))?;
    // With access lines, as in production. Millions of them do not belong on the disk.
    let server = Server::start(&launch, &target.get("/readyz"), Path::new("/dev/null"))?;

    let inputs = read_files(std::slice::from_ref(&args.file))?;
    let input = inputs.first().context("--file: expected an image or a text")?;
    let bad = bad_requests(&target, input.content_type, &input.body)?;
    for bad in &bad {
        let response = exchange(address, &bad.request, TIMEOUT).context(bad.name)?;
        let (name, expected, found) = (bad.name, bad.status, response.status);
        ensure!(found == expected, "{name}: expected {expected}, found {found}");
    }

    let closed = LoadSpec {
        arrivals: Arrivals::Closed { connections: 64 },
        warmup: Duration::from_secs(2),
        ..LoadSpec::new(address, [target.post(input.content_type, &input.body)])
    };
    let before = load::run(&closed, &mut ())?;
    let capacity = before.tally.good_in_window as f64 / before.measured.as_secs_f64();
    let spec = long_load(&closed, capacity, &args);
    let mut text = format!(
        "{capacity:.0} responses/s with 64 connections; then {} for {} minutes\n\n",
        describe(spec.arrivals),
        args.minutes
    );
    eprint!("{text}");

    thread::sleep(SETTLE);
    let process = server.id();
    let begun = Instant::now();
    let idle = read(process, begun).context("the server has ended")?;
    let (outcome, seen) = run_beside(&spec, &bad, process, (admin, &target.get("/livez")))?;
    thread::sleep(SETTLE);
    let last = read(process, begun).context("the server has ended")?;

    text.push_str(&report(&outcome, &seen, last));
    println!("{text}");
    if args.write {
        page::write(Path::new("docs/performance.md"), "soak", &text)?;
    }
    let errors = outcome.tally.errors() - outcome.tally.unsent;
    ensure!(seen.wrong.is_empty(), "unexpected responses: {:?}", seen.wrong);
    ensure!(errors == 0, "{errors} errors");
    is_flat(idle, &seen.readings, last)
}

fn long_load(closed: &LoadSpec, capacity: f64, args: &Args) -> LoadSpec {
    let mut spec = LoadSpec {
        warmup: Duration::ZERO,
        duration: Duration::from_secs_f64(args.minutes * 60.0),
        ..closed.clone()
    };
    if args.load < 1.0 {
        spec.arrivals = Arrivals::Open {
            rate: capacity * args.load,
            max_connections: 1024,
        };
    }
    spec
}

fn describe(arrivals: Arrivals) -> String {
    match arrivals {
        Arrivals::Closed { connections } => format!("{connections} connections"),
        Arrivals::Open {
            rate,
            max_connections,
        } => format!("{rate:.0} requests/s on up to {max_connections} connections"),
    }
}

/// Runs the load. Beside it sends bad requests and probes (`livez`), and reads the process.
fn run_beside(
    spec: &LoadSpec,
    bad: &[Bad],
    process: u32,
    livez: (SocketAddr, &[u8]),
) -> Result<(Outcome, Seen)> {
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let seen = Mutex::new(Seen::default());
    let repeat = |every: Duration, work: &mut dyn FnMut()| {
        while !over.load(Ordering::Relaxed) {
            work();
            thread::sleep(every);
        }
    };
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            let mut bad = bad.iter().cycle();
            repeat(BAD_EVERY, &mut || {
                let wrong = bad.next().and_then(|bad| send_bad(spec.address, bad));
                leave_in_the_middle(spec.address, &spec.requests[0]);
                let mut seen = lock(&seen);
                seen.bad_sent += 1;
                if let Some(wrong) = wrong {
                    *seen.wrong.entry(wrong).or_default() += 1;
                }
            });
        });
        scope.spawn(|| {
            repeat(PROBE_EVERY, &mut || {
                let sent = Instant::now();
                let response = exchange(livez.0, livez.1, TIMEOUT);
                let latency = sent.elapsed();
                let mut seen = lock(&seen);
                if response.is_ok_and(|response| response.status == 200) {
                    seen.probes.record(latency);
                } else {
                    *seen.wrong.entry("/livez".to_owned()).or_default() += 1;
                }
            });
        });
        scope.spawn(|| {
            repeat(READ_EVERY, &mut || {
                lock(&seen).readings.extend(read(process, begun))
            })
        });
        let outcome = load::run(spec, &mut ());
        over.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok((outcome, seen.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a bad request. Returns what came if it is not the expected status.
fn send_bad(address: SocketAddr, bad: &Bad) -> Option<String> {
    match exchange(address, &bad.request, TIMEOUT) {
        Ok(response) if response.status == bad.status => None,
        Ok(response) => Some(format!("{}: {}", bad.name, response.status)),
        Err(error) => Some(format!("{}: {error:#}", bad.name)),
    }
}

fn report(outcome: &Outcome, seen: &Seen, last: Reading) -> String {
    let mut text = "| minute | resident MB | file descriptors | threads |\n|--:|--:|--:|--:|\n".to_owned();
    let every = (seen.readings.len() / 12).max(1);
    for reading in seen.readings.iter().step_by(every).chain([&last]) {
        let _ = writeln!(
            text,
            "| {:.1} | {:.1} | {} | {} |",
            reading.minute,
            megabytes(reading.usage),
            reading.descriptors,
            reading.usage.threads
        );
    }
    let tally = &outcome.tally;
    let latency = tally.good().latency;
    let _ = writeln!(
        text,
        "\n{} successful responses ({:.0} a second), p50 {:.2} ms, p99 {:.2} ms, {} errors, {} not sent; \
         {bad} bad requests and as many left in the middle\n\
         `/livez` on `admin_listen`, on a new connection each time, {} times: p50 {:.2} ms, p99 {:.2} ms, \
         max {:.2} ms",
        tally.good_in_window,
        tally.good_in_window as f64 / outcome.measured.as_secs_f64(),
        latency.percentile(50.0) / 1e3,
        latency.percentile(99.0) / 1e3,
        // Requests that a busy machine kept the load generator from sending are not the server's
        // errors.
        tally.errors() - tally.unsent,
        tally.unsent,
        seen.probes.count(),
        seen.probes.percentile(50.0) / 1e3,
        seen.probes.percentile(99.0) / 1e3,
        seen.probes.max() / 1e3,
        bad = seen.bad_sent,
    );
    text
}

/// Checks that the process after the load has no more descriptors and threads than before it, and
/// no more memory than in the first quarter of the load, when everything was warm.
fn is_flat(idle: Reading, readings: &[Reading], last: Reading) -> Result<()> {
    let early = &readings[..readings.len().div_ceil(4)];
    let most = early.iter().map(|reading| megabytes(reading.usage));
    let most = most.fold(0.0, f64::max);
    let found = megabytes(last.usage);
    ensure!(
        found <= most * 1.05 + 2.0,
        "memory: expected at most 5 % and 2 MB more than the {most:.1} MB of the first quarter, found {found:.1}"
    );
    for (what, before, after) in [
        ("file descriptors", idle.descriptors, last.descriptors),
        ("threads", idle.usage.threads, last.usage.threads),
    ] {
        ensure!(
            after <= before,
            "{what}: expected at most {before} as before the load, found {after}"
        );
    }
    Ok(())
}

/// Requests that go wrong in practice.
fn bad_requests(target: &Target, content_type: &'static str, body: &[u8]) -> Result<Vec<Bad>> {
    let address = target.addresses()?[0];
    let unknown = classify_target(address, Some("nobody"))?;
    let large = vec![0; 17 << 20];
    let bad = [
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
            "an unsupported type",
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
        ("an unknown path", 404, target.get("/v1/nothing")),
    ];
    Ok(bad
        .map(|(name, status, request)| Bad {
            name,
            status,
            request,
        })
        .into())
}

/// A client that hangs up while it sends.
fn leave_in_the_middle(address: SocketAddr, request: &[u8]) {
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, TIMEOUT) {
        let _ = stream.write_all(&request[..request.len() / 2]);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn megabytes(usage: Usage) -> f64 {
    usage.resident as f64 / f64::from(1 << 20)
}

fn read(process: u32, begun: Instant) -> Option<Reading> {
    Some(Reading {
        minute: begun.elapsed().as_secs_f64() / 60.0,
        usage: Usage::of(process)?,
        descriptors: descriptors(process)?,
    })
}
