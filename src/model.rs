//! One running model: from encoded inputs to scores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use classifier::golden::{Golden, GoldenSample, Proof};
use classifier::image::{self, Header};
use classifier::text::{TextError, Tokens};
use classifier::{
    Bundle, BundleError, ImageError, ImageLimits, InputKind, Placement, Prepared, Preprocessor, Row, output,
};
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::watch;
use tower::Service;

use crate::cpu::{self, Cost, Pool, PoolError, Workers};
use crate::engine::{Engine, Job, JobService, LaneError, LaneSettings, Outputs, Placed, Plan, Weights};
use crate::error::{Code, Error};
use crate::fair::Permits;
use crate::metrics::{Metrics, ModelMetrics};
use crate::telemetry::access::Stages;
use crate::telemetry::spans::SpanRef;
use batching::{BatchReply, Flow, Limits, Priority, Reservation, Submission};

/// So many small pictures of a request are decoded where the request is before others have a turn: 60 us each at most 96 x 96
/// pixels, and 130 us on another thread.
const INLINE_PICTURES: usize = 16;

/// Texts of a request with at most so many bytes in all are tokenised where the request is: 0.3 to 0.4 us a byte, so that it takes
/// less than 2 ms. A review of 1,300 bytes takes 0.3 to 0.5 ms.
const INLINE_TEXT: usize = 4096;

/// Bytes of memory for each byte of a text that is looked at, while it is tokenised.
const TEXT_MEMORY: u64 = 100;

/// At least this many requests are prepared at a time while clients share the model. Few, so that a client with one
/// connection does not wait long; enough for batches.
const MIN_PERMITS: u32 = 16;

/// Golden samples that are kept as examples: so many, and none that is longer.
const MAX_EXAMPLES: usize = 32;
const MAX_EXAMPLE: usize = 256 * 1024;

/// One input of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// An encoded picture.
    Image(Bytes),
    /// A text.
    Text(String),
}

impl Input {
    /// What it is.
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
    /// Name of its folder.
    pub name: String,
    /// Version that is served, as a client sees it.
    pub version: String,
    /// Its directory.
    pub bundle: Bundle,
    /// Most inputs in one request, and in one batch.
    pub max_batch: u32,
    /// Most that waits in its queue, by weight.
    pub queue_capacity: u32,
    /// Longest time from a request's head to its answer.
    pub request_timeout: Duration,
    /// Its metrics.
    pub metrics: ModelMetrics,
    /// Inputs to try it with: some of the golden samples.
    pub examples: Vec<Example>,
    image_limits: ImageLimits,
    max_request_pixels: u64,
    weights: Weights,
    /// Its own, so that large pictures for one model do not hold up another.
    pool: Pool,
    /// Who prepares inputs, and who runs what waits.
    permits: Permits,
    /// Whether requests run batches on their own tasks.
    callers_run: bool,
    /// Whether [`Self::abort`] was called.
    is_aborted: watch::Sender<bool>,
    engine: Engine,
    service: JobService,
}

/// An input to try a model with.
#[derive(Debug)]
pub struct Example {
    /// Name of its file.
    pub name: String,
    /// The true label.
    pub label: String,
    /// The encoded picture, or the text.
    pub content: Bytes,
}

/// What the configuration says about a model.
#[derive(Debug, Clone, Copy)]
pub struct ModelSettings {
    /// Lanes and threads.
    pub lanes: LaneSettings,
    /// Limits of the queue and of a batch.
    pub limits: Limits,
    /// What inputs weigh in a batch.
    pub weights: Weights,
    /// Limits of a picture.
    pub image_limits: ImageLimits,
    /// Most pixels of all pictures of a request.
    pub max_request_pixels: u64,
    /// Longest time from a request's head to its answer.
    pub request_timeout: Duration,
}

/// The result of one classification.
#[derive(Debug)]
pub struct Classified {
    /// One for each input, in their order.
    pub results: Vec<Scores>,
    /// Where the time went.
    pub stages: Stages,
}

/// The result of one input.
#[derive(Debug)]
pub struct Scores {
    /// The score of every label.
    pub scores: Vec<f32>,
    /// Whether only a part of the input, a text that is too long, was looked at.
    pub truncated: bool,
}

/// An input on its way to its row.
enum Step {
    Done(Prepared),
    Decode(Bytes, Cost),
    Tokenise(String, Cost),
}

/// What became of the rows of one request.
#[derive(Debug, Default)]
struct Ran {
    /// Of each row.
    outputs: Vec<Vec<f32>>,
    /// Longest time in the queue.
    queue: Duration,
    /// Longest time in a run.
    inference: Duration,
    /// Rows of the largest batch.
    batch_size: u32,
    /// Its span.
    batch: SpanRef,
}

/// On which terms a request is classified.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Who goes first.
    pub priority: Priority,
    /// Whose request it is.
    pub flow: Flow,
    /// When its client stops waiting.
    pub deadline: tokio::time::Instant,
    /// Its span.
    pub span: &'a SpanRef,
}

/// Rows of one request that run together.
struct Part {
    /// Places of the rows in the request.
    places: Vec<usize>,
    submission: Submission<Job>,
}

impl Model {
    /// Loads the model, starts its lanes and has it prove itself on its golden samples. Blocks until that is done.
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
        let engine = Engine::start(
            name,
            &bundle,
            lanes,
            limits,
            weights,
            placed,
            proof.clone(),
            &model_metrics,
        )?;
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
            permits: Permits::new(
                u32::try_from(2 * cpu::available()).map_or(MIN_PERMITS, |permits| permits.max(MIN_PERMITS)),
            ),
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

    /// What it takes.
    pub fn kind(&self) -> InputKind {
        self.bundle.preprocessor.kind()
    }

    /// Most memory for the row of one input, in bytes.
    pub fn row_memory(&self) -> u64 {
        let bytes = match &self.bundle.preprocessor {
            Preprocessor::Image(preprocessor) => {
                preprocessor.shape().iter().product::<usize>() * size_of::<f32>()
            }
            Preprocessor::Text(tokenizer) => tokenizer.max_length() * size_of::<i64>(),
        };
        bytes as u64
    }

    /// Where its graph runs.
    pub fn placement(&self) -> &Placement {
        self.engine.placement()
    }

    /// Whether its latest runs failed, one after the other.
    pub fn is_degraded(&self) -> bool {
        self.engine.is_degraded()
    }

    /// Its lanes.
    pub fn plan(&self) -> &Plan {
        self.engine.plan()
    }

    /// Inputs that wait.
    pub fn queue_depth(&self) -> u32 {
        self.engine.queue().depth()
    }

    /// Whether a lane is there to run a request.
    pub fn is_available(&self) -> bool {
        self.lanes() > 0
    }

    /// Lanes that can run requests.
    pub fn lanes(&self) -> usize {
        self.engine.queue().workers()
    }

    /// Classifies inputs that stand in the request under the names that `field` gives. `charge` is told the pixels of the pictures
    /// that are large enough for the pool, and may refuse them.
    pub async fn classify(
        &self,
        inputs: Vec<Input>,
        field: impl Fn(usize) -> String,
        charge: impl Fn(u64) -> Result<(), Error>,
        terms: Terms<'_>,
    ) -> Result<Classified, Error> {
        let Terms {
            priority,
            flow,
            deadline,
            ..
        } = terms;
        // Before any work is done for a request that will not be taken. Long texts will weigh more than this.
        let weight = inputs.len() as u32;
        let reservation = self
            .engine
            .queue()
            .reserve(weight, flow, priority, deadline)
            .map_err(|refusal| Error::from(batching::Error::Refused(refusal)))?;
        let preparing = async {
            let permit = self.permits.acquire(flow, weight).await;
            let started = Instant::now();
            let prepared = self.prepare(inputs, field, charge, reservation, deadline).await?;
            Ok::<_, Error>((permit, started, started.elapsed(), prepared))
        };
        let (permit, started, decode, prepared) = tokio::time::timeout_at(deadline, preparing)
            .await
            .map_err(|_| Error::deadline())??;
        self.metrics.decode.observe(decode.as_secs_f64());

        let truncated: Vec<bool> = prepared.iter().map(|prepared| prepared.truncated).collect();
        let rows = prepared.into_iter().map(|prepared| prepared.row).collect();
        let parts = self.parts(rows, terms);
        // A request that waits for a lane needs no permit: the queue is fair by itself. Where requests run their own batches
        // they keep it until then.
        let permit = self.callers_run.then_some(permit);
        let Ran {
            outputs,
            queue,
            inference,
            batch_size,
            batch,
        } = self.run(parts).await?;
        drop(permit);
        self.metrics.queue.observe(queue.as_secs_f64());
        self.metrics.inference.observe(inference.as_secs_f64());
        let stages = Stages {
            started,
            decode,
            queue,
            inference,
            batch_size,
            batch,
        };

        let started = Instant::now();
        let scores = |(outputs, truncated): (Vec<f32>, bool)| {
            let scores = output::scores(&outputs, self.bundle.activation)?;
            Ok(Scores { scores, truncated })
        };
        let results = outputs
            .into_iter()
            .zip(truncated)
            .map(scores)
            .collect::<Result<_, classifier::RunError>>()
            .map_err(|error| {
                self.metrics.inference_failures.inc();
                Error::internal(format!("model {}: {error}", self.name))
            })?;
        self.metrics.postprocess.observe(started.elapsed().as_secs_f64());
        Ok(Classified { results, stages })
    }

    /// Runs all parts. Where one fails the others are taken back.
    async fn run(&self, mut parts: Vec<Part>) -> Result<Ran, batching::Error<LaneError>> {
        let submit = |part: Part| {
            let answer = self.service.clone().call(part.submission);
            async move { Ok::<_, batching::Error<LaneError>>((part.places, answer.await?)) }
        };
        let answers: Vec<(Vec<usize>, BatchReply<Outputs>)> = match parts.pop() {
            Some(only) if parts.is_empty() => vec![submit(only).await?],
            last => try_join_all(parts.into_iter().chain(last).map(submit)).await?,
        };
        let mut ran = Ran {
            outputs: vec![Vec::new(); answers.iter().map(|(places, _)| places.len()).sum()],
            ..Ran::default()
        };
        for (places, answer) in answers {
            ran.queue = ran.queue.max(answer.queued);
            ran.inference = ran.inference.max(answer.ran);
            if answer.output.batch_rows > ran.batch_size {
                ran.batch_size = answer.output.batch_rows;
                ran.batch = answer.output.batch;
            }
            let rows = answer.output.values.chunks_exact(self.bundle.labels.len());
            for (place, row) in places.into_iter().zip(rows) {
                ran.outputs[place] = row.to_vec();
            }
        }
        Ok(ran)
    }

    /// Pictures run together, texts with those of their bucket; not more at once than a batch may hold.
    fn parts(&self, rows: Vec<Row>, terms: Terms<'_>) -> Vec<Part> {
        let mut buckets: BTreeMap<usize, Vec<(usize, Row)>> = BTreeMap::new();
        for (place, row) in rows.into_iter().enumerate() {
            let bucket = match (&self.bundle.preprocessor, &row) {
                (Preprocessor::Text(tokenizer), Row::Text(ids)) => tokenizer.bucket(ids.len()),
                _ => 0,
            };
            buckets.entry(bucket).or_default().push((place, row));
        }
        let mut parts = Vec::new();
        for (bucket, mut rows) in buckets {
            let most = self.weights.most_rows(bucket) as usize;
            while !rows.is_empty() {
                let rest = rows.split_off(rows.len().min(most));
                let (places, rows) = std::mem::replace(&mut rows, rest).into_iter().unzip();
                parts.push(self.part(bucket, places, rows, terms));
            }
        }
        parts
    }

    fn part(&self, bucket: usize, places: Vec<usize>, rows: Vec<Row>, terms: Terms<'_>) -> Part {
        let Terms {
            priority,
            flow,
            deadline,
            span,
        } = terms;
        let weight = self.weights.of(bucket) * rows.len() as u32;
        let job = Job {
            rows,
            span: span.clone(),
        };
        Part {
            places,
            submission: Submission::new(job)
                .weight(weight.min(self.weights.max_weight()))
                .bucket(bucket as u32)
                .priority(priority)
                .flow(flow)
                .deadline(deadline),
        }
    }

    /// Turns inputs into rows: what is small in place, the rest in the pool.
    ///
    /// `reservation` keeps room in the queue meanwhile, but not while an input waits for the pool: large pictures would take the
    /// places of requests that could run.
    async fn prepare(
        &self,
        inputs: Vec<Input>,
        field: impl Fn(usize) -> String,
        charge: impl Fn(u64) -> Result<(), Error>,
        reservation: Reservation<Job, Outputs, LaneError>,
        deadline: tokio::time::Instant,
    ) -> Result<Vec<Prepared>, Error> {
        let text_bytes: usize = inputs
            .iter()
            .map(|input| match input {
                Input::Text(text) => text.len(),
                Input::Image(_) => 0,
            })
            .sum();
        let tokenise_inline = text_bytes <= INLINE_TEXT;
        let mut steps = Vec::with_capacity(inputs.len());
        let mut costs = Vec::new();
        for (at, input) in inputs.into_iter().enumerate() {
            if at > 0 && at % INLINE_PICTURES == 0 {
                tokio::task::yield_now().await;
            }
            let step = match input {
                Input::Image(picture) => self
                    .look_at(picture)
                    .await?
                    .map_err(|error| Error::image(&field(at), &error))?,
                Input::Text(text) if tokenise_inline => {
                    let tokenizer = self.bundle.preprocessor.text().map_err(Error::invalid_request)?;
                    let tokens = tokenizer.encode(&text);
                    Step::Done(tokens.map_err(|error| Error::text(&field(at), &error))?.into())
                }
                Input::Text(text) => {
                    let tokenizer = self.bundle.preprocessor.text().map_err(Error::invalid_request)?;
                    let looked_at = text.len().min(tokenizer.most_read()) as u64;
                    let cost = Cost {
                        work: looked_at,
                        memory: looked_at * TEXT_MEMORY,
                    };
                    Step::Tokenise(text, cost)
                }
            };
            match &step {
                Step::Decode(_, cost) | Step::Tokenise(_, cost) => costs.push(*cost),
                Step::Done(_) => {}
            }
            steps.push(step);
        }
        if costs.is_empty() {
            let done = steps.into_iter().filter_map(|step| match step {
                Step::Done(prepared) => Some(prepared),
                Step::Decode(..) | Step::Tokenise(..) => None,
            });
            return Ok(done.collect());
        }
        drop(reservation);
        let pixels: u64 = costs.iter().map(|cost| cost.work).sum();
        if self.kind() == InputKind::Image {
            if pixels > self.max_request_pixels {
                let detail = format!(
                    "inputs: expected at most {} pixels in all, found {pixels}",
                    self.max_request_pixels
                );
                return Err(Error::new(Code::ImageTooLarge, detail));
            }
            charge(pixels)?;
        }
        let _admitted = self.pool.admit(&costs, deadline)?;
        let field = &field;
        let steps: Vec<_> = steps
            .into_iter()
            .enumerate()
            .map(|(at, step)| async move {
                match step {
                    Step::Done(prepared) => Ok(prepared),
                    Step::Decode(picture, cost) => self
                        .decode(picture, cost)
                        .await
                        .map_err(|error| too_heavy(&field(at), InputKind::Image, error))?
                        .map_err(|error| Error::image(&field(at), &error)),
                    Step::Tokenise(text, cost) => self
                        .tokenise(text, cost)
                        .await
                        .map_err(|error| too_heavy(&field(at), InputKind::Text, error))?
                        .map(Prepared::from)
                        .map_err(|error| Error::text(&field(at), &error)),
                }
            })
            .collect();
        // Not all at once, so that the pictures of one request do not stand in line before those of all others.
        let prepared = stream::iter(steps)
            .buffered(self.pool.most_at_a_time())
            .try_collect();
        let mut is_aborted = self.is_aborted.subscribe();
        tokio::select! {
            biased;
            prepared = prepared => prepared,
            _ = is_aborted.wait_for(|is_aborted| *is_aborted) => Err(Error::draining()),
        }
    }

    /// Decodes a small picture, and finds out what a larger one takes.
    async fn look_at(&self, picture: Bytes) -> Result<Result<Step, ImageError>, Error> {
        let preprocessor = self.bundle.preprocessor.image().map_err(Error::invalid_request)?;
        let limits = self.image_limits;
        let cost = |header: &Header<'_>| Cost {
            work: header.pixels(),
            memory: header.memory(),
        };
        let cost = match Header::read_start(&picture, &limits) {
            Ok(Some(header)) if header.is_small() => {
                let decoded = header.decode();
                return Ok(decoded
                    .and_then(|decoded| preprocessor.apply(decoded))
                    .map(|row| Step::Done(Prepared::from(row))));
            }
            Ok(Some(header)) => cost(&header),
            // A file of so many blocks that it takes long to read them.
            Ok(None) => {
                let picture = picture.clone();
                let read = move || Header::read(&picture, &limits).map(|header| cost(&header));
                match self.pool.run(read).await? {
                    Ok(cost) => cost,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(Step::Decode(picture, cost)))
    }

    async fn decode(&self, picture: Bytes, cost: Cost) -> Result<Result<Prepared, ImageError>, PoolError> {
        let Ok(preprocessor) = self.bundle.preprocessor.image().cloned() else {
            // Looked at before.
            return Err(PoolError::Panicked);
        };
        let limits = self.image_limits;
        let decode = move || {
            let decoded = image::decode(&picture, &limits)?;
            preprocessor.apply(decoded).map(Prepared::from)
        };
        self.pool.run_at(cost, decode).await
    }

    async fn tokenise(&self, text: String, cost: Cost) -> Result<Result<Tokens, TextError>, PoolError> {
        let Ok(tokenizer) = self.bundle.preprocessor.text().cloned() else {
            // Looked at before.
            return Err(PoolError::Panicked);
        };
        self.pool.run_at(cost, move || tokenizer.encode(&text)).await
    }

    /// Refuses what waits and interrupts what runs.
    pub fn abort(&self) {
        self.is_aborted.send_replace(true);
        self.engine.queue().abort();
    }

    /// Takes no more requests, and waits until the lanes have finished those that they have.
    pub fn join(&self) {
        self.engine.join();
    }

    /// Sends the golden samples through the queue, all at once, so that they meet batches as requests do; returns some of them. Each
    /// lane has run them already, see [`Engine::start`].
    fn check_golden(&self, proof: Option<&Proof>) -> Result<Vec<Example>, classifier::ClassifierError> {
        let Some(proof) = proof else {
            tracing::warn!(
                model = self.name,
                "the model has no golden samples: it cannot prove itself"
            );
            return Ok(Vec::new());
        };
        let golden = proof.golden().clone().at_the_precision_of(self.placement());
        let rows = proof.rows().to_vec();
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        let scores = |parts| {
            let ran = tokio::runtime::Handle::current().block_on(self.run(parts));
            let Ran { outputs, .. } = ran.map_err(|error| BundleError {
                file: self.bundle.model(),
                key: None,
                expected: "a graph that runs the golden samples".into(),
                found: error.to_string(),
            })?;
            let outputs = outputs.iter();
            let scores = outputs.map(|row| output::scores(row, self.bundle.activation));
            Ok::<Vec<Vec<f32>>, classifier::ClassifierError>(scores.collect::<Result<_, _>>()?)
        };
        let terms = Terms {
            priority: Priority::Normal,
            flow: Flow::default(),
            deadline,
            span: &SpanRef::default(),
        };
        let alone = scores(self.parts(rows.clone(), terms))?;
        let mut largest: f32 = 0.0;
        for (sample, scores) in golden.samples.iter().zip(&alone) {
            largest = largest.max(golden.compare(sample, scores, &self.bundle.labels)?);
        }
        if let Preprocessor::Text(tokenizer) = &self.bundle.preprocessor
            && self.max_batch > 1
        {
            let longest = tokenizer.max_length();
            for ((sample, row), alone) in golden.samples.iter().zip(rows).zip(&alone) {
                let rows = vec![row, Row::Text(tokenizer.blank(longest))];
                let padded = scores(vec![self.part(longest, vec![0, 1], rows, terms)])?;
                golden.compare_padded(sample, alone, &padded[0], &self.bundle.labels)?;
            }
        }
        tracing::info!(
            model = self.name,
            samples = golden.samples.len(),
            largest_difference = largest,
            "golden samples reproduced"
        );
        Ok(examples(golden.samples))
    }
}

/// An input that takes more memory than there is, in this field of the request.
fn too_heavy(field: &str, kind: InputKind, error: PoolError) -> Error {
    let PoolError::TooLarge { memory, limit } = error else {
        return error.into();
    };
    let (what, code) = match kind {
        InputKind::Image => ("picture", Code::ImageTooLarge),
        InputKind::Text => ("text", Code::InvalidText),
    };
    let expected =
        format!("expected a {what} that is decoded in at most {limit} bytes of memory (decode_memory)");
    Error::new(
        code,
        format!("{field}: {expected}, found one that takes {memory}"),
    )
}

fn examples(samples: Vec<GoldenSample>) -> Vec<Example> {
    let short = samples
        .into_iter()
        .filter(|sample| sample.bytes.len() <= MAX_EXAMPLE);
    short
        .take(MAX_EXAMPLES)
        .map(|sample| Example {
            name: sample.file.rsplit('/').next().unwrap_or_default().to_owned(),
            label: sample.label,
            content: sample.bytes.into(),
        })
        .collect()
}
