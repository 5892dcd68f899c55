//! Measured figures, and the pages that show them.
//!
//! Each measurement is kept in one file of `benches/figures`, which the program that measures
//! writes. Blocks of pages, between the markers `<!-- NAME: begin -->` and `<!-- NAME: end -->`,
//! are rendered from these files by [`update`], and a test fails if a page shows anything else.
//! So a figure that stands on two pages cannot differ.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::page;

pub mod attack;
pub mod comparison;
mod summary;

use attack::AttackFigures;
use comparison::Comparison;

const DIRECTORY: &str = "benches/figures";

/// A measurement that is kept.
pub trait Figures: Serialize + DeserializeOwned {
    /// Reads the figures of the repository at `root`.
    fn read(root: &Path, name: &str) -> Result<Self> {
        let file = root.join(DIRECTORY).join(name).with_extension("toml");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        toml::from_str(&text).with_context(|| file.display().to_string())
    }

    /// Replaces the figures of the repository at `root`, and updates the pages.
    fn write(&self, root: &Path, name: &str) -> Result<()> {
        self.save(root, name)?;
        update(root)
    }

    /// Replaces the figures alone.
    fn save(&self, root: &Path, name: &str) -> Result<()> {
        let file = root.join(DIRECTORY).join(name).with_extension("toml");
        fs::write(&file, toml::to_string(self)?).with_context(|| file.display().to_string())
    }
}

impl Figures for Comparison {}
impl Figures for AttackFigures {}

/// A part of a page that is rendered from figures.
struct Block {
    page: &'static str,
    name: &'static str,
    text: String,
}

fn blocks(root: &Path) -> Result<Vec<Block>> {
    let compare = Comparison::read(root, "compare")?;
    let peers = Comparison::read(root, "peers")?;
    let attack = AttackFigures::read(root, "attack")?;
    let block = |page, name, text| Block { page, name, text };
    Ok(vec![
        block("docs/performance.md", "compare", compare.markdown()),
        block("docs/performance.md", "compare-peers", peers.markdown()),
        block("docs/threat-model.md", "attack", attack.markdown()),
        block("docs/operations.md", "sizing", summary::sizing(&compare)?),
        block("docs/operations.md", "memory", summary::memory(&attack)?),
        block("README.md", "servers", summary::servers(&peers)?),
    ])
}

/// Renders all blocks into their pages.
pub fn update(root: &Path) -> Result<()> {
    for block in blocks(root)? {
        page::write(&root.join(block.page), block.name, &block.text)?;
    }
    Ok(())
}

/// A number with a comma between thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table in Markdown. The columns in `numbers` are aligned to the right.
fn table(header: &[&str], numbers: Range<usize>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|", header.join(" | "));
    for column in 0..header.len() {
        text.push_str(if numbers.contains(&column) { "--:|" } else { "---|" });
    }
    text.push('\n');
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_shows_the_figures_that_were_measured() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for block in blocks(&root).unwrap() {
            let text = fs::read_to_string(root.join(block.page)).unwrap();
            let shown = page::read(&text, block.name).unwrap();
            assert!(
                shown.trim() == block.text.trim(),
                "{}, block {}, is not what benches/figures says: run `cargo run -p benches --bin figures`",
                block.page,
                block.name
            );
        }
    }

    #[test]
    fn written_figures_can_be_read_again() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir_all(copy.path().join(DIRECTORY)).unwrap();
        let compare = Comparison::read(&root, "compare").unwrap();
        compare.save(copy.path(), "compare").unwrap();
        let read = Comparison::read(copy.path(), "compare").unwrap();
        assert_eq!(read.markdown(), compare.markdown());
        let attack = AttackFigures::read(&root, "attack").unwrap();
        attack.save(copy.path(), "attack").unwrap();
        let read = AttackFigures::read(copy.path(), "attack").unwrap();
        assert_eq!(read.markdown(), attack.markdown());
    }

    #[test]
    fn thousands_are_separated_by_commas() {
        for (value, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (1_234_567.2, "1,234,567"),
        ] {
            assert_eq!(thousands(value), text);
        }
    }
}
