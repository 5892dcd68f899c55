//! Every Prometheus metric, declared once, in a registry of its own.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::budget::Budget;
use crate::cpu::Usage;
use crate::http::error::Code;

/// Buckets for whole requests and their stages, in seconds: from a digit on an idle machine to a deadline.
const SECONDS: [f64; 19] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// What the binary was built from, where the build says so.
const COMMIT: &str = match option_env!("CLASSIFYD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Buckets for batch sizes, in inputs.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The metrics of the process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// HTTP requests, by route, method and status.
    pub http_requests: IntCounterVec,
    /// Seconds from a request's head to its response's head, by route.
    pub http_duration: HistogramVec,
    /// HTTP requests whose client has gone before the answer, by route.
    pub http_abandoned: IntCounterVec,
    /// HTTP requests that have no answer yet.
    pub http_in_flight: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
    /// Connections beyond what one client may have.
    pub connections_refused: IntCounter,
    /// Connections closed while they waited for their client, for want of a place for another.
    pub connections_displaced: IntCounter,
    /// TLS handshakes that failed, by reason.
    pub handshake_failures: IntCounterVec,
    /// When the certificates that are in use run out, in seconds of Unix time, by which they are.
    pub certificate_expiry: IntGaugeVec,
    /// Most open connections.
    pub connection_limit: IntGauge,
    /// Requests with an API key, by its name and status.
    pub requests_by_key: IntCounterVec,
    /// Requests that were refused or given up, by model and reason.
    pub rejected: IntCounterVec,
    decode_running: IntGauge,
    decode_waiting: IntGauge,
    decode_memory: IntGauge,
    decode_memory_limit: IntGauge,
    body_memory: BudgetGauges,
    queue_memory: BudgetGauges,
    ready: IntGauge,
    log_lines_dropped: IntCounter,
    stage_duration: HistogramVec,
    batch_size: HistogramVec,
    queue_depth: IntGaugeVec,
    queue_limit: IntGaugeVec,
    lanes: IntGaugeVec,
    lanes_busy: IntGaugeVec,
    interrupted: IntCounterVec,
    inference_failures: IntCounterVec,
    degraded: IntGaugeVec,
    gpu_memory: IntGaugeVec,
    gpu_memory_used: IntGaugeVec,
    predictions: IntCounterVec,
    model_info: IntGaugeVec,
    /// Whether the last reading on SIGHUP went well: 1 or 0; by what was read.
    pub reload_successful: IntGaugeVec,
}

/// The metrics of one model, looked up once.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    /// Name of the model.
    pub model: String,
    /// Seconds from encoded picture to row.
    pub decode: Histogram,
    /// Seconds in the queue.
    pub queue: Histogram,
    /// Seconds in the batch that ran.
    pub inference: Histogram,
    /// Seconds from outputs to labels.
    pub postprocess: Histogram,
    /// Inputs in each batch.
    pub batch_size: Histogram,
    /// Lanes that run a batch.
    pub lanes_busy: IntGauge,
    /// Runs that were ended because nobody waited for them any more.
    pub interrupted: IntCounter,
    /// Runs that failed.
    pub inference_failures: IntCounter,
    /// Predictions of each label, in their order.
    pub predictions: Vec<IntCounter>,
}

/// How much of a budget is taken, and all of it.
#[derive(Debug, Clone)]
struct BudgetGauges {
    used: IntGauge,
    limit: IntGauge,
}

impl BudgetGauges {
    fn set(&self, budget: &Budget) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.used, budget.used());
        set(&self.limit, budget.limit());
    }
}

impl Metrics {
    /// Registers all of them.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let single = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let handshake_failures = counter(
            "classifyd_tls_handshake_failures_total",
            "TLS handshakes that failed: certificate, protocol, closed by the client, timeout.",
            &["reason"],
        )?;
        // There from the start, so that the first failure shows as a rate.
        for reason in ["certificate", "protocol", "closed", "timeout"] {
            handshake_failures.with_label_values(&[reason]);
        }
        let connections_refused = IntCounter::new(
            "classifyd_connections_refused_total",
            "Connections closed at once, because their client had as many as it may.",
        )?;
        registry.register(Box::new(connections_refused.clone()))?;
        let connections_displaced = IntCounter::new(
            "classifyd_connections_displaced_total",
            "Connections closed while they waited for their client, because all were taken and another needed the place.",
        )?;
        registry.register(Box::new(connections_displaced.clone()))?;
        let log_lines_dropped = IntCounter::new(
            "classifyd_log_lines_dropped_total",
            "Log lines lost because their reader was too slow.",
        )?;
        registry.register(Box::new(log_lines_dropped.clone()))?;
        gauge(
            "classifyd_build_info",
            "1, with what was built.",
            &["version", "commit"],
        )?
        .with_label_values(&[env!("CARGO_PKG_VERSION"), COMMIT])
        .set(1);
        let metrics = Self {
            http_requests: counter(
                "classifyd_http_requests_total",
                "HTTP requests answered.",
                &["route", "method", "status"],
            )?,
            http_duration: histogram(
                "classifyd_http_request_duration_seconds",
                "Time from a request's head to its response's head.",
                &["route"],
                &SECONDS,
            )?,
            stage_duration: histogram(
                "classifyd_stage_duration_seconds",
                "Time that a classification spends in each stage.",
                &["model", "stage"],
                &SECONDS,
            )?,
            batch_size: histogram(
                "classifyd_batch_size",
                "Inputs in each batch.",
                &["model"],
                &SIZES,
            )?,
            queue_depth: gauge(
                "classifyd_queue_depth",
                "Inputs that wait for a lane.",
                &["model"],
            )?,
            http_abandoned: counter(
                "classifyd_http_requests_abandoned_total",
                "HTTP requests whose client has gone before the answer.",
                &["route"],
            )?,
            http_in_flight: single(
                "classifyd_http_requests_in_flight",
                "HTTP requests that have no answer yet.",
            )?,
            connections: single("classifyd_connections", "Open connections.")?,
            connections_refused,
            connections_displaced,
            handshake_failures,
            certificate_expiry: gauge(
                "classifyd_tls_certificate_expiry_timestamp_seconds",
                "When the certificates that are in use run out, in Unix time: the earliest of each file.",
                &["certificate"],
            )?,
            connection_limit: single("classifyd_connections_limit", "Most open connections.")?,
            decode_running: single(
                "classifyd_decode_running",
                "Inputs that are being decoded or tokenised and long JSON bodies that are being read, apart from what is small.",
            )?,
            decode_waiting: single(
                "classifyd_decode_waiting",
                "Inputs that wait to be decoded or tokenised and long JSON bodies that wait to be read.",
            )?,
            decode_memory: single(
                "classifyd_decode_memory_bytes",
                "Memory that the inputs that are being decoded may take.",
            )?,
            decode_memory_limit: single(
                "classifyd_decode_memory_limit_bytes",
                "Most memory that they may take.",
            )?,
            body_memory: BudgetGauges {
                used: single(
                    "classifyd_body_memory_bytes",
                    "Memory that the bodies of the requests in flight take, and long answers until they are written.",
                )?,
                limit: single(
                    "classifyd_body_memory_limit_bytes",
                    "Most memory that they may take.",
                )?,
            },
            queue_memory: BudgetGauges {
                used: single(
                    "classifyd_queue_memory_bytes",
                    "Memory that the rows of the requests in flight take, of all models.",
                )?,
                limit: single(
                    "classifyd_queue_memory_limit_bytes",
                    "Most memory that they may take.",
                )?,
            },
            ready: single("classifyd_ready", "Whether /readyz says so: 1 or 0.")?,
            log_lines_dropped,
            queue_limit: gauge(
                "classifyd_queue_limit",
                "Most inputs that may wait for a lane.",
                &["model"],
            )?,
            lanes: gauge("classifyd_lanes", "Lanes that can run batches.", &["model"])?,
            lanes_busy: gauge("classifyd_lanes_busy", "Lanes that run a batch.", &["model"])?,
            interrupted: counter(
                "classifyd_runs_interrupted_total",
                "Runs ended because nobody waited for them any more.",
                &["model"],
            )?,
            requests_by_key: counter(
                "classifyd_requests_by_key_total",
                "Requests with an API key that is known.",
                &["key", "status"],
            )?,
            rejected: counter(
                "classifyd_rejected_total",
                "Classifications refused or given up, by the code of the problem.",
                &["model", "reason"],
            )?,
            inference_failures: counter(
                "classifyd_inference_failures_total",
                "Runs that failed.",
                &["model"],
            )?,
            degraded: gauge(
                "classifyd_model_degraded",
                "Whether the latest runs failed, one after the other: 1 or 0.",
                &["model"],
            )?,
            gpu_memory: gauge("classifyd_gpu_memory_bytes", "Memory of each GPU.", &["gpu"])?,
            gpu_memory_used: gauge(
                "classifyd_gpu_memory_used_bytes",
                "Memory of each GPU that is in use, by whatever program.",
                &["gpu"],
            )?,
            predictions: counter(
                "classifyd_predictions_total",
                "Inputs for which this label had the highest score.",
                &["model", "label"],
            )?,
            reload_successful: gauge(
                "classifyd_reload_successful",
                "Whether the last reading on SIGHUP went well: 1 or 0.",
                &["what"],
            )?,
            model_info: gauge(
                "classifyd_model_info",
                "1 for each loaded model.",
                &["model", "version", "provider"],
            )?,
            registry: registry.clone(),
        };
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(metrics)
    }

    /// The metrics of a model with these labels.
    pub fn model(&self, name: &str, labels: &[String]) -> ModelMetrics {
        let stage = |stage| self.stage_duration.with_label_values(&[name, stage]);
        // From the start, so that the first of them is an increase.
        for code in Code::OF_A_MODEL {
            self.rejected.with_label_values(&[name, code.as_str()]);
        }
        ModelMetrics {
            model: name.to_owned(),
            decode: stage("decode"),
            queue: stage("queue"),
            inference: stage("inference"),
            postprocess: stage("postprocess"),
            batch_size: self.batch_size.with_label_values(&[name]),
            lanes_busy: self.lanes_busy.with_label_values(&[name]),
            interrupted: self.interrupted.with_label_values(&[name]),
            inference_failures: self.inference_failures.with_label_values(&[name]),
            predictions: labels
                .iter()
                .map(|label| self.predictions.with_label_values(&[name, label]))
                .collect(),
        }
    }

    /// Says that a model is served.
    pub fn add_model(&self, name: &str, version: &str, provider: &str) {
        self.model_info
            .with_label_values(&[name, version, provider])
            .set(1);
    }

    /// Says that a version of a model is served no more. `name_stays`: another version is. What was counted stays.
    pub fn remove_model(&self, name: &str, version: &str, provider: &str, name_stays: bool) {
        // They fail only if there is no such series, which is what is wanted.
        let _ = self.model_info.remove_label_values(&[name, version, provider]);
        if !name_stays {
            for gauge in [&self.queue_depth, &self.queue_limit, &self.lanes, &self.degraded] {
                let _ = gauge.remove_label_values(&[name]);
            }
        }
    }

    /// Takes over the state of a model; called when the metrics are read.
    pub fn set_model(&self, name: &str, depth: u32, limit: u32, lanes: usize, degraded: bool) {
        let set = |gauge: &IntGaugeVec, value: i64| gauge.with_label_values(&[name]).set(value);
        set(&self.queue_depth, i64::from(depth));
        set(&self.queue_limit, i64::from(limit));
        set(&self.lanes, lanes as i64);
        set(&self.degraded, i64::from(degraded));
    }

    /// The memory of a GPU, as the driver counts them.
    pub fn set_gpu_memory(&self, gpu: u32, used: u64, total: u64) {
        let gpu = gpu.to_string();
        let set = |gauge: &IntGaugeVec, bytes: u64| {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            gauge.with_label_values(&[&gpu]).set(bytes);
        };
        set(&self.gpu_memory, total);
        set(&self.gpu_memory_used, used);
    }

    /// Takes over the state of the server; called when the metrics are read.
    pub fn set_server(&self, ready: bool, log_lines_dropped: u64) {
        self.ready.set(i64::from(ready));
        // Two scrapes at once must not count a line twice.
        let known = &self.log_lines_dropped;
        known.inc_by(log_lines_dropped.saturating_sub(known.get()));
    }

    /// Takes over what is being decoded; called when the metrics are read.
    pub fn set_decoding(&self, usage: Usage) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.decode_running, usage.running as u64);
        set(&self.decode_waiting, usage.waiting as u64);
        set(&self.decode_memory, usage.memory);
        set(&self.decode_memory_limit, usage.memory_limit);
    }

    /// Takes over the memory that requests share; called when the metrics are read.
    pub fn set_budgets(&self, bodies: &Budget, rows: &Budget) {
        self.body_memory.set(bodies);
        self.queue_memory.set(rows);
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
