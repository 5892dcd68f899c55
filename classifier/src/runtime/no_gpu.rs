//! In place of `gpu.rs` without the feature `gpu`: only the CPU can be used.

use ort::ep::ExecutionProviderDispatch;

use crate::bundle::Bundle;
use crate::device::{DeviceError, DeviceOptions, Provider};

pub(super) fn runtime_name(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "CPUExecutionProvider",
        Provider::Cuda => "CUDAExecutionProvider",
        Provider::Tensorrt => "TensorrtExecutionProvider",
    }
}

pub(super) fn require(provider: Provider, options: &DeviceOptions) -> Result<(), DeviceError> {
    match provider {
        Provider::Cpu => Ok(()),
        Provider::Cuda | Provider::Tensorrt => Err(options.error(
            provider,
            "this program is built without the feature `gpu` of the crate classifier",
            None,
        )),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the same signature as in gpu.rs")]
pub(super) fn execution_providers(
    _provider: Provider,
    _bundle: &Bundle,
    _options: &DeviceOptions,
    _profile: bool,
) -> Result<Vec<ExecutionProviderDispatch>, DeviceError> {
    Ok(Vec::new())
}

pub(super) fn explain(provider: Provider, options: &DeviceOptions, message: &str) -> DeviceError {
    options.error(provider, format!("ONNX Runtime: {message}"), None)
}
