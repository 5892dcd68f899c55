//! ONNX Runtime -> models -> lanes -> golden check -> router -> listen; and the same way back.

use std::sync::Arc;
use std::time::Duration;

use classifier::Preprocessor;
use classifier::runtime::library;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::batch::Limits;
use crate::catalog::{self, Catalog, Defaults, Found};
use crate::config::{Config, ConfigError};
use crate::cpu;
use crate::engine::{LaneSettings, Weights};
use crate::http::server::{ConnectionLimits, Server};
use crate::http::{self, App};
use crate::metrics::Metrics;
use crate::model::{Model, ModelSettings};
use crate::reload;
use crate::shutdown::{Cause, Draining, Signals};
use crate::telemetry::Telemetry;

/// Inputs of a batch where neither the configuration nor the model says.
const DEFAULT_MAX_BATCH: u32 = 32;

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
    #[error("{0}")]
    Config(String),
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
    let log = telemetry.clone();
    reload::on_hangup("log", move || {
        let config = read().map_err(|error| error.to_string())?;
        log.reload(&config)
    })
    .map_err(io("signals"))?;
    let metrics = Metrics::new()?;
    let catalog = {
        let (config, metrics) = (config.clone(), metrics.clone());
        let loading = tokio::task::spawn_blocking(move || load_models(&config, &metrics));
        tokio::select! {
            loaded = loading => loaded.map_err(|error| StartupError::Config(error.to_string()))??,
            // Loading may take minutes on a GPU; nothing is served yet, so nothing is lost.
            _ = signals.next() => return Ok(()),
        }
    };
    let cpus = cpu::available();
    let app = Arc::new(App {
        draining: Draining::default(),
        catalog,
        metrics,
        config,
        telemetry,
    });
    let config = &app.config;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(io(&format!("cannot listen on {}", config.listen)))?;
    let address = listener.local_addr().map_err(io("address"))?;
    let limits = ConnectionLimits {
        max_connections: config.max_connections,
        header_timeout: config.header_timeout.0,
    };
    app.metrics.connection_limit.set(config.max_connections as i64);
    let server = Server::new(
        http::router(Arc::clone(&app)),
        limits,
        app.metrics.connections.clone(),
    );
    tracing::info!(
        %address,
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
        for model in app.catalog.models() {
            model.abort();
        }
        let _ = timeout(LAST_WORDS, finishing).await;
    }
    let lanes = {
        let app = Arc::clone(app);
        tokio::task::spawn_blocking(move || app.catalog.join())
    };
    if timeout(LAST_WORDS, lanes).await.is_err() {
        tracing::warn!("a lane is still in a run that cannot be interrupted");
    }
    tracing::info!("ended");
}

/// Loads ONNX Runtime and every model. Blocks.
fn load_models(config: &Config, metrics: &Metrics) -> Result<Catalog, StartupError> {
    let place = library::load(config.onnxruntime.0.as_deref()).map_err(classifier::Error::from)?;
    tracing::info!(place, "ONNX Runtime loaded");
    let opened = catalog::open(&config.models).map_err(StartupError::Bundles)?;
    let mut models = Vec::new();
    for (Found { name, version, .. }, bundle) in opened {
        let settings = model_settings(config, &bundle)?;
        let model = Model::start(&name, version, bundle, &settings, metrics)?;
        let plan = model.plan();
        tracing::info!(
            model = name,
            version,
            labels = model.bundle.labels.len(),
            max_batch = model.max_batch,
            lanes = plan.lanes,
            threads = plan.threads_of_a_lone_run(cpu::available()),
            reason = plan.reason,
            "model loaded"
        );
        models.push(model);
    }
    let defaults = Defaults {
        image: config.default_image_model.0.clone(),
        text: config.default_text_model.0.clone(),
    };
    Catalog::new(models, defaults).map_err(StartupError::Config)
}

/// What the configuration says, else what the model's `serving.toml` says, else the defaults.
fn model_settings(config: &Config, bundle: &classifier::Bundle) -> Result<ModelSettings, StartupError> {
    let serving = &bundle.serving;
    let max_weight = config
        .max_batch
        .0
        .or(serving.batch.max_size)
        .unwrap_or(DEFAULT_MAX_BATCH);
    if max_weight > config.queue_capacity {
        return Err(StartupError::Config(format!(
            "queue_capacity: expected at least the largest batch of {} ({max_weight}), found {}",
            bundle.directory.display(),
            config.queue_capacity
        )));
    }
    let weights = match &bundle.preprocessor {
        Preprocessor::Image(_) => Weights::images(max_weight),
        Preprocessor::Text(tokenizer) => {
            let max_tokens = config
                .max_batch_tokens
                .0
                .or(serving.batch.max_tokens)
                .unwrap_or_else(|| Weights::default_tokens(max_weight, tokenizer));
            if (max_tokens as usize) < tokenizer.max_length() {
                return Err(StartupError::Config(format!(
                    "max_batch_tokens: expected at least the longest text of {} ({}), found {max_tokens}",
                    bundle.directory.display(),
                    tokenizer.max_length()
                )));
            }
            Weights::texts(max_weight, max_tokens)
        }
    };
    let configured = |own: Option<usize>, models: Option<u32>| own.or(models.map(|value| value as usize));
    Ok(ModelSettings {
        lanes: LaneSettings {
            lanes: configured(config.lanes.0, serving.lanes.count),
            threads: configured(config.threads.0, serving.lanes.threads),
        },
        limits: Limits {
            max_weight: weights.max_weight(),
            fill_weight: weights.max_weight(),
            capacity: config.queue_capacity,
            max_wait: config.max_wait.0,
            caller_weight: 0,
        },
        weights,
        image_limits: classifier::Limits {
            max_side: config.max_image_side,
            max_pixels: config.max_image_pixels,
        },
    })
}
