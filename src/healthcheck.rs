//! `classifyd healthcheck`: asks a running server whether it is ready, for containers that have no other HTTP client.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::bench::target::{Target, exchange};
use crate::cli::{Cli, Command, HealthcheckArgs};
use crate::config::{Config, Origins, Settings};
use crate::listen::reachable;

/// Succeeds if the server answers with 200; the error says what it answered instead.
pub fn run(args: &HealthcheckArgs) -> Result<()> {
    let path = if args.live { "/livez" } else { "/readyz" };
    let url = match &args.url {
        Some(url) => url.clone(),
        None => configured_url(args)?,
    };
    let target = Target::parse(&url, None)?;
    let mut failure = None;
    // `localhost` has an address of each family, and a server may listen on one of them.
    for address in target.addresses()? {
        match exchange(address, &target.get(path), args.timeout) {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => bail!(
                "{address}{path}: status {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body).trim()
            ),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.context("no address to ask")?)
}

/// Where a server with the same configuration answers probes, from beside it.
fn configured_url(args: &HealthcheckArgs) -> Result<String> {
    // All that `serve` would find in this environment.
    let Command::Serve(serve) = Cli::try_parse_from(["classifyd", "serve"])?.command else {
        bail!("serve is no command any more");
    };
    let settings = Settings {
        listen: args.listen.or(serve.settings.listen),
        ..serve.settings
    };
    let file = args.config.as_deref().or(serve.config.as_deref());
    let config = Config::load(settings, Origins::default(), file)?;
    let listen = match config.admin_listen.0 {
        Some(admin) => admin.0,
        None if config.tls_certificate.0.is_some() => {
            bail!(
                "the server speaks HTTPS, which this command does not: give probes an admin_listen of their own"
            )
        }
        None => config.listen.0,
    };
    ensure!(
        listen.port() != 0,
        "listen: port 0 is a free port that only the server knows: name it with --url"
    );
    Ok(format!("http://{}", reachable(listen)))
}
