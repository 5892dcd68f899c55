//! Formats an evaluation for a terminal.

use std::fmt::{Result, Write as _};

use super::{Evaluation, metrics::Figures};

/// With more labels than this, the matrix does not fit a terminal and the most frequent mistakes
/// are listed instead.
const LARGEST_MATRIX: usize = 20;
const MISTAKES: usize = 10;

pub(super) fn text(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut text, evaluation)
        .and_then(|()| classes(&mut text, evaluation))
        .and_then(|()| confusion(&mut text, evaluation))
        .and_then(|()| samples(&mut text, evaluation));
    text
}

fn head(text: &mut String, evaluation: &Evaluation) -> Result {
    write!(
        text,
        "{} {}, transform {}: accuracy {:.2} %",
        evaluation.samples,
        evaluation.unit,
        evaluation.transform.name(),
        100.0 * evaluation.accuracy
    )?;
    if let Some(top_5) = evaluation.top_5 {
        write!(text, ", top 5 {:.2} %", 100.0 * top_5)?;
    }
    writeln!(
        text,
        ", calibration error {:.2} %, {:.1} us each (graph, batch 1, 1 thread)\n",
        100.0 * evaluation.calibration.error,
        evaluation.microseconds
    )
}

fn label_width(evaluation: &Evaluation) -> usize {
    let labels = evaluation.classes.iter().map(|class| class.label.chars().count());
    labels.max().unwrap_or(0).clamp(12, 40)
}

fn classes(text: &mut String, evaluation: &Evaluation) -> Result {
    let width = label_width(evaluation);
    writeln!(
        text,
        "{:>width$} {:>10} {:>10} {:>10} {:>8}",
        "label", "precision", "recall", "F1", evaluation.unit
    )?;
    let rows = evaluation
        .classes
        .iter()
        .map(|class| (class.label.as_str(), &class.figures, class.support));
    for (label, figures, support) in rows.chain([("macro", &evaluation.macro_average, evaluation.samples)]) {
        let Figures {
            precision,
            recall,
            f1,
        } = figures;
        writeln!(
            text,
            "{label:>width$} {precision:>10.4} {recall:>10.4} {f1:>10.4} {support:>8}"
        )?;
    }
    Ok(())
}

fn confusion(text: &mut String, evaluation: &Evaluation) -> Result {
    let classes = &evaluation.classes;
    if classes.len() > LARGEST_MATRIX {
        writeln!(text, "\nmost frequent mistakes")?;
        for (count, truth, given) in evaluation.mistakes().into_iter().take(MISTAKES) {
            writeln!(text, "{count:>6} x {truth} called {given}")?;
        }
        return Ok(());
    }
    writeln!(text, "\ntrue label by row, given label by column")?;
    let width = label_width(evaluation);
    // The columns are as wide as the numbers. Longer labels are cut; the rows show them in full.
    let cell = evaluation.samples.to_string().len().max(5);
    let mut row = |name: &str, cells: &mut dyn Iterator<Item = String>| -> Result {
        write!(text, "{name:>width$}")?;
        for content in cells {
            write!(text, " {:>cell$}", content.chars().take(cell).collect::<String>())?;
        }
        writeln!(text)
    };
    row("", &mut classes.iter().map(|class| class.label.clone()))?;
    for (class, counts) in classes.iter().zip(&evaluation.confusion) {
        row(&class.label, &mut counts.iter().map(ToString::to_string))?;
    }
    Ok(())
}

fn samples(text: &mut String, evaluation: &Evaluation) -> Result {
    if !evaluation.most_wrong.is_empty() {
        writeln!(text, "\nmost wrong")?;
    }
    for wrong in &evaluation.most_wrong {
        writeln!(
            text,
            "  {}: {} called {} with a score of {:.4} ({:.4} for {1})",
            wrong.name, wrong.label, wrong.given, wrong.score, wrong.true_score
        )?;
    }
    if !evaluation.slowest.is_empty() {
        writeln!(text, "\nslowest, from bytes to scores")?;
    }
    for slow in &evaluation.slowest {
        writeln!(text, "  {}: {:.0} us", slow.name, slow.microseconds)?;
    }
    Ok(())
}
