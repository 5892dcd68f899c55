//! CUDA and TensorRT: which libraries they need, how they are set up, and what their failures mean.

mod diagnose;
mod libraries;
mod tensorrt;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT};

pub(super) use self::diagnose::explain;
use super::library;
use crate::bundle::Bundle;
use crate::device::{DeviceCure, DeviceError, DeviceOptions, Provider};

/// The name of a provider in ONNX Runtime.
pub(super) fn runtime_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "CPUExecutionProvider",
        Provider::Cuda => CUDA::NAME,
        Provider::Tensorrt => TensorRT::NAME,
    }
}

/// Loads the libraries of a provider. Fails if they are missing, or if ONNX Runtime is built
/// without the provider.
pub(super) fn require(provider: Provider, options: &DeviceOptions) -> Result<(), DeviceError> {
    let compiled_in = match provider {
        Provider::Cpu => return Ok(()),
        Provider::Cuda => CUDA::is_available(),
        Provider::Tensorrt => TensorRT::is_available(),
    };
    if !compiled_in.unwrap_or(false) {
        let place = library::place().unwrap_or("the loaded library");
        let reason = format!("ONNX Runtime at {place} is built without {}", provider.title());
        return Err(options.error(provider, reason, DeviceCure::InstallRuntime));
    }
    libraries::preload(options.libraries.as_deref(), library::directory(), provider)
        .map_err(|missing| options.error(provider, missing.reason, missing.cure))
}

/// The execution providers of a session, in order of preference. `profile`: whether TensorRT is
/// told the shapes of the inputs.
pub(super) fn execution_providers(
    provider: Provider,
    bundle: &Bundle,
    options: &DeviceOptions,
    profile: bool,
) -> Result<Vec<ExecutionProviderDispatch>, DeviceError> {
    Ok(match provider {
        Provider::Cpu => Vec::new(),
        Provider::Cuda => vec![cuda(options)],
        Provider::Tensorrt => vec![tensorrt::provider(bundle, options, profile)?, cuda(options)],
    })
}

fn cuda(options: &DeviceOptions) -> ExecutionProviderDispatch {
    let mut provider = CUDA::default()
        .with_device_id(options.device_id as i32)
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // The default, an exhaustive search, times every algorithm for every new batch size.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        // On by default.
        .with_tf32(options.tf32);
    if let Some(limit) = options.memory_limit {
        provider = provider.with_memory_limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    // Otherwise ONNX Runtime silently falls back to the CPU.
    provider.build().error_on_failure()
}
