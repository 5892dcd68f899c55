//! Sends the samples of an evaluation to a running server.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;
use serde::Deserialize;

use super::{metrics::best, true_labels};
use crate::{
    parallel::cpus,
    samples::{LabelledSamples, SampleInput},
};

/// The server's labels compared with those of a model directory.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteComparison {
    /// The part of the samples that the server classified correctly.
    pub accuracy: f64,
    /// The samples with another label on the server: number, label here, label there.
    pub different: Vec<(usize, String, String)>,
}

/// Sends every sample to the server at `url` and compares its labels with those that `scores` give.
pub fn evaluate_remote(
    url: &str,
    directory: &Path,
    samples: &dyn LabelledSamples,
    scores: &[Vec<f32>],
) -> Result<RemoteComparison> {
    let labels = classifier::Bundle::open(directory)?.labels;
    let truth = true_labels(&labels, samples)?;
    let (model, version) = name_and_version(directory)?;
    let address = format!("{}/v1/classify?model={model}", url.trim_end_matches('/'));
    let agent = ureq::Agent::from(
        ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_idle_connections_per_host(cpus())
            .build(),
    );
    let classify = |at: usize| {
        let response = post(&agent, &address, &samples.input(at)?)?;
        if response.version != version {
            bail!(
                "{address}: expected version {version} of {model}, found version {}",
                response.version
            );
        }
        match <[InputResult; 1]>::try_from(response.results) {
            Ok([result]) => Ok(result.label),
            Err(results) => bail!("{address}: expected 1 result, found {}", results.len()),
        }
    };
    let given: Result<Vec<String>> = (0..samples.len()).into_par_iter().map(classify).collect();
    let mut right = 0;
    let mut different = Vec::new();
    for (at, there) in given?.into_iter().enumerate() {
        let here = &labels[best(&scores[at])];
        right += usize::from(there == labels[truth[at]]);
        if *here != there {
            different.push((at, here.clone(), there));
        }
    }
    Ok(RemoteComparison {
        accuracy: right as f64 / samples.len() as f64,
        different,
    })
}

#[derive(Debug, Deserialize)]
struct ClassifyResponse {
    version: String,
    results: Vec<InputResult>,
}

#[derive(Debug, Deserialize)]
struct InputResult {
    label: String,
}

fn post(agent: &ureq::Agent, address: &str, input: &SampleInput) -> Result<ClassifyResponse> {
    let (media_type, body) = match input {
        SampleInput::Image(bytes) => {
            let format = image::guess_format(bytes).context("a test image has no known format")?;
            (format.to_mime_type(), bytes.as_slice())
        }
        SampleInput::Text(text) => ("text/plain; charset=utf-8", text.as_bytes()),
    };
    let mut response = agent
        .post(address)
        .content_type(media_type)
        .send(body)
        .with_context(|| format!("cannot reach {address}"))?;
    let status = response.status();
    let body = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("cannot read from {address}"))?;
    if !status.is_success() {
        bail!("{address}: expected a success, found status {status}: {body}");
    }
    serde_json::from_str(&body).with_context(|| format!("{address}: expected a classification, found {body}"))
}

/// The name and the version of a model, which are the last two parts of its path, as in
/// `models/digits/1`.
fn name_and_version(directory: &Path) -> Result<(String, String)> {
    let path = directory
        .canonicalize()
        .with_context(|| format!("cannot find {}", directory.display()))?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let parts = name(&path).zip(path.parent().and_then(name));
    let (version, model) = parts.with_context(|| {
        format!(
            "{}: expected a path that ends with the model's name and version",
            path.display()
        )
    })?;
    Ok((model, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_directory_names_the_model_and_its_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digits/3");
        std::fs::create_dir_all(&path).unwrap();
        let expected = ("digits".to_owned(), "3".to_owned());
        assert_eq!(name_and_version(&path).unwrap(), expected);
        assert_eq!(name_and_version(&path.join("../3/.")).unwrap(), expected);
    }
}
