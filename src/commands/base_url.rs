//! The `--url` of commands that talk to a running server.

use anyhow::{Context, Result, ensure};
use url::Url;

/// Parses the URL of a server. The scheme may be left out, as in `localhost:8080`; query and
/// fragment are dropped.
pub fn base_url(text: &str, schemes: &[&str]) -> Result<Url> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let mut url =
        Url::parse(&with_scheme).with_context(|| format!("--url: expected a URL, found {text:?}"))?;
    ensure!(
        schemes.contains(&url.scheme()) && url.has_host(),
        "--url: expected an {}:// URL, found {text:?}",
        schemes.join(":// or ")
    );
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "--url: expected a URL without a user and a password"
    );
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}
