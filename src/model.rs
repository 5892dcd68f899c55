//! One running model: from encoded inputs to scores.
//!
//! [`Model::classify`] prepares the inputs (`prepare`), runs their rows in batches with those of
//! other requests (`run`), and turns the outputs into scores. It knows nothing of HTTP: errors name
//! an input by its index.

mod check;
mod error;
mod prepare;
mod run;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use classifier::golden::{Golden, Proof};
use classifier::{Bundle, ImageLimits, InputKind, Placement, Preprocessor, output};
use tokio::sync::watch;

pub use self::check::Example;
pub use self::error::ModelError;
use self::run::Ran;
use crate::cpu::{self, Pool, Workers};
use crate::engine::{Engine, EngineSpec, JobService, LanePlan, LaneSettings, Placed, Weights};
use crate::fair::Permits;
use crate::metrics::{Metrics, ModelMetrics};
use crate::telemetry::spans::SpanRef;
use batching::{Flow, Limits, Priority};

/// Least number of requests that are prepared at a time while several clients compete. Few, so that
/// a client with one connection is served soon, but enough for batches.
const MIN_PERMITS: u32 = 16;

/// One input of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// An encoded image.
    Image(Bytes),
    Text(String),
}

impl Input {
    pub fn kind(&self) -> InputKind {
        match self {
            Self::Image(_) => InputKind::Image,
            Self::Text(_) => InputKind::Text,
        }
    }
}

/// A loaded model with its lanes.
#[derive(Debug)]
pub struct Model {
    pub name: String,
    /// The version as clients see it.
    pub version: String,
    pub bundle: Bundle,
    /// Most inputs in one request, and in one batch.
    pub max_batch: u32,
    /// Largest total weight of the inputs in the queue.
    pub queue_capacity: u32,
    /// Longest time from a request's head to its response.
    pub request_timeout: Duration,
    pub metrics: ModelMetrics,
    pub examples: Vec<Example>,
    image_limits: ImageLimits,
    max_request_pixels: u64,
    weights: Weights,
    /// Each model has its own pool, so that large images for one model do not delay another.
    pool: Pool,
    /// Limits how many requests are prepared at a time while several clients compete.
    permits: Permits,
    /// Requests run batches on their own tasks.
    callers_run: bool,
    /// [`Self::abort`] was called.
    is_aborted: watch::Sender<bool>,
    engine: Engine,
    service: JobService,
}

/// The configuration of a model.
#[derive(Debug, Clone, Copy)]
pub struct ModelSettings {
    pub lanes: LaneSettings,
    /// Limits of the queue and of a batch.
    pub limits: Limits,
    pub weights: Weights,
    pub image_limits: ImageLimits,
    /// Most pixels of all images of a request together.
    pub max_request_pixels: u64,
    /// Longest time from a request's head to its response.
    pub request_timeout: Duration,
}

/// The scores of a request's inputs.
#[derive(Debug)]
pub struct Outcome {
    /// One entry for each input, in the order of the request.
    pub results: Vec<Scores>,
    pub stages: Stages,
}

/// The scores of one input.
#[derive(Debug)]
pub struct Scores {
    /// The score of every label.
    pub scores: Vec<f32>,
    /// The text is longer than the model takes, and only part of it was used.
    pub truncated: bool,
}

/// How long the stages of a request took.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages {
    /// When decoding began.
    pub started: Instant,
    /// From input to row.
    pub decode: Duration,
    pub queue: Duration,
    pub inference: Duration,
    /// Rows in the largest batch that ran rows of this request.
    pub batch_size: u32,
    /// The span of that batch.
    pub batch: SpanRef,
}

/// The conditions under which a request is classified.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub priority: Priority,
    /// The client, which shares the server fairly with the others.
    pub flow: Flow,
    pub deadline: tokio::time::Instant,
    /// The request's span.
    pub span: &'a SpanRef,
}

impl Model {
    /// Loads the model, starts its lanes and checks its golden samples. Blocks until that is done.
    pub fn start(
        name: &str,
        version: u64,
        bundle: Bundle,
        settings: &ModelSettings,
        placed: Placed,
        metrics: &Metrics,
        workers: &Workers,
    ) -> Result<Self, classifier::ClassifierError> {
        let model_metrics = metrics.model(name, &bundle.labels);
        let ModelSettings {
            lanes,
            limits,
            weights,
            image_limits,
            max_request_pixels,
            request_timeout,
        } = *settings;
        let golden = Golden::read(&bundle.directory, &bundle.labels)?;
        let proof = golden
            .map(|golden| Proof::new(golden, &bundle, &image_limits))
            .transpose()?;
        let proof = proof.map(Arc::new);
        let engine = Engine::start(EngineSpec {
            name,
            bundle: &bundle,
            settings: lanes,
            limits,
            weights,
            placed,
            proof: proof.clone(),
            metrics: &model_metrics,
        })?;
        let cpus = u32::try_from(cpu::available()).unwrap_or(MIN_PERMITS);
        let mut model = Self {
            name: name.to_owned(),
            version: version.to_string(),
            max_batch: weights.max_weight(),
            queue_capacity: limits.capacity,
            request_timeout,
            image_limits,
            max_request_pixels,
            weights,
            pool: workers.pool(limits.capacity as usize),
            permits: Permits::new(cpus.saturating_mul(2).max(MIN_PERMITS)),
            callers_run: engine.plan().caller_weight > 0 && limits.max_wait.is_zero(),
            is_aborted: watch::Sender::default(),
            service: engine.service(),
            metrics: model_metrics,
            bundle,
            engine,
            examples: Vec::new(),
        };
        model.examples = model.check_golden(proof.as_deref())?;
        Ok(model)
    }

    /// The kind of input that the model takes.
    pub fn kind(&self) -> InputKind {
        self.bundle.preprocessor.kind()
    }

    /// Most bytes that the row of one input takes.
    pub fn row_memory(&self) -> u64 {
        let bytes = match &self.bundle.preprocessor {
            Preprocessor::Image(preprocessor) => {
                preprocessor.shape().iter().product::<usize>() * size_of::<f32>()
            }
            Preprocessor::Text(tokenizer) => tokenizer.max_length() * size_of::<i64>(),
        };
        bytes as u64
    }

    /// Where the graph runs.
    pub fn placement(&self) -> &Placement {
        self.engine.placement()
    }

    /// The latest runs failed in a row.
    pub fn is_degraded(&self) -> bool {
        self.engine.is_degraded()
    }

    pub fn plan(&self) -> &LanePlan {
        self.engine.plan()
    }

    /// Weight of the inputs in the queue.
    pub fn queue_depth(&self) -> u32 {
        self.engine.queue().depth()
    }

    /// A lane can run requests.
    pub fn is_available(&self) -> bool {
        self.lanes() > 0
    }

    /// Number of lanes that can run requests.
    pub fn lanes(&self) -> usize {
        self.engine.queue().workers()
    }

    /// Classifies inputs.
    ///
    /// `charge` gets the pixels of all images that are too large to be decoded on the request's
    /// task, before they are decoded, and may refuse them.
    pub async fn classify<C>(
        &self,
        inputs: Vec<Input>,
        charge: impl Fn(u64) -> Result<(), C>,
        terms: Terms<'_>,
    ) -> Result<Outcome, ModelError<C>> {
        let Terms {
            priority,
            flow,
            deadline,
            ..
        } = terms;
        // Before any work for a request that will be refused. Long texts may weigh more than this.
        let weight = inputs.len() as u32;
        let queue = self.engine.queue();
        let reservation = queue.reserve(weight, flow, priority, deadline);
        let reservation = reservation.map_err(ModelError::Refused)?;
        let preparing = async {
            let permit = self.permits.acquire(flow, weight).await;
            let started = Instant::now();
            let prepared = self.prepare(inputs, charge, reservation, deadline).await?;
            Ok::<_, ModelError<C>>((permit, started, started.elapsed(), prepared))
        };
        let (permit, started, decode, prepared) = tokio::time::timeout_at(deadline, preparing)
            .await
            .map_err(|_| ModelError::Deadline)??;
        self.metrics.decode.observe(decode.as_secs_f64());

        let truncated: Vec<bool> = prepared.iter().map(|prepared| prepared.truncated).collect();
        let rows = prepared.into_iter().map(|prepared| prepared.row).collect();
        let parts = self.parts(rows, terms);
        // The queue is fair by itself. Only where callers run batches must the permit last until
        // the batch has run.
        let permit = self.callers_run.then_some(permit);
        let mut ran = self.run(parts).await?;
        drop(permit);
        self.metrics.queue.observe(ran.queue.as_secs_f64());
        self.metrics.inference.observe(ran.inference.as_secs_f64());
        let stages = Stages {
            started,
            decode,
            queue: ran.queue,
            inference: ran.inference,
            batch_size: ran.batch_size,
            batch: std::mem::take(&mut ran.batch),
        };
        let results = self.scores(ran, truncated)?;
        Ok(Outcome { results, stages })
    }

    fn scores<C>(&self, ran: Ran, truncated: Vec<bool>) -> Result<Vec<Scores>, ModelError<C>> {
        let started = Instant::now();
        let scores = |(outputs, truncated): (Vec<f32>, bool)| {
            let scores = output::scores(&outputs, self.bundle.activation)?;
            Ok(Scores { scores, truncated })
        };
        let results = ran.outputs.into_iter().zip(truncated).map(scores);
        let results = results.collect::<Result<_, _>>().map_err(|error| {
            self.metrics.inference_failures.inc();
            let model = self.name.clone();
            ModelError::Outputs { model, error }
        })?;
        self.metrics.postprocess.observe(started.elapsed().as_secs_f64());
        Ok(results)
    }

    /// Refuses the requests in the queue and interrupts those that run.
    pub fn abort(&self) {
        self.is_aborted.send_replace(true);
        self.engine.queue().abort();
    }

    /// Takes no more requests, and waits until the lanes have finished the ones they have.
    pub fn join(&self) {
        self.engine.join();
    }
}
