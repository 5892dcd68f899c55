//! The model card of a classifier of an image folder.

use std::fmt::{Result, Write as _};

use super::{Measured, export::Trained};
use crate::{data::image_folder::Split, evaluate::Evaluation};

/// Writes the text of `README.md`. The figures come from measurements of the exported files.
pub(super) fn text(trained: &Trained<'_>, measured: &Measured) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut card, trained, measured)
        .and_then(|()| quality(&mut card, measured))
        .and_then(|()| data(&mut card, trained))
        .and_then(|()| training(&mut card, trained));
    card += "\n## Use and limits\n\nIt knows only images like those that it was trained on: any image gets one of its labels, often \
             with a high score. `golden/` contains a validation image of each class, reduced in size.\n";
    card
}

fn percent(evaluation: &Evaluation) -> String {
    format!("{:.2} %", 100.0 * evaluation.accuracy)
}

fn head(card: &mut String, trained: &Trained<'_>, measured: &Measured) -> Result {
    let known = measured.best_known();
    writeln!(card, "# Images like those in {}\n", trained.name())?;
    writeln!(
        card,
        "Tells {} classes apart: {}. {} accuracy: {} ({} images).\n",
        trained.classes().len(),
        trained.classes().join(", "),
        if measured.test.is_some() {
            "Test"
        } else {
            "Validation"
        },
        percent(known),
        known.samples,
    )?;
    writeln!(card, "Made with\n\n```sh\n{}\n```\n", trained.request.command)
}

fn quality(card: &mut String, measured: &Measured) -> Result {
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
            "| {name} | {} | {} | {:.2} % |",
            evaluation.samples,
            percent(evaluation),
            100.0 * evaluation.calibration.error
        )
    };
    if let Some(test) = &measured.test {
        row("test: no choice depended on them", test)?;
    }
    row(
        "validation: they chose the epoch, so their figures are slightly too good",
        &measured.validation,
    )?;
    let known = measured.best_known();
    writeln!(
        card,
        "\n* ONNX Runtime and libtorch agree on every validation image; the largest difference in a probability is {:.1e}.\n\
         * `model.onnx`: {} bytes.\n\
         * {:.0} microseconds an image (the graph alone, batch of 1, one thread, median of 1000 runs on the machine that \
         exported it).\n",
        measured.agreement, measured.bytes, known.microseconds
    )?;
    writeln!(
        card,
        "| class | precision | recall | F1 | images |\n|---|---|---|---|---|"
    )?;
    let rows = known
        .classes
        .iter()
        .map(|class| (class.label.as_str(), class.figures, class.support));
    for (label, figures, support) in rows.chain([("macro average", known.macro_average, known.samples)]) {
        writeln!(
            card,
            "| {} | {:.4} | {:.4} | {:.4} | {support} |",
            label.replace('|', "\\|"),
            figures.precision,
            figures.recall,
            figures.f1
        )?;
    }
    Ok(())
}

fn data(card: &mut String, trained: &Trained<'_>) -> Result {
    let folder = trained.folder;
    writeln!(card, "\n## Data\n")?;
    writeln!(card, "| class | training | validation |\n|---|---|---|")?;
    let counts = folder
        .training
        .counts()
        .into_iter()
        .zip(folder.validation.counts());
    for (class, (training, validation)) in trained.classes().iter().zip(counts) {
        writeln!(
            card,
            "| {} | {training} | {validation} |",
            class.replace('|', "\\|")
        )?;
    }
    match folder.split {
        Split::Given => writeln!(card, "\nThe validation images have a directory of their own.")?,
        Split::Drawn(part) => writeln!(
            card,
            "\nThe validation images are {:.0} % of each class, drawn with seed {}.",
            100.0 * part,
            trained.request.config.seed
        )?,
    }
    if !folder.skipped.is_empty() {
        writeln!(
            card,
            "{} files were skipped because they are not images or cannot be decoded.",
            folder.skipped.len()
        )?;
    }
    if !folder.duplicates.is_empty() {
        writeln!(
            card,
            "{} validation or test images are also training images, so the figures are too good.",
            folder.duplicates.len()
        )?;
    }
    Ok(())
}

fn training(card: &mut String, trained: &Trained<'_>) -> Result {
    let (config, options) = (&trained.request.config, &trained.request.given.options);
    writeln!(card, "\n## Network and training\n")?;
    let variation = format!(
        "a random part with {:.0} to 100 % of the area is cut out{}{}",
        100.0 * options.variation.crop,
        if options.variation.flip {
            ", half of the parts are mirrored"
        } else {
            ""
        },
        if options.variation.colour > 0.0 {
            format!(
                ", brightness, contrast and saturation are changed by up to {:.0} %",
                100.0 * options.variation.colour
            )
        } else {
            String::new()
        }
    );
    if let Some(donor) = trained.donor {
        writeln!(
            card,
            "Transfer learning: the graph of `{}`, with its own preprocessing and unchanged, computes the {} features before \
             its last dense layer ({}). A new dense layer takes its place and is all that was trained ({} numbers).{}\n",
            donor.bundle.directory.display(),
            donor.backbone.width(),
            donor.backbone.layer(),
            trained.network.parameters(),
            if options.views > 1 {
                format!(
                    " Each training image is used in {} versions: the image itself and changed ones ({variation}).",
                    options.views
                )
            } else {
                String::new()
            }
        )?;
    } else {
        writeln!(
            card,
            "A compact residual network for {side} x {side} pixels with {} trained parameters, trained from scratch. In the \
             exported graph, batch normalisation is folded into the convolutions.{}\n",
            trained.network.parameters(),
            if config.augment {
                format!(" Training changes each image every time: {variation}.")
            } else {
                String::new()
            },
            side = options.size
        )?;
    }
    writeln!(
        card,
        "{} epochs in batches of {}, {}, learning rate {} ({}), weight decay {}, label smoothing {}, dropout {}, \
         seed {}. The weights of epoch {} of {} were kept, the best on the validation images.",
        config.epochs,
        config.batch_size,
        config.optimizer.title(),
        config.learning_rate,
        config.schedule.describe(),
        config.weight_decay,
        config.label_smoothing,
        config.dropout,
        config.seed,
        trained.best,
        trained.history.len()
    )
}
