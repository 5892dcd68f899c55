//! The reliability diagram: how often a score of so much is right.

use anyhow::Result;
use plotters::{
    chart::{ChartBuilder, LabelAreaPosition, SeriesLabelPosition},
    element::{PathElement, Rectangle},
    series::DashedLineSeries,
    style::{Color as _, WHITE},
};

use super::{BLUE, GRID, INK, ORANGE, PALE, document, drawing, font};
use crate::evaluate::{CalibrationBin, Evaluation};

const SIDE: u32 = 460;
/// The legend stands above 1.
const TOP: f64 = 1.2;

pub(super) fn svg(evaluation: &Evaluation) -> Result<String> {
    let calibration = &evaluation.calibration;
    let bins = || {
        let width = 1.0 / calibration.bins.len().max(1) as f64;
        let place = move |(at, bin): (usize, &CalibrationBin)| {
            let from = at as f64 * width;
            (from + 0.06 * width, from + 0.94 * width, *bin)
        };
        calibration
            .bins
            .iter()
            .enumerate()
            .map(place)
            .filter(|(.., bin)| bin.samples > 0)
    };
    // A bar of few samples says little, and is pale.
    let shade =
        |bin: &CalibrationBin| 0.15 + 0.6 * (bin.samples as f64 / evaluation.samples as f64).powf(0.25);
    document(SIDE, SIDE, |area| {
        let title = format!("Expected calibration error {:.2} %", 100.0 * calibration.error);
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .caption(title, font(18, INK))
            .set_label_area_size(LabelAreaPosition::Left, 52)
            .set_label_area_size(LabelAreaPosition::Bottom, 44)
            .build_cartesian_2d(0.0..1.0, 0.0..TOP)
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .x_desc("highest score")
            .y_desc("part labelled right")
            .x_labels(6)
            .y_labels(7)
            .x_label_formatter(&|x| format!("{x:.1}"))
            .y_label_formatter(&|y| {
                if *y > 1.01 {
                    String::new()
                } else {
                    format!("{y:.1}")
                }
            })
            .label_style(font(14, INK))
            .axis_desc_style(font(15, INK))
            .bold_line_style(GRID)
            .light_line_style(WHITE.mix(0.0))
            .axis_style(PALE)
            .draw()
            .map_err(drawing)?;
        chart
            .draw_series(bins().map(|(from, to, bin)| {
                Rectangle::new([(from, 0.0), (to, bin.accuracy)], BLUE.mix(shade(&bin)).filled())
            }))
            .map_err(drawing)?
            .label("part labelled right (paler: fewer samples)")
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
        let diagonal = [(0.0, 0.0), (1.0, 1.0)];
        chart
            .draw_series(DashedLineSeries::new(diagonal, 5, 4, PALE.stroke_width(1)))
            .map_err(drawing)?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(font(13, INK))
            .background_style(WHITE.mix(0.85))
            .draw()
            .map_err(drawing)?;
        Ok(())
    })
}
