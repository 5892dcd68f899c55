//! Finds the libraries of CUDA, cuDNN and TensorRT and loads them before ONNX Runtime asks for
//! them.
//!
//! The system's loader takes a library that is already loaded, wherever it came from. So they need
//! not be on its search path.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};

use crate::device::{DeviceCure, Provider};
use crate::runtime::elf;

/// Directory beside the ONNX Runtime library in which the libraries are looked for by default.
const DEFAULT_DIRECTORY: &str = "nvidia";
/// Comes with the driver, never with CUDA.
const DRIVER: &str = "libcuda.so.1";
/// TensorRT 10, which this version of ONNX Runtime is built against. Dependencies come first.
const TENSORRT_DYLIBS: &[&str] = &[
    "libnvinfer.so.10",
    "libnvinfer_plugin.so.10",
    "libnvonnxparser.so.10",
];
/// Provider libraries of ONNX Runtime, which lie beside its own library.
const PROVIDER_DYLIBS: &[&str] = &[
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
    "libonnxruntime_providers_tensorrt.so",
];
/// Libraries that every graph needs. Others, such as libcufft, are needed by few operators.
const NEEDED: &[&str] = &[
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
    "libnvinfer.so.10",
    "libnvonnxparser.so.10",
];

/// Why the libraries of a provider cannot be loaded.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) reason: String,
    /// `None` if the reason says what would help.
    pub(super) cure: Option<DeviceCure>,
}

/// Loads the libraries of a provider from `directory`, or if it is `None` from beside the ONNX
/// Runtime library. Those that are missing there are left to the system's loader.
pub(super) fn preload(
    directory: Option<&Path>,
    beside: Option<&Path>,
    provider: Provider,
) -> Result<(), Missing> {
    static LOADED: Mutex<BTreeMap<String, Result<(), String>>> = Mutex::new(BTreeMap::new());
    let places = places(directory, beside);
    if let Some(beside) = beside {
        check_provider_files(beside).map_err(|reason| Missing { reason, cure: None })?;
    }
    let mut known = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let load = |name: &str, path: &Path| {
        // One result per process, because a loaded library stays loaded.
        let load = || {
            // The system's loader looks up a name without a directory.
            if path.is_absolute() {
                elf::check(path)?;
            }
            ort::util::preload_dylib(path).map_err(|error| reason(&error))
        };
        known.entry(name.to_owned()).or_insert_with(load).clone()
    };
    preload_from(&places, provider, load)
}

/// Checks the provider libraries, which ONNX Runtime loads itself from its directory.
fn check_provider_files(directory: &Path) -> Result<(), String> {
    for name in PROVIDER_DYLIBS {
        let path = directory.join(name);
        if path.is_file() {
            elf::check(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// The loader's message, which the text of the binding's error leaves out.
fn reason(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

fn preload_from(
    places: &[PathBuf],
    provider: Provider,
    mut load: impl FnMut(&str, &Path) -> Result<(), String>,
) -> Result<(), Missing> {
    load(DRIVER, Path::new(DRIVER)).map_err(|error| Missing {
        reason: format!(
            "the NVIDIA driver is missing: {error}; install it on the machine (version 580 or newer), and start \
             containers with --gpus"
        ),
        cure: None,
    })?;
    let tensorrt: &[&str] = match provider {
        Provider::Tensorrt => TENSORRT_DYLIBS,
        Provider::Cpu | Provider::Cuda => &[],
    };
    let mut missing = Vec::new();
    for name in CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS).chain(tensorrt) {
        let found = places
            .iter()
            .map(|place| place.join(name))
            .find(|path| path.exists());
        if let Err(error) = load(name, found.as_deref().unwrap_or(Path::new(name)))
            && NEEDED.contains(name)
        {
            missing.push((*name, error));
        }
    }
    let Some((first, error)) = missing.first() else {
        if provider == Provider::Tensorrt {
            for (name, path) in builder_resources(places) {
                // The GPU decides which of them are needed. TensorRT reports the one that it lacks.
                let _ = load(&name, &path);
            }
        }
        return Ok(());
    };
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    let looked = match looked.as_slice() {
        [] => String::new(),
        looked => format!("in {} and ", looked.join(", ")),
    };
    Err(Missing {
        reason: format!(
            "{} cannot be loaded: {error}; looked for {} {looked}on the system's loader path",
            product(first),
            names.join(", ")
        ),
        cure: Some(cure(first)),
    })
}

/// The libraries that TensorRT loads by name when it builds an engine: one, or one per kind of GPU.
fn builder_resources(places: &[PathBuf]) -> Vec<(String, PathBuf)> {
    let entries = places.iter().flat_map(fs::read_dir).flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    named
        .filter(|(name, _)| name.starts_with("libnvinfer_builder_resource"))
        .collect()
}

fn product(library: &str) -> &'static str {
    match library {
        _ if CUDNN_DYLIBS.contains(&library) => "cuDNN 9",
        _ if TENSORRT_DYLIBS.contains(&library) => "TensorRT 10",
        _ => "CUDA 13",
    }
}

fn cure(library: &str) -> DeviceCure {
    if TENSORRT_DYLIBS.contains(&library) {
        DeviceCure::InstallTensorrt
    } else {
        DeviceCure::InstallCuda
    }
}

/// The directories that may hold libraries: `directory` itself, those of Python's `nvidia-*`
/// packages in it (`cublas/lib`, `cu13/lib`), and the same in a `site-packages`.
fn places(directory: Option<&Path>, beside: Option<&Path>) -> Vec<PathBuf> {
    let root = match (directory, beside) {
        (Some(directory), _) => directory.to_path_buf(),
        (None, Some(beside)) => beside.join(DEFAULT_DIRECTORY),
        (None, None) => return Vec::new(),
    };
    let mut places = Vec::new();
    for parent in [&root, &root.join("nvidia")] {
        let below = fs::read_dir(parent).into_iter().flatten().flatten();
        places.extend(below.map(|entry| entry.path().join("lib")));
    }
    places.sort();
    places.insert(0, root.clone());
    places.push(root.join("tensorrt_libs"));
    places.retain(|place| place.is_dir());
    places
}

/// The version in the file name of a loaded library, such as `10.13.3` for `libnvinfer.so.10.13.3`.
pub(super) fn loaded_version(library: &str) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    version_in(&maps, library)
}

fn version_in(maps: &str, library: &str) -> Option<String> {
    let prefix = format!("{library}.");
    maps.lines().find_map(|line| {
        let name = line.rsplit('/').next()?;
        name.strip_prefix(&prefix).map(ToOwned::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads every library except those in `missing`.
    fn preload_without(
        missing: &[&str],
        places: &[PathBuf],
        provider: Provider,
    ) -> Result<Vec<PathBuf>, Missing> {
        let mut loaded = Vec::new();
        preload_from(places, provider, |name, path| {
            if missing.contains(&name) {
                return Err(format!(
                    "{name}: cannot open shared object file: No such file or directory"
                ));
            }
            loaded.push(path.to_path_buf());
            Ok(())
        })?;
        Ok(loaded)
    }

    #[test]
    fn missing_libraries_are_named_with_their_cure() {
        use DeviceCure::{InstallCuda, InstallTensorrt};
        for (missing, provider, part, cure) in [
            (
                DRIVER,
                Provider::Cuda,
                "the NVIDIA driver is missing: libcuda.so.1",
                None,
            ),
            (
                "libcublasLt.so.13",
                Provider::Cuda,
                "CUDA 13 cannot be loaded",
                Some(InstallCuda),
            ),
            (
                "libcudnn.so.9",
                Provider::Cuda,
                "cuDNN 9 cannot be loaded",
                Some(InstallCuda),
            ),
            (
                "libnvinfer.so.10",
                Provider::Tensorrt,
                "TensorRT 10 cannot be loaded",
                Some(InstallTensorrt),
            ),
        ] {
            let error = preload_without(&[missing], &[], provider).unwrap_err();
            assert_eq!(error.cure, cure);
            assert!(error.reason.contains(missing), "{error:?}");
            assert!(error.reason.contains(part), "{error:?}");
        }
        preload_without(&["libnvinfer.so.10"], &[], Provider::Cuda).unwrap();
        preload_without(&["libcufft.so.12"], &[], Provider::Cuda).unwrap();
    }

    #[test]
    fn a_directory_is_searched_before_the_system() {
        let directory = tempfile::tempdir().unwrap();
        let touch = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let flat = touch("libcudart.so.13");
        let of_a_package = touch("cublas/lib/libcublas.so.13");
        let of_site_packages = touch("nvidia/cudnn/lib/libcudnn.so.9");
        let loaded = preload_without(&[], &places(Some(directory.path()), None), Provider::Cuda).unwrap();
        for path in [
            flat,
            of_a_package,
            of_site_packages,
            PathBuf::from("libcurand.so.10"),
        ] {
            assert!(loaded.contains(&path), "{}: {loaded:?}", path.display());
        }
        assert_eq!(loaded[0], Path::new(DRIVER));
        let resource = touch("libnvinfer_builder_resource_sm90.so.10.13.2");
        let loaded = preload_without(&[], &places(Some(directory.path()), None), Provider::Tensorrt).unwrap();
        assert_eq!(loaded.last(), Some(&resource));

        let beside = tempfile::tempdir().unwrap();
        let setup = beside.path().join("nvidia");
        assert!(places(None, Some(beside.path())).is_empty());
        fs::create_dir(&setup).unwrap();
        assert_eq!(places(None, Some(beside.path())), [setup]);
    }

    #[test]
    fn the_version_is_read_from_the_name_of_a_loaded_library() {
        let maps = "7f0 r-xp 0 08:01 12  /usr/lib/libnvinfer_plugin.so.10.13.3\n7f1 r-xp 0 08:01 13  /usr/lib/libnvinfer.so.10.13.2\n";
        assert_eq!(version_in(maps, "libnvinfer.so").as_deref(), Some("10.13.2"));
        assert_eq!(version_in(maps, "libother.so"), None);
    }
}
