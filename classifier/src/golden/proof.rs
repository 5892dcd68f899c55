//! Checks sessions with the golden samples.

use super::Golden;
use crate::bundle::Bundle;
use crate::error::{ClassifierError, LoadError};
use crate::image::ImageLimits;
use crate::input::{Preprocessor, Row};
use crate::output::{self, Activation};
use crate::runtime::session::Session;

/// Largest number of images in a run of a proof. A batch of all samples may not fit into memory.
const PROOF_BATCH: usize = 8;

/// The golden samples of a bundle as rows, to check every session with.
///
/// Each session has to be checked: one may run on another device or in less precision than the
/// others.
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
    activation: Activation,
    /// Largest number of rows in a run.
    batch: usize,
}

impl Proof {
    /// Prepares the samples of `bundle`.
    ///
    /// # Errors
    ///
    /// Fails if the preprocessor rejects a sample.
    pub fn new(golden: Golden, bundle: &Bundle, limits: &ImageLimits) -> Result<Self, ClassifierError> {
        let samples = golden.samples.iter();
        let rows = samples.map(|sample| Ok(bundle.preprocessor.prepare(&sample.bytes, limits)?.row));
        Ok(Self {
            rows: rows.collect::<Result<_, ClassifierError>>()?,
            golden,
            labels: bundle.labels.clone(),
            activation: bundle.activation,
            batch: match bundle.preprocessor {
                Preprocessor::Image(_) => PROOF_BATCH,
                // So that no sample is padded; padding has its own check.
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
    /// Fails if a run fails, or if a score differs by more than the tolerance.
    pub fn check(&self, session: &mut Session) -> Result<(), LoadError> {
        let golden = self.golden.clone().at_the_precision_of(session.placement());
        let largest = session.batch_sizes().last().copied().unwrap_or(usize::MAX);
        let batch = self.batch.min(largest).max(1);
        for (samples, rows) in golden.samples.chunks(batch).zip(self.rows.chunks(batch)) {
            // A run gives one row of values for each row of inputs, or fails.
            let values = session.run(rows.iter(), |_| {})?;
            for (sample, values) in samples.iter().zip(values.chunks(self.labels.len())) {
                let scores = output::scores(values, self.activation)?;
                golden.compare(sample, &scores, &self.labels)?;
            }
        }
        Ok(())
    }
}
