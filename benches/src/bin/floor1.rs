//! F1: the server that a good engineer writes by hand in an afternoon: axum, a session per core,
//! each behind a lock, and JSON. It shares decoding, resizing, the options of ONNX Runtime and the
//! softmax with classifyd, through the crate `classifier`. It has no batching, limits, deadlines or
//! metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use classifier::{Bundle, ImageLimits, Prediction, Session, SessionOptions};
use serde::Serialize;

/// Number of labels in a response.
const TOP: usize = 5;
/// Largest body. A photo is larger than the default of axum.
const MAX_BODY: usize = 20 << 20;

/// Serves one model directory.
#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8101")]
    listen: SocketAddr,
    /// Model directory.
    #[arg(long)]
    model: PathBuf,
    /// Threads of each session.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Sessions. Default: one per core.
    #[arg(long)]
    sessions: Option<usize>,
    /// Decode and run on blocking threads, for models that take milliseconds. The default is the
    /// async workers, which is faster for models that take microseconds.
    #[arg(long)]
    blocking: bool,
}

struct Server {
    name: String,
    bundle: Bundle,
    limits: ImageLimits,
    sessions: Vec<Mutex<Session>>,
    next: AtomicUsize,
    blocking: bool,
}

#[derive(Serialize)]
struct ClassifyResponse {
    model: String,
    version: &'static str,
    results: [ClassifyResult; 1],
}

#[derive(Serialize)]
struct ClassifyResult {
    label: String,
    score: f32,
    top: Vec<Label>,
}

#[derive(Serialize)]
struct Label {
    label: String,
    score: f32,
}

type Failure = (StatusCode, String);

impl Server {
    fn classify(&self, body: &[u8]) -> Result<ClassifyResponse, Failure> {
        let unusable =
            |error: classifier::ClassifierError| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
        let failed = |error: classifier::RunError| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let prepared = self
            .bundle
            .preprocessor
            .prepare(body, &self.limits)
            .map_err(unusable)?;
        let outputs = self
            .session()
            .run(std::iter::once(&prepared.row), |_| {})
            .map_err(failed)?;
        let scores = classifier::output::scores(&outputs, self.bundle.activation).map_err(failed)?;
        let top: Vec<Label> = Prediction::from_scores(&scores, &self.bundle.labels, TOP)
            .top
            .into_iter()
            .map(|score| Label {
                label: score.label,
                score: score.score,
            })
            .collect();
        Ok(ClassifyResponse {
            model: self.name.clone(),
            version: "1",
            results: [ClassifyResult {
                label: top[0].label.clone(),
                score: top[0].score,
                top,
            }],
        })
    }

    /// A free session. If none is free, waits for one of them, each in turn.
    fn session(&self) -> MutexGuard<'_, Session> {
        let count = self.sessions.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for offset in 0..count {
            match self.sessions[(first + offset) % count].try_lock() {
                Ok(session) => return session,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        self.sessions[first % count]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn classify(State(server): State<Arc<Server>>, body: Bytes) -> Result<Json<ClassifyResponse>, Failure> {
    if !server.blocking {
        return server.classify(&body).map(Json);
    }
    tokio::task::spawn_blocking(move || server.classify(&body))
        .await
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
        .map(Json)
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    classifier::runtime::library::load(None)?;
    let bundle = Bundle::open(&args.model)?;
    let cores = std::thread::available_parallelism()?.get();
    let options = SessionOptions::default().with_threads(args.threads);
    let sessions = (0..args.sessions.unwrap_or(cores).max(1))
        .map(|_| Session::load(&bundle, &options).map(Mutex::new))
        .collect::<Result<Vec<_>, _>>()?;
    let name = args.model.parent().and_then(|directory| directory.file_name());
    let server = Server {
        name: name
            .context("expected a model directory of the form NAME/VERSION")?
            .to_string_lossy()
            .into_owned(),
        bundle,
        limits: ImageLimits::default(),
        sessions,
        next: AtomicUsize::new(0),
        blocking: args.blocking,
    };
    let router = Router::new()
        .route("/v1/classify", post(classify))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(server));
    benches::floor::serve(args.listen, router)
}
