//! ONNX Runtime -> models -> lanes -> golden check -> router -> listen; and the same way back.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use classifier::bundle::Serving;
use classifier::runtime::library;
use classifier::{Bundle, Device, DeviceOptions, LoadError, Preprocessor, Provider};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::batch::Limits;
use crate::catalog::{self, Catalog, Defaults, Found};
use crate::config::{Config, ConfigError, ModelConfig};
use crate::cpu::{self, Pool};
use crate::engine::{LaneSettings, Placed, Weights};
use crate::gpu;
use crate::http::guard::Guard;
use crate::http::per_client::PerClient;
use crate::http::server::{ConnectionLimits, Server};
use crate::http::tls::{Tls, TlsError, TlsFiles};
use crate::http::{self, App};
use crate::metrics::Metrics;
use crate::model::{Model, ModelSettings};
use crate::reload;
use crate::shutdown::{Cause, Draining, Signals};
use crate::telemetry::Telemetry;

/// Inputs of a batch where neither the configuration nor the model says: on the CPU, and on a GPU, which needs more of them to
/// have work for all its units. How many is best for a model, `make gpu-check` measures.
const DEFAULT_MAX_BATCH: u32 = 32;
const DEFAULT_GPU_MAX_BATCH: u32 = 128;

/// Most connections for probes and metrics on a listener of their own.
const ADMIN_CONNECTIONS: usize = 256;

/// Time for the last answers to be written after `grace`, and for the lanes to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// ONNX Runtime, or a model.
    #[error(transparent)]
    Classifier(#[from] classifier::Error),
    /// Mistakes in model directories.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Bundles(Vec<classifier::BundleError>),
    /// A key of the configuration that does not fit the models.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Loading panicked.
    #[error("loading the models: {0}")]
    Loading(#[from] tokio::task::JoinError),
    /// A socket or a signal.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A metric could not be registered.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Serves until a signal ends it. `read` reads the configuration again.
pub async fn serve(
    config: Config,
    telemetry: Telemetry,
    read: impl Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
) -> Result<(), StartupError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |error| StartupError::Io { what, error }
    };
    let started = std::time::Instant::now();
    let mut signals = Signals::listen().map_err(io("signals"))?;
    // Before the models, whose loading takes longer than to find out that a certificate is missing.
    let tls = load_tls(&config)?;
    let metrics = Metrics::new()?;
    let catalog = {
        let (config, metrics) = (config.clone(), metrics.clone());
        let loading = tokio::task::spawn_blocking(move || {
            load_runtime(&config)?;
            let catalog = load_models(&config, &metrics, &Catalog::default())?;
            announce(&metrics, &Catalog::default(), &catalog);
            Ok::<_, StartupError>(catalog)
        });
        tokio::select! {
            loaded = loading => loaded??,
            // Loading may take minutes on a GPU; nothing is served yet, so nothing is lost.
            _ = signals.next() => return Ok(()),
        }
    };
    let cpus = cpu::available();
    let guard = Guard::new(&config, metrics.requests_by_key.clone());
    let app = Arc::new(App {
        draining: Draining::default(),
        catalog: ArcSwap::from_pointee(catalog),
        bodies: Pool::new(cpus, config.queue_capacity as usize),
        metrics,
        config,
        guard,
        telemetry,
    });
    reload_on_hangup(&app, tls.as_ref(), read).map_err(io("signals"))?;
    let config = &app.config;
    let bind = async |address| {
        let listener = TcpListener::bind(address)
            .await
            .map_err(io(&format!("cannot listen on {address}")))?;
        let address = listener.local_addr().map_err(io("address"))?;
        Ok::<_, StartupError>((listener, address))
    };
    let limits = ConnectionLimits {
        max_connections: config.max_connections,
        header_timeout: config.header_timeout.0,
        max_header_size: usize::try_from(config.max_header_size.0.as_u64()).unwrap_or(usize::MAX),
    };
    let connections = &app.metrics.connections;
    let admin_address = match config.admin_listen.0 {
        Some(address) => {
            let (listener, address) = bind(address.0).await?;
            let limits = ConnectionLimits {
                max_connections: ADMIN_CONNECTIONS,
                ..limits
            };
            let admin = Server::new(
                http::admin_router(Arc::clone(&app)),
                limits,
                None,
                connections.clone(),
            );
            // To the very end: orchestrators ask while the server drains as well.
            tokio::spawn(async move { admin.accept_until(listener, std::future::pending()).await });
            Some(address)
        }
        None => None,
    };
    let (listener, address) = bind(config.listen.0).await?;
    app.metrics.connection_limit.set(config.max_connections as i64);
    let mut server = Server::new(
        http::router(Arc::clone(&app)),
        limits,
        tls.clone(),
        connections.clone(),
    );
    if let Some(limit) = config.max_connections_per_client.0 {
        let refused = app.metrics.connections_refused.clone();
        let proxies = config.trusted_proxies.0.clone();
        server = server.with_limit_per_client(PerClient::new(limit, proxies, refused));
    }
    keep_up(&app, tls);
    tracing::info!(
        %address,
        admin_address = admin_address.map(tracing::field::display),
        tls = config.tls_certificate.0.is_some(),
        api_keys = config.api_keys.len(),
        cpus,
        milliseconds = started.elapsed().as_millis() as u64,
        "ready"
    );
    server
        .accept_until(listener, asked_to_end(&app, &mut signals))
        .await;
    finish(&app, server, &mut signals).await;
    Ok(())
}

fn load_tls(config: &Config) -> Result<Option<Arc<Tls>>, ConfigError> {
    let Some(files) = TlsFiles::of(config) else {
        return Ok(None);
    };
    match Tls::load(files) {
        Ok(tls) => Ok(Some(Arc::new(tls))),
        Err(TlsError { key, message }) => Err(config.mistake(key, &message)),
    }
}

/// What can be changed while the server runs.
fn reload_on_hangup(
    app: &Arc<App>,
    tls: Option<&Arc<Tls>>,
    read: impl Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
) -> std::io::Result<()> {
    let successful = &app.metrics.reload_successful;
    reload::on_hangup("configuration", successful, {
        let (app, read) = (Arc::clone(app), read.clone());
        move || {
            let config = read().map_err(|error| error.to_string())?;
            // All of it or nothing.
            Guard::check_keys(app.guard.as_ref(), &config.api_keys)?;
            app.telemetry.reload(&config)?;
            if let Some(guard) = &app.guard {
                guard.set_keys(&config.api_keys);
            }
            Ok::<_, String>(())
        }
    })?;
    if let Some(tls) = tls.map(Arc::clone) {
        reload::on_hangup("certificates", successful, move || tls.reload())?;
    }
    let app = Arc::clone(app);
    // Apart from the configuration: models take long to load, and one that fails must not keep a key from being withdrawn.
    reload::on_hangup("models", &app.metrics.reload_successful.clone(), move || {
        reload_models(&app, &read()?)
    })
}

/// What is to be looked after from time to time.
fn keep_up(app: &Arc<App>, tls: Option<Arc<Tls>>) {
    let every = app.config.tls_reload.0;
    if let Some(tls) = tls.filter(|_| !every.is_zero()) {
        let successful = &app.metrics.reload_successful;
        tokio::spawn(tls.watch(every, successful.with_label_values(&["certificates"])));
    }
    let app = Arc::clone(app);
    tokio::spawn(async move {
        if let Some(guard) = &app.guard {
            guard.keep_small().await;
        }
    });
}

/// Resolves when the listener should close: at once for a person, after `drain_delay` for an orchestrator.
async fn asked_to_end(app: &App, signals: &mut Signals) {
    let cause = signals.next().await;
    app.draining.start();
    let delay = app.config.drain_delay.0;
    tracing::info!(?cause, ?delay, "draining: not ready any more");
    if cause == Cause::Terminate {
        tokio::select! {
            () = sleep(delay) => {}
            _ = signals.next() => {}
        }
    }
}

/// Finishes what is in flight, within `grace`; then fails the rest.
async fn finish(app: &Arc<App>, server: Server, signals: &mut Signals) {
    tracing::info!("listener closed: finishing requests in flight");
    let mut finishing = std::pin::pin!(server.finish());
    let finished = tokio::select! {
        finished = timeout(app.config.grace.0, &mut finishing) => finished.is_ok(),
        _ = signals.next() => false,
    };
    if !finished {
        tracing::warn!("requests are still in flight: they are failed with 503 draining");
        for model in app.catalog.load().models() {
            model.abort();
        }
        let _ = timeout(LAST_WORDS, finishing).await;
    }
    let lanes = {
        let app = Arc::clone(app);
        tokio::task::spawn_blocking(move || app.catalog.load().join())
    };
    if timeout(LAST_WORDS, lanes).await.is_err() {
        tracing::warn!("a lane is still in a run that cannot be interrupted");
    }
    tracing::info!("ended");
}

/// Has the models served that are in the folder now. They are all loaded before any request meets them; if one cannot be, all
/// stays as it was.
fn reload_models(app: &App, config: &Config) -> Result<(), StartupError> {
    let old = app.catalog.load_full();
    let new = load_models(config, &app.metrics, &old)?;
    let new = Arc::new(new);
    app.catalog.store(Arc::clone(&new));
    announce(&app.metrics, &old, &new);
    Ok(())
}

/// Metrics and log lines of the models that come and go.
fn announce(metrics: &Metrics, old: &Catalog, new: &Catalog) {
    let same = |one: &Arc<Model>, catalog: &Catalog| {
        catalog.get(&one.name).is_ok_and(|other| Arc::ptr_eq(one, other))
    };
    for model in old.models().filter(|model| !same(model, new)) {
        let name_stays = new.get(&model.name).is_ok();
        metrics.remove_model(
            &model.name,
            &model.version,
            model.placement().provider.name(),
            name_stays,
        );
        tracing::info!(
            model = model.name,
            version = model.version,
            "model served no more"
        );
    }
    for model in new.models().filter(|model| !same(model, old)) {
        metrics.add_model(&model.name, &model.version, model.placement().provider.name());
    }
}

/// Loads ONNX Runtime.
pub(crate) fn load_runtime(config: &Config) -> Result<(), StartupError> {
    let place = library::load(config.onnxruntime.0.as_deref()).map_err(classifier::Error::from)?;
    tracing::info!(place, "ONNX Runtime loaded");
    Ok(check_gpu_libraries(config)?)
}

/// Reads every model directory.
pub(crate) fn open_models(config: &Config) -> Result<Vec<(Found, Bundle)>, StartupError> {
    let opened = catalog::open(&config.models, &config.pinned_versions()).map_err(StartupError::Bundles)?;
    check_tables(config, &opened)?;
    Ok(opened)
}

/// Loads every model that is in the folder and not in `served` in that version. Blocks.
fn load_models(config: &Config, metrics: &Metrics, served: &Catalog) -> Result<Catalog, StartupError> {
    let opened = open_models(config)?;
    let mut models = Vec::new();
    for (Found { name, version, .. }, bundle) in opened {
        if let Some(model) = served.served(&name, version) {
            models.push(Arc::clone(model));
            continue;
        }
        let model = start_model(config, &name, version, bundle, metrics)?;
        if model.placement().provider != Provider::Cpu {
            gpu::watch(metrics);
        }
        models.push(Arc::new(model));
    }
    let defaults = Defaults {
        image: config.default_image_model.0.clone(),
        text: config.default_text_model.0.clone(),
    };
    Catalog::new(models, defaults).map_err(|(key, message)| config.mistake(key, &message).into())
}

/// A folder that is not there would be without effect.
fn check_gpu_libraries(config: &Config) -> Result<(), ConfigError> {
    match &config.gpu_libraries.0 {
        Some(folder) if !folder.is_dir() => {
            let message = format!(
                "expected a folder of libraries, found none at {}",
                folder.display()
            );
            Err(config.mistake("gpu_libraries", &message))
        }
        _ => Ok(()),
    }
}

/// Finds the device of a model, starts its lanes and has it prove itself.
pub(crate) fn start_model(
    config: &Config,
    name: &str,
    version: u64,
    bundle: Bundle,
    metrics: &Metrics,
) -> Result<Model, StartupError> {
    let lanes = lane_settings(config, name, &bundle);
    let placed = Placed::find(&bundle, device_options(config, name, &bundle)?, lanes.threads);
    let placed = placed.map_err(|error| match error {
        LoadError::Device(error) => {
            let message = format!("model {name}: {error}");
            StartupError::Config(config.mistake(&config.key_for(name, "device"), &message))
        }
        LoadError::Bundle(error) => classifier::Error::from(error).into(),
    })?;
    let settings = model_settings(config, name, &bundle, placed.is_on_gpu())?;
    let model = Model::start(name, version, bundle, &settings, placed, metrics)?;
    let (plan, placement) = (model.plan(), model.placement());
    if let Some(reason) = &placement.fallback {
        tracing::warn!(
            model = name,
            provider = placement.provider.name(),
            reason,
            "device = \"auto\" fell back"
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

/// Lanes and threads, as far as they are said.
fn lane_settings(config: &Config, name: &str, bundle: &Bundle) -> LaneSettings {
    let (own, serving) = (config.of_model(name), &bundle.serving.lanes);
    let configured = |own: Option<usize>, models: Option<u32>| own.or(models.map(|value| value as usize));
    LaneSettings {
        lanes: configured(own.lanes, serving.count),
        threads: configured(own.threads, serving.threads),
    }
}

/// Where a model is to run: what the configuration says, else what its `serving.toml` says, else the CPU.
fn device_options(config: &Config, name: &str, bundle: &Bundle) -> Result<DeviceOptions, ConfigError> {
    let (own, serving) = (config.of_model(name), &bundle.serving);
    let device = own.device.or(serving.lanes.device).unwrap_or_default();
    // The model's own fp16 only allows it, where there is a TensorRT.
    if own.fp16 == Some(true) && matches!(device, Device::Cpu | Device::Cuda) {
        let message = format!(
            "expected device = \"tensorrt\" or \"auto\" for 16-bit floats, found {device}, which runs the graph of {name} in the \
             precision that it was exported in"
        );
        return Err(config.mistake(&config.key_for(name, "fp16"), &message));
    }
    Ok(DeviceOptions {
        device,
        device_id: own.device_id,
        fp16: own.fp16.or(serving.lanes.fp16).unwrap_or(false),
        tf32: own.tf32.or(serving.lanes.tf32).unwrap_or(false),
        memory_limit: own.gpu_memory_limit.map(|limit| limit.as_u64()),
        tensorrt_cache: own.tensorrt_cache.clone(),
        libraries: config.gpu_libraries.0.clone(),
        max_batch: max_batch(&own, serving, true),
    })
}

/// Most inputs in a batch.
fn max_batch(own: &ModelConfig, serving: &Serving, on_gpu: bool) -> u32 {
    let default = if on_gpu {
        DEFAULT_GPU_MAX_BATCH.min(own.queue_capacity)
    } else {
        DEFAULT_MAX_BATCH
    };
    own.max_batch.or(serving.batch.max_size).unwrap_or(default)
}

/// A table for a model that is not there would be without effect.
fn check_tables(config: &Config, opened: &[(Found, Bundle)]) -> Result<(), ConfigError> {
    let is_there = |name: &String| opened.iter().any(|(found, _)| found.name == *name);
    match config.model.keys().find(|name| !is_there(name)) {
        Some(name) => {
            let names: Vec<&str> = opened.iter().map(|(found, _)| found.name.as_str()).collect();
            let (folder, names) = (config.models.display(), names.join(", "));
            let message = format!("expected the name of a model in {folder} ({names}), found {name:?}");
            Err(config.mistake(&format!("model.{name}"), &message))
        }
        None => Ok(()),
    }
}

/// What the configuration says, else what the model's `serving.toml` says, else the defaults.
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
    if max_weight > queue_capacity {
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
        limits: Limits {
            max_weight: weights.max_weight(),
            fill_weight: weights.max_weight(),
            capacity: queue_capacity,
            max_wait,
            caller_weight: 0,
        },
        weights,
        image_limits: classifier::Limits {
            max_side: max_image_side,
            max_pixels: max_image_pixels,
        },
        request_timeout,
    })
}
