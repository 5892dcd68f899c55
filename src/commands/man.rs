//! `classifyd man`: manual pages, generated from the command line's declaration.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;

use crate::cli::{self, ManArgs};

/// Prints the page of the program, or writes the pages of all commands into a directory.
pub fn run(args: &ManArgs) -> Result<()> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command()).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
        return Ok(());
    };
    write_pages(directory).with_context(|| directory.display().to_string())
}

fn write_pages(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command(), directory)?;
    Ok(())
}

/// Without the subcommand `help`, whose pages would repeat the others.
fn command() -> Command {
    cli::command().disable_help_subcommand(true)
}
