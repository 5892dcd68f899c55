//! A trained classifier of reviews, written as a directory that the server loads, measured there and described.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use classifier::{
    Classifier, Row,
    bundle::{CONFIG, MODEL, Measured, SERVING},
    golden::{GOLDEN, GoldenEntry, GoldenFile},
    text::TextServing,
};
use serde::Serialize;
use tch::Device;

use super::{
    BUCKETS, Encoded, Kind, LENGTH, TRUNCATION, Trained, card, logits, ngrams, ngrams::Table, tokens,
};
use crate::{
    data::imdb::{CLASSES, Review, TestReviews},
    evaluate::{Evaluation, evaluate, median_time},
    export::{AGREEMENT, GOLDEN_TOLERANCE, create, labels_json, publish, write, write_json},
    network::{Layer, Network, words::rounded as rounded_vectors},
    report,
};
use onnx_graph::{Attribute, Dim, ElementType, GraphBuilder, ModelFile};

/// Golden samples of each label.
const GOLDEN_PER_CLASS: usize = 2;
/// Runs of the graph whose median time is reported.
const TIMED_RUNS: usize = 300;
/// Reviews that are timed.
const TIMED_REVIEWS: usize = 30;
/// ONNX's code for 32-bit floats.
const FLOAT: i64 = 1;

/// What was measured on the exported files.
#[derive(Debug)]
pub(super) struct Measurements {
    /// On the test reviews.
    pub(super) test: Evaluation,
    /// Largest difference in a score between ONNX Runtime and the trained parts on the test reviews.
    pub(super) agreement: f64,
    /// Size of the graph's file.
    pub(super) bytes: u64,
    /// Median length of a test review in tokens, and the microseconds of one that long on one thread.
    pub(super) median: (usize, f64),
    /// Microseconds of a review of the greatest length.
    pub(super) longest: Option<f64>,
    /// Test reviews that are cut.
    pub(super) cut: usize,
    /// Other classifiers of reviews whose directories were found.
    pub(super) others: Vec<(Kind, Evaluation)>,
}

/// The network with its vectors rounded as the exported graph has them.
pub(super) fn rounded(network: &Network, layers: &[Layer]) -> Result<Network> {
    let mut weights = crate::network::copies(network.weights());
    for name in ["0.embedding", "0.vectors"] {
        if let Some(table) = weights.get_mut(name) {
            *table = rounded_vectors(table)?;
        }
    }
    let mut rounded = Network::new(layers, 0, Device::Cpu)?;
    rounded.load(&weights)?;
    Ok(rounded.frozen())
}

/// Writes the model directory, in place of one that may be there. It appears when it is complete and measured.
pub(super) fn export(trained: &Trained<'_>, vocabulary: &HashMap<String, i64>) -> Result<Evaluation> {
    publish(trained.job.out, |aside| write_all(trained, vocabulary, aside))
}

fn write_all(trained: &Trained<'_>, vocabulary: &HashMap<String, i64>, aside: &Path) -> Result<Evaluation> {
    let imdb = trained.job.imdb;
    write_graph(trained, aside)?;
    write_json(&aside.join(CONFIG), &labels_json(&CLASSES.map(str::to_owned)))?;
    tokens::write(aside, vocabulary, LENGTH)?;
    write_serving(trained, None, aside)?;

    eprintln!("measuring {} test reviews through ONNX Runtime", imdb.test.len());
    let test = evaluate(aside, &TestReviews(Cow::Borrowed(&imdb.test)))?;
    let reviews: Vec<&Review> = imdb.test.iter().collect();
    let rows = Encoded::new(&trained.tokenizer, &reviews)?.rows;
    let agreement = agreement(trained, &rows, &test.scores)?;
    write_golden(&imdb.test, &test.scores, aside)?;
    write_serving(trained, Some(&test.evaluation), aside)?;

    let mut classifier = classifier::open(aside)?;
    let mut lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    let of_length = |length: usize| {
        rows.iter()
            .filter(move |row| row.len() == length)
            .take(TIMED_REVIEWS)
    };
    let measurements = Measurements {
        agreement,
        bytes: std::fs::metadata(aside.join(MODEL)).map_or(0, |file| file.len()),
        median: (
            median,
            time(&mut classifier, of_length(median))?.unwrap_or_default(),
        ),
        longest: time(&mut classifier, of_length(LENGTH))?,
        cut: lengths.iter().filter(|&&length| length == LENGTH).count(),
        others: others(trained)?,
        test: test.evaluation,
    };
    write(&aside.join("README.md"), &card::text(trained, &measurements))?;
    let pictures = aside.join(report::DIRECTORY);
    if trained.network.is_some() {
        report::write_curves(&pictures, &trained.history, Some(trained.best))?;
    }
    report::write_evaluation(&pictures, &measurements.test)?;
    report::link(aside)?;
    Ok(measurements.test)
}

/// The other classifiers of reviews, where they were trained into the places that `trainer` chooses.
fn others(trained: &Trained<'_>) -> Result<Vec<(Kind, Evaluation)>> {
    let mut others = Vec::new();
    if trained.job.kind != Kind::Blend {
        return Ok(others);
    }
    for kind in Kind::ALL.into_iter().filter(|&kind| kind != trained.job.kind) {
        let directory = kind.out();
        if directory.join(MODEL).is_file() {
            eprintln!("measuring {}", directory.display());
            let test = evaluate(&directory, &TestReviews(Cow::Borrowed(&trained.job.imdb.test)))?;
            others.push((kind, test.evaluation));
        }
    }
    Ok(others)
}

/// Median time of a run in microseconds.
fn time<'a>(classifier: &mut Classifier, rows: impl Iterator<Item = &'a Vec<i64>>) -> Result<Option<f64>> {
    let rows: Vec<Row> = rows.map(|row| Row::Text(row.clone())).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    median_time(classifier, &rows, TIMED_RUNS).map(Some)
}

fn write_graph(trained: &Trained<'_>, directory: &Path) -> Result<()> {
    let mut graph = GraphBuilder::new("sentiment");
    graph.describe("token ids of a review to one logit for each label");
    let shape = [Dim::BATCH, Dim::Symbolic("sequence")];
    let ids = graph.input("input_ids", ElementType::Int64, &shape);
    let mask = graph.input("attention_mask", ElementType::Int64, &shape);
    let [sequences, network] = trained.blend.weights;
    let mut bias = trained.blend.bias;
    let mut parts = Vec::new();
    if let Some(table) = &trained.table {
        bias += sequences * f64::from(table.bias);
        let sum = add_table(&mut graph, table, &ids, &mask);
        let factor = (sequences * f64::from(table.scale)) as f32;
        let factor = graph.floats("sequence_factor", &[], &[factor]);
        parts.push(graph.node("Mul", &[&sum, &factor], "sequence_logit", vec![]));
    }
    if let Some(trained) = &trained.network {
        trained.export_text(&mut graph, &ids, &mask, "network_logits")?;
        let weights = [-network as f32, network as f32];
        let weights = graph.floats("network_factors", &[2, 1], &weights);
        parts.push(graph.node("MatMul", &["network_logits", &weights], "network_logit", vec![]));
    }
    let bias = graph.floats("bias", &[], &[bias as f32]);
    let mut sum = bias;
    for (at, part) in parts.iter().enumerate() {
        sum = graph.node("Add", &[&sum, part], &format!("logit_{at}"), vec![]);
    }
    let signs = graph.floats("signs", &[1, 2], &[-0.5, 0.5]);
    graph.node("Mul", &[&sum, &signs], "logits", vec![]);
    graph.output(
        "logits",
        ElementType::Float,
        &[Dim::BATCH, Dim::Fixed(CLASSES.len())],
    );
    let metadata = BTreeMap::from([
        ("dataset".to_owned(), trained.job.imdb.title().to_owned()),
        ("network".to_owned(), trained.job.kind.name().to_owned()),
        ("seed".to_owned(), trained.job.config.seed.to_string()),
        ("task".to_owned(), "text-classification".to_owned()),
    ]);
    ModelFile::new(graph, "Reviews: negative or positive", &metadata)?
        .with_producer("classifyd trainer", env!("CARGO_PKG_VERSION"))
        .save(&directory.join(MODEL))?;
    Ok(())
}

/// Adds what [`Table::logit`] does to a graph, without the table's scale and bias: `[batch, 1]`.
fn add_table(graph: &mut GraphBuilder, table: &Table, ids: &str, mask: &str) -> String {
    let reach = ngrams::REACH as i64;
    let roots = graph.bytes("sequence_roots", &[table.roots.len()], &table.roots);
    let numbers = graph.node("Cast", &[mask], "mask_bits", vec![Attribute::int("to", 9)]);
    let nothing = graph.ints("no_place", &[], &[ngrams::PLACES]);
    let places = graph.ints("places", &[], &[ngrams::PLACES]);
    let axis = graph.ints("position_axis", &[1], &[1]);
    // Behind the last word come as many that are none, so that every kind has as many places as there are words.
    let ends = graph.ints("room", &[4], &[0, 0, 0, reach]);
    let zero = graph.ints("zero", &[], &[0]);
    let longer = |graph: &mut GraphBuilder, value: &str, name: &str| {
        let whole = graph.node(
            "Where",
            &[&numbers, value, &zero],
            &format!("{name}_masked"),
            vec![],
        );
        graph.node("Pad", &[&whole, &ends], name, vec![])
    };
    let ones = graph.ints("one", &[], &[1]);
    let real = longer(graph, &ones, "words_with_room");
    let factors: Vec<String> = (0..ngrams::FACTORS.len())
        .map(|at| graph.ints(&format!("hash_factor_{at}"), &[], &[ngrams::FACTORS[at]]))
        .collect();
    let products: Vec<String> = factors
        .iter()
        .enumerate()
        .map(|(at, factor)| {
            let product = graph.node("Mul", &[ids, factor], &format!("hash_product_{at}"), vec![]);
            longer(graph, &product, &format!("hash_{at}"))
        })
        .collect();
    let mut starts = BTreeMap::new();
    for offset in 0..=reach {
        let end = if offset == reach { i64::MAX } else { offset - reach };
        let start = graph.ints(&format!("start_{offset}"), &[1], &[offset]);
        let end = graph.ints(&format!("end_{offset}"), &[1], &[end]);
        starts.insert(offset as usize, (start, end));
    }
    let shifted = |graph: &mut GraphBuilder, value: &str, offset: usize, name: &str| {
        let (start, end) = &starts[&offset];
        graph.node("Slice", &[value, start, end, &axis], name, vec![])
    };
    let mut kinds = Vec::new();
    for (at, kind) in ngrams::KINDS.iter().enumerate() {
        let mut hash = graph.ints(&format!("salt_{at}"), &[], &[kind.salt]);
        for (word, &offset) in kind.offsets.iter().enumerate() {
            let name = format!("kind_{at}_word_{word}");
            let product = shifted(graph, &products[word], offset, &name);
            hash = graph.node(
                "Add",
                &[&hash, &product],
                &format!("kind_{at}_sum_{word}"),
                vec![],
            );
        }
        let place = graph.node("Mod", &[&hash, &places], &format!("kind_{at}_place"), vec![]);
        // The last word is real only if all of them are, since padding is at the end.
        let last = kind.offsets.last().copied().unwrap_or(0);
        let real = shifted(graph, &real, last, &format!("kind_{at}_real"));
        let real = graph.node(
            "Cast",
            &[&real],
            &format!("kind_{at}_bits"),
            vec![Attribute::int("to", 9)],
        );
        let place = graph.node(
            "Where",
            &[&real, &place, &nothing],
            &format!("kind_{at}_or_none"),
            vec![],
        );
        kinds.push(graph.node("Unsqueeze", &[&place, &axis], &format!("kind_{at}_row"), vec![]));
    }
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let found = graph.node("Concat", &kinds, "places_found", vec![Attribute::int("axis", 1)]);

    // Each place counts once: sorted, it is one that differs from the one before it.
    let shape = graph.node("Shape", &[ids], "shape", vec![]);
    let length = graph.node("Gather", &[&shape, &axis], "length", vec![]);
    let rising = vec![
        Attribute::int("axis", 2),
        Attribute::int("largest", 0),
        Attribute::int("sorted", 1),
    ];
    graph.node_with_outputs("TopK", &[&found, &length], &["sorted", "sorted_order"], rising);
    let before = graph.ints("room_before", &[6], &[0, 0, 1, 0, 0, 0]);
    let none = graph.ints("before_all", &[], &[-1]);
    let moved = graph.node("Pad", &["sorted", &before, &none], "moved_longer", vec![]);
    let first = graph.ints("from_first", &[1], &[0]);
    let end = graph.ints("to_last", &[1], &[-1]);
    let along = graph.ints("sorted_axis", &[1], &[2]);
    let moved = graph.node("Slice", &[&moved, &first, &end, &along], "moved", vec![]);
    let same = graph.node("Equal", &["sorted", &moved], "same", vec![]);
    let single = graph.node("Where", &[&same, &nothing, "sorted"], "single", vec![]);
    let float = || vec![Attribute::int("to", FLOAT)];
    let found = graph.node("Gather", &[&roots, &single], "roots_found", vec![]);
    let found = graph.node("Cast", &[&found], "roots", float());
    let sizes = graph.node("Abs", &[&found], "root_sizes", vec![]);
    let weights = graph.node("Mul", &[&found, &sizes], "sequence_weights", vec![]);
    let kinds_and_words = graph.ints("kinds_and_words", &[2], &[1, 2]);
    let sum = graph.node(
        "ReduceSum",
        &[&weights, &kinds_and_words],
        "sequence_sums",
        vec![Attribute::int("keepdims", 0)],
    );
    graph.node("Unsqueeze", &[&sum, &axis], "sequence_sum", vec![])
}

/// What we have to say in `serving.toml`; see [`classifier::bundle::Serving`].
#[derive(Debug, Serialize)]
struct Serving {
    output: &'static str,
    text: TextServing,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
}

fn write_serving(trained: &Trained<'_>, test: Option<&Evaluation>, directory: &Path) -> Result<()> {
    let serving = Serving {
        output: "logits",
        text: TextServing {
            truncation: Some(TRUNCATION),
            buckets: Some(BUCKETS.to_vec()),
        },
        measured: test.map(|test| Measured {
            dataset: trained.job.imdb.title().to_owned(),
            split: "test".to_owned(),
            samples: test.samples as u64,
            accuracy: test.accuracy,
        }),
    };
    let toml = toml::to_string(&serving).context("cannot write serving.toml")?;
    write(&directory.join(SERVING), &toml)
}

/// Compares ONNX Runtime's scores with those of the trained parts on every test review.
fn agreement(trained: &Trained<'_>, rows: &[Vec<i64>], scores: &[Vec<f32>]) -> Result<f64> {
    let logits = logits(trained.table.as_ref(), trained.network.as_ref(), rows)?;
    let expected = logits
        .iter()
        .map(|&logits| 1.0 / (1.0 + (-trained.blend.logit(logits)).exp()));
    let largest = expected
        .zip(scores)
        .map(|(expected, scores)| (expected - f64::from(scores[1])).abs())
        .fold(0.0, f64::max);
    if logits.len() != scores.len() || largest > f64::from(AGREEMENT) {
        bail!(
            "the exported graph does not do what was trained: expected scores within {AGREEMENT} on all test reviews, \
             found a difference of {largest}"
        );
    }
    Ok(largest)
}

/// The first test reviews of each label, and the longest of all.
fn write_golden(reviews: &[Review], scores: &[Vec<f32>], directory: &Path) -> Result<()> {
    create(&directory.join("golden"))?;
    let mut places = Vec::new();
    for label in 0..CLASSES.len() {
        let own = (0..reviews.len()).filter(|&at| reviews[at].label == label);
        places.extend(own.take(GOLDEN_PER_CLASS));
    }
    places.extend((0..reviews.len()).max_by_key(|&at| reviews[at].text.len()));
    let mut samples = Vec::new();
    for at in places {
        let review = &reviews[at];
        let label = CLASSES[review.label];
        let file = format!("golden/{label}_{}.txt", review.number);
        write(&directory.join(&file), &review.text)?;
        samples.push(GoldenEntry {
            file,
            label: label.to_owned(),
            scores: scores[at].clone(),
        });
    }
    let golden = GoldenFile {
        tolerance: GOLDEN_TOLERANCE,
        samples,
    };
    write_json(&directory.join(GOLDEN), &golden)
}
