//! The same samples, sent to a running server.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{metrics::best, true_labels};
use crate::{
    parallel::in_parallel,
    samples::{LabelledSamples, SampleInput},
};

/// What the server behind an address answers, next to what the model directory's own scores say.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Part of the samples that the server labelled right.
    pub accuracy: f64,
    /// Samples that the server labels otherwise than this program: number, label here, label there.
    pub different: Vec<(usize, String, String)>,
}

/// Sends every sample to a running server and compares its labels with those of `scores`.
pub fn evaluate_remote(
    url: &str,
    directory: &Path,
    samples: &dyn LabelledSamples,
    scores: &[Vec<f32>],
) -> Result<Remote> {
    let labels = classifier::Bundle::open(directory)?.labels;
    let truth = true_labels(&labels, samples)?;
    let (model, version) = name_and_version(directory)?;
    let address = format!("{}/v1/classify?model={model}", url.trim_end_matches('/'));
    let answers = in_parallel(
        samples.len(),
        || {
            Ok(ureq::Agent::from(
                ureq::config::Config::builder()
                    .http_status_as_error(false)
                    .build(),
            ))
        },
        |agent, at| {
            let answer = ask(agent, &address, &samples.input(at)?)?;
            if answer.version != version {
                bail!(
                    "{address}: expected version {version} of {model}, found version {}",
                    answer.version
                );
            }
            match <[RemoteResult; 1]>::try_from(answer.results) {
                Ok([result]) => Ok(result.label),
                Err(results) => bail!("{address}: expected 1 result, found {}", results.len()),
            }
        },
    )?;
    let mut right = 0;
    let mut different = Vec::new();
    for (at, there) in answers.into_iter().enumerate() {
        let here = &labels[best(&scores[at])];
        right += usize::from(there == labels[truth[at]]);
        if *here != there {
            different.push((at, here.clone(), there));
        }
    }
    Ok(Remote {
        accuracy: right as f64 / samples.len() as f64,
        different,
    })
}

#[derive(Debug, Deserialize)]
struct Answer {
    version: String,
    results: Vec<RemoteResult>,
}

#[derive(Debug, Deserialize)]
struct RemoteResult {
    label: String,
}

fn ask(agent: &ureq::Agent, address: &str, input: &SampleInput) -> Result<Answer> {
    let (kind, body) = match input {
        SampleInput::Image(bytes) => {
            let format = image::guess_format(bytes).context("a test picture is of no known format")?;
            (format.to_mime_type(), bytes.as_slice())
        }
        SampleInput::Text(text) => ("text/plain; charset=utf-8", text.as_bytes()),
    };
    let mut answer = agent
        .post(address)
        .content_type(kind)
        .send(body)
        .with_context(|| format!("cannot reach {address}"))?;
    let status = answer.status();
    let body = answer
        .body_mut()
        .read_to_string()
        .with_context(|| format!("cannot read from {address}"))?;
    if !status.is_success() {
        bail!("{address}: expected an answer, found status {status}: {body}");
    }
    serde_json::from_str(&body).with_context(|| format!("{address}: expected a classification, found {body}"))
}

/// `models/digits/1` is version 1 of `digits`.
fn name_and_version(directory: &Path) -> Result<(String, String)> {
    let path = directory
        .canonicalize()
        .with_context(|| format!("cannot find {}", directory.display()))?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let parts = name(&path).zip(path.parent().and_then(name));
    let (version, model) = parts.with_context(|| {
        format!(
            "{}: expected a path that ends with a model's name and version",
            path.display()
        )
    })?;
    Ok((model, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_names_the_model_and_its_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digits/3");
        std::fs::create_dir_all(&path).unwrap();
        let expected = ("digits".to_owned(), "3".to_owned());
        assert_eq!(name_and_version(&path).unwrap(), expected);
        assert_eq!(name_and_version(&path.join("../3/.")).unwrap(), expected);
    }
}
