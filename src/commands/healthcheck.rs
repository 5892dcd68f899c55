//! `classifyd healthcheck`: asks a running server whether it is ready, for containers that have no
//! other HTTP client.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ureq::Agent;

use super::base_url::base_url;
use crate::cli::{Cli, Command, HealthcheckArgs};
use crate::config::{Config, Origins, Settings};
use crate::listen::reachable;

/// Succeeds if the server responds with 200. The error says what it responded instead.
pub fn run(args: &HealthcheckArgs) -> Result<()> {
    let text = match &args.url {
        Some(url) => url.clone(),
        None => configured_url(args)?,
    };
    let mut url = base_url(&text, &["http"])?;
    url.set_path(if args.live { "/livez" } else { "/readyz" });
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(args.timeout))
        // The server is on this machine or near it; a proxy would be another service that can fail.
        .proxy(None)
        .build()
        .new_agent();
    let mut response = agent
        .get(url.as_str())
        .call()
        .with_context(|| format!("no response from {url}"))?;
    if response.status() == 200 {
        return Ok(());
    }
    let body = response.body_mut().read_to_string().unwrap_or_default();
    bail!("{url}: status {}: {}", response.status().as_u16(), body.trim())
}

/// The URL on this machine at which a server with the same configuration responds to probes.
fn configured_url(args: &HealthcheckArgs) -> Result<String> {
    // The settings that `serve` would find in this environment.
    let Command::Serve(serve) = Cli::try_parse_from(["classifyd", "serve"])?.command else {
        bail!("the command line has no `serve`");
    };
    let settings = Settings {
        listen: args.listen.or(serve.settings.listen),
        ..serve.settings
    };
    let file = args.config.as_deref().or(serve.config.as_deref());
    let config = Config::load(settings, Origins::default(), file)?;
    let listen = match config.admin_listen {
        Some(admin) => admin.0,
        None if config.tls_certificate.is_some() => {
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
