//! Starts the threads of a load, watches over them, and adds up what they counted.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use crate::error::Error;
use crate::schedule::{Schedule, TICK, pace};
use crate::spec::{Arrivals, LoadSpec};
use crate::tally::{Tally, Window};
use crate::worker::{Worker, lock};

/// Follows a load while it runs, on the thread that called [`run`].
///
/// All methods do nothing by default, and `()` is an observer that ignores everything.
pub trait Observer {
    /// The warm-up is over: requests count from now on.
    fn begin(&mut self) {}
    /// `ended` requests have ended, of the warm-up and since, `elapsed` after the start.
    fn tick(&mut self, _elapsed: Duration, _ended: u64) {}
    /// The measurement is over. Requests that are under way are still waited for.
    fn end(&mut self) {}
}

impl Observer for () {}

/// The result of a load.
#[derive(Debug)]
pub struct Outcome {
    /// The counts and latencies.
    pub tally: Tally,
    /// How long was measured: [`LoadSpec::duration`], or less after an interruption.
    pub measured: Duration,
    /// Whether Ctrl-C ended the load early.
    pub interrupted: bool,
}

/// Runs a load to its end, or until Ctrl-C.
///
/// The requests of the warm-up are sent and not counted. At the end of the measurement nothing more
/// is sent, and requests that are under way are waited for. On Ctrl-C they are given up.
///
/// # Errors
///
/// If there are no requests to send, or if a thread cannot be started or panics. Requests that fail
/// are counted, see [`Tally::failures`].
///
/// # Panics
///
/// If it is called on a thread that runs async code, because it blocks.
pub fn run(spec: &LoadSpec, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    if spec.requests.is_empty() {
        return Err(Error::NoRequests);
    }
    let runtime = new_runtime()?;
    let start = Instant::now() + spec.warmup;
    let window = Window {
        start,
        end: start + spec.duration,
    };
    let (stop, stopped) = watch::channel(false);
    let (threads, tallies) = start_threads(spec, window, &stopped)?;
    // From here on the threads hold the only receivers, so `stop.closed()` waits for their end.
    drop(stopped);
    let ended_at = runtime.block_on(watch_over(window, &tallies, &stop, observer));
    if ended_at.is_some() {
        let _ = stop.send(true);
    }
    for thread in threads {
        thread.join().map_err(|_| Error::Panicked)?;
    }
    let mut tally = Tally::default();
    for part in &tallies {
        tally.add(&lock(part));
    }
    let end = ended_at.unwrap_or(window.end);
    Ok(Outcome {
        tally,
        measured: end.saturating_duration_since(window.start),
        interrupted: ended_at.is_some(),
    })
}

type Tallies = Vec<Arc<Mutex<Tally>>>;

/// Starts the threads that send, and the one that keeps the time of an open loop.
fn start_threads(
    spec: &LoadSpec,
    window: Window,
    stopped: &watch::Receiver<bool>,
) -> Result<(Vec<JoinHandle<()>>, Tallies), Error> {
    let mut threads = Vec::new();
    let mut tallies = Vec::new();
    let mut feeds = Vec::new();
    for connections in shares(spec.arrivals.max_connections(), spec.threads) {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (feed, arrivals) = mpsc::unbounded_channel();
        let worker = Worker::new(spec.clone(), window, Arc::clone(&tally));
        let mut stopped = stopped.clone();
        // Built here, where a failure can be returned.
        let runtime = new_runtime()?;
        threads.push(spawn("load", move || {
            runtime.block_on(async {
                tokio::select! {
                    () = worker.run(connections, arrivals) => {}
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                }
            });
        })?);
        tallies.push(tally);
        feeds.push(feed);
    }
    if let Arrivals::Open { rate, .. } = spec.arrivals {
        let schedule = Schedule::new(Instant::now(), rate, spec.warmup + spec.duration);
        let stopped = stopped.clone();
        threads.push(spawn("pacer", move || pace(schedule, &feeds, &stopped))?);
    }
    Ok((threads, tallies))
}

fn new_runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(Error::Start)
}

/// How many of the connections each thread gets.
fn shares(connections: usize, threads: usize) -> Vec<usize> {
    let threads = threads.clamp(1, connections.max(1));
    (0..threads)
        .map(|thread| connections / threads + usize::from(thread < connections % threads))
        .collect()
}

/// Calls the observer until the load is over. Returns the time of a Ctrl-C, if there was one.
async fn watch_over(
    window: Window,
    tallies: &[Arc<Mutex<Tally>>],
    stop: &watch::Sender<bool>,
    observer: &mut dyn Observer,
) -> Option<Instant> {
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let started = Instant::now();
    let mut begun = false;
    loop {
        let now = Instant::now();
        if !begun && now >= window.start {
            begun = true;
            observer.begin();
        }
        if now >= window.end {
            observer.end();
            break;
        }
        let ended = tallies.iter().map(|tally| lock(tally).ended).sum();
        observer.tick(now - started, ended);
        let next = if begun { window.end } else { window.start };
        tokio::select! {
            () = tokio::time::sleep_until(next.min(now + TICK).into()) => {}
            _ = &mut interrupt => {
                observer.end();
                return Some(Instant::now());
            }
        }
    }
    // All receivers are gone once every request has ended.
    tokio::select! {
        () = stop.closed() => None,
        _ = &mut interrupt => Some(window.end),
    }
}

/// The first of `addresses` that accepts a connection.
///
/// A host name often has an address of each IP family, and a server may listen on one of them.
///
/// # Errors
///
/// The error of the last address, if none accepts a connection within `timeout`; or
/// [`Error::NoAddress`] if there are none.
pub fn reachable(addresses: &[SocketAddr], timeout: Duration) -> Result<SocketAddr, Error> {
    let mut last = None;
    for &address in addresses {
        match std::net::TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => return Ok(address),
            Err(source) => last = Some(Error::Connect { address, source }),
        }
    }
    Err(last.unwrap_or(Error::NoAddress))
}
