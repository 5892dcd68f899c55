//! The model card of a classifier of one's own pictures.

use std::fmt::{Result, Write as _};

use super::{Measured, export::Trained};
use crate::{data::image_folder::Split, evaluate::Evaluation};

/// The text of `README.md`. All figures of quality and speed are those of `measured`, which were taken from the
/// exported files.
pub(super) fn text(trained: &Trained<'_>, measured: &Measured) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut card, trained, measured)
        .and_then(|()| quality(&mut card, measured))
        .and_then(|()| data(&mut card, trained))
        .and_then(|()| training(&mut card, trained));
    card += "\n## Use and limits\n\nIt knows pictures like those that it was trained on, and no others: any picture gets one of its \
             labels, often with a high score. `golden/` holds a validation picture of each class, made small.\n";
    card
}

fn percent(evaluation: &Evaluation) -> String {
    format!("{:.2} %", 100.0 * evaluation.accuracy)
}

fn head(card: &mut String, trained: &Trained<'_>, measured: &Measured) -> Result {
    let known = measured.best_known();
    writeln!(card, "# Pictures like those in {}\n", trained.name())?;
    writeln!(
        card,
        "Tells {} classes apart: {}. {} right on {} {} pictures.\n",
        trained.classes().len(),
        trained.classes().join(", "),
        percent(known),
        known.samples,
        if measured.test.is_some() {
            "test"
        } else {
            "validation"
        },
    )?;
    writeln!(card, "Made by\n\n```sh\n{}\n```\n", trained.request.command)
}

fn quality(card: &mut String, measured: &Measured) -> Result {
    writeln!(
        card,
        "## Measured\n\nOn the exported files, through ONNX Runtime and the preprocessing that the server uses.\n"
    )?;
    writeln!(
        card,
        "| pictures | number | accuracy | calibration error |\n|---|---|---|---|"
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
        row("test: nothing was chosen with them", test)?;
    }
    row(
        "validation: they chose the epoch, so this is a little too good",
        &measured.validation,
    )?;
    let known = measured.best_known();
    writeln!(
        card,
        "\n* ONNX Runtime and libtorch agree on every validation picture: largest difference in a probability {:.1e}.\n\
         * `model.onnx`: {} bytes.\n\
         * {:.0} microseconds a picture (the graph, batch of 1, one thread, median of 1000 runs on the machine that \
         exported it).\n",
        measured.agreement, measured.bytes, known.microseconds
    )?;
    writeln!(
        card,
        "| class | precision | recall | F1 | pictures |\n|---|---|---|---|---|"
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
        Split::Given => writeln!(card, "\nThe validation pictures lay in a folder of their own.")?,
        Split::Drawn(part) => writeln!(
            card,
            "\nThe validation pictures are {:.0} % of each class, drawn with seed {}.",
            100.0 * part,
            trained.request.config.seed
        )?,
    }
    if !folder.skipped.is_empty() {
        writeln!(
            card,
            "{} files were skipped, for they are no pictures that can be read.",
            folder.skipped.len()
        )?;
    }
    if !folder.duplicates.is_empty() {
        writeln!(
            card,
            "{} pictures for validation or test are also among those for training, so the figures are too good.",
            folder.duplicates.len()
        )?;
    }
    Ok(())
}

fn training(card: &mut String, trained: &Trained<'_>) -> Result {
    let (config, options) = (&trained.request.config, &trained.request.given.options);
    writeln!(card, "\n## Network and training\n")?;
    let variation = format!(
        "a part of {:.0} to 100 % of the area is cut out{}{}",
        100.0 * options.variation.crop,
        if options.variation.flip {
            ", every second one mirrored"
        } else {
            ""
        },
        if options.variation.colour > 0.0 {
            format!(
                ", brightness, contrast and saturation changed by up to {:.0} %",
                100.0 * options.variation.colour
            )
        } else {
            String::new()
        }
    );
    if let Some(donor) = trained.donor {
        writeln!(
            card,
            "Transfer: the graph of `{}` up to the {} features before its last dense layer ({}), unchanged, with its own \
             preprocessing; behind them one new dense layer, which is all that was trained ({} numbers).{}\n",
            donor.bundle.directory.display(),
            donor.backbone.width(),
            donor.backbone.layer(),
            trained.network.parameters(),
            if options.views > 1 {
                format!(
                    " Each training picture counts {} times: as it is, and changed ({variation}).",
                    options.views
                )
            } else {
                String::new()
            }
        )?;
    } else {
        writeln!(
            card,
            "A compact residual network for {side} x {side} pixels, {} trained parameters, from scratch. In the exported \
             graph, batch normalisation is part of the convolutions.{}\n",
            trained.network.parameters(),
            if config.augment {
                format!(" Training changes pictures each time: {variation}.")
            } else {
                String::new()
            },
            side = options.size
        )?;
    }
    writeln!(
        card,
        "{} epochs in batches of {}, {:?} with a learning rate of {} ({}), weight decay {}, label smoothing {}, dropout {}, \
         seed {}. The weights of epoch {} of {} were kept, the best on the validation pictures.",
        config.epochs,
        config.batch_size,
        config.optimizer,
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
