//! Golden samples: inputs with the scores that their trainer saw.
//!
//! `golden.json` lists them, `golden/` holds the pictures, or the texts in UTF-8:
//!
//! ```json
//! {"tolerance": 0.001, "samples": [{"file": "golden/7_0.png", "label": "7", "scores": [0.0, 0.0, 1.0]}]}
//! ```
//!
//! A server that does not reproduce the scores through its own path (another library, another resize, another
//! provider) must not serve the classifier.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, BundleError, read_json};
use crate::files;
use crate::image::Limits;
use crate::input::{Preprocessor, Row};
use crate::output;
use crate::runtime::provider::Placement;
use crate::runtime::session::{LoadError, Session};

/// Name of the file that lists the samples.
pub const GOLDEN: &str = "golden.json";

/// The difference that is allowed where the file does not say: float rounding differs between processors.
const DEFAULT_TOLERANCE: f32 = 1e-3;

fn default_tolerance() -> f32 {
    DEFAULT_TOLERANCE
}

/// `golden.json` as it stands in the file.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenFile {
    /// Largest allowed difference in a score.
    #[serde(default = "default_tolerance")]
    pub tolerance: f32,
    /// At least one.
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
    /// The score of every label, in their order.
    pub scores: Vec<f32>,
}

/// A sample with its input read.
#[derive(Debug, Clone)]
pub struct GoldenSample {
    /// Path relative to the model directory.
    pub file: String,
    /// The true label.
    pub label: String,
    /// The encoded picture, or the text.
    pub bytes: Vec<u8>,
    /// The score of every label, in their order.
    pub scores: Vec<f32>,
}

/// All samples of a model directory.
#[derive(Debug, Clone)]
pub struct Golden {
    /// Largest allowed difference in a score.
    pub tolerance: f32,
    /// Most that padding may change a score.
    pub padding_tolerance: f32,
    /// At least one.
    pub samples: Vec<GoldenSample>,
}

/// The classifier does not reproduce its trainer's scores, or its own.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{GOLDEN}: {file}: label {label:?}: expected a score of {expected} (within {tolerance}), as {origin}, found {found}"
)]
pub struct GoldenError {
    /// The sample.
    pub file: String,
    /// The first label whose score differs by more than is allowed.
    pub label: String,
    /// The score to reproduce.
    pub expected: f32,
    /// Where that one is from, in words.
    pub origin: &'static str,
    /// The score here.
    pub found: f32,
    /// The allowed difference.
    pub tolerance: f32,
}

impl Golden {
    /// Reads the samples of a model directory with these labels; `None` where it has none.
    pub fn read(directory: &Path, labels: &[String]) -> Result<Option<Self>, BundleError> {
        let file = directory.join(GOLDEN);
        if !file.exists() {
            return Ok(None);
        }
        let golden: GoldenFile = read_json(&file)?;
        let wrong =
            |key: String, expected: String, found: String| BundleError::new(&file, key, expected, found);
        if !(golden.tolerance > 0.0 && golden.tolerance < 1.0) {
            let found = golden.tolerance.to_string();
            return Err(wrong(
                "tolerance".into(),
                "a number between 0 and 1".into(),
                found,
            ));
        }
        if golden.samples.is_empty() {
            return Err(wrong("samples".into(), "at least one".into(), "none".into()));
        }
        let samples = golden.samples.into_iter().enumerate().map(|(at, entry)| {
            let key = |name: &str| format!("samples[{at}].{name}");
            if entry.scores.len() != labels.len() {
                let expected = format!("{} scores, one a label", labels.len());
                return Err(wrong(key("scores"), expected, entry.scores.len().to_string()));
            }
            if !labels.contains(&entry.label) {
                return Err(wrong(
                    key("label"),
                    "a label of config.json".into(),
                    format!("{:?}", entry.label),
                ));
            }
            // A model directory may come from anywhere; it must not name files outside itself.
            let inside = Path::new(&entry.file)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                let expected = "a path inside the model directory".into();
                return Err(wrong(key("file"), expected, format!("{:?}", entry.file)));
            }
            let bytes = files::read(&directory.join(&entry.file)).map_err(|error| {
                wrong(
                    key("file"),
                    "a readable file".into(),
                    format!("{:?}: {error}", entry.file),
                )
            })?;
            Ok(GoldenSample {
                file: entry.file,
                label: entry.label,
                bytes,
                scores: entry.scores,
            })
        });
        Ok(Some(Self {
            tolerance: golden.tolerance,
            padding_tolerance: PADDING_TOLERANCE,
            samples: samples.collect::<Result<_, _>>()?,
        }))
    }

    /// The same, with what must be allowed where the graph does not run in the precision that it was exported in.
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

    /// The largest difference between `scores` and those of `sample`, or an error where it is not allowed.
    pub fn compare(
        &self,
        sample: &GoldenSample,
        scores: &[f32],
        labels: &[String],
    ) -> Result<f32, GoldenError> {
        let origin = "its trainer saw";
        compare(sample, &sample.scores, origin, scores, self.tolerance, labels)
    }

    /// The largest difference between the scores of a text alone and beside a longer one, or an error where padding changes them:
    /// then the graph does not heed its attention mask.
    pub fn compare_padded(
        &self,
        sample: &GoldenSample,
        alone: &[f32],
        padded: &[f32],
        labels: &[String],
    ) -> Result<f32, GoldenError> {
        let origin = "the text has alone, beside a longer one";
        compare(sample, alone, origin, padded, self.padding_tolerance, labels)
    }
}

/// Most pictures in a run of a proof: a batch of all of them may take more memory than a server is given.
const PROOF_BATCH: usize = 8;

/// The golden samples as rows, with which every session that serves proves itself: one whose graph, memory or device is not as
/// it was for the others must not answer.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use classifier::{Bundle, Session, SessionOptions};
/// use classifier::golden::{Golden, Proof};
///
/// let bundle = Bundle::open("models/digits/1")?;
/// let golden = Golden::read(&bundle.directory, &bundle.labels)?;
/// let proof = golden.map(|golden| Proof::new(golden, &bundle, &Default::default())).transpose()?;
/// let mut session = Session::load(&bundle, &SessionOptions::default())?;
/// if let Some(proof) = proof {
///     proof.check(&mut session)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Proof {
    golden: Golden,
    rows: Vec<Row>,
    labels: Vec<String>,
    activation: output::Activation,
    /// Most rows of a run.
    batch: usize,
}

impl Proof {
    /// Prepares the samples of `bundle`.
    ///
    /// # Errors
    ///
    /// A sample that the preprocessor refuses.
    pub fn new(golden: Golden, bundle: &Bundle, limits: &Limits) -> Result<Self, crate::Error> {
        let samples = golden.samples.iter();
        let rows = samples.map(|sample| Ok(bundle.preprocessor.prepare(&sample.bytes, limits)?.row));
        Ok(Self {
            rows: rows.collect::<Result<_, crate::Error>>()?,
            golden,
            labels: bundle.labels.clone(),
            activation: bundle.activation,
            batch: match bundle.preprocessor {
                Preprocessor::Image(_) => PROOF_BATCH,
                // Padding is tried apart.
                Preprocessor::Text(_) => 1,
            },
        })
    }

    /// The samples.
    pub fn golden(&self) -> &Golden {
        &self.golden
    }

    /// The samples as rows, in their order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Runs the samples and compares the scores.
    ///
    /// # Errors
    ///
    /// A run that fails, or a score that differs by more than is allowed.
    pub fn check(&self, session: &mut Session) -> Result<(), LoadError> {
        let golden = self.golden.clone().at_the_precision_of(session.placement());
        let largest = session.batch_sizes().last().copied().unwrap_or(usize::MAX);
        let batch = self.batch.min(largest).max(1);
        for (samples, rows) in golden.samples.chunks(batch).zip(self.rows.chunks(batch)) {
            // One row of scores for each row of inputs, else the run fails.
            let values = session.run(rows.iter(), |_| {})?;
            for (sample, values) in samples.iter().zip(values.chunks(self.labels.len())) {
                let scores = output::scores(values, self.activation)?;
                golden.compare(sample, &scores, &self.labels)?;
            }
        }
        Ok(())
    }
}

/// Most that padding may change a score.
pub const PADDING_TOLERANCE: f32 = 1e-4;

/// What 16-bit floats, and products that are rounded to 10 bits of mantissa, may change in a score at least.
const REDUCED_TOLERANCE: f32 = 1e-2;

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
    fn less_precision_than_exported_may_change_more() {
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
