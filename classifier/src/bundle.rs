//! The model directory, read and checked.
//!
//! The layout is the one that Hugging Face Optimum writes for ONNX exports, with two more files:
//!
//! | file | content |
//! |---|---|
//! | `model.onnx` | the graph: named inputs with a dynamic batch axis, one row of outputs for each row of inputs |
//! | `config.json` | labels and problem type, see [`LabelConfig`] |
//! | `preprocessor_config.json` | image classifiers: see [`PreprocessorConfig`] |
//! | `tokenizer.json`, `tokenizer_config.json` | text classifiers: see [`crate::text`] |
//! | `serving.toml` | optional, see [`Serving`] |
//! | `golden.json`, `golden/` | optional, see [`crate::golden`] |

mod graph_files;
mod labels;
mod serving;

use std::fs;
use std::path::{Path, PathBuf};

pub use self::graph_files::GraphFiles;
pub use self::labels::{LabelConfig, ProblemType};
pub use self::serving::{BatchLimits, Lanes, Measured, Serving};
pub use crate::error::BundleError;
pub use crate::files::SERVING;
use crate::files::read_json;
use crate::image::{ImagePreprocessor, PreprocessorConfig};
use crate::input::Preprocessor;
use crate::output::Activation;
use crate::text::{TOKENIZER, TextServing, Tokenizer};

/// Name of the graph's file.
pub const MODEL: &str = "model.onnx";
/// Name of the file that [`LabelConfig`] describes.
pub const CONFIG: &str = "config.json";
/// Name of the file that [`PreprocessorConfig`] describes.
pub const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";

/// A model directory whose files are consistent with each other.
///
/// The graph is read but not loaded. [`Session::load`](crate::Session::load) checks that its inputs
/// and outputs match the other files.
///
/// ```
/// # let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/1");
/// let bundle = classifier::Bundle::open(directory)?;
/// assert_eq!(bundle.labels.len(), 10);
/// # Ok::<(), classifier::BundleError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The model directory.
    pub directory: PathBuf,
    /// The label of each output, in order. There is at least one.
    pub labels: Vec<String>,
    /// Whether exactly one label is right or any number.
    pub problem_type: ProblemType,
    /// The function that turns outputs into scores.
    pub activation: Activation,
    /// Turns an image or a text into a row.
    pub preprocessor: Preprocessor,
    /// The content of `serving.toml`, or its defaults.
    pub serving: Serving,
    /// `model.onnx` and the weights beside it, as they were when the directory was read.
    pub graph: GraphFiles,
}

impl Bundle {
    /// Reads and checks a model directory.
    ///
    /// # Errors
    ///
    /// Fails at the first file that is missing, damaged or contradicts another one.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, BundleError> {
        let directory = directory.as_ref().to_path_buf();
        match fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(BundleError::new(directory, None, "a model directory", "a file")),
            Err(error) => return Err(BundleError::new(directory, None, "a model directory", error)),
        }
        let graph = GraphFiles::read(&directory)?;
        let config: LabelConfig = read_json(&directory.join(CONFIG))?;
        let labels = labels::labels(&directory, &config)?;
        let serving = Serving::read(&directory)?;
        let preprocessor = preprocessor(&directory, &serving)?;
        let problem_type = config
            .problem_type
            .unwrap_or(ProblemType::SingleLabelClassification);
        Ok(Self {
            activation: serving.activation.unwrap_or(match problem_type {
                ProblemType::SingleLabelClassification => Activation::Softmax,
                ProblemType::MultiLabelClassification => Activation::Sigmoid,
            }),
            directory,
            labels,
            problem_type,
            preprocessor,
            serving,
            graph,
        })
    }

    /// Path of the graph's file.
    pub fn model(&self) -> PathBuf {
        self.directory.join(MODEL)
    }
}

/// Tells image classifiers from text classifiers by their files.
fn preprocessor(directory: &Path, serving: &Serving) -> Result<Preprocessor, BundleError> {
    let file = directory.join(PREPROCESSOR_CONFIG);
    match (file.exists(), directory.join(TOKENIZER).exists()) {
        (true, false) => {
            let kind = "an image";
            refuse(directory, "text", serving.text.is_some(), kind)?;
            refuse(
                directory,
                "batch.max_tokens",
                serving.batch.max_tokens.is_some(),
                kind,
            )?;
            let config: PreprocessorConfig = read_json(&file)?;
            ImagePreprocessor::new(&config, serving.layout.unwrap_or_default())
                .map(Preprocessor::Image)
                .map_err(|error| BundleError::new(&file, error.key.to_owned(), error.expected, error.found))
        }
        (false, true) => {
            refuse(directory, "layout", serving.layout.is_some(), "a text")?;
            let tokenizer = tokenizer(directory, serving)?;
            Ok(Preprocessor::Text(tokenizer))
        }
        (both, _) => Err(BundleError::new(
            directory,
            None,
            format!("{PREPROCESSOR_CONFIG} for an image classifier, or {TOKENIZER} for a text classifier"),
            if both { "both" } else { "neither" },
        )),
    }
}

/// Rejects a key of `serving.toml` that has no effect for this kind of classifier.
fn refuse(directory: &Path, key: &str, is_set: bool, kind: &str) -> Result<(), BundleError> {
    if !is_set {
        return Ok(());
    }
    let expected = format!("no such key for {kind} classifier");
    Err(BundleError::new(
        directory.join(SERVING),
        key.to_owned(),
        expected,
        "one",
    ))
}

fn tokenizer(directory: &Path, serving: &Serving) -> Result<Tokenizer, BundleError> {
    let text = serving.text.as_ref();
    let tokenizer = Tokenizer::read(directory, text.unwrap_or(&TextServing::default()))?;
    match serving.batch.max_tokens {
        Some(tokens) if (tokens as usize) < tokenizer.max_length() => Err(BundleError::new(
            directory.join(SERVING),
            "batch.max_tokens".to_owned(),
            format!("at least model_max_length, which is {}", tokenizer.max_length()),
            tokens,
        )),
        _ => Ok(tokenizer),
    }
}
