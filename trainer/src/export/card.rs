//! The parts that all model cards share.

use std::fmt::{Result, Write as _};

use super::Measured;
use crate::{evaluate::Evaluation, optimizer::Rule, training::Config};

/// A part of a whole in per cent, with two decimals.
pub fn percent(part: f64) -> String {
    format!("{:.2} %", 100.0 * part)
}

/// A label inside of a table.
pub fn cell(label: &str) -> String {
    label.replace('|', "\\|")
}

/// The table of precision, recall and F1 for each label; `unit` is the plural noun for the samples.
pub fn label_table(card: &mut String, evaluation: &Evaluation, unit: &str) -> Result {
    writeln!(
        card,
        "\n| label | precision | recall | F1 | {unit} |\n|---|---|---|---|---|"
    )?;
    let labels = evaluation
        .classes
        .iter()
        .map(|class| (class.label.as_str(), class.figures, class.support));
    let average = ("macro average", evaluation.macro_average, evaluation.samples);
    for (label, figures, support) in labels.chain([average]) {
        writeln!(
            card,
            "| {} | {:.4} | {:.4} | {:.4} | {support} |",
            cell(label),
            figures.precision,
            figures.recall,
            figures.f1
        )?;
    }
    Ok(())
}

/// The lines on the graph: how well it agrees with what was trained, its size, and for images its
/// speed.
pub fn graph_facts(card: &mut String, measured: &Measured, parameters: usize) -> Result {
    writeln!(
        card,
        "\n* ONNX Runtime and libtorch agree on every {} image; the largest difference in a probability is {:.1e}.\n\
         * `model.onnx`: {} bytes, {parameters} trained parameters.\n\
         * {:.0} microseconds an image (the graph alone, batch of 1, one thread, median of 1000 runs on the machine that \
         exported it).",
        measured.compared_split,
        measured.agreement,
        measured.bytes,
        measured.reported().microseconds
    )
}

/// The settings of a training run in one sentence.
pub fn settings(config: &Config) -> String {
    let rule = match config.optimizer {
        Rule::Sgd if config.nesterov => format!("SGD with Nesterov momentum {}", config.momentum),
        Rule::Sgd => format!("SGD with momentum {}", config.momentum),
        rule => rule.title().to_owned(),
    };
    let mut settings = vec![
        format!("{} epochs in batches of {}", config.epochs, config.batch_size),
        format!(
            "{rule}, learning rate {} ({})",
            config.learning_rate,
            config.schedule.describe()
        ),
    ];
    for (name, value, off) in [
        ("weight decay", config.weight_decay, 0.0),
        (
            "learning rate of the shifts of batch normalisation times",
            config.shift_rate,
            1.0,
        ),
        ("dropout", config.dropout, 0.0),
        ("label smoothing", config.label_smoothing, 0.0),
        ("mixup", config.mixup, 0.0),
        ("gradients clipped to a norm of", config.clip, 0.0),
    ] {
        if value != off {
            settings.push(format!("{name} {value}"));
        }
    }
    format!("{}, seed {}.", settings.join(", "), config.seed)
}

/// The sentence on the epoch that was kept.
pub fn kept_epoch(best: u32, epochs: usize, validation: &str) -> String {
    format!("The weights of epoch {best} of {epochs} were kept, the best on the {validation}.")
}
