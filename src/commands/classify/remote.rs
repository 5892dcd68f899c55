//! Classifies with a running server.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use classifier::{InputKind, image};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};
use url::Url;

use super::inputs::{NamedInput, Source};
use super::{ClassifyFn, InputResult, ModelFacts};
use crate::cli::ClassifyArgs;
use crate::commands::base_url::base_url;

/// A request is sent this often before a busy server counts as a failure.
const ATTEMPTS: u32 = 5;
/// Longest pause between two attempts, whatever `Retry-After` says.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Largest response that is read.
const MAX_RESPONSE: u64 = 16 * 1024 * 1024;

pub struct RemoteServer {
    agent: Agent,
    classify: Url,
    authorization: Option<String>,
    model: ModelFacts,
}

/// The members of `GET /v1/models/NAME` that matter here.
#[derive(Debug, Deserialize)]
struct Description {
    task: String,
    labels: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Classification {
    results: Vec<InputResult>,
}

/// The members of a problem document that matter here.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
    code: String,
}

impl RemoteServer {
    /// Asks the server for the model's kind of input and labels, if a model is named.
    pub fn connect(url: &str, args: &ClassifyArgs) -> Result<Self> {
        let base = base(url)?;
        let mut classify = endpoint(&base, &["v1", "classify"]);
        let mut query = classify.query_pairs_mut();
        if let Some(model) = &args.model {
            query.append_pair("model", model);
        }
        query.append_pair("top_k", &args.top_k.to_string());
        drop(query);
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(args.timeout))
            // An API key must not reach another server that this one redirects to.
            .max_redirects(0)
            .tls_config(tls)
            .build()
            .new_agent();
        let mut remote = Self {
            agent,
            classify,
            authorization: args.api_key.as_ref().map(|key| format!("Bearer {key}")),
            model: ModelFacts::default(),
        };
        if let Some(name) = &args.model {
            let described: Description = read(&mut remote.get(&endpoint(&base, &["v1", "models", name]))?)?;
            remote.model = ModelFacts {
                takes: match described.task.as_str() {
                    "image-classification" => Some(InputKind::Image),
                    "text-classification" => Some(InputKind::Text),
                    _ => None,
                },
                labels: described.labels,
            };
        }
        Ok(remote)
    }

    pub fn model(&self) -> &ModelFacts {
        &self.model
    }

    /// Sends one request after the other. All threads share the agent's connections.
    pub fn worker(&self) -> ClassifyFn<'_> {
        Box::new(move |input: &NamedInput| self.classify(input))
    }

    fn classify(&self, input: &NamedInput) -> Result<InputResult> {
        let bytes = input.read()?;
        let content_type = content_type(input, &bytes, self.model.takes);
        let mut response = self.retrying(|| {
            let request = self.agent.post(self.classify.as_str()).content_type(content_type);
            let request = match &self.authorization {
                Some(value) => request.header(header::AUTHORIZATION, value),
                None => request,
            };
            request.send(&bytes[..])
        })?;
        let classification: Classification = read(&mut response)?;
        match <[InputResult; 1]>::try_from(classification.results) {
            Ok([result]) => Ok(result),
            Err(results) => bail!("expected 1 result from the server, found {}", results.len()),
        }
    }

    fn get(&self, url: &Url) -> Result<Response<Body>> {
        self.retrying(|| {
            let request = self.agent.get(url.as_str());
            let request = match &self.authorization {
                Some(value) => request.header(header::AUTHORIZATION, value),
                None => request,
            };
            request.call()
        })
    }

    fn no_response(&self, error: ureq::Error) -> anyhow::Error {
        let server = server(&self.classify);
        match super::certificate::fault(&error) {
            Some(fault) => anyhow!("no response from {server}: its certificate is rejected: {fault}"),
            None => anyhow::Error::from(error).context(format!("no response from {server}")),
        }
    }

    /// Retries while the server is busy, after the pause that it asks for.
    fn retrying(&self, send: impl Fn() -> Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let mut attempt = 1;
        loop {
            let response = send().map_err(|error| self.no_response(error))?;
            let busy = matches!(
                response.status(),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            if !busy || attempt == ATTEMPTS {
                return Ok(response);
            }
            attempt += 1;
            std::thread::sleep(pause(&response));
        }
    }
}

/// `Retry-After`, or a second if it is missing or a date.
fn pause(response: &Response<Body>) -> Duration {
    response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map_or(Duration::from_secs(1), Duration::from_secs)
        .min(LONGEST_PAUSE)
}

/// Reads the body of a success, or returns the problem document as an error.
fn read<T: DeserializeOwned>(response: &mut Response<Body>) -> Result<T> {
    let status = response.status();
    let body = response
        .body_mut()
        .with_config()
        .limit(MAX_RESPONSE)
        .read_to_vec()
        .context("the response was cut off")?;
    if !status.is_success() {
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => bail!(
                "the server responded {} {}: {}",
                status.as_u16(),
                problem.code,
                problem.detail
            ),
            Err(_) => bail!("the server responded {status}, without a problem document of classifyd"),
        }
    }
    serde_json::from_slice(&body).context("expected a response of classifyd")
}

/// The URL below which the server's endpoints are. `text` may be the URL of `/v1/classify` itself.
fn base(text: &str) -> Result<Url> {
    let mut url = base_url(text, &["http", "https"])?;
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1/classify").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

fn endpoint(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // A base with a host, which was checked, always has segments.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

fn server(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// By the content: an image or else a text, unless the model or the file name says that it is an
/// image.
fn content_type(input: &NamedInput, bytes: &[u8], takes: Option<InputKind>) -> &'static str {
    if takes == Some(InputKind::Text) {
        return "text/plain; charset=utf-8";
    }
    let named = match &input.source {
        Ok(Source::File(path)) => super::inputs::kind_of(path),
        _ => None,
    };
    match (image::media_type(bytes), takes.or(named)) {
        (Some(media_type), _) => media_type,
        // The server reports what is wrong with it.
        (None, Some(InputKind::Image)) => "image/png",
        (None, _) => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_server_may_have_no_scheme_and_a_path() {
        for (text, expected) in [
            ("localhost:8080", "http://localhost:8080/v1/models/a%20b%2Fc"),
            ("https://h/", "https://h/v1/models/a%20b%2Fc"),
            ("http://h/v1/classify?x=1", "http://h/v1/models/a%20b%2Fc"),
            (
                "http://h/behind/a/proxy/",
                "http://h/behind/a/proxy/v1/models/a%20b%2Fc",
            ),
        ] {
            let url = endpoint(&base(text).unwrap(), &["v1", "models", "a b/c"]);
            assert_eq!(url.as_str(), expected);
        }
        for (text, reason) in [
            ("ftp://h", "http:// or https://"),
            ("http://", "expected a URL"),
            ("http://me:secret@h", "without a user and a password"),
        ] {
            let error = base(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_content_type_follows_from_the_content() {
        let file = |name: &str| NamedInput {
            name: name.to_owned(),
            source: Ok(Source::File(name.into())),
        };
        let png = b"\x89PNG\r\n\x1a\n rest";
        let text = "text/plain; charset=utf-8";
        for (name, bytes, takes, expected) in [
            ("a", &png[..], None, "image/png"),
            ("a.txt", png, Some(InputKind::Image), "image/png"),
            ("a.txt", b"good", None, text),
            ("a", b"good", None, text),
            ("a.jpg", b"no picture", None, "image/png"),
            ("a", b"no picture", Some(InputKind::Image), "image/png"),
            ("a", png, Some(InputKind::Text), text),
        ] {
            assert_eq!(content_type(&file(name), bytes, takes), expected, "{name}");
        }
    }
}
