//! Where a graph runs: on the CPU, or through CUDA or TensorRT on a GPU.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{gpu_libraries, library};
use crate::bundle::{Bundle, GraphFiles};
use crate::input::Preprocessor;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU through CUDA, or nothing.
    Cuda,
    /// A GPU through TensorRT, with CUDA for the nodes that TensorRT does not take, or nothing.
    Tensorrt,
    /// The first of TensorRT, CUDA and CPU that can be had.
    Auto,
}

impl Device {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Cpu, "cpu"),
        (Self::Cuda, "cuda"),
        (Self::Tensorrt, "tensorrt"),
        (Self::Auto, "auto"),
    ];
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(_, name)| *name == text);
        known
            .map(|(device, _)| *device)
            .ok_or_else(|| format!("expected cpu, cuda, tensorrt or auto, found {text:?}"))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::NAMES.iter().find(|(device, _)| device == self);
        f.write_str(known.map_or("", |(_, name)| name))
    }
}

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The CPU.
    Cpu,
    /// CUDA.
    Cuda,
    /// TensorRT.
    Tensorrt,
}

impl Provider {
    /// As it stands in metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }

    /// As ONNX Runtime calls it.
    pub(super) fn runtime_name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => CUDA::NAME,
            Self::Tensorrt => TensorRT::NAME,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Cpu => "the CPU",
            Self::Cuda => "CUDA",
            Self::Tensorrt => "TensorRT",
        }
    }
}

/// Which device a graph is to run on, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Which kind.
    pub device: Device,
    /// Which GPU, as CUDA counts them.
    pub device_id: u32,
    /// TensorRT: whether layers may run in 16-bit floats.
    pub fp16: bool,
    /// CUDA: whether products of matrices and convolutions may round their inputs to 10 bits of mantissa.
    pub tf32: bool,
    /// Most bytes of GPU memory that a session takes into its arena, and that TensorRT uses as scratch.
    pub memory_limit: Option<u64>,
    /// Folder that keeps TensorRT's engines and timings.
    pub tensorrt_cache: Option<PathBuf>,
    /// Folder of the CUDA, cuDNN and TensorRT libraries; where it lacks one, the system is asked.
    pub libraries: Option<PathBuf>,
    /// Most rows that a run will have. TensorRT builds its engines for that; convolutions through CUDA get sessions of fixed sizes.
    pub max_batch: u32,
}

impl DeviceOptions {
    /// What to try, one after the other.
    pub(super) fn attempts(&self) -> &'static [Provider] {
        match self.device {
            Device::Cpu => &[Provider::Cpu],
            Device::Cuda => &[Provider::Cuda],
            Device::Tensorrt => &[Provider::Tensorrt],
            // Without a cache, each start would build engines for minutes, which nobody asked for.
            Device::Auto if self.tensorrt_cache.is_none() => &[Provider::Cuda, Provider::Cpu],
            Device::Auto => &[Provider::Tensorrt, Provider::Cuda, Provider::Cpu],
        }
    }

    /// The same, with what was found out in place of `auto`.
    #[must_use]
    pub fn decided(&self, provider: Provider) -> Self {
        Self {
            device: match provider {
                Provider::Cpu => Device::Cpu,
                Provider::Cuda => Device::Cuda,
                Provider::Tensorrt => Device::Tensorrt,
            },
            ..self.clone()
        }
    }

    pub(super) fn error(&self, provider: Provider, reason: impl Into<String>) -> DeviceError {
        DeviceError {
            provider,
            device_id: self.device_id,
            reason: reason.into(),
        }
    }
}

/// A device that cannot be had, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} on GPU {device_id} cannot be used: {reason}", provider.title())]
pub struct DeviceError {
    /// What was tried.
    pub provider: Provider,
    /// Which GPU.
    pub device_id: u32,
    /// What is wrong, and what to do about it.
    pub reason: String,
}

/// Where a session runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// On what.
    pub provider: Provider,
    /// Which GPU. None on the CPU.
    pub device_id: Option<u32>,
    /// How many nodes of the optimised graph run where. Empty on the CPU, where it is no question.
    pub nodes: BTreeMap<String, usize>,
    /// Whether it runs in less precision than it was exported in: as was asked for, or because TensorRT always may.
    pub reduced_precision: bool,
    /// With [`Device::Auto`]: why not on what would have been better.
    pub fallback: Option<String>,
}

impl Placement {
    /// On the CPU, as was asked for.
    pub fn cpu() -> Self {
        Self {
            provider: Provider::Cpu,
            device_id: None,
            nodes: BTreeMap::new(),
            reduced_precision: false,
            fallback: None,
        }
    }
}

/// Refuses a provider that the library does not have, or whose own libraries are missing, and loads those.
pub(super) fn require(provider: Provider, options: &DeviceOptions) -> Result<(), DeviceError> {
    let compiled_in = match provider {
        Provider::Cpu => return Ok(()),
        Provider::Cuda => CUDA::is_available(),
        Provider::Tensorrt => TensorRT::is_available(),
    };
    if !compiled_in.unwrap_or(false) {
        let place = library::place().unwrap_or("the loaded library");
        let reason = format!(
            "ONNX Runtime at {place} is built without {}; `make setup-gpu` fetches one that has it, and --onnxruntime names its file",
            provider.title()
        );
        return Err(options.error(provider, reason));
    }
    gpu_libraries::preload(options.libraries.as_deref(), library::folder(), provider)
        .map_err(|missing| options.error(provider, missing))
}

/// What a session of this provider registers, the best first. `profile`: whether to tell TensorRT the shapes of the inputs.
pub(super) fn execution_providers(
    provider: Provider,
    bundle: &Bundle,
    options: &DeviceOptions,
    profile: bool,
) -> Result<Vec<ExecutionProviderDispatch>, DeviceError> {
    Ok(match provider {
        Provider::Cpu => Vec::new(),
        Provider::Cuda => vec![cuda(options)],
        Provider::Tensorrt => vec![tensorrt(bundle, options, profile)?, cuda(options)],
    })
}

fn cuda(options: &DeviceOptions) -> ExecutionProviderDispatch {
    let mut provider = CUDA::default()
        .with_device_id(options.device_id as i32)
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // The exhaustive search times every algorithm for every new batch size.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        // On, where nothing is said.
        .with_tf32(options.tf32);
    if let Some(limit) = options.memory_limit {
        provider = provider.with_memory_limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    // Without this the CPU is used in silence.
    provider.build().error_on_failure()
}

fn tensorrt(
    bundle: &Bundle,
    options: &DeviceOptions,
    profile: bool,
) -> Result<ExecutionProviderDispatch, DeviceError> {
    let failed = |what: &str, error: io::Error| options.error(Provider::Tensorrt, format!("{what}: {error}"));
    let mut provider = TensorRT::default()
        .with_device_id(options.device_id as i32)
        .with_fp16(options.fp16)
        .with_layer_norm_fp32_fallback(options.fp16);
    if let Some(limit) = options.memory_limit {
        provider = provider.with_max_workspace_size(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if profile {
        let names = &bundle.graph.outline.inputs;
        let shapes = |of: fn(&Range) -> usize| profile_shapes(bundle, names, options.max_batch, of);
        provider = provider
            .with_profile_min_shapes(shapes(|range| range.min))
            .with_profile_opt_shapes(shapes(|range| range.typical))
            .with_profile_max_shapes(shapes(|range| range.max));
    }
    if let Some(cache) = &options.tensorrt_cache {
        let folder = cache_folder(cache, bundle).map_err(|error| failed("tensorrt_cache", error))?;
        fs::create_dir_all(&folder).map_err(|error| failed(&folder.display().to_string(), error))?;
        let folder = folder.display();
        provider = provider
            .with_engine_cache(true)
            .with_engine_cache_path(&folder)
            .with_timing_cache(true)
            .with_timing_cache_path(&folder);
    }
    Ok(provider.build().error_on_failure())
}

/// Sizes of one axis.
struct Range {
    min: usize,
    typical: usize,
    max: usize,
}

/// One end of the shapes that the inputs can have, as TensorRT's provider reads it: `name:1x3x224x224,other:...`. Under load
/// batches are full, so that is what engines are tuned for.
fn profile_shapes(bundle: &Bundle, names: &[String], max_batch: u32, of: fn(&Range) -> usize) -> String {
    let max = max_batch.max(1) as usize;
    let rows = of(&Range {
        min: 1,
        typical: max,
        max,
    });
    let row = match &bundle.preprocessor {
        Preprocessor::Image(preprocessor) => preprocessor.shape().map(|axis| axis.to_string()).join("x"),
        Preprocessor::Text(tokenizer) => {
            let buckets = tokenizer.buckets();
            let longest = tokenizer.max_length();
            let lengths = Range {
                min: buckets.first().copied().unwrap_or(longest),
                typical: buckets.get(buckets.len() / 2).copied().unwrap_or(longest),
                max: longest,
            };
            of(&lengths).to_string()
        }
    };
    let shapes: Vec<String> = names.iter().map(|name| format!("{name}:{rows}x{row}")).collect();
    shapes.join(",")
}

/// Where the engines of a bundle are kept: an engine belongs to the weights, the versions of ONNX Runtime and TensorRT, and the
/// GPU. What else it belongs to (precision, compute capability, the ranges of its shapes) ONNX Runtime puts into the files' names
/// and beside them.
fn cache_folder(cache: &Path, bundle: &Bundle) -> io::Result<PathBuf> {
    let hash = weights_hash(&bundle.graph);
    let tensorrt = gpu_libraries::loaded_version("libnvinfer.so");
    let gpus = gpu_names(Path::new("/proc/driver/nvidia/gpus"));
    let versions = format!(
        "onnxruntime-{}_tensorrt-{}_{}",
        library::version(),
        tensorrt.as_deref().unwrap_or("unknown"),
        if gpus.is_empty() { "unknown-gpu" } else { &gpus }
    );
    // Relative paths are relative to the model for TensorRT's provider.
    std::path::absolute(cache.join(hash).join(versions))
}

/// A hash of the graph and its weights.
fn weights_hash(graph: &GraphFiles) -> String {
    let mut hash = Sha256::new();
    hash.update(&graph.model);
    for (_, bytes) in &graph.external {
        hash.update(bytes);
    }
    hex::encode(&hash.finalize()[..8])
}

/// The names of the GPUs of this machine, as NVIDIA's kernel driver lists them, as a part of a file's name.
fn gpu_names(folder: &Path) -> String {
    let name = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        let words = line.split(|char: char| !char.is_ascii_alphanumeric());
        Some(
            words
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>()
                .join("-"),
        )
    };
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("information")).ok())
        .filter_map(name)
        .collect();
    names.sort();
    names.dedup();
    names.join("+")
}

/// What the runtime said when it could not make a session, and what to do about it, where that is known.
pub(super) fn explain(message: &str) -> String {
    let cure = CURES
        .iter()
        .find(|(sign, _)| message.contains(sign))
        .map(|(_, cure)| *cure);
    let cure = cure.or(is_out_of_memory(message).then_some(TOO_LARGE));
    // The name of the machine is nothing for clients, who can read this in /v1/models.
    let parts = message
        .trim()
        .split(" ; ")
        .filter(|part| !part.starts_with("hostname="));
    let message = parts.collect::<Vec<_>>().join("; ");
    match cure {
        Some(cure) => format!("{cure} (ONNX Runtime: {message})"),
        None => format!("ONNX Runtime: {message}"),
    }
}

/// Parts of messages of CUDA and ONNX Runtime, with what they mean.
const CURES: &[(&str, &str)] = &[
    (
        "CUDA failure 35",
        "the NVIDIA driver is missing or too old for CUDA 13; it needs version 580 or newer, see `nvidia-smi`",
    ),
    (
        "CUDA failure 100:",
        "there is no GPU that this process may use; see `nvidia-smi`, CUDA_VISIBLE_DEVICES, and in a container --gpus",
    ),
    (
        "must be between 0 (inclusive)",
        "there is no GPU of this number; device_id counts from 0, see `nvidia-smi -L` and CUDA_VISIBLE_DEVICES",
    ),
    (
        "CUDA failure 101",
        "there is no GPU of this number; device_id counts from 0, see `nvidia-smi -L` and CUDA_VISIBLE_DEVICES",
    ),
    (
        "CUDA failure 209",
        "this build of ONNX Runtime has no code for this kind of GPU",
    ),
    (
        "CUDA failure 802",
        "the driver is not ready yet; on machines with NVSwitch its fabric manager must run",
    ),
    (
        "CUDA failure 803",
        "the driver's kernel module and its libraries are of different versions; reboot, or load the module anew",
    ),
    (
        "CUDA failure 804",
        "the driver is too old for CUDA 13, and this GPU cannot use newer libraries with it",
    ),
    ("CUDA failure 999", "the driver failed; `dmesg` may say why"),
    (
        "libonnxruntime_providers_shared.so",
        "the provider libraries must lie beside the ONNX Runtime library, as `make setup-gpu` puts them",
    ),
    (
        "cannot open shared object file",
        "a library is missing; `make setup-gpu` fetches CUDA 13 and cuDNN 9, and gpu_libraries names their folder",
    ),
];

const TOO_LARGE: &str = "the GPU's memory does not hold the model; free it, raise gpu_memory_limit, or use fewer lanes or a smaller max_batch";

/// Whether a message of the runtime says that memory has run out, of the device or of the process.
pub(super) fn is_out_of_memory(message: &str) -> bool {
    const SIGNS: [&str; 9] = [
        "failed to allocate memory",
        "is smaller than requested bytes",
        "out of memory",
        "outofmemory",
        "cuda failure 2:",
        "cudnn_status_alloc_failed",
        "cublas_status_alloc_failed",
        "std::bad_alloc",
        "bad allocation",
    ];
    let message = message.to_ascii_lowercase();
    SIGNS.iter().any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(model: &str) -> Bundle {
        Bundle::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(model)).unwrap()
    }

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for (device, name) in Device::NAMES {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        let error = "gpu".parse::<Device>().unwrap_err();
        assert_eq!(error, "expected cpu, cuda, tensorrt or auto, found \"gpu\"");
    }

    #[test]
    fn tensorrt_comes_before_cuda_and_cuda_before_the_cpu() {
        use Provider::{Cpu, Cuda, Tensorrt};
        let attempts = |device, cache: Option<&str>| {
            let options = DeviceOptions {
                device,
                tensorrt_cache: cache.map(PathBuf::from),
                ..DeviceOptions::default()
            };
            options.attempts()
        };
        assert_eq!(attempts(Device::Auto, Some("cache")), [Tensorrt, Cuda, Cpu]);
        assert_eq!(
            attempts(Device::Auto, None),
            [Cuda, Cpu],
            "engines would be built at each start"
        );
        assert_eq!(attempts(Device::Cuda, None), [Cuda], "or nothing");
        assert_eq!(attempts(Device::Tensorrt, None), [Tensorrt]);
        let decided = DeviceOptions::default().decided(Cuda);
        assert_eq!(decided.attempts(), [Cuda]);
    }

    /// As ONNX Runtime 1.31.1 and CUDA 13 write them. The first was met with a driver that has no GPU; the others are put together
    /// from the same form and the words of the libraries.
    #[test]
    fn messages_of_the_runtime_get_a_cure() {
        for (message, part) in [
            (
                "cuda_execution_provider_info.cc:63 static onnxruntime::CUDAExecutionProviderInfo \
                 onnxruntime::CUDAExecutionProviderInfo::FromProviderOptions(const onnxruntime::ProviderOptions&) \
                 [ONNXRuntimeError] : 1 : FAIL : provider_options_utils.h:187 Parse Failed to parse provider option \
                 \"device_id\": CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; \
                 file=cuda_execution_provider_info.cc ; line=70 ; expr=cudaGetDeviceCount(&num_devices);",
                "no GPU that this process may use",
            ),
            (
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; \
                 file=cuda_execution_provider_info.cc ; line=70 ; expr=cudaGetDeviceCount(&num_devices);",
                "driver is missing or too old",
            ),
            (
                "Failed to parse provider option \"device_id\": Invalid device ID: 3, must be between 0 (inclusive) and 1 (exclusive).",
                "no GPU of this number",
            ),
            (
                "CUDA failure 2: out of memory ; GPU=0 ; hostname=vm ; expr=cudaMalloc((void**)&p, size);",
                "memory does not hold the model",
            ),
            (
                "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared \
                 object file: No such file or directory",
                "a library is missing",
            ),
            ("something else", "ONNX Runtime: something else"),
        ] {
            let explained = explain(message);
            assert!(explained.contains(part), "{explained}");
            let words = message.split(" ; ").next().unwrap();
            assert!(
                explained.contains(words),
                "with what the runtime said: {explained}"
            );
            assert!(!explained.contains("hostname"), "{explained}");
        }
    }

    #[test]
    fn a_lack_of_memory_is_told_from_other_failures() {
        for message in [
            "Non-zero status code returned while running Conv node. Name:'/conv1/Conv' Status Message: \
             BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824",
            "Available memory of 1048576 is smaller than requested bytes of 4194304",
            "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
            "CUDNN failure 2003: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
            "TensorRT EP execution context enqueue failed: Error Code 2: OutOfMemory (Requested size was 268435456 bytes.)",
            "std::bad_alloc",
        ] {
            assert!(is_out_of_memory(message), "{message}");
        }
        for message in [
            "CUDA failure 700: an illegal memory access was encountered",
            "CUDA failure 200: device kernel image is invalid",
            "CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED",
            "Non-zero status code returned while running MatMul node",
        ] {
            assert!(!is_out_of_memory(message), "{message}");
        }
    }

    #[test]
    fn shapes_for_tensorrt_span_the_batches_and_the_buckets() {
        let shapes = |model: &str, max_batch| {
            let bundle = bundle(model);
            let names = &bundle.graph.outline.inputs;
            [
                profile_shapes(&bundle, names, max_batch, |range| range.min),
                profile_shapes(&bundle, names, max_batch, |range| range.typical),
                profile_shapes(&bundle, names, max_batch, |range| range.max),
            ]
        };
        assert_eq!(
            shapes("models/digits/1", 64),
            [
                "pixel_values:1x1x28x28",
                "pixel_values:64x1x28x28",
                "pixel_values:64x1x28x28"
            ]
        );
        let [min, typical, max] = shapes("models/sentiment/1", 8);
        assert!(min.starts_with("input_ids:1x64"), "{min}");
        assert!(typical.starts_with("input_ids:8x256"), "{typical}");
        assert!(max.starts_with("input_ids:8x768"), "{max}");
    }

    #[test]
    fn engines_are_kept_apart_by_gpu() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(gpu_names(folder.path()), "", "not the driver's folder");
        for (bus, model) in [("0000:01:00.0", "NVIDIA L4"), ("0000:02:00.0", "NVIDIA L4")] {
            let gpu = folder.path().join(bus);
            fs::create_dir(&gpu).unwrap();
            let text = format!("Model: \t\t {model}\nIRQ:   \t\t 120\n");
            fs::write(gpu.join("information"), text).unwrap();
        }
        assert_eq!(gpu_names(folder.path()), "NVIDIA-L4");
    }

    #[test]
    fn the_hash_is_of_the_graph_and_its_weights() {
        let graph = |model: &[u8], external: &[&[u8]]| GraphFiles {
            model: model.into(),
            external: external
                .iter()
                .map(|&bytes| ("weights".to_owned(), bytes.into()))
                .collect(),
            outline: onnx_graph::Outline::default(),
        };
        let before = weights_hash(&graph(b"graph", &[b"1"]));
        assert_eq!(weights_hash(&graph(b"graph", &[b"1"])), before);
        assert_ne!(weights_hash(&graph(b"graph", &[b"2"])), before);
        assert_ne!(weights_hash(&graph(b"other", &[b"1"])), before);
    }
}
