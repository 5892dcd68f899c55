//! Advice for failures of the machine, in terms of this program's options and set-up.
//!
//! The crate `classifier` knows neither, so its errors only say what is wrong.

use classifier::error::LibrarySource;
use classifier::runtime::library::{PATH_VARIABLE, SETUP_DIRECTORY, VERSION};
use classifier::{ClassifierError, DeviceCure, DeviceError, LibraryError, Placement};

/// The text of an error with advice, if there is any.
pub(crate) fn classifier(error: &ClassifierError) -> String {
    match error {
        ClassifierError::Library(error) => library(error),
        ClassifierError::Device(error) => device(error),
        other => other.to_string(),
    }
}

/// Why ONNX Runtime could not be loaded, with advice.
pub(crate) fn library(error: &LibraryError) -> String {
    let LibraryError::NotFound { tried } = error else {
        return error.to_string();
    };
    let setup = format!("`make setup`, which puts version {VERSION} into {SETUP_DIRECTORY}/");
    if tried.iter().any(|tried| tried.source == LibrarySource::Caller) {
        return format!(
            "{error}\nThe file is named by --onnxruntime. Name another one, or run {setup}, and leave the option out."
        );
    }
    format!("{error}\nRun {setup}, or name the library's file with --onnxruntime or {PATH_VARIABLE}.")
}

/// Why a device cannot be used, with advice.
pub(crate) fn device(error: &DeviceError) -> String {
    let advice = match error.cure {
        Some(DeviceCure::InstallRuntime) => {
            "`make setup-gpu` fetches a build that has it, and --onnxruntime names its file"
        }
        Some(DeviceCure::InstallProviderLibraries) => "`make setup-gpu` puts them there",
        Some(DeviceCure::InstallCuda) => {
            "`make setup-gpu` fetches CUDA 13 and cuDNN 9, or gpu_libraries names their directory"
        }
        Some(DeviceCure::InstallTensorrt) => {
            "install TensorRT 10 for CUDA 13, or name the directory of its libraries in gpu_libraries"
        }
        Some(DeviceCure::FreeMemory) => {
            "free memory, raise gpu_memory_limit, or use fewer lanes or a smaller max_batch"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}

/// With `device = "auto"`: why a model does not run on a device that would be preferred.
pub(crate) fn fallback(placement: &Placement) -> Option<String> {
    let reasons: Vec<String> = placement.fallback.iter().map(device).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use classifier::{Bundle, Device, DeviceOptions, LoadError, Session, SessionOptions};

    use super::*;

    #[test]
    fn a_missing_device_comes_with_advice() {
        classifier::runtime::library::load(None).unwrap();
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits/1");
        let bundle = Bundle::open(directory).unwrap();
        let options = |device| SessionOptions::default().with_device(DeviceOptions::new(device));
        let Err(LoadError::Device(error)) = Session::load(&bundle, &options(Device::Cuda)) else {
            panic!("the library of the tests is built without CUDA");
        };
        let text = device(&error);
        assert!(text.starts_with("CUDA on GPU 0 cannot be used: "), "{text}");
        assert!(
            text.ends_with(
                "; `make setup-gpu` fetches a build that has it, and --onnxruntime names its file"
            ),
            "{text}"
        );

        let session = Session::load(&bundle, &options(Device::Auto)).unwrap();
        let reasons = fallback(session.placement()).unwrap();
        assert!(reasons.contains("make setup-gpu"), "{reasons}");
        assert_eq!(fallback(&Placement::cpu()), None);
    }
}
