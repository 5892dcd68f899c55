//! Finds and loads the ONNX Runtime library, once per process.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use super::elf;
use super::environment::{self, TELEMETRY_VARIABLE};
pub use crate::error::{LibraryError, LibrarySource, PATH_VARIABLE, TriedLibrary};

/// The version of ONNX Runtime that this crate is tested with.
pub const VERSION: &str = "1.31.1";
/// Directory in which the library is looked for, beside the executable's directory and further up.
pub const SETUP_DIRECTORY: &str = ".onnxruntime";
/// Name of the library on the system's search path.
const FILE_NAME: &str = "libonnxruntime.so";

static ENVIRONMENT: OnceLock<Loaded> = OnceLock::new();

#[derive(Debug)]
struct Loaded {
    // Sessions only hold a weak reference to it.
    environment: Environment,
    place: String,
    /// The library's file. `None` if the system's loader found it.
    file: Option<PathBuf>,
}

impl Loaded {
    fn new(environment: Environment, place: String, file: Option<&Path>) -> Self {
        Self {
            environment,
            place,
            file: file.map(|file| file.canonicalize().unwrap_or_else(|_| file.to_path_buf())),
        }
    }
}

/// Loads ONNX Runtime and returns the place where it was found. Later calls return the result of
/// the first successful one.
///
/// The library is looked for in this order. A file that is named explicitly is the only one that is
/// tried.
///
/// 1. The file `path`.
/// 2. The file in the environment variable [`PATH_VARIABLE`].
/// 3. The directory of the executable, `../lib` beside it, and [`SETUP_DIRECTORY`] in the three
///    directories above it.
/// 4. The system's search path.
///
/// # Errors
///
/// Fails if no library can be loaded, or if the environment does not say whether the library may
/// send telemetry: see [`environment::without_telemetry`].
pub fn load(path: Option<&Path>) -> Result<&'static str, LibraryError> {
    static LOADING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = LOADING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(loaded) = ENVIRONMENT.get() {
        return Ok(&loaded.place);
    }
    if !environment::is_set(TELEMETRY_VARIABLE) {
        return Err(LibraryError::TelemetryUndecided);
    }
    let loaded = load_first(path)?;
    Ok(&ENVIRONMENT.get_or_init(|| loaded).place)
}

/// The place where the library was found.
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "named in errors of GPUs"))]
pub(crate) fn place() -> Option<&'static str> {
    ENVIRONMENT.get().map(|loaded| loaded.place.as_str())
}

/// The directory of the library's file, with links resolved. Its provider libraries lie there.
#[cfg_attr(
    not(feature = "gpu"),
    allow(dead_code, reason = "only GPUs have provider libraries")
)]
pub(crate) fn directory() -> Option<&'static Path> {
    ENVIRONMENT.get()?.file.as_deref()?.parent()
}

/// The version and commit in the library's build information.
#[cfg_attr(
    not(feature = "gpu"),
    allow(dead_code, reason = "names the cache of TensorRT")
)]
pub(crate) fn version() -> String {
    let info = ort::info();
    let value = |key: &str| info.split(&format!("{key}=")).nth(1)?.split(',').next();
    let version = value("git-branch").map(|branch| branch.trim_start_matches("rel-"));
    let commit = value("git-commit-id").unwrap_or_default();
    format!("{}-{commit}", version.unwrap_or(VERSION))
}

/// The environment that sessions are built in.
pub(crate) fn environment() -> Option<&'static Environment> {
    ENVIRONMENT.get().map(|loaded| &loaded.environment)
}

fn load_first(path: Option<&Path>) -> Result<Loaded, LibraryError> {
    let variable = || env::var_os(PATH_VARIABLE).filter(|value| !value.is_empty());
    let named = path
        .map(|path| (path.to_path_buf(), LibrarySource::Caller))
        .or_else(|| Some((PathBuf::from(variable()?), LibrarySource::Variable)));
    match named {
        Some((path, source)) => load_named(&path, source),
        None => load_default(),
    }
}

/// Loads the file that the caller or the environment names. No other is tried: a program must not
/// run with another library than it was told to.
fn load_named(path: &Path, source: LibrarySource) -> Result<Loaded, LibraryError> {
    let place = path.display().to_string();
    // Absolute, because ort would take a relative path as relative to the executable.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match try_file(&absolute) {
        Ok(environment) => Ok(Loaded::new(environment, place, Some(&absolute))),
        Err(reason) => Err(LibraryError::NotFound {
            tried: vec![TriedLibrary {
                place,
                source,
                reason,
            }],
        }),
    }
}

fn load_default() -> Result<Loaded, LibraryError> {
    let mut tried = Vec::new();
    let mut failed = |place: String, reason: String| {
        tried.push(TriedLibrary {
            place,
            source: LibrarySource::Default,
            reason,
        });
    };
    for directory in directories() {
        let Some(file) = library_in(&directory) else {
            failed(directory.display().to_string(), format!("no {FILE_NAME}"));
            continue;
        };
        let place = file.display().to_string();
        match try_file(&file) {
            Ok(environment) => return Ok(Loaded::new(environment, place, Some(&file))),
            Err(reason) => failed(place, reason),
        }
    }
    let place = "the system's search path".to_owned();
    match try_load(Path::new(FILE_NAME)) {
        Ok(environment) => Ok(Loaded::new(environment, place, None)),
        Err(reason) => {
            failed(place, reason);
            Err(LibraryError::NotFound { tried })
        }
    }
}

/// The default directories: see [`load`]. `target/release` is two levels below a repository's root.
/// The working directory is never one of them, because whoever can write there could have code
/// loaded.
fn directories() -> Vec<PathBuf> {
    let Some(executable) = env::current_exe().ok().and_then(|path| path.canonicalize().ok()) else {
        return Vec::new();
    };
    let Some(beside) = executable.parent() else {
        return Vec::new();
    };
    let mut directories = vec![beside.to_path_buf()];
    if let Some(prefix) = beside.parent() {
        directories.push(prefix.join("lib"));
    }
    directories.extend(
        beside
            .ancestors()
            .skip(1)
            .take(3)
            .map(|directory| directory.join(SETUP_DIRECTORY)),
    );
    directories
}

/// The library in a directory: with its plain name, or with a version after it.
fn library_in(directory: &Path) -> Option<PathBuf> {
    let plain = directory.join(FILE_NAME);
    if plain.is_file() {
        return Some(plain);
    }
    let versioned = format!("{FILE_NAME}.");
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(&versioned))
        })
        .collect();
    found.sort();
    found.pop()
}

fn try_file(path: &Path) -> Result<Environment, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            elf::check(path)?;
            try_load(path)
        }
        Ok(_) => Err("expected the library's file, found a directory".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn try_load(path: &Path) -> Result<Environment, String> {
    let failed = |error: ort::Error| error.to_string();
    let builder = ort::init_from(path).map_err(|error| error.to_string())?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // For sessions without threads of their own. A pool that spins between runs burns cores on an
    // idle machine.
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(cpus)
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(false))
        .map_err(failed)?;
    let environment = builder
        .with_name("classifier")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .build()
        .map_err(failed)?;
    // ort opens the environment at the most verbose level, at which every run would format log
    // lines.
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}
