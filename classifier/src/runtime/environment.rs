//! Environment variables that a library reads as it is loaded.
//!
//! Libraries such as ONNX Runtime and OpenMP read their environment while they are loaded or
//! before. Changing the environment of a running process is unsafe, because other threads may read
//! it. A program that needs a variable therefore starts itself again with the variable set, before
//! it does anything else.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

pub use crate::error::TELEMETRY_VARIABLE;

/// Starts this program again with ONNX Runtime's telemetry turned off, unless
/// [`TELEMETRY_VARIABLE`] is set already.
///
/// Call it first in `main`, because the program starts from the beginning. It returns only if the
/// variable is set, to any value, or if the program could not be started again.
///
/// # Errors
///
/// Fails if the operating system does not let the process start its own program, for example
/// because `/proc` is missing.
///
/// # Examples
///
/// ```no_run
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     classifier::runtime::environment::without_telemetry()?;
///     let classifier = classifier::open("models/digits/1")?;
///     # let _ = classifier;
///     Ok(())
/// }
/// ```
pub fn without_telemetry() -> io::Result<()> {
    start_with(&[(TELEMETRY_VARIABLE, "1")])
}

/// Starts this program again with those of `variables` (names and values) that are not set yet.
///
/// The process keeps its id, its arguments and its standard streams. If all variables are set, to
/// any values, this function returns at once.
///
/// # Errors
///
/// As for [`without_telemetry`].
pub fn start_with(variables: &[(&str, &str)]) -> io::Result<()> {
    let missing: Vec<_> = variables.iter().filter(|(name, _)| !is_set(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let name = arguments.next();
    let program = own_program();
    let mut command = Command::new(&program);
    command
        .arg0(name.as_deref().unwrap_or(program.as_os_str()))
        .args(arguments);
    for (name, value) in &missing {
        command.env(name, value);
    }
    // Returns only if it fails.
    let error = command.exec();
    let names: Vec<_> = missing
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    Err(io::Error::new(
        error.kind(),
        format!(
            "cannot start {} again with {} in the environment: {error}. Set it where the program is started.",
            program.display(),
            names.join(" ")
        ),
    ))
}

/// Whether the variable is set to a value that is not empty.
pub(crate) fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| value != OsStr::new(""))
}

/// The program's file. Its path gives the process its name. The link in `/proc` also works if the
/// file was replaced.
fn own_program() -> PathBuf {
    match env::current_exe() {
        Ok(path) if path.is_file() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}
