//! Makes sessions: picks the provider, hands the graph to ONNX Runtime and checks that it fits the
//! bundle.

use std::sync::Arc;

use ort::ErrorCode;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::{Graph, Session, SessionOptions};
use crate::bundle::{Bundle, CONFIG, SERVING};
use crate::device::{Device, DeviceOptions, Placement, Provider};
use crate::error::{BundleError, LoadError};
use crate::input::Preprocessor;
use crate::runtime::inputs::Inputs;
use crate::runtime::placement::PlacementLog;
use crate::runtime::{gpu, library};

impl Session {
    /// Loads the graph of a bundle.
    ///
    /// ONNX Runtime must have been loaded, see [`library::load`].
    ///
    /// # Errors
    ///
    /// Fails if the graph cannot be loaded, if its inputs or the output do not fit the other files
    /// of the bundle, or if the device cannot be used. With [`Device::Auto`] the CPU is used in the
    /// last case, and [`Placement::fallback`] says why.
    pub fn load(bundle: &Bundle, options: &SessionOptions) -> Result<Self, LoadError> {
        let device = &options.device;
        let mut fallback = Vec::new();
        for &provider in device.attempts() {
            let sizes = fixed_sizes(provider, bundle, device.max_batch);
            match Self::load_on(provider, bundle, options, &sizes) {
                Err(LoadError::Device(error)) if device.device == Device::Auto => fallback.push(error),
                Err(error) => return Err(error),
                Ok(mut session) => {
                    session.placement.fallback = fallback;
                    return Ok(session);
                }
            }
        }
        // Not reached: the CPU is the last attempt, and never fails with a device error.
        let reasons: Vec<String> = fallback.iter().map(ToString::to_string).collect();
        Err(device.error(Provider::Cpu, reasons.join("; "), None).into())
    }

    pub(super) fn load_on(
        provider: Provider,
        bundle: &Bundle,
        options: &SessionOptions,
        sizes: &[Option<usize>],
    ) -> Result<Self, LoadError> {
        gpu::require(provider, &options.device)?;
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
        let placement = placement(provider, &options.device, &log, graphs.len())?;
        Ok(Self {
            graphs,
            inputs,
            output,
            labels: bundle.labels.len(),
            placement,
        })
    }
}

/// Where `graphs` sessions of the same graph were placed. Fails if no node is on the provider.
fn placement(
    provider: Provider,
    device: &DeviceOptions,
    log: &PlacementLog,
    graphs: usize,
) -> Result<Placement, LoadError> {
    let mut nodes = log.nodes();
    for count in nodes.values_mut() {
        *count /= graphs.max(1);
    }
    if provider != Provider::Cpu && !nodes.contains_key(provider.name()) {
        let found = if nodes.is_empty() {
            "ONNX Runtime did not report where it placed the graph's nodes".to_owned()
        } else {
            format!("ONNX Runtime placed none of the graph's nodes there, but {nodes:?}")
        };
        return Err(device.error(provider, found, None).into());
    }
    Ok(Placement {
        provider,
        device_id: (provider != Provider::Cpu).then_some(device.device_id),
        nodes,
        reduced_precision: match provider {
            Provider::Cpu => false,
            Provider::Cuda => device.tf32,
            Provider::Tensorrt => true,
        },
        fallback: Vec::new(),
    })
}

/// The batch sizes that get a session each. `[None]`: one session for every size.
///
/// A convolution through CUDA is planned anew whenever the shape of its input changes. So each
/// session keeps to one size, and smaller batches are filled up. For ONNX Runtime 1.27, others
/// report 1.27 s for twenty runs that alternate between two shapes, and 0.21 s for the same runs
/// sorted by shape; this was not measured here. Sizes grow by factors of four, because each one
/// costs the memory of the weights, and a GPU has units to spare for small batches.
pub(super) fn fixed_sizes(provider: Provider, bundle: &Bundle, max_batch: u32) -> Vec<Option<usize>> {
    let is_image = matches!(bundle.preprocessor, Preprocessor::Image(_));
    // A single convolution, as at the start of a vision transformer, is planned in no time.
    let is_planned = bundle.graph.outline.convolutions > 1;
    if provider != Provider::Cuda || !is_image || !is_planned {
        return vec![None];
    }
    let max = max_batch.max(1) as usize;
    let steps = std::iter::successors(Some(1), |size| Some(size * 4)).take_while(|&size| size < max);
    steps.chain([max]).map(Some).collect()
}

/// Makes a session of ONNX Runtime.
fn commit(
    provider: Provider,
    bundle: &Bundle,
    options: &SessionOptions,
    log: &PlacementLog,
) -> Result<ort::session::Session, LoadError> {
    match commit_with(provider, bundle, options, log, true) {
        // If TensorRT takes only parts of a graph, the shapes of their inputs are unknown here, and
        // it has to find its own.
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

/// `profile`: whether TensorRT is told the shapes of the inputs.
fn commit_with(
    provider: Provider,
    bundle: &Bundle,
    options: &SessionOptions,
    log: &PlacementLog,
    profile: bool,
) -> Result<ort::session::Session, LoadError> {
    let unloadable = |error: ort::Error| {
        let expected = "an ONNX graph that ONNX Runtime can load";
        LoadError::from(BundleError::new(bundle.model(), None, expected, error))
    };
    let mut builder = builder(bundle, options)?;
    if provider == Provider::Cpu {
        return builder
            .commit_from_memory(&bundle.graph.model)
            .map_err(unloadable);
    }
    let device = &options.device;
    let providers = gpu::execution_providers(provider, bundle, device, profile)?;
    let unusable = |error: ort::Error| gpu::explain(provider, device, &error.to_string());
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
            | ErrorCode::NoModel => unloadable(error),
            _ => unusable(error).into(),
        })
}

/// A session's builder with its threads and the weights beside the graph.
fn builder(bundle: &Bundle, options: &SessionOptions) -> Result<SessionBuilder, BundleError> {
    let wrong = |expected: &str, found: String| BundleError::new(bundle.model(), None, expected, found);
    let Some(environment) = library::environment() else {
        return Err(wrong("ONNX Runtime to be loaded first", "it is not".into()));
    };
    ort::session::Session::builder(environment)
        .and_then(|builder| Ok(builder.with_optimization_level(GraphOptimizationLevel::All)?))
        .and_then(|builder| match options.threads {
            None => Ok(builder),
            Some(threads) => Ok(builder
                .with_independent_thread_pool()?
                .with_intra_threads(threads)?
                // A pool that spins between runs burns a core on an idle machine.
                .with_intra_op_spinning(false)?
                .with_inter_op_spinning(false)?),
        })
        .and_then(|builder| {
            let mut files = bundle.graph.external.iter();
            files.try_fold(builder, |builder, (name, bytes)| {
                Ok(builder.with_external_initializer_file_in_memory(name, Arc::clone(bytes))?)
            })
        })
        .map_err(|error| wrong("a session to be built", error.to_string()))
}

/// Position of the output to read: the one that `serving.toml` names, else the first. It must have
/// one value per label.
fn find_output(bundle: &Bundle, outputs: &[Outlet]) -> Result<usize, BundleError> {
    let model = bundle.model();
    let names = || outputs.iter().map(Outlet::name).collect::<Vec<_>>().join(", ");
    let at = match &bundle.serving.output {
        Some(name) => outputs
            .iter()
            .position(|output| output.name() == name)
            .ok_or_else(|| {
                BundleError::new(
                    bundle.directory.join(SERVING),
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
                return wrong(format!("[batch, {labels}] for the {labels} labels of {CONFIG}"));
            }
            Ok(at)
        }
        _ => wrong(format!("float32 [batch, {labels}]")),
    }
}
