//! A lane: a session and the thread that runs batches in it.

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

/// Rows of one request that run together.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// At least one row. Texts share a length bucket.
    pub rows: Vec<Row>,
    /// The request's span.
    pub span: SpanRef,
}

/// The outputs of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// The outputs of all rows, one row after the other.
    pub values: Vec<f32>,
    /// Rows of all jobs in the batch, to report its size.
    pub batch_rows: u32,
    /// The batch's span.
    pub batch: SpanRef,
}

/// Interrupts one run.
pub type Interrupt = Box<dyn FnOnce() + Send>;

/// What a lane runs: a [`Session`], or in tests a stand-in that fails in a chosen way.
pub trait Backend {
    /// Runs the rows of all jobs in one batch and returns their outputs, one row after the other.
    /// Passes `watch` a function that interrupts the run.
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

/// Why a job has no outputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LaneError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the run panicked: {0}")]
    Panicked(String),
    /// The session was dropped after a failed run and cannot be loaded again.
    #[error("the session cannot be loaded again: {0}")]
    Lost(String),
}

/// Runs batches in a backend, and loads a new backend after a failure.
pub(super) struct Lane<B, L> {
    backend: Option<B>,
    load: L,
    labels: usize,
    metrics: ModelMetrics,
    health: Arc<Health>,
    row_limit: Option<RowLimit>,
}

/// Row limit learnt from an out-of-memory error: a run with twice as many rows failed.
#[derive(Debug)]
struct RowLimit {
    rows: usize,
    /// Successful runs since the error.
    runs: u32,
}

/// The row limit is dropped after this many successful runs, because other programs may have freed
/// memory.
const ROW_LIMIT_RUNS: u32 = 100;

// No field is ever pinned.
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
            row_limit: None,
        }
    }

    /// The backend. Loads one if there is none.
    fn backend(&mut self) -> Result<&mut B, LoadError> {
        let backend = match self.backend.take() {
            Some(backend) => backend,
            None => (self.load)()?,
        };
        Ok(self.backend.insert(backend))
    }

    /// Runs jobs together. If an input is invalid, each job runs alone, so that only the one at
    /// fault fails. If they do not fit into memory, each half runs by itself.
    fn run_jobs(
        &mut self,
        jobs: &[Job],
        watch: &dyn Fn(Interrupt),
    ) -> Result<Vec<Result<Vec<f32>, LaneError>>, LaneError> {
        if jobs.len() > 1
            && self
                .row_limit
                .as_ref()
                .is_some_and(|limit| rows(jobs) > limit.rows)
        {
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
                self.row_limit = Some(RowLimit {
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
            // An earlier run failed, and its backend was dropped.
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
            return Err(LaneError::Lost("an earlier run failed".into()));
        };
        let result = catch_unwind(AssertUnwindSafe(|| backend.run(jobs, watch)))
            .map_err(|panic| LaneError::Panicked(panic_message(panic.as_ref()).to_owned()))
            .and_then(|result| result.map_err(LaneError::Run));
        match &result {
            Ok(_) => {
                self.health.succeeded();
                if let Some(limit) = &mut self.row_limit {
                    limit.runs += 1;
                    self.row_limit = self.row_limit.take().filter(|limit| limit.runs < ROW_LIMIT_RUNS);
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
                    // The state of a session after a failed run is unknown.
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
                    .ok_or_else(|| RunError::Failed("the run returned too few outputs".into()))?;
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

    /// Blocks the thread, which is the lane's own or, for a caller run, the caller's.
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

/// First and longest pause before a lane tries again to load its session.
const RELOAD_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Main function of a lane's thread: loads and warms up the session, reports to `ready`, and runs
/// batches until the queue is closed.
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
        .and_then(|backend| Ok(warm(backend).map_err(super::warm_up::graph_failed)?));
    let failed = warmed.is_err();
    let mut ready = Some((ready, warmed));
    let mut delay = RELOAD_DELAYS.0;
    loop {
        // The worker must be registered before `ready` is told, because jobs may be submitted from
        // then on.
        let worker = (!failed).then(|| {
            if callers_run {
                Either::Left(queue.caller_runs_worker(lane))
            } else {
                Either::Right(queue.worker(lane))
            }
        });
        if let Some((ready, warmed)) = ready.take() {
            // `Engine::start` waits for this, so the receiver exists.
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
        tracing::error!(lane = std::thread::current().name(), %error, retry_in = ?delay, "a lane has failed and will be restarted");
        std::thread::sleep(delay);
        delay = (delay * 2).min(RELOAD_DELAYS.1);
        lane = new_lane();
    }
}
