//! Log lines.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Sends log lines to standard error. `filter` is as in [`crate::config::Config::log`].
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter: EnvFilter = filter.parse().map_err(|error| {
        format!("log: expected a filter such as info or info,classifyd=debug, found {filter:?}: {error}")
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Pretty => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| error.to_string())
}
