//! One lane: a session and the thread that runs it.

use std::future::{Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use classifier::error::panic_message;
use classifier::{LoadError, Row, RunError, Session};
use futures_util::future::Either;
use tower::Service;

use super::JobQueue;
use super::health::Health;
use crate::metrics::ModelMetrics;
use crate::telemetry::spans::{BatchSpan, SpanRef};
use batching::Batch;

/// The rows of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// At least one; texts are of one bucket.
    pub rows: Vec<Row>,
    /// The span of the request.
    pub span: SpanRef,
}

/// What a job gets back.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// One row of labels after the other.
    pub values: Vec<f32>,
    /// Rows of all jobs in the batch.
    pub batch_rows: u32,
    /// The span of the batch.
    pub batch: SpanRef,
}

/// Ends the run that it was made for.
pub type Interrupt = Box<dyn FnOnce() + Send>;

/// What a lane runs: a [`Session`], or in tests something that fails in a chosen way.
pub trait Backend {
    /// Runs the rows of all jobs in one batch and gives the outputs, one row of labels after the other. Calls
    /// `watch` with the means to interrupt the run.
    fn run(&mut self, jobs: &[Job], watch: &dyn Fn(Interrupt)) -> Result<Vec<f32>, RunError>;
}

impl Backend for Session {
    fn run(&mut self, jobs: &[Job], watch: &dyn Fn(Interrupt)) -> Result<Vec<f32>, RunError> {
        let rows = jobs.iter().flat_map(|job| &job.rows);
        Session::run(self, rows, |interrupt| {
            watch(Box::new(move || interrupt.interrupt()))
        })
    }
}

/// Why a lane gave no outputs for a job.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LaneError {
    /// The run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The run panicked.
    #[error("the run panicked: {0}")]
    Panicked(String),
    /// The session could not be loaded again after a failure.
    #[error("the session could not be loaded again: {0}")]
    Lost(String),
}

/// Runs batches in a backend, and gets a new backend when one has failed.
pub(super) struct Lane<B, L> {
    backend: Option<B>,
    load: L,
    labels: usize,
    metrics: ModelMetrics,
    health: Arc<Health>,
    tight: Option<Tight>,
}

/// How many rows fit into memory, as far as is known: a run with twice as many did not.
#[derive(Debug)]
struct Tight {
    rows: usize,
    /// Runs since then that fitted.
    runs: u32,
}

/// After so many runs a lane that had too little memory tries full batches again: others may have given theirs back.
const TIGHT_FOR: u32 = 100;

// Nothing in it is ever pinned.
impl<B, L> Unpin for Lane<B, L> {}

impl<B, L> Lane<B, L>
where
    B: Backend,
    L: Fn() -> Result<B, LoadError>,
{
    pub(super) fn new(labels: usize, metrics: ModelMetrics, health: Arc<Health>, load: L) -> Self {
        Self {
            backend: None,
            load,
            labels,
            metrics,
            health,
            tight: None,
        }
    }

    /// The backend, loaded if there is none.
    fn backend(&mut self) -> Result<&mut B, LoadError> {
        let backend = match self.backend.take() {
            Some(backend) => backend,
            None => (self.load)()?,
        };
        Ok(self.backend.insert(backend))
    }

    /// Runs jobs together. Where one input is at fault, each runs alone, so that only the guilty one fails; where all do not fit
    /// into memory, each half runs for itself.
    fn run_jobs(
        &mut self,
        jobs: &[Job],
        watch: &dyn Fn(Interrupt),
    ) -> Result<Vec<Result<Vec<f32>, LaneError>>, LaneError> {
        if jobs.len() > 1 && self.tight.as_ref().is_some_and(|tight| rows(jobs) > tight.rows) {
            return Ok(self.run_halves(jobs, watch));
        }
        match self.run(jobs, watch) {
            Ok(outputs) => Ok(self.split(jobs, &outputs)),
            Err(LaneError::Run(RunError::InvalidInput(_) | RunError::RowLength { .. })) if jobs.len() > 1 => {
                Ok(jobs
                    .iter()
                    .map(|job| self.run(std::slice::from_ref(job), watch))
                    .collect())
            }
            Err(LaneError::Run(RunError::OutOfMemory(_))) if jobs.len() > 1 => {
                self.tight = Some(Tight {
                    rows: rows(jobs) / 2,
                    runs: 0,
                });
                Ok(self.run_halves(jobs, watch))
            }
            Err(error) => Err(error),
        }
    }

    fn run_halves(&mut self, jobs: &[Job], watch: &dyn Fn(Interrupt)) -> Vec<Result<Vec<f32>, LaneError>> {
        let (first, second) = jobs.split_at(jobs.len() / 2);
        let mut results = Vec::with_capacity(jobs.len());
        for half in [first, second] {
            // The failed run before it has taken the backend along.
            let ran = match self.backend() {
                Ok(_) => self.run_jobs(half, watch),
                Err(error) => Err(LaneError::Lost(error.to_string())),
            };
            match ran {
                Ok(of_half) => results.extend(of_half),
                Err(error) => results.extend(half.iter().map(|_| Err(error.clone()))),
            }
        }
        results
    }

    fn run(&mut self, jobs: &[Job], watch: &dyn Fn(Interrupt)) -> Result<Vec<f32>, LaneError> {
        let Some(backend) = &mut self.backend else {
            return Err(LaneError::Lost("a run before this one failed".into()));
        };
        let result = catch_unwind(AssertUnwindSafe(|| backend.run(jobs, watch)))
            .map_err(|panic| LaneError::Panicked(panic_message(panic.as_ref()).to_owned()))
            .and_then(|result| result.map_err(LaneError::Run));
        match &result {
            Ok(_) => {
                self.health.succeeded();
                if let Some(tight) = &mut self.tight {
                    tight.runs += 1;
                    self.tight = self.tight.take().filter(|tight| tight.runs < TIGHT_FOR);
                }
            }
            Err(LaneError::Run(RunError::Interrupted)) => self.metrics.interrupted.inc(),
            Err(error) => {
                self.metrics.inference_failures.inc();
                tracing::error!(model = self.metrics.model, %error, rows = rows(jobs), "a run failed");
                let input_at_fault = matches!(
                    error,
                    LaneError::Run(RunError::InvalidInput(_) | RunError::RowLength { .. })
                );
                if !input_at_fault {
                    // What a failed run leaves behind in a session is unknown.
                    self.backend = None;
                    self.health.failed(error);
                }
            }
        }
        result
    }

    fn split(&self, jobs: &[Job], outputs: &[f32]) -> Vec<Result<Vec<f32>, LaneError>> {
        let mut rest = outputs;
        jobs.iter()
            .map(|job| {
                let (own, others) = rest
                    .split_at_checked(job.rows.len() * self.labels)
                    .ok_or_else(|| RunError::Failed("the run gave too few outputs".into()))?;
                rest = others;
                Ok(own.to_vec())
            })
            .collect()
    }
}

impl<B, L> Service<Batch<Job>> for Lane<B, L>
where
    B: Backend,
    L: Fn() -> Result<B, LoadError>,
{
    type Response = Vec<Result<Outputs, LaneError>>;
    type Error = LaneError;
    type Future = Ready<Result<Self::Response, LaneError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        let loaded = self.backend().map(|_| ());
        Poll::Ready(loaded.map_err(|error| {
            self.health.failed(&error);
            LaneError::Lost(error.to_string())
        }))
    }

    /// Blocks the thread that runs it: the lane's own, or that of a caller which runs the batch itself.
    fn call(&mut self, batch: Batch<Job>) -> Self::Future {
        let rows = rows(&batch.inputs);
        self.metrics.batch_size.observe(rows as f64);
        self.metrics.lanes_busy.inc();
        let span = BatchSpan::start(&self.metrics.model, batch.inputs.iter().map(|job| &job.span));
        let result = self.run_jobs(&batch.inputs, &|interrupt| batch.on_abandoned(interrupt));
        let (batch_rows, batch) = (rows as u32, span.reference());
        span.finish(batch_rows, result.as_ref().err().map(|error| error as _));
        self.metrics.lanes_busy.dec();
        let outputs = |values| Outputs {
            values,
            batch_rows,
            batch: batch.clone(),
        };
        ready(result.map(|results| results.into_iter().map(|values| values.map(outputs)).collect()))
    }
}

fn rows(jobs: &[Job]) -> usize {
    jobs.iter().map(|job| job.rows.len()).sum()
}

/// How long a lane whose session cannot be loaded waits before it tries again: at first, and at most.
const RELOAD_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The whole life of a lane's thread: load, warm, say so through `ready`, run batches until the queue is closed.
pub(super) fn drive<B, L>(
    new_lane: impl Fn() -> Lane<B, L>,
    queue: &JobQueue,
    callers_run: bool,
    runtime: &tokio::runtime::Handle,
    warm: impl Fn(&mut B) -> Result<(), RunError>,
    ready: &mpsc::Sender<Result<(), LoadError>>,
) where
    B: Backend + Send + 'static,
    L: Fn() -> Result<B, LoadError> + Send + 'static,
{
    let mut lane = new_lane();
    let warmed = lane
        .backend()
        .and_then(|backend| Ok(warm(backend).map_err(super::graph_failed)?));
    let failed = warmed.is_err();
    let mut ready = Some((ready, warmed));
    let mut delay = RELOAD_DELAYS.0;
    loop {
        // Registered before the lane is called ready: from then on the queue takes jobs.
        let worker = (!failed).then(|| {
            if callers_run {
                Either::Left(queue.caller_runs_worker(lane))
            } else {
                Either::Right(queue.worker(lane))
            }
        });
        if let Some((ready, warmed)) = ready.take() {
            // Whoever starts the lane waits for this, so the receiver is there.
            let _ = ready.send(warmed);
        }
        let Some(worker) = worker else { return };
        let started = std::time::Instant::now();
        let Err(error) = runtime.block_on(worker) else {
            return;
        };
        if started.elapsed() > RELOAD_DELAYS.1 {
            delay = RELOAD_DELAYS.0;
        }
        tracing::error!(lane = std::thread::current().name(), %error, retry_in = ?delay, "a lane is down");
        std::thread::sleep(delay);
        delay = (delay * 2).min(RELOAD_DELAYS.1);
        lane = new_lane();
    }
}
