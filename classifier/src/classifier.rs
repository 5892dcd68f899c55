//! The whole way from a directory to predictions, for one thread.

use std::path::Path;

use crate::bundle::Bundle;
use crate::error::{ClassifierError, LoadError, RunError};
use crate::golden::Golden;
use crate::image::ImageLimits;
use crate::input::{Preprocessor, Row};
use crate::output::{self, Prediction};
use crate::runtime::library;
use crate::runtime::session::{Session, SessionOptions};

/// Opens a model directory on the CPU with one thread.
///
/// The first call loads ONNX Runtime, see [`library::load`].
///
/// # Errors
///
/// Fails if ONNX Runtime cannot be loaded, or if the directory is not a usable model directory.
pub fn open(directory: impl AsRef<Path>) -> Result<Classifier, ClassifierError> {
    library::load(None)?;
    let bundle = Bundle::open(directory)?;
    Ok(Classifier::new(bundle, &SessionOptions::default())?)
}

/// A model directory and a session that runs its graph.
#[derive(Debug)]
pub struct Classifier {
    bundle: Bundle,
    session: Session,
    limits: ImageLimits,
}

impl Classifier {
    /// Loads the graph of `bundle`. ONNX Runtime must have been loaded, see [`library::load`].
    ///
    /// # Errors
    ///
    /// As for [`Session::load`].
    pub fn new(bundle: Bundle, options: &SessionOptions) -> Result<Self, LoadError> {
        let session = Session::load(&bundle, options)?;
        Ok(Self {
            bundle,
            session,
            limits: ImageLimits::default(),
        })
    }

    /// The content of the model directory.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Classifies one encoded image. See [`image::FORMATS`](crate::image::FORMATS) for the formats.
    ///
    /// # Errors
    ///
    /// Fails for a text classifier, if the image cannot be decoded, or if the run fails.
    pub fn classify_image(&mut self, bytes: &[u8]) -> Result<Prediction, ClassifierError> {
        self.bundle.preprocessor.image()?;
        self.classify(bytes)
    }

    /// Classifies one text.
    ///
    /// # Errors
    ///
    /// Fails for an image classifier, if no token is left of the text, or if the run fails.
    pub fn classify_text(&mut self, text: &str) -> Result<Prediction, ClassifierError> {
        self.bundle.preprocessor.text()?;
        self.classify(text.as_bytes())
    }

    /// Classifies the content of a file: an encoded image, or a text in UTF-8, whichever the
    /// classifier takes.
    ///
    /// # Errors
    ///
    /// Fails if the input cannot be used or if the run fails.
    pub fn classify(&mut self, bytes: &[u8]) -> Result<Prediction, ClassifierError> {
        let prepared = self.bundle.preprocessor.prepare(bytes, &self.limits)?;
        let scores = self.scores_of(prepared.row)?;
        Ok(Prediction {
            truncated: prepared.truncated,
            ..Prediction::from_scores(&scores, &self.bundle.labels, usize::MAX)
        })
    }

    /// The score of every label for one input, in the order of [`Bundle::labels`].
    ///
    /// # Errors
    ///
    /// As for [`Self::classify`].
    pub fn scores(&mut self, bytes: &[u8]) -> Result<Vec<f32>, ClassifierError> {
        let prepared = self.bundle.preprocessor.prepare(bytes, &self.limits)?;
        self.scores_of(prepared.row)
    }

    fn scores_of(&mut self, row: Row) -> Result<Vec<f32>, ClassifierError> {
        let outputs = self.run(&[row])?;
        Ok(output::scores(&outputs, self.bundle.activation)?)
    }

    /// Runs rows that [`Bundle::preprocessor`] made. Returns the graph's raw outputs: for each row,
    /// one value per label.
    ///
    /// # Errors
    ///
    /// As for [`Session::run`].
    pub fn run(&mut self, rows: &[Row]) -> Result<Vec<f32>, RunError> {
        self.session.run(rows.iter(), |_| {})
    }

    /// Compares this classifier with the scores of its golden samples, and texts also with their
    /// scores in a padded batch. Returns the number of samples and the largest difference in a
    /// score.
    ///
    /// # Errors
    ///
    /// Fails if the samples cannot be read or run, or if a score differs by more than the
    /// tolerance.
    pub fn check_golden(&mut self) -> Result<(usize, f32), ClassifierError> {
        let Some(golden) = Golden::read(&self.bundle.directory, &self.bundle.labels)? else {
            return Ok((0, 0.0));
        };
        let golden = golden.at_the_precision_of(self.session.placement());
        let mut largest: f32 = 0.0;
        for sample in &golden.samples {
            let row = self.bundle.preprocessor.prepare(&sample.bytes, &self.limits)?.row;
            let scores = self.scores_of(row.clone())?;
            largest = largest.max(golden.compare(sample, &scores, &self.bundle.labels)?);
            if let Preprocessor::Text(tokenizer) = &self.bundle.preprocessor {
                // In a batch with a text of full length, the sample is padded to that length.
                let longest = Row::Text(tokenizer.blank(tokenizer.max_length()));
                let outputs = self.run(&[row, longest])?;
                let padded = output::scores(&outputs[..scores.len()], self.bundle.activation)?;
                golden.compare_padded(sample, &scores, &padded, &self.bundle.labels)?;
            }
        }
        Ok((golden.samples.len(), largest))
    }
}
