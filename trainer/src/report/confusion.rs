//! The confusion matrix as a heat map.

use anyhow::Result;
use plotters::{
    element::{Rectangle, Text},
    style::{
        Color as _, FontTransform, IntoFont as _, RGBColor, TextStyle, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{Area, BLUE, FONT, GRID, INK, PALE, document, drawing, font};
use crate::evaluate::Evaluation;

/// With more labels than this, the cells show no numbers.
const NUMBERED: usize = 24;
/// With more labels than this, rows and columns show no labels.
const LABELLED: usize = 64;
/// Longer labels are cut.
const LABEL_LENGTH: usize = 18;
/// The approximate width of a character, as a part of the font size.
const CHARACTER: f64 = 0.56;
const TITLE: i32 = 64;
const MARGIN: i32 = 18;

/// Sizes and positions, in pixels.
struct Layout {
    labels: Vec<String>,
    /// The side of a cell.
    cell: i32,
    font_size: u32,
    /// Whether the labels of columns are turned by 90 degrees because they are wider than a cell.
    turned: bool,
    /// The left edge of the matrix.
    left: i32,
    /// The side of the matrix.
    length: i32,
    width: i32,
    height: i32,
}

impl Layout {
    fn new(evaluation: &Evaluation) -> Self {
        let labels: Vec<String> = evaluation.classes.iter().map(|class| cut(&class.label)).collect();
        let count = labels.len();
        let cell = match count {
            0..=12 => 46,
            13..=NUMBERED => 36,
            25..=LABELLED => 16,
            _ => (900 / count as i32).max(2),
        };
        let font_size = if count <= NUMBERED { 14 } else { 11 };
        let longest = labels.iter().map(|label| label.chars().count()).max();
        let room = if count <= LABELLED {
            (longest.unwrap_or(1) as f64 * f64::from(font_size) * CHARACTER) as i32 + 12
        } else {
            8
        };
        let turned = room > cell;
        let below = if turned { room } else { 24 };
        let length = cell * count as i32;
        let left = MARGIN + 22 + room;
        Self {
            labels,
            cell,
            font_size,
            turned,
            left,
            length,
            width: (left + length + MARGIN).max(500),
            height: TITLE + length + below + 26 + MARGIN,
        }
    }
}

pub(super) fn svg(evaluation: &Evaluation) -> Result<String> {
    let layout = Layout::new(evaluation);
    let Layout {
        left, length, height, ..
    } = layout;
    document(layout.width as u32, height as u32, |area| {
        let title = format!(
            "{} {}, accuracy {:.2} %",
            evaluation.samples,
            evaluation.unit,
            100.0 * evaluation.accuracy
        );
        let corner = Pos::new(HPos::Left, VPos::Top);
        text(area, &title, (MARGIN, 16), &font(18, INK).pos(corner))?;
        let note = "blue: correct, red: wrong; the darker, the larger the part of the row";
        text(area, note, (MARGIN, 40), &font(13, PALE).pos(corner))?;
        draw_cells(area, &layout, &evaluation.confusion)?;
        if layout.labels.len() <= LABELLED {
            draw_labels(area, &layout)?;
        }
        let axis = font(15, INK).pos(Pos::new(HPos::Center, VPos::Bottom));
        text(area, "given label", (left + length / 2, height - 8), &axis)?;
        let axis = turned(15).pos(Pos::new(HPos::Center, VPos::Center));
        text(area, "true label", (MARGIN, TITLE + length / 2), &axis)
    })
}

fn draw_cells(area: &Area<'_>, layout: &Layout, confusion: &[Vec<usize>]) -> Result<()> {
    let cell = layout.cell;
    for (row, counts) in confusion.iter().enumerate() {
        let total: usize = counts.iter().sum();
        for (column, &number) in counts.iter().enumerate() {
            // Without the square root, rare mistakes would look as white as none.
            let part = if total > 0 {
                (number as f64 / total as f64).sqrt()
            } else {
                0.0
            };
            let (x, y) = (layout.left + column as i32 * cell, TITLE + row as i32 * cell);
            let corners = [(x, y), (x + cell, y + cell)];
            let color = if row == column { BLUE } else { MISTAKE };
            area.draw(&Rectangle::new(corners, blend(color, part).filled()))
                .map_err(drawing)?;
            if cell > 4 {
                area.draw(&Rectangle::new(corners, GRID.stroke_width(1)))
                    .map_err(drawing)?;
            }
            if layout.labels.len() <= NUMBERED && number > 0 {
                let ink = if part > 0.6 { WHITE } else { INK };
                let size = if number > 9999 { 11 } else { 13 };
                let style = font(size, ink).pos(Pos::new(HPos::Center, VPos::Center));
                text(area, &number.to_string(), (x + cell / 2, y + cell / 2), &style)?;
            }
        }
    }
    Ok(())
}

fn draw_labels(area: &Area<'_>, layout: &Layout) -> Result<()> {
    let style = font(layout.font_size, INK);
    let row_style = style.pos(Pos::new(HPos::Right, VPos::Center));
    let column_style = if layout.turned {
        turned(layout.font_size).pos(Pos::new(HPos::Right, VPos::Center))
    } else {
        style.pos(Pos::new(HPos::Center, VPos::Top))
    };
    let below = TITLE + layout.length + 8;
    for (at, label) in layout.labels.iter().enumerate() {
        let middle = at as i32 * layout.cell + layout.cell / 2;
        text(area, label, (layout.left - 8, TITLE + middle), &row_style)?;
        text(area, label, (layout.left + middle, below), &column_style)?;
    }
    Ok(())
}

const MISTAKE: RGBColor = RGBColor(0xb8, 0x2e, 0x2e);

/// Mixes `color` with white; at a `part` of 0 the result is white.
fn blend(color: RGBColor, part: f64) -> RGBColor {
    let channel = |level: u8| (255.0 - part * (255.0 - f64::from(level))).round() as u8;
    RGBColor(channel(color.0), channel(color.1), channel(color.2))
}

fn text(area: &Area<'_>, content: &str, position: (i32, i32), style: &TextStyle<'_>) -> Result<()> {
    area.draw(&Text::new(content.to_owned(), position, style))
        .map_err(drawing)
}

fn turned(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, size).into_font().transform(FontTransform::Rotate270)).color(&INK)
}

fn cut(label: &str) -> String {
    if label.chars().count() <= LABEL_LENGTH {
        return label.to_owned();
    }
    label.chars().take(LABEL_LENGTH - 1).chain(['…']).collect()
}
