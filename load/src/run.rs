//! Runs a load: connections that send requests, and the clock above them.
//!
//! Requests are bytes that were built before; answers are read by [`ResponseReader`]. There is one thread, unless more
//! are asked for, so that the server under test keeps the machine.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use crate::response::{Response, ResponseReader};
use crate::schedule::Schedule;
use crate::tally::{Ended, Failure, Tally, Window};

/// Room for one read: most answers are far smaller.
const READ: usize = 16 * 1024;
/// Pause of a connection after a failure, so that a server that is down is not called in a busy loop.
const PAUSE: Duration = Duration::from_millis(10);
/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Each connection sends the next request when it has the answer to the last.
    Closed {
        /// How many connections.
        connections: usize,
    },
    /// Requests are sent by a schedule, whatever the server does.
    Open {
        /// Requests per second.
        rate: f64,
        /// Connections are opened as they are needed, up to so many.
        max_connections: usize,
    },
}

/// A load.
#[derive(Debug, Clone)]
pub struct LoadSpec {
    /// The server.
    pub address: SocketAddr,
    /// Requests, sent in turn.
    pub requests: Arc<[Bytes]>,
    /// When they are sent.
    pub arrivals: Arrivals,
    /// How long to run before anything is counted.
    pub warmup: Duration,
    /// How long to measure.
    pub duration: Duration,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Threads of the load generator.
    pub threads: usize,
}

/// Told what happens while a load runs, on the thread that started it.
pub trait Observer {
    /// The warm-up is over.
    fn begin(&mut self) {}
    /// So many requests have ended.
    fn tick(&mut self, _elapsed: Duration, _ended: u64) {}
    /// The window is over; requests that are under way are still waited for.
    fn end(&mut self) {}
}

impl Observer for () {}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// What was counted.
    pub tally: Tally,
    /// Length of the window: shorter than planned after an interruption.
    pub measured: Duration,
    /// Ctrl-C was pressed.
    pub interrupted: bool,
}

/// Runs a load to its end, or until Ctrl-C. Blocks; must not be called on a thread that runs async code.
pub fn run(spec: &LoadSpec, observer: &mut dyn Observer) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let start = Instant::now() + spec.warmup;
    let window = Window {
        start,
        end: start + spec.duration,
    };
    let (stop, stopped) = watch::channel(false);
    let mut tallies = Vec::new();
    let mut threads = Vec::new();
    let mut feeds = Vec::new();
    for share in shares(spec.arrivals, spec.threads) {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (feed, arrivals) = mpsc::unbounded_channel();
        let sender = Sender {
            spec: spec.clone(),
            window,
            tally: Arc::clone(&tally),
            next: Arc::new(AtomicU64::new(0)),
        };
        let mut stopped = stopped.clone();
        // Built here, where a failure can be told.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let body = move || work(&runtime, sender, share, arrivals, &mut stopped);
        threads.push(thread::Builder::new().name("load".into()).spawn(body)?);
        tallies.push(tally);
        feeds.push(feed);
    }
    let pacer = match spec.arrivals {
        Arrivals::Closed { .. } => {
            drop(feeds);
            None
        }
        Arrivals::Open { rate, .. } => {
            let length = spec.warmup + spec.duration;
            let schedule = Schedule::new(Instant::now(), rate, length);
            let stopped = stopped.clone();
            let body = move || pace(schedule, &feeds, &stopped);
            Some(thread::Builder::new().name("pacer".into()).spawn(body)?)
        }
    };
    // From here on the threads hold the only receivers, so that their end can be waited for.
    drop(stopped);
    let ended_at = runtime.block_on(watch_over(window, &tallies, &stop, observer));
    if ended_at.is_some() {
        // Requests under way are given up as well.
        let _ = stop.send(true);
    }
    for thread in threads.into_iter().chain(pacer) {
        if thread.join().is_err() {
            anyhow::bail!("a thread of the load generator panicked");
        }
    }
    let mut tally = Tally::default();
    for part in &tallies {
        tally.add(&lock(part));
    }
    Ok(Outcome {
        tally,
        measured: ended_at
            .unwrap_or(window.end)
            .saturating_duration_since(window.start),
        interrupted: ended_at.is_some(),
    })
}

/// Tells the observer what happens until the window is over. Gives the moment of a Ctrl-C, if there was one.
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
    // Every receiver gone means that every request has ended.
    tokio::select! {
        () = stop.closed() => None,
        _ = &mut interrupt => Some(window.end),
    }
}

/// What each thread gets of the connections.
fn shares(arrivals: Arrivals, threads: usize) -> Vec<usize> {
    let (Arrivals::Closed { connections }
    | Arrivals::Open {
        max_connections: connections,
        ..
    }) = arrivals;
    let threads = threads.clamp(1, connections.max(1));
    (0..threads)
        .map(|thread| connections / threads + usize::from(thread < connections % threads))
        .collect()
}

/// One thread of the load generator.
fn work(
    runtime: &Runtime,
    sender: Sender,
    connections: usize,
    arrivals: mpsc::UnboundedReceiver<Instant>,
    stopped: &mut watch::Receiver<bool>,
) {
    runtime.block_on(async {
        let all = async {
            match sender.spec.arrivals {
                Arrivals::Closed { .. } => closed_loop(sender, connections).await,
                Arrivals::Open { .. } => open_loop(sender, connections, arrivals).await,
            }
        };
        tokio::select! {
            () = all => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    });
}

async fn closed_loop(sender: Sender, connections: usize) {
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let sender = sender.clone();
        tasks.spawn(async move {
            let mut connection = Connection::new(sender.spec.address, sender.spec.timeout);
            while Instant::now() < sender.window.end {
                sender.send(&mut connection, None).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Connections of an open loop on one thread: those that wait for work, and work that waits for a connection.
#[derive(Debug, Default)]
struct Pool {
    idle: Vec<oneshot::Sender<Instant>>,
    backlog: VecDeque<Instant>,
    over: bool,
}

async fn open_loop(sender: Sender, max_connections: usize, mut arrivals: mpsc::UnboundedReceiver<Instant>) {
    let pool = Arc::new(Mutex::new(Pool::default()));
    let mut tasks = JoinSet::new();
    while let Some(due) = arrivals.recv().await {
        let mut pooled = lock(&pool);
        // The most recently used first, so that no more connections are open than are needed.
        if let Some(idle) = pooled.idle.pop() {
            let _ = idle.send(due);
        } else if tasks.len() < max_connections {
            tasks.spawn(connection_of_pool(sender.clone(), Arc::clone(&pool), due));
        } else {
            pooled.backlog.push_back(due);
        }
        if Instant::now() >= sender.window.end {
            break;
        }
    }
    let unsent = {
        let mut pooled = lock(&pool);
        pooled.over = true;
        pooled.idle.clear();
        std::mem::take(&mut pooled.backlog)
    };
    let mut count = unsent.iter().filter(|due| sender.window.contains(**due)).count();
    while let Some(due) = arrivals.recv().await {
        count += usize::from(sender.window.contains(due));
    }
    lock(&sender.tally).unsent += count as u64;
    while tasks.join_next().await.is_some() {}
}

async fn connection_of_pool(sender: Sender, pool: Arc<Mutex<Pool>>, first: Instant) {
    let mut connection = Connection::new(sender.spec.address, sender.spec.timeout);
    let mut due = first;
    loop {
        connection.drop_if_stale();
        sender.send(&mut connection, Some(due)).await;
        let work = {
            let mut pool = lock(&pool);
            match pool.backlog.pop_front() {
                Some(due) => Ok(due),
                None if pool.over => return,
                None => {
                    let (idle, work) = oneshot::channel();
                    pool.idle.push(idle);
                    Err(work)
                }
            }
        };
        due = match work {
            Ok(due) => due,
            Err(work) => match work.await {
                Ok(due) => due,
                Err(_) => return,
            },
        };
    }
}

/// Hands out arrivals when they are due. A thread of its own, because tokio's timers are a millisecond coarse.
fn pace(schedule: Schedule, feeds: &[mpsc::UnboundedSender<Instant>], stopped: &watch::Receiver<bool>) {
    let mut index = 0;
    while let Some(due) = schedule.at(index) {
        let now = Instant::now();
        if due > now {
            // Short steps, so that an interruption is noticed at a low rate as well.
            thread::sleep((due - now).min(TICK));
            if *stopped.borrow() {
                return;
            }
            continue;
        }
        let feed = &feeds[index as usize % feeds.len()];
        if feed.send(due).is_err() {
            return;
        }
        index += 1;
    }
}

/// What the connections of a thread share.
#[derive(Debug, Clone)]
struct Sender {
    spec: LoadSpec,
    window: Window,
    tally: Arc<Mutex<Tally>>,
    next: Arc<AtomicU64>,
}

impl Sender {
    /// Sends the next request, waits for how it ends and counts it. `due` is now, if it is not given.
    async fn send(&self, connection: &mut Connection, due: Option<Instant>) {
        let requests = &self.spec.requests;
        let index = self.next.fetch_add(1, Ordering::Relaxed) as usize % requests.len();
        let request = &requests[index];
        let sent = Instant::now();
        let outcome = connection.exchange(request).await;
        let failed = outcome.is_err();
        let ended = Ended {
            due: due.unwrap_or(sent),
            sent,
            end: Instant::now(),
            bytes: request.len() as u64,
            outcome,
        };
        lock(&self.tally).record(&ended, &self.window, due.is_some());
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// One connection, opened when it is first needed and again whenever it was lost.
struct Connection {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<TcpStream>,
    buffer: BytesMut,
    reader: ResponseReader,
    /// Set anew only when it goes off, not for every request.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self {
            address,
            timeout,
            stream: None,
            buffer: BytesMut::with_capacity(READ),
            reader: ResponseReader::new(),
            timer: None,
        }
    }

    /// An idle connection that the server has closed is no failure of the next request.
    fn drop_if_stale(&mut self) {
        if let Some(stream) = &self.stream {
            let idle = matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
            if !idle {
                self.stream = None;
            }
        }
    }

    async fn exchange(&mut self, request: &Bytes) -> Result<Response, Failure> {
        let deadline = (Instant::now() + self.timeout).into();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let too_late = async {
            loop {
                timer.as_mut().await;
                if tokio::time::Instant::now() >= deadline {
                    return;
                }
                timer.as_mut().reset(deadline);
            }
        };
        let talk = async {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                empty => {
                    self.buffer.clear();
                    self.reader = ResponseReader::new();
                    empty.insert(connect(self.address).await?)
                }
            };
            talk(stream, &mut self.buffer, &mut self.reader, request).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = talk => outcome,
            () = too_late => Err(Failure::Timeout),
        };
        if !matches!(&outcome, Ok(answer) if answer.reusable) {
            self.stream = None;
        }
        outcome
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    Ok(stream)
}

/// Sends a request and reads its answer, which may come before the request is out.
async fn talk(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    reader: &mut ResponseReader,
    request: &[u8],
) -> Result<Response, Failure> {
    let (mut receiving, mut sending) = stream.split();
    let sent = sending.try_write(request).unwrap_or(0);
    let mut answer = pin!(receive(&mut receiving, buffer, reader));
    if sent < request.len() {
        tokio::select! {
            biased;
            // A refusal before the end of the body: the rest of it cannot be taken back, so the connection is over.
            early = &mut answer => return early.map(|answer| Response { reusable: false, ..answer }),
            // If the server takes no more, its answer says why.
            _ = sending.write_all(&request[sent..]) => {}
        }
    }
    answer.await
}

async fn receive(
    stream: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    reader: &mut ResponseReader,
) -> Result<Response, Failure> {
    loop {
        buffer.reserve(READ);
        match stream.read_buf(buffer).await {
            Ok(0) => return reader.closed().ok_or(Failure::Closed),
            Ok(_) => {}
            Err(_) => return Err(Failure::Broken),
        }
        if let Some(answer) = reader.advance(buffer).map_err(|_| Failure::Malformed)? {
            // One request, one answer: whatever else came was not asked for.
            return if buffer.is_empty() {
                Ok(answer)
            } else {
                Err(Failure::Malformed)
            };
        }
    }
}

/// The first address that takes a connection.
pub fn reachable(addresses: &[SocketAddr], timeout: Duration) -> Result<SocketAddr> {
    let mut last = None;
    for address in addresses {
        match std::net::TcpStream::connect_timeout(address, timeout) {
            Ok(_) => return Ok(*address),
            Err(error) => last = Some((address, error)),
        }
    }
    let (address, error) = last.context("no address to connect to")?;
    Err(error).with_context(|| format!("no connection to {address}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
