//! `serving.toml`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::BundleError;
use crate::files::{SERVING, read_toml};
use crate::image::Layout;
use crate::output::Activation;
use crate::text::TextServing;

/// `serving.toml`: how the classifier is run, and how well it does. Every key is optional. Unknown
/// keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Serving {
    /// Name of the graph's output to read. Default: the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The function that turns outputs into scores. Default: softmax, or sigmoid if `problem_type`
    /// is multi-label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Order of the axes of an image classifier's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// How texts are cut and padded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextServing>,
    /// Largest size of a batch.
    pub batch: BatchLimits,
    /// Number, threads and device of the sessions.
    pub lanes: Lanes,
    /// Accuracy on a published data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// `[batch]` of `serving.toml`. This crate does not form batches; it hands the limits to its
/// caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    /// Largest number of inputs in a run of the graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
    /// Largest number of tokens in a run of the graph, padding included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

/// `[lanes]` of `serving.toml`. A lane is a thread that owns a session; starting lanes is up to the
/// caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lanes {
    /// Number of sessions that run side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Number of threads of each session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// The device that runs the graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Whether TensorRT may run layers in 16-bit floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fp16: Option<bool>,
    /// Whether CUDA may round factors to 10 bits of mantissa (TF32).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf32: Option<bool>,
}

/// `[measured]` of `serving.toml`: the accuracy of the exported files.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Such as `MNIST`.
    pub dataset: String,
    /// Such as `test`.
    pub split: String,
    /// Number of samples that were measured.
    pub samples: u64,
    /// Share of samples with the right label, between 0 and 1.
    pub accuracy: f64,
}

impl Serving {
    /// Reads and checks the file, or returns the defaults if there is none.
    pub(super) fn read(directory: &Path) -> Result<Self, BundleError> {
        let file = directory.join(SERVING);
        if !file.exists() {
            return Ok(Self::default());
        }
        let serving: Self = read_toml(&file)?;
        let counts = [
            ("batch.max_size", serving.batch.max_size),
            ("lanes.count", serving.lanes.count),
            ("lanes.threads", serving.lanes.threads),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, value)| *value == Some(0)) {
            return Err(BundleError::new(file, key.to_owned(), "at least 1", 0));
        }
        match &serving.measured {
            Some(measured) if !(0.0..=1.0).contains(&measured.accuracy) => Err(BundleError::new(
                file,
                "measured.accuracy".to_owned(),
                "a number between 0 and 1",
                measured.accuracy,
            )),
            _ => Ok(serving),
        }
    }
}
