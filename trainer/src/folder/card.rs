//! The model card of a classifier that was trained on a directory of images.

use std::fmt::{Result, Write as _};

use super::model::FolderModel;
use crate::{
    data::image_folder::Split,
    evaluate::Evaluation,
    export::{
        Measured, TrainedModel as _,
        card::{cell, graph_facts, kept_epoch, label_table, percent, settings},
    },
};

/// The text of `README.md`. All figures of quality and speed come from the exported files.
pub(super) fn text(model: &FolderModel<'_>, measured: &Measured) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut card, model, measured)
        .and_then(|()| quality(&mut card, model, measured))
        .and_then(|()| label_table(&mut card, measured.reported(), "images"))
        .and_then(|()| data(&mut card, model))
        .and_then(|()| training(&mut card, model));
    card += "\n## Use and limits\n\nIt knows only images like those that it was trained on: any image gets one of its labels, often \
             with a high score. `golden/` contains a validation image of each class, reduced in size.\n";
    card
}

fn head(card: &mut String, model: &FolderModel<'_>, measured: &Measured) -> Result {
    let reported = measured.reported();
    writeln!(card, "# Images like those in {}\n", model.name())?;
    writeln!(
        card,
        "Tells {} classes apart: {}. {} accuracy: {} ({} images).\n",
        model.labels().len(),
        model.labels().join(", "),
        if measured.test.is_some() {
            "Test"
        } else {
            "Validation"
        },
        percent(reported.accuracy),
        reported.samples
    )?;
    writeln!(card, "Made with\n\n```sh\n{}\n```\n", model.request.command)
}

fn quality(card: &mut String, model: &FolderModel<'_>, measured: &Measured) -> Result {
    writeln!(
        card,
        "## Evaluation\n\nMeasured on the exported files with ONNX Runtime and the preprocessing that the server uses.\n"
    )?;
    writeln!(
        card,
        "| images | number | accuracy | calibration error |\n|---|---|---|---|"
    )?;
    let mut row = |name: &str, evaluation: &Evaluation| {
        writeln!(
            card,
            "| {name} | {} | {} | {} |",
            evaluation.samples,
            percent(evaluation.accuracy),
            percent(evaluation.calibration.error)
        )
    };
    if let Some(test) = &measured.test {
        row("test: no choice depended on them", test)?;
    }
    row(
        "validation: they chose the epoch, so their figures are slightly too good",
        &measured.compared,
    )?;
    graph_facts(card, measured, model.trained.network.parameters())
}

fn data(card: &mut String, model: &FolderModel<'_>) -> Result {
    let images = &model.prepared.images;
    writeln!(card, "\n## Data\n")?;
    writeln!(card, "| class | training | validation |\n|---|---|---|")?;
    let counts = images
        .training
        .counts()
        .into_iter()
        .zip(images.validation.counts());
    for (class, (training, validation)) in model.labels().iter().zip(counts) {
        writeln!(card, "| {} | {training} | {validation} |", cell(class))?;
    }
    match images.split {
        Split::Given => writeln!(card, "\nThe validation images have a directory of their own.")?,
        Split::Drawn(part) => writeln!(
            card,
            "\nThe validation images are {:.0} % of each class, drawn with seed {}.",
            100.0 * part,
            model.request.config.seed
        )?,
    }
    if !images.skipped.is_empty() {
        writeln!(
            card,
            "{} files were skipped because they are not images or cannot be decoded.",
            images.skipped.len()
        )?;
    }
    if !images.duplicates.is_empty() {
        writeln!(
            card,
            "{} validation or test images are also training images, so the figures are too good.",
            images.duplicates.len()
        )?;
    }
    Ok(())
}

fn training(card: &mut String, model: &FolderModel<'_>) -> Result {
    let (config, options) = (&model.request.config, &model.prepared.task.options);
    writeln!(card, "\n## Network and training\n")?;
    let variation = variation(model);
    if let Some(donor) = &model.prepared.donor {
        writeln!(
            card,
            "Transfer learning: the graph of `{}`, with its own preprocessing and unchanged, computes the {} features before \
             its last dense layer ({}). A new dense layer takes its place and is all that was trained.",
            donor.bundle.directory.display(),
            donor.backbone.width(),
            donor.backbone.layer(),
        )?;
        if options.views > 1 {
            writeln!(
                card,
                "Each training image is used in {} versions: the image itself and changed ones ({variation}).",
                options.views
            )?;
        }
    } else {
        writeln!(
            card,
            "A compact residual network for {side} x {side} pixels, trained from scratch. In the exported graph, batch \
             normalisation is folded into the convolutions.",
            side = options.size
        )?;
        if config.augment {
            writeln!(card, "Training changes each image every time: {variation}.")?;
        }
    }
    writeln!(
        card,
        "\n{} {}",
        settings(config),
        kept_epoch(
            model.trained.best,
            model.trained.history.len(),
            "validation images"
        )
    )
}

/// How training changes images, as a list.
fn variation(model: &FolderModel<'_>) -> String {
    let variation = &model.prepared.task.options.variation;
    let mut parts = vec![format!(
        "a random part with {:.0} to 100 % of the area is cut out",
        100.0 * variation.crop
    )];
    if variation.flip {
        parts.push("half of the parts are mirrored".to_owned());
    }
    if variation.colour > 0.0 {
        parts.push(format!(
            "brightness, contrast and saturation are changed by up to {:.0} %",
            100.0 * variation.colour
        ));
    }
    parts.join(", ")
}
