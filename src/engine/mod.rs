//! Runs classifiers: each lane is a named thread that owns one session and drives one worker of the model's queue.
//!
//! A lane's thread is where the batch is formed, run and answered, so a batch costs no hop between threads beyond the
//! one from the request to the lane and back.

mod lane;
mod plan;
mod solo;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use classifier::runtime::graph::is_steady;
use classifier::runtime::session::OUTLIER_BYTES;
use classifier::{Bundle, BundleError, Preprocessor, Row, RunError, Session, SessionOptions};

pub use self::lane::{Backend, Interrupt, Job, LaneError, Outputs};
use self::lane::{Lane, drive};
use self::plan::CALLER_RUN;
pub use self::plan::{LaneSettings, Plan, RunTimes};
use self::solo::{Shared, Solo};
pub use self::weights::Weights;
use crate::batch::{BatchService, Limits, Queue};
use crate::metrics::ModelMetrics;

/// The queue of a model, as the engine and those who submit to it see it.
pub type JobQueue = Queue<Job, Outputs, LaneError>;
/// Hands [`Job`]s to a model's lanes.
pub type JobService = BatchService<Job, Outputs, LaneError>;

/// The running lanes of one model.
#[derive(Debug)]
pub struct Engine {
    queue: JobQueue,
    plan: Plan,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Loads and warms a session for every lane, and starts the lanes. Blocks until all are ready.
    ///
    /// Must be called within a tokio runtime, which then provides the lanes with timers.
    pub fn start(
        name: &str,
        bundle: &Bundle,
        settings: LaneSettings,
        limits: Limits,
        weights: Weights,
        metrics: &ModelMetrics,
    ) -> Result<Self, BundleError> {
        let mut warm_up = WarmUp::new(bundle, weights);
        let cpus = crate::cpu::available();
        let plan = match settings {
            LaneSettings {
                lanes: Some(lanes),
                threads: Some(threads),
            } => Plan::configured(lanes, threads),
            settings => Plan::new(settings, measure(bundle, &warm_up)?, cpus),
        };
        let limits = Limits {
            fill_weight: if plan.batches_pay { limits.max_weight } else { 1 },
            caller_weight: if limits.max_wait.is_zero() {
                plan.caller_weight
            } else {
                0
            },
            ..limits
        };
        if !plan.batches_pay {
            warm_up.batches.iter_mut().for_each(|rows| rows.truncate(1));
        }
        let labels = bundle.labels.len();
        let bundle = bundle.clone();
        let load = move |threads| Session::load(&bundle, &SessionOptions { threads });
        if plan.threads.is_some() {
            let threads = plan.threads;
            let warm = move |session: &mut Session| warm_up.run(session);
            return Self::start_with(name, labels, plan, limits, metrics, move || load(threads), warm);
        }
        let shared = Arc::new(Shared::default());
        let load = move || {
            if shared.spread().is_none() {
                let spread = load(None)?;
                *shared.spread() = Some(spread);
            }
            Ok(Solo {
                own: load(Some(1))?,
                shared: Arc::clone(&shared),
            })
        };
        let warm = move |solo: &mut Solo<Session>| {
            if let Some(spread) = &mut *solo.shared.spread() {
                warm_up.run(spread)?;
            }
            warm_up.run(&mut solo.own)
        };
        Self::start_with(name, labels, plan, limits, metrics, load, warm)
    }

    fn start_with<B, L, W>(
        name: &str,
        labels: usize,
        plan: Plan,
        limits: Limits,
        metrics: &ModelMetrics,
        load: L,
        warm: W,
    ) -> Result<Self, BundleError>
    where
        B: Backend + Send + 'static,
        L: Fn() -> Result<B, BundleError> + Clone + Send + 'static,
        W: Fn(&mut B) -> Result<(), RunError> + Clone + Send + 'static,
    {
        let queue = JobQueue::new(limits);
        let callers_run = limits.caller_weight > 0;
        let start_lane = |index: usize| {
            let (ready, started) = mpsc::channel();
            let (metrics, load) = (metrics.clone(), load.clone());
            let new_lane = move || Lane::new(labels, metrics.clone(), load.clone());
            let (queue, warm, tokio) = (queue.clone(), warm.clone(), tokio::runtime::Handle::current());
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || drive(new_lane, &queue, callers_run, &tokio, warm, &ready))
                .map_err(|error| thread_failed(name, error.to_string()))?;
            // A lane that panics while it starts drops its end of the channel.
            started
                .recv()
                .map_err(|_| thread_failed(name, "its lane ended while it started".into()))??;
            Ok(thread)
        };
        let started = (0..plan.lanes).map(start_lane).collect::<Result<Vec<_>, _>>();
        let threads = started.inspect_err(|_| queue.close())?;
        Ok(Self {
            queue,
            plan,
            threads: Mutex::new(threads),
        })
    }

    /// Where jobs are submitted.
    pub fn service(&self) -> JobService {
        self.queue.service()
    }

    /// The queue that the lanes serve.
    pub fn queue(&self) -> &JobQueue {
        &self.queue
    }

    /// How many lanes and threads there are, and why.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes no more jobs, and waits until the lanes have finished those that they have.
    pub fn join(&self) {
        self.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a lane ended with a panic");
            }
        }
    }
}

/// A model that was replaced goes with the last request that uses it: its lanes finish what they have, and end.
impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn thread_failed(name: &str, found: String) -> BundleError {
    BundleError {
        file: name.into(),
        key: None,
        expected: "a lane to start".into(),
        found,
    }
}

/// Batches of blank rows, so that the first request meets allocated memory.
#[derive(Clone)]
struct WarmUp {
    batches: Vec<Vec<Row>>,
    /// Weight of the first of them, the heaviest.
    heaviest: u32,
    /// A few rows of the kind that most requests have.
    typical: Vec<Row>,
}

impl WarmUp {
    /// The largest batch and the smallest of every length. The largest has no more rows than a run keeps memory for.
    fn new(bundle: &Bundle, weights: Weights) -> Self {
        let (batches, heaviest, typical) = match &bundle.preprocessor {
            Preprocessor::Image(preprocessor) => {
                let length: usize = preprocessor.shape().iter().product();
                let blank = Row::Image(vec![0.0; length]);
                let kept = OUTLIER_BYTES / (size_of::<f32>() * length).max(1);
                let largest = vec![blank.clone(); kept.clamp(1, weights.max_weight() as usize)];
                let typical = largest.iter().take(MEASURED_BATCH).cloned().collect();
                let weight = largest.len() as u32;
                (vec![largest, vec![blank]], weight, typical)
            }
            Preprocessor::Text(tokenizer) => {
                let rows = |length, count| vec![Row::Text(tokenizer.blank(length)); count];
                let fitting = |length| weights.most_rows(length) as usize;
                let buckets = tokenizer.buckets();
                let longest = tokenizer.max_length();
                let mut batches = vec![rows(longest, fitting(longest))];
                batches.extend(buckets.iter().map(|&length| rows(length, 1)));
                let heaviest = batches[0].len() as u32 * weights.of(longest);
                let middle = buckets[buckets.len() / 2];
                (
                    batches,
                    heaviest,
                    rows(middle, fitting(middle).min(MEASURED_BATCH)),
                )
            }
        };
        Self {
            batches,
            heaviest,
            typical,
        }
    }

    fn run(&self, session: &mut Session) -> Result<(), RunError> {
        self.batches.iter().try_for_each(|rows| run_blank(session, rows))
    }
}

/// Rows in the batch whose time is measured.
const MEASURED_BATCH: usize = 4;
/// Most runs that are timed, and the time after which there are enough of them: a start must not take seconds.
const MEASURED_RUNS: usize = 5;
const MEASURED_FOR: Duration = Duration::from_millis(60);

fn run_blank(session: &mut Session, rows: &[Row]) -> Result<(), RunError> {
    session.run(rows.iter(), |_| {}).map(|_| ())
}

/// Times runs on one thread.
fn measure(bundle: &Bundle, warm_up: &WarmUp) -> Result<RunTimes, BundleError> {
    let mut session = Session::load(bundle, &SessionOptions { threads: Some(1) })?;
    let mut median = |rows: &[Row]| {
        // The first run allocates.
        run_blank(&mut session, rows).map_err(graph_failed)?;
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.is_empty() || times.len() < MEASURED_RUNS && begun.elapsed() < MEASURED_FOR {
            let started = Instant::now();
            run_blank(&mut session, rows).map_err(graph_failed)?;
            times.push(started.elapsed());
        }
        times.sort();
        Ok::<_, BundleError>(times[times.len() / 2])
    };
    let typical = &warm_up.typical;
    let mut times = RunTimes {
        single: median(&typical[..1])?,
        in_batch: median(typical)? / typical.len() as u32,
        of_a_unit: None,
    };
    if times.single <= CALLER_RUN && is_steady(&bundle.model()).unwrap_or(false) {
        times.of_a_unit = Some(median(&warm_up.batches[0])? / warm_up.heaviest);
    }
    Ok(times)
}

/// A graph that loads and then fails on zeros.
fn graph_failed(error: RunError) -> BundleError {
    BundleError {
        file: classifier::bundle::MODEL.into(),
        key: None,
        expected: "a graph that runs".into(),
        found: error.to_string(),
    }
}
