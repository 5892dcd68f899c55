//! Draws learning curves, a confusion matrix and a calibration diagram as SVG files and shows them
//! in the model card.

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
    chart::{ChartContext, SeriesLabelPosition},
    coord::{Shift, cartesian::Cartesian2d, types::RangedCoordf64},
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _},
    style::{Color as _, IntoFont as _, RGBColor, TextStyle, WHITE},
};

use crate::{evaluate::Evaluation, training::Epoch};

/// The directory in a model directory that contains the charts.
pub const DIRECTORY: &str = "report";
/// The file with the figures of the charts, in [`DIRECTORY`].
pub const EVALUATION: &str = "evaluation.json";
/// The section of the model card that shows the charts.
const SECTION: &str = "## Charts";
/// The former heading of this section, which cards from older versions still have.
const FORMER_SECTION: &str = "## Pictures";
/// The title and the file name of each chart, in the order of the model card.
const CHARTS: [(&str, &str); 3] = [
    ("Learning curves", "curves.svg"),
    ("Confusion matrix", "confusion.svg"),
    ("Calibration", "calibration.svg"),
];

/// A generic family that every SVG viewer maps to one of its fonts.
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const PALE: RGBColor = RGBColor(0x99, 0x99, 0x99);
const GRID: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);
const BLUE: RGBColor = RGBColor(0x1f, 0x5a, 0xa8);
const ORANGE: RGBColor = RGBColor(0xd9, 0x6c, 0x0b);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the learning curves of a training run as an SVG document. `best` is the epoch whose
/// weights were kept.
pub fn curves(history: &[Epoch], best: Option<u32>) -> Result<String> {
    curves::svg(history, best)
}

/// Draws the confusion matrix as an SVG document.
pub fn confusion(evaluation: &Evaluation) -> Result<String> {
    confusion::svg(evaluation)
}

/// Draws the reliability diagram as an SVG document.
pub fn calibration(evaluation: &Evaluation) -> Result<String> {
    calibration::svg(evaluation)
}

/// Writes `evaluation.json`, `confusion.svg` and `calibration.svg` into `directory` and returns
/// their paths.
pub fn write_evaluation(directory: &Path, evaluation: &Evaluation) -> Result<Vec<PathBuf>> {
    let json = serde_json::to_string_pretty(evaluation).context("cannot write JSON")? + "\n";
    let (confusion, calibration) = (confusion(evaluation)?, calibration(evaluation)?);
    [
        (EVALUATION, json),
        (CHARTS[1].1, confusion),
        (CHARTS[2].1, calibration),
    ]
    .into_iter()
    .map(|(name, text)| write(directory, name, &text))
    .collect()
}

/// Writes `curves.svg` into `directory` and returns its path.
pub fn write_curves(directory: &Path, history: &[Epoch], best: Option<u32>) -> Result<PathBuf> {
    write(directory, CHARTS[0].1, &curves(history, best)?)
}

/// Shows the charts that a model directory contains in a section of its model card, replacing an
/// earlier section. Does nothing without a card.
pub fn link(directory: &Path) -> Result<()> {
    let path = directory.join("README.md");
    if !path.exists() {
        return Ok(());
    }
    let card = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let links: Vec<String> = CHARTS
        .iter()
        .filter(|(_, name)| directory.join(DIRECTORY).join(name).exists())
        .map(|(title, name)| format!("![{title}]({DIRECTORY}/{name})\n"))
        .collect();
    let card = with_section(&card, &links.join("\n"));
    fs::write(&path, card).with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces the section with the charts, or appends it if the card has none.
fn with_section(card: &str, content: &str) -> String {
    let found = [SECTION, FORMER_SECTION].into_iter().find_map(|section| {
        let heading = format!("{section}\n");
        Some((card.find(&heading)?, heading.len()))
    });
    let (before, after) = match found {
        Some((at, length)) => {
            let rest = &card[at + length..];
            (&card[..at], rest.find("\n## ").map_or("", |end| &rest[end + 1..]))
        }
        None => (card, ""),
    };
    let gap = if after.is_empty() { "" } else { "\n" };
    format!("{}\n\n{SECTION}\n\n{content}{gap}{after}", before.trim_end())
}

fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Creates an SVG document with a white background on which `paint` draws.
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

/// Drops the borrowed parts of plotters' errors, which `anyhow` cannot hold.
fn drawing<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The texts of a chart's x axis and y axis.
struct Axes<'a> {
    titles: [&'a str; 2],
    /// The approximate number of labels.
    labels: [usize; 2],
    /// Formats the value at a label.
    format: [&'a dyn Fn(f64) -> String; 2],
}

fn axes(chart: &mut Chart<'_, '_>, axes: &Axes<'_>) -> Result<()> {
    let [x_format, y_format] = axes.format;
    chart
        .configure_mesh()
        .x_desc(axes.titles[0])
        .y_desc(axes.titles[1])
        .x_labels(axes.labels[0])
        .y_labels(axes.labels[1])
        .x_label_formatter(&|x| x_format(*x))
        .y_label_formatter(&|y| y_format(*y))
        .label_style(font(14, INK))
        .axis_desc_style(font(15, INK))
        .bold_line_style(GRID)
        .light_line_style(WHITE.mix(0.0))
        .axis_style(PALE)
        .draw()
        .map_err(drawing)
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition, size: u32) -> Result<()> {
    chart
        .configure_series_labels()
        .position(position)
        .label_font(font(size, INK))
        .background_style(WHITE.mix(0.85))
        .draw()
        .map_err(drawing)
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
    fn the_section_is_appended_once_and_then_replaced_where_it_is() {
        let card = "# A card\n\ntext\n";
        let once = with_section(card, "one\n");
        assert_eq!(once, "# A card\n\ntext\n\n## Charts\n\none\n");
        assert_eq!(
            with_section(&once, "two\n"),
            "# A card\n\ntext\n\n## Charts\n\ntwo\n"
        );
        let middle = "# A card\n\n## Pictures\n\nold\n\n## Limits\n\nmany\n";
        assert_eq!(
            with_section(middle, "new\n"),
            "# A card\n\n## Charts\n\nnew\n\n## Limits\n\nmany\n"
        );
    }
}
