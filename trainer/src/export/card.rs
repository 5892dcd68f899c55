//! The model card.

use std::fmt::{Result, Write as _};

use super::{Compared, Measurements, Trained, dataset};
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
    let _ = head(&mut card, trained, measured)
        .and_then(|()| quality(&mut card, measured))
        .and_then(|()| classes(&mut card, &measured.test))
        .and_then(|()| data(&mut card, trained))
        .and_then(|()| training(&mut card, trained));
    limits(&mut card, trained.kind);
    card
}

fn percent(evaluation: &Evaluation) -> String {
    format!("{:.2} %", 100.0 * evaluation.accuracy)
}

fn head(card: &mut String, trained: &Trained<'_>, measured: &Measurements) -> Result {
    writeln!(card, "# Handwritten digits ({})\n", trained.kind.name())?;
    writeln!(
        card,
        "Tells which digit, 0 to 9, a picture shows. {} right on the {} test pictures of {}.\n",
        percent(&measured.test),
        measured.test.samples,
        dataset(trained.data)
    )?;
    writeln!(card, "Made by\n\n```sh")?;
    if trained.data.is_published() {
        writeln!(card, "trainer fetch mnist")?;
    }
    if measured.compared.as_ref().is_some_and(is_mlp) {
        writeln!(card, "trainer train digits --network mlp")?;
    }
    writeln!(card, "{}\n```\n", trained.command)
}

fn quality(card: &mut String, measured: &Measurements) -> Result {
    let test = &measured.test;
    writeln!(card, "## Measured\n")?;
    writeln!(
        card,
        "On the exported files, through ONNX Runtime and the preprocessing that the server uses (`trainer evaluate`).\n"
    )?;
    writeln!(card, "| pictures | accuracy |\n|---|---|")?;
    writeln!(
        card,
        "| the {} test pictures | **{}** |",
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
    writeln!(
        card,
        "\n* ONNX Runtime and libtorch agree on every test picture: largest difference in a probability {:.1e}.",
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
         exported it).",
        test.microseconds
    )?;
    match &measured.compared {
        Some(compared) if is_mlp(compared) => writeln!(
            card,
            "* For comparison, the fully connected 784-128-64-10 network of many introductions (`--network mlp`: ReLU, \
             Adam at 0.001, batches of 64, 10 epochs, no augmentation, pixels divided by 255): {} on the same test \
             pictures. An article that trains it claims 98.4 %; its code, run in PyTorch, gave 97.4 to 97.9 %.",
            percent(&compared.test)
        ),
        Some(compared) => writeln!(
            card,
            "* For comparison, the network `{}`: {} on the same test pictures.",
            compared.network.as_deref().unwrap_or("unknown"),
            percent(&compared.test)
        ),
        None => Ok(()),
    }
}

fn is_mlp(compared: &Compared) -> bool {
    compared.network.as_deref() == Some(Kind::Mlp.name())
}

fn classes(card: &mut String, test: &Evaluation) -> Result {
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
    Ok(())
}

fn data(card: &mut String, trained: &Trained<'_>) -> Result {
    let (training, validation) = trained.split;
    writeln!(
        card,
        "\n## Data\n\n{}. Trained on the first {training} training pictures; the last {validation} chose the epoch. No \
         test picture was trained on or chose an epoch; `docs/training.md` says how the recipe was chosen, and which \
         test figures were known by then. MD5 sums of the files:\n",
        dataset(trained.data)
    )?;
    for (file, sum) in FILES.iter().zip(&trained.data.sums) {
        writeln!(card, "* `{}` {sum}", file.name)?;
    }
    Ok(())
}

fn training(card: &mut String, trained: &Trained<'_>) -> Result {
    writeln!(
        card,
        "\n## Network and training\n\n{}\n",
        layers(&trained.kind.layers())
    )?;
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
    writeln!(
        card,
        "The weights of epoch {} of {} were kept, the best on the validation pictures.",
        trained.best,
        trained.history.len()
    )
}

fn limits(card: &mut String, kind: Kind) {
    *card += "\n## Use and limits\n\n";
    *card += match kind {
        Kind::Cnn => {
            "One digit on a plain background, dark on light or light on dark, of any size and anywhere in the picture: the \
             preprocessing finds the ink and frames it as MNIST's digits are framed. The digit must be the only ink; \
             several digits, ruled paper, shadows and things in the background mislead it. A picture without a digit \
             still gets the label of one, often with a high score. MNIST's digits were written in the United States \
             around 1990: a 1 with a long upstroke or a crossed 7 is rare among them.\n"
        }
        Kind::Mlp => {
            "Kept for comparison. Reads pictures framed as MNIST's are: light ink on dark, 28 x 28 pixels, centred.\n"
        }
    };
}

fn describe(transform: Transform) -> &'static str {
    match transform {
        Transform::None => "as published",
        Transform::Canvas => {
            "dark on light, at a random place of a canvas 2 to 4 times as wide, scaled to 280 x 280 (`--transform canvas`)"
        }
        Transform::Jpeg => "the same as JPEG of quality 50 (`--transform jpeg`)",
        Transform::Thin => "the same with strokes 2 of 280 pixels thinner on every side (`--transform thin`)",
        Transform::Thick => {
            "the same with strokes 2 of 280 pixels thicker on every side (`--transform thick`)"
        }
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
            } => {
                format!("convolution {kernel} x {kernel} to {outputs} channels, stride {stride}, batch normalisation, ReLU")
            }
            Layer::MaxPool(side) => format!("maximum of {side} x {side}"),
            Layer::Flatten => "flatten".to_owned(),
            Layer::Dense { outputs, relu, .. } => {
                format!("fully connected to {outputs}{}", if relu { ", ReLU" } else { "" })
            }
        })
        .collect();
    format!(
        "Input {side} x {side}, one channel; {}. In the exported graph, batch normalisation is part of the convolutions.",
        steps.join("; "),
        side = digits::SIDE,
    )
}
