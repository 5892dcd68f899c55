//! Finds and loads the ONNX Runtime library, once a process.

use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use super::elf;
use super::environment::{self, TELEMETRY_VARIABLE};

/// The version that the project is built and tested with.
pub const VERSION: &str = "1.31.1";
/// Environment variable that names the library's file.
pub const PATH_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Folder that `make setup` puts the library into, in the root of the repository.
const SETUP_FOLDER: &str = ".onnxruntime";
/// Name that the system's loader knows the library by.
const FILE_NAME: &str = "libonnxruntime.so";

/// Why ONNX Runtime is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// No place has a library that can be loaded.
    #[error("{}", describe(tried))]
    NotFound {
        /// Each place with what happened there.
        tried: Vec<(String, String)>,
    },
    /// The library would report to its makers, and nobody has said that it may.
    #[error(
        "ONNX Runtime reports to its makers from when it is loaded, unless {TELEMETRY_VARIABLE}=1 is in the environment; expected \
         that variable, found it not set. Call classifier::runtime::environment::without_telemetry() first in main, or set the \
         variable where the program is started; 0 allows the reports."
    )]
    TelemetryUndecided,
}

fn describe(tried: &[(String, String)]) -> String {
    let mut text = format!(
        "ONNX Runtime (1.{} or newer) could not be loaded. It was looked for in:",
        ort::MINOR_VERSION
    );
    for (place, reason) in tried {
        let _ = write!(text, "\n  {place}: {reason}");
    }
    let _ = write!(
        text,
        "\nRun `make setup`, which puts version {VERSION} into {SETUP_FOLDER}/, or name the library's file with --onnxruntime or {PATH_VARIABLE}."
    );
    text
}

static ENVIRONMENT: OnceLock<Loaded> = OnceLock::new();

#[derive(Debug)]
struct Loaded {
    // Sessions hold only a weak reference: dropping this would end every one of them.
    environment: Environment,
    place: String,
    /// The library's file. None if the system's loader found it.
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

/// Loads ONNX Runtime from `path`, or without one from the file that `ORT_DYLIB_PATH` names, else from beside the
/// executable, from the folder that `make setup` fills, or from the system's loader path. Gives the place.
///
/// The environment must say what becomes of the library's telemetry, see [`environment::without_telemetry`].
///
/// A path that was named is the only one tried: a server must not start with another library than it was told to. The
/// first call decides; later ones give its result.
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

/// Where the library was found.
pub(crate) fn place() -> Option<&'static str> {
    ENVIRONMENT.get().map(|loaded| loaded.place.as_str())
}

/// The folder of the library's file, links followed: its provider libraries lie there.
pub(crate) fn folder() -> Option<&'static Path> {
    ENVIRONMENT.get()?.file.as_deref()?.parent()
}

/// The library's version, as far as its description of itself says.
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
    let named = path
        .map(|path| {
            (
                path.to_path_buf(),
                format!("{} (named by --onnxruntime)", path.display()),
            )
        })
        .or_else(|| {
            let path = PathBuf::from(env::var_os(PATH_VARIABLE).filter(|value| !value.is_empty())?);
            let place = format!("{} (named by {PATH_VARIABLE})", path.display());
            Some((path, place))
        });
    let mut tried = Vec::new();
    if let Some((path, place)) = named {
        // Absolute, because a relative path would be taken as relative to the executable.
        let absolute = std::path::absolute(&path).unwrap_or(path);
        match try_file(&absolute) {
            Ok(environment) => return Ok(Loaded::new(environment, place, Some(&absolute))),
            Err(reason) => tried.push((place, reason)),
        }
        return Err(LibraryError::NotFound { tried });
    }
    for folder in folders() {
        let place = folder.display().to_string();
        let Some(file) = library_in(&folder) else {
            tried.push((place, format!("no {FILE_NAME}")));
            continue;
        };
        match try_file(&file) {
            Ok(environment) => {
                let place = file.display().to_string();
                return Ok(Loaded::new(environment, place, Some(&file)));
            }
            Err(reason) => tried.push((file.display().to_string(), reason)),
        }
    }
    let place = "the system's loader path".to_owned();
    match try_load(Path::new(FILE_NAME)) {
        Ok(environment) => Ok(Loaded::new(environment, place, None)),
        Err(reason) => {
            tried.push((place, reason));
            Err(LibraryError::NotFound { tried })
        }
    }
}

/// Beside the executable, `../lib` of it, and the set-up folder of each folder above it (`target/release` is two below
/// the repository's root). Never the working directory: whoever can write there could have code loaded.
fn folders() -> Vec<PathBuf> {
    let Some(executable) = env::current_exe().ok().and_then(|path| path.canonicalize().ok()) else {
        return Vec::new();
    };
    let Some(beside) = executable.parent() else {
        return Vec::new();
    };
    let mut folders = vec![beside.to_path_buf()];
    if let Some(prefix) = beside.parent() {
        folders.push(prefix.join("lib"));
    }
    folders.extend(
        beside
            .ancestors()
            .skip(1)
            .take(3)
            .map(|folder| folder.join(SETUP_FOLDER)),
    );
    folders
}

/// The library in a folder: under its plain name, or with a version behind it.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(FILE_NAME);
    if plain.is_file() {
        return Some(plain);
    }
    let versioned = format!("{FILE_NAME}.");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
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
    // Sessions may share this pool, see `SessionOptions::threads`. One that spins between runs burns cores on an idle server.
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(cpus)
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(false))
        .map_err(failed)?;
    let environment = builder
        .with_name("classifyd")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .build()
        .map_err(failed)?;
    // The binding opens the environment at the most verbose level, at which every run would format log lines.
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}
