//! The `trainer` program; everything is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use classifier::runtime::environment::{self, TELEMETRY_VARIABLE};
use classifier::runtime::library::PATH_VARIABLE;
use classifier::{ClassifierError, LibraryError};
use trainer::cli::{self, Cli};

/// How OpenMP's threads wait for work. Its default is to spin, which makes libtorch crawl as soon
/// as another program wants a core.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

fn main() -> ExitCode {
    // Both are read when a library is loaded, OpenMP's before `main`: only a new start can set
    // them.
    if let Err(error) = environment::start_with(&[(WAIT_POLICY, "PASSIVE"), (TELEMETRY_VARIABLE, "1")]) {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if lacks_runtime(&error) {
                eprintln!("Run `make setup`, or name the library's file with {PATH_VARIABLE}.");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether ONNX Runtime could not be loaded. The crate `classifier` cannot say how this repository
/// installs it.
fn lacks_runtime(error: &anyhow::Error) -> bool {
    let wrapped = error.downcast_ref::<ClassifierError>();
    matches!(wrapped, Some(ClassifierError::Library(_))) || error.is::<LibraryError>()
}
