//! ONNX Runtime -> models -> lanes -> golden check -> router -> listen; and the same way back.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::time::{sleep, timeout};

use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::catalog::loading::{self, ModelsError};
use crate::config::{Config, ConfigError};
use crate::cpu::{self, Workers};
use crate::http::connections::{Connections, Counters};
use crate::http::guard::Guard;
use crate::http::probes::Pulse;
use crate::http::server::{ConnectionLimits, Server};
use crate::http::stream::StreamLimits;
use crate::http::tls::{Tls, TlsError, TlsFiles};
use crate::http::{self, App};
use crate::listen::{Taken, reachable};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::reload::Hangups;
use crate::shutdown::{Cause, Draining, Signals};
use crate::telemetry::Telemetry;

/// Most connections for probes and metrics on a listener of their own.
const ADMIN_CONNECTIONS: usize = 256;

/// Time for the last answers to be written after `grace`, and for the lanes to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// ONNX Runtime, or the models.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// A key of the configuration.
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

/// Serves until a signal ends it. `hangups` has listened since the process began; `read` reads the configuration again.
pub async fn serve(
    config: Config,
    telemetry: Telemetry,
    hangups: Hangups,
    read: impl Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
) -> Result<(), StartupError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |error| StartupError::Io { what, error }
    };
    let started = std::time::Instant::now();
    let mut signals = Signals::listen().map_err(io("signals"))?;
    let metrics = Metrics::new()?;
    // Before the models, whose loading takes longer than to find out that a certificate is missing or an address is taken.
    let tls = load_tls(&config, &metrics)?;
    let listen = Taken::new(&config, "listen", config.listen.0)?;
    let admin_listen = config
        .admin_listen
        .0
        .map(|address| Taken::new(&config, "admin_listen", address.0))
        .transpose()?;
    let cpus = cpu::available();
    let workers = Workers::start(cpus, config.decode_memory.0.as_u64())
        .map_err(io("cannot start the threads that decode"))?;
    let catalog = {
        let (config, metrics, workers) = (config.clone(), metrics.clone(), workers.clone());
        let loading = tokio::task::spawn_blocking(move || {
            loading::runtime(&config)?;
            let catalog = loading::models(&config, &metrics, &workers, &Catalog::default())?;
            announce(&metrics, &Catalog::default(), &catalog);
            Ok::<_, StartupError>(catalog)
        });
        tokio::select! {
            loaded = loading => loaded??,
            // Loading may take minutes on a GPU; nothing is served yet, so nothing is lost.
            _ = signals.next() => return Ok(()),
        }
    };
    let guard = Guard::new(&config, metrics.requests_by_key.clone());
    let app = Arc::new(App {
        draining: Draining::default(),
        catalog: ArcSwap::from_pointee(catalog),
        bodies: workers.pool(config.queue_capacity as usize),
        workers,
        body_memory: Budget::new(config.body_memory.0.as_u64()),
        queue_memory: Budget::new(config.queue_memory.0.as_u64()),
        metrics,
        config,
        guard,
        telemetry,
        pulse: Pulse::new(),
    });
    reload_on_hangup(&app, tls.as_ref(), &hangups, read).map_err(io("signals"))?;
    let config = &app.config;
    let limits = ConnectionLimits {
        max_connections: config.max_connections,
        handshake: config.header_timeout.0,
        stream: StreamLimits {
            keep_alive: config.keep_alive_timeout.0,
            header: config.header_timeout.0,
            write: config.write_timeout.0,
        },
        max_header_size: usize::try_from(config.max_header_size.0.as_u64()).unwrap_or(usize::MAX),
    };
    let connections = &app.metrics.connections;
    // First, so that whoever hears on `admin_listen` that the server is ready can connect.
    let (listener, address) = listen.open(config)?;
    let admin_address = match admin_listen {
        Some(taken) => {
            let (listener, address) = taken.open(config)?;
            let limits = ConnectionLimits {
                max_connections: ADMIN_CONNECTIONS,
                ..limits
            };
            let admin = Server::new(
                http::admin_router(Arc::clone(&app)),
                limits,
                None,
                connections.clone(),
            )
            .with_unreadable(http::unreadable(Arc::clone(&app)));
            serve_apart(admin, listener).map_err(io("cannot serve admin_listen"))?;
            Some(address)
        }
        None => None,
    };
    app.metrics.connection_limit.set(config.max_connections as i64);
    let counters = Counters {
        refused: app.metrics.connections_refused.clone(),
        displaced: app.metrics.connections_displaced.clone(),
    };
    let own = Connections::new(config.trusted_proxies.0.clone())
        .with_limit(config.max_connections_per_client.0)
        .with_counters(counters);
    let server = Server::new(
        http::router(Arc::clone(&app)),
        limits,
        tls.clone(),
        connections.clone(),
    )
    .with_connections(own)
    .with_handshake_failures(app.metrics.handshake_failures.clone())
    .with_unreadable(http::unreadable(Arc::clone(&app)));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/", reachable(address));
    tracing::info!(
        %address,
        url,
        admin_address = admin_address.map(tracing::field::display),
        tls = config.tls_certificate.0.is_some(),
        api_keys = config.api_keys.len(),
        cpus,
        milliseconds = started.elapsed().as_millis() as u64,
        "ready"
    );
    tracing::info!("open {url} for the playground, {url}docs for the API");
    keep_up(&app, tls);
    server
        .accept_until(listener, asked_to_end(&app, &mut signals))
        .await;
    finish(&app, server, &mut signals).await;
    Ok(())
}

/// Serves on a thread of its own, so that probes are answered in time while a thousand connections wait for the threads of the
/// runtime. To the very end: orchestrators ask while the server drains as well.
fn serve_apart(admin: Server, listener: TcpListener) -> std::io::Result<()> {
    let listener = listener.into_std()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener)?
    };
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || runtime.block_on(admin.accept_until(listener, std::future::pending())))?;
    Ok(())
}

fn load_tls(config: &Config, metrics: &Metrics) -> Result<Option<Arc<Tls>>, ConfigError> {
    let Some(files) = TlsFiles::of(config) else {
        return Ok(None);
    };
    match Tls::load(files, metrics.certificate_expiry.clone()) {
        Ok(tls) => Ok(Some(Arc::new(tls))),
        Err(TlsError { key, message }) => Err(config.mistake(key, &message)),
    }
}

/// What can be changed while the server runs.
fn reload_on_hangup(
    app: &Arc<App>,
    tls: Option<&Arc<Tls>>,
    hangups: &Hangups,
    read: impl Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
) -> std::io::Result<()> {
    let successful = &app.metrics.reload_successful;
    hangups.on_each("configuration", successful, {
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
        hangups.on_each("certificates", successful, move || tls.reload())?;
    }
    let app = Arc::clone(app);
    // Apart from the configuration: models take long to load, and one that fails must not keep a key from being withdrawn.
    hangups.on_each("models", &app.metrics.reload_successful.clone(), move || {
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
    let alive = Arc::clone(app);
    tokio::spawn(async move { alive.pulse.keep().await });
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
    // A person should not wait.
    let delay = match cause {
        Cause::Terminate => app.config.drain_delay.0,
        Cause::Interrupt => Duration::ZERO,
    };
    tracing::info!(?cause, ?delay, "draining: not ready any more");
    if !delay.is_zero() {
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
        app.draining.end();
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
    let new = loading::models(config, &app.metrics, &app.workers, &old)?;
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
