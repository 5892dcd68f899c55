//! The errors of every step between a model directory and a prediction.
//!
//! Errors carry data: the file, the key, what was expected and what was found. Their texts are
//! complete sentences about the input or the machine. They do not say which option of a program to
//! change, because that is for the program to know; [`LibraryError::NotFound`] and
//! [`DeviceError::cure`] hold what it needs to add such advice.

use std::any::Any;
use std::fmt::Write as _;
use std::path::PathBuf;

pub use crate::device::{DeviceCure, DeviceError};
use crate::formats::FORMAT_NAMES;
use crate::kind::InputKind;

/// Any failure between opening a model directory and returning a prediction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifierError {
    /// ONNX Runtime could not be loaded.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A file of the model directory is missing or wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The device that was asked for cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The image cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The text cannot be tokenised.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A text was given to an image classifier, or an image to a text classifier.
    #[error(transparent)]
    WrongKind(#[from] WrongKind),
    /// The graph could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The classifier does not reproduce the scores of its golden samples.
    #[error(transparent)]
    Golden(#[from] GoldenError),
}

impl From<LoadError> for ClassifierError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Bundle(error) => Self::Bundle(error),
            LoadError::Device(error) => Self::Device(error),
            LoadError::Golden(error) => Self::Golden(error),
            LoadError::Run(error) => Self::Run(error),
        }
    }
}

/// Why ONNX Runtime is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// No library was found that can be loaded.
    #[error("{}", describe(tried))]
    NotFound {
        /// The places that were tried, in order.
        tried: Vec<TriedLibrary>,
    },
    /// The library would send telemetry to Microsoft, and the environment does not say whether it
    /// may.
    #[error(
        "ONNX Runtime sends telemetry to Microsoft from the moment it is loaded unless \
         {TELEMETRY_VARIABLE}=1 is in the environment: expected that variable, found it unset. Call \
         classifier::runtime::environment::without_telemetry() first in main, or set the variable \
         where the program is started. The value 0 allows telemetry."
    )]
    TelemetryUndecided,
}

/// Environment variable that turns off the telemetry of ONNX Runtime if it is `1` when the library
/// is loaded.
///
/// Otherwise the library looks up a host of Microsoft's, writes a device id and a database of
/// events into the user's cache directory, and sends the events, even if its environment is built
/// with telemetry off. Documented in ONNX Runtime's `docs/Privacy.md`.
pub const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Environment variable with the path of ONNX Runtime's library file.
pub const PATH_VARIABLE: &str = "ORT_DYLIB_PATH";

/// A place in which the ONNX Runtime library was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TriedLibrary {
    /// The file or directory, or a description of the system's search path.
    pub place: String,
    /// Who named it.
    pub source: LibrarySource,
    /// Why no library was loaded from there.
    pub reason: String,
}

/// Who named the file or directory of the ONNX Runtime library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LibrarySource {
    /// The caller of [`load`](crate::runtime::library::load).
    Caller,
    /// The environment variable [`PATH_VARIABLE`].
    Variable,
    /// Nobody: it is one of the default places.
    Default,
}

fn describe(tried: &[TriedLibrary]) -> String {
    let mut text = format!(
        "ONNX Runtime (1.{} or newer) could not be loaded. It was looked for in:",
        ort::MINOR_VERSION
    );
    for TriedLibrary {
        place,
        source,
        reason,
    } in tried
    {
        let named = match source {
            LibrarySource::Variable => format!(" (named by {PATH_VARIABLE})"),
            LibrarySource::Caller | LibrarySource::Default => String::new(),
        };
        let _ = write!(text, "\n  {place}{named}: {reason}");
    }
    text
}

/// A mistake in a model directory.
///
/// ```
/// let error = classifier::Bundle::open("/nowhere").unwrap_err();
/// assert!(error.to_string().starts_with("/nowhere: expected a model directory, found "));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}expected {expected}, found {found}", file.display(), key.as_deref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct BundleError {
    /// The file, or the directory if that is at fault.
    pub file: PathBuf,
    /// The key within the file, or the name of an input or output of the graph.
    pub key: Option<String>,
    /// Continues "expected".
    pub expected: String,
    /// Continues "found".
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

/// Why a session could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file of the model directory is missing or wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The device that was asked for cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The session does not reproduce the scores of the golden samples.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The golden samples could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There are no bytes.
    #[error("the image is empty: expected {FORMAT_NAMES}, found 0 bytes")]
    Empty,
    /// The first bytes are those of no format that is decoded.
    #[error("unknown image format: expected {FORMAT_NAMES}, found bytes that begin with {found}")]
    UnknownFormat {
        /// The first bytes in hexadecimal.
        found: String,
    },
    /// The image has more pixels than the limits allow. Found before anything is decoded.
    #[error(
        "the image is too large: expected at most {max_side} pixels per side and {max_pixels} in total, \
         found {width} x {height}"
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Largest allowed width and height.
        max_side: u32,
        /// Largest allowed product of width and height.
        max_pixels: u64,
    },
    /// The format is known, but the content cannot be decoded.
    #[error("the {format} image cannot be decoded: {reason}")]
    Malformed {
        /// The format that the first bytes announce.
        format: &'static str,
        /// The decoder's message.
        reason: String,
    },
}

/// A key of `preprocessor_config.json` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: expected {expected}, found {found}")]
pub struct PreprocessorConfigError {
    /// The key.
    pub key: &'static str,
    /// Continues "expected".
    pub expected: String,
    /// Continues "found".
    pub found: String,
}

impl PreprocessorConfigError {
    pub(crate) fn new(key: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self {
            key,
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

/// Why a text cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The bytes are not UTF-8.
    #[error("invalid UTF-8 at byte {at}")]
    NotUtf8 {
        /// Position of the first invalid byte.
        at: usize,
    },
    /// Normalisation leaves nothing of the text.
    #[error("expected a text with at least one token, found a text that is empty, blank or only markup")]
    Empty,
    /// The tokenizer fails.
    #[error("the text cannot be tokenised: {0}")]
    Tokenizer(String),
}

/// The input is an image and the classifier takes texts, or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model takes {takes}, found {}", match takes { InputKind::Image => InputKind::Text, InputKind::Text => InputKind::Image })]
pub struct WrongKind {
    /// The kind of input that the classifier takes.
    pub takes: InputKind,
}

/// Why a run gave no scores.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// [`Interrupt::interrupt`](crate::runtime::session::Interrupt::interrupt) was called.
    #[error("the run was interrupted")]
    Interrupted,
    /// The batch has no rows.
    #[error("expected at least one row, found none")]
    Empty,
    /// A row does not have the length of the graph's input.
    #[error("expected rows of {expected} numbers, found one of {found}")]
    RowLength {
        /// Length of a row of the graph's input.
        expected: usize,
        /// Length of the row that was given.
        found: usize,
    },
    /// ONNX Runtime rejects the input.
    #[error("ONNX Runtime rejected the input: {0}")]
    InvalidInput(String),
    /// The run does not fit into the memory of the device or of the process.
    #[error("the run does not fit into memory: {0}")]
    OutOfMemory(String),
    /// ONNX Runtime failed.
    #[error("ONNX Runtime failed: {0}")]
    Failed(String),
    /// The output is not one row of values for each row of inputs.
    #[error("expected outputs of shape {expected}, found {found}")]
    OutputShape {
        /// Such as `[8, 10]`.
        expected: String,
        /// Such as `[8, 12]`.
        found: String,
    },
    /// The graph returned a value that is infinite or not a number.
    #[error("expected finite outputs, found {value} for output {output}")]
    NonFinite {
        /// Position of the label.
        output: usize,
        /// The value.
        value: f32,
    },
}

/// The classifier does not reproduce the scores of a golden sample.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "golden.json: {file}: label {label:?}: expected a score of {expected} (within {tolerance}), {origin}, found {found}"
)]
pub struct GoldenError {
    /// Path of the sample, relative to the model directory.
    pub file: String,
    /// The first label whose score differs by more than the tolerance.
    pub label: String,
    /// The score to reproduce.
    pub expected: f32,
    /// Says where the expected score comes from.
    pub origin: &'static str,
    /// The score that the classifier gave.
    pub found: f32,
    /// Largest allowed difference.
    pub tolerance: f32,
}

/// The message of a caught panic.
///
/// ```
/// let payload = std::panic::catch_unwind(|| panic!("no more {}", "numbers")).unwrap_err();
/// assert_eq!(classifier::error::panic_message(&*payload), "no more numbers");
/// ```
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
