//! Golden samples: inputs with the scores that their trainer recorded.
//!
//! `golden.json` lists them, `golden/` holds the images, or the texts in UTF-8:
//!
//! ```json
//! {"tolerance": 0.001, "samples": [{"file": "golden/7_0.png", "label": "7", "scores": [0.0, 0.0, 1.0]}]}
//! ```
//!
//! A program that does not reproduce the scores, because of another library, resize or device,
//! should not use the classifier. [`Proof`] checks that for every session.

mod proof;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::proof::Proof;
use crate::device::Placement;
use crate::error::BundleError;
pub use crate::error::GoldenError;
use crate::files;

/// Name of the file that lists the samples.
pub const GOLDEN: &str = "golden.json";

/// Largest difference that padding may make in a score.
pub const PADDING_TOLERANCE: f32 = 1e-4;

/// Default of [`GoldenFile::tolerance`]: rounding differs between processors.
const DEFAULT_TOLERANCE: f32 = 1e-3;

/// Smallest tolerance for a session that runs in 16-bit floats or TF32.
const REDUCED_TOLERANCE: f32 = 1e-2;

fn default_tolerance() -> f32 {
    DEFAULT_TOLERANCE
}

/// The content of `golden.json`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenFile {
    /// Largest allowed difference in a score.
    #[serde(default = "default_tolerance")]
    pub tolerance: f32,
    /// At least one sample.
    pub samples: Vec<GoldenEntry>,
}

/// One sample of `golden.json`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenEntry {
    /// Path of the input, relative to the model directory.
    pub file: String,
    /// The true label.
    pub label: String,
    /// The score of every label, in the order of the labels.
    pub scores: Vec<f32>,
}

/// A sample whose input has been read.
#[derive(Debug, Clone)]
pub struct GoldenSample {
    /// Path of the input, relative to the model directory.
    pub file: String,
    /// The true label.
    pub label: String,
    /// The encoded image, or the text.
    pub bytes: Vec<u8>,
    /// The score of every label, in the order of the labels.
    pub scores: Vec<f32>,
}

/// All golden samples of a model directory.
#[derive(Debug, Clone)]
pub struct Golden {
    /// Largest allowed difference in a score.
    pub tolerance: f32,
    /// Largest difference that padding may make in a score.
    pub padding_tolerance: f32,
    /// At least one sample.
    pub samples: Vec<GoldenSample>,
}

impl Golden {
    /// Reads the samples of a model directory. `None` if it has no `golden.json`.
    ///
    /// # Errors
    ///
    /// Fails if a file is missing or damaged, or if a sample does not match `labels`.
    pub fn read(directory: &Path, labels: &[String]) -> Result<Option<Self>, BundleError> {
        let file = directory.join(GOLDEN);
        if !file.exists() {
            return Ok(None);
        }
        let golden: GoldenFile = files::read_json(&file)?;
        let wrong = |key: &str, expected: &str, found: String| {
            BundleError::new(&file, key.to_owned(), expected, found)
        };
        if !(golden.tolerance > 0.0 && golden.tolerance < 1.0) {
            let found = golden.tolerance.to_string();
            return Err(wrong("tolerance", "a number between 0 and 1", found));
        }
        if golden.samples.is_empty() {
            return Err(wrong("samples", "at least one", "none".into()));
        }
        let samples = golden
            .samples
            .into_iter()
            .enumerate()
            .map(|(at, entry)| read_sample(directory, at, entry, labels));
        Ok(Some(Self {
            tolerance: golden.tolerance,
            padding_tolerance: PADDING_TOLERANCE,
            samples: samples.collect::<Result<_, _>>()?,
        }))
    }

    /// Widens the tolerances if the session runs in less precision than the graph was exported in
    /// (TF32, fp16).
    #[must_use]
    pub fn at_the_precision_of(self, placement: &Placement) -> Self {
        if !placement.reduced_precision {
            return self;
        }
        Self {
            tolerance: self.tolerance.max(REDUCED_TOLERANCE),
            padding_tolerance: self.padding_tolerance.max(REDUCED_TOLERANCE),
            ..self
        }
    }

    /// Compares `scores` with those of `sample` and returns the largest difference.
    ///
    /// # Errors
    ///
    /// Fails at the first label whose score differs by more than [`Self::tolerance`].
    pub fn compare(
        &self,
        sample: &GoldenSample,
        scores: &[f32],
        labels: &[String],
    ) -> Result<f32, GoldenError> {
        let origin = "as its trainer recorded";
        compare(sample, &sample.scores, origin, scores, self.tolerance, labels)
    }

    /// Compares the scores of a text that ran alone with those of the same text in a batch with a
    /// longer one, and returns the largest difference.
    ///
    /// # Errors
    ///
    /// Fails at the first label whose score differs by more than [`Self::padding_tolerance`]: then
    /// the graph ignores its attention mask.
    pub fn compare_padded(
        &self,
        sample: &GoldenSample,
        alone: &[f32],
        padded: &[f32],
        labels: &[String],
    ) -> Result<f32, GoldenError> {
        let origin = "as for the text alone, in a batch with a longer one";
        compare(sample, alone, origin, padded, self.padding_tolerance, labels)
    }
}

fn read_sample(
    directory: &Path,
    at: usize,
    entry: GoldenEntry,
    labels: &[String],
) -> Result<GoldenSample, BundleError> {
    let wrong = |key: &str, expected: String, found: String| {
        BundleError::new(
            directory.join(GOLDEN),
            format!("samples[{at}].{key}"),
            expected,
            found,
        )
    };
    if entry.scores.len() != labels.len() {
        let expected = format!("{} scores, one per label", labels.len());
        return Err(wrong("scores", expected, entry.scores.len().to_string()));
    }
    if !labels.contains(&entry.label) {
        let expected = "a label of config.json".into();
        return Err(wrong("label", expected, format!("{:?}", entry.label)));
    }
    if !files::is_inside(&entry.file) {
        let expected = "a path inside the model directory".into();
        return Err(wrong("file", expected, format!("{:?}", entry.file)));
    }
    let bytes = files::read(&directory.join(&entry.file)).map_err(|error| {
        let found = format!("{:?}: {error}", entry.file);
        wrong("file", "a readable file".into(), found)
    })?;
    Ok(GoldenSample {
        file: entry.file,
        label: entry.label,
        bytes,
        scores: entry.scores,
    })
}

fn compare(
    sample: &GoldenSample,
    expected: &[f32],
    origin: &'static str,
    found: &[f32],
    tolerance: f32,
    labels: &[String],
) -> Result<f32, GoldenError> {
    let mut largest: f32 = 0.0;
    for ((label, &expected), &found) in labels.iter().zip(expected).zip(found) {
        let difference = (expected - found).abs();
        if difference > tolerance {
            return Err(GoldenError {
                file: sample.file.clone(),
                label: label.clone(),
                expected,
                origin,
                found,
                tolerance,
            });
        }
        largest = largest.max(difference);
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduced_precision_widens_the_tolerances() {
        let sample = GoldenSample {
            file: "golden/a.txt".into(),
            label: "a".into(),
            bytes: Vec::new(),
            scores: vec![0.9],
        };
        let golden = Golden {
            tolerance: 1e-3,
            padding_tolerance: PADDING_TOLERANCE,
            samples: vec![sample.clone()],
        };
        let labels = ["a".to_owned()];
        let as_exported = golden.clone().at_the_precision_of(&Placement::cpu());
        assert!(as_exported.compare(&sample, &[0.905], &labels).is_err());
        assert!(
            as_exported
                .compare_padded(&sample, &[0.9], &[0.905], &labels)
                .is_err()
        );
        let reduced = Placement {
            reduced_precision: true,
            ..Placement::cpu()
        };
        let golden = golden.at_the_precision_of(&reduced);
        assert!(golden.compare(&sample, &[0.905], &labels).is_ok());
        assert!(golden.compare_padded(&sample, &[0.9], &[0.905], &labels).is_ok());
        assert!(golden.compare(&sample, &[0.915], &labels).is_err());
    }
}
