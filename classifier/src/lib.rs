//! One ONNX classifier, on disk and in memory.
//!
//! A classifier is a directory ([`bundle`]): the graph, its labels, how a picture becomes a row of numbers ([`image`]) or a
//! text a row of token ids ([`text`]), and samples with the scores that its trainer saw ([`golden`]). This crate reads and
//! checks such a directory, runs the graph through ONNX Runtime ([`runtime`]) and turns its output into labels with scores
//! ([`output`]).
//!
//! The server and the trainer both call it, so that what was trained and what is served cannot drift apart.
//!
//! ```
//! # let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../models");
//! # let picture = std::fs::read(format!("{models}/digits/1/golden/7_0.png"))?;
//! # let directory = format!("{models}/digits/1");
//! let mut classifier = classifier::open(directory)?;
//! let prediction = classifier.classify_image(&picture)?;
//! assert_eq!(prediction.best().label, "7");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

pub mod bundle;
mod files;
pub mod golden;
pub mod image;
pub mod input;
pub mod output;
pub mod runtime;
pub mod text;

use std::path::Path;

pub use bundle::{Bundle, BundleError};
pub use golden::GoldenError;
pub use image::{ImageError, Limits};
pub use input::{Kind, Prepared, Preprocessor, Row, WrongKind};
pub use output::{Prediction, Score};
pub use runtime::library::LibraryError;
pub use runtime::provider::{Device, DeviceError, DeviceOptions, Placement, Provider};
pub use runtime::session::{LoadError, RunError, Session, SessionOptions};
pub use text::TextError;

/// Whatever can go wrong between a directory and a prediction.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ONNX Runtime could not be loaded.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The model directory is not what it should be.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The device cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The picture cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The text cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A text for an image classifier, or a picture for a text classifier.
    #[error(transparent)]
    WrongKind(#[from] WrongKind),
    /// The graph could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The classifier does not reproduce its trainer's scores.
    #[error(transparent)]
    Golden(#[from] GoldenError),
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Bundle(error) => Self::Bundle(error),
            LoadError::Device(error) => Self::Device(error),
            LoadError::Golden(error) => Self::Golden(error),
            LoadError::Run(error) => Self::Run(error),
        }
    }
}

/// Opens the model directory at `directory` on the CPU with one thread.
///
/// ONNX Runtime is loaded on the first call, from where [`runtime::library::load`] finds it.
pub fn open(directory: impl AsRef<Path>) -> Result<Classifier, Error> {
    runtime::library::load(None)?;
    let bundle = Bundle::open(directory)?;
    Ok(Classifier::new(bundle, &SessionOptions::default())?)
}

/// A model directory and a session that runs its graph.
#[derive(Debug)]
pub struct Classifier {
    bundle: Bundle,
    session: Session,
    limits: Limits,
}

impl Classifier {
    /// Loads the graph of `bundle`. ONNX Runtime must have been loaded before, see [`runtime::library::load`].
    pub fn new(bundle: Bundle, options: &SessionOptions) -> Result<Self, LoadError> {
        let session = Session::load(&bundle, options)?;
        Ok(Self {
            bundle,
            session,
            limits: Limits::default(),
        })
    }

    /// The directory that was opened.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Classifies one encoded picture (png, jpeg, webp, gif or bmp).
    pub fn classify_image(&mut self, bytes: &[u8]) -> Result<Prediction, Error> {
        self.bundle.preprocessor.image()?;
        self.classify(bytes)
    }

    /// Classifies one text.
    pub fn classify_text(&mut self, text: &str) -> Result<Prediction, Error> {
        self.bundle.preprocessor.text()?;
        self.classify(text.as_bytes())
    }

    /// Classifies one input as it stands in a file: an encoded picture, or a text in UTF-8, whichever the classifier takes.
    pub fn classify(&mut self, bytes: &[u8]) -> Result<Prediction, Error> {
        let prepared = self.bundle.preprocessor.prepare(bytes, &self.limits)?;
        let scores = self.scores_of(prepared.row)?;
        Ok(Prediction {
            truncated: prepared.truncated,
            ..Prediction::from_scores(&scores, &self.bundle.labels, usize::MAX)
        })
    }

    /// The score of every label, in the order of [`Bundle::labels`], for one encoded picture or text in UTF-8.
    pub fn scores(&mut self, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        let prepared = self.bundle.preprocessor.prepare(bytes, &self.limits)?;
        self.scores_of(prepared.row)
    }

    fn scores_of(&mut self, row: Row) -> Result<Vec<f32>, Error> {
        let outputs = self.run(&[row])?;
        Ok(output::scores(&outputs, self.bundle.activation)?)
    }

    /// Runs rows that [`Bundle::preprocessor`] made, and gives the graph's raw outputs, one row of [`Bundle::labels`]
    /// after the other.
    pub fn run(&mut self, rows: &[Row]) -> Result<Vec<f32>, RunError> {
        self.session.run(rows.iter(), |_| {})
    }

    /// Compares this classifier with the scores that its trainer saw. Gives the number of samples compared, and the
    /// largest difference in a score.
    pub fn check_golden(&mut self) -> Result<(usize, f32), Error> {
        let Some(golden) = golden::Golden::read(&self.bundle.directory, &self.bundle.labels)? else {
            return Ok((0, 0.0));
        };
        let golden = golden.at_the_precision_of(self.session.placement());
        let mut largest: f32 = 0.0;
        for sample in &golden.samples {
            let row = self.bundle.preprocessor.prepare(&sample.bytes, &self.limits)?.row;
            let scores = self.scores_of(row.clone())?;
            largest = largest.max(golden.compare(sample, &scores, &self.bundle.labels)?);
            if let Preprocessor::Text(tokenizer) = &self.bundle.preprocessor {
                // Beside a text of full length it is filled up to that length.
                let longest = Row::Text(tokenizer.blank(tokenizer.max_length()));
                let outputs = self.run(&[row, longest])?;
                let padded = output::scores(&outputs[..scores.len()], self.bundle.activation)?;
                golden.compare_padded(sample, &scores, &padded, &self.bundle.labels)?;
            }
        }
        Ok((golden.samples.len(), largest))
    }
}
