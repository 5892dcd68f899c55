//! The model card of a classifier of reviews.

use std::fmt::{Result, Write as _};

use classifier::text::Truncation;

use super::{HELD_OUT, Kind, LENGTH, STRENGTH, Trained, export::Measurements, ngrams};
use crate::evaluate::Evaluation;

/// Writes the text of `README.md`. The figures come from measurements of the exported files, except where the text says that
/// they are for the held-out reviews.
pub(super) fn text(trained: &Trained<'_>, measured: &Measurements) -> String {
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut card, trained, measured)
        .and_then(|()| quality(&mut card, trained, measured))
        .and_then(|()| data(&mut card, trained))
        .and_then(|()| training(&mut card, trained));
    card += "\n## Use and limits\n\nEnglish reviews of movies from before 2011 that are clearly positive or negative: the data has no \
             reviews with 5 or 6 of 10 stars. Other texts get a label too, often with a high score. The classifier does not judge \
             news, irony or other languages, and the score of a text without known words means nothing. Names of actors and \
             directors have weights like any other word.\n";
    card
}

fn percent(part: f64) -> String {
    format!("{:.2} %", 100.0 * part)
}

fn head(card: &mut String, trained: &Trained<'_>, measured: &Measurements) -> Result {
    writeln!(card, "# Sentiment of reviews ({})\n", trained.job.kind.name())?;
    writeln!(
        card,
        "Tells whether a review is negative or positive. Test accuracy: {} ({} reviews; {}).\n",
        percent(measured.test.accuracy),
        measured.test.samples,
        trained.job.imdb.title()
    )?;
    writeln!(card, "Made with\n\n```sh\ntrainer fetch imdb")?;
    if trained.job.kind.has_glove() {
        writeln!(card, "trainer fetch glove")?;
    }
    for (kind, _) in &measured.others {
        writeln!(card, "trainer train sentiment --network {}", kind.name())?;
    }
    writeln!(card, "{}\n```\n", trained.job.command)
}

fn quality(card: &mut String, trained: &Trained<'_>, measured: &Measurements) -> Result {
    let test = &measured.test;
    writeln!(card, "## Evaluation\n")?;
    writeln!(
        card,
        "Measured on the exported files with ONNX Runtime and the tokenizer that the server uses (`trainer evaluate`), on \
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
    row(trained.job.kind, test, "**")?;
    for (kind, evaluation) in &measured.others {
        row(*kind, evaluation, "")?;
    }
    writeln!(
        card,
        "\n| label | precision | recall | F1 | reviews |\n|---|---|---|---|---|"
    )?;
    for class in &test.classes {
        let figures = class.figures;
        writeln!(
            card,
            "| {} | {:.4} | {:.4} | {:.4} | {} |",
            class.label, figures.precision, figures.recall, figures.f1, class.support
        )?;
    }
    writeln!(
        card,
        "\nTime for one review (the graph alone, batch of 1, one thread, median of 300 runs on the machine that exported it):\n"
    )?;
    let (length, time) = measured.median;
    writeln!(
        card,
        "* {time:.0} microseconds at the median length of {length} tokens."
    )?;
    if let Some(time) = measured.longest {
        writeln!(
            card,
            "* {time:.0} microseconds at the maximum length of {LENGTH} tokens, to which {} of the test reviews are cut.",
            measured.cut
        )?;
    }
    writeln!(card, "* `model.onnx`: {} bytes.", measured.bytes)?;
    writeln!(
        card,
        "* ONNX Runtime and the trained parts agree on every test review; the largest difference in a score is {:.1e}.",
        measured.agreement
    )
}

fn data(card: &mut String, trained: &Trained<'_>) -> Result {
    let (training, held_out) = trained.split;
    writeln!(
        card,
        "\n## Data\n\n{}. Training reviews whose text is also in the test split are left out. Of the others, {training} are \
         trained on and {held_out} are held out: the last 1/{HELD_OUT} of each label by number. Neighbouring numbers are \
         reviews of one movie, so hardly any movie is on both sides, as in the official split; on a random part, the accuracy \
         would be about a point too high. The held-out reviews chose the epoch, the blend and the truncation. The weights of \
         the word sequences were then computed again from all {} reviews, with nothing else changed. No test review was \
         trained on or chose anything; `docs/training.md` says how the recipe was chosen.",
        trained.job.imdb.title(),
        training + held_out
    )
}

fn training(card: &mut String, trained: &Trained<'_>) -> Result {
    let config = trained.job.config;
    writeln!(card, "\n## Parts and training\n")?;
    writeln!(
        card,
        "**Tokens.** Text is lower-cased, HTML line breaks become spaces, words and punctuation are separated, and contractions \
         are split as in GloVe (`ca n't`). The vocabulary has {} entries, the words in at least 3 training reviews; all \
         others are unknown. Of a review with more than {LENGTH} tokens, the graph sees a quarter of them from its beginning \
         and the rest from its end.\n",
        trained.vocabulary
    )?;
    if let Some(table) = &trained.table {
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
    if trained.network.is_some() {
        if trained.glove_words > 0 {
            writeln!(
                card,
                "**Vectors.** GloVe 6B with 100 numbers for the 20,000 most frequent words, {} of which GloVe contains; stored as \
                 bytes.\n",
                trained.glove_words
            )?;
        }
        writeln!(
            card,
            "**Network.** {} epochs in batches of {}, {}, learning rate {}, weight decay {}, dropout {}, seed {}. The weights of \
             epoch {} of {} were kept, the best on the held-out reviews.\n",
            config.epochs,
            config.batch_size,
            config.optimizer.title(),
            config.learning_rate,
            config.weight_decay,
            config.dropout,
            config.seed,
            trained.best,
            trained.history.len()
        )?;
    }
    let [sequences, network, both] = trained.held_out.map(|part| part.map_or("-".to_owned(), percent));
    writeln!(
        card,
        "Accuracy on the held-out reviews: word sequences {sequences}, network {network}, both {both}. The logits are combined \
         as {:.3} x sequences + {:.3} x network + {:.3}; a logistic regression on the same reviews found these weights.",
        trained.blend.weights[0], trained.blend.weights[1], trained.blend.bias
    )?;
    if !trained.cuts.is_empty() {
        writeln!(
            card,
            "\nAccuracy on the held-out reviews when they are cut:\n\n| tokens | head | tail | head and tail |\n|---|---|---|---|"
        )?;
        let mut lengths: Vec<usize> = trained.cuts.iter().map(|cut| cut.1).collect();
        lengths.dedup();
        for length in lengths {
            let of = |truncation: Truncation| {
                let found = trained
                    .cuts
                    .iter()
                    .find(|cut| cut.0 == truncation && cut.1 == length);
                found.map_or("-".to_owned(), |cut| percent(cut.2))
            };
            writeln!(
                card,
                "| {length} | {} | {} | {} |",
                of(Truncation::Head),
                of(Truncation::Tail),
                of(Truncation::HeadTail)
            )?;
        }
    }
    Ok(())
}
