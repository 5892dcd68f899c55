//! Finds the libraries of CUDA, cuDNN and TensorRT and loads them before ONNX Runtime asks for them: the system's loader takes a
//! library that is loaded already, wherever it came from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};

use super::elf;
use super::provider::Provider;

/// Folder beside the ONNX Runtime library that `make setup-gpu` fills.
const SETUP_FOLDER: &str = "nvidia";
/// Comes with the driver, never with CUDA.
const DRIVER: &str = "libcuda.so.1";
/// TensorRT 10, which this version of ONNX Runtime is built against; what others depend on comes first.
const TENSORRT_DYLIBS: &[&str] = &[
    "libnvinfer.so.10",
    "libnvinfer_plugin.so.10",
    "libnvonnxparser.so.10",
];
/// ONNX Runtime's own, beside its library.
const PROVIDER_DYLIBS: &[&str] = &[
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
    "libonnxruntime_providers_tensorrt.so",
];
/// Without these no graph runs; others, such as libcufft, only some operators need.
const NEEDED: &[&str] = &[
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
    "libnvinfer.so.10",
    "libnvonnxparser.so.10",
];

/// Loads what a provider needs: from `folder`, or without one from beside the ONNX Runtime library, else from where the system
/// finds it. Fails with what is missing.
pub(super) fn preload(
    folder: Option<&Path>,
    beside: Option<&Path>,
    provider: Provider,
) -> Result<(), String> {
    static LOADED: Mutex<BTreeMap<String, Result<(), String>>> = Mutex::new(BTreeMap::new());
    let places = places(folder, beside);
    if let Some(beside) = beside {
        check_provider_files(beside)?;
    }
    let mut known = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let load = |name: &str, path: &Path| {
        // One result for the process: a library that is loaded stays.
        let load = || {
            // A name without a folder is looked up by the system's loader.
            if path.is_absolute() {
                elf::check(path)?;
            }
            ort::util::preload_dylib(path).map_err(|error| reason(&error))
        };
        known.entry(name.to_owned()).or_insert_with(load).clone()
    };
    preload_from(&places, provider, load)
}

/// Checks ONNX Runtime's own libraries for GPUs, which it loads by itself from its folder.
fn check_provider_files(folder: &Path) -> Result<(), String> {
    for name in PROVIDER_DYLIBS {
        let path = folder.join(name);
        if path.is_file() {
            elf::check(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// What the loader said; the binding's own words leave it out.
fn reason(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

fn preload_from(
    places: &[PathBuf],
    provider: Provider,
    mut load: impl FnMut(&str, &Path) -> Result<(), String>,
) -> Result<(), String> {
    load(DRIVER, Path::new(DRIVER)).map_err(|error| {
        format!(
            "the NVIDIA driver is missing: {error}; install it on the machine (version 580 or newer), and give a container access \
             with --gpus"
        )
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
                // Which of them are needed, the GPU decides; TensorRT says what it lacks.
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
    Err(format!(
        "{} cannot be loaded: {error}; looked for {} {looked}on the system's loader path; {}",
        product(first),
        names.join(", "),
        cure(first)
    ))
}

/// What TensorRT loads by name when it builds an engine: one file, or one for each kind of GPU.
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

fn cure(library: &str) -> &'static str {
    if TENSORRT_DYLIBS.contains(&library) {
        "install TensorRT 10 for CUDA 13, or name the folder of its libraries in gpu_libraries"
    } else {
        "`make setup-gpu` fetches it, or name its folder in gpu_libraries"
    }
}

/// The folders that may hold them: itself, those of Python's `nvidia-*` packages below it (`cublas/lib`, `cu13/lib`), and the
/// same below a `site-packages`.
fn places(folder: Option<&Path>, beside: Option<&Path>) -> Vec<PathBuf> {
    let root = match (folder, beside) {
        (Some(folder), _) => folder.to_path_buf(),
        (None, Some(beside)) => beside.join(SETUP_FOLDER),
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

/// The version in the name of a library that this process has loaded: `10.13.3` of `libnvinfer.so.10.13.3`.
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

    /// Every library can be loaded but those that `missing` names.
    fn preload_without(
        missing: &[&str],
        places: &[PathBuf],
        provider: Provider,
    ) -> Result<Vec<PathBuf>, String> {
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
    fn what_is_missing_is_named_with_its_cure() {
        for (missing, provider, parts) in [
            (
                DRIVER,
                Provider::Cuda,
                ["the NVIDIA driver is missing: libcuda.so.1", "--gpus"],
            ),
            (
                "libcublasLt.so.13",
                Provider::Cuda,
                ["CUDA 13 cannot be loaded", "make setup-gpu"],
            ),
            (
                "libcudnn.so.9",
                Provider::Cuda,
                ["cuDNN 9 cannot be loaded", "gpu_libraries"],
            ),
            (
                "libnvinfer.so.10",
                Provider::Tensorrt,
                ["TensorRT 10 cannot be loaded", "install TensorRT 10"],
            ),
        ] {
            let error = preload_without(&[missing], &[], provider).unwrap_err();
            assert!(error.contains(missing), "{error}");
            for part in parts {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        preload_without(&["libnvinfer.so.10"], &[], Provider::Cuda).unwrap();
        preload_without(&["libcufft.so.12"], &[], Provider::Cuda).unwrap();
    }

    #[test]
    fn a_folder_comes_before_the_system() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let flat = touch("libcudart.so.13");
        let of_a_package = touch("cublas/lib/libcublas.so.13");
        let of_site_packages = touch("nvidia/cudnn/lib/libcudnn.so.9");
        let loaded = preload_without(&[], &places(Some(folder.path()), None), Provider::Cuda).unwrap();
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
        let loaded = preload_without(&[], &places(Some(folder.path()), None), Provider::Tensorrt).unwrap();
        assert_eq!(loaded.last(), Some(&resource));

        let beside = tempfile::tempdir().unwrap();
        let setup = beside.path().join("nvidia");
        assert!(places(None, Some(beside.path())).is_empty());
        fs::create_dir(&setup).unwrap();
        assert_eq!(places(None, Some(beside.path())), [setup]);
    }

    #[test]
    fn a_version_is_read_from_the_name_of_a_loaded_library() {
        let maps = "7f0 r-xp 0 08:01 12  /usr/lib/libnvinfer_plugin.so.10.13.3\n7f1 r-xp 0 08:01 13  /usr/lib/libnvinfer.so.10.13.2\n";
        assert_eq!(version_in(maps, "libnvinfer.so").as_deref(), Some("10.13.2"));
        assert_eq!(version_in(maps, "libother.so"), None);
    }
}
