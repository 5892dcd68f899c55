//! `classifyd completions` and `classifyd man`: what shells and `man` want to know, out of the command line's own description.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

use crate::cli::{self, ManArgs};

/// Prints the script that completes commands, options and files in this shell.
pub fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "classifyd", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}

/// Prints the manual page, or writes that of every command into a folder.
pub fn man(args: &ManArgs) -> Result<()> {
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command()).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
        return Ok(());
    };
    write_pages(folder).with_context(|| folder.display().to_string())
}

fn write_pages(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command(), folder)?;
    Ok(())
}

/// `help` repeats what the pages of the commands say.
fn command() -> Command {
    cli::command().disable_help_subcommand(true)
}
