//! The model directory, read and checked.
//!
//! The layout is the one that Hugging Face Optimum writes for ONNX exports, and two files of our own:
//!
//! | file | what |
//! |---|---|
//! | `model.onnx` | the graph: one named input with a dynamic batch axis, one row of outputs for each row of inputs |
//! | `config.json` | `id2label`, `problem_type` |
//! | `preprocessor_config.json` | of an image classifier: how a picture becomes a row, see [`crate::image::PreprocessorConfig`] |
//! | `tokenizer.json`, `tokenizer_config.json` | of a text classifier: how a text becomes token ids, see [`crate::text`] |
//! | `serving.toml` | optional, see [`Serving`] |
//! | `golden.json` + `golden/` | optional, see [`crate::golden`] |

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use onnx_graph::Outline;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::image::{self, Layout, PreprocessorConfig};
use crate::input::Preprocessor;
use crate::output::Activation;
use crate::runtime::provider::Device;
use crate::text::{self, TextServing, Tokenizer};

/// Name of the graph's file.
pub const MODEL: &str = "model.onnx";
/// Name of the file with the labels.
pub const CONFIG: &str = "config.json";
/// Name of the file with the steps from a picture to a row.
pub const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
/// Name of our own file.
pub const SERVING: &str = "serving.toml";

/// A mistake in a model directory: which file, where in it, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}expected {expected}, found {found}", file.display(), key.as_deref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct BundleError {
    /// The file, or the directory where that is at fault.
    pub file: PathBuf,
    /// The key within the file, or the name of an input or output of the graph.
    pub key: Option<String>,
    /// In words.
    pub expected: String,
    /// In words.
    pub found: String,
}

impl BundleError {
    pub(crate) fn new(
        file: impl Into<PathBuf>,
        key: impl Into<Option<String>>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self {
            file: file.into(),
            key: key.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

/// What `config.json` says to us; the rest of it belongs to other programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Config {
    /// The label of each output, by its position written as a string: `{"0": "cat", "1": "dog"}`.
    pub id2label: BTreeMap<String, String>,
    /// `single_label_classification` (the default) or `multi_label_classification`.
    #[serde(default)]
    pub problem_type: Option<ProblemType>,
}

/// How many labels of an input are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One.
    SingleLabelClassification,
    /// Any number.
    MultiLabelClassification,
}

/// `serving.toml`: how we serve the classifier. Every key may be left out; a key that is not listed is an error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Serving {
    /// Name of the graph's output to read, where it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// What turns outputs into scores. Default: softmax, or sigmoid where `problem_type` says multi-label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Order of the axes of the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// How texts are cut and padded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextServing>,
    /// Limits of a batch.
    pub batch: BatchLimits,
    /// Where the graph runs.
    pub lanes: Lanes,
    /// What the classifier was measured on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// `[batch]` of `serving.toml`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    /// Most inputs in one run of the graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u32>,
    /// Most tokens of texts in one run of the graph, padding included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

/// `[lanes]` of `serving.toml`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lanes {
    /// How many sessions run side by side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Threads of each session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// CPU or GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Whether TensorRT, where it is used, may run layers in 16-bit floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fp16: Option<bool>,
    /// Whether CUDA, where it is used, may round what it multiplies to 10 bits of mantissa.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf32: Option<bool>,
}

/// `[measured]` of `serving.toml`: written by the trainer from the exported files, shown by the server.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// For example `MNIST`.
    pub dataset: String,
    /// For example `test`.
    pub split: String,
    /// How many samples of the split were measured.
    pub samples: u64,
    /// Part of them that was labelled right, between 0 and 1.
    pub accuracy: f64,
}

/// A model directory whose files are consistent with each other. The graph has not been loaded yet; that it fits is
/// checked by [`crate::Session::load`].
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Where it was read.
    pub directory: PathBuf,
    /// The label of each output, in order; at least one.
    pub labels: Vec<String>,
    /// One label or any number.
    pub problem_type: ProblemType,
    /// What turns outputs into scores.
    pub activation: Activation,
    /// What turns a picture or a text into a row.
    pub preprocessor: Preprocessor,
    /// `serving.toml`, or its defaults.
    pub serving: Serving,
    /// `model.onnx` and what belongs to it, as they were when the directory was read.
    pub graph: GraphFiles,
}

/// The files of a graph. They are read once: every session is made of the same bytes, also one that is made long after the
/// files in the directory were replaced.
#[derive(Clone)]
pub struct GraphFiles {
    /// The whole of `model.onnx`, from which every session is made.
    pub model: Arc<[u8]>,
    /// Weights in files beside it, by the names that the graph has for them.
    pub external: Vec<(String, Arc<[u8]>)>,
    /// Inputs and operators of the graph. Empty if the file cannot be read as a graph; loading it then
    /// fails with the reason.
    pub outline: Outline,
}

impl fmt::Debug for GraphFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphFiles")
            .field("bytes", &self.model.len())
            .field("external", &self.external.len())
            .field("outline", &self.outline)
            .finish()
    }
}

impl GraphFiles {
    fn read(directory: &Path) -> Result<Self, BundleError> {
        let file = directory.join(MODEL);
        let wrong = |found: &dyn ToString| BundleError::new(&file, None, "an ONNX graph", found.to_string());
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
            Ok(metadata) if metadata.is_file() => return Err(wrong(&"an empty file")),
            Ok(_) => return Err(wrong(&"a directory")),
            Err(error) => return Err(wrong(&error)),
        }
        let model: Arc<[u8]> = files::read(&file).map_err(|error| wrong(&error))?.into();
        // What cannot be read here is told by ONNX Runtime when it makes a session of it.
        let outline = Outline::read(&model).unwrap_or_default();
        let external = outline.external_files.iter().map(|name| {
            let inside = Path::new(name)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                let expected = "weights in files inside the model directory";
                return Err(BundleError::new(&file, None, expected, format!("{name:?}")));
            }
            let path = directory.join(name);
            let bytes = files::read(&path)
                .map_err(|error| BundleError::new(&path, None, "the graph's weights", error))?;
            Ok((name.clone(), bytes.into()))
        });
        Ok(Self {
            external: external.collect::<Result<_, _>>()?,
            outline,
            model,
        })
    }
}

impl Bundle {
    /// Reads and checks the directory.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, BundleError> {
        let directory = directory.as_ref().to_path_buf();
        match fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(BundleError::new(directory, None, "a model directory", "a file")),
            Err(error) => return Err(BundleError::new(directory, None, "a model directory", error)),
        }
        let graph = GraphFiles::read(&directory)?;
        let config: Config = read_json(&directory.join(CONFIG))?;
        let labels = labels(&directory, &config)?;
        let serving: Serving = read_serving(&directory)?;
        check_serving(&directory, &serving)?;
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

    /// Path of the graph.
    pub fn model(&self) -> PathBuf {
        self.directory.join(MODEL)
    }
}

/// The files say whether it is an image or a text classifier. A key of `serving.toml` that is for the other one would have no
/// effect, so it is an error.
fn preprocessor(directory: &Path, serving: &Serving) -> Result<Preprocessor, BundleError> {
    let file = directory.join(PREPROCESSOR_CONFIG);
    let misplaced = |key: &str, set: bool, other: &str| {
        let wrong = || {
            let expected = format!("no such key, for this is {other} classifier");
            BundleError::new(directory.join(SERVING), key.to_owned(), expected, "one")
        };
        if set { Err(wrong()) } else { Ok(()) }
    };
    match (file.exists(), directory.join(text::TOKENIZER).exists()) {
        (true, false) => {
            misplaced("text", serving.text.is_some(), "an image")?;
            misplaced("batch.max_tokens", serving.batch.max_tokens.is_some(), "an image")?;
            let config: PreprocessorConfig = read_json(&file)?;
            image::Preprocessor::new(&config, serving.layout.unwrap_or_default())
                .map(Preprocessor::Image)
                .map_err(|error| BundleError::new(&file, error.key.to_owned(), error.expected, error.found))
        }
        (false, true) => {
            misplaced("layout", serving.layout.is_some(), "a text")?;
            let tokenizer = Tokenizer::read(
                directory,
                serving.text.as_ref().unwrap_or(&TextServing::default()),
            )?;
            match serving.batch.max_tokens {
                Some(tokens) if (tokens as usize) < tokenizer.max_length() => Err(BundleError::new(
                    directory.join(SERVING),
                    "batch.max_tokens".to_owned(),
                    format!("at least model_max_length, which is {}", tokenizer.max_length()),
                    tokens,
                )),
                _ => Ok(Preprocessor::Text(tokenizer)),
            }
        }
        (both, _) => Err(BundleError::new(
            directory,
            None,
            format!(
                "{PREPROCESSOR_CONFIG}, as an image classifier has, or {}, as a text classifier has",
                text::TOKENIZER
            ),
            if both { "both" } else { "neither" },
        )),
    }
}

pub(crate) fn read(file: &Path) -> Result<String, BundleError> {
    let unreadable =
        |found: &dyn ToString| BundleError::new(file, None, "a readable UTF-8 file", found.to_string());
    let bytes = files::read(file).map_err(|error| unreadable(&error))?;
    String::from_utf8(bytes).map_err(|error| unreadable(&error))
}

pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, BundleError> {
    let text = read(file)?;
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let key = match error.path().to_string() {
            path if path == "." => None,
            path => Some(path),
        };
        BundleError::new(file, key, "a valid value", error.into_inner())
    })?;
    deserializer
        .end()
        .map_err(|error| BundleError::new(file, None, "one JSON value", error))?;
    Ok(value)
}

fn read_serving(directory: &Path) -> Result<Serving, BundleError> {
    let file = directory.join(SERVING);
    if !file.exists() {
        return Ok(Serving::default());
    }
    let text = read(&file)?;
    let invalid =
        |key: Option<String>, message: String| BundleError::new(&file, key, "valid keys and values", message);
    let deserializer = toml::Deserializer::parse(&text).map_err(|error| invalid(None, error.to_string()))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key = error.path().to_string();
        invalid(
            (key != ".").then_some(key),
            error.into_inner().message().to_owned(),
        )
    })
}

fn check_serving(directory: &Path, serving: &Serving) -> Result<(), BundleError> {
    let at_least_one = |key: &str, value: Option<u32>| match value {
        Some(0) => Err(BundleError::new(
            directory.join(SERVING),
            key.to_owned(),
            "at least 1",
            0,
        )),
        _ => Ok(()),
    };
    at_least_one("batch.max_size", serving.batch.max_size)?;
    at_least_one("lanes.count", serving.lanes.count)?;
    at_least_one("lanes.threads", serving.lanes.threads)?;
    match &serving.measured {
        Some(measured) if !(0.0..=1.0).contains(&measured.accuracy) => Err(BundleError::new(
            directory.join(SERVING),
            "measured.accuracy".to_owned(),
            "a number between 0 and 1",
            measured.accuracy,
        )),
        _ => Ok(()),
    }
}

/// The labels in the order of the outputs: the keys of `id2label` must be 0, 1, 2, ... without a gap.
fn labels(directory: &Path, config: &Config) -> Result<Vec<String>, BundleError> {
    let count = config.id2label.len();
    let wrong = |key: String, expected: &str, found: String| {
        Err(BundleError::new(directory.join(CONFIG), key, expected, found))
    };
    if count == 0 {
        return wrong("id2label".into(), "at least one label", "none".into());
    }
    let mut labels = vec![None; count];
    for (id, label) in &config.id2label {
        let Some(slot) = id.parse::<usize>().ok().and_then(|id| labels.get_mut(id)) else {
            let expected = format!(
                "the keys \"0\" to \"{}\", for there are {count} labels",
                count - 1
            );
            return wrong("id2label".into(), &expected, format!("{id:?}"));
        };
        *slot = Some(label.clone());
    }
    let mut seen = BTreeMap::new();
    for (id, label) in labels.iter().enumerate() {
        let Some(label) = label else {
            return wrong(
                "id2label".into(),
                "every position once",
                format!("no {id}, and another one twice"),
            );
        };
        if let Some(first) = seen.insert(label, id) {
            return wrong(
                format!("id2label.{id}"),
                "a label of its own",
                format!("{label:?}, which {first} has as well"),
            );
        }
    }
    Ok(labels.into_iter().flatten().collect())
}
