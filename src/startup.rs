//! Starts the parts of the server in order (ONNX Runtime, models, listeners) and stops them in
//! reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::time::{sleep, timeout};

use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::catalog::loading::{self, ModelsError};
use crate::config::{Config, ConfigError, Count};
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

/// Maximum number of connections to `admin_listen`.
const ADMIN_CONNECTIONS: usize = 256;

/// Time after `grace` to write the last responses, and then for the lanes to end.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// ONNX Runtime or a model could not be loaded.
    #[error(transparent)]
    Models(#[from] ModelsError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Loading panicked.
    #[error("cannot load the models: {0}")]
    Loading(#[from] tokio::task::JoinError),
    /// A thread, a socket or a signal handler could not be set up.
    #[error("{what}: {error}")]
    Io {
        what: &'static str,
        error: std::io::Error,
    },
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> StartupError {
    move |error| StartupError::Io { what, error }
}

/// Serves until a signal ends the server. `hangups` has listened since the process began, and
/// `read` reads the configuration again.
pub async fn serve(
    config: Config,
    telemetry: Telemetry,
    hangups: Hangups,
    read: impl Fn() -> Result<Config, ConfigError> + Clone + Send + 'static,
) -> Result<(), StartupError> {
    let started = Instant::now();
    let mut signals = Signals::listen().map_err(io("cannot listen for signals"))?;
    let metrics = Metrics::new()?;
    // Before the models: they can take minutes to load, and a missing certificate or an address in
    // use should be reported at once.
    let tls = load_tls(&config, &metrics)?;
    let addresses = Addresses::take(&config)?;
    let workers = Workers::start(cpu::available(), config.decode_memory.as_u64())
        .map_err(io("cannot start the threads that decode inputs"))?;
    let loading = load_models(&config, &metrics, &workers);
    let catalog = tokio::select! {
        catalog = loading => catalog?,
        // Nothing is served yet, so nothing is lost.
        _ = signals.next() => return Ok(()),
    };
    let app = Arc::new(App {
        draining: Draining::default(),
        catalog: ArcSwap::from_pointee(catalog),
        bodies: workers.pool(config.queue_capacity.get() as usize),
        workers,
        body_memory: Budget::new(config.body_memory.as_u64()),
        queue_memory: Budget::new(config.queue_memory.as_u64()),
        guard: Guard::new(&config, metrics.requests_by_key.clone()),
        metrics,
        config,
        telemetry,
        pulse: Pulse::new(),
    });
    reload_on_hangup(&app, tls.as_ref(), &hangups, read).map_err(io("cannot listen for signals"))?;
    // The main listener first: a client that learns from `admin_listen` that the server is ready
    // must be able to connect.
    let (listener, address) = addresses.main.open(&app.config)?;
    let admin_address = match addresses.admin {
        Some(taken) => Some(serve_admin(&app, taken)?),
        None => None,
    };
    let server = main_server(&app, tls.clone());
    log_ready(&app, started, address, admin_address);
    start_background_tasks(&app, tls);
    server
        .accept_until(listener, end_of_listening(&app, &mut signals))
        .await;
    finish(&app, server, &mut signals).await;
    Ok(())
}

/// The addresses that the configuration names, bound but not yet open.
struct Addresses {
    main: Taken,
    admin: Option<Taken>,
}

impl Addresses {
    fn take(config: &Config) -> Result<Self, ConfigError> {
        let admin = config
            .admin_listen
            .map(|address| Taken::new(config, "admin_listen", *address));
        Ok(Self {
            main: Taken::new(config, "listen", *config.listen)?,
            admin: admin.transpose()?,
        })
    }
}

/// Loads ONNX Runtime and every model on a thread where that may block.
async fn load_models(config: &Config, metrics: &Metrics, workers: &Workers) -> Result<Catalog, StartupError> {
    let (config, metrics, workers) = (config.clone(), metrics.clone(), workers.clone());
    tokio::task::spawn_blocking(move || {
        loading::runtime(&config)?;
        let none = Catalog::default();
        let catalog = loading::models(&config, &metrics, &workers, &none)?;
        announce(&metrics, &none, &catalog);
        Ok(catalog)
    })
    .await?
}

fn connection_limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        max_connections: config.max_connections.get(),
        handshake: *config.header_timeout,
        stream: StreamLimits {
            keep_alive: *config.keep_alive_timeout,
            header: *config.header_timeout,
            write: *config.write_timeout,
        },
        max_header_size: usize::try_from(config.max_header_size.as_u64()).unwrap_or(usize::MAX),
    }
}

fn main_server(app: &Arc<App>, tls: Option<Arc<Tls>>) -> Server {
    let (config, metrics) = (&app.config, &app.metrics);
    let max_connections = config.max_connections.get();
    metrics.connections.limit.set(max_connections as i64);
    let connections = Connections::new(config.trusted_proxies.0.clone())
        .with_limit(config.max_connections_per_client.map(Count::get))
        .with_counters(Counters {
            refused: metrics.connections.refused.clone(),
            displaced: metrics.connections.displaced.clone(),
        });
    let router = http::router(Arc::clone(app));
    Server::new(
        router,
        connection_limits(config),
        tls,
        metrics.connections.open.clone(),
    )
    .with_connections(connections)
    .with_handshake_failures(metrics.connections.handshake_failures.clone())
    .with_unreadable(http::unreadable(Arc::clone(app)))
}

/// Serves `admin_listen`, and returns its address.
fn serve_admin(app: &Arc<App>, taken: Taken) -> Result<SocketAddr, StartupError> {
    let (listener, address) = taken.open(&app.config)?;
    let limits = ConnectionLimits {
        max_connections: ADMIN_CONNECTIONS,
        ..connection_limits(&app.config)
    };
    let router = http::admin_router(Arc::clone(app));
    let admin = Server::new(router, limits, None, app.metrics.connections.open.clone())
        .with_unreadable(http::unreadable(Arc::clone(app)));
    serve_apart(admin, listener).map_err(io("cannot serve admin_listen"))?;
    Ok(address)
}

fn log_ready(app: &App, started: Instant, address: SocketAddr, admin_address: Option<SocketAddr>) {
    let is_tls = app.config.tls_certificate.is_some();
    let scheme = if is_tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/", reachable(address));
    tracing::info!(
        %address,
        url,
        admin_address = admin_address.map(tracing::field::display),
        tls = is_tls,
        api_keys = app.config.api_keys.len(),
        cpus = cpu::available(),
        milliseconds = started.elapsed().as_millis() as u64,
        "ready"
    );
    tracing::info!("open {url} for the playground, {url}docs for the API");
}

/// Serves on a thread of its own, so that probes get a response in time while a thousand
/// connections wait for the threads of the runtime. It runs until the process ends, because
/// orchestrators probe a server that drains as well.
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
    match Tls::load(files, metrics.connections.certificate_expiry.clone()) {
        Ok(tls) => Ok(Some(Arc::new(tls))),
        Err(TlsError { key, message }) => Err(config.mistake(key, &message)),
    }
}

/// Reloads on SIGHUP what can change while the server runs.
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
            // Check everything before anything changes.
            Guard::check_keys(app.guard.as_ref(), &config.api_keys)?;
            app.telemetry.reload(&config).map_err(|error| error.to_string())?;
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
    // Apart from the configuration: models take long to load, and one that fails must not delay the
    // withdrawal of an API key.
    hangups.on_each("models", &app.metrics.reload_successful.clone(), move || {
        reload_models(&app, &read()?)
    })
}

/// Starts the tasks that run beside the requests: certificates, the pulse of the runtime, rate
/// limits.
fn start_background_tasks(app: &Arc<App>, tls: Option<Arc<Tls>>) {
    let every = *app.config.tls_reload;
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

/// Resolves when the listener should close: `drain_delay` after SIGTERM, at once after Ctrl-C.
async fn end_of_listening(app: &App, signals: &mut Signals) {
    let cause = signals.next().await;
    app.draining.start();
    let delay = match cause {
        Cause::Terminate => *app.config.drain_delay,
        Cause::Interrupt => Duration::ZERO,
    };
    tracing::info!(?cause, ?delay, "draining: no longer ready");
    if !delay.is_zero() {
        tokio::select! {
            () = sleep(delay) => {}
            _ = signals.next() => {}
        }
    }
}

/// Waits up to `grace` for the requests in flight, then fails the others.
async fn finish(app: &Arc<App>, server: Server, signals: &mut Signals) {
    tracing::info!("listener closed: finishing requests in flight");
    let mut finishing = std::pin::pin!(server.finish());
    let finished = tokio::select! {
        finished = timeout(*app.config.grace, &mut finishing) => finished.is_ok(),
        _ = signals.next() => false,
    };
    if !finished {
        tracing::warn!("requests are still in flight: failing them with 503 draining");
        app.draining.end();
        for model in app.catalog.load().models() {
            model.abort();
        }
        let _ = timeout(FLUSH_TIME, finishing).await;
    }
    let lanes = {
        let app = Arc::clone(app);
        tokio::task::spawn_blocking(move || app.catalog.load().join())
    };
    if timeout(FLUSH_TIME, lanes).await.is_err() {
        tracing::warn!("a lane is still in a run that cannot be interrupted");
    }
    tracing::info!("ended");
}

/// Serves the models that are in the directory now. All of them are loaded before the first one
/// gets a request. If one cannot be loaded, nothing changes.
fn reload_models(app: &App, config: &Config) -> Result<(), StartupError> {
    let old = app.catalog.load_full();
    let new = loading::models(config, &app.metrics, &app.workers, &old)?;
    let new = Arc::new(new);
    app.catalog.store(Arc::clone(&new));
    announce(&app.metrics, &old, &new);
    Ok(())
}

/// Adds and removes the metrics of models that have come or gone, and logs those that have gone.
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
            "model no longer served"
        );
    }
    for model in new.models().filter(|model| !same(model, old)) {
        metrics.add_model(&model.name, &model.version, model.placement().provider.name());
    }
}
