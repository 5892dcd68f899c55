//! `classifyd serve`: the server.

use std::io::Write;

use anyhow::Result;
use clap::ArgMatches;

use crate::cli::ServeArgs;
use crate::config::{self, Config};
use crate::reload::Hangups;
use crate::{startup, telemetry};

/// Serves until a signal ends the process, or prints the configuration with `--print-config`.
pub fn run(args: ServeArgs, matches: Option<&ArgMatches>) -> Result<()> {
    let hangups = Hangups::listen()?;
    let origins = matches.map(Config::origins_of).unwrap_or_default();
    let unread = config::unread(args.config.as_deref());
    let print_config = args.print_config;
    let read = move || Config::load(args.settings.clone(), origins.clone(), args.config.as_deref());
    let config = read()?;
    if print_config {
        return print(&config, unread.as_deref());
    }
    // Dropped last, so that no log line is lost.
    let (telemetry, _guard) = telemetry::init(&config)?;
    if let Some(unread) = unread {
        tracing::info!("{unread}");
    }
    let runtime = super::runtime()?;
    let result = runtime.block_on(startup::serve(config, telemetry, hangups, read));
    // A lane may be in a run that cannot be interrupted. It must not keep the process alive.
    runtime.shutdown_background();
    Ok(result?)
}

fn print(config: &Config, unread: Option<&str>) -> Result<()> {
    let mut output = std::io::stdout();
    if let Some(unread) = unread {
        writeln!(output, "# {unread}")?;
    }
    output.write_all(config.to_toml()?.as_bytes())?;
    Ok(())
}
