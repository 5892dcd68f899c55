//! A graph, loaded and ready to run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::RunOptions;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::library;
use crate::bundle::{Bundle, BundleError, CONFIG};

/// Where and how a session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads of one run, including the one that calls it. Without a number, runs share one pool for the whole process, with
    /// a thread for each CPU: a lone run spreads over all of them, and runs side by side keep out of each other's way.
    pub threads: Option<usize>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { threads: Some(1) }
    }
}

/// Why a run gave no scores.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// [`Interrupt::interrupt`] was called.
    #[error("the run was interrupted")]
    Interrupted,
    /// The batch has no rows.
    #[error("expected at least one row, found none")]
    Empty,
    /// A row is not as long as the graph's input wants.
    #[error("expected rows of {expected} numbers, found one of {found}")]
    RowLength {
        /// Numbers in a row of the graph's input.
        expected: usize,
        /// Numbers in the row that was given.
        found: usize,
    },
    /// The runtime says that the input is at fault.
    #[error("ONNX Runtime refused the input: {0}")]
    InvalidInput(String),
    /// The runtime failed.
    #[error("ONNX Runtime failed: {0}")]
    Failed(String),
    /// The graph gave something else than one row of outputs for each row of inputs.
    #[error("expected outputs of shape {expected}, found {found}")]
    OutputShape {
        /// In words.
        expected: String,
        /// In words.
        found: String,
    },
    /// The graph gave a value that is not a number, or an infinite one.
    #[error("the model gave {value} for output {output}, which is no finite number")]
    NonFinite {
        /// Position of the label.
        output: usize,
        /// The value.
        value: f32,
    },
}

/// A loaded graph: one input, one output that is read.
pub struct Session {
    graph: ort::session::Session,
    /// Axes of one row of the input.
    row_shape: [usize; 3],
    row_length: usize,
    output: usize,
    labels: usize,
    /// Rows of a batch side by side, kept so that a batch costs no allocation.
    staging: Vec<f32>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("row_shape", &self.row_shape)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// Ends one run from another thread. A call after that run has ended does nothing.
#[derive(Clone)]
pub struct Interrupt {
    options: Arc<RunOptions>,
    requested: Arc<AtomicBool>,
}

/// A run with at least so many bytes of input gives its memory back afterwards: the runtime's arena would keep the memory of
/// one huge batch for ever, while freeing it costs little beside a run of that size.
pub const OUTLIER_BYTES: usize = 4 << 20;

impl Interrupt {
    /// For a run with so many bytes of input.
    fn new(input_bytes: usize) -> Result<Self, RunError> {
        let failed = |error: ort::Error| RunError::Failed(error.to_string());
        let mut options = RunOptions::new().map_err(failed)?;
        if input_bytes >= OUTLIER_BYTES {
            options
                .set("memory.enable_memory_arena_shrinkage", "cpu:0")
                .map_err(failed)?;
        }
        Ok(Self {
            options: Arc::new(options),
            requested: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Makes the run end as soon as the node that it is at has finished.
    pub fn interrupt(&self) {
        self.requested.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a run could not be interrupted");
        }
    }
}

impl Session {
    /// Loads the graph of a bundle and checks that its input and output fit the other files.
    pub fn load(bundle: &Bundle, options: &SessionOptions) -> Result<Self, BundleError> {
        let model = bundle.model();
        let wrong = |expected: &str, found: String| BundleError::new(&model, None, expected, found);
        let Some(environment) = library::environment() else {
            return Err(wrong("ONNX Runtime to be loaded first", "it is not".into()));
        };
        let mut builder = ort::session::Session::builder(environment)
            .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::All)?))
            .and_then(|builder| match options.threads {
                None => Ok(builder),
                Some(threads) => Ok(builder
                    .with_independent_thread_pool()?
                    .with_intra_threads(threads)?
                    // A pool that spins between runs burns a core on an idle server.
                    .with_intra_op_spinning(false)?
                    .with_inter_op_spinning(false)?),
            })
            .map_err(|error| wrong("a session to be built", error.to_string()))?;
        let session = builder
            .commit_from_file(&model)
            .map_err(|error| wrong("an ONNX graph that ONNX Runtime can load", error.to_string()))?;
        let row_shape = bundle.preprocessor.shape();
        check_input(bundle, session.inputs(), row_shape)?;
        let output = find_output(bundle, session.outputs())?;
        Ok(Self {
            graph: session,
            row_shape,
            row_length: row_shape.iter().product(),
            output,
            labels: bundle.labels.len(),
            staging: Vec::new(),
        })
    }

    /// Runs a batch of rows and gives the outputs, one row of labels after the other.
    ///
    /// `started` is called right before the run with the means to interrupt it.
    pub fn run<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a [f32]>,
        started: impl FnOnce(Interrupt),
    ) -> Result<Vec<f32>, RunError> {
        self.staging.clear();
        let mut batch = 0;
        for row in rows {
            if row.len() != self.row_length {
                return Err(RunError::RowLength {
                    expected: self.row_length,
                    found: row.len(),
                });
            }
            self.staging.extend_from_slice(row);
            batch += 1;
        }
        if batch == 0 {
            return Err(RunError::Empty);
        }
        let input_bytes = size_of_val(self.staging.as_slice());
        let interrupt = Interrupt::new(input_bytes)?;
        let [a, b, c] = self.row_shape;
        let tensor = TensorRef::from_array_view(([batch, a, b, c], self.staging.as_slice()))
            .map_err(|error| run_error(&error, &interrupt))?;
        started(interrupt.clone());
        let outputs = self
            .graph
            .run_with_options(ort::inputs![tensor], &*interrupt.options)
            .map_err(|error| run_error(&error, &interrupt))?;
        let (shape, values) = outputs[self.output]
            .try_extract_tensor::<f32>()
            .map_err(|error| run_error(&error, &interrupt))?;
        if values.len() != batch * self.labels {
            return Err(RunError::OutputShape {
                expected: format!("[{batch}, {}]", self.labels),
                found: format!("{shape:?}"),
            });
        }
        let values = values.to_vec();
        drop(outputs);
        if input_bytes >= OUTLIER_BYTES {
            self.staging = Vec::new();
        }
        Ok(values)
    }
}

fn run_error(error: &ort::Error, interrupt: &Interrupt) -> RunError {
    // An interrupted run comes back as a generic failure; only our own flag tells it from a real one.
    if interrupt.requested.load(Ordering::Acquire) {
        return RunError::Interrupted;
    }
    match error.code() {
        ort::ErrorCode::InvalidArgument => RunError::InvalidInput(error.to_string()),
        _ => RunError::Failed(error.to_string()),
    }
}

/// One input of 32-bit floats, a batch axis of any size, and the row that the preprocessor makes.
fn check_input(bundle: &Bundle, inputs: &[Outlet], row_shape: [usize; 3]) -> Result<(), BundleError> {
    let model = bundle.model();
    let [input] = inputs else {
        let names: Vec<&str> = inputs.iter().map(Outlet::name).collect();
        return Err(BundleError::new(
            model,
            None,
            "one input, for an image classifier",
            format!("{}: {}", inputs.len(), names.join(", ")),
        ));
    };
    let [a, b, c] = row_shape;
    let expected = format!("float32 [batch, {a}, {b}, {c}], as preprocessor_config.json and the layout say");
    let fits = match input.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            *ty == TensorElementType::Float32
                && shape.len() == 4
                && shape[0] == -1
                && shape[1..]
                    .iter()
                    .zip(row_shape)
                    .all(|(&found, expected)| found == -1 || found == expected as i64)
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(BundleError::new(
        model,
        format!("input {}", input.name()),
        expected,
        input.dtype(),
    ))
}

/// The output to read: the one that `serving.toml` names, else the first. One value for each label.
fn find_output(bundle: &Bundle, outputs: &[Outlet]) -> Result<usize, BundleError> {
    let model = bundle.model();
    let names = || outputs.iter().map(Outlet::name).collect::<Vec<_>>().join(", ");
    let at = match &bundle.serving.output {
        Some(name) => outputs
            .iter()
            .position(|output| output.name() == name)
            .ok_or_else(|| {
                BundleError::new(
                    bundle.directory.join(crate::bundle::SERVING),
                    "output".to_owned(),
                    format!("an output of the graph ({})", names()),
                    format!("{name:?}"),
                )
            })?,
        None if outputs.is_empty() => return Err(BundleError::new(model, None, "an output", "none")),
        None => 0,
    };
    let output = &outputs[at];
    let labels = bundle.labels.len();
    let wrong = |expected: String| {
        Err(BundleError::new(
            &model,
            format!("output {}", output.name()),
            expected,
            output.dtype(),
        ))
    };
    match output.dtype() {
        ValueType::Tensor { ty, shape, .. } if *ty == TensorElementType::Float32 && shape.len() == 2 => {
            if shape[1] != -1 && shape[1] != labels as i64 {
                return wrong(format!("[batch, {labels}], for {CONFIG} has {labels} labels"));
            }
            Ok(at)
        }
        _ => wrong(format!("float32 [batch, {labels}]")),
    }
}
