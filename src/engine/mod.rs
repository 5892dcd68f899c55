//! Runs classifiers: each lane is a named thread that owns one session and drives one worker of the model's queue.
//!
//! A lane's thread is where the batch is formed, run and answered, so a batch costs no hop between threads beyond the
//! one from the request to the lane and back.

mod lane;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use classifier::runtime::graph::is_steady;
use classifier::runtime::session::OUTLIER_BYTES;
use classifier::{Bundle, BundleError, RunError, Session, SessionOptions};

pub use self::lane::{Backend, Interrupt, Job, LaneError};
use self::lane::{Lane, drive};
pub use self::plan::{LaneSettings, Plan, RunTimes};
use crate::batch::{BatchService, Limits, Queue};
use crate::metrics::ModelMetrics;

/// The queue of a model, as the engine and those who submit to it see it.
pub type JobQueue = Queue<Job, Vec<f32>, LaneError>;
/// Hands [`Job`]s to a model's lanes.
pub type JobService = BatchService<Job, Vec<f32>, LaneError>;

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
        metrics: &ModelMetrics,
    ) -> Result<Self, BundleError> {
        let warm_rows = blank_rows(bundle, limits.max_weight);
        let cpus = crate::cpu::available();
        let plan = match settings {
            LaneSettings {
                lanes: Some(lanes),
                threads: Some(threads),
            } => Plan::configured(lanes, threads),
            settings => Plan::new(settings, measure(bundle, &warm_rows)?, cpus),
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
        let options = SessionOptions {
            threads: plan.threads,
        };
        let load = {
            let bundle = bundle.clone();
            move || Session::load(&bundle, &options)
        };
        let warm = move |session: &mut Session| warm_up(session, &warm_rows);
        Self::start_with(name, bundle.labels.len(), plan, limits, metrics, load, warm)
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

fn thread_failed(name: &str, found: String) -> BundleError {
    BundleError {
        file: name.into(),
        key: None,
        expected: "a lane to start".into(),
        found,
    }
}

/// Rows of zeros: as many as the largest batch has, but no more than a run keeps memory for.
fn blank_rows(bundle: &Bundle, max_batch: u32) -> Vec<Vec<f32>> {
    let length: usize = bundle.preprocessor.shape().iter().product();
    let kept = OUTLIER_BYTES / (size_of::<f32>() * length).max(1);
    vec![vec![0.0; length]; kept.clamp(1, max_batch as usize)]
}

/// Runs a large batch and the smallest, so that the first request meets allocated memory.
fn warm_up(session: &mut Session, rows: &[Vec<f32>]) -> Result<(), RunError> {
    run_blank(session, rows)?;
    run_blank(session, &rows[..1])
}

fn run_blank(session: &mut Session, rows: &[Vec<f32>]) -> Result<(), RunError> {
    session.run(rows.iter().map(Vec::as_slice), |_| {}).map(|_| ())
}

/// Times runs on one thread.
fn measure(bundle: &Bundle, rows: &[Vec<f32>]) -> Result<RunTimes, BundleError> {
    let mut session = Session::load(bundle, &SessionOptions { threads: Some(1) })?;
    let mut median = |rows: &[Vec<f32>]| {
        let times = (0..5).map(|_| {
            let started = Instant::now();
            run_blank(&mut session, rows)?;
            Ok(started.elapsed())
        });
        let mut times = times.collect::<Result<Vec<_>, _>>().map_err(graph_failed)?;
        times.sort();
        Ok::<_, BundleError>(times[times.len() / 2])
    };
    let batch = &rows[..rows.len().min(4)];
    Ok(RunTimes {
        single: median(&rows[..1])?,
        in_batch: median(batch)? / batch.len() as u32,
        steady: is_steady(&bundle.model()).unwrap_or(false),
    })
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
