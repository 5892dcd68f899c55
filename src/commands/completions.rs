//! `classifyd completions`: the script that completes this command line in a shell.

use std::io::Write;

use anyhow::Result;
use clap_complete::Shell;

use crate::cli;

pub fn run(shell: Shell) -> Result<()> {
    let mut command = cli::command().disable_help_subcommand(true);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "classifyd", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
