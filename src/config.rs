//! File < environment < flags -> one checked configuration.
//!
//! [`Settings`] declares every key once: as a flag, as an environment variable and as a key of the file. What holds for a single
//! model stands in the file alone, in a table `[model.NAME]`.

mod access;
mod file;
mod model;
#[cfg(test)]
mod page_tests;
mod place;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgMatches, Args};
use classifier::Device;
use serde::{Deserialize, Serialize};

use crate::telemetry;

pub use self::access::{ApiKey, CorsOrigin, KeyHash, RateLimit};
pub use self::file::unread;
pub use self::model::{ModelConfig, ModelTable};
pub use self::place::{Origin, Origins};
use self::values::IsNone;
pub use self::values::{AccessLogMode, Address, HumanDuration, List, LogFormat, Network, Size, Unset};

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr, $variable:literal;)+) => {
        /// Every key as a flag or in the file. What is missing comes from a weaker source, in the end the default.
        #[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Settings {
            $(
                $(#[doc = $doc])+
                #[arg(long, env = $variable)]
                pub $key: Option<$type>,
            )+
            /// Tables `[model.NAME]`; only in the file.
            #[arg(skip)]
            pub model: BTreeMap<String, ModelTable>,
            /// Entries `[[api_keys]]`; only in the file.
            #[arg(skip)]
            pub api_keys: Vec<ApiKey>,
        }

        /// The effective configuration.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $(
                $(#[doc = $doc])+
                pub $key: $type,
            )+
            /// What holds for single models, see [`Self::of_model`].
            pub model: BTreeMap<String, ModelTable>,
            /// Who may ask. Empty: everybody.
            pub api_keys: Vec<ApiKey>,
            /// Where each key came from.
            pub origins: Origins,
        }

        impl Config {
            /// Each key with its environment variable.
            pub const KEYS: &'static [(&'static str, &'static str)] = &[$((stringify!($key), $variable)),+];

            /// The first of the sources that has a key decides on it.
            fn resolve(strong: Settings, weak: Settings, origins: Origins) -> Self {
                Self {
                    $($key: strong.$key.or(weak.$key).unwrap_or_else(|| $default),)+
                    model: weak.model,
                    api_keys: weak.api_keys,
                    origins,
                }
            }

            /// Each key with its value as the file would have it, if it has one.
            fn values(&self) -> Result<Vec<(&'static str, Option<toml::Value>)>, ConfigError> {
                Ok(vec![$((stringify!($key), to_toml(&self.$key)?)),+])
            }
        }
    };
}

fn to_toml<T: Serialize + IsNone>(value: &T) -> Result<Option<toml::Value>, ConfigError> {
    if value.is_none() {
        return Ok(None);
    }
    let value = toml::Value::try_from(value).map_err(|error| ConfigError(error.to_string()))?;
    Ok(Some(value))
}

settings! {
    /// Address and port to listen on.
    listen: Address = Address(SocketAddr::from(([127, 0, 0, 1], 8080))), "CLASSIFYD_LISTEN";
    /// Address and port for /livez, /readyz and /metrics alone, without TLS and keys. Default: they are on `listen`.
    admin_listen: Unset<Address> = Unset(None), "CLASSIFYD_ADMIN_LISTEN";
    /// Folder of the models: <name>/<version>/model.onnx.
    models: PathBuf = PathBuf::from("models"), "CLASSIFYD_MODELS";
    /// File of the ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else where it is usually found.
    onnxruntime: Unset<PathBuf> = Unset(None), "CLASSIFYD_ONNXRUNTIME";
    /// Model for pictures when a request names none. Needed where several models that take pictures are loaded.
    default_image_model: Unset<String> = Unset(None), "CLASSIFYD_DEFAULT_IMAGE_MODEL";
    /// Model for texts when a request names none. Needed where several models that take texts are loaded.
    default_text_model: Unset<String> = Unset(None), "CLASSIFYD_DEFAULT_TEXT_MODEL";
    /// Longest body of a request.
    max_body: Size = Size(ByteSize::mib(16)), "CLASSIFYD_MAX_BODY";
    /// Most memory for the bodies of all requests in flight; beyond it requests are refused with 503.
    body_memory: Size = Size(ByteSize::mib(128)), "CLASSIFYD_BODY_MEMORY";
    /// Most pixels of a picture along one side.
    max_image_side: u32 = classifier::ImageLimits::default().max_side, "CLASSIFYD_MAX_IMAGE_SIDE";
    /// Most pixels of a picture in all.
    max_image_pixels: u64 = classifier::ImageLimits::default().max_pixels, "CLASSIFYD_MAX_IMAGE_PIXELS";
    /// Most pixels of all pictures of a request.
    max_request_pixels: u64 = 1 << 28, "CLASSIFYD_MAX_REQUEST_PIXELS";
    /// Most memory for the pictures and texts that are being decoded; others wait. One that takes more by itself is refused with 422.
    decode_memory: Size = Size(ByteSize::mib(320)), "CLASSIFYD_DECODE_MEMORY";
    /// Longest time from a request's head to its answer. A request may ask for less.
    request_timeout: HumanDuration = HumanDuration(Duration::from_secs(30)), "CLASSIFYD_REQUEST_TIMEOUT";
    /// Longest time for a TLS handshake, and for a request's head from its first byte.
    header_timeout: HumanDuration = HumanDuration(Duration::from_mins(1)), "CLASSIFYD_HEADER_TIMEOUT";
    /// How long a connection may be idle. More than a load balancer keeps idle connections, so that the balancer closes them.
    keep_alive_timeout: HumanDuration = HumanDuration(Duration::from_secs(75)), "CLASSIFYD_KEEP_ALIVE_TIMEOUT";
    /// How long an answer may wait for a client that reads less than 1 KiB/s of it.
    write_timeout: HumanDuration = HumanDuration(Duration::from_secs(30)), "CLASSIFYD_WRITE_TIMEOUT";
    /// Longest head of a request; beyond it the connection is closed with 431.
    max_header_size: Size = Size(ByteSize::kib(16)), "CLASSIFYD_MAX_HEADER_SIZE";
    /// Most open connections; others wait in the listener's backlog.
    max_connections: usize = 8_192, "CLASSIFYD_MAX_CONNECTIONS";
    /// Most open connections of one client address; those beyond it are closed at once. Not for `trusted_proxies`.
    max_connections_per_client: Unset<usize> = Unset(None), "CLASSIFYD_MAX_CONNECTIONS_PER_CLIENT";
    /// File of the certificate chain in PEM: serve HTTPS. Needs `tls_key`.
    tls_certificate: Unset<PathBuf> = Unset(None), "CLASSIFYD_TLS_CERTIFICATE";
    /// File of the certificate's private key in PEM.
    tls_key: Unset<PathBuf> = Unset(None), "CLASSIFYD_TLS_KEY";
    /// File of the authorities in PEM that must have signed the certificate of each client (mutual TLS).
    tls_client_ca: Unset<PathBuf> = Unset(None), "CLASSIFYD_TLS_CLIENT_CA";
    /// How often the three files are looked at for changes; 0s: only on SIGHUP.
    tls_reload: HumanDuration = HumanDuration(Duration::from_mins(1)), "CLASSIFYD_TLS_RELOAD";
    /// Most requests to /v1 from one client address, as in 100/s or 600/m burst 20; beyond it they are refused with 429.
    rate_limit: Unset<RateLimit> = Unset(None), "CLASSIFYD_RATE_LIMIT";
    /// Networks or addresses of proxies whose X-Forwarded-For is believed, as in 10.0.0.0/8.
    trusted_proxies: List<Network> = List(Vec::new()), "CLASSIFYD_TRUSTED_PROXIES";
    /// Names that requests may have as Host, as in api.example.org or *.example.org, or * for all. Default: those of the loopback interface when
    /// listening there, else all.
    allowed_hosts: List<String> = List(Vec::new()), "CLASSIFYD_ALLOWED_HOSTS";
    /// Origins of web pages that may ask from a browser, as in <https://example.org>, or * for all.
    cors_origins: List<CorsOrigin> = List(Vec::new()), "CLASSIFYD_CORS_ORIGINS";
    /// Most inputs that wait for a lane of one model; beyond it requests are refused with 503.
    queue_capacity: u32 = 1024, "CLASSIFYD_QUEUE_CAPACITY";
    /// Most memory for the rows of all requests in flight, of all models; beyond it requests are refused with 503.
    queue_memory: Size = Size(ByteSize::mib(64)), "CLASSIFYD_QUEUE_MEMORY";
    /// Most inputs in a batch, and in one request. Default: the model's own (`serving.toml`), else 32.
    max_batch: Unset<u32> = Unset(None), "CLASSIFYD_MAX_BATCH";
    /// Most tokens of texts in a batch, padding included. Default: the model's own, else 128 for each input of a batch.
    max_batch_tokens: Unset<u32> = Unset(None), "CLASSIFYD_MAX_BATCH_TOKENS";
    /// How long a batch that is not full waits for more inputs. Only worth it on a GPU.
    max_wait: HumanDuration = HumanDuration(Duration::ZERO), "CLASSIFYD_MAX_WAIT";
    /// Sessions of each model that run side by side. Default: the model's own, else decided by its run time.
    lanes: Unset<usize> = Unset(None), "CLASSIFYD_LANES";
    /// Threads of each session. Default: the model's own, else 1, or for long runs a shared pool.
    threads: Unset<usize> = Unset(None), "CLASSIFYD_THREADS";
    /// Where models run: cpu, cuda, tensorrt, or auto, the best that can be had. Default: the model's own, else cpu.
    device: Unset<Device> = Unset(None), "CLASSIFYD_DEVICE";
    /// Which GPU, counted from 0.
    device_id: u32 = 0, "CLASSIFYD_DEVICE_ID";
    /// TensorRT: true lets layers run in 16-bit floats. Default: the model's own, else false.
    fp16: Unset<bool> = Unset(None), "CLASSIFYD_FP16";
    /// CUDA: true rounds what is multiplied to 10 bits of mantissa. Default: the model's own, else false.
    tf32: Unset<bool> = Unset(None), "CLASSIFYD_TF32";
    /// Most GPU memory in the arena of each session, and for `TensorRT` to work in. Default: no limit.
    gpu_memory_limit: Unset<ByteSize> = Unset(None), "CLASSIFYD_GPU_MEMORY_LIMIT";
    /// Folder that keeps the engines of `TensorRT`. Without it they are built at each start.
    tensorrt_cache: Unset<PathBuf> = Unset(None), "CLASSIFYD_TENSORRT_CACHE";
    /// Folder of the CUDA, cuDNN and `TensorRT` libraries. Default: nvidia beside the ONNX Runtime library; then the system's.
    gpu_libraries: Unset<PathBuf> = Unset(None), "CLASSIFYD_GPU_LIBRARIES";
    /// On SIGTERM: how long to go on as before while /readyz says 503, so that load balancers notice.
    drain_delay: HumanDuration = HumanDuration(Duration::from_secs(5)), "CLASSIFYD_DRAIN_DELAY";
    /// After that: how long requests in flight may take before they are failed.
    grace: HumanDuration = HumanDuration(Duration::from_secs(25)), "CLASSIFYD_GRACE";
    /// Log filter: error, warn, info, debug, trace, or a list such as info,classifyd=debug. `ort` is ONNX Runtime.
    log: String = "info,ort=warn".to_owned(), "CLASSIFYD_LOG";
    /// How log lines are written.
    log_format: LogFormat = LogFormat::Pretty, "CLASSIFYD_LOG_FORMAT";
    /// Which requests get a line in the log.
    access_log: AccessLogMode = AccessLogMode::On, "CLASSIFYD_ACCESS_LOG";
    /// OpenTelemetry collector that gets traces over OTLP, as in <http://127.0.0.1:4318>. Needs a build with the feature otlp.
    otlp_endpoint: Unset<String> = Unset(None), "CLASSIFYD_OTLP_ENDPOINT";
}

/// Memory of a connection beside the head of its request.
const CONNECTION_MEMORY: u64 = 16 * 1024;

/// A mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Merges flags and environment (which the command line has merged already) with a file, and checks the result.
    /// `origins` says which of both a key came from, see [`Self::origins_of`].
    pub fn load(flags: Settings, origins: Origins, file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut origins = origins;
        let from_file = match file {
            Some(path) => {
                let (settings, places) = file::read(path).map_err(ConfigError)?;
                origins.add_file(places);
                settings
            }
            None => Settings::default(),
        };
        let config = Self::resolve(flags, from_file, origins);
        config.check()?;
        Ok(config)
    }

    /// Which keys were flags, and which were environment variables.
    pub fn origins_of(matches: &ArgMatches) -> Origins {
        Origins::of_command_line(matches, Self::KEYS)
    }

    /// What holds for the model of this name: its own table, else the keys for all models.
    pub fn of_model(&self, name: &str) -> ModelConfig {
        let own = self.model.get(name).cloned().unwrap_or_default();
        ModelConfig {
            queue_capacity: own.queue_capacity.unwrap_or(self.queue_capacity),
            max_batch: own.max_batch.or(self.max_batch.0),
            max_batch_tokens: own.max_batch_tokens.or(self.max_batch_tokens.0),
            max_wait: own.max_wait.unwrap_or(self.max_wait).0,
            lanes: own.lanes.or(self.lanes.0),
            threads: own.threads.or(self.threads.0),
            device: own.device.or(self.device.0),
            device_id: own.device_id.unwrap_or(self.device_id),
            fp16: own.fp16.or(self.fp16.0),
            tf32: own.tf32.or(self.tf32.0),
            gpu_memory_limit: own.gpu_memory_limit.or(self.gpu_memory_limit.0),
            tensorrt_cache: own.tensorrt_cache.or_else(|| self.tensorrt_cache.0.clone()),
            request_timeout: own.request_timeout.unwrap_or(self.request_timeout).0,
            max_image_side: own.max_image_side.unwrap_or(self.max_image_side),
            max_image_pixels: own.max_image_pixels.unwrap_or(self.max_image_pixels),
        }
    }

    /// The version of each model that is to have a certain one.
    pub fn pinned_versions(&self) -> BTreeMap<String, u64> {
        let version = |(name, table): (&String, &ModelTable)| Some((name.clone(), table.version?));
        self.model.iter().filter_map(version).collect()
    }

    /// The key that decides on `key` for the model of this name: that of its own table if it is there.
    pub fn key_for(&self, name: &str, key: &str) -> String {
        let own = format!("model.{name}.{key}");
        match self.origins.of(&own) {
            Origin::Default => key.to_owned(),
            _ => own,
        }
    }

    /// A mistake in the value of this key, with the place where it was said.
    pub fn mistake(&self, key: &str, message: &str) -> ConfigError {
        ConfigError(self.origins.explain(key, message))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let at_least_one = |key: &str, value: Option<u64>| match value {
            Some(0) => Err(self.mistake(key, "expected at least 1, found 0")),
            _ => Ok(()),
        };
        let not_zero = |key: &str, duration: HumanDuration| {
            if duration.0.is_zero() {
                return Err(self.mistake(key, &format!("expected more than 0, found {duration}")));
            }
            Ok(())
        };
        at_least_one("max_body", Some(self.max_body.0.as_u64()))?;
        // Else one long body would leave no room for others.
        let least = self.max_body.0.as_u64().saturating_mul(2);
        if self.body_memory.0.as_u64() < least {
            let message = format!(
                "expected at least twice max_body ({}), found {}",
                self.max_body, self.body_memory
            );
            return Err(self.mistake("body_memory", &message));
        }
        at_least_one("max_image_side", Some(u64::from(self.max_image_side)))?;
        at_least_one("max_image_pixels", Some(self.max_image_pixels))?;
        // Less would refuse every picture.
        if self.decode_memory.0 < ByteSize::mib(16) {
            let message = format!("expected at least 16 MiB, found {}", self.decode_memory);
            return Err(self.mistake("decode_memory", &message));
        }
        self.check_pixels("")?;
        at_least_one("max_connections", Some(self.max_connections as u64))?;
        let per_client = self.max_connections_per_client.0;
        at_least_one("max_connections_per_client", per_client.map(|limit| limit as u64))?;
        at_least_one("queue_capacity", Some(u64::from(self.queue_capacity)))?;
        if self.queue_memory.0 < ByteSize::mib(1) {
            let message = format!("expected at least 1 MiB, found {}", self.queue_memory);
            return Err(self.mistake("queue_memory", &message));
        }
        at_least_one("max_batch", self.max_batch.0.map(u64::from))?;
        at_least_one("max_batch_tokens", self.max_batch_tokens.0.map(u64::from))?;
        at_least_one("lanes", self.lanes.0.map(|lanes| lanes as u64))?;
        at_least_one("threads", self.threads.0.map(|threads| threads as u64))?;
        at_least_one(
            "gpu_memory_limit",
            self.gpu_memory_limit.0.map(|limit| limit.as_u64()),
        )?;
        not_zero("request_timeout", self.request_timeout)?;
        not_zero("header_timeout", self.header_timeout)?;
        not_zero("keep_alive_timeout", self.keep_alive_timeout)?;
        not_zero("write_timeout", self.write_timeout)?;
        // Less would refuse what browsers send.
        if self.max_header_size.0 < ByteSize::kib(4) {
            let message = format!("expected at least 4 KiB, found {}", self.max_header_size);
            return Err(self.mistake("max_header_size", &message));
        }
        if self.max_header_size.0 > ByteSize::mib(1) {
            let message = format!("expected at most 1 MiB, found {}", self.max_header_size);
            return Err(self.mistake("max_header_size", &message));
        }
        telemetry::parse_filter(&self.log).map_err(|message| self.mistake("log", &message))?;
        self.check_tls()?;
        access::check_api_keys(&self.api_keys).map_err(|(key, message)| self.mistake(&key, &message))?;
        for (name, table) in &self.model {
            for (key, value) in table.counts() {
                at_least_one(&format!("model.{name}.{key}"), value)?;
            }
            if let Some(timeout) = table.request_timeout {
                not_zero(&format!("model.{name}.request_timeout"), timeout)?;
            }
            self.check_batch(name)?;
            self.check_pixels(name)?;
        }
        self.check_batch("")
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let needs = |key: &str, other: &str| {
            Err(self.mistake(key, &format!("expected {other} beside it, found none")))
        };
        match (&self.tls_certificate.0, &self.tls_key.0, &self.tls_client_ca.0) {
            (Some(_), None, _) => needs("tls_certificate", "tls_key"),
            (None, Some(_), _) => needs("tls_key", "tls_certificate"),
            (None, None, Some(_)) => needs("tls_client_ca", "tls_certificate and tls_key"),
            _ => Ok(()),
        }
    }

    /// A batch must fit into the queue. Without a name: that of the models that have no table.
    fn check_batch(&self, name: &str) -> Result<(), ConfigError> {
        let model = self.of_model(name);
        match model.max_batch {
            Some(max_batch) if max_batch > model.queue_capacity => {
                let (key, limit) = (
                    self.key_for(name, "max_batch"),
                    self.key_for(name, "queue_capacity"),
                );
                let expected = format!("expected at most {limit} ({})", model.queue_capacity);
                Err(self.mistake(&key, &format!("{expected}, found {max_batch}")))
            }
            _ => Ok(()),
        }
    }

    /// A request may hold at least one picture. Without a name: for the models that have no table.
    fn check_pixels(&self, name: &str) -> Result<(), ConfigError> {
        let largest = self.of_model(name).max_image_pixels;
        if self.max_request_pixels >= largest {
            return Ok(());
        }
        let key = self.key_for(name, "max_image_pixels");
        let message = format!(
            "expected at most max_request_pixels ({}), found {largest}",
            self.max_request_pixels
        );
        Err(self.mistake(&key, &message))
    }

    /// The memory that each limit allows: what takes it, the keys that bound it, and bytes. The models come on top.
    pub fn memory(&self) -> Vec<(&'static str, &'static str, u64)> {
        let of_a_connection = self.max_header_size.0.as_u64().saturating_add(CONNECTION_MEMORY);
        vec![
            (
                "bodies and long answers",
                "body_memory",
                self.body_memory.0.as_u64(),
            ),
            (
                "inputs that are being decoded",
                "decode_memory",
                self.decode_memory.0.as_u64(),
            ),
            ("rows of inputs", "queue_memory", self.queue_memory.0.as_u64()),
            (
                "connections",
                "max_connections x (max_header_size + 16 KiB)",
                (self.max_connections as u64).saturating_mul(of_a_connection),
            ),
        ]
    }

    /// The table of [`Self::memory`] with its sum, as comments.
    fn memory_comments(&self) -> String {
        let shares = self.memory();
        let sum = shares
            .iter()
            .fold(0_u64, |sum, (_, _, bytes)| sum.saturating_add(*bytes));
        let mut text =
            "\n# Most memory that these limits allow, beside the models and the program itself:\n".to_owned();
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        for (what, keys, bytes) in shares {
            let _ = writeln!(text, "# {:>8} MiB  {what} ({keys})", mib(bytes));
        }
        let _ = writeln!(text, "# {:>8} MiB  in all", mib(sum));
        text
    }

    /// The effective values as a file that gives this configuration, with the origin of each in a comment. Hashes of API keys are
    /// left out.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut text = String::new();
        for (key, value) in self.values()? {
            let _ = match value {
                Some(value) => writeln!(text, "{key} = {value} # {}", self.origins.of(key)),
                None => writeln!(text, "# {key} is not set"),
            };
        }
        for (name, own) in &self.model {
            let _ = writeln!(text, "\n[model.{}]", toml_key(name));
            for (key, value) in table(own)? {
                let path = format!("model.{name}.{key}");
                let _ = writeln!(text, "{key} = {value} # {}", self.origins.of(&path));
            }
        }
        for (at, api_key) in self.api_keys.iter().enumerate() {
            text.push_str("\n[[api_keys]]\n");
            for (key, value) in table(api_key)? {
                let path = format!("api_keys[{at}].{key}");
                let _ = writeln!(text, "{key} = {value} # {}", self.origins.of(&path));
            }
        }
        text.push_str(&self.memory_comments());
        Ok(text)
    }
}

fn table<T: Serialize>(value: &T) -> Result<toml::Table, ConfigError> {
    toml::Table::try_from(value).map_err(|error| ConfigError(error.to_string()))
}

/// A name as a part of a dotted key: quoted, unless it need not be.
fn toml_key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        toml::Value::String(name.to_owned()).to_string()
    }
}
