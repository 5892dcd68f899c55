//! The model card of a classifier of a published data set.

use std::fmt::{Result, Write as _};

use super::{Compared, Measurements, Trained};
use crate::{
    evaluate::Evaluation,
    network::{Precision, describe as describe_layers},
    optimizer::Rule,
    recipe::{self, Augmentation, Recipe},
    transform::Transform,
};

/// Writes the text of `README.md`. The figures come from measurements of the exported files.
pub(super) fn text(trained: &Trained<'_>, measured: &Measurements) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut card, trained, measured)
        .and_then(|()| quality(&mut card, trained, measured))
        .and_then(|()| classes(&mut card, &measured.test))
        .and_then(|()| data(&mut card, trained))
        .and_then(|()| training(&mut card, trained));
    limits(&mut card, trained.recipe);
    card
}

fn percent(evaluation: &Evaluation) -> String {
    format!("{:.2} %", 100.0 * evaluation.accuracy)
}

fn head(card: &mut String, trained: &Trained<'_>, measured: &Measurements) -> Result {
    let recipe = trained.recipe;
    writeln!(card, "# {}\n", recipe.title)?;
    writeln!(
        card,
        "{} Test accuracy: {} ({} images; {}).\n",
        recipe.summary,
        percent(&measured.test),
        measured.test.samples,
        trained.data.title()
    )?;
    writeln!(card, "Made with\n\n```sh")?;
    if trained.data.is_published() {
        writeln!(card, "trainer fetch {}", trained.data.set.name())?;
    }
    if let Some(other) = measured
        .compared
        .as_ref()
        .and_then(|compared| known(recipe, compared))
    {
        writeln!(
            card,
            "trainer train {} --network {}",
            other.target.name(),
            other.network
        )?;
    }
    writeln!(card, "{}\n```\n", trained.command)
}

fn quality(card: &mut String, trained: &Trained<'_>, measured: &Measurements) -> Result {
    let test = &measured.test;
    writeln!(card, "## Evaluation\n")?;
    writeln!(
        card,
        "Measured on the exported files with ONNX Runtime and the preprocessing that the server uses (`trainer evaluate`).\n"
    )?;
    writeln!(card, "| test images | accuracy |\n|---|---|")?;
    writeln!(
        card,
        "| all {}, as published | **{}** |",
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
        "\n* ONNX Runtime and libtorch agree on every test image; the largest difference in a probability is {:.1e}.",
        measured.agreement
    )?;
    writeln!(
        card,
        "* `model.onnx`: {} bytes, {} trained parameters.",
        measured.bytes, measured.parameters
    )?;
    writeln!(
        card,
        "* {:.0} microseconds an image (the graph alone, batch of 1, one thread, median of 1000 runs on the machine that \
         exported it).",
        test.microseconds
    )?;
    let Some(compared) = &measured.compared else {
        return Ok(());
    };
    let network = compared.network.as_deref().unwrap_or("unknown");
    let what = known(trained.recipe, compared).and_then(|recipe| recipe.comparison);
    writeln!(
        card,
        "* For comparison: {} on the same test images with {}.",
        percent(&compared.test),
        what.map_or_else(|| format!("the network `{network}`"), str::to_owned)
    )
}

/// The recipe of a compared network.
fn known(recipe: &Recipe, compared: &Compared) -> Option<Recipe> {
    recipe::find(recipe.target, Some(compared.network.as_deref()?)).ok()
}

fn classes(card: &mut String, test: &Evaluation) -> Result {
    writeln!(
        card,
        "\n| label | precision | recall | F1 | images |\n|---|---|---|---|---|"
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
        "\n## Data\n\n{}. The first {training} training images were trained on; the last {validation} are the validation \
         images, which chose the epoch. No test image was used for either; `docs/training.md` says how the recipe was \
         chosen and which test figures were known then. MD5 sums of the files:\n",
        trained.data.title()
    )?;
    for (file, sum) in &trained.data.sums {
        writeln!(card, "* `{}` {sum}", file.name)?;
    }
    Ok(())
}

fn training(card: &mut String, trained: &Trained<'_>) -> Result {
    writeln!(card, "\n## Network and training\n\n{}\n", network(trained.recipe))?;
    let config = trained.config;
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
    let mut unless = |value: f64, nothing: f64, what: &str| {
        if value != nothing {
            settings.push(format!("{what} {value}"));
        }
    };
    unless(config.weight_decay, 0.0, "weight decay");
    unless(
        config.shift_rate,
        1.0,
        "learning rate of the shifts of batch normalisation times",
    );
    unless(config.dropout, 0.0, "dropout");
    unless(config.label_smoothing, 0.0, "label smoothing");
    unless(config.mixup, 0.0, "mixup");
    unless(config.clip, 0.0, "gradients clipped to a norm of");
    write!(card, "{}, seed {}.", settings.join(", "), config.seed)?;
    if config.precision == Precision::Bf16 {
        *card += " Training computed the convolutions in bfloat16; the exported weights are 32-bit.";
    }
    if config.augment {
        match trained.recipe.augmentation {
            Augmentation::Ink => {
                *card += " Each time an image is used, it is rotated, sheared, scaled, shifted and bent at random, \
                          its strokes are thickened or thinned, and it is blurred or its contrast raised.";
            }
            Augmentation::Jitter(jitter) => {
                if jitter.flip {
                    *card += " Every image is mirrored in every second epoch.";
                }
                if jitter.shift > 0 {
                    write!(card, " It is shifted by up to {} pixels each way.", jitter.shift)?;
                }
                if jitter.erase > 0 {
                    let side = jitter.erase;
                    write!(card, " A square of {side} x {side} pixels is erased.")?;
                }
            }
        }
    }
    if config.average_decay > 0.0 {
        *card += " The weights are a running average over the steps.";
    }
    *card += "\n";
    writeln!(
        card,
        "The weights of epoch {} of {} were kept, the best on the validation images.",
        trained.best,
        trained.history.len()
    )
}

fn limits(card: &mut String, recipe: &Recipe) {
    *card += "\n## Use and limits\n\n";
    *card += &recipe.limits;
    *card += "\n";
}

fn describe(transform: Transform) -> &'static str {
    match transform {
        Transform::None => "as published",
        Transform::Canvas => {
            "dark on light, at a random position on a canvas 2 to 4 times as wide, scaled to 280 x 280 (`--transform canvas`)"
        }
        Transform::Jpeg => "the same as JPEG of quality 50 (`--transform jpeg`)",
        Transform::Thin => "the same with strokes 2 of 280 pixels thinner on every side (`--transform thin`)",
        Transform::Thick => {
            "the same with strokes 2 of 280 pixels thicker on every side (`--transform thick`)"
        }
    }
}

fn network(recipe: &Recipe) -> String {
    let [channels, height, width] = recipe.input;
    format!(
        "Input {height} x {width}, {channels} channel{}; {}. In the exported graph, batch normalisation is folded into \
         the convolutions.",
        if channels == 1 { "" } else { "s" },
        describe_layers(&recipe.layers),
    )
}
