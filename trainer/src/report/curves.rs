//! Loss and accuracy over the epochs.

use anyhow::{Result, bail};
use plotters::{
    chart::{ChartBuilder, LabelAreaPosition, SeriesLabelPosition},
    element::{Circle, PathElement},
    series::{DashedLineSeries, LineSeries},
    style::{Color as _, RGBColor, ShapeStyle, WHITE},
};

use super::{Area, BLUE, GRID, INK, ORANGE, PALE, document, drawing, font};
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

/// One figure of every epoch, on the training and on the validation samples.
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
    let margin = ((high - low) * 0.06).max(high.abs() * 1e-3).max(1e-6);
    let first = history.first().map_or(1.0, |epoch| f64::from(epoch.epoch));
    // A run of one epoch still needs an axis.
    let last = history
        .last()
        .map_or(first, |epoch| f64::from(epoch.epoch))
        .max(first + 1.0);

    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(title, font(20, INK))
        .set_label_area_size(LabelAreaPosition::Left, 56)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d(first..last, low - margin..high + margin)
        .map_err(drawing)?;
    let places = decimals(high - low);
    chart
        .configure_mesh()
        .x_desc("epoch")
        .x_labels(10)
        .y_labels(8)
        .x_label_formatter(&|x| {
            if x.fract().abs() < 1e-9 {
                format!("{x:.0}")
            } else {
                String::new()
            }
        })
        .y_label_formatter(&move |y| format!("{y:.places$}"))
        .label_style(font(14, INK))
        .axis_desc_style(font(15, INK))
        .bold_line_style(GRID)
        .light_line_style(WHITE.mix(0.0))
        .axis_style(PALE)
        .draw()
        .map_err(drawing)?;
    if let Some(best) = best {
        let line = [(f64::from(best), low - margin), (f64::from(best), high + margin)];
        chart
            .draw_series(DashedLineSeries::new(line, 5, 4, PALE.stroke_width(1)))
            .map_err(drawing)?
            .label(format!("kept: epoch {best}"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], PALE.stroke_width(1)));
    }
    for (name, color, points) in lines {
        draw_line(&mut chart, name, color, points)?;
    }
    chart
        .configure_series_labels()
        .position(if title == "Loss" {
            SeriesLabelPosition::UpperRight
        } else {
            SeriesLabelPosition::LowerRight
        })
        .label_font(font(14, INK))
        .background_style(WHITE.mix(0.85))
        .draw()
        .map_err(drawing)?;
    Ok(())
}

type Chart<'a, 'b> = plotters::chart::ChartContext<
    'a,
    plotters::backend::SVGBackend<'b>,
    plotters::coord::cartesian::Cartesian2d<
        plotters::coord::types::RangedCoordf64,
        plotters::coord::types::RangedCoordf64,
    >,
>;

fn draw_line(chart: &mut Chart<'_, '_>, name: &str, color: RGBColor, points: Vec<(f64, f64)>) -> Result<()> {
    let style: ShapeStyle = color.stroke_width(2);
    // Dots show where an epoch ended, unless there are so many that they would be a thick line.
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

/// Decimals that tell apart the labels of an axis of this length.
fn decimals(length: f64) -> usize {
    match length {
        _ if length >= 8.0 => 0,
        _ if length >= 0.8 => 1,
        _ if length >= 0.08 => 2,
        _ => 3,
    }
}
