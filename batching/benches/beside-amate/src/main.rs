//! Runs the same work through `batching` and through `amate`, and prints throughput, latency and
//! CPU time.
//!
//! The inner service spins for a fixed time and for a time for each input, on one worker thread.
//! Callers are tasks of a tokio runtime with two threads; each submits its next request when it has
//! the reply to the one before. The three batchers take turns, several rounds of each, and the
//! median of the rounds is printed.
//!
//! ```text
//! cargo run --release --manifest-path batching/benches/beside-amate/Cargo.toml
//! ```

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use amate::{Batching, Config, Engine, Queued};
use batching::{Batch, BatchService, Limits, Queue, Submission};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tower::Service;

const MAX_BATCH: u32 = 64;
const CAPACITY: u32 = 4096;
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_secs(1);

/// Microseconds of a batch, and of each input in it.
#[derive(Clone, Copy)]
struct Work {
    batch: u64,
    input: u64,
}

impl Work {
    fn run(self, inputs: usize) {
        let time = Duration::from_micros(self.batch + self.input * inputs as u64);
        let started = Instant::now();
        while started.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}

impl Service<Batch<u64>> for Work {
    type Response = Vec<Result<u64, ()>>;
    type Error = ();
    type Future = Ready<Result<Self::Response, ()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<u64>) -> Self::Future {
        self.run(batch.inputs.len());
        ready(Ok(batch.inputs.iter().map(|n| Ok(n + 1)).collect()))
    }
}

impl Batching for Work {
    type Item = (u64, oneshot::Sender<u64>);

    fn weight(&self, _: &Self::Item) -> usize {
        1
    }

    fn wanted(&self, item: &Self::Item) -> bool {
        !item.1.is_closed()
    }

    fn window(&self) -> Duration {
        Duration::ZERO
    }

    fn run(&self, batch: Vec<Queued<Self::Item>>) {
        Work::run(*self, batch.len());
        for queued in batch {
            let (n, reply) = queued.item;
            let _ = reply.send(n + 1);
        }
    }
}

/// A batcher with one worker thread.
#[derive(Clone)]
enum Batcher {
    Amate(Arc<Engine<<Work as Batching>::Item>>),
    Batching(BatchService<u64, u64, ()>),
}

impl Batcher {
    async fn run(&mut self, n: u64) -> u64 {
        match self {
            Self::Amate(engine) => {
                let (reply, replied) = oneshot::channel();
                assert!(engine.submit(None, (n, reply)).is_ok(), "the queue is full");
                replied.await.expect("the worker replies")
            }
            Self::Batching(service) => {
                let submission = Submission::new(n);
                service.call(submission).await.expect("the worker replies").output
            }
        }
    }
}

const NAMES: [&str; 3] = ["amate 0.16.2", "batching", "batching, caller-runs"];

/// The batcher, and for `batching` its queue and the thread of its worker.
type Started = (Batcher, Option<(Queue<u64, u64, ()>, JoinHandle<()>)>);

fn start(which: usize, work: Work) -> Started {
    if which == 0 {
        let config = Config {
            max_batch: MAX_BATCH as usize,
            workers: 1,
            capacity: Some(CAPACITY as usize),
            waits_unannounced: false,
        };
        return (
            Batcher::Amate(Arc::new(Engine::start(work, config, |i| format!("amate-{i}")))),
            None,
        );
    }
    let callers_run = which == 2;
    let caller_weight = if callers_run { MAX_BATCH } else { 0 };
    let queue = Queue::new(Limits::new(MAX_BATCH, CAPACITY).caller_weight(caller_weight));
    let (plain, open) = if callers_run {
        (None, Some(queue.caller_runs_worker(work)))
    } else {
        (Some(queue.worker(work)), None)
    };
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let ended = match (plain, open) {
            (Some(worker), _) => runtime.block_on(worker),
            (_, Some(worker)) => runtime.block_on(worker),
            (None, None) => Ok(()),
        };
        ended.expect("the inner service never fails");
    });
    (Batcher::Batching(queue.service()), Some((queue, thread)))
}

/// Requests a second, microseconds of the median and of the 99th percentile, microseconds of CPU
/// time a request.
type Figures = [f64; 4];

fn measure(which: usize, work: Work, callers: usize) -> Figures {
    let runtime = runtime();
    let (batcher, thread) = start(which, work);
    let (is_warm, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = (0..callers as u64)
        .map(|caller| {
            let (mut batcher, is_warm, is_over) =
                (batcher.clone(), Arc::clone(&is_warm), Arc::clone(&is_over));
            runtime.spawn(async move {
                let mut times = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    assert_eq!(batcher.run(caller).await, caller + 1);
                    if is_warm.load(Ordering::Relaxed) {
                        times.push(started.elapsed());
                    }
                }
                times
            })
        })
        .collect();
    std::thread::sleep(WARM_UP);
    let (cpu, started) = (cpu_time(), Instant::now());
    is_warm.store(true, Ordering::Relaxed);
    std::thread::sleep(ROUND);
    let (cpu, elapsed) = (cpu_time() - cpu, started.elapsed());
    is_over.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(runtime.block_on(task).expect("a caller does not panic"));
    }
    drop(batcher);
    if let Some((queue, thread)) = thread {
        queue.close();
        thread.join().expect("the worker does not panic");
    }
    times.sort_unstable();
    let at = |quantile: f64| times[(times.len() as f64 * quantile) as usize].as_secs_f64() * 1e6;
    let count = times.len() as f64;
    [
        count / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        cpu.as_secs_f64() * 1e6 / count,
    ]
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime")
}

/// CPU time of this process, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, rest) = stat.rsplit_once(')').expect("the name is in brackets");
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}

fn median(rounds: &[Figures], figure: usize) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(|round| round[figure]).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    println!("| batch + input | callers | batcher | requests/s | p50 us | p99 us | CPU us/request |");
    println!("|---|--:|---|--:|--:|--:|--:|");
    for work in [(5, 1), (100, 10), (2000, 100)].map(|(batch, input)| Work { batch, input }) {
        for callers in [1, 16, 256] {
            let mut rounds = [const { Vec::new() }; 3];
            for _ in 0..ROUNDS {
                for (which, rounds) in rounds.iter_mut().enumerate() {
                    rounds.push(measure(which, work, callers));
                }
            }
            for (name, rounds) in NAMES.iter().zip(&rounds) {
                println!(
                    "| {} + {} us | {callers} | {name} | {:.0} | {:.0} | {:.0} | {:.1} |",
                    work.batch,
                    work.input,
                    median(rounds, 0),
                    median(rounds, 1),
                    median(rounds, 2),
                    median(rounds, 3),
                );
            }
        }
    }
}
