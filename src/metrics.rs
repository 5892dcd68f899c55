//! The Prometheus metrics, in a registry of their own.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::budget::Budget;
use crate::code::Code;
use crate::cpu::Usage;

/// Histogram buckets in seconds, from a small request on an idle machine up to a deadline.
const SECONDS: [f64; 19] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Histogram buckets for batch sizes, in inputs.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The commit that the binary was built from, if the build sets it.
const COMMIT: &str = match option_env!("CLASSIFYD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The metrics of the process. The help texts in the constructors describe each one.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    pub http_requests: IntCounterVec,
    pub http_duration: HistogramVec,
    pub http_abandoned: IntCounterVec,
    pub http_in_flight: IntGauge,
    pub connections: ConnectionMetrics,
    pub requests_by_key: IntCounterVec,
    pub rejected: IntCounterVec,
    pub reload_successful: IntGaugeVec,
    memory: MemoryMetrics,
    models: ModelFamilies,
    ready: IntGauge,
    log_lines_dropped: IntCounter,
    gpu_memory: IntGaugeVec,
    gpu_memory_used: IntGaugeVec,
}

#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    pub open: IntGauge,
    pub limit: IntGauge,
    pub refused: IntCounter,
    pub displaced: IntCounter,
    pub handshake_failures: IntCounterVec,
    pub certificate_expiry: IntGaugeVec,
}

/// Decoding, and the memory budgets that all requests share.
#[derive(Debug, Clone)]
struct MemoryMetrics {
    decode_running: IntGauge,
    decode_waiting: IntGauge,
    decode: UsageGauges,
    bodies: UsageGauges,
    rows: UsageGauges,
}

/// Metrics with a label for the model.
#[derive(Debug, Clone)]
struct ModelFamilies {
    info: IntGaugeVec,
    stage_duration: HistogramVec,
    batch_size: HistogramVec,
    queue_depth: IntGaugeVec,
    queue_limit: IntGaugeVec,
    lanes: IntGaugeVec,
    lanes_busy: IntGaugeVec,
    interrupted: IntCounterVec,
    inference_failures: IntCounterVec,
    degraded: IntGaugeVec,
    predictions: IntCounterVec,
}

/// The metrics of one model. Looking up a series by its labels costs time, so it is done once.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    /// Name of the model.
    pub model: String,
    pub decode: Histogram,
    pub queue: Histogram,
    pub inference: Histogram,
    pub postprocess: Histogram,
    pub batch_size: Histogram,
    pub lanes_busy: IntGauge,
    pub interrupted: IntCounter,
    pub inference_failures: IntCounter,
    /// One counter for each label, in the order of the labels.
    pub predictions: Vec<IntCounter>,
}

/// Bytes in use, and the limit.
#[derive(Debug, Clone)]
struct UsageGauges {
    used: IntGauge,
    limit: IntGauge,
}

impl UsageGauges {
    fn set(&self, used: u64, limit: u64) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.used, used);
        set(&self.limit, limit);
    }
}

/// Creates metrics and registers them.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> prometheus::Result<M> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels)?)
    }

    /// The gauges `<name>_bytes` and `<name>_limit_bytes`.
    fn usage(&self, name: &str, help: &str) -> prometheus::Result<UsageGauges> {
        let limit = format!("Limit of {name}_bytes.");
        Ok(UsageGauges {
            used: self.gauge(&format!("{name}_bytes"), help)?,
            limit: self.gauge(&format!("{name}_limit_bytes"), &limit)?,
        })
    }
}

impl ConnectionMetrics {
    fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let handshake_failures = registrar.counters(
            "classifyd_tls_handshake_failures_total",
            "Failed TLS handshakes by reason: certificate, protocol, closed (by the client) or timeout.",
            &["reason"],
        )?;
        // The series exist from the start, so that the first failure shows up in a rate.
        for reason in ["certificate", "protocol", "closed", "timeout"] {
            handshake_failures.with_label_values(&[reason]);
        }
        Ok(Self {
            open: registrar.gauge("classifyd_connections", "Open connections.")?,
            limit: registrar.gauge("classifyd_connections_limit", "Limit of open connections.")?,
            refused: registrar.counter(
                "classifyd_connections_refused_total",
                "Connections closed at once because their client had reached its limit.",
            )?,
            displaced: registrar.counter(
                "classifyd_connections_displaced_total",
                "Connections closed while waiting for their client, to make room for a new connection.",
            )?,
            handshake_failures,
            certificate_expiry: registrar.gauges(
                "classifyd_tls_certificate_expiry_timestamp_seconds",
                "Unix time at which the first certificate of each file in use expires.",
                &["certificate"],
            )?,
        })
    }
}

impl MemoryMetrics {
    fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            decode_running: registrar.gauge(
                "classifyd_decode_running",
                "Large inputs being decoded or tokenised, and long JSON bodies being parsed.",
            )?,
            decode_waiting: registrar.gauge(
                "classifyd_decode_waiting",
                "Large inputs waiting to be decoded or tokenised, and long JSON bodies waiting to be parsed.",
            )?,
            decode: registrar.usage(
                "classifyd_decode_memory",
                "Memory reserved for the inputs being decoded.",
            )?,
            bodies: registrar.usage(
                "classifyd_body_memory",
                "Memory of the request bodies in flight, and of long response bodies until they are sent.",
            )?,
            rows: registrar.usage(
                "classifyd_queue_memory",
                "Memory of the decoded inputs of all requests in flight.",
            )?,
        })
    }
}

impl ModelFamilies {
    fn new(registrar: &Registrar<'_>) -> prometheus::Result<Self> {
        let counters = |name, help| registrar.counters(name, help, &["model"]);
        let gauges = |name, help| registrar.gauges(name, help, &["model"]);
        Ok(Self {
            info: registrar.gauges(
                "classifyd_model_info",
                "1 for each loaded model.",
                &["model", "version", "provider"],
            )?,
            stage_duration: registrar.histograms(
                "classifyd_stage_duration_seconds",
                "Time of a classification in each stage.",
                &["model", "stage"],
                &SECONDS,
            )?,
            batch_size: registrar.histograms(
                "classifyd_batch_size",
                "Inputs in each batch.",
                &["model"],
                &SIZES,
            )?,
            queue_depth: gauges("classifyd_queue_depth", "Inputs waiting for a lane.")?,
            queue_limit: gauges("classifyd_queue_limit", "Limit of inputs waiting for a lane.")?,
            lanes: gauges("classifyd_lanes", "Lanes that can run batches.")?,
            lanes_busy: gauges("classifyd_lanes_busy", "Lanes that are running a batch.")?,
            interrupted: counters(
                "classifyd_runs_interrupted_total",
                "Runs interrupted because no client was waiting for them any more.",
            )?,
            inference_failures: counters("classifyd_inference_failures_total", "Failed runs.")?,
            degraded: gauges(
                "classifyd_model_degraded",
                "1 if the latest runs failed in a row, else 0.",
            )?,
            predictions: registrar.counters(
                "classifyd_predictions_total",
                "Inputs for which this label had the highest score.",
                &["model", "label"],
            )?,
        })
    }
}

impl Metrics {
    /// Creates and registers all metrics.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let registrar = Registrar(&registry);
        let build_labels = ["version", "commit"];
        registrar
            .gauges(
                "classifyd_build_info",
                "1, labelled with the version and commit.",
                &build_labels,
            )?
            .with_label_values(&[env!("CARGO_PKG_VERSION"), COMMIT])
            .set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(Self {
            http_requests: registrar.counters(
                "classifyd_http_requests_total",
                "HTTP requests that were answered.",
                &["route", "method", "status"],
            )?,
            http_duration: registrar.histograms(
                "classifyd_http_request_duration_seconds",
                "Time from a request's head to its response's head.",
                &["route"],
                &SECONDS,
            )?,
            http_abandoned: registrar.counters(
                "classifyd_http_requests_abandoned_total",
                "HTTP requests whose client disconnected before the response.",
                &["route"],
            )?,
            http_in_flight: registrar.gauge(
                "classifyd_http_requests_in_flight",
                "HTTP requests without a response yet.",
            )?,
            connections: ConnectionMetrics::new(&registrar)?,
            requests_by_key: registrar.counters(
                "classifyd_requests_by_key_total",
                "Requests with a known API key.",
                &["key", "status"],
            )?,
            rejected: registrar.counters(
                "classifyd_rejected_total",
                "Classifications that were rejected or failed, by error code.",
                &["model", "reason"],
            )?,
            reload_successful: registrar.gauges(
                "classifyd_reload_successful",
                "1 if the last reload succeeded, else 0.",
                &["what"],
            )?,
            memory: MemoryMetrics::new(&registrar)?,
            models: ModelFamilies::new(&registrar)?,
            ready: registrar.gauge("classifyd_ready", "1 if /readyz reports ready, else 0.")?,
            log_lines_dropped: registrar.counter(
                "classifyd_log_lines_dropped_total",
                "Log lines dropped because the reader of standard error was too slow.",
            )?,
            gpu_memory: registrar.gauges("classifyd_gpu_memory_bytes", "Memory of each GPU.", &["gpu"])?,
            gpu_memory_used: registrar.gauges(
                "classifyd_gpu_memory_used_bytes",
                "Used memory of each GPU, by all programs together.",
                &["gpu"],
            )?,
            registry,
        })
    }

    /// The metrics of a model; `labels` are its labels.
    pub fn model(&self, name: &str, labels: &[String]) -> ModelMetrics {
        let stage = |stage| self.models.stage_duration.with_label_values(&[name, stage]);
        // The series exist from the start, so that the first error shows up as an increase.
        for code in Code::OF_A_MODEL {
            self.rejected.with_label_values(&[name, code.as_str()]);
        }
        ModelMetrics {
            model: name.to_owned(),
            decode: stage("decode"),
            queue: stage("queue"),
            inference: stage("inference"),
            postprocess: stage("postprocess"),
            batch_size: self.models.batch_size.with_label_values(&[name]),
            lanes_busy: self.models.lanes_busy.with_label_values(&[name]),
            interrupted: self.models.interrupted.with_label_values(&[name]),
            inference_failures: self.models.inference_failures.with_label_values(&[name]),
            predictions: labels
                .iter()
                .map(|label| self.models.predictions.with_label_values(&[name, label]))
                .collect(),
        }
    }

    /// Adds the series of a model that is now served.
    pub fn add_model(&self, name: &str, version: &str, provider: &str) {
        self.models
            .info
            .with_label_values(&[name, version, provider])
            .set(1);
    }

    /// Removes the gauges of a model version that is no longer served. `name_stays`: another
    /// version of the model is served. Counters stay.
    pub fn remove_model(&self, name: &str, version: &str, provider: &str, name_stays: bool) {
        // Removing fails only if there is no such series.
        let _ = self.models.info.remove_label_values(&[name, version, provider]);
        if !name_stays {
            let models = &self.models;
            for gauge in [
                &models.queue_depth,
                &models.queue_limit,
                &models.lanes,
                &models.degraded,
            ] {
                let _ = gauge.remove_label_values(&[name]);
            }
        }
    }

    /// Updates the gauges of a model. Called for each scrape.
    pub fn set_model(&self, name: &str, depth: u32, limit: u32, lanes: usize, degraded: bool) {
        let set = |gauge: &IntGaugeVec, value: i64| gauge.with_label_values(&[name]).set(value);
        set(&self.models.queue_depth, i64::from(depth));
        set(&self.models.queue_limit, i64::from(limit));
        set(&self.models.lanes, lanes as i64);
        set(&self.models.degraded, i64::from(degraded));
    }

    /// `gpu` is the index of the GPU in the driver's order.
    pub fn set_gpu_memory(&self, gpu: u32, used: u64, total: u64) {
        let gpu = gpu.to_string();
        let set = |gauge: &IntGaugeVec, bytes: u64| {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            gauge.with_label_values(&[&gpu]).set(bytes);
        };
        set(&self.gpu_memory, total);
        set(&self.gpu_memory_used, used);
    }

    /// Updates the gauges of the server. Called for each scrape.
    pub fn set_server(&self, ready: bool, log_lines_dropped: u64) {
        self.ready.set(i64::from(ready));
        // A difference, so that concurrent scrapes do not count a line twice.
        let known = &self.log_lines_dropped;
        known.inc_by(log_lines_dropped.saturating_sub(known.get()));
    }

    /// Updates the gauges of decoding. Called for each scrape.
    pub fn set_decoding(&self, usage: Usage) {
        self.memory.decode_running.set(usage.running as i64);
        self.memory.decode_waiting.set(usage.waiting as i64);
        self.memory.decode.set(usage.memory, usage.memory_limit);
    }

    /// Updates the gauges of the memory budgets. Called for each scrape.
    pub fn set_budgets(&self, bodies: &Budget, rows: &Budget) {
        self.memory.bodies.set(bodies.used(), bodies.limit());
        self.memory.rows.set(rows.used(), rows.limit());
    }

    /// All metrics in the text format of Prometheus.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
