//! The reliability diagram: the accuracy of the samples in each range of scores.

use anyhow::Result;
use plotters::{
    chart::{ChartBuilder, LabelAreaPosition, SeriesLabelPosition},
    element::{PathElement, Rectangle},
    series::DashedLineSeries,
    style::Color as _,
};

use super::{Axes, BLUE, Chart, INK, ORANGE, PALE, axes, document, drawing, font, legend};
use crate::evaluate::{CalibrationBin, Evaluation};

const SIDE: u32 = 460;
/// The end of the y axis. The legend is above 1.
const TOP: f64 = 1.2;

pub(super) fn svg(evaluation: &Evaluation) -> Result<String> {
    document(SIDE, SIDE, |area| {
        let error = 100.0 * evaluation.calibration.error;
        let title = format!("Expected calibration error {error:.2} %");
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .caption(title, font(18, INK))
            .set_label_area_size(LabelAreaPosition::Left, 52)
            .set_label_area_size(LabelAreaPosition::Bottom, 44)
            .build_cartesian_2d(0.0..1.0, 0.0..TOP)
            .map_err(drawing)?;
        axes(
            &mut chart,
            &Axes {
                titles: ["highest score", "accuracy"],
                labels: [6, 7],
                format: [&|x| format!("{x:.1}"), &|y| {
                    if y > 1.01 {
                        String::new()
                    } else {
                        format!("{y:.1}")
                    }
                }],
            },
        )?;
        draw_bins(&mut chart, evaluation)?;
        let diagonal = [(0.0, 0.0), (1.0, 1.0)];
        chart
            .draw_series(DashedLineSeries::new(diagonal, 5, 4, PALE.stroke_width(1)))
            .map_err(drawing)?;
        legend(&mut chart, SeriesLabelPosition::UpperLeft, 13)
    })
}

/// Draws the accuracy of each bin as a bar and its mean score as a line.
fn draw_bins(chart: &mut Chart<'_, '_>, evaluation: &Evaluation) -> Result<()> {
    let bins = &evaluation.calibration.bins;
    let width = 1.0 / bins.len().max(1) as f64;
    let bins = || {
        let span = move |(at, bin): (usize, &CalibrationBin)| {
            let from = at as f64 * width;
            (from + 0.06 * width, from + 0.94 * width, *bin)
        };
        let bins = bins.iter().enumerate().map(span);
        bins.filter(|(.., bin)| bin.samples > 0)
    };
    // The bars of bins with few samples are pale, because they say little.
    let shade =
        |bin: &CalibrationBin| 0.15 + 0.6 * (bin.samples as f64 / evaluation.samples as f64).powf(0.25);
    chart
        .draw_series(bins().map(|(from, to, bin)| {
            Rectangle::new([(from, 0.0), (to, bin.accuracy)], BLUE.mix(shade(&bin)).filled())
        }))
        .map_err(drawing)?
        .label("accuracy (paler: fewer samples)")
        .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], BLUE.mix(0.6).filled()));
    chart
        .draw_series(bins().map(|(from, to, bin)| {
            PathElement::new(
                [(from, bin.confidence), (to, bin.confidence)],
                ORANGE.stroke_width(2),
            )
        }))
        .map_err(drawing)?
        .label("mean score")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], ORANGE.stroke_width(2)));
    Ok(())
}
