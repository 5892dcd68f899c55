//! A graph, loaded and ready to run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::RunOptions;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::inputs::Inputs;
use super::library;
use crate::bundle::{Bundle, BundleError, CONFIG};
use crate::input::Row;

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

/// A loaded graph: the inputs of an image or a text classifier, one output that is read.
pub struct Session {
    graph: ort::session::Session,
    inputs: Inputs,
    output: usize,
    labels: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("inputs", &self.inputs)
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
        let inputs = Inputs::new(bundle, session.inputs())?;
        let output = find_output(bundle, session.outputs())?;
        Ok(Self {
            graph: session,
            inputs,
            output,
            labels: bundle.labels.len(),
        })
    }

    /// Runs a batch of rows and gives the outputs, one row of labels after the other. Texts are padded to the bucket of the
    /// longest of them.
    ///
    /// `started` is called right before the run with the means to interrupt it.
    pub fn run<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Row>,
        started: impl FnOnce(Interrupt),
    ) -> Result<Vec<f32>, RunError> {
        let staged = self.inputs.stage(rows)?;
        let batch = staged.rows;
        let interrupt = Interrupt::new(staged.bytes)?;
        let tensors = self
            .inputs
            .tensors(&staged)
            .map_err(|error| run_error(&error, &interrupt))?;
        started(interrupt.clone());
        let outputs = self
            .graph
            .run_with_options(tensors, &*interrupt.options)
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
        if staged.bytes >= OUTLIER_BYTES {
            self.inputs.release();
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
