//! Loss and accuracy over the epochs.

use std::ops::Range;

use anyhow::{Result, bail};
use plotters::{
    chart::{ChartBuilder, LabelAreaPosition, SeriesLabelPosition},
    element::{Circle, PathElement},
    series::{DashedLineSeries, LineSeries},
    style::{Color as _, RGBColor, ShapeStyle},
};

use super::{Area, Axes, BLUE, Chart, INK, ORANGE, PALE, axes, document, drawing, font, legend};
use crate::training::Epoch;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 380;

pub(super) fn svg(history: &[Epoch], best: Option<u32>) -> Result<String> {
    if history.is_empty() {
        bail!("expected a run with at least one complete epoch, found none");
    }
    document(WIDTH, HEIGHT, |area| {
        let (left, right) = area.split_horizontally(WIDTH / 2);
        panel(&left, "Loss", history, best, |epoch| {
            (epoch.training_loss, epoch.validation_loss)
        })?;
        panel(&right, "Accuracy, %", history, best, |epoch| {
            (100.0 * epoch.training_accuracy, 100.0 * epoch.validation_accuracy)
        })
    })
}

/// Draws one figure of every epoch, for the training and for the validation samples.
fn panel(
    area: &Area<'_>,
    title: &str,
    history: &[Epoch],
    best: Option<u32>,
    figures: impl Fn(&Epoch) -> (f64, f64),
) -> Result<()> {
    let points = |pick: fn((f64, f64)) -> f64| -> Vec<(f64, f64)> {
        let point = |epoch: &Epoch| (f64::from(epoch.epoch), pick(figures(epoch)));
        history.iter().map(point).filter(|(_, y)| y.is_finite()).collect()
    };
    let lines = [
        ("training", ORANGE, points(|(training, _)| training)),
        ("validation", BLUE, points(|(_, validation)| validation)),
    ];
    let values = || {
        lines
            .iter()
            .flat_map(|(_, _, points)| points.iter().map(|point| point.1))
    };
    let (low, high) = (
        values().fold(f64::INFINITY, f64::min),
        values().fold(f64::NEG_INFINITY, f64::max),
    );
    if low > high {
        bail!("{title}: expected finite figures, found none");
    }
    let places = decimals(high - low);
    let margin = ((high - low) * 0.06).max(high.abs() * 1e-3).max(1e-6);
    let (low, high) = (low - margin, high + margin);
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(title, font(20, INK))
        .set_label_area_size(LabelAreaPosition::Left, 56)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d(epochs(history), low..high)
        .map_err(drawing)?;
    axes(
        &mut chart,
        &Axes {
            titles: ["epoch", ""],
            labels: [10, 8],
            format: [&whole_number, &move |y| format!("{y:.places$}")],
        },
    )?;
    if let Some(best) = best {
        mark_epoch(&mut chart, best, [low, high])?;
    }
    for (name, color, points) in lines {
        draw_line(&mut chart, name, color, points)?;
    }
    let position = if title == "Loss" {
        SeriesLabelPosition::UpperRight
    } else {
        SeriesLabelPosition::LowerRight
    };
    legend(&mut chart, position, 14)
}

/// The range of the x axis. It is not empty even for a run of one epoch.
fn epochs(history: &[Epoch]) -> Range<f64> {
    let first = history.first().map_or(1.0, |epoch| f64::from(epoch.epoch));
    let last = history.last().map_or(first, |epoch| f64::from(epoch.epoch));
    first..last.max(first + 1.0)
}

/// Labels only whole epochs.
fn whole_number(x: f64) -> String {
    if x.fract().abs() < 1e-9 {
        format!("{x:.0}")
    } else {
        String::new()
    }
}

/// Marks the epoch whose weights were kept.
fn mark_epoch(chart: &mut Chart<'_, '_>, epoch: u32, ends: [f64; 2]) -> Result<()> {
    let line = ends.map(|y| (f64::from(epoch), y));
    chart
        .draw_series(DashedLineSeries::new(line, 5, 4, PALE.stroke_width(1)))
        .map_err(drawing)?
        .label(format!("kept: epoch {epoch}"))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], PALE.stroke_width(1)));
    Ok(())
}

fn draw_line(chart: &mut Chart<'_, '_>, name: &str, color: RGBColor, points: Vec<(f64, f64)>) -> Result<()> {
    let style: ShapeStyle = color.stroke_width(2);
    // Dots mark the epochs, unless there are so many that they would look like a thick line.
    if points.len() <= 60 {
        chart
            .draw_series(points.iter().map(|&point| Circle::new(point, 2, color.filled())))
            .map_err(drawing)?;
    }
    chart
        .draw_series(LineSeries::new(points, style))
        .map_err(drawing)?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    Ok(())
}

/// The number of decimals that distinguish the labels of an axis of this length.
fn decimals(length: f64) -> usize {
    match length {
        _ if length >= 8.0 => 0,
        _ if length >= 0.8 => 1,
        _ if length >= 0.08 => 2,
        _ => 3,
    }
}
