//! Learning curves, confusion matrix and calibration as SVG, beside the model card and linked from it.

mod calibration;
mod confusion;
mod curves;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    style::{Color as _, IntoFont as _, RGBColor, TextStyle, WHITE},
};

use crate::{evaluate::Evaluation, training::Epoch};

/// Folder of a model directory that holds the pictures.
pub const DIRECTORY: &str = "report";
/// The figures that the pictures show, in [`DIRECTORY`].
pub const EVALUATION: &str = "evaluation.json";
/// The section of the model card that shows the pictures.
const SECTION: &str = "## Pictures";
/// Title and file name of each picture, in the card's order.
const PICTURES: [(&str, &str); 3] = [
    ("Learning curves", "curves.svg"),
    ("Confusion matrix", "confusion.svg"),
    ("Calibration", "calibration.svg"),
];

/// A font that every viewer has some form of.
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const PALE: RGBColor = RGBColor(0x99, 0x99, 0x99);
const GRID: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);
const BLUE: RGBColor = RGBColor(0x1f, 0x5a, 0xa8);
const ORANGE: RGBColor = RGBColor(0xd9, 0x6c, 0x0b);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A training run's learning curves, as an SVG document. `best` is the epoch whose weights were kept.
pub fn curves(history: &[Epoch], best: Option<u32>) -> Result<String> {
    curves::svg(history, best)
}

/// A confusion matrix, as an SVG document.
pub fn confusion(evaluation: &Evaluation) -> Result<String> {
    confusion::svg(evaluation)
}

/// A reliability diagram, as an SVG document.
pub fn calibration(evaluation: &Evaluation) -> Result<String> {
    calibration::svg(evaluation)
}

/// Writes `evaluation.json`, `confusion.svg` and `calibration.svg` into `folder`. Gives their paths.
pub fn write_evaluation(folder: &Path, evaluation: &Evaluation) -> Result<Vec<PathBuf>> {
    let json = serde_json::to_string_pretty(evaluation).context("cannot write JSON")? + "\n";
    let (confusion, calibration) = (confusion(evaluation)?, calibration(evaluation)?);
    [
        (EVALUATION, json),
        (PICTURES[1].1, confusion),
        (PICTURES[2].1, calibration),
    ]
    .into_iter()
    .map(|(name, text)| write(folder, name, &text))
    .collect()
}

/// Writes `curves.svg` into `folder`. Gives its path.
pub fn write_curves(folder: &Path, history: &[Epoch], best: Option<u32>) -> Result<PathBuf> {
    write(folder, PICTURES[0].1, &curves(history, best)?)
}

/// Shows those pictures that a model directory's [`DIRECTORY`] holds in its model card, in a section of their own, which
/// takes the place of an earlier one. A directory without a card gets none.
pub fn link(directory: &Path) -> Result<()> {
    let path = directory.join("README.md");
    if !path.exists() {
        return Ok(());
    }
    let card = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let links: Vec<String> = PICTURES
        .iter()
        .filter(|(_, name)| directory.join(DIRECTORY).join(name).exists())
        .map(|(title, name)| format!("![{title}]({DIRECTORY}/{name})\n"))
        .collect();
    let card = with_section(&card, &links.join("\n"));
    fs::write(&path, card).with_context(|| format!("cannot write {}", path.display()))
}

/// The card with its section of pictures replaced, or appended where it has none.
fn with_section(card: &str, content: &str) -> String {
    let heading = format!("{SECTION}\n");
    let (before, after) = match card.find(&heading) {
        Some(at) => {
            let rest = &card[at + heading.len()..];
            (&card[..at], rest.find("\n## ").map_or("", |end| &rest[end + 1..]))
        }
        None => (card, ""),
    };
    let gap = if after.is_empty() { "" } else { "\n" };
    format!("{}\n\n{SECTION}\n\n{content}{gap}{after}", before.trim_end())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A white document of this size with what `paint` draws.
fn document(width: u32, height: u32, paint: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        area.fill(&WHITE).map_err(drawing)?;
        paint(&area)?;
        area.present().map_err(drawing)?;
    }
    Ok(text)
}

/// The library's errors borrow what anyhow must own.
fn drawing<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

fn font(size: u32, color: RGBColor) -> TextStyle<'static> {
    TextStyle {
        color: color.to_backend_color(),
        ..TextStyle::from((FONT, size).into_font())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_appended_once_and_replaced_in_its_place() {
        let card = "# A card\n\ntext\n";
        let once = with_section(card, "one\n");
        assert_eq!(once, "# A card\n\ntext\n\n## Pictures\n\none\n");
        assert_eq!(
            with_section(&once, "two\n"),
            "# A card\n\ntext\n\n## Pictures\n\ntwo\n"
        );
        let middle = "# A card\n\n## Pictures\n\nold\n\n## Limits\n\nmany\n";
        assert_eq!(
            with_section(middle, "new\n"),
            "# A card\n\n## Pictures\n\nnew\n\n## Limits\n\nmany\n"
        );
    }
}
