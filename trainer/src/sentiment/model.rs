//! A trained classifier of reviews, as the parts of a model directory.

use std::{borrow::Cow, collections::BTreeMap, path::Path, sync::LazyLock};

use anyhow::Result;
use classifier::{
    Classifier, Row,
    bundle::{MODEL, Serving},
    text::TextServing,
};
use onnx_graph::{Dim, ElementType, GraphBuilder};

use super::{BUCKETS, Cut, Kind, LENGTH, Parts, PreparedReviews, TRUNCATION, card, table_graph, tokens};
use crate::{
    data::imdb::{CLASSES, TestReviews},
    evaluate::{Evaluation, evaluate, median_time},
    export::{Card, GoldenInput, LOGITS, Measured, Samples, TrainedModel, save_graph},
    pipeline::{Request, TrainedNetwork},
    training::{Config, Epoch},
};

/// Golden samples of each label.
const GOLDEN_PER_CLASS: usize = 2;
/// The number of runs of the graph whose median time is reported.
const TIMED_RUNS: usize = 300;
/// The number of reviews that are timed.
const TIMED_REVIEWS: usize = 30;

static LABELS: LazyLock<Vec<String>> = LazyLock::new(|| CLASSES.map(str::to_owned).to_vec());

pub(super) struct ReviewModel<'a> {
    pub(super) prepared: &'a PreparedReviews<'a>,
    pub(super) request: &'a Request,
    pub(super) parts: Parts,
    /// The accuracy on the reviews held out: of the word sequences, of the network, of both.
    pub(super) held_out: [Option<f64>; 3],
    pub(super) cuts: Vec<Cut>,
    /// The test reviews as token ids.
    pub(super) test_rows: Vec<Vec<i64>>,
    pub(super) trained: Option<TrainedNetwork>,
}

/// What was measured in addition to [`Measured`].
pub(super) struct Further {
    /// The median length of a test review in tokens, and the microseconds that the graph takes for
    /// one of that length on one thread.
    pub(super) median: (usize, f64),
    /// The microseconds for a review of the greatest length.
    pub(super) longest: Option<f64>,
    /// The number of test reviews that are cut.
    pub(super) cut: usize,
    /// Other classifiers of reviews, if they were trained into their default directories.
    pub(super) others: Vec<(Kind, Evaluation)>,
}

impl ReviewModel<'_> {
    pub(super) fn kind(&self) -> Kind {
        self.prepared.task.kind
    }

    fn test(&self) -> TestReviews<'_> {
        TestReviews(Cow::Borrowed(&self.prepared.imdb.test))
    }

    fn further(&self, directory: &Path) -> Result<Further> {
        let mut classifier = classifier::open(directory)?;
        let mut lengths: Vec<usize> = self.test_rows.iter().map(Vec::len).collect();
        lengths.sort_unstable();
        let median = lengths[lengths.len() / 2];
        Ok(Further {
            median: (median, self.time(&mut classifier, median)?.unwrap_or_default()),
            longest: self.time(&mut classifier, LENGTH)?,
            cut: lengths.iter().filter(|&&length| length == LENGTH).count(),
            others: self.others()?,
        })
    }

    /// The median time of a run in microseconds, for a review of `length` tokens.
    fn time(&self, classifier: &mut Classifier, length: usize) -> Result<Option<f64>> {
        let rows = self.test_rows.iter().filter(|row| row.len() == length);
        let rows: Vec<Row> = rows
            .take(TIMED_REVIEWS)
            .map(|row| Row::Text(row.clone()))
            .collect();
        if rows.is_empty() {
            return Ok(None);
        }
        median_time(classifier, &rows, TIMED_RUNS).map(Some)
    }

    fn others(&self) -> Result<Vec<(Kind, Evaluation)>> {
        let mut others = Vec::new();
        if self.kind() != Kind::Blend {
            return Ok(others);
        }
        for kind in Kind::ALL.into_iter().filter(|&kind| kind != self.kind()) {
            let directory = kind.out();
            if directory.join(MODEL).is_file() {
                eprintln!("measuring {}", directory.display());
                others.push((kind, evaluate(&directory, &self.test())?.evaluation));
            }
        }
        Ok(others)
    }
}

impl TrainedModel for ReviewModel<'_> {
    fn config(&self) -> &Config {
        &self.request.config
    }

    fn labels(&self) -> &[String] {
        &LABELS
    }

    fn data_title(&self) -> String {
        self.prepared.imdb.title().to_owned()
    }

    fn network_name(&self) -> &str {
        self.kind().name()
    }

    fn task(&self) -> &'static str {
        "text-classification"
    }

    fn write_graph(&self, path: &Path, metadata: BTreeMap<String, String>) -> Result<String> {
        let mut graph = GraphBuilder::new("sentiment");
        graph.describe("token ids of a review to one logit for each label");
        let shape = [Dim::BATCH, Dim::Symbolic("sequence")];
        let ids = graph.input("input_ids", ElementType::Int64, &shape);
        let mask = graph.input("attention_mask", ElementType::Int64, &shape);
        let [sequences, network] = self.parts.blend.weights;
        let mut bias = self.parts.blend.bias;
        let mut parts = Vec::new();
        if let Some(table) = &self.parts.table {
            bias += sequences * f64::from(table.bias);
            let sum = table_graph::add(&mut graph, table, &ids, &mask);
            let factor = (sequences * f64::from(table.scale)) as f32;
            let factor = graph.floats("sequence_factor", &[], &[factor]);
            parts.push(graph.node("Mul", &[&sum, &factor], "sequence_logit", vec![]));
        }
        if let Some(trained) = &self.parts.network {
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
        graph.node("Mul", &[&sum, &signs], LOGITS, vec![]);
        let shape = [Dim::BATCH, Dim::Fixed(CLASSES.len())];
        graph.output(LOGITS, ElementType::Float, &shape);
        save_graph(graph, "Reviews: negative or positive", &metadata, path)?;
        Ok(LOGITS.to_owned())
    }

    fn write_preprocessing(&self, directory: &Path) -> Result<()> {
        tokens::write(directory, &self.prepared.vocabulary, LENGTH)
    }

    fn serving(&self) -> Serving {
        Serving {
            text: Some(TextServing {
                truncation: Some(TRUNCATION),
                buckets: Some(BUCKETS.to_vec()),
            }),
            ..Serving::default()
        }
    }

    fn samples(&self) -> Samples<'_> {
        Samples {
            compared: Box::new(self.test()),
            split: "test",
            test: None,
        }
    }

    fn expected(&self) -> Result<Vec<f64>> {
        let logits = self.parts.logits(&self.test_rows)?;
        let positive = logits
            .iter()
            .map(|&logits| 1.0 / (1.0 + (-self.parts.blend.logit(logits)).exp()));
        Ok(positive.flat_map(|positive| [1.0 - positive, positive]).collect())
    }

    /// The first test reviews of each label, and the longest of all.
    fn golden(&self) -> Result<Vec<GoldenInput>> {
        let reviews = &self.prepared.imdb.test;
        let mut picked = Vec::new();
        for label in 0..CLASSES.len() {
            let own = (0..reviews.len()).filter(|&at| reviews[at].label == label);
            picked.extend(own.take(GOLDEN_PER_CLASS));
        }
        picked.extend((0..reviews.len()).max_by_key(|&at| reviews[at].text.len()));
        let input = |at: usize| {
            let review = &reviews[at];
            let label = CLASSES[review.label];
            GoldenInput {
                file: format!("golden/{label}_{}.txt", review.number),
                label: label.to_owned(),
                bytes: review.text.clone().into_bytes(),
                index: Some(at),
            }
        };
        Ok(picked.into_iter().map(input).collect())
    }

    fn history(&self) -> Option<(&[Epoch], u32)> {
        let trained = self.trained.as_ref()?;
        Some((&trained.history, trained.best))
    }

    fn card(&self, directory: &Path, measured: &Measured) -> Result<Card> {
        Ok(Card {
            text: card::text(self, measured, &self.further(directory)?),
            notes: Vec::new(),
        })
    }
}
