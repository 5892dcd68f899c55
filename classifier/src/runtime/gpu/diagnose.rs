//! What failures of CUDA and TensorRT mean.

use crate::device::{DeviceCure, DeviceError, DeviceOptions, Provider};
use crate::runtime::is_out_of_memory;

/// The error for a session that ONNX Runtime could not make.
pub(in crate::runtime) fn explain(provider: Provider, options: &DeviceOptions, message: &str) -> DeviceError {
    let (meaning, cure) = meaning(message).unzip();
    // The name of the machine is no business of whoever reads the error.
    let parts = message
        .trim()
        .split(" ; ")
        .filter(|part| !part.starts_with("hostname="));
    let message = parts.collect::<Vec<_>>().join("; ");
    let reason = match meaning {
        Some(meaning) => format!("{meaning} (ONNX Runtime: {message})"),
        None => format!("ONNX Runtime: {message}"),
    };
    options.error(provider, reason, cure.flatten())
}

/// What a message means, and what would help unless the meaning says it.
fn meaning(message: &str) -> Option<(&'static str, Option<DeviceCure>)> {
    let known = MEANINGS.iter().find(|(sign, ..)| message.contains(sign));
    known.map(|&(_, meaning, cure)| (meaning, cure)).or_else(|| {
        is_out_of_memory(message).then_some((
            "the GPU's memory does not hold the model",
            Some(DeviceCure::FreeMemory),
        ))
    })
}

const NO_SUCH_GPU: &str =
    "there is no GPU of this number; device_id counts from 0, see `nvidia-smi -L` and CUDA_VISIBLE_DEVICES";

/// Parts of messages of CUDA and ONNX Runtime, with their meaning.
const MEANINGS: &[(&str, &str, Option<DeviceCure>)] = &[
    (
        "CUDA failure 35",
        "the NVIDIA driver is missing or too old for CUDA 13; it needs version 580 or newer, see `nvidia-smi`",
        None,
    ),
    (
        "CUDA failure 100:",
        "there is no GPU that this process may use; see `nvidia-smi`, CUDA_VISIBLE_DEVICES and, in a container, --gpus",
        None,
    ),
    ("must be between 0 (inclusive)", NO_SUCH_GPU, None),
    ("CUDA failure 101", NO_SUCH_GPU, None),
    (
        "CUDA failure 209",
        "this build of ONNX Runtime has no code for this kind of GPU",
        None,
    ),
    (
        "CUDA failure 802",
        "the driver is not ready yet; on machines with NVSwitch its fabric manager must run",
        None,
    ),
    (
        "CUDA failure 803",
        "the driver's kernel module and its libraries have different versions; reboot, or reload the module",
        None,
    ),
    (
        "CUDA failure 804",
        "the driver is too old for CUDA 13, and this GPU cannot use newer libraries with it",
        None,
    ),
    ("CUDA failure 999", "the driver failed; `dmesg` may say why", None),
    (
        "libonnxruntime_providers_shared.so",
        "the provider libraries are not beside the ONNX Runtime library",
        Some(DeviceCure::InstallProviderLibraries),
    ),
    (
        "cannot open shared object file",
        "a library is missing",
        Some(DeviceCure::InstallCuda),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of ONNX Runtime 1.31.1 and CUDA 13. The first was seen with a driver that has
    /// no GPU; the others are composed from the same form and the messages in the libraries.
    #[test]
    fn messages_of_the_runtime_are_explained() {
        for (message, part, cure) in [
            (
                "cuda_execution_provider_info.cc:63 static onnxruntime::CUDAExecutionProviderInfo \
                 onnxruntime::CUDAExecutionProviderInfo::FromProviderOptions(const onnxruntime::ProviderOptions&) \
                 [ONNXRuntimeError] : 1 : FAIL : provider_options_utils.h:187 Parse Failed to parse provider option \
                 \"device_id\": CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; \
                 file=cuda_execution_provider_info.cc ; line=70 ; expr=cudaGetDeviceCount(&num_devices);",
                "no GPU that this process may use",
                None,
            ),
            (
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; \
                 file=cuda_execution_provider_info.cc ; line=70 ; expr=cudaGetDeviceCount(&num_devices);",
                "driver is missing or too old",
                None,
            ),
            (
                "Failed to parse provider option \"device_id\": Invalid device ID: 3, must be between 0 (inclusive) and 1 (exclusive).",
                "no GPU of this number",
                None,
            ),
            (
                "CUDA failure 2: out of memory ; GPU=0 ; hostname=vm ; expr=cudaMalloc((void**)&p, size);",
                "memory does not hold the model",
                Some(DeviceCure::FreeMemory),
            ),
            (
                "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared \
                 object file: No such file or directory",
                "a library is missing",
                Some(DeviceCure::InstallCuda),
            ),
            ("something else", "ONNX Runtime: something else", None),
        ] {
            let error = explain(Provider::Cuda, &DeviceOptions::default(), message);
            assert_eq!(error.cure, cure, "{message}");
            let explained = error.reason;
            assert!(explained.contains(part), "{explained}");
            let words = message.split(" ; ").next().unwrap();
            assert!(
                explained.contains(words),
                "with what the runtime said: {explained}"
            );
            assert!(!explained.contains("hostname"), "{explained}");
        }
    }
}
