//! One running model: from encoded inputs to scores.

use std::time::{Duration, Instant};

use bytes::Bytes;
use classifier::image::{self, Header};
use classifier::{Bundle, BundleError, Limits as ImageLimits, output};
use futures_util::future::try_join_all;
use tower::Service;

use crate::batch::{self, Limits, Priority, Submission};
use crate::cpu::{self, Pool};
use crate::engine::{Engine, Job, JobService, LaneSettings, Plan};
use crate::error::Error;
use crate::metrics::{Metrics, ModelMetrics};

/// A picture with at most so many pixels is decoded where its request is: at that size it takes 60 us there, and 130 us on
/// another thread.
const INLINE_PIXELS: u64 = 96 * 96;

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
    /// Its metrics.
    pub metrics: ModelMetrics,
    image_limits: ImageLimits,
    /// Its own, so that large pictures for one model do not hold up another.
    pool: Pool,
    engine: Engine,
    service: JobService,
}

/// What the configuration says about a model.
#[derive(Debug, Clone, Copy)]
pub struct ModelSettings {
    /// Lanes and threads.
    pub lanes: LaneSettings,
    /// Limits of the queue and of a batch.
    pub limits: Limits,
    /// Limits of a picture.
    pub image_limits: ImageLimits,
}

/// The result of one classification.
#[derive(Debug)]
pub struct Classified {
    /// For each input, the score of every label.
    pub scores: Vec<Vec<f32>>,
    /// Where the time went.
    pub timing: Timing,
}

/// Time that one classification spent in each stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// Encoded input to row, waiting for the decoding pool included.
    pub decode: Duration,
    /// In the queue.
    pub queue: Duration,
    /// In the batch that ran.
    pub inference: Duration,
    /// Inputs of the batch that it was part of.
    pub batch_size: u32,
}

impl Model {
    /// Loads the model, starts its lanes and has it prove itself on its golden samples. Blocks until that is done.
    pub fn start(
        name: &str,
        version: u64,
        bundle: Bundle,
        settings: &ModelSettings,
        metrics: &Metrics,
    ) -> Result<Self, classifier::Error> {
        let model_metrics = metrics.model(name, &bundle.labels);
        let engine = Engine::start(name, &bundle, settings.lanes, settings.limits, &model_metrics)?;
        let model = Self {
            name: name.to_owned(),
            version: version.to_string(),
            max_batch: settings.limits.max_weight,
            image_limits: settings.image_limits,
            pool: Pool::new(cpu::available(), settings.limits.capacity as usize),
            service: engine.service(),
            metrics: model_metrics,
            bundle,
            engine,
        };
        model.check_golden()?;
        metrics.set_model_info(name, &model.version, model.provider());
        Ok(model)
    }

    /// Where its graph runs.
    pub fn provider(&self) -> &'static str {
        "cpu"
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
        self.engine.queue().workers() > 0
    }

    /// Classifies pictures that stand in the request under the names that `field` gives.
    pub async fn classify(
        &self,
        pictures: Vec<Bytes>,
        field: impl Fn(usize) -> String,
        priority: Priority,
        deadline: tokio::time::Instant,
    ) -> Result<Classified, Error> {
        // Before any work is done for a request that will not be taken.
        let weight = pictures.len() as u32;
        self.engine
            .queue()
            .admit(weight, priority, deadline)
            .map_err(|refusal| Error::from(batch::Error::Refused(refusal)))?;
        let started = Instant::now();
        let decoding = self.decode(pictures, field);
        let rows = tokio::time::timeout_at(deadline, decoding)
            .await
            .map_err(|_| Error::deadline())??;
        let decode = started.elapsed();
        self.metrics.decode.observe(decode.as_secs_f64());

        let answer = self
            .service
            .clone()
            .call(Submission {
                weight: rows.len() as u32,
                input: Job { rows },
                bucket: 0,
                priority,
                deadline,
            })
            .await?;
        self.metrics.queue.observe(answer.queued.as_secs_f64());
        self.metrics.inference.observe(answer.ran.as_secs_f64());

        let started = Instant::now();
        let scores = answer
            .output
            .chunks_exact(self.bundle.labels.len())
            .map(|outputs| output::scores(outputs, self.bundle.activation))
            .collect::<Result<_, _>>()
            .map_err(|error| {
                self.metrics.inference_failures.inc();
                Error::internal(format!("model {}: {error}", self.name))
            })?;
        self.metrics.postprocess.observe(started.elapsed().as_secs_f64());
        Ok(Classified {
            scores,
            timing: Timing {
                decode,
                queue: answer.queued,
                inference: answer.ran,
                batch_size: answer.batch_weight,
            },
        })
    }

    async fn decode(
        &self,
        pictures: Vec<Bytes>,
        field: impl Fn(usize) -> String,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let rows = pictures.into_iter().enumerate().map(|(at, picture)| {
            let field = &field;
            async move {
                self.decode_one(picture)
                    .await?
                    .map_err(|error| Error::image(&field(at), &error))
            }
        });
        try_join_all(rows).await
    }

    async fn decode_one(&self, picture: Bytes) -> Result<Result<Vec<f32>, classifier::ImageError>, Error> {
        let header = match Header::read(&picture, &self.image_limits) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        let preprocessor = &self.bundle.preprocessor;
        if u64::from(header.width) * u64::from(header.height) <= INLINE_PIXELS {
            return Ok(header.decode().and_then(|decoded| preprocessor.apply(decoded)));
        }
        drop(header);
        let preprocessor = preprocessor.clone();
        let limits = self.image_limits;
        let decode = move || image::decode(&picture, &limits).and_then(|decoded| preprocessor.apply(decoded));
        Ok(self.pool.run(decode).await?)
    }

    /// Refuses what waits and interrupts what runs.
    pub fn abort(&self) {
        self.engine.queue().abort();
    }

    /// Takes no more requests, and waits until the lanes have finished those that they have.
    pub fn join(&self) {
        self.engine.join();
    }

    /// Sends the golden samples through the lanes, all at once, so that they meet batches as requests do.
    fn check_golden(&self) -> Result<(), classifier::Error> {
        let Some(golden) = classifier::golden::Golden::read(&self.bundle.directory, &self.bundle.labels)?
        else {
            tracing::warn!(
                model = self.name,
                "the model has no golden samples: it cannot prove itself"
            );
            return Ok(());
        };
        let rows = golden.samples.iter().map(|sample| {
            let picture = image::decode(&sample.bytes, &self.image_limits)?;
            self.bundle.preprocessor.apply(picture)
        });
        let rows: Vec<Vec<f32>> = rows.collect::<Result<_, _>>()?;
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        let answers = rows.chunks(self.max_batch as usize).map(|rows| {
            self.service.clone().call(Submission {
                weight: rows.len() as u32,
                input: Job { rows: rows.to_vec() },
                bucket: 0,
                priority: Priority::Normal,
                deadline,
            })
        });
        let answers = tokio::runtime::Handle::current().block_on(try_join_all(answers));
        let outputs = answers.map_err(|error| BundleError {
            file: self.bundle.model(),
            key: None,
            expected: "a graph that runs the golden samples".into(),
            found: error.to_string(),
        })?;
        let outputs: Vec<f32> = outputs.into_iter().flat_map(|answer| answer.output).collect();
        let mut largest: f32 = 0.0;
        for (sample, outputs) in golden
            .samples
            .iter()
            .zip(outputs.chunks_exact(self.bundle.labels.len()))
        {
            let scores = output::scores(outputs, self.bundle.activation)?;
            largest = largest.max(golden.compare(sample, &scores, &self.bundle.labels)?);
        }
        tracing::info!(
            model = self.name,
            samples = golden.samples.len(),
            largest_difference = largest,
            "golden samples reproduced"
        );
        Ok(())
    }
}
