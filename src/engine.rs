//! Runs classifiers. Each model has an [`Engine`] with a queue and one or more lanes.
//!
//! A lane is a named thread that owns a session and drives one worker of the model's queue. It
//! forms a batch, runs it and replies to the requests in it, so a batch needs no thread switch
//! beyond the one from the request to the lane and back. `plan` decides how many lanes and threads
//! a model gets.

mod health;
mod lane;
mod placed;
mod plan;
#[cfg(test)]
mod tests;
mod warm_up;
mod weights;
mod wide;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use classifier::golden::Proof;
use classifier::{
    Bundle, BundleError, DeviceOptions, LoadError, Placement, RunError, Session, SessionOptions,
};

use self::health::Health;
pub use self::lane::{Backend, Interrupt, Job, LaneError, Outputs};
use self::lane::{Lane, drive};
pub use self::placed::Placed;
pub use self::plan::{LanePlan, LaneSettings};
use self::warm_up::{WarmUp, measure};
pub use self::weights::Weights;
use self::wide::{LaneSessions, WideSession};
use crate::cpu;
use crate::metrics::ModelMetrics;
use crate::repoll;
use batching::{BatchService, Limits, Queue};

pub type JobQueue = Queue<Job, Outputs, LaneError>;
/// Submits [`Job`]s to a model's lanes.
pub type JobService = BatchService<Job, Outputs, LaneError>;

/// The running lanes of one model.
#[derive(Debug)]
pub struct Engine {
    queue: JobQueue,
    plan: LanePlan,
    placement: Placement,
    health: Arc<Health>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Everything that the lanes of a model are made of.
pub struct EngineSpec<'a> {
    /// Name of the model, used for its threads and in the log.
    pub name: &'a str,
    pub bundle: &'a Bundle,
    pub settings: LaneSettings,
    pub limits: Limits,
    pub weights: Weights,
    pub placed: Placed,
    /// Golden samples that every session must reproduce.
    pub proof: Option<Arc<Proof>>,
    pub metrics: &'a ModelMetrics,
}

impl Engine {
    /// Loads and warms up a session for every lane, and starts the lanes. Blocks until all are
    /// ready.
    ///
    /// Must be called within a tokio runtime, whose timers the lanes use.
    pub fn start(spec: EngineSpec<'_>) -> Result<Self, LoadError> {
        let EngineSpec {
            name,
            bundle,
            settings,
            limits,
            weights,
            placed,
            proof,
            metrics,
        } = spec;
        let on_gpu = placed.is_on_gpu();
        let mut warm_up = WarmUp::new(bundle, weights, on_gpu);
        let plan = match settings {
            _ if on_gpu => LanePlan::on_gpu(settings),
            LaneSettings {
                lanes: Some(lanes),
                threads: Some(threads),
            } => LanePlan::configured(lanes, threads),
            settings => LanePlan::new(settings, measure(bundle, &warm_up)?, cpu::available()),
        };
        if !plan.batches_pay {
            warm_up.batches.iter_mut().for_each(|batch| batch.rows = 1);
        }
        let threads = plan.threads;
        let lanes = LaneStart {
            name,
            labels: bundle.labels.len(),
            limits: plan.limits(limits),
            plan,
            placement: placed.placement,
            metrics,
        };
        let loader = Loader {
            bundle: bundle.clone(),
            device: placed.device,
            proof,
        };
        if threads.is_none() {
            return Self::start_wide(lanes, loader, warm_up);
        }
        // The first lane takes the session with which the device was found.
        let found = Arc::new(Mutex::new(placed.session));
        let load = move || match found.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(session) => loader.proven(session),
            None => loader.load(threads),
        };
        Self::start_with(lanes, load, move |session| warm_up.run(session))
    }

    /// Starts lanes that have a session of their own each, and share a wide one.
    fn start_wide(lanes: LaneStart<'_>, loader: Loader, warm_up: WarmUp) -> Result<Self, LoadError> {
        let wide = Arc::new(WideSession::default());
        let load = move || {
            if wide.lock().is_none() {
                let session = loader.load(None)?;
                *wide.lock() = Some(session);
            }
            Ok(LaneSessions {
                own: loader.load(Some(1))?,
                wide: Arc::clone(&wide),
            })
        };
        let warm = move |sessions: &mut LaneSessions<Session>| {
            if let Some(wide) = &mut *sessions.wide.lock() {
                warm_up.run(wide)?;
            }
            warm_up.run(&mut sessions.own)
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
                .map_err(|_| thread_failed(name, "its thread ended during start-up".into()))??;
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

    pub fn service(&self) -> JobService {
        self.queue.service()
    }

    pub fn queue(&self) -> &JobQueue {
        &self.queue
    }

    pub fn plan(&self) -> &LanePlan {
        &self.plan
    }

    /// The provider and device of the sessions.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The latest runs failed in a row.
    pub fn is_degraded(&self) -> bool {
        self.health.is_degraded()
    }

    /// Takes no more jobs, and waits until the lanes have finished the ones they have.
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

/// A replaced model is dropped with the last request that uses it. Its lanes finish their jobs and
/// end.
impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What lanes are started with besides their backend.
struct LaneStart<'a> {
    name: &'a str,
    labels: usize,
    plan: LanePlan,
    placement: Placement,
    limits: Limits,
    metrics: &'a ModelMetrics,
}

/// Loads sessions of a model.
#[derive(Clone)]
struct Loader {
    bundle: Bundle,
    device: DeviceOptions,
    proof: Option<Arc<Proof>>,
}

impl Loader {
    fn load(&self, threads: Option<usize>) -> Result<Session, LoadError> {
        let options = SessionOptions::default()
            .with_threads(threads)
            .with_device(self.device.clone());
        self.proven(Session::load(&self.bundle, &options)?)
    }

    /// Every session must reproduce the golden samples, also one that replaces a failed session.
    fn proven(&self, mut session: Session) -> Result<Session, LoadError> {
        if let Some(proof) = &self.proof {
            proof.check(&mut session)?;
        }
        Ok(session)
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
