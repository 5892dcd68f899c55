//! Log lines, the access log and traces.

pub mod access;
pub mod spans;
pub mod trace_context;
pub mod writer;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use self::access::AccessLog;
use self::writer::LogWriter;
use crate::config::{Config, ConfigError, LogFormat};

/// Handles to what was set up, some of which can change while the server runs.
#[derive(Debug, Clone)]
pub struct Telemetry {
    pub access: AccessLog,
    /// All log lines go through it.
    pub writer: LogWriter,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// When dropped, writes and exports what is left, with a time limit.
#[derive(Debug)]
pub struct Guard {
    writer: LogWriter,
    exporter: spans::Exporter,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The exporter first: it may log something.
        self.exporter.shutdown();
        self.writer.close();
    }
}

/// Sends log lines to standard error and spans to the collector, if there is one. Must not be
/// called within a tokio runtime.
pub fn init(config: &Config) -> Result<(Telemetry, Guard), ConfigError> {
    let mistake = |key: &str, message: &str| config.mistake(key, message);
    let (filter, handle) = reload::Layer::new(config.log.to_env_filter());
    let writer = LogWriter::start(std::io::stderr()).map_err(|error| mistake("log", &error.to_string()))?;
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(writer.clone());
    let registry = tracing_subscriber::registry().with(filter);
    let result = match config.log_format {
        LogFormat::Pretty => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    result.map_err(|error| mistake("log", &error.to_string()))?;
    let endpoint = config.otlp_endpoint.as_deref();
    let guard = Guard {
        exporter: spans::Exporter::start(endpoint).map_err(|message| mistake("otlp_endpoint", &message))?,
        writer: writer.clone(),
    };
    let telemetry = Telemetry {
        access: AccessLog::new(writer.clone(), config.log_format, config.access_log),
        writer,
        filter: handle,
    };
    Ok((telemetry, guard))
}

impl Telemetry {
    /// Applies the keys that may change while the server runs: `log` and `access_log`.
    pub fn reload(&self, config: &Config) -> Result<(), reload::Error> {
        self.filter.reload(config.log.to_env_filter())?;
        self.access.set_mode(config.access_log);
        tracing::info!(log = config.log.as_str(), access_log = ?config.access_log, "log levels");
        Ok(())
    }
}
