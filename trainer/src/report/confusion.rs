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

/// Up to so many labels, every cell shows its number.
const NUMBERED: usize = 24;
/// Up to so many labels, rows and columns show theirs.
const LABELLED: usize = 64;
/// Labels are cut to so many characters.
const LABEL_LENGTH: usize = 18;
/// Pixels of one character, roughly, as part of the font's size.
const CHARACTER: f64 = 0.56;
const TITLE: i32 = 64;
const MARGIN: i32 = 18;

pub(super) fn svg(evaluation: &Evaluation) -> Result<String> {
    let labels: Vec<String> = evaluation.classes.iter().map(|class| cut(&class.label)).collect();
    let count = labels.len();
    let cell = match count {
        0..=12 => 46,
        13..=NUMBERED => 36,
        25..=LABELLED => 16,
        _ => (900 / count as i32).max(2),
    };
    let font_size = if count <= NUMBERED { 14 } else { 11 };
    let longest = labels
        .iter()
        .map(|label| label.chars().count())
        .max()
        .unwrap_or(1);
    let room = if count <= LABELLED {
        (longest as f64 * f64::from(font_size) * CHARACTER) as i32 + 12
    } else {
        8
    };
    // Long labels of columns stand upright.
    let upright = room > cell;
    let below = if upright { room } else { 24 };
    let length = cell * count as i32;
    let left = MARGIN + 22 + room;
    let width = (left + length + MARGIN).max(420);
    let height = TITLE + length + below + 26 + MARGIN;

    document(width as u32, height as u32, |area| {
        let title = format!(
            "{} {}, accuracy {:.2} %",
            evaluation.samples,
            evaluation.unit,
            100.0 * evaluation.accuracy
        );
        text(
            area,
            &title,
            (left, 16),
            &font(18, INK).pos(Pos::new(HPos::Left, VPos::Top)),
        )?;
        let note = "blue is right, red is wrong; the darker, the larger the part of the row";
        text(
            area,
            note,
            (left, 40),
            &font(13, PALE).pos(Pos::new(HPos::Left, VPos::Top)),
        )?;
        for (row, counts) in evaluation.confusion.iter().enumerate() {
            let total: usize = counts.iter().sum();
            for (column, &number) in counts.iter().enumerate() {
                let corner = (left + column as i32 * cell, TITLE + row as i32 * cell);
                draw_cell(
                    area,
                    corner,
                    cell,
                    number,
                    total,
                    row == column,
                    count <= NUMBERED,
                )?;
            }
        }
        if count <= LABELLED {
            let style = font(font_size, INK);
            for (at, label) in labels.iter().enumerate() {
                let middle = at as i32 * cell + cell / 2;
                let place = (left - 8, TITLE + middle);
                text(
                    area,
                    label,
                    place,
                    &style.pos(Pos::new(HPos::Right, VPos::Center)),
                )?;
                let column = if upright {
                    turned(font_size).pos(Pos::new(HPos::Right, VPos::Center))
                } else {
                    style.pos(Pos::new(HPos::Center, VPos::Top))
                };
                text(area, label, (left + middle, TITLE + length + 8), &column)?;
            }
        }
        let axis = font(15, INK).pos(Pos::new(HPos::Center, VPos::Bottom));
        text(area, "given label", (left + length / 2, height - 8), &axis)?;
        let axis = turned(15).pos(Pos::new(HPos::Center, VPos::Center));
        text(area, "true label", (MARGIN, TITLE + length / 2), &axis)
    })
}

fn draw_cell(
    area: &Area<'_>,
    (x, y): (i32, i32),
    cell: i32,
    number: usize,
    total: usize,
    right: bool,
    numbered: bool,
) -> Result<()> {
    // The square root shows rare mistakes, which would be as white as no mistakes.
    let part = if total > 0 {
        (number as f64 / total as f64).sqrt()
    } else {
        0.0
    };
    let corners = [(x, y), (x + cell, y + cell)];
    let color = if right { BLUE } else { MISTAKE };
    area.draw(&Rectangle::new(corners, blend(color, part).filled()))
        .map_err(drawing)?;
    if cell > 4 {
        area.draw(&Rectangle::new(corners, GRID.stroke_width(1)))
            .map_err(drawing)?;
    }
    if numbered && number > 0 {
        let ink = if part > 0.6 { WHITE } else { INK };
        let size = if number > 9999 { 11 } else { 13 };
        let style = font(size, ink).pos(Pos::new(HPos::Center, VPos::Center));
        text(area, &number.to_string(), (x + cell / 2, y + cell / 2), &style)?;
    }
    Ok(())
}

/// Mistakes have a colour of their own.
const MISTAKE: RGBColor = RGBColor(0xb8, 0x2e, 0x2e);

/// `color` laid over white with this opacity.
fn blend(color: RGBColor, part: f64) -> RGBColor {
    let channel = |level: u8| (255.0 - part * (255.0 - f64::from(level))).round() as u8;
    RGBColor(channel(color.0), channel(color.1), channel(color.2))
}

fn text(area: &Area<'_>, content: &str, place: (i32, i32), style: &TextStyle<'_>) -> Result<()> {
    area.draw(&Text::new(content.to_owned(), place, style))
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
