//! Where a graph runs: what is asked for, what is used, and why something else cannot be used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The device that a caller asks for.
///
/// ```
/// use classifier::Device;
///
/// assert_eq!("auto".parse(), Ok(Device::Auto));
/// assert_eq!(Device::Tensorrt.to_string(), "tensorrt");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU through CUDA. Loading fails if it cannot be used.
    Cuda,
    /// A GPU through TensorRT, with CUDA for the nodes that TensorRT does not take. Loading fails
    /// if it cannot be used.
    Tensorrt,
    /// The first of TensorRT, CUDA and the CPU that can be used. TensorRT is only tried if
    /// [`DeviceOptions::tensorrt_cache`] is set.
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

/// The ONNX Runtime execution provider that runs a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Provider {
    /// The CPU.
    Cpu,
    /// CUDA.
    Cuda,
    /// TensorRT.
    Tensorrt,
}

impl Provider {
    /// The name in lower case, for metrics and configuration: `cpu`, `cuda` or `tensorrt`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }

    /// The name in a sentence.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Cpu => "the CPU",
            Self::Cuda => "CUDA",
            Self::Tensorrt => "TensorRT",
        }
    }
}

/// Which device a session is to run on, and how.
///
/// ```
/// use classifier::{Device, DeviceOptions};
///
/// let mut options = DeviceOptions::new(Device::Auto);
/// options.max_batch = 64;
/// # assert_eq!(options.device_id, 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceOptions {
    /// The device to use.
    pub device: Device,
    /// Number of the GPU, as CUDA counts them, from 0.
    pub device_id: u32,
    /// TensorRT: whether layers may run in 16-bit floats.
    pub fp16: bool,
    /// CUDA: whether matrix products and convolutions may round their inputs to 10 bits of mantissa
    /// (TF32).
    pub tf32: bool,
    /// Largest number of bytes of GPU memory for a session's arena, and for TensorRT's workspace.
    pub memory_limit: Option<u64>,
    /// Directory in which TensorRT's engines and timings are kept. Without one, TensorRT builds its
    /// engines whenever a session is made, which takes minutes.
    pub tensorrt_cache: Option<PathBuf>,
    /// Directory with the CUDA, cuDNN and TensorRT libraries. Libraries that it lacks are looked up
    /// by the system's loader.
    pub libraries: Option<PathBuf>,
    /// Largest number of rows in a run. TensorRT builds its engines for it, and sessions for
    /// convolutions through CUDA get fixed batch sizes up to it.
    pub max_batch: u32,
}

impl DeviceOptions {
    /// Options for `device`, with GPU 0, full precision and no limits.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            ..Self::default()
        }
    }

    /// The providers to try, in order.
    pub(crate) fn attempts(&self) -> &'static [Provider] {
        match self.device {
            Device::Cpu => &[Provider::Cpu],
            Device::Cuda => &[Provider::Cuda],
            Device::Tensorrt => &[Provider::Tensorrt],
            // Without a cache, each start would build engines for minutes.
            Device::Auto if self.tensorrt_cache.is_none() => &[Provider::Cuda, Provider::Cpu],
            Device::Auto => &[Provider::Tensorrt, Provider::Cuda, Provider::Cpu],
        }
    }

    /// The same options with the device of `provider`. Further sessions of a model that was loaded
    /// with [`Device::Auto`] then run where the first one does, or fail.
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

    pub(crate) fn error(
        &self,
        provider: Provider,
        reason: impl Into<String>,
        cure: impl Into<Option<DeviceCure>>,
    ) -> DeviceError {
        DeviceError {
            provider,
            device_id: self.device_id,
            reason: reason.into(),
            cure: cure.into(),
        }
    }
}

/// Why a GPU cannot be used.
///
/// The text says what is wrong. What to do about it depends on the program that uses the crate: how
/// it is set up and how its options are called. [`Self::cure`] says which advice to add.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{} on GPU {device_id} cannot be used: {reason}", provider.title())]
#[non_exhaustive]
pub struct DeviceError {
    /// The provider that was tried.
    pub provider: Provider,
    /// Number of the GPU, as CUDA counts them.
    pub device_id: u32,
    /// What is wrong.
    pub reason: String,
    /// What would help, if that is known and `reason` does not say it.
    pub cure: Option<DeviceCure>,
}

/// What makes a device usable that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeviceCure {
    /// Load an ONNX Runtime library that is built with the provider.
    InstallRuntime,
    /// Put ONNX Runtime's provider libraries beside its own library.
    InstallProviderLibraries,
    /// Install CUDA 13 and cuDNN 9, or set [`DeviceOptions::libraries`].
    InstallCuda,
    /// Install TensorRT 10 for CUDA 13, or set [`DeviceOptions::libraries`].
    InstallTensorrt,
    /// Free GPU memory, raise [`DeviceOptions::memory_limit`], load fewer sessions or lower
    /// [`DeviceOptions::max_batch`].
    FreeMemory,
}

/// Where a session runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// The provider that runs the graph.
    pub provider: Provider,
    /// Number of the GPU. `None` on the CPU.
    pub device_id: Option<u32>,
    /// Number of nodes of the optimised graph on each provider. Empty on the CPU, which runs all of
    /// them.
    pub nodes: BTreeMap<String, usize>,
    /// Whether the graph runs in less precision than it was exported in: because the options allow
    /// it, or because TensorRT always may.
    pub reduced_precision: bool,
    /// With [`Device::Auto`]: why the providers that would have been preferred cannot be used.
    pub fallback: Vec<DeviceError>,
}

impl Placement {
    /// On the CPU, as was asked for.
    pub fn cpu() -> Self {
        Self {
            provider: Provider::Cpu,
            device_id: None,
            nodes: BTreeMap::new(),
            reduced_precision: false,
            fallback: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_parsed_from_its_own_name() {
        for (device, name) in Device::NAMES {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        let error = "gpu".parse::<Device>().unwrap_err();
        assert_eq!(error, "expected cpu, cuda, tensorrt or auto, found \"gpu\"");
    }

    #[test]
    fn tensorrt_is_tried_before_cuda_and_cuda_before_the_cpu() {
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
        assert_eq!(attempts(Device::Cuda, None), [Cuda]);
        assert_eq!(attempts(Device::Tensorrt, None), [Tensorrt]);
        let decided = DeviceOptions::default().decided(Cuda);
        assert_eq!(decided.attempts(), [Cuda]);
    }
}
