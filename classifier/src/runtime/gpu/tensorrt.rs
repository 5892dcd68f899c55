//! TensorRT: the shapes and the cache of its engines.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ort::ep::{ExecutionProviderDispatch, TensorRT};
use sha2::{Digest, Sha256};

use super::libraries;
use crate::bundle::{Bundle, GraphFiles};
use crate::device::{DeviceError, DeviceOptions, Provider};
use crate::input::Preprocessor;
use crate::runtime::library;

/// TensorRT with its profile and cache. `profile`: whether it is told the shapes of the inputs.
pub(super) fn provider(
    bundle: &Bundle,
    options: &DeviceOptions,
    profile: bool,
) -> Result<ExecutionProviderDispatch, DeviceError> {
    let failed =
        |what: &str, error: io::Error| options.error(Provider::Tensorrt, format!("{what}: {error}"), None);
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
        let directory =
            cache_directory(cache, bundle).map_err(|error| failed("the cache of TensorRT", error))?;
        fs::create_dir_all(&directory).map_err(|error| failed(&directory.display().to_string(), error))?;
        let directory = directory.display();
        provider = provider
            .with_engine_cache(true)
            .with_engine_cache_path(&directory)
            .with_timing_cache(true)
            .with_timing_cache_path(&directory);
    }
    Ok(provider.build().error_on_failure())
}

/// The lengths that one axis may have.
struct Range {
    min: usize,
    typical: usize,
    max: usize,
}

/// One end of the shapes of the inputs, as TensorRT's provider reads it:
/// `name:1x3x224x224,other:...`. The typical batch is full, because engines matter most under load.
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

/// The directory for the engines of a bundle. An engine belongs to the weights, the versions of
/// ONNX Runtime and TensorRT, and the GPU. ONNX Runtime itself records what else it depends on:
/// precision, compute capability and the ranges of its shapes.
fn cache_directory(cache: &Path, bundle: &Bundle) -> io::Result<PathBuf> {
    let hash = weights_hash(&bundle.graph);
    let tensorrt = libraries::loaded_version("libnvinfer.so");
    let gpus = gpu_names(Path::new("/proc/driver/nvidia/gpus"));
    let versions = format!(
        "onnxruntime-{}_tensorrt-{}_{}",
        library::version(),
        tensorrt.as_deref().unwrap_or("unknown"),
        if gpus.is_empty() { "unknown-gpu" } else { &gpus }
    );
    // TensorRT's provider takes a relative path as relative to the model.
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

/// The names of this machine's GPUs in the directory of NVIDIA's kernel driver, in a form for file
/// names.
fn gpu_names(directory: &Path) -> String {
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
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("information")).ok())
        .filter_map(name)
        .collect();
    names.sort();
    names.dedup();
    names.join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(model: &str) -> Bundle {
        Bundle::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(model)).unwrap()
    }

    #[test]
    fn shapes_for_tensorrt_cover_all_batches_and_buckets() {
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
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(gpu_names(directory.path()), "", "not the driver's directory");
        for (bus, model) in [("0000:01:00.0", "NVIDIA L4"), ("0000:02:00.0", "NVIDIA L4")] {
            let gpu = directory.path().join(bus);
            fs::create_dir(&gpu).unwrap();
            let text = format!("Model: \t\t {model}\nIRQ:   \t\t 120\n");
            fs::write(gpu.join("information"), text).unwrap();
        }
        assert_eq!(gpu_names(directory.path()), "NVIDIA-L4");
    }

    #[test]
    fn the_hash_covers_the_graph_and_its_weights() {
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
