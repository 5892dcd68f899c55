//! The model card.

use std::fmt::Write as _;

use super::{Measurements, Trained, dataset};
use crate::{
    data::mnist::FILES,
    digits::Kind,
    evaluate::Evaluation,
    network::{Layer, digits},
    transform::Transform,
};

/// The text of `README.md`. All figures of quality and speed are those of `measured`, which were taken from the
/// exported files.
pub(super) fn text(trained: &Trained<'_>, measured: &Measurements) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut card, trained, measured);
    card
}

fn write(card: &mut String, trained: &Trained<'_>, measured: &Measurements) -> std::fmt::Result {
    let dataset = dataset(trained.data);
    let test = &measured.test;
    let percent = |evaluation: &Evaluation| format!("{:.2} %", 100.0 * evaluation.accuracy);
    writeln!(card, "# Handwritten digits ({})\n", trained.kind.name())?;
    writeln!(
        card,
        "Tells which digit, 0 to 9, a picture shows. {} on the {} test pictures of {dataset}.\n",
        percent(test),
        test.samples
    )?;
    writeln!(
        card,
        "Made by\n\n```sh\ntrainer fetch mnist\n{}\n```\n",
        trained.command
    )?;

    writeln!(card, "## Measured\n")?;
    writeln!(
        card,
        "On the exported files, through ONNX Runtime and the preprocessing that the server uses (`trainer evaluate`).\n"
    )?;
    writeln!(card, "| pictures | accuracy |\n|---|---|")?;
    writeln!(
        card,
        "| the {} official test pictures | **{}** |",
        test.samples,
        percent(test)
    )?;
    for evaluation in &measured.canvas {
        writeln!(
            card,
            "| {} | {} |",
            describe(evaluation.transform),
            percent(evaluation)
        )?;
    }
    writeln!(card)?;
    writeln!(
        card,
        "* ONNX Runtime and libtorch agree on every test picture: largest difference in a probability {:.1e}.",
        measured.agreement
    )?;
    writeln!(
        card,
        "* `model.onnx`: {} bytes, {} trained parameters.",
        measured.bytes, measured.parameters
    )?;
    writeln!(
        card,
        "* {:.0} microseconds a picture (the graph, batch of 1, one thread, median of 1000 runs on the machine that \
         trained it).",
        test.microseconds
    )?;
    if let Some((directory, evaluation)) = &measured.compared {
        let what = if directory
            .components()
            .any(|part| part.as_os_str() == "digits-mlp")
        {
            "For comparison, the fully connected 784-128-64-10 network (`--network mlp`: ReLU, Adam at 0.001, batches \
             of 64, 10 epochs, no augmentation, pixels divided by 255)"
        } else {
            "For comparison, another model directory"
        };
        writeln!(
            card,
            "* {what}: {} on the same test pictures.",
            percent(evaluation)
        )?;
    }
    writeln!(
        card,
        "\n| digit | precision | recall | F1 | pictures |\n|---|---|---|---|---|"
    )?;
    let rows = test
        .classes
        .iter()
        .map(|class| (class.label.as_str(), class.figures, class.support));
    for (label, figures, support) in rows.chain([("macro average", test.macro_average, test.samples)]) {
        writeln!(
            card,
            "| {label} | {:.4} | {:.4} | {:.4} | {support} |",
            figures.precision, figures.recall, figures.f1
        )?;
    }

    writeln!(card, "\n## Data\n")?;
    let (training, validation) = trained.split;
    writeln!(
        card,
        "{dataset}. Trained on the first {training} training pictures; the last {validation} chose the epoch. \
         The test pictures were used for nothing but the figures above. MD5 sums of the files used:\n"
    )?;
    for (file, sum) in FILES.iter().zip(&trained.data.sums) {
        writeln!(card, "* `{}` {sum}", file.name)?;
    }

    writeln!(card, "\n## Network and training\n")?;
    writeln!(card, "{}\n", layers(&trained.kind.layers()))?;
    let config = trained.config;
    writeln!(
        card,
        "{} epochs in batches of {}, {:?} with a learning rate of {}{}, weight decay {}, seed {}.{}{}",
        config.epochs,
        config.batch_size,
        config.optimizer,
        config.learning_rate,
        if config.cosine {
            " (one epoch of warm-up, then a cosine)"
        } else {
            ""
        },
        config.weight_decay,
        config.seed,
        if config.augment {
            " Every picture is turned, slanted, scaled, shifted, bent, its strokes thickened or thinned, blurred or \
             strengthened at random each time."
        } else {
            ""
        },
        if config.average_decay > 0.0 {
            " The weights are a running average over the steps."
        } else {
            ""
        },
    )?;
    let best = trained.history.iter().max_by(|a, b| {
        let key = |epoch: &crate::training::Epoch| (epoch.validation_accuracy, -epoch.validation_loss);
        key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)
    });
    if let Some(best) = best {
        writeln!(
            card,
            "Epoch {} of {} was kept, the best on the validation pictures.",
            best.epoch,
            trained.history.len()
        )?;
    }

    writeln!(card, "\n## Use and limits\n")?;
    if trained.kind == Kind::Cnn {
        writeln!(
            card,
            "One digit on a plain background, dark on light or light on dark, of any size and anywhere in the picture: \
             the preprocessing finds the ink and frames it as MNIST's digits are framed. The digit must be the only \
             ink; several digits, ruled paper, shadows or photographs of surroundings mislead it. Something that is no \
             digit still gets the label of one, often with a high score. Trained on digits written by Americans about \
             1990: a 1 with a long upstroke or a crossed 7 as written elsewhere are rarer there."
        )?;
    } else {
        writeln!(
            card,
            "Kept for comparison. Reads pictures framed as MNIST's are: light ink on dark, 28 x 28 pixels, centred."
        )?;
    }
    Ok(())
}

fn describe(transform: Transform) -> &'static str {
    match transform {
        Transform::None => "as published",
        Transform::Canvas => {
            "dark on light, at a random place of a canvas 2 to 4 times as wide, scaled to 280 x 280 (`--transform canvas`)"
        }
        Transform::Jpeg => "the same as JPEG of quality 50 (`jpeg`)",
        Transform::Thin => "the same with strokes 3 of 280 pixels thinner on every side (`thin`)",
        Transform::Thick => "the same with strokes 3 of 280 pixels thicker on every side (`thick`)",
    }
}

fn layers(layers: &[Layer]) -> String {
    let steps: Vec<String> = layers
        .iter()
        .map(|layer| match *layer {
            Layer::Conv {
                outputs,
                kernel,
                stride,
                ..
            } => format!("convolution {kernel} x {kernel} to {outputs} channels, stride {stride}"),
            Layer::MaxPool(side) => format!("maximum of {side} x {side}"),
            Layer::Flatten => "flatten".to_owned(),
            Layer::Dense { outputs, .. } => format!("fully connected to {outputs}"),
        })
        .collect();
    format!(
        "Input {side} x {side}, one channel; {}. Convolutions are followed by batch normalisation (part of them in the \
         exported graph) and ReLU.",
        steps.join("; "),
        side = digits::SIDE,
    )
}
