//! File < environment < flags -> one checked configuration.
//!
//! [`Settings`] declares every key once: as a flag, as an environment variable and as a key of the file.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// A duration as people write it: `250ms`, `5s`, `1m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("expected a duration such as 250ms or 5s: {error}"))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One object a line, for programs.
    Json,
}

/// Which requests get an access line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogMode {
    /// All; probes and scrapes only where the filter lets debug lines through.
    On,
    /// Those with a status of 400 or more.
    Errors,
    /// None.
    Off,
}

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
        }

        /// The effective configuration.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub struct Config {
            $(
                $(#[doc = $doc])+
                #[serde(skip_serializing_if = "is_none")]
                pub $key: $type,
            )+
        }

        impl Config {
            /// The first of the sources that has a key decides on it.
            fn resolve(strong: Settings, weak: Settings) -> Self {
                Self {
                    $($key: strong.$key.or(weak.$key).unwrap_or_else(|| $default),)+
                }
            }
        }
    };
}

/// A key that may stay without a value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Unset<T>(pub Option<T>);

impl<T: FromStr> FromStr for Unset<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(|value| Self(Some(value)))
    }
}

/// Whether a value has nothing to print.
trait IsNone {
    fn is_none(&self) -> bool;
}

fn is_none<T: IsNone>(value: &T) -> bool {
    value.is_none()
}

impl<T> IsNone for Unset<T> {
    fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

macro_rules! always_printed {
    ($($type:ty),+) => { $(impl IsNone for $type { fn is_none(&self) -> bool { false } })+ };
}
always_printed!(
    SocketAddr,
    PathBuf,
    ByteSize,
    u32,
    u64,
    usize,
    String,
    HumanDuration,
    LogFormat,
    AccessLogMode
);

settings! {
    /// Address and port to listen on.
    listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)), "CLASSIFYD_LISTEN";
    /// Folder of the models: <name>/<version>/model.onnx.
    models: PathBuf = PathBuf::from("models"), "CLASSIFYD_MODELS";
    /// File of the ONNX Runtime library. Default: `ORT_DYLIB_PATH`, else where it is usually found.
    onnxruntime: Unset<PathBuf> = Unset(None), "CLASSIFYD_ONNXRUNTIME";
    /// Model for pictures when a request names none. Needed where several models that take pictures are loaded.
    default_image_model: Unset<String> = Unset(None), "CLASSIFYD_DEFAULT_IMAGE_MODEL";
    /// Model for texts when a request names none. Needed where several models that take texts are loaded.
    default_text_model: Unset<String> = Unset(None), "CLASSIFYD_DEFAULT_TEXT_MODEL";
    /// Longest body of a request.
    max_body: ByteSize = ByteSize::mib(16), "CLASSIFYD_MAX_BODY";
    /// Most pixels of a picture along one side.
    max_image_side: u32 = classifier::Limits::default().max_side, "CLASSIFYD_MAX_IMAGE_SIDE";
    /// Most pixels of a picture in all.
    max_image_pixels: u64 = classifier::Limits::default().max_pixels, "CLASSIFYD_MAX_IMAGE_PIXELS";
    /// Longest time from a request's head to its answer. A request may ask for less.
    request_timeout: HumanDuration = HumanDuration(Duration::from_secs(30)), "CLASSIFYD_REQUEST_TIMEOUT";
    /// Longest time for a request's head to arrive, and for a connection to stay idle.
    header_timeout: HumanDuration = HumanDuration(Duration::from_mins(1)), "CLASSIFYD_HEADER_TIMEOUT";
    /// Most open connections; others wait in the listener's backlog.
    max_connections: usize = 10_000, "CLASSIFYD_MAX_CONNECTIONS";
    /// Most inputs that wait for a lane of one model; beyond it requests are refused with 503.
    queue_capacity: u32 = 1024, "CLASSIFYD_QUEUE_CAPACITY";
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

/// A mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Merges flags and environment (which the command line has merged already) with a file, and checks the result.
    pub fn load(flags: Settings, file: Option<&Path>) -> Result<Self, ConfigError> {
        let from_file = match file {
            Some(path) => read(path)?,
            None => Settings::default(),
        };
        let config = Self::resolve(flags, from_file);
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let at_least_one = |key: &str, value: Option<u64>| match value {
            Some(0) => Err(ConfigError(format!("{key}: expected at least 1, found 0"))),
            _ => Ok(()),
        };
        at_least_one("max_body", Some(self.max_body.as_u64()))?;
        at_least_one("max_image_side", Some(u64::from(self.max_image_side)))?;
        at_least_one("max_image_pixels", Some(self.max_image_pixels))?;
        at_least_one("max_connections", Some(self.max_connections as u64))?;
        at_least_one("queue_capacity", Some(u64::from(self.queue_capacity)))?;
        at_least_one("max_batch", self.max_batch.0.map(u64::from))?;
        at_least_one("max_batch_tokens", self.max_batch_tokens.0.map(u64::from))?;
        at_least_one("lanes", self.lanes.0.map(|lanes| lanes as u64))?;
        at_least_one("threads", self.threads.0.map(|threads| threads as u64))?;
        for (key, duration) in [
            ("request_timeout", self.request_timeout),
            ("header_timeout", self.header_timeout),
        ] {
            if duration.0.is_zero() {
                return Err(ConfigError(format!(
                    "{key}: expected more than 0, found {duration}"
                )));
            }
        }
        if let Some(max_batch) = self.max_batch.0
            && max_batch > self.queue_capacity
        {
            return Err(ConfigError(format!(
                "max_batch: expected at most queue_capacity ({}), found {max_batch}",
                self.queue_capacity
            )));
        }
        Ok(())
    }

    /// As a file that gives this configuration.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError(error.to_string()))
    }
}

fn read(path: &Path) -> Result<Settings, ConfigError> {
    let at = |message: String| ConfigError(format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
    toml::from_str(&text).map_err(|error| at(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, flags: Settings) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classifyd.toml");
        std::fs::write(&path, file).unwrap();
        Config::load(flags, Some(&path)).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_stronger_than_the_file_and_the_file_than_the_defaults() {
        let flags = Settings {
            queue_capacity: Some(77),
            ..Settings::default()
        };
        let config = load(
            "queue_capacity = 5\ngrace = \"1m 30s\"\nmax_body = \"2 MiB\"",
            flags,
        )
        .unwrap();
        assert_eq!(config.queue_capacity, 77);
        assert_eq!(config.grace.0, Duration::from_secs(90));
        assert_eq!(config.max_body, ByteSize::mib(2));
        assert_eq!(config.listen.port(), 8080);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let error = load("listen = \"127.0.0.1:1\"\nmax_bach = 3", Settings::default()).unwrap_err();
        assert!(
            error.contains("line 2") && error.contains("max_bach") && error.contains("max_batch"),
            "{error}"
        );
    }

    #[test]
    fn wrong_values_are_refused_with_what_was_expected() {
        for (file, part) in [
            ("grace = \"soon\"", "250ms or 5s"),
            ("grace = 5", "string"),
            ("queue_capacity = 0", "queue_capacity: expected at least 1"),
            ("lanes = 0", "lanes: expected at least 1"),
            (
                "max_batch = 2000",
                "max_batch: expected at most queue_capacity (1024)",
            ),
            (
                "request_timeout = \"0s\"",
                "request_timeout: expected more than 0",
            ),
            ("listen = \"localhost\"", "invalid socket address"),
            ("log_format = \"xml\"", "pretty"),
        ] {
            let error = load(file, Settings::default()).unwrap_err();
            assert!(error.contains(part), "{file}: {error}");
        }
    }

    #[test]
    fn what_is_printed_gives_the_same_configuration() {
        let flags = Settings {
            lanes: Some(Unset(Some(3))),
            grace: Some(HumanDuration(Duration::from_millis(1500))),
            ..Settings::default()
        };
        let config = Config::load(flags, None).unwrap();
        let printed = config.to_toml().unwrap();
        assert_eq!(load(&printed, Settings::default()).unwrap(), config, "{printed}");
    }
}
