//! The errors of this crate.

use std::io;
use std::path::PathBuf;

/// Why an ONNX file cannot be read, built or cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file, or one with its weights, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not a protobuf message of the expected form.
    #[error("{}: expected an ONNX model", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        source: prost::DecodeError,
    },
    /// The names or constants of a graph under construction do not fit together.
    #[error("graph `{graph}`: {problem}")]
    Graph {
        /// Name of the graph, which may be nested in another one.
        graph: String,
        /// What is wrong.
        problem: String,
    },
    /// The weights of a constant cannot be taken from the file that it names.
    #[error("{}: constant `{constant}`: {problem}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Name of the constant.
        constant: String,
        /// What is wrong.
        problem: String,
    },
    /// The last dense layer cannot be cut off.
    #[error("{}: cannot take off the last dense layer: {problem}", path.display())]
    Cut {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The weights of a new last layer have another shape than the features.
    #[error("expected {classes} rows of {width} weights, found {found} weights")]
    Head {
        /// Number of biases.
        classes: usize,
        /// Number of features.
        width: usize,
        /// Number of weights.
        found: usize,
    },
}
