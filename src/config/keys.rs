//! Every key of the configuration, declared once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use clap::builder::ValueHint;
use classifier::{Device, ImageLimits};
use serde::{Deserialize, Serialize};
use toml::Value;

use super::values::Validate;
use super::{
    AccessLogMode, Address, ApiKey, ConfigError, CorsOrigin, Count, HumanDuration, List, LogFilter,
    LogFormat, Network, Origins, RateLimit, Size, Timeout,
};

/// What the declaration of a key says, besides its type and default.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub variable: &'static str,
    /// The heading that the key has in `--help` and in the example file.
    pub group: &'static str,
    /// The doc comment, a line each.
    #[cfg_attr(not(test), expect(dead_code, reason = "the documents are compared with it"))]
    pub doc: &'static str,
    /// A value in TOML, or nothing.
    #[cfg_attr(not(test), expect(dead_code, reason = "the documents are compared with it"))]
    pub example: &'static str,
    /// Whether a table `[model.NAME]` may have it.
    #[cfg_attr(not(test), expect(dead_code, reason = "the documents are compared with it"))]
    pub per_model: bool,
}

impl Key {
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }
}

fn to_toml<T: Serialize>(value: &T) -> Result<Value, ConfigError> {
    Ok(Value::try_from(value)?)
}

fn value_hint(value_name: &str) -> ValueHint {
    match value_name {
        "FILE" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        "URL" => ValueHint::Url,
        _ => ValueHint::Unknown,
    }
}

const PREFIX: &str = "CLASSIFYD_";

const fn variable_length(key: &str) -> usize {
    PREFIX.len() + key.len()
}

const fn variable_name<const LENGTH: usize>(key: &str) -> [u8; LENGTH] {
    let mut name = [0; LENGTH];
    let mut at = 0;
    while at < LENGTH {
        name[at] = if at < PREFIX.len() {
            PREFIX.as_bytes()[at]
        } else {
            key.as_bytes()[at - PREFIX.len()].to_ascii_uppercase()
        };
        at += 1;
    }
    name
}

keys! {
    "Models" {
        /// Directory with the models, each as `<name>/<version>/model.onnx`.
        models("DIR"): PathBuf = PathBuf::from("models"), server;
        /// Model for images if a request names none. Default: the only image model.
        default_image_model("NAME"): String, server, example "\"images\"";
        /// Model for texts if a request names none. Default: the only text model.
        default_text_model("NAME"): String, server, example "\"sentiment\"";
        /// ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else the usual places.
        onnxruntime("FILE"): PathBuf, server, example "\"/usr/local/lib/libonnxruntime.so.1.31.1\"";
    }
    "Connections" {
        /// Address and port to listen on.
        listen("ADDRESS"): Address = Address(SocketAddr::from(([127, 0, 0, 1], 8080))), server;
        /// Separate address and port for /livez, /readyz and /metrics. Default: they are on
        /// `listen`.
        ///
        /// This listener speaks plain HTTP and needs no API key, so keep it off the internet.
        admin_listen("ADDRESS"): Address, server, example "\"127.0.0.1:9090\"";
        /// Longest time for a TLS handshake, and for a request's head after its first byte.
        header_timeout("DURATION"): Timeout = Timeout(Duration::from_mins(1)), server;
        /// How long a connection may be idle. Must be longer than the load balancer's idle timeout.
        ///
        /// If the server closes a connection just when a load balancer sends a request on it, the
        /// client gets status 502. docs/deployment.md lists the idle timeouts of some load
        /// balancers.
        keep_alive_timeout("DURATION"): Timeout = Timeout(Duration::from_secs(75)), server;
        /// How long a response may wait for a client that reads less than 1 KiB/s of it.
        ///
        /// Then the connection is closed.
        write_timeout("DURATION"): Timeout = Timeout(Duration::from_secs(30)), server;
        /// Largest head of a request, which is its path and headers. Larger: status 431.
        ///
        /// The connection is closed then, as it is for more than 100 headers.
        max_header_size("SIZE"): Size = Size(ByteSize::kib(16)), server;
        /// Maximum number of open connections. Others wait in the listener's backlog.
        max_connections("N"): Count<usize> = Count::new(8_192), server;
        /// Maximum number of open connections of one client. Others are closed at once. Default: no
        /// limit.
        ///
        /// A client is an IPv4 address or a /64 of IPv6. The limit does not apply to
        /// `trusted_proxies`, whose connections carry the requests of many clients.
        max_connections_per_client("N"): Count<usize>, server, example "100";
    }
    "TLS" {
        /// Certificate chain in PEM. With `tls_key`, the server speaks HTTPS, and nothing else.
        tls_certificate("FILE"): PathBuf, server, example "\"/etc/classifyd/tls.crt\"";
        /// Private key of the certificate in PEM.
        tls_key("FILE"): PathBuf, server, example "\"/etc/classifyd/tls.key\"";
        /// Certificate authorities in PEM. Every client needs a certificate signed by one (mutual
        /// TLS).
        tls_client_ca("FILE"): PathBuf, server, example "\"/etc/classifyd/clients.crt\"";
        /// How often the three files are checked for changes. 0s: only on SIGHUP.
        tls_reload("DURATION"): HumanDuration = HumanDuration(Duration::from_mins(1)), server;
    }
    "Authentication and rate limits" {
        /// Most requests of one client to /v1, as in 100/s or 600/m burst 20. More: status 429.
        ///
        /// A client is an IPv4 address or a /64 of IPv6. "100/s" allows 100 requests at once after
        /// a pause, then one every 10 ms. "600/m burst 20" allows 20 at once, then one every 100
        /// ms. The units are /s, /m and /h.
        rate_limit("RATE"): RateLimit, server, example "\"100/s\"";
        /// Networks or addresses of proxies whose X-Forwarded-For is trusted, as in 10.0.0.0/8.
        ///
        /// For a request from one of them, the client is the last address in X-Forwarded-For that
        /// is not a trusted proxy. An example: `trusted_proxies = ["10.0.0.0/8", "192.168.1.7"]`.
        trusted_proxies("NETWORKS"): List<Network> = List(Vec::new()), server;
        /// Accepted Host headers, as in api.example.org or *.example.org, or * for all. Default:
        /// loopback names if `listen` is a loopback address, else all.
        ///
        /// Other requests get status 421, so that a web page cannot reach the server through a host
        /// name of its own (DNS rebinding). If a proxy on the same machine forwards the Host header
        /// of its clients, list their names here. `admin_listen` also answers to every IP address.
        allowed_hosts("NAMES"): List<String> = List(Vec::new()), server;
        /// Origins of web pages that may send requests, as in `https://example.org`, or * for all.
        cors_origins("ORIGINS"): List<CorsOrigin> = List(Vec::new()), server;
    }
    "Limits of a request" {
        /// Largest body of a request.
        max_body("SIZE"): Size = Size(ByteSize::mib(16)), server;
        /// Memory for the bodies of all requests in flight. When it is full: status 503.
        ///
        /// It must be at least twice `max_body`.
        body_memory("SIZE"): Size = Size(ByteSize::mib(128)), server;
        /// Maximum width and height of an image, in pixels.
        max_image_side("N"): Count<u32> = Count::new(ImageLimits::default().max_side), per_model,
            example "4096";
        /// Maximum number of pixels of an image.
        max_image_pixels("N"): Count<u64> = Count::new(ImageLimits::default().max_pixels), per_model,
            example "4194304";
        /// Maximum number of pixels of all images in a request.
        ///
        /// Small images do not count: at most 96 x 96 pixels, in a file of at most 16 KiB.
        max_request_pixels("N"): u64 = 1 << 28, server;
        /// Memory for decoding images and texts, of all requests. When it is full, requests wait.
        ///
        /// An input that needs more than all of it gets status 422.
        decode_memory("SIZE"): Size = Size(ByteSize::mib(320)), server;
        /// Longest time from a request's head to its response. A request may ask for less.
        ///
        /// Its option for that is `timeout_ms`. With a timeout for a single model, the body must
        /// still arrive within the timeout for all models.
        request_timeout("DURATION"): Timeout = Timeout(Duration::from_secs(30)), per_model, example "\"2s\"";
    }
    "Queues, batches and lanes" {
        /// Maximum number of inputs in the queue of a model. When it is full: status 503.
        ///
        /// A text that has more tokens than `max_batch_tokens` allows for each input of a batch
        /// counts as several inputs.
        queue_capacity("N"): Count<u32> = Count::new(1024), per_model, example "256";
        /// Memory for the decoded inputs of all requests, of all models. When it is full: status
        /// 503.
        ///
        /// A decoded image takes 4 bytes for each number of its tensor. A request that needs more
        /// than all of the memory is accepted if it is the only one.
        queue_memory("SIZE"): Size = Size(ByteSize::mib(64)), server;
        /// Maximum number of inputs in a batch, and in a request. Default: the model's own
        /// (`serving.toml`), else 32.
        max_batch("N"): Count<u32>, per_model, example "64";
        /// Maximum number of tokens in a batch, with padding. Default: the model's own, else 128
        /// for each input of a batch.
        ///
        /// The default is at least one text of the model's maximum length.
        max_batch_tokens("N"): Count<u32>, per_model, example "8192";
        /// How long a batch that is not full waits for more inputs. Only useful on a GPU.
        max_wait("DURATION"): HumanDuration = HumanDuration(Duration::ZERO), per_model, example "\"2ms\"";
        /// Sessions of each model that run in parallel. Default: the model's own, else chosen by
        /// how long a run takes.
        lanes("N"): Count<usize>, per_model, example "2";
        /// Threads of each session. Default: the model's own, else 1, or a shared pool for runs
        /// that take more than 2 ms.
        threads("N"): Count<usize>, per_model, example "1";
    }
    "GPU" {
        /// Where models run: cpu, cuda, tensorrt, or auto, the best one available. Default: the
        /// model's own (`serving.toml`), else cpu.
        ///
        /// With cuda or tensorrt the server does not start if the device is not available. auto
        /// tries TensorRT (only if `tensorrt_cache` is set), then CUDA, then the CPU. A GPU needs
        /// the ONNX Runtime library that `make setup-gpu` installs, see docs/gpu.md.
        device("DEVICE"): Device, per_model, example "\"cuda\"";
        /// Number of the GPU, from 0.
        ///
        /// CUDA counts the GPUs, within `CUDA_VISIBLE_DEVICES`.
        device_id("N"): u32 = 0, per_model, example "1";
        /// TensorRT: whether layers may run in 16-bit floats. Default: the model's own, else false.
        ///
        /// With device cuda it is refused, because CUDA runs the graph in the precision in which it
        /// was exported.
        fp16("BOOL"): bool, per_model, example "true";
        /// CUDA: whether products are computed with a 10-bit mantissa. Default: the model's own,
        /// else false.
        ///
        /// Newer GPUs are much faster with it.
        tf32("BOOL"): bool, per_model, example "true";
        /// Maximum GPU memory of each session's arena, and of TensorRT's workspace. Default: no
        /// limit.
        ///
        /// A model has a session for each lane. If it has convolutions, it has one for each of a
        /// few batch sizes in each lane. The arena grows by what is needed, it does not double.
        gpu_memory_limit("SIZE"): Size, per_model, example "\"2 GiB\"";
        /// Directory that keeps TensorRT engines. Without it, they are built at each start.
        ///
        /// Building takes minutes. Each model, version and GPU has its own subdirectory.
        /// `classifyd warm` fills it.
        tensorrt_cache("DIR"): PathBuf, per_model, example "\"/var/cache/classifyd/tensorrt\"";
        /// Directory of the CUDA, cuDNN and TensorRT libraries. Default: `nvidia` beside the ONNX
        /// Runtime library, then the system's.
        ///
        /// Either all libraries lie in the directory itself, or it is a site-packages directory
        /// with nvidia-* wheels. What it lacks is searched for on the system's loader path.
        gpu_libraries("DIR"): PathBuf, server, example "\"/opt/nvidia/lib\"";
    }
    "Shutdown" {
        /// On SIGTERM: how long to serve as before while /readyz returns 503.
        ///
        /// In this time load balancers notice that the server is about to stop.
        drain_delay("DURATION"): HumanDuration = HumanDuration(Duration::from_secs(5)), server;
        /// After `drain_delay`: how long requests in flight may take before they fail.
        grace("DURATION"): HumanDuration = HumanDuration(Duration::from_secs(25)), server;
    }
    "Log and traces" {
        /// Log filter: error, warn, info, debug, trace, or a list such as info,classifyd=debug.
        ///
        /// The target `ort` is ONNX Runtime.
        log("FILTER"): LogFilter = LogFilter::default(), server;
        /// Format of log lines on standard error: pretty or json.
        log_format("FORMAT"): LogFormat = LogFormat::Pretty, server;
        /// Which requests are logged: on (all), errors (status 400 and above) or off.
        ///
        /// Requests to /livez, /readyz and /metrics are logged only at level debug.
        access_log("MODE"): AccessLogMode = AccessLogMode::On, server;
        /// OpenTelemetry collector for traces over OTLP. Needs a build with the feature otlp.
        otlp_endpoint("URL"): String, server, example "\"http://127.0.0.1:4318\"";
    }
}
