//! The `trainer` program; everything is in the library.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use clap::Parser as _;
use trainer::cli::{self, Cli};

/// How OpenMP's threads wait for work. Its default is to spin, which makes libtorch crawl as soon as another program
/// wants a core.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if env::var_os(WAIT_POLICY).is_none()
        && let Ok(program) = env::current_exe()
    {
        // OpenMP reads the variable when it is loaded, before `main`: only a new start can change it.
        let error = Command::new(program)
            .args(env::args_os().skip(1))
            .env(WAIT_POLICY, "PASSIVE")
            .exec();
        eprintln!("warning: cannot set {WAIT_POLICY}=PASSIVE: {error}");
    }
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
