//! The model card of a classifier of reviews.

use std::fmt::{Result, Write as _};

use classifier::text::Truncation;

use super::{
    HELD_OUT, Kind, LENGTH, STRENGTH,
    model::{Further, ReviewModel},
    ngrams,
};
use crate::{
    evaluate::Evaluation,
    export::{
        Measured, TrainedModel as _,
        card::{kept_epoch, label_table, percent, settings},
    },
};

/// The text of `README.md`. All figures of quality and speed come from the exported files, except
/// those on the reviews held out.
pub(super) fn text(model: &ReviewModel<'_>, measured: &Measured, further: &Further) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut card, model, measured, further)
        .and_then(|()| quality(&mut card, model, &measured.compared, further))
        .and_then(|()| label_table(&mut card, &measured.compared, "reviews"))
        .and_then(|()| speed(&mut card, measured, further))
        .and_then(|()| data(&mut card, model))
        .and_then(|()| training(&mut card, model));
    card += "\n## Use and limits\n\nEnglish reviews of movies from before 2011 that are clearly positive or negative: the data has no \
             reviews with 5 or 6 of 10 stars. Other texts get a label too, often with a high score. The classifier does not judge \
             news, irony or other languages, and the score of a text without known words means nothing. Names of actors and \
             directors have weights like any other word.\n";
    card
}

fn head(card: &mut String, model: &ReviewModel<'_>, measured: &Measured, further: &Further) -> Result {
    writeln!(card, "# Sentiment of reviews ({})\n", model.kind().name())?;
    writeln!(
        card,
        "Tells whether a review is negative or positive. Test accuracy: {} ({} reviews; {}).\n",
        percent(measured.compared.accuracy),
        measured.compared.samples,
        model.data_title()
    )?;
    writeln!(card, "Made with\n\n```sh\ntrainer fetch imdb")?;
    if model.kind().has_glove() {
        writeln!(card, "trainer fetch glove")?;
    }
    for (kind, _) in &further.others {
        writeln!(card, "trainer train sentiment --network {}", kind.name())?;
    }
    writeln!(card, "{}\n```\n", model.request.command)
}

fn quality(card: &mut String, model: &ReviewModel<'_>, test: &Evaluation, further: &Further) -> Result {
    writeln!(
        card,
        "## Evaluation\n\nMeasured on the exported files with ONNX Runtime and the tokenizer that the server uses (`trainer evaluate`), on \
         all {} test reviews.\n",
        test.samples
    )?;
    writeln!(
        card,
        "| classifier | accuracy | macro F1 | calibration error |\n|---|---|---|---|"
    )?;
    let mut row = |kind: Kind, evaluation: &Evaluation, mark: &str| {
        writeln!(
            card,
            "| {} (`{}`) | {mark}{}{mark} | {:.4} | {:.4} |",
            kind.describe(),
            kind.name(),
            percent(evaluation.accuracy),
            evaluation.macro_average.f1,
            evaluation.calibration.error,
        )
    };
    row(model.kind(), test, "**")?;
    for (kind, evaluation) in &further.others {
        row(*kind, evaluation, "")?;
    }
    Ok(())
}

fn speed(card: &mut String, measured: &Measured, further: &Further) -> Result {
    writeln!(
        card,
        "\nTime for one review (the graph alone, batch of 1, one thread, median of 300 runs on the machine that exported it):\n"
    )?;
    let (length, time) = further.median;
    writeln!(
        card,
        "* {time:.0} microseconds at the median length of {length} tokens."
    )?;
    if let Some(time) = further.longest {
        writeln!(
            card,
            "* {time:.0} microseconds at the maximum length of {LENGTH} tokens, to which {} of the test reviews are cut.",
            further.cut
        )?;
    }
    writeln!(
        card,
        "* `model.onnx`: {} bytes.\n\
         * ONNX Runtime and the trained parts agree on every test review; the largest difference in a score is {:.1e}.",
        measured.bytes, measured.agreement
    )
}

fn data(card: &mut String, model: &ReviewModel<'_>) -> Result {
    let (training, held_out) = (model.prepared.learned.rows.len(), model.prepared.known.rows.len());
    writeln!(
        card,
        "\n## Data\n\n{}. Training reviews whose text is also in the test split are left out. Of the others, {training} are \
         trained on and {held_out} are held out: the last 1/{HELD_OUT} of each label by number. Neighbouring numbers are \
         reviews of one movie, so hardly any movie is on both sides, as in the official split; on a random part, the accuracy \
         would be about a point too high. The held-out reviews chose the epoch, the blend and the truncation. The weights of \
         the word sequences were then computed again from all {} reviews, with nothing else changed. No test review was \
         trained on or chose anything; `docs/training.md` says how the recipe was chosen.",
        model.data_title(),
        training + held_out
    )
}

fn training(card: &mut String, model: &ReviewModel<'_>) -> Result {
    writeln!(card, "\n## Parts and training\n")?;
    writeln!(
        card,
        "**Tokens.** Text is lower-cased, HTML line breaks become spaces, words and punctuation are separated, and contractions \
         are split as in GloVe (`ca n't`). The vocabulary has {} entries, the words in at least 3 training reviews; all \
         others are unknown. Of a review with more than {LENGTH} tokens, the graph sees a quarter of them from its beginning \
         and the rest from its end.\n",
        model.prepared.vocabulary.len()
    )?;
    if let Some(table) = &model.parts.table {
        writeln!(
            card,
            "**Word sequences.** The features are the words of a review, its sequences of two and three words, and its pairs of \
             words with one to three others between them. Each counts once, is scaled by its log-count ratio and weighted by a \
             logistic regression (inverse regularisation {STRENGTH}). The graph hashes the token ids into a table of {} \
             bytes, {} of which hold a weight.\n",
            ngrams::PLACES,
            table.taken()
        )?;
    }
    network(card, model)?;
    let [sequences, network, both] = model
        .held_out
        .map(|accuracy| accuracy.map_or("-".to_owned(), percent));
    let blend = model.parts.blend;
    writeln!(
        card,
        "Accuracy on the held-out reviews: word sequences {sequences}, network {network}, both {both}. The logits are combined \
         as {:.3} x sequences + {:.3} x network + {:.3}; a logistic regression on the same reviews found these weights.",
        blend.weights[0], blend.weights[1], blend.bias
    )?;
    cuts(card, model)
}

fn network(card: &mut String, model: &ReviewModel<'_>) -> Result {
    let (Some(network), Some(trained)) = (&model.prepared.network, &model.trained) else {
        return Ok(());
    };
    if network.glove_words > 0 {
        writeln!(
            card,
            "**Vectors.** GloVe 6B with 100 numbers for the 20,000 most frequent words, {} of which GloVe contains; stored as \
                 bytes.\n",
            network.glove_words
        )?;
    }
    writeln!(
        card,
        "**Network.** {} {}\n",
        settings(&model.request.config),
        kept_epoch(trained.best, trained.history.len(), "held-out reviews")
    )
}

fn cuts(card: &mut String, model: &ReviewModel<'_>) -> Result {
    if model.cuts.is_empty() {
        return Ok(());
    }
    writeln!(
        card,
        "\nAccuracy on the held-out reviews when they are cut:\n\n| tokens | head | tail | head and tail |\n|---|---|---|---|"
    )?;
    let mut lengths: Vec<usize> = model.cuts.iter().map(|cut| cut.length).collect();
    lengths.dedup();
    for length in lengths {
        let of = |truncation: Truncation| {
            let mut cuts = model.cuts.iter();
            let found = cuts.find(|cut| cut.truncation == truncation && cut.length == length);
            found.map_or("-".to_owned(), |cut| percent(cut.accuracy))
        };
        writeln!(
            card,
            "| {length} | {} | {} | {} |",
            of(Truncation::Head),
            of(Truncation::Tail),
            of(Truncation::HeadTail)
        )?;
    }
    Ok(())
}
