//! A graph, loaded and ready to run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::ErrorCode;
use ort::logging::LogLevel;
use ort::session::RunOptions;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::inputs::Inputs;
use super::library;
use super::placement::PlacementLog;
use super::provider::{self, Device, DeviceError, DeviceOptions, Placement, Provider};
use crate::bundle::{Bundle, BundleError, CONFIG};
use crate::golden::GoldenError;
use crate::input::{Preprocessor, Row};

/// Where and how a session runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads of one run, including the one that calls it. Without a number, runs share one pool for the whole process, with
    /// a thread for each CPU: a lone run spreads over all of them, and runs side by side keep out of each other's way.
    pub threads: Option<usize>,
    /// CPU or GPU.
    pub device: DeviceOptions,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            threads: Some(1),
            device: DeviceOptions::default(),
        }
    }
}

/// Why a session could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// The model directory is not what it should be.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The device cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The session does not reproduce the golden samples.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The golden samples could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
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
    /// The memory of the device, or of the process, does not hold the run.
    #[error("the run does not fit into memory: {0}")]
    OutOfMemory(String),
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
    /// One that takes batches of any size, or several of which each takes batches of its own size, the smallest first.
    graphs: Vec<Graph>,
    inputs: Inputs,
    output: usize,
    labels: usize,
    placement: Placement,
}

struct Graph {
    session: ort::session::Session,
    /// Rows of each batch. None: any number.
    rows: Option<usize>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("inputs", &self.inputs)
            .field("labels", &self.labels)
            .field("placement", &self.placement)
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
    fn new(input_bytes: usize, provider: Provider) -> Result<Self, RunError> {
        let failed = |error: ort::Error| RunError::Failed(error.to_string());
        let mut options = RunOptions::new().map_err(failed)?;
        match provider {
            Provider::Cpu if input_bytes >= OUTLIER_BYTES => options
                .set("memory.enable_memory_arena_shrinkage", "cpu:0")
                .map_err(failed)?,
            Provider::Cpu => {}
            // The session's own level was needed for `PlacementLog`. The memory of a full batch stays: on a GPU that is no outlier.
            Provider::Cuda | Provider::Tensorrt => {
                options.set_log_level(LogLevel::Warning).map_err(failed)?
            }
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
    /// Loads the graph of a bundle and checks that its input and output fit the other files, and that it is on the device that
    /// was asked for.
    pub fn load(bundle: &Bundle, options: &SessionOptions) -> Result<Self, LoadError> {
        let device = &options.device;
        let mut reasons = Vec::new();
        for &provider in device.attempts() {
            let sizes = fixed_sizes(provider, bundle, device.max_batch);
            match Self::load_on(provider, bundle, options, &sizes) {
                Err(LoadError::Device(error)) if device.device == Device::Auto => {
                    reasons.push(error.to_string())
                }
                Err(error) => return Err(error),
                Ok(mut session) => {
                    session.placement.fallback = (!reasons.is_empty()).then(|| reasons.join("; "));
                    return Ok(session);
                }
            }
        }
        // Not reached: a CPU is the last of `auto`, and never fails for its device.
        Err(device.error(Provider::Cpu, reasons.join("; ")).into())
    }

    fn load_on(
        provider: Provider,
        bundle: &Bundle,
        options: &SessionOptions,
        sizes: &[Option<usize>],
    ) -> Result<Self, LoadError> {
        provider::require(provider, &options.device)?;
        let log = PlacementLog::default();
        let graphs = sizes
            .iter()
            .map(|&rows| {
                let session = commit(provider, bundle, options, &log)?;
                Ok(Graph { session, rows })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        let first = graphs.first().map(|graph| &graph.session);
        let (given, outputs) = first.map_or((&[][..], &[][..]), |graph| (graph.inputs(), graph.outputs()));
        let inputs = Inputs::new(bundle, given)?;
        let output = find_output(bundle, outputs)?;
        let mut nodes = log.nodes();
        for count in nodes.values_mut() {
            // Of one of them, for they are the same graph.
            *count /= graphs.len().max(1);
        }
        if provider != Provider::Cpu && !nodes.contains_key(provider.name()) {
            let found = if nodes.is_empty() {
                "ONNX Runtime did not say where it placed the graph's nodes".to_owned()
            } else {
                format!("ONNX Runtime placed none of the graph's nodes there, but {nodes:?}")
            };
            return Err(options.device.error(provider, found).into());
        }
        Ok(Self {
            graphs,
            inputs,
            output,
            labels: bundle.labels.len(),
            placement: Placement {
                provider,
                device_id: (provider != Provider::Cpu).then_some(options.device.device_id),
                nodes,
                reduced_precision: match provider {
                    Provider::Cpu => false,
                    Provider::Cuda => options.device.tf32,
                    Provider::Tensorrt => true,
                },
                fallback: None,
            },
        })
    }

    /// Where it runs.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The sizes of batches that it runs, the others being filled up. Empty: every size as it is.
    pub fn batch_sizes(&self) -> Vec<usize> {
        self.graphs.iter().filter_map(|graph| graph.rows).collect()
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
        let mut staged = self.inputs.stage(rows)?;
        let batch = staged.rows;
        let fits = |graph: &Graph| graph.rows.is_none_or(|rows| batch <= rows);
        let at = self.graphs.iter().position(fits).unwrap_or(self.graphs.len() - 1);
        let graph = &mut self.graphs[at];
        if let Some(rows) = graph.rows {
            self.inputs.pad(&mut staged, rows);
        }
        let interrupt = Interrupt::new(staged.bytes, self.placement.provider)?;
        let tensors = self
            .inputs
            .tensors(&staged)
            .map_err(|error| run_error(&error, &interrupt))?;
        started(interrupt.clone());
        let outputs = graph
            .session
            .run_with_options(tensors, &*interrupt.options)
            .map_err(|error| run_error(&error, &interrupt))?;
        let (shape, values) = outputs[self.output]
            .try_extract_tensor::<f32>()
            .map_err(|error| run_error(&error, &interrupt))?;
        if values.len() != staged.rows * self.labels {
            return Err(RunError::OutputShape {
                expected: format!("[{}, {}]", staged.rows, self.labels),
                found: format!("{shape:?}"),
            });
        }
        let values = values[..batch * self.labels].to_vec();
        drop(outputs);
        if staged.bytes >= OUTLIER_BYTES && self.placement.provider == Provider::Cpu {
            self.inputs.release();
        }
        Ok(values)
    }
}

/// The sizes of batches for which a session of its own is made; `[None]`: one for all.
///
/// A convolution through CUDA plans anew whenever its input has another shape than the time before. So each session keeps to one
/// size, and smaller batches are filled up. Others have reported, for ONNX Runtime 1.27, six times the time for twenty runs of two
/// shapes in turn (1.27 s) against the same sorted by shape (0.21 s); here it was not measured, for want of a GPU. Steps of four,
/// because each size costs the memory of the weights, and a GPU has units to spare for small batches.
fn fixed_sizes(provider: Provider, bundle: &Bundle, max_batch: u32) -> Vec<Option<usize>> {
    let is_image = matches!(bundle.preprocessor, Preprocessor::Image(_));
    // One alone, as vision transformers begin with, is planned in no time.
    let plans = || bundle.graph.outline.convolutions > 1;
    if provider != Provider::Cuda || !is_image || !plans() {
        return vec![None];
    }
    let max = max_batch.max(1) as usize;
    let steps = std::iter::successors(Some(1), |size| Some(size * 4)).take_while(|&size| size < max);
    steps.chain([max]).map(Some).collect()
}

/// Makes a session of the runtime.
fn commit(
    provider: Provider,
    bundle: &Bundle,
    options: &SessionOptions,
    log: &PlacementLog,
) -> Result<ort::session::Session, LoadError> {
    match commit_with(provider, bundle, options, log, true) {
        // Where TensorRT takes only parts of a graph, the shapes of their inputs are not ours to know, and it finds its own.
        Err(LoadError::Device(error))
            if provider == Provider::Tensorrt
                && ["optimization profile", "associated profiles"]
                    .iter()
                    .any(|part| error.reason.contains(part)) =>
        {
            tracing::warn!(%error, "TensorRT builds its engines for the shapes that it meets");
            commit_with(provider, bundle, options, log, false)
        }
        result => result,
    }
}

fn commit_with(
    provider: Provider,
    bundle: &Bundle,
    options: &SessionOptions,
    log: &PlacementLog,
    profile: bool,
) -> Result<ort::session::Session, LoadError> {
    let model = bundle.model();
    let wrong =
        |expected: &str, found: String| LoadError::from(BundleError::new(&model, None, expected, found));
    let device = &options.device;
    let Some(environment) = library::environment() else {
        return Err(wrong("ONNX Runtime to be loaded first", "it is not".into()));
    };
    let builder = ort::session::Session::builder(environment)
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
        .and_then(|builder| {
            let mut files = bundle.graph.external.iter();
            files.try_fold(builder, |builder, (name, bytes)| {
                Ok(builder.with_external_initializer_file_in_memory(name, Arc::clone(bytes))?)
            })
        })
        .map_err(|error| wrong("a session to be built", error.to_string()))?;
    if provider == Provider::Cpu {
        let mut builder = builder;
        return builder
            .commit_from_memory(&bundle.graph.model)
            .map_err(|error| wrong(LOADABLE, error.to_string()));
    }
    let providers = provider::execution_providers(provider, bundle, device, profile)?;
    let unusable = |error: ort::Error| device.error(provider, provider::explain(&error.to_string()));
    let mut builder = Ok(builder)
        .and_then(|builder| {
            Ok(builder
                .with_logger(log.logger())?
                .with_log_level(LogLevel::Verbose)?)
        })
        .and_then(|builder| Ok(builder.with_execution_providers(providers)?))
        .map_err(unusable)?;
    builder
        .commit_from_memory(&bundle.graph.model)
        .map_err(|error| match error.code() {
            ErrorCode::InvalidProtobuf
            | ErrorCode::InvalidGraph
            | ErrorCode::NoSuchFile
            | ErrorCode::NoModel => wrong(LOADABLE, error.to_string()),
            _ => unusable(error).into(),
        })
}

/// What the file must be.
const LOADABLE: &str = "an ONNX graph that ONNX Runtime can load";

fn run_error(error: &ort::Error, interrupt: &Interrupt) -> RunError {
    // An interrupted run comes back as a generic failure; only our own flag tells it from a real one.
    if interrupt.requested.load(Ordering::Acquire) {
        return RunError::Interrupted;
    }
    let message = error.to_string();
    match error.code() {
        _ if provider::is_out_of_memory(&message) => RunError::OutOfMemory(message),
        ErrorCode::InvalidArgument => RunError::InvalidInput(message),
        _ => RunError::Failed(message),
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn digits() -> Bundle {
        library::load(None).unwrap();
        Bundle::open(Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../models/digits/1"
        )))
        .unwrap()
    }

    fn rows(bundle: &Bundle) -> Vec<Row> {
        let pictures = ["3_30", "7_0", "1_2", "8_61", "0_3", "4_4", "2_1"];
        let read = |name| {
            let path = bundle.directory.join(format!("golden/{name}.png"));
            let bytes = std::fs::read(path).unwrap();
            bundle
                .preprocessor
                .prepare(&bytes, &crate::Limits::default())
                .unwrap()
                .row
        };
        pictures.map(read).into()
    }

    #[test]
    fn sessions_of_fixed_sizes_give_the_same_scores() {
        let bundle = digits();
        let options = SessionOptions::default();
        let mut any = Session::load(&bundle, &options).unwrap();
        assert!(any.batch_sizes().is_empty());
        let sizes = [Some(1), Some(4)];
        let mut fixed = Session::load_on(Provider::Cpu, &bundle, &options, &sizes).unwrap();
        assert_eq!(fixed.batch_sizes(), [1, 4]);
        let rows = rows(&bundle);
        // The last does not fit into any of them, and runs as it is.
        for count in [1, 2, 3, 4, 7] {
            let scores = |session: &mut Session| session.run(rows[..count].iter(), |_| {}).unwrap();
            let (expected, found) = (scores(&mut any), scores(&mut fixed));
            assert_eq!(found.len(), count * 10);
            for (expected, found) in expected.iter().zip(found) {
                assert!(
                    (expected - found).abs() < 1e-4,
                    "{count} rows: {expected} {found}"
                );
            }
        }
    }

    /// The session's log is verbose so that `PlacementLog` can read it, which must not cost anything in a run.
    #[test]
    fn a_run_on_a_gpu_writes_no_log() {
        let bundle = digits();
        let lines = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&lines);
        let logger = Arc::new(move |_: LogLevel, _: &str, _: &str, _: &str, _: &str| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let mut session = Session::load(&bundle, &SessionOptions::default()).unwrap();
        let builder = ort::session::Session::builder(library::environment().unwrap()).unwrap();
        let builder = builder
            .with_logger(logger)
            .unwrap()
            .with_log_level(LogLevel::Verbose)
            .unwrap();
        session.graphs[0].session = { builder }.commit_from_file(bundle.model()).unwrap();
        let while_loading = lines.load(Ordering::SeqCst);
        assert!(while_loading > 0);
        session.placement.provider = Provider::Cuda;
        session.run(rows(&bundle).iter(), |_| {}).unwrap();
        assert_eq!(lines.load(Ordering::SeqCst), while_loading);
    }

    #[test]
    fn only_convolutions_through_cuda_get_fixed_sizes() {
        let bundle = digits();
        let sizes = |provider, max_batch| fixed_sizes(provider, &bundle, max_batch);
        assert_eq!(sizes(Provider::Cpu, 32), [None]);
        assert_eq!(sizes(Provider::Tensorrt, 32), [None]);
        assert_eq!(sizes(Provider::Cuda, 1), [Some(1)]);
        assert_eq!(sizes(Provider::Cuda, 128), [1, 4, 16, 64, 128].map(Some));
    }

    #[test]
    fn a_library_without_the_provider_refuses_with_the_reason_and_auto_falls_back() {
        let bundle = digits();
        let load = |device| {
            let device = DeviceOptions {
                device,
                ..DeviceOptions::default()
            };
            Session::load(
                &bundle,
                &SessionOptions {
                    threads: Some(1),
                    device,
                },
            )
        };
        for (device, title) in [(Device::Cuda, "CUDA"), (Device::Tensorrt, "TensorRT")] {
            let error = load(device).unwrap_err().to_string();
            for part in [
                title,
                "GPU 0 cannot be used",
                "is built without",
                "make setup-gpu",
            ] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        let session = load(Device::Auto).unwrap();
        let placement = session.placement();
        assert_eq!(placement.provider, Provider::Cpu);
        assert_eq!(placement.device_id, None);
        let reason = placement.fallback.as_deref().unwrap();
        assert!(reason.contains("is built without CUDA"), "{reason}");
        assert_eq!(load(Device::Cpu).unwrap().placement().fallback, None);
    }
}
