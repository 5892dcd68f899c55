//! Loads ONNX Runtime and the models, as the configuration says.

use std::collections::BTreeMap;
use std::sync::Arc;

use classifier::bundle::Serving;
use classifier::runtime::library;
use classifier::{Bundle, Device, DeviceOptions, LoadError, Preprocessor, Provider};

use crate::budget::most_of_one_client;
use crate::catalog::{self, Catalog, Defaults, Found};
use crate::config::{Config, ConfigError, Count, ModelConfig};
use crate::cpu::{self, Workers};
use crate::cure;
use crate::engine::{LaneSettings, Placed, Weights};
use crate::gpu;
use crate::metrics::Metrics;
use crate::model::{Model, ModelSettings};
use batching::Limits;

/// Default of `max_batch` on the CPU and on a GPU, which needs larger batches to use all its units.
/// `make gpu-check` measures the best value for a model.
const DEFAULT_MAX_BATCH: u32 = 32;
const DEFAULT_GPU_MAX_BATCH: u32 = 128;

#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// ONNX Runtime or a model cannot be loaded.
    #[error("{}", cure::classifier(.0))]
    Classifier(classifier::ClassifierError),
    /// Invalid model directories.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Bundles(Vec<classifier::BundleError>),
    /// A configuration key that does not fit the models or the machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

// Not `#[from]`, which would make it the source as well: the text would be printed twice.
impl From<classifier::ClassifierError> for ModelsError {
    fn from(error: classifier::ClassifierError) -> Self {
        Self::Classifier(error)
    }
}

/// Loads the ONNX Runtime library.
pub fn runtime(config: &Config) -> Result<(), ModelsError> {
    let place = library::load(config.onnxruntime.as_deref()).map_err(classifier::ClassifierError::from)?;
    tracing::info!(place, "ONNX Runtime loaded");
    Ok(check_gpu_libraries(config)?)
}

/// Reads every model directory without starting a model.
pub fn open(config: &Config) -> Result<Vec<(Found, Bundle)>, ModelsError> {
    let opened = catalog::open(&config.models, &config.pinned_versions()).map_err(ModelsError::Bundles)?;
    check_tables(config, &opened)?;
    Ok(opened)
}

/// Reasons why `device = "auto"` fell back to a slower device, with the models concerned. The
/// reason is often the same for all models, so each is logged once.
#[derive(Debug, Default)]
pub struct Fallbacks(BTreeMap<(&'static str, String), Vec<String>>);

impl Fallbacks {
    /// Records why this model fell back, if it did.
    pub fn add(&mut self, model: &Model) {
        let placement = model.placement();
        if let Some(reason) = cure::fallback(placement) {
            let key = (placement.provider.name(), reason);
            self.0.entry(key).or_default().push(model.name.clone());
        }
    }

    /// Logs one line for each reason.
    pub fn warn(&self) {
        for ((provider, reason), models) in &self.0 {
            tracing::warn!(
                models = models.join(", "),
                provider,
                reason,
                "device = \"auto\" fell back"
            );
        }
    }
}

/// Loads every model of the directory; those in `served` with the same version are kept. Blocks.
pub fn models(
    config: &Config,
    metrics: &Metrics,
    workers: &Workers,
    served: &Catalog,
) -> Result<Catalog, ModelsError> {
    let opened = open(config)?;
    let mut models = Vec::new();
    let mut fallbacks = Fallbacks::default();
    for (Found { name, version, .. }, bundle) in opened {
        if let Some(model) = served.served(&name, version) {
            models.push(Arc::clone(model));
            continue;
        }
        let model = start(config, &name, version, bundle, metrics, workers)?;
        fallbacks.add(&model);
        if model.placement().provider != Provider::Cpu {
            gpu::watch(metrics);
        }
        models.push(Arc::new(model));
    }
    fallbacks.warn();
    let defaults = Defaults {
        image: config.default_image_model.clone(),
        text: config.default_text_model.clone(),
    };
    Catalog::new(models, defaults).map_err(|error| config.mistake(error.key, &error.message).into())
}

/// A missing directory would be ignored without a message.
fn check_gpu_libraries(config: &Config) -> Result<(), ConfigError> {
    match &config.gpu_libraries {
        Some(directory) if !directory.is_dir() => {
            let message = format!(
                "expected a directory of libraries, found none at {}",
                directory.display()
            );
            Err(config.mistake("gpu_libraries", &message))
        }
        _ => Ok(()),
    }
}

/// Finds the device of a model, starts its lanes and checks its golden samples.
pub fn start(
    config: &Config,
    name: &str,
    version: u64,
    bundle: Bundle,
    metrics: &Metrics,
    workers: &Workers,
) -> Result<Model, ModelsError> {
    let lanes = lane_settings(config, name, &bundle);
    let placed = Placed::find(&bundle, device_options(config, name, &bundle)?, lanes.threads);
    let placed = placed.map_err(|error| match error {
        LoadError::Device(error) => {
            let message = format!("model {name}: {}", cure::device(&error));
            ModelsError::Config(config.mistake(&config.key_for(name, "device"), &message))
        }
        other => classifier::ClassifierError::from(other).into(),
    })?;
    let settings = model_settings(config, name, &bundle, placed.is_on_gpu())?;
    let model = Model::start(name, version, bundle, &settings, placed, metrics, workers)?;
    let (plan, placement) = (model.plan(), model.placement());
    let rows = most_of_one_client(config.queue_memory.0.as_u64()) / model.row_memory().max(1);
    if rows < 2 * u64::from(model.max_batch) {
        tracing::warn!(
            model = name,
            rows,
            max_batch = model.max_batch,
            "one client may use three quarters of queue_memory, which is less than two batches of this model, so batches stay small: raise queue_memory or lower max_batch"
        );
    }
    tracing::info!(
        model = name,
        version,
        provider = placement.provider.name(),
        device_id = placement.device_id,
        nodes = (!placement.nodes.is_empty()).then(|| tracing::field::debug(&placement.nodes)),
        labels = model.bundle.labels.len(),
        max_batch = model.max_batch,
        lanes = plan.lanes,
        threads = plan.threads_of_a_lone_run(cpu::available()),
        reason = plan.reason,
        "model loaded"
    );
    Ok(model)
}

/// Lanes and threads set in the configuration or in the model directory.
fn lane_settings(config: &Config, name: &str, bundle: &Bundle) -> LaneSettings {
    let (own, serving) = (config.of_model(name), &bundle.serving.lanes);
    let configured = |own: Option<usize>, models: Option<u32>| own.or(models.map(|value| value as usize));
    LaneSettings {
        lanes: configured(own.lanes.map(Count::get), serving.count),
        threads: configured(own.threads.map(Count::get), serving.threads),
    }
}

/// The device set in the configuration, else in the model's `serving.toml`, else the CPU.
fn device_options(config: &Config, name: &str, bundle: &Bundle) -> Result<DeviceOptions, ConfigError> {
    let (own, serving) = (config.of_model(name), &bundle.serving);
    let device = own.device.or(serving.lanes.device).unwrap_or_default();
    // The fp16 of a model directory only permits it where TensorRT is used, so it is no error.
    if own.fp16 == Some(true) && matches!(device, Device::Cpu | Device::Cuda) {
        let message = format!(
            "expected device = \"tensorrt\" or \"auto\" for 16-bit floats, found {device}, which runs the graph of {name} in its \
             exported precision"
        );
        return Err(config.mistake(&config.key_for(name, "fp16"), &message));
    }
    let mut options = DeviceOptions::new(device);
    options.device_id = own.device_id;
    options.fp16 = own.fp16.or(serving.lanes.fp16).unwrap_or(false);
    options.tf32 = own.tf32.or(serving.lanes.tf32).unwrap_or(false);
    options.memory_limit = own.gpu_memory_limit.map(|limit| limit.as_u64());
    options.tensorrt_cache.clone_from(&own.tensorrt_cache);
    options.libraries.clone_from(&config.gpu_libraries);
    options.max_batch = max_batch(&own, serving, true);
    Ok(options)
}

fn max_batch(own: &ModelConfig, serving: &Serving, on_gpu: bool) -> u32 {
    let default = if on_gpu {
        DEFAULT_GPU_MAX_BATCH.min(own.queue_capacity.get())
    } else {
        DEFAULT_MAX_BATCH
    };
    own.max_batch
        .map(Count::get)
        .or(serving.batch.max_size)
        .unwrap_or(default)
}

/// A table for an unknown model would be ignored without a message.
fn check_tables(config: &Config, opened: &[(Found, Bundle)]) -> Result<(), ConfigError> {
    let is_there = |name: &String| opened.iter().any(|(found, _)| found.name == *name);
    match config.model.keys().find(|name| !is_there(name)) {
        Some(name) => {
            let names: Vec<&str> = opened.iter().map(|(found, _)| found.name.as_str()).collect();
            let (directory, names) = (config.models.display(), names.join(", "));
            let message = format!("expected the name of a model in {directory} ({names}), found {name:?}");
            Err(config.mistake(&format!("model.{name}"), &message))
        }
        None => Ok(()),
    }
}

/// Settings from the configuration, else from the model's `serving.toml`, else the defaults.
fn model_settings(
    config: &Config,
    name: &str,
    bundle: &Bundle,
    on_gpu: bool,
) -> Result<ModelSettings, ConfigError> {
    let serving = &bundle.serving;
    let own = config.of_model(name);
    let max_weight = max_batch(&own, serving, on_gpu);
    let ModelConfig {
        queue_capacity,
        max_batch_tokens,
        max_wait,
        request_timeout,
        max_image_side,
        max_image_pixels,
        ..
    } = own;
    let mistake = |key: &str, message: String| config.mistake(&config.key_for(name, key), &message);
    if max_weight > queue_capacity.get() {
        let batch = format!(
            "the largest batch of {} ({max_weight})",
            bundle.directory.display()
        );
        let message = format!("expected at least {batch}, found {queue_capacity}");
        return Err(mistake("queue_capacity", message));
    }
    let weights = match &bundle.preprocessor {
        Preprocessor::Image(_) => Weights::images(max_weight),
        Preprocessor::Text(tokenizer) => {
            let max_tokens = max_batch_tokens
                .map(Count::get)
                .or(serving.batch.max_tokens)
                .unwrap_or_else(|| Weights::default_tokens(max_weight, tokenizer));
            if (max_tokens as usize) < tokenizer.max_length() {
                let longest = tokenizer.max_length();
                let text = format!("the longest text of {} ({longest})", bundle.directory.display());
                let message = format!("expected at least {text}, found {max_tokens}");
                return Err(mistake("max_batch_tokens", message));
            }
            Weights::texts(max_weight, max_tokens)
        }
    };
    Ok(ModelSettings {
        lanes: lane_settings(config, name, bundle),
        limits: Limits::new(weights.max_weight(), queue_capacity.get()).max_wait(*max_wait),
        weights,
        image_limits: classifier::ImageLimits::new(max_image_side.get(), max_image_pixels.get()),
        max_request_pixels: config.max_request_pixels,
        request_timeout: *request_timeout,
    })
}
