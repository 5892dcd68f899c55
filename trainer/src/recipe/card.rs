//! The model card of a classifier that was trained on a published image set.

use std::fmt::{Result, Write as _};

use super::{
    Augmentation, Recipe,
    model::{Comparison, ImageModel},
};
use crate::{
    evaluate::Evaluation,
    export::{
        Measured,
        card::{graph_facts, kept_epoch, label_table, percent, settings},
    },
    network::{Precision, describe as describe_layers},
    transform::Transform,
};

/// What was measured in addition to [`Measured`].
pub(super) struct Further {
    /// The test images, transformed.
    pub(super) transformed: Vec<Evaluation>,
    /// Another model directory on the same test images.
    pub(super) compared: Option<Comparison>,
}

/// The text of `README.md`. All figures of quality and speed come from the exported files.
pub(super) fn text(model: &ImageModel<'_>, measured: &Measured, further: &Further) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut card, model, measured, further)
        .and_then(|()| quality(&mut card, model, measured, further))
        .and_then(|()| label_table(&mut card, &measured.compared, "images"))
        .and_then(|()| data(&mut card, model))
        .and_then(|()| training(&mut card, model));
    card += "\n## Use and limits\n\n";
    card += &model.task.recipe.limits;
    card += "\n";
    card
}

fn head(card: &mut String, model: &ImageModel<'_>, measured: &Measured, further: &Further) -> Result {
    let (recipe, data) = (&model.task.recipe, model.data);
    writeln!(card, "# {}\n", recipe.title)?;
    writeln!(
        card,
        "{} Test accuracy: {} ({} images; {}).\n",
        recipe.summary,
        percent(measured.compared.accuracy),
        measured.compared.samples,
        data.title()
    )?;
    writeln!(card, "Made with\n\n```sh")?;
    if data.is_published() {
        writeln!(card, "trainer fetch {}", data.set.name())?;
    }
    let compared = further.compared.as_ref();
    if let Some(other) = compared.and_then(|compared| compared.recipe(recipe)) {
        writeln!(
            card,
            "trainer train {} --network {}",
            other.target.name(),
            other.network
        )?;
    }
    writeln!(card, "{}\n```\n", model.request.command)
}

fn quality(card: &mut String, model: &ImageModel<'_>, measured: &Measured, further: &Further) -> Result {
    let test = &measured.compared;
    writeln!(
        card,
        "## Evaluation\n\nMeasured on the exported files with ONNX Runtime and the preprocessing that the server uses \
         (`trainer evaluate`).\n"
    )?;
    writeln!(card, "| test images | accuracy |\n|---|---|")?;
    writeln!(
        card,
        "| all {}, as published | **{}** |",
        test.samples,
        percent(test.accuracy)
    )?;
    for evaluation in &further.transformed {
        writeln!(
            card,
            "| {} | {} |",
            describe(evaluation.transform),
            percent(evaluation.accuracy)
        )?;
    }
    graph_facts(card, measured, model.trained.network.parameters())?;
    let Some(compared) = &further.compared else {
        return Ok(());
    };
    let network = compared.network.as_deref().unwrap_or("unknown");
    let description = compared
        .recipe(&model.task.recipe)
        .and_then(|recipe| recipe.comparison);
    writeln!(
        card,
        "* For comparison: {} on the same test images with {}.",
        percent(compared.test.accuracy),
        description.map_or_else(|| format!("the network `{network}`"), str::to_owned)
    )
}

fn data(card: &mut String, model: &ImageModel<'_>) -> Result {
    let (training, validation) = model.split;
    writeln!(
        card,
        "\n## Data\n\n{}. The first {training} training images were trained on; the last {validation} are the validation \
         images, which chose the epoch. No test image was used for either; `docs/training.md` says how the recipe was \
         chosen and which test figures were known then. MD5 sums of the files:\n",
        model.data.title()
    )?;
    for (file, sum) in &model.data.sums {
        writeln!(card, "* `{}` {sum}", file.name)?;
    }
    Ok(())
}

fn training(card: &mut String, model: &ImageModel<'_>) -> Result {
    let (recipe, config) = (&model.task.recipe, &model.request.config);
    writeln!(card, "\n## Network and training\n\n{}\n", network(recipe))?;
    *card += &settings(config);
    if config.precision == Precision::Bf16 {
        *card += " Training computed the convolutions in bfloat16; the exported weights are 32-bit.";
    }
    if config.augment {
        augmentation(card, recipe.augmentation)?;
    }
    if config.average_decay > 0.0 {
        *card += " The weights are a running average over the steps.";
    }
    let trained = &model.trained;
    writeln!(
        card,
        "\n{}",
        kept_epoch(trained.best, trained.history.len(), "validation images")
    )
}

fn augmentation(card: &mut String, augmentation: Augmentation) -> Result {
    match augmentation {
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
    Ok(())
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
