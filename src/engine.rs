//! Runs classifiers: each lane is a named thread that owns one session and drives one worker of the model's queue.
//!
//! A lane's thread is where the batch is formed, run and answered, so a batch costs no hop between threads beyond the
//! one from the request to the lane and back.

mod health;
mod lane;
mod placed;
mod plan;
#[cfg(test)]
mod tests;
mod weights;
mod wide;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use classifier::golden::Proof;
use classifier::runtime::session::OUTLIER_BYTES;
use classifier::{
    Bundle, BundleError, LoadError, Placement, Preprocessor, Row, RunError, Session, SessionOptions,
};

use self::health::Health;
pub use self::lane::{Backend, Interrupt, Job, LaneError, Outputs};
use self::lane::{Lane, drive};
pub use self::placed::Placed;
use self::plan::CALLER_RUN;
pub use self::plan::{LaneSettings, Plan, RunTimes};
pub use self::weights::Weights;
use self::wide::{Shared, Solo};
use crate::metrics::ModelMetrics;
use crate::repoll;
use batching::{BatchService, Limits, Queue};

/// The queue of a model, as the engine and those who submit to it see it.
pub type JobQueue = Queue<Job, Outputs, LaneError>;
/// Hands [`Job`]s to a model's lanes.
pub type JobService = BatchService<Job, Outputs, LaneError>;

/// The running lanes of one model.
#[derive(Debug)]
pub struct Engine {
    queue: JobQueue,
    plan: Plan,
    placement: Placement,
    health: Arc<Health>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Loads and warms a session for every lane, and starts the lanes. Blocks until all are ready.
    ///
    /// Must be called within a tokio runtime, which then provides the lanes with timers.
    #[allow(
        clippy::too_many_arguments,
        reason = "what a model consists of, each from another place"
    )]
    pub fn start(
        name: &str,
        bundle: &Bundle,
        settings: LaneSettings,
        limits: Limits,
        weights: Weights,
        placed: Placed,
        proof: Option<Arc<Proof>>,
        metrics: &ModelMetrics,
    ) -> Result<Self, LoadError> {
        let on_gpu = placed.is_on_gpu();
        let mut warm_up = WarmUp::new(bundle, weights, on_gpu);
        let cpus = crate::cpu::available();
        let Placed {
            device,
            placement,
            session,
        } = placed;
        let plan = match settings {
            _ if on_gpu => Plan::on_gpu(settings),
            LaneSettings {
                lanes: Some(lanes),
                threads: Some(threads),
            } => Plan::configured(lanes, threads),
            settings => Plan::new(settings, measure(bundle, &warm_up)?, cpus),
        };
        let callers_run = limits.max_wait.is_zero();
        let limits = limits
            .fill_weight(if plan.batches_pay { limits.max_weight } else { 1 })
            .caller_weight(if callers_run { plan.caller_weight } else { 0 });
        if !plan.batches_pay {
            warm_up.batches.iter_mut().for_each(|batch| batch.rows = 1);
        }
        let lanes = LaneStart {
            name,
            labels: bundle.labels.len(),
            plan,
            placement,
            limits,
            metrics,
        };
        let bundle = bundle.clone();
        // Each session proves itself, also one that is loaded again after a run that failed.
        let prove = move |mut session: Session| {
            if let Some(proof) = &proof {
                proof.check(&mut session)?;
            }
            Ok::<_, LoadError>(session)
        };
        let prove_found = prove.clone();
        let load = move |threads| {
            let options = SessionOptions::default()
                .with_threads(threads)
                .with_device(device.clone());
            prove(Session::load(&bundle, &options)?)
        };
        if lanes.plan.threads.is_some() {
            let threads = lanes.plan.threads;
            // The first lane goes on with the session that the device was found with.
            let found = Arc::new(Mutex::new(session));
            let load = move || match found.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(session) => prove_found(session),
                None => load(threads),
            };
            return Self::start_with(lanes, load, move |session| warm_up.run(session));
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
        Self::start_with(lanes, load, warm)
    }

    fn start_with<B, L, W>(lanes: LaneStart<'_>, load: L, warm: W) -> Result<Self, LoadError>
    where
        B: Backend + Send + 'static,
        L: Fn() -> Result<B, LoadError> + Clone + Send + 'static,
        W: Fn(&mut B) -> Result<(), RunError> + Clone + Send + 'static,
    {
        let LaneStart {
            name,
            labels,
            plan,
            placement,
            limits,
            metrics,
        } = lanes;
        let health = Arc::new(Health::new(name));
        let queue = JobQueue::builder(limits)
            .give_way_with(repoll::yield_to_others)
            .build();
        let callers_run = limits.caller_weight > 0;
        let start_lane = |index: usize| {
            let (ready, started) = mpsc::channel();
            let (metrics, load, health) = (metrics.clone(), load.clone(), Arc::clone(&health));
            let new_lane = move || Lane::new(labels, metrics.clone(), Arc::clone(&health), load.clone());
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
        let started = (0..plan.lanes)
            .map(start_lane)
            .collect::<Result<Vec<_>, LoadError>>();
        let threads = started.inspect_err(|_| queue.close())?;
        Ok(Self {
            queue,
            plan,
            placement,
            health,
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

    /// Where the sessions run.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Whether the latest runs failed, one after the other.
    pub fn is_degraded(&self) -> bool {
        self.health.is_degraded()
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

/// What lanes are started with, beside their backend.
struct LaneStart<'a> {
    name: &'a str,
    labels: usize,
    plan: Plan,
    placement: Placement,
    limits: Limits,
    metrics: &'a ModelMetrics,
}

fn thread_failed(name: &str, found: String) -> BundleError {
    BundleError {
        file: name.into(),
        key: None,
        expected: "a lane to start".into(),
        found,
    }
}

/// A batch of equal rows without content.
#[derive(Clone)]
struct Blank {
    row: Row,
    rows: usize,
}

impl Blank {
    fn run(&self, session: &mut Session) -> Result<(), RunError> {
        let rows = std::iter::repeat_n(&self.row, self.rows);
        session.run(rows, |_| {}).map(|_| ())
    }
}

/// Batches of blank rows, so that the first request meets allocated memory.
#[derive(Clone)]
struct WarmUp {
    batches: Vec<Blank>,
    /// Weight of the first of them, the heaviest.
    heaviest: u32,
    /// A few rows of the kind that most requests have.
    typical: Blank,
}

impl WarmUp {
    /// The largest batch and the smallest of every length. On the CPU the largest has no more rows than a run keeps memory for; a
    /// GPU must hold a full one.
    fn new(bundle: &Bundle, weights: Weights, on_gpu: bool) -> Self {
        match &bundle.preprocessor {
            Preprocessor::Image(preprocessor) => {
                let length: usize = preprocessor.shape().iter().product();
                let full = weights.max_weight() as usize;
                let kept = OUTLIER_BYTES / (size_of::<f32>() * length).max(1);
                let largest = if on_gpu { full } else { kept.clamp(1, full) };
                let row = Row::Image(vec![0.0; length]);
                let batch = |rows| Blank {
                    row: row.clone(),
                    rows,
                };
                Self {
                    heaviest: largest as u32,
                    typical: batch(largest.min(MEASURED_BATCH)),
                    batches: vec![batch(largest), batch(1)],
                }
            }
            Preprocessor::Text(tokenizer) => {
                let batch = |length, rows| Blank {
                    row: Row::Text(tokenizer.blank(length)),
                    rows,
                };
                let fitting = |length| weights.most_rows(length) as usize;
                let buckets = tokenizer.buckets();
                let longest = tokenizer.max_length();
                let mut batches = vec![batch(longest, fitting(longest))];
                batches.extend(buckets.iter().map(|&length| batch(length, 1)));
                let middle = buckets[buckets.len() / 2];
                Self {
                    heaviest: batches[0].rows as u32 * weights.of(longest),
                    typical: batch(middle, fitting(middle).min(MEASURED_BATCH)),
                    batches,
                }
            }
        }
    }

    fn run(&self, session: &mut Session) -> Result<(), RunError> {
        let sizes = session.batch_sizes();
        if sizes.is_empty() {
            return self.batches.iter().try_for_each(|batch| batch.run(session));
        }
        let row = self.typical.row.clone();
        let mut batch = Blank { row, rows: 0 };
        sizes.into_iter().try_for_each(|rows| {
            batch.rows = rows;
            batch.run(session)
        })
    }
}

/// Rows in the batch whose time is measured.
const MEASURED_BATCH: usize = 4;
/// Most runs that are timed, and the time after which there are enough of them: a start must not take seconds.
const MEASURED_RUNS: usize = 5;
const MEASURED_FOR: Duration = Duration::from_millis(60);

/// Times runs on one thread.
fn measure(bundle: &Bundle, warm_up: &WarmUp) -> Result<RunTimes, LoadError> {
    let mut session = Session::load(bundle, &SessionOptions::default())?;
    let mut median = |batch: &Blank| {
        // The first run allocates.
        batch.run(&mut session).map_err(graph_failed)?;
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.is_empty() || times.len() < MEASURED_RUNS && begun.elapsed() < MEASURED_FOR {
            let started = Instant::now();
            batch.run(&mut session).map_err(graph_failed)?;
            times.push(started.elapsed());
        }
        times.sort();
        Ok::<_, BundleError>(times[times.len() / 2])
    };
    let typical = &warm_up.typical;
    let alone = Blank {
        row: typical.row.clone(),
        rows: 1,
    };
    let mut times = RunTimes {
        single: median(&alone)?,
        in_batch: median(typical)? / typical.rows as u32,
        of_a_unit: None,
    };
    if times.single <= CALLER_RUN && bundle.graph.outline.cost_follows_shape {
        times.of_a_unit = Some(median(&warm_up.batches[0])? / warm_up.heaviest);
    }
    Ok(times)
}

/// A graph that loads and then fails on zeros.
fn graph_failed(error: RunError) -> BundleError {
    BundleError {
        file: classifier::bundle::MODEL.into(),
        key: None,
        expected: match error {
            RunError::OutOfMemory(_) => {
                "a graph whose largest batch fits into memory, or a smaller max_batch"
            }
            _ => "a graph that runs",
        }
        .into(),
        found: error.to_string(),
    }
}
